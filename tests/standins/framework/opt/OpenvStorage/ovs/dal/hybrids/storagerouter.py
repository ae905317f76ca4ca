"""Stand-in: a StorageRouter of the model, one key in the ovsdb cluster."""

from ovs.extensions.generic.arakoon import Client

PREFIX = "ovs_data_storagerouter_"
MEMBERS = ["name", "machine_id", "ip", "node_type", "rdma_capable"]


class StorageRouter:
    """A node that runs the framework."""

    def __init__(self, data=None):
        object.__setattr__(self, "_data", dict({"heartbeats": {}}, **(data or {})))

    def __getattr__(self, name):
        try:
            return self._data[name]
        except KeyError:
            raise AttributeError(name)

    def __setattr__(self, name, value):
        if name not in MEMBERS + ["heartbeats"]:
            raise RuntimeError("a StorageRouter has no property {0}".format(name))
        self._data[name] = value

    def save(self):
        """Writes it; every property must be there."""
        missing = [name for name in MEMBERS if name not in self._data]
        if missing:
            raise RuntimeError("missing properties on StorageRouter: {0}".format(", ".join(missing)))
        if self._data["node_type"] not in ("MASTER", "EXTRA"):
            raise RuntimeError("node_type is {0!r}".format(self._data["node_type"]))
        Client("ovsdb").set(PREFIX + self._data["machine_id"], self._data)
