"""Stand-in: what brings the model to the code's version."""

from ovs.extensions.generic import configuration
from ovs.extensions.generic.arakoon import Client
from ovs.extensions.generic.system import machine_id, say

VERSION = 9


class Migration:
    """The model's migrations."""

    @staticmethod
    def migrate():
        """Makes the first user, its roles and clients, unless the model has this version already."""
        model = Client("ovsdb")
        if (model.get("ovs_model_version") or 0) >= VERSION:
            return
        model.set("ovs_data_user_admin", {"username": "admin", "password": "admin", "is_active": True})
        for role in ("read", "write", "manage"):
            model.set("ovs_data_role_" + role, {"code": role})
        model.set("ovs_data_client_ovs_cli", {"ovs_type": "INTERNAL", "grant_type": "CLIENT_CREDENTIALS"})
        for kind in ("MetadataServer", "AlbaProxy", "Arakoon"):
            model.set("ovs_data_servicetype_" + kind, {"name": kind})
        model.set("ovs_model_version", VERSION)
        configuration.set("/framework/hosts/{0}/versions".format(machine_id()), {"ovs": VERSION})
        say("the model has version {0}".format(VERSION))
