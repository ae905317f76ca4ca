"""Stand-in for the extension storagerouterclient: the cluster registry, and a client that lists and moves volumes.

The registry is JSON text in the stand-in arakoon, key `<vrouter_cluster_id>/cluster_configuration`; the real one is a
serialised C++ map. Both Python 2.7 and 3 run it.
"""
import json
import socket

try:
    from xmlrpc.client import ServerProxy
except ImportError:
    from xmlrpclib import ServerProxy

TIMEOUT = 5


class ArakoonNodeConfig(object):
    """Where clients find a node of an arakoon cluster."""

    def __init__(self, node_id, host, port):
        self.node_id = node_id
        self.host = host
        self.port = int(port)


class ClusterNodeConfig(object):
    """A volumedriver as the registry knows it."""

    def __init__(self, vrouter_id, host, message_port, xmlrpc_port, failovercache_port, network_server_uri=None,
                 xmlrpc_host=None, failovercache_host=None, node_distance_map=None):
        self.vrouter_id = vrouter_id
        self.host = host
        self.message_port = int(message_port)
        self.xmlrpc_port = int(xmlrpc_port)
        self.failovercache_port = int(failovercache_port)
        self.network_server_uri = network_server_uri
        self.xmlrpc_host = xmlrpc_host
        self.failovercache_host = failovercache_host
        self.node_distance_map = node_distance_map

    def _record(self):
        return dict(self.__dict__)


class ClusterRegistry(object):
    """The nodes of one volumedriver cluster."""

    def __init__(self, cluster_id, arakoon_cluster_id, arakoon_node_configs):
        self._key = "%s/cluster_configuration" % cluster_id
        self._cluster = arakoon_cluster_id
        self._nodes = list(arakoon_node_configs)

    def set_node_configs(self, node_configs):
        """Replaces the nodes. Every id in a distance map must be one of them."""
        known = set(node.vrouter_id for node in node_configs)
        for node in node_configs:
            for other in node.node_distance_map or {}:
                if other not in known:
                    raise ValueError("distance map of %s: node %s is not registered" % (node.vrouter_id, other))
        self._ask({"op": "set", "value": json.dumps([node._record() for node in node_configs])})

    def get_node_configs(self):
        """The nodes as they were set."""
        return [ClusterNodeConfig(**dict((str(name), value) for name, value in record.items()))
                for record in json.loads(self._ask({"op": "get"}))]

    def erase_node_configs(self):
        """Forgets the cluster."""
        self._ask({"op": "delete"})

    def _ask(self, request):
        request = dict(request, cluster=self._cluster, key=self._key)
        last = "no node is configured"
        for node in self._nodes:
            try:
                answer = self._call(node, request)
            except (socket.error, ValueError) as error:
                last = "%s: %s" % (node.node_id, error)
                continue
            if answer.get("ok"):
                return answer.get("value")
            # The others may know or be the master.
            last = answer.get("error")
            if last not in ("not master", "no quorum"):
                break
        raise RuntimeError("arakoon %s: %s" % (self._cluster, last))

    @staticmethod
    def _call(node, request):
        connection = socket.create_connection((node.host, node.port), TIMEOUT)
        try:
            connection.sendall((json.dumps(request) + "\n").encode("utf-8"))
            return json.loads(connection.makefile("rb").readline().decode("utf-8"))
        finally:
            connection.close()


class ClusterContact(object):
    """Where the management port of a volumedriver is."""

    def __init__(self, host, port):
        self.host = host
        self.port = int(port)


class VolumeInfo(object):
    """What a volumedriver tells of a volume."""

    def __init__(self, vrouter_id):
        self.vrouter_id = vrouter_id


class StorageRouterClient(object):
    """Asks the first volumedriver that answers."""

    def __init__(self, cluster_id, cluster_contacts):
        self._cluster = cluster_id
        self._contacts = list(cluster_contacts)

    def list_volumes(self):
        """The names of the volumes."""
        return self._ask("volumesList")

    def info_volume(self, volume_id):
        """What is known of a volume; here only the node that has it."""
        return VolumeInfo(self._ask("volumeInfo", volume_id)["vrouter_id"])

    def migrate(self, object_id, node_id, force_restart):
        """Moves a volume to another node. The stand-in has its content nowhere else, so force changes nothing."""
        self._ask("volumeMigrate", object_id, node_id)

    def update_cluster_node_configs(self, node_id=""):
        """Has a running volumedriver read the registry anew; the stand-in's that of the contact, whatever the node."""
        return self._ask("updateClusterNodeConfigs")

    def _ask(self, method, *texts):
        last = None
        for contact in self._contacts:
            try:
                return getattr(ServerProxy("http://%s:%d/RPC2" % (contact.host, contact.port)), method)(*texts)
            except socket.error as error:
                last = error
        raise RuntimeError("no node of %s answers: %s" % (self._cluster, last))
