"""Stand-in: the framework's service manager, as choosy as the real one: systemd or upstart, by the name of process 1."""

import json
import os
import re
import subprocess

from ovs.extensions.generic import configuration
from ovs.extensions.generic.system import HOME, machine_id

UNITS = "/lib/systemd/system/"


def manager():
    """`systemd` or `upstart`; anything else raises."""
    with open("/proc/1/comm") as file:
        name = file.read().strip()
    if name == "systemd":
        return "systemd"
    if name == "init" and b"upstart" in subprocess.run(["/sbin/init", "--version"], stdout=subprocess.PIPE).stdout:
        return "upstart"
    raise RuntimeError("there is no service manager for process 1, `{0}`".format(name))


def has_service(name):
    """Whether there is a unit of this name."""
    manager()
    return os.path.exists(UNITS + name + ".service")


def is_running(name):
    """Whether it is active."""
    manager()
    return subprocess.run(["systemctl", "is-active", "--quiet", name]).returncode == 0


def add_service(template, parameters, name):
    """Renders a template's `<NAME>` placeholders to a unit, enables it and remembers the parameters."""
    manager()
    with open(os.path.join(HOME, "config/templates/systemd", template + ".service")) as file:
        text = file.read()
    for key, value in parameters.items():
        text = text.replace("<{0}>".format(key), value)
    left = re.findall("<[A-Z_]+>", text)
    if left:
        raise RuntimeError("{0}: nothing is given for {1}".format(template, ", ".join(left)))
    with open(UNITS + name + ".service", "w") as file:
        file.write(text)
    subprocess.check_call(["systemctl", "daemon-reload"])
    subprocess.check_call(["systemctl", "--quiet", "enable", name])
    configuration.set("/framework/hosts/{0}/services/{1}".format(machine_id(), name), parameters)


def statuses():
    """Units of the framework by name, whether each is active."""
    manager()
    names = sorted(name[: -len(".service")] for name in os.listdir(UNITS) if re.match("ovs-.*[.]service$", name))
    return {name: is_running(name) for name in names}


if __name__ == "__main__":
    print(json.dumps(statuses()))
