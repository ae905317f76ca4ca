//! What a component has on a host: services that it defined there and notes about them. Hosts keep record of it, so that
//! what a component no longer wants is known and goes, and nothing else does.

use serde::{Deserialize, Serialize};

use super::{ComponentName, HostPath, LabName};

/// Where etcd links lie on a host, one file for each service.
pub const LINKS: &str = "/etc/ovs-cuisine";
/// Where `ovs-launch` renders files, below a directory for each service.
pub const RUNTIME: &str = "/run/ovs-cuisine";
/// Where recipes note what services were started with.
pub const NOTES: &str = "/opt/ovs-cuisine/started";

/// What a component of a lab has on a host, as the host has recorded it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Which lab: several may share a host.
    pub lab: LabName,
    /// Which component.
    pub component: ComponentName,
    /// Services that were defined for it.
    pub services: Vec<String>,
    /// Files below [`NOTES`] that were written for it.
    pub notes: Vec<HostPath>,
}

impl Holding {
    /// Most holdings that a host tells of.
    pub const MOST: usize = 1024;
}

/// What is no longer the component's on a host goes: the services with their definitions, links and rendered files, and
/// the notes. Data, logs and trees stay. What the host has not recorded as the component's is left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftovers {
    /// Services.
    pub services: Vec<String>,
    /// Those of them that etcd knows to be the component's, so that they are taken for its own also where nothing is
    /// recorded: hosts of earlier versions have no record.
    pub vouched: Vec<String>,
    /// Files below [`NOTES`].
    pub notes: Vec<HostPath>,
}

impl Leftovers {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.notes.is_empty()
    }
}
