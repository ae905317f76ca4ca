"""Stand-in: the scheduler that celery's beat is started with."""

import time

from ovs.extensions.generic.arakoon import Client
from ovs.extensions.generic.system import machine_id


class DistributedScheduler:
    """Holds a lease in the model, so that one node schedules."""

    KEY = "ovs_celery_beat_lease"
    SECONDS = 60

    def tick(self):
        """Takes or renews the lease; tells whether it is ours."""
        model = Client("ovsdb")
        lease = model.get(self.KEY) or {}
        if lease.get("until", 0) > time.time() and lease.get("holder") != machine_id():
            return False
        model.set(self.KEY, {"holder": machine_id(), "until": time.time() + self.SECONDS})
        return True
