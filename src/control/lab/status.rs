//! What a lab's containers are doing, and where they are reached. Nothing of it is stored: addresses and ports move.

use std::collections::{BTreeMap, BTreeSet};

use bollard::query_parameters::LogsOptionsBuilder;
use futures::StreamExt as _;
use serde::Serialize;
use serde_json::Value;

use super::{
    Engine, LabError,
    address::Addresses,
    engine::{Place, QUICK},
    names,
    output::{LONGEST_LINE, printable},
    payload::SSH_PORT,
    reader::{Inspected, Listed, each},
};
use crate::{
    control::inventory::{Access, Inventory},
    plan::{HostName, LabName},
};

/// The state of a container that is not there.
const MISSING: &str = "missing";

/// sshd's port inside.
const SSH: u16 = 22;

/// Where a container's SSH is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Endpoint {
    /// Name or address.
    pub address: String,
    /// Port.
    pub port: u16,
}

/// One container of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainerStatus {
    /// Its host.
    pub host: HostName,
    /// The container's name.
    pub name: String,
    /// In Docker's words: `running`, `exited`, `paused` ...; `missing` when there is none.
    pub state: String,
    /// In Docker's words: `Up 2 minutes`; empty when there is none.
    pub status: String,
    /// The image that it runs, or should.
    pub image: String,
    /// Short id; empty when there is none.
    pub id: String,
    /// Its address on its network, also when it does not run or is missing and will have that one; none when the engine
    /// chooses one at each start, or it cannot be told yet.
    pub address: Option<String>,
    /// The port on the engine's machine at which its SSH is published.
    pub ssh_port: Option<u16>,
    /// False for a container of this lab whose host is no longer in the inventory.
    pub in_inventory: bool,
}

impl Engine {
    /// Where a host's SSH is reached at this moment: at the container's own address when the engine is this machine's, else
    /// at its published port.
    ///
    /// Errors when the container does not exist, does not run, is not ours, or cannot be reached from here.
    pub async fn endpoint(&self, lab: &LabName, host: &HostName) -> Result<Endpoint, LabError> {
        let no = |why: &str| LabError::NoEndpoint { host: host.clone(), why: why.to_owned() };
        let found = self.ours(lab, host).await?.ok_or_else(|| no("its container does not exist"))?;
        if !found.state.running {
            return Err(no("its container does not run"));
        }
        self.endpoint_of(lab, host, &found)
    }

    pub(super) fn endpoint_of(&self, lab: &LabName, host: &HostName, found: &Inspected) -> Result<Endpoint, LabError> {
        let no = |why: &str| LabError::NoEndpoint { host: host.clone(), why: why.to_owned() };
        let endpoint = |address: &str, port| Endpoint { address: address.to_owned(), port };
        let engine_host = match self.place() {
            Place::Elsewhere(machine) => machine.as_str(),
            Place::Here | Place::Loopback => "127.0.0.1",
        };
        if found.host_config.network_mode == "host" {
            return Ok(endpoint(engine_host, SSH));
        }
        if *self.place() == Place::Here
            && let Some(address) = own_address(lab, found)
        {
            return Ok(endpoint(address, SSH));
        }
        let bindings = found.network_settings.ports.get(SSH_PORT).and_then(Option::as_ref);
        let binding =
            bindings.and_then(|all| all.first()).ok_or_else(|| no("it has no address and no published port"))?;
        let port = binding.host_port.parse().map_err(|_| no("its published port is not a number"))?;
        match (self.place(), is_loopback(&binding.host_ip)) {
            (Place::Elsewhere(machine), true) => Err(no(&format!(
                "it is published on 127.0.0.1 of `{machine}` only; publish it on another address with `container.api`"
            ))),
            (Place::Elsewhere(machine), false) => Ok(endpoint(machine, port)),
            _ => Ok(endpoint("127.0.0.1", port)),
        }
    }

