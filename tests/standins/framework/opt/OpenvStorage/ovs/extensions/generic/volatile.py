"""Stand-in: the volatile store, memcached by its text protocol."""

import socket

from ovs.extensions.generic import configuration


def _ask(request, end):
    host, port = configuration.get("/framework/memcache|endpoints")[0].rsplit(":", 1)
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(request)
        answer = b""
        while not answer.endswith(end):
            piece = connection.recv(4096)
            if not piece or answer.startswith(b"ERROR"):
                raise RuntimeError("memcached: {0!r}".format(answer[:80]))
            answer += piece
    return answer


def test():
    """Writes a value and reads it back."""
    value = b"stand-in"
    _ask(b"set ovs_watcher 0 60 8\r\n" + value + b"\r\n", b"STORED\r\n")
    if value not in _ask(b"get ovs_watcher\r\n", b"END\r\n"):
        raise RuntimeError("memcached does not give back what it took")


def flush():
    """Forgets everything."""
    _ask(b"flush_all\r\n", b"OK\r\n")
