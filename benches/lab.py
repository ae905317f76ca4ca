"""The lab of one run: N clean Docker containers with sshd, each reached at its own address.

/srv is a tmpfs unless the lab is made on disk, so that disk noise stays out of transfer times. Containers bear the
process that they belong to as a label; those of a run that was killed are removed by the next one.
"""
import os
import shutil
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

BASE_IMAGE = os.environ.get("BENCH_IMAGE", "ovs-cuisine/ssh:latest")
# The base and what rsync needs on a host. Our own tool gets the same hosts.
IMAGE = "ovs-cuisine/bench-peers:latest"
PACKAGES = ["rsync"]
LABEL = "ovs-cuisine.bench"
SSH_PORT = 22

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


def build_image():
    """apt-get inside a base container, with this machine's apt set-up mounted."""
    mounts = []
    for path in ("/etc/apt", "/etc/ssl/certs", "/usr/share/keyrings"):
        mounts += ["-v", f"{path}:{path}:ro"]
    name = f"ovsbench-build-{os.getpid()}"
    try:
        docker("run", "--name", name, "--network", "host", *mounts, BASE_IMAGE, "sh", "-ec",
               "export DEBIAN_FRONTEND=noninteractive; apt-get update -q >&2;"
               f"apt-get install -qy --no-install-recommends {' '.join(PACKAGES)} >&2;"
               "apt-get clean")
        docker("commit", name, IMAGE)
    finally:
        remove([name])


def remove(names):
    if names:
        subprocess.run(["docker", "rm", "-f", *names], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def remove_leftovers():
    """Containers of runs whose process is gone."""
    listed = docker("ps", "-a", "--filter", f"label={LABEL}", "--format", f'{{{{.ID}}}} {{{{.Label "{LABEL}"}}}}')
    owned = [line.split() for line in listed.splitlines()]
    remove([name for name, owner in owned if not os.path.exists(f"/proc/{owner}")])


def wait_for_sshd(host, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host["address"], host["port"]), 1) as s:
                s.settimeout(2)
                if s.recv(4) == b"SSH-":
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"no sshd on {host['address']}:{host['port']} after {seconds} s")


class Lab:
    """Hosts h1..hN, as a context manager. A host is a dict: name, address, port, user, key, container, id, pid."""

    def __init__(self, count, on_disk=False):
        self.count, self.on_disk = count, on_disk
        self.directory, self.hosts = None, []

    def __enter__(self):
        remove_leftovers()
        if not docker("images", "-q", IMAGE):
            build_image()
        self.directory = tempfile.mkdtemp(prefix="ovsbench-keys-")
        key = os.path.join(self.directory, "id_ed25519")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        self.hosts = [{"name": f"h{number}", "port": SSH_PORT, "user": "root", "key": key,
                       "container": f"ovsbench-{os.getpid()}-h{number}"} for number in range(1, self.count + 1)]
        try:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(self.start, self.hosts))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        remove([host["container"] for host in self.hosts])
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, host):
        with open(host["key"] + ".pub") as f:
            pubkey = f.read().strip()
        srv = [] if self.on_disk else ["--tmpfs", "/srv:exec,mode=755"]
        host["id"] = docker("run", "-d", "--name", host["container"], "--hostname", host["name"],
                            "--label", f"{LABEL}={os.getpid()}", "-e", f"PUBKEY={pubkey}", *srv,
                            IMAGE, "sh", "-ec", START_SSHD)
        found = docker("inspect", "-f", "{{.State.Pid}} {{.NetworkSettings.IPAddress}}", host["id"]).split()
        # Not a published port: docker-proxy would answer for the host, and cost 40 ms with each connection.
        host["pid"], host["address"] = int(found[0]), found[1]
        wait_for_sshd(host)

    def ssh_config(self, endpoints):
        """Write an ssh_config with aliases h1..hN at [(address, port)]; return its path."""
        path = os.path.join(self.directory, "ssh_config")
        common = ["User root", f"IdentityFile {self.hosts[0]['key']}", "IdentitiesOnly yes",
                  "StrictHostKeyChecking no", "UserKnownHostsFile /dev/null", "LogLevel ERROR"]
        with open(path, "w") as f:
            for host, (address, port) in zip(self.hosts, endpoints):
                f.write(f"Host {host['name']}\n  HostName {address}\n  Port {port}\n")
            f.write("Host *\n" + "".join(f"  {line}\n" for line in common))
        return path

    def on_all(self, script, hosts=None):
        """Run a shell script in each container, outside ssh and outside any timing."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda host: docker("exec", host["container"], "sh", "-ec", script),
                          hosts or self.hosts))


def root_of(host):
    """The host's file system as seen from this machine, for looking at it cheaply."""
    return f"/proc/{host['pid']}/root"


def cpu_seconds(hosts):
    """CPU that the hosts have used since they started, seconds; none where the kernel does not say."""
    total = 0.0
    for host in hosts:
        for path, line, unit in ((f"/sys/fs/cgroup/cpuacct/docker/{host['id']}/cpuacct.usage", "", 1e9),
                                 (f"/sys/fs/cgroup/docker/{host['id']}/cpu.stat", "usage_usec ", 1e6),
                                 (f"/sys/fs/cgroup/system.slice/docker-{host['id']}.scope/cpu.stat",
                                  "usage_usec ", 1e6)):
            if os.path.exists(path):
                with open(path) as f:
                    total += next(int(text[len(line):]) for text in f if text.startswith(line)) / unit
                break
        else:
            return None
    return total
