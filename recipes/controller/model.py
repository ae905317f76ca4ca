#!/usr/bin/env python
"""Brings the framework's model into being and enters this node, as the installer would: model.py NAME MACHINE_ID IP

Twice is once: migrations know how far they are, and the node is looked up before it is made.
"""

import sys

from ovs.dal.helpers import Migration
from ovs.dal.hybrids.storagerouter import StorageRouter
from ovs.dal.lists.storagerouterlist import StorageRouterList


def main():
    name, machine_id, ip = sys.argv[1:]
    Migration.migrate()
    node = StorageRouterList.get_by_machine_id(machine_id)
    if node is None:
        node = StorageRouter()
        node.machine_id = machine_id
    node.name = name
    node.ip = ip
    node.node_type = "MASTER"
    node.rdma_capable = False
    node.save()


if __name__ == "__main__":
    main()
