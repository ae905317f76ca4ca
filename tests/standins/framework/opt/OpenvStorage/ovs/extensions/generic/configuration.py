"""Stand-in: the framework's configuration, in etcd by its second API at a fixed address, values in JSON."""

import json
import urllib.error
import urllib.parse
import urllib.request

from ovs.extensions.generic.system import HOME, machine_id

# The real framework knows no other address, no login and no TLS.
STORE = "http://127.0.0.1:2379"
BASE = "/ovs"

# What running processes read, and the JSON types that they take. Members follow the names of tables.
REQUIRED = {
    "cluster_id": str,
    "arakoon_clusters": {"ovsdb": str, "voldrv": str},
    "memcache": {"endpoints": list},
    "messagequeue": {"endpoints": list, "protocol": str, "user": str, "password": str, "queues": dict},
    "stores": {"persistent": str, "volatile": str},
    "paths": {"basedir": str, "ovsdb": str},
    "plugins/installed": {"backends": list, "generic": list},
    "rdma": bool,
    "storagedriver": {"mds_safety": int, "mds_tlogs": int, "mds_maxload": int},
    "support": {"enabled": bool, "enablesupport": bool, "interval": int},
    "webapps": {"html_endpoint": str, "oauth2": dict},
}
REQUIRED_OF_HOST = {
    "ip": str,
    "type": str,
    "ports": {"storagedriver": list, "mds": list, "arakoon": list},
    "setupcompleted": bool,
    "promotecompleted": bool,
}
ROLES = ["MASTER", "EXTRA", "UNCONFIGURED"]


class NotFound(Exception):
    """There is no such key."""


class Unusable(Exception):
    """A value is not what the framework takes."""


def bootstrap():
    """Insists on the file that says where the configuration is."""
    path = HOME + "/config/framework.json"
    with open(path) as file:
        store = json.load(file).get("configuration_store")
    if store != "etcd":
        raise Unusable("{0}: configuration_store is {1!r}; only etcd is understood here".format(path, store))


def _call(path, **options):
    form = options.pop("form", None)
    url = STORE + "/v2/keys" + urllib.parse.quote(BASE + path) + "?" + urllib.parse.urlencode(options)
    data = urllib.parse.urlencode(form).encode() if form is not None else None
    request = urllib.request.Request(url, data=data, method="PUT" if data else "GET")
    if data:
        request.add_header("Content-Type", "application/x-www-form-urlencoded")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)["node"]
    except urllib.error.HTTPError as error:
        body = json.loads(error.read() or b"{}")
        if body.get("errorCode") == 100:
            raise NotFound("key not found: {0}{1}".format(BASE, path))
        raise RuntimeError("etcd: {0} {1}".format(error.code, body.get("message", "")))


def raw(path):
    """The text at a path below /ovs."""
    node = _call(path, quorum="true")
    if node.get("dir"):
        raise Unusable("{0}{1} is a directory".format(BASE, path))
    return node["value"]


def get(path):
    """The JSON value at a path below /ovs; `path|a.b` is the member b of the member a."""
    path, _, members = path.partition("|")
    text = raw(path)
    try:
        value = json.loads(text)
    except ValueError:
        raise Unusable("{0}{1} is not JSON: {2!r}".format(BASE, path, text[:60]))
    for member in members.split(".") if members else []:
        value = value[member]
    return value


def set(path, value):
    """Writes a value as JSON."""
    _call(path, form={"value": json.dumps(value)})


def names(path):
    """What lies right below a path."""
    nodes = _call(path, quorum="true").get("nodes", [])
    return sorted(node["key"].rsplit("/", 1)[1] for node in nodes)


def _check(path, wanted):
    value = get(path)
    kind = dict if isinstance(wanted, dict) else wanted
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Unusable("{0}{1} is {2}, not {3}".format(BASE, path, type(value).__name__, kind.__name__))
    for member, member_kind in wanted.items() if isinstance(wanted, dict) else []:
        if not isinstance(value.get(member), member_kind):
            raise Unusable("{0}{1} has no {2} `{3}`".format(BASE, path, member_kind.__name__, member))


def check():
    """Reads everything that the processes need, and says what is missing or wrong."""
    bootstrap()
    for key, wanted in REQUIRED.items():
        _check("/framework/" + key, wanted)
    host = "/framework/hosts/" + machine_id()
    for key, wanted in REQUIRED_OF_HOST.items():
        _check(host + "/" + key, wanted)
    if get(host + "/type") not in ROLES:
        raise Unusable("{0}{1}/type is none of {2}".format(BASE, host, ", ".join(ROLES)))
