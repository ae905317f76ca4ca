#!/usr/bin/env python3
"""Measures delayproxy.py itself: delay, bulk, cap, integrity, ssh."""
import hashlib
import os
import socket
import statistics
import subprocess
import sys
import threading
import time

from delayproxy import DelayProxy
from lab import Lab
from measure import table

BULK = 1_000_000_000
BLOCK = os.urandom(256 * 1024)


class Server(threading.Thread):
    """Per connection: 'e' echoes bytes, 's' swallows them and answers with their SHA-256."""

    def __init__(self, slow=0.0):
        super().__init__(daemon=True)
        self.listener, self.slow = socket.create_server(("127.0.0.1", 0)), slow
        self.address = self.listener.getsockname()
        self.start()

    def run(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            if connection.recv(1) == b"e":
                while data := connection.recv(65536):
                    connection.sendall(data)
                return
            digest = hashlib.sha256() if self.slow else None
            while data := connection.recv(len(BLOCK)):
                if digest:
                    digest.update(data)
                    time.sleep(self.slow)
            connection.sendall(digest.digest() if digest else b"done")


def connect(proxy):
    connection = socket.create_connection(proxy.endpoints[0])
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def echo_ms(proxy, count=30):
    times = []
    with connect(proxy) as connection:
        connection.sendall(b"ex")
        connection.recv(1)
        for _ in range(count):
            start = time.monotonic()
            connection.sendall(b"x")
            connection.recv(1)
            times.append((time.monotonic() - start) * 1000)
    return statistics.median(times), max(times)


def first_byte_ms(proxy):
    """From connect() to the echo of the first byte: a handshake and a round trip, 2 RTT."""
    start = time.monotonic()
    with connect(proxy) as connection:
        connection.sendall(b"ex")
        connection.recv(1)
        return (time.monotonic() - start) * 1000


def bulk_rate(proxy, size, streams):
    blocks = size // streams // len(BLOCK)

    def send():
        with connect(proxy) as connection:
            connection.sendall(b"s")
            for _ in range(blocks):
                connection.sendall(BLOCK)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(64) == b"done"
    start = time.monotonic()
    threads = [threading.Thread(target=send) for _ in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return streams * blocks * len(BLOCK) / (time.monotonic() - start) / 1e6


def check_slow_reader(delay_ms):
    """64 MB to a reader of about 100 MB/s: the bytes stay whole, the writer is held back."""
    server, digest = Server(slow=0.002), hashlib.sha256()
    with DelayProxy([server.address], delay_ms) as proxy, connect(proxy) as connection:
        connection.sendall(b"s")
        for number in range(256):
            block = BLOCK[number:] + BLOCK[:number]
            digest.update(block)
            connection.sendall(block)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(64) == digest.digest(), "the bytes changed on their way"
        with open(f"/proc/{proxy.process.pid}/status") as f:
            peak = next(int(l.split()[1]) for l in f if l.startswith("VmHWM"))
    return peak / 1024


def ssh_true_ms(config, runs=7):
    times = []
    for _ in range(runs):
        start = time.monotonic()
        subprocess.run(["ssh", "-F", config, "h1", "true"], check=True)
        times.append((time.monotonic() - start) * 1000)
    return statistics.median(times)


def main():
    server = Server()
    rows = []
    for rtt in (0, 10, 50):
        with DelayProxy([server.address], rtt / 2) as proxy:
            echo, worst = echo_ms(proxy)
            rows.append([f"{rtt} ms", f"{echo:.2f} ms", f"{worst:.2f} ms", f"{first_byte_ms(proxy):.1f} ms",
                         f"{bulk_rate(proxy, BULK, 1):.0f} MB/s", f"{bulk_rate(proxy, BULK, 8):.0f} MB/s"])
    print(table(["RTT", "echo p50", "echo worst", "connect + first byte", "bulk, 1 stream",
                 "bulk, 8 streams"], rows))
    rows = []
    for cap in (20, 100, 1000):
        with DelayProxy([server.address], 25, cap) as proxy:
            size = int(cap * 1e6 / 8 * 2)
            rows.append([f"{cap} Mbit/s", f"{cap / 8} MB/s", f"{bulk_rate(proxy, size, 1):.1f} MB/s",
                         f"{bulk_rate(proxy, size, 4):.1f} MB/s"])
    print("2 s of data at RTT 50 ms; connecting and closing cost 2.5 RTT = 0.125 s of it\n")
    print(table(["cap", "is", "1 stream", "4 streams"], rows))
    print(f"slow reader at RTT 50 ms: bytes whole, proxy memory at most {check_slow_reader(25):.0f} MiB\n")
    with Lab(1) as lab:
        target = [(lab.hosts[0]["address"], lab.hosts[0]["port"])]
        rows = [["no proxy", f"{ssh_true_ms(lab.ssh_config(target)):.0f} ms"]]
        for rtt in (0, 10, 50):
            with DelayProxy(target, rtt / 2) as proxy:
                rows.append([f"{rtt} ms", f"{ssh_true_ms(lab.ssh_config(proxy.endpoints)):.0f} ms"])
        print(table(["RTT", "ssh HOST true"], rows))


if __name__ == "__main__":
    sys.exit(main())
