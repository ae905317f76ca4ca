"""Stand-in: the support agent. It would send heartbeats to the vendor; without leave (`support.enabled`) it only stays."""

import signal
import sys

from ovs.extensions.generic import configuration
from ovs.extensions.generic.system import say


def main():
    support = configuration.get("/framework/support")
    say("support agent, enabled: {0}".format(json_word(support["enabled"])))
    if support["enabled"]:
        say("this stand-in never sends anything")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])


def json_word(value):
    """`true` or `false`, as in the configuration."""
    return "true" if value else "false"


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    main()
    sys.exit(0)
