"""Stand-in: ASDs, disks and services of this node, as the agent finds them."""

import os
import re
import socket
import subprocess

from source.tools import configuration

BEGIN, END = "# BEGIN ALBA ASDs", "# END ALBA ASDs"


def mountpoints():
    """What stands in /etc/fstab between the agent's two marks."""
    with open("/etc/fstab") as file:
        lines = [line.strip() for line in file]
    if BEGIN not in lines or END not in lines:
        raise RuntimeError("/etc/fstab has no lines `{0}` and `{1}`".format(BEGIN, END))
    ours = lines[lines.index(BEGIN) + 1 : lines.index(END)]
    return [line.split()[1] for line in ours if line and not line.startswith("#")]


def asds():
    """By mountpoint and identifier: a directory counts when its configuration is in the store."""
    found = {}
    for mountpoint in mountpoints():
        names = os.listdir(mountpoint) if os.path.isdir(mountpoint) else []
        known = {}
        for name in names:
            try:
                known[name] = configuration.json.loads(configuration.raw("/alba/asds/{0}/config".format(name)))
            except configuration.NotFound:
                continue
        found[mountpoint] = known
    return found


def disks():
    """One for each mountpoint, with its space in bytes."""
    found = {}
    for mountpoint in mountpoints():
        state = "ok" if os.path.ismount(mountpoint) or os.path.isdir(mountpoint) else "error"
        space = os.statvfs(mountpoint) if state == "ok" else None
        found[os.path.basename(mountpoint)] = {
            "mountpoint": mountpoint,
            "state": state,
            "available": False,
            "usage": {"size": space.f_blocks * space.f_frsize, "available": space.f_bavail * space.f_frsize} if space else {},
        }
    return found


def manager():
    """`systemd` or `upstart`; anything else raises, as in the real one."""
    with open("/proc/1/comm") as file:
        name = file.read().strip()
    if name == "systemd":
        return name
    if name == "init" and b"upstart" in subprocess.run(["/sbin/init", "--version"], stdout=subprocess.PIPE).stdout:
        return "upstart"
    raise RuntimeError("there is no service manager for process 1, `{0}`".format(name))


def services(pattern):
    """Units of the node whose name fits, each with whether it is active."""
    manager()
    names = sorted(name[: -len(".service")] for name in os.listdir("/lib/systemd/system") if re.match(pattern, name))
    return {name: status(name) for name in names}


def status(name):
    """Whether a unit is active."""
    manager()
    return subprocess.run(["systemctl", "is-active", "--quiet", name]).returncode == 0


def addresses():
    """This node's addresses."""
    found = {item[4][0] for item in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    return sorted(found - {"127.0.0.1"})
