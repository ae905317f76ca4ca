//! What our containers, networks and volumes are called, and the labels by which we know them again.

use crate::plan::{HostName, LabName};

/// Label: the lab's name. Nothing without it is ever touched.
pub(super) const LAB: &str = "ovs-cuisine.lab";
/// Label: the host's name.
pub(super) const HOST: &str = "ovs-cuisine.host";
/// Label: digest of everything that a container was created from.
pub(super) const SPEC: &str = "ovs-cuisine.spec";
/// Label: short digests of the single settings, to say which of them differs.
pub(super) const PARTS: &str = "ovs-cuisine.parts";
/// Label: the version of the program that created it.
pub(super) const VERSION: &str = "ovs-cuisine.version";

/// Label of a network: its subnet. Without it the engine chose one by itself, and gives no container a fixed address.
pub(super) const SUBNET: &str = "ovs-cuisine.subnet";

/// All labels of ours begin with it.
pub(super) const PREFIX: &str = "ovs-cuisine.";

/// The container of a host.
pub(super) fn container(lab: &LabName, host: &HostName) -> String {
    format!("{lab}-{host}")
}

/// What a container is called while its successor is being made.
pub(super) fn replaced(lab: &LabName, host: &HostName) -> String {
    format!("{lab}-{host}.replaced")
}

/// The network of a lab.
pub(super) fn network(lab: &LabName) -> String {
    lab.to_string()
}

/// The engine's name of a lab's volume.
pub(super) fn volume(lab: &LabName, name: &str) -> String {
    format!("{lab}-{name}")
}

/// The query that lists what carries the lab's label: `?all=1&filters=...`.
pub(super) fn label_query(lab: &LabName) -> String {
    let filters = format!(r#"{{"label":["{LAB}={lab}"]}}"#);
    let filters: String = url::form_urlencoded::byte_serialize(filters.as_bytes()).collect();
    format!("?all=1&filters={filters}")
}
