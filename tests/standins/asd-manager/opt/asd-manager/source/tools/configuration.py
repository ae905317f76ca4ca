"""Stand-in: the agent's configuration, in etcd by its second API at a fixed address."""

import json
import urllib.error
import urllib.parse
import urllib.request

# The real agent knows no other address, no login and no TLS.
STORE = "http://127.0.0.1:2379"
BASE = "/ovs"
HOME = "/opt/asd-manager"

REQUIRED = {
    "main": {"node_id": str, "username": str, "password": str, "ip": str, "port": int, "version": int},
    "network": {"ips": list, "port": int},
}


class NotFound(Exception):
    """There is no such key."""


class Unusable(Exception):
    """A value is not what the agent takes."""


def node_id():
    """The identifier of this node, 32 characters, from the two files that say where the configuration is."""
    with open(HOME + "/config/framework.json") as file:
        store = json.load(file).get("configuration_store")
    if store != "etcd":
        raise Unusable("configuration_store is {0!r}; only etcd is understood here".format(store))
    with open(HOME + "/config/bootstrap.json") as file:
        identifier = json.load(file)["node_id"]
    if len(identifier) != 32:
        raise Unusable("node_id {0!r} does not have 32 characters".format(identifier))
    return identifier


def raw(path):
    """The text at a path below /ovs."""
    url = STORE + "/v2/keys" + urllib.parse.quote(BASE + path) + "?quorum=true"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            node = json.load(answer)["node"]
    except urllib.error.HTTPError as error:
        body = json.loads(error.read() or b"{}")
        if body.get("errorCode") == 100:
            raise NotFound("key not found: {0}{1}".format(BASE, path))
        raise RuntimeError("etcd: {0} {1}".format(error.code, body.get("message", "")))
    if node.get("dir"):
        raise Unusable("{0}{1} is a directory".format(BASE, path))
    return node["value"]


def exists(path):
    """Whether there is such a key."""
    try:
        raw(path)
        return True
    except NotFound:
        return False


def section(name):
    """One of the agent's own keys, with every member that it needs."""
    path = "/alba/asdnodes/{0}/config/{1}".format(node_id(), name)
    try:
        value = json.loads(raw(path))
    except ValueError:
        raise Unusable("{0}{1} is not JSON".format(BASE, path))
    for member, kind in REQUIRED[name].items():
        if not isinstance(value.get(member), kind):
            raise Unusable("{0}{1} has no {2} `{3}`".format(BASE, path, kind.__name__, member))
    return value


def check():
    """Reads everything, and says what is missing or wrong."""
    if section("main")["node_id"] != node_id():
        raise Unusable("config/main is another node's")
    section("network")
