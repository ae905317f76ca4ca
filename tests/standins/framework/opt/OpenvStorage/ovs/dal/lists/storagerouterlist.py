"""Stand-in: lists of StorageRouters."""

from ovs.dal.hybrids.storagerouter import PREFIX, StorageRouter
from ovs.extensions.generic.arakoon import Client


class StorageRouterList:
    """All, or one by its machine's identifier."""

    @staticmethod
    def get_storagerouters():
        """All of them."""
        return [StorageRouter(data) for _, data in sorted(Client("ovsdb").prefix(PREFIX).items())]

    @staticmethod
    def get_by_machine_id(machine_id):
        """The one of a machine, or None."""
        data = Client("ovsdb").get(PREFIX + machine_id)
        return None if data is None else StorageRouter(data)
