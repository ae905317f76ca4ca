"""Stand-in: `manage.py syncdb --noinput` makes the API's own database."""

import os
import sqlite3
import sys

if sys.argv[1:] != ["syncdb", "--noinput"]:
    sys.exit("usage: manage.py syncdb --noinput")
database = sqlite3.connect(os.path.join(os.path.dirname(os.path.abspath(__file__)), "api.sqlite3"))
database.execute("CREATE TABLE IF NOT EXISTS django_session (session_key TEXT PRIMARY KEY, session_data TEXT)")
database.commit()
print("stand-in framework: database made")
