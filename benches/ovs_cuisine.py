"""ovs-cuisine as a tool among the others: the command lines that do its part.

A host is a dict with name, address, port (of the delay proxy), user, key.
"""
import hashlib
import json
import os

NAME = "ovs-cuisine"

RECIPE = '''"""A tree."""

params(
    tree = param("path", doc = "What."),
    dest = param("str", doc = "Where."),
)

def deploy(ctx):
    "Makes a directory of the host equal to the tree."
    sync(ctx.params.tree, ctx.params.dest, delete = True)
'''


def add_option(parser):
    parser.add_argument("--ovs-cuisine", metavar="PATH", help="also measure this binary")


def inventory(tree, dest, hosts, ssh_config):
    """Writes an inventory with these hosts and one tree; gives its path and the environment for it."""
    wanted = json.dumps([tree, dest, [[h["name"], h["port"]] for h in hosts]])
    directory = os.path.join(os.path.dirname(ssh_config), hashlib.sha256(wanted.encode()).hexdigest()[:12])
    path = os.path.join(directory, "lab.toml")
    environment = [f"XDG_{kind}_HOME={directory}/{kind.lower()}" for kind in ("CACHE", "STATE")]
    if os.path.exists(path):
        return path, environment
    os.makedirs(os.path.join(directory, "recipes", "tree"))
    with open(os.path.join(directory, "recipes", "tree", "recipe.star"), "w") as f:
        f.write(RECIPE)
    lines = ["[lab]", 'name = "bench"', 'recipes = ["recipes"]', ""]
    for host in hosts:
        lines += [f"[host.{host['name']}.ssh]", f'address = "{host["address"]}"', f"port = {host['port']}",
                  f'user = "{host["user"]}"', f'key = "{host["key"]}"', 'host_key = "accept-new"', ""]
    names = ", ".join(f'"{host["name"]}"' for host in hosts)
    lines += ["[component.tree]", 'recipe = "tree"', f"hosts = [{names}]",
              f'params = {{ tree = "{tree}", dest = "{dest}" }}']
    with open(path, "w") as f:
        f.write("\n".join(lines) + "\n")
    return path, environment


def sync(binary, tree, dest, hosts, ssh_config):
    """argv: make dest on every host equal to the directory tree, deleting what is extra."""
    path, environment = inventory(tree, dest, hosts, ssh_config)
    return ["env", *environment, binary, "push", path, "tree"]


def watch(binary, tree, dest, host, ssh_config):
    """argv of a process that keeps dest equal to tree until it is ended, and says when it is."""
    path, environment = inventory(tree, dest, [host], ssh_config)
    return ["env", *environment, binary, "push", path, "tree", "--watch", "--json"]


def is_in_sync(line):
    """Whether this line of watch's output says that every later change is followed."""
    return '"in-sync"' in line
