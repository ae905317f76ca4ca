"""Stand-in: the agent's API over HTTPS, with Basic authentication by the login in the store.

It must be started in its own directory, where its certificate lies.
"""

import base64
import hmac
import http.server
import json
import re
import signal
import ssl
import sys
import time

from source import asds
from source.tools import configuration

VERSION = 2


def need_block_devices(*_):
    """What a plain container cannot do."""
    if not configuration.exists("/framework/rdma"):
        raise RuntimeError("/ovs/framework/rdma is not there")
    raise RuntimeError("this node has no free block devices (/dev/disk/by-*)")


def need_a_manager(*_):
    """Units are rendered from templates, which takes systemd or upstart."""
    asds.manager()
    raise RuntimeError("this stand-in adds no units")


# Method, path, whether a login is needed, what answers.
ROUTES = [
    ("GET", "/", True, lambda: {"node_id": configuration.node_id()}),
    ("GET", "/net", False, lambda: {"ips": asds.addresses()}),
    ("GET", "/disks", True, asds.disks),
    ("GET", "/asds", True, asds.asds),
    ("GET", "/asds/services", True, lambda: {"services": asds.services("alba-asd-.*[.]service$")}),
    ("GET", "/maintenance", True, lambda: {"services": asds.services("alba-maintenance_.*[.]service$")}),
    ("GET", "/service_status/([A-Za-z0-9_.@-]+)", True, lambda name: {"status": ["", asds.status(name)]}),
    ("POST", "/disks/([^/]+)/add", True, need_block_devices),
    ("POST", "/disks/([^/]+)/asds", True, need_block_devices),
    ("POST", "/maintenance/([^/]+)/add", True, need_a_manager),
]


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server_version = "stand-in-asd-manager"

    def do_GET(self):
        self.answer("GET")

    def do_POST(self):
        self.rfile.read(min(int(self.headers.get("Content-Length") or 0), 1 << 20))
        self.answer("POST")

    def answer(self, method):
        """Finds the route, checks the login, adds what every answer has."""
        begin = time.time()
        path = self.path.split("?")[0].rstrip("/") or "/"
        status, body, error = 404, {}, "not found"
        for known, pattern, closed, reply in ROUTES:
            match = re.fullmatch(pattern, path) if known == method else None
            if not match:
                continue
            if closed and not self.is_known():
                status, error = 401, "wrong login"
                break
            try:
                status, body, error = 200, reply(*match.groups()), ""
            except Exception as trouble:
                status, error = 200, "{0}: {1}".format(type(trouble).__name__, trouble)
            break
        body = dict(body, _success=not error, _error=error, _version=VERSION, _duration=time.time() - begin)
        data = json.dumps(body).encode()
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="asd-manager"')
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def is_known(self):
        """Whether the login is the one in the store at this moment."""
        kind, _, word = self.headers.get("Authorization", "").partition(" ")
        main = configuration.section("main")
        wanted = "{0}:{1}".format(main["username"], main["password"]).encode()
        try:
            return kind == "Basic" and hmac.compare_digest(base64.b64decode(word), wanted)
        except ValueError:
            return False

    def log_message(self, *arguments):
        print("stand-in agent: {0} {1}".format(self.address_string(), arguments[0] % arguments[1:]), flush=True)


class Server(http.server.ThreadingHTTPServer):
    """TLS is spoken in each connection's own thread: a caller that says nothing holds up nobody."""

    daemon_threads = True

    def __init__(self, address, tls):
        self.tls = tls
        super().__init__(address, Handler)

    def finish_request(self, request, client_address):
        request.settimeout(30)
        with self.tls.wrap_socket(request, server_side=True) as connection:
            super().finish_request(connection, client_address)

    def handle_error(self, request, client_address):
        print("stand-in agent: {0}: {1}".format(client_address[0], sys.exc_info()[1]), flush=True)


def main():
    configuration.check()
    configured = configuration.section("main")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain("server.crt", "server.key")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = Server(("0.0.0.0", configured["port"]), tls)
    print("stand-in agent: node {0}, port {1}".format(configuration.node_id(), configured["port"]), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
