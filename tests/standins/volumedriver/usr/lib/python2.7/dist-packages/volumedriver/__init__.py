"""Stand-in for the Python modules of volumedriver. Runs with Python 2.7 and 3."""
