"""Stand-in: watches what the framework stands on.

watcher.py config|framework|volumedriver wait|check

`wait` ends when everything answers, with five tries for each; `check` goes on looking and ends with 1 when something is
gone, which takes the bound units along.
"""

import sys
import time

from ovs.extensions.generic import configuration, volatile
from ovs.extensions.generic.arakoon import Client
from ovs.extensions.generic.system import say
from ovs.extensions.rabbitmq import broker

TRIES = 5
BETWEEN_TRIES = 1
BETWEEN_ROUNDS = 5


def _rabbitmq():
    broker.connect().close()


WATCHED = {
    "config": [("store", configuration.check)],
    "framework": [
        ("store", configuration.check),
        ("memcache", volatile.test),
        ("ovsdb", lambda: Client("ovsdb").nop()),
        ("rabbitmq", _rabbitmq),
    ],
    "volumedriver": [("voldrv", lambda: Client("voldrv").nop()), ("rabbitmq", _rabbitmq)],
}


def works(name, test):
    """Whether it answers, within so many tries."""
    for attempt in range(TRIES):
        try:
            test()
            return True
        except Exception as error:
            say("{0}: try {1} of {2}: {3}: {4}".format(name, attempt + 1, TRIES, type(error).__name__, error))
            if attempt + 1 < TRIES:
                time.sleep(BETWEEN_TRIES)
    return False


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in WATCHED or sys.argv[2] not in ("wait", "check"):
        sys.exit("usage: watcher.py config|framework|volumedriver wait|check")
    kind, mode = sys.argv[1:]
    while True:
        for name, test in WATCHED[kind]:
            if not works(name, test):
                say("{0} is not available".format(name))
                sys.exit(1)
        if mode == "wait":
            say("{0}: everything answers".format(kind))
            sys.exit(0)
        time.sleep(BETWEEN_ROUNDS)


if __name__ == "__main__":
    main()