    /// All containers of the inventory's lab, in its order; then those whose host it no longer has.
    pub async fn ps(&self, inventory: &Inventory) -> Result<Vec<ContainerStatus>, LabError> {
        let lab = &inventory.lab.name;
        let mut listed: BTreeMap<String, (HostName, Listed)> = self.listed(lab).await?;
        let mut found = Vec::new();
        for host in inventory.hosts.values() {
            let Access::Container(container) = &host.access else { continue };
            let name = names::container(lab, &host.name);
            found.push(match listed.remove(&name) {
                Some((host, item)) => status(lab, host, name, &item, true),
                None => missing(&host.name, name, &container.image),
            });
        }
        if found.iter().any(|container| container.state == MISSING) {
            self.tell_addresses(inventory, &mut found).await;
        }
        found.extend(listed.into_iter().map(|(name, (host, item))| status(lab, host, name, &item, false)));
        Ok(found)
    }

    /// Tells of missing containers which address they will have, as far as that is known.
    async fn tell_addresses(&self, inventory: &Inventory, containers: &mut [ContainerStatus]) {
        let foretold = self.foretell(inventory).await.unwrap_or_else(|error| {
            // What can be told without is told; who makes containers is told what is wrong.
            tracing::debug!(%error, "addresses of missing containers are not known");
            Addresses::new()
        });
        for container in containers.iter_mut().filter(|container| container.state == MISSING) {
            container.address = foretold.get(&container.host).map(ToString::to_string);
        }
    }

    /// The last lines that a host's container wrote, both streams, oldest first. Empty when it has none.
    pub async fn log_tail(&self, lab: &LabName, host: &HostName, lines: usize) -> Result<Vec<String>, LabError> {
        let Some(found) = self.ours(lab, host).await? else { return Ok(Vec::new()) };
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(&lines.to_string()).build();
        let mut output = self.docker().logs(&found.id, Some(options));
        let mut text = String::new();
        // The stream may stay open; what has come by the deadline is what there is.
        let _ = tokio::time::timeout(QUICK, async {
            while let Some(Ok(piece)) = output.next().await {
                text.push_str(&String::from_utf8_lossy(&piece.into_bytes()));
                if text.len() > lines.saturating_mul(LONGEST_LINE) {
                    break;
                }
            }
        })
        .await;
        let all: Vec<&str> = text.lines().collect();
        Ok(all[all.len().saturating_sub(lines)..].iter().map(|line| printable(line)).collect())
    }

    /// Every container that carries the lab's label, by name, with the host that its label says.
    pub(super) async fn listed(&self, lab: &LabName) -> Result<BTreeMap<String, (HostName, Listed)>, LabError> {
        let path = format!("/containers/json{}", names::label_query(lab));
        let items: Vec<Value> = self.read("list containers", &path).await?;
        let items: Vec<Listed> = each(items);
        Ok(items
            .into_iter()
            .filter_map(|item| {
                let host: HostName = item.labels.get(names::HOST)?.parse().ok()?;
                let name = item.names.first()?.trim_start_matches('/').to_owned();
                Some((name, (host, item)))
            })
            .collect())
    }
}

/// The container's address in the lab's network, else in the first that it has one in.
fn own_address<'f>(lab: &LabName, found: &'f Inspected) -> Option<&'f str> {
    let networks = &found.network_settings.networks;
    let lab = networks.get(&names::network(lab));
    lab.into_iter()
        .chain(networks.values())
        .flat_map(|network| [network.ip_address.as_str(), network.ipv6_address.as_str()])
        .find(|address| !address.is_empty())
}

fn is_loopback(address: &str) -> bool {
    address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn status(lab: &LabName, host: HostName, name: String, item: &Listed, in_inventory: bool) -> ContainerStatus {
    let networks = &item.network_settings.networks;
    let address = networks.get(&names::network(lab)).into_iter().chain(networks.values());
    let address = address.filter_map(|network| network.address()).map(str::to_owned).next();
    let published: BTreeSet<u16> =
        item.ports.iter().filter(|port| port.private == SSH && port.public != 0).map(|port| port.public).collect();
    ContainerStatus {
        host,
        name,
        state: item.state.clone(),
        status: item.status.clone(),
        image: item.image.clone(),
        id: item.id.chars().take(12).collect(),
        address,
        ssh_port: published.first().copied(),
        in_inventory,
    }
}

fn missing(host: &HostName, name: String, image: &str) -> ContainerStatus {
    ContainerStatus {
        host: host.clone(),
        name,
        state: MISSING.to_owned(),
        status: String::new(),
        image: image.to_owned(),
        id: String::new(),
        address: None,
        ssh_port: None,
        in_inventory: true,
    }
}
