"""Moves the disks of volumedrivers that leave to one that stays, by volumedriver's own Python extension.

move-disks.py REGISTRY, with a JSON object on standard input: cluster_id; host, port and vrouter_id of the one that stays;
leaving, the vrouter_id of each that leaves. REGISTRY is what registry.py was given, when they were still nodes. Nothing is moved by force: what a node that does not answer has not yet
sent to the backend or to another's DTL would be lost. Python 2.7 (the extension's own) and 3 run it.
"""
import json
import socket
import sys

from volumedriver.storagerouter.storagerouterclient import ClusterContact, StorageRouterClient

HINT = """If it really no longer runs, have its disks taken over, and deploy again:
    client = StorageRouterClient("%s", [ClusterContact("%s", %d)])
    client.mark_node_offline("%s")
    client.migrate(DISK, "%s", False)    # True: also when that loses what only it had
"""


def answers(name):
    """Whether somebody listens where a node was managed; yes, when nobody knows where."""
    try:
        with open(sys.argv[1]) as text:
            known = dict((node["vrouter_id"], node) for node in json.load(text)["nodes"])
    except (IOError, ValueError):
        known = {}
    if name not in known:
        return True
    try:
        socket.create_connection((str(known[name]["host"]), known[name]["xmlrpc_port"]), 5).close()
        return True
    except (socket.error, OSError):
        return False


def main():
    wanted = json.load(sys.stdin)
    cluster, own = str(wanted["cluster_id"]), str(wanted["vrouter_id"])
    client = StorageRouterClient(cluster, [ClusterContact(str(wanted["host"]), wanted["port"])])
    leaving = [str(node) for node in wanted["leaving"]]
    held = {}
    for disk in client.list_volumes():
        keeper = str(client.info_volume(str(disk)).vrouter_id)
        if keeper in leaving:
            held.setdefault(keeper, []).append(str(disk))
    failed = 0
    for node in sorted(held):
        disks = sorted(held[node])
        if not answers(node):
            sys.stderr.write("%s has %s and does not answer. " % (node, ", ".join(disks)))
            sys.stderr.write(HINT % (cluster, wanted["host"], wanted["port"], node, own))
            failed = 1
            continue
        for disk in disks:
            try:
                client.migrate(disk, own, False)
                print("%s: from %s to %s" % (disk, node, own))
            except Exception as error:
                sys.stderr.write("%s cannot be moved from %s to %s: %s\n" % (disk, node, own, error))
                failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
