"""Stand-in: connections to RabbitMQ with the login that the configuration says."""

import pika

from ovs.extensions.generic import configuration


def connect():
    """A connection; a refused login is an error, as it is for the real ones."""
    queue = configuration.get("/framework/messagequeue")
    if queue["protocol"] != "amqp":
        raise configuration.Unusable("messagequeue.protocol is {0!r}".format(queue["protocol"]))
    host, port = queue["endpoints"][0].rsplit(":", 1)
    login = pika.PlainCredentials(queue["user"], queue["password"])
    return pika.BlockingConnection(
        pika.ConnectionParameters(host, int(port), credentials=login, connection_attempts=1, socket_timeout=5, heartbeat=30)
    )
