"""Stand-in: the application that celery runs. As a program, `celery_run.py clear_cache` empties the volatile store."""

import sys
import time

from ovs.extensions.generic import configuration, volatile
from ovs.extensions.generic.system import machine_id, say


def run(task):
    """Runs a task that a worker took from a queue."""
    from ovs.dal.lists.storagerouterlist import StorageRouterList

    if task["name"] != "ovs.storagerouter.ping":
        raise RuntimeError("there is no task {0}".format(task["name"]))
    storagerouter = StorageRouterList.get_by_machine_id(task["arguments"]["machine_id"])
    storagerouter.heartbeats = dict(storagerouter.heartbeats, celery=time.time())
    storagerouter.save()


def schedule():
    """The schedule's overrides; there may be none."""
    try:
        return configuration.get("/framework/scheduling/celery")
    except configuration.NotFound:
        return {}


if __name__ == "__main__":
    if sys.argv[1:] != ["clear_cache"]:
        sys.exit("usage: celery_run.py clear_cache")
    volatile.flush()
    say("cache cleared on {0}".format(machine_id()))
