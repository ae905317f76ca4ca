"""Stand-in: a client of the stand-in arakoon, which speaks JSON lines; the real ones speak a protocol of their own."""

import configparser
import json
import socket

from ovs.extensions.generic import configuration

TIMEOUT = 5


class NotFound(Exception):
    """There is no such key."""


class Client:
    """A client of one cluster, found through the framework's configuration: `ovsdb` or `voldrv`."""

    def __init__(self, purpose):
        self.cluster = configuration.get("/framework/arakoon_clusters|" + purpose)
        text = configuration.raw("/arakoon/{0}/config".format(self.cluster))
        ini = configparser.ConfigParser(interpolation=None, strict=False)
        ini.read_string(text)
        names = [name.strip() for name in ini["global"]["cluster"].replace(",", " ").split()]
        self.nodes = [(ini[name]["ip"].split(",")[0].strip(), int(ini[name]["client_port"])) for name in names]
        if ini["global"]["cluster_id"] != self.cluster:
            raise RuntimeError("the configuration of {0} is that of {1}".format(self.cluster, ini["global"]["cluster_id"]))

    def _ask(self, address, request):
        with socket.create_connection(address, TIMEOUT) as connection:
            connection.sendall((json.dumps(dict(request, cluster=self.cluster)) + "\n").encode())
            with connection.makefile() as lines:
                line = lines.readline()
        if not line:
            raise OSError("{0}:{1} hung up".format(*address))
        return json.loads(line)

    def call(self, op, **arguments):
        """Asks each node until the master answers."""
        trouble = "no node"
        for address in self.nodes:
            try:
                answer = self._ask(address, dict(arguments, op=op))
            except (OSError, ValueError) as error:
                trouble = "{0}:{1}: {2}".format(address[0], address[1], error)
                continue
            if answer.get("ok"):
                return answer.get("value")
            if answer.get("error") == "not found":
                raise NotFound(arguments.get("key"))
            trouble = answer.get("error")
        raise RuntimeError("arakoon {0}: {1}".format(self.cluster, trouble))

    def nop(self):
        """Proves that the cluster can write."""
        self.call("nop")

    def get(self, key):
        """The JSON value of a key, or None."""
        try:
            return json.loads(self.call("get", key=key))
        except NotFound:
            return None

    def set(self, key, value):
        """Writes a value as JSON."""
        self.call("set", key=key, value=json.dumps(value))

    def prefix(self, key):
        """Keys below a prefix, with their values."""
        return {name: json.loads(value) for name, value in self.call("prefix", key=key)}
