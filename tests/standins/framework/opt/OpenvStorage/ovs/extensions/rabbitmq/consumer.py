"""Stand-in: takes the events of volumedrivers from a durable queue and keeps the last one in the model.

consumer.py QUEUE --durable
"""

import json
import signal
import sys

from ovs.extensions.generic import configuration
from ovs.extensions.generic.arakoon import Client
from ovs.extensions.generic.system import say
from ovs.extensions.rabbitmq import broker


def main():
    name, flags = sys.argv[1], sys.argv[2:]
    if flags not in ([], ["--durable"]):
        sys.exit("usage: consumer.py QUEUE [--durable]")
    if name not in configuration.get("/framework/messagequeue|queues").values():
        sys.exit("queue {0} is none of messagequeue.queues".format(name))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    model = Client("ovsdb")
    channel = broker.connect().channel()
    channel.queue_declare(name, durable="--durable" in flags)
    say("consuming {0}".format(name))

    def took(channel, method, _, body):
        model.set("ovs_event_" + name, {"body": body.decode("utf-8", "replace")})
        channel.basic_ack(method.delivery_tag)
        say("event {0}".format(json.dumps(body.decode("utf-8", "replace"))))

    channel.basic_consume(name, took)
    channel.start_consuming()


if __name__ == "__main__":
    main()
