"""Stand-in: watches the store of the agent's configuration.

watcher.py config wait|check

`wait` ends when it answers, with five tries; `check` goes on looking and ends with 1 when it is gone.
"""

import sys
import time

from source.tools import configuration

TRIES = 5
BETWEEN_TRIES = 1
BETWEEN_ROUNDS = 5


def works():
    """Whether the store answers, within so many tries."""
    for attempt in range(TRIES):
        try:
            configuration.check()
            return True
        except Exception as error:
            print("stand-in agent: try {0} of {1}: {2}: {3}".format(attempt + 1, TRIES, type(error).__name__, error), flush=True)
            if attempt + 1 < TRIES:
                time.sleep(BETWEEN_TRIES)
    return False


def main():
    if sys.argv[1:] not in (["config", "wait"], ["config", "check"]):
        sys.exit("usage: watcher.py config wait|check")
    while works():
        if sys.argv[2] == "wait":
            print("stand-in agent: the store answers", flush=True)
            return
        time.sleep(BETWEEN_ROUNDS)
    sys.exit(1)


if __name__ == "__main__":
    main()
