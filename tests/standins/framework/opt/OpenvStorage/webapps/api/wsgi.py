"""Stand-in: the API, as much as shows that the whole stack answers.

GET  /api/              who asks, which versions, which nodes; needs no login
POST /api/oauth2/token/ a token for a user of the model
GET  /api/services/     units of this node; needs a token
"""

import json
import secrets
import urllib.parse

from ovs.dal.helpers import VERSION
from ovs.dal.lists.storagerouterlist import StorageRouterList
from ovs.extensions.generic import configuration
from ovs.extensions.generic.arakoon import Client
from ovs.extensions.services import service

# The real API keeps its secret key in the node's identifier; without it, it does not start.
with open("/etc/openvstorage_id") as file:
    SECRET_KEY = file.read().strip()

TOKEN = "ovs_token_"


def _root(environment, model):
    nodes = StorageRouterList.get_storagerouters()
    user = _user(environment, model)
    return 200, {
        "authentication_state": "authenticated" if user else "unauthenticated",
        "username": user,
        "storagerouter_ips": [node.ip for node in nodes],
        "versions": [VERSION],
        "plugins": configuration.get("/framework/plugins/installed"),
        "heartbeats": {node.machine_id: node.heartbeats for node in nodes},
        "standin": True,
    }


def _user(environment, model):
    kind, _, token = environment.get("HTTP_AUTHORIZATION", "").partition(" ")
    found = model.get(TOKEN + token) if kind == "Bearer" and token else None
    return found["username"] if found else None


def _token(environment, model):
    form = urllib.parse.parse_qs(environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0)).decode())
    one = {name: values[0] for name, values in form.items()}
    user = model.get("ovs_data_user_" + one.get("username", "")) if one.get("grant_type") == "password" else None
    if not user or user["password"] != one.get("password"):
        return 400, {"error": "invalid_client"}
    token = secrets.token_hex(16)
    model.set(TOKEN + token, {"username": user["username"]})
    return 200, {"access_token": token, "token_type": "bearer", "expires_in": 3600}


def _services(environment, model):
    if not _user(environment, model):
        return 401, {"error": "not_authenticated"}
    return 200, service.statuses()


ROUTES = {
    ("GET", "/"): _root,
    ("POST", "/oauth2/token/"): _token,
    ("GET", "/services/"): _services,
}


def application(environment, start_response):
    """One request."""
    route = ROUTES.get((environment["REQUEST_METHOD"], environment["PATH_INFO"]))
    try:
        status, body = route(environment, Client("ovsdb")) if route else (404, {"error": "not_found"})
    except Exception as error:
        status, body = 500, {"error": "{0}: {1}".format(type(error).__name__, error)}
    data = json.dumps(body).encode()
    start_response(str(status) + " -", [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
    return [data]
