"""Writes the nodes of a volumedriver cluster into its registry, by volumedriver's own Python extension.

registry.py check|set, with a JSON object on standard input: cluster_id, arakoon {cluster_id, nodes}, nodes. The check ends
with 0 when the registry says the same. A volumedriver that runs reads the registry anew only when it is told to, so `set`
tells each. Python 2.7 (the extension's own) and 3 run it.
"""
import json
import socket
import sys
import time

from volumedriver.storagerouter.storagerouterclient import (ArakoonNodeConfig, ClusterContact, ClusterNodeConfig,
                                                            ClusterRegistry, StorageRouterClient)

# The arakoon cluster may still be electing its master.
PATIENCE = 60
MEMBERS = ("vrouter_id", "host", "message_port", "xmlrpc_port", "failovercache_port", "network_server_uri")


def runs(node):
    """Whether somebody listens where a node is managed."""
    try:
        socket.create_connection((str(node["host"]), node["xmlrpc_port"]), 3).close()
        return True
    except (socket.error, OSError):
        return False


def tell(cluster_id, nodes):
    """Has the nodes that run read the registry; those that do not read it at their start."""
    failed = 0
    for node in [node for node in nodes if runs(node)]:
        try:
            client = StorageRouterClient(cluster_id, [ClusterContact(str(node["host"]), node["xmlrpc_port"])])
            client.update_cluster_node_configs(str(node["vrouter_id"]))
        except Exception as error:
            sys.stderr.write("%s runs and did not take the new registry, restart its volumedriver: %s\n" % (node["vrouter_id"], error))
            failed = 1
    return failed


def main():
    wanted = json.load(sys.stdin)
    arakoon = wanted["arakoon"]
    nodes = [ArakoonNodeConfig(str(node["node_id"]), str(node["host"]), node["port"]) for node in arakoon["nodes"]]
    registry = ClusterRegistry(str(wanted["cluster_id"]), str(arakoon["cluster_id"]), nodes)
    if sys.argv[1] == "check":
        try:
            known = [[getattr(node, member) for member in MEMBERS] for node in registry.get_node_configs()]
        except Exception:
            # Not registered, not reachable, or an extension that does not tell: writing it again does no harm.
            return 1
        mine = [[node[member] for member in MEMBERS] for node in wanted["nodes"]]
        as_text = lambda rows: sorted([str(value) for value in row] for row in rows)
        return 0 if as_text(known) == as_text(mine) else 1
    configs = [ClusterNodeConfig(*[str(node[m]) if m in ("vrouter_id", "host", "network_server_uri") else node[m] for m in MEMBERS])
               for node in wanted["nodes"]]
    for attempt in range(PATIENCE):
        try:
            registry.set_node_configs(configs)
            break
        except Exception as error:
            if attempt == PATIENCE - 1:
                sys.stderr.write("registry of %s: %s\n" % (wanted["cluster_id"], error))
                return 1
        time.sleep(1)
    return tell(str(wanted["cluster_id"]), wanted["nodes"])


sys.exit(main())
