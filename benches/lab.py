#!/usr/bin/env python3
"""Start and stop the lab: N clean docker containers with sshd on 127.0.0.1.

  lab.py up N [--image base|peers] [--disk]   start, print the hosts as JSON
  lab.py reset                                recreate every host clean, same ports
  lab.py hosts                                print the hosts as JSON again
  lab.py down                                 remove containers and keys
  lab.py image                                (re)build the peers image

'base' is a bare Debian with openssh-server; 'peers' adds python3, python3-apt
and rsync for the tools that need them on the target. /srv is a tmpfs unless
--disk is given, so that disk noise stays out of transfer times.
"""
import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

IMAGES = {"base": os.environ.get("BENCH_IMAGE", "ovs-cuisine/ssh:latest"), "peers": "ovs-cuisine/bench-peers:latest"}
PEER_PACKAGES = ["python3", "python3-apt", "rsync"]
PREFIX = "ovsbench"
BASE_PORT = 22200
STATE = os.path.join(tempfile.gettempdir(), "ovsbench-lab.json")

START_SSHD = """
install -d -m 700 /root/.ssh && install -d /run/sshd
echo "$PUBKEY" > /root/.ssh/authorized_keys
ssh-keygen -A >/dev/null
exec /usr/sbin/sshd -D
"""


def docker(*args):
    done = subprocess.run(["docker", *args], text=True, stdout=subprocess.PIPE)
    if done.returncode:  # docker has said why on stderr
        raise SystemExit(f"docker {args[0]} ... ended with {done.returncode}")
    return done.stdout.strip()


def build_peers_image():
    """apt-get inside a base container, with this machine's apt set-up mounted."""
    mounts = []
    for path in ("/etc/apt", "/etc/ssl/certs", "/usr/share/keyrings"):
        mounts += ["-v", f"{path}:{path}:ro"]
    name = f"{PREFIX}-build"
    try:
        docker("run", "--name", name, "--network", "host", *mounts, IMAGES["base"], "sh", "-ec",
               "export DEBIAN_FRONTEND=noninteractive; apt-get update -q >&2;"
               f"apt-get install -qy --no-install-recommends {' '.join(PEER_PACKAGES)} >&2;"
               "apt-get clean")
        docker("commit", name, IMAGES["peers"])
    finally:
        subprocess.run(["docker", "rm", "-f", name], stdout=subprocess.DEVNULL)


def wait_for_sshd(port, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as s:
                s.settimeout(2)
                if s.recv(4) == b"SSH-":
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"no sshd on 127.0.0.1:{port} after {seconds} s")


class Lab:
    """Hosts h1..hN. Each is a dict: name, address, port, user, key, container, pid."""

    def __init__(self, state):
        self.state = state

    @property
    def hosts(self):
        return self.state["hosts"]

    @classmethod
    def up(cls, count, image="peers", disk=False):
        if os.path.exists(STATE):
            raise SystemExit(f"a lab is up already ({STATE}); 'lab.py down' first")
        if image == "peers" and not docker("images", "-q", IMAGES["peers"]):
            build_peers_image()
        directory = tempfile.mkdtemp(prefix="ovsbench-keys-")
        key = os.path.join(directory, "id_ed25519")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        hosts = [{"name": f"h{i + 1}", "address": "127.0.0.1", "port": BASE_PORT + i,
                  "user": "root", "key": key, "container": f"{PREFIX}-h{i + 1}"}
                 for i in range(count)]
        lab = cls({"directory": directory, "image": image, "disk": disk, "hosts": hosts})
        lab.reset()
        return lab

    @classmethod
    def load(cls):
        if not os.path.exists(STATE):
            raise SystemExit("no lab is up; 'lab.py up N' first")
        with open(STATE) as f:
            return cls(json.load(f))

    def start(self, host):
        with open(host["key"] + ".pub") as f:
            pubkey = f.read().strip()
        subprocess.run(["docker", "rm", "-f", host["container"]],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        srv = [] if self.state["disk"] else ["--tmpfs", "/srv:exec,mode=755"]
        docker("run", "-d", "--name", host["container"], "--hostname", host["name"],
               "-p", f"127.0.0.1:{host['port']}:22", "-e", f"PUBKEY={pubkey}", *srv,
               IMAGES[self.state["image"]], "sh", "-ec", START_SSHD)
        host["pid"] = int(docker("inspect", "-f", "{{.State.Pid}}", host["container"]))
        wait_for_sshd(host["port"])

    def reset(self, hosts=None):
        """Recreate containers from the image, in parallel; ports and keys stay."""
        with open(STATE, "w") as f:  # first, so that a failed start can be taken down
            json.dump(self.state, f)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.start, hosts or self.hosts))
        with open(STATE, "w") as f:
            json.dump(self.state, f)

    def down(self):
        for host in self.hosts:
            subprocess.run(["docker", "rm", "-f", host["container"]],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.state["directory"], ignore_errors=True)
        os.unlink(STATE)

    def ssh_config(self, ports):
        """Write an ssh_config with aliases h1..hN at the given ports; return its path."""
        path = os.path.join(self.state["directory"], "ssh_config")
        common = ["User root", f"IdentityFile {self.hosts[0]['key']}", "IdentitiesOnly yes",
                  "StrictHostKeyChecking no", "UserKnownHostsFile /dev/null", "LogLevel ERROR"]
        with open(path, "w") as f:
            for host, port in zip(self.hosts, ports):
                f.write(f"Host {host['name']}\n  HostName 127.0.0.1\n  Port {port}\n")
            f.write("Host *\n" + "".join(f"  {line}\n" for line in common))
        return path

    def on_all(self, script, hosts=None):
        """Run a shell script in each container, outside ssh and outside any timing."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda host: docker("exec", host["container"], "sh", "-ec", script),
                          hosts or self.hosts))

    def root_of(self, host):
        """The host's file system as seen from this machine, for watching it cheaply."""
        return f"/proc/{host['pid']}/root"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(dest="command", required=True)
    up = sub.add_parser("up", help="start N hosts")
    up.add_argument("count", type=int, metavar="N")
    up.add_argument("--image", choices=IMAGES, default="peers")
    up.add_argument("--disk", action="store_true", help="keep /srv on the container's disk")
    for name in ("reset", "hosts", "down", "image"):
        sub.add_parser(name)
    args = parser.parse_args()
    if args.command == "image":
        build_peers_image()
    elif args.command == "up":
        print(json.dumps(Lab.up(args.count, args.image, args.disk).hosts, indent=2))
    elif args.command == "down":
        Lab.load().down()
    else:
        lab = Lab.load()
        if args.command == "reset":
            lab.reset()
        print(json.dumps(lab.hosts, indent=2))


if __name__ == "__main__":
    sys.exit(main())
