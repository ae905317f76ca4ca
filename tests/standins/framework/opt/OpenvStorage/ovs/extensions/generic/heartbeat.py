"""Stand-in: the heartbeat of a node. It writes one itself and sends a task, whose worker writes the other."""

import json
import time

from ovs.dal.lists.storagerouterlist import StorageRouterList
from ovs.extensions.generic.system import machine_id
from ovs.extensions.rabbitmq import broker


def main():
    storagerouter = StorageRouterList.get_by_machine_id(machine_id())
    if storagerouter is None:
        raise SystemExit("the model has no StorageRouter for {0}".format(machine_id()))
    storagerouter.heartbeats = dict(storagerouter.heartbeats, process=time.time())
    storagerouter.save()
    connection = broker.connect()
    channel = connection.channel()
    queue = "ovs_" + machine_id()
    channel.queue_declare(queue, durable=True)
    task = {"name": "ovs.storagerouter.ping", "arguments": {"machine_id": machine_id()}}
    channel.basic_publish("", queue, json.dumps(task))
    connection.close()


if __name__ == "__main__":
    main()
