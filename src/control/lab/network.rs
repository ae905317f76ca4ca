//! A lab's network and volumes.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use bollard::{
    models::{Ipam, IpamConfig, NetworkCreateRequest, VolumeCreateRequest},
    query_parameters::RemoveVolumeOptions,
};
use serde_json::Value;

use super::{
    Engine, LabError,
    engine::CHANGE,
    names,
    payload::Subject,
    reader::{Named, NetworkFound, Volumes, each},
    routes::{Route, in_the_way, routes},
    subnet::{Layout, candidates},
};
use crate::{
    control::inventory::{Lab, Subnet, VolumeSource},
    plan::LabName,
};

/// Docker's option for a bridge's largest packet in bytes.
const MTU_OPTION: &str = "com.docker.network.driver.mtu";

/// Networks that every engine has.
const BUILT_IN: [&str; 4] = ["bridge", "host", "none", "default"];

/// So many subnets are tried that looked free and that the engine then refuses.
const TRIES: usize = 32;

/// Another run of the same lab chooses the same subnet. Its network may be there a moment after the subnet is taken.
const LOOKS: u32 = 30;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// A lab's network as the engine has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LabNetwork {
    /// There is none.
    Missing,
    /// An earlier version made it, and the engine chose its subnet: it takes no fixed addresses.
    Loose {
        /// The engine's id of it.
        id: String,
        /// What the engine chose.
        layout: Option<Layout>,
    },
    /// It has a subnet of its own.
    Laid {
        /// The engine's id of it.
        id: String,
        /// How its subnet is divided.
        layout: Layout,
    },
}

/// What became of a try to make a network.
enum Made {
    Done,
    /// The subnet is taken, in the engine's own words.
    Taken(String),
}

impl Engine {
    /// Makes the volumes that these containers want, as far as they do not exist.
    pub(super) async fn ensure_volumes(&self, lab: &LabName, subjects: &[Subject<'_>]) -> Result<(), LabError> {
        let mounts = subjects.iter().flat_map(|subject| &subject.container.volumes);
        let named = mounts.filter_map(|mount| match &mount.source {
            VolumeSource::Named(name) => Some(name.as_str()),
            VolumeSource::Bind(_) | VolumeSource::Anonymous => None,
        });
        for name in named.collect::<BTreeSet<_>>() {
            self.ensure_volume(lab, name).await?;
        }
        Ok(())
    }

    /// The lab's network. One of its name that somebody else made is an error.
    pub(super) async fn lab_network(&self, lab: &LabName) -> Result<LabNetwork, LabError> {
        let name = names::network(lab);
        if BUILT_IN.contains(&name.as_str()) {
            return Err(LabError::ForeignNetwork { name });
        }
        let Some(found) = self.network(&name).await? else { return Ok(LabNetwork::Missing) };
        if found.labels.get(names::LAB) != Some(&name) {
            return Err(LabError::ForeignNetwork { name });
        }
        let layout = Layout::read(&found.ipam);
        Ok(match (layout, found.labels.contains_key(names::SUBNET)) {
            (Some(layout), true) => LabNetwork::Laid { id: found.id, layout },
            (layout, _) => LabNetwork::Loose { id: found.id, layout },
        })
    }

    /// Makes the lab's network with its subnet, or with a free one that has room for so many containers. `replacing` is the
    /// network that just was there.
    pub(super) async fn create_network(
        &self,
        lab: &Lab,
        containers: usize,
        replacing: Option<&Layout>,
    ) -> Result<(), LabError> {
        if let Some(subnet) = lab.subnet {
            self.check_subnet(lab, replacing).await?;
            return match self.try_network(&lab.name, subnet).await? {
                Made::Done => Ok(()),
                Made::Taken(words) => Err(LabError::SubnetTaken {
                    subnet: subnet.to_string(),
                    by: format!("something of the engine's: {words}"),
                }),
            };
        }
        let (networks, routes) = (self.subnets_but(&lab.name).await?, self.routes_but(replacing).await?);
        let is_free = |subnet: &Subnet| {
            !networks.iter().any(|(block, _)| subnet.overlaps(*block))
                && !routes.iter().any(|route| subnet.overlaps(route.block))
        };
        for subnet in candidates(&lab.name, containers).filter(is_free).take(TRIES) {
            if let Made::Done = self.try_network(&lab.name, subnet).await? {
                return Ok(());
            }
        }
        Err(LabError::NoSubnet { network: names::network(&lab.name) })
    }

    /// Refuses a subnet of the inventory's that another network of the engine has, or that the machine has a way to already.
    pub(super) async fn check_subnet(&self, lab: &Lab, replacing: Option<&Layout>) -> Result<(), LabError> {
        let Some(subnet) = lab.subnet else { return Ok(()) };
        let taken = |by: String| Err(LabError::SubnetTaken { subnet: subnet.to_string(), by });
        if let Some((block, name)) =
            self.subnets_but(&lab.name).await?.into_iter().find(|(block, _)| subnet.overlaps(*block))
        {
            return taken(format!("network `{name}` of the engine ({block})"));
        }
        let routes = self.routes_but(replacing).await?;
        match in_the_way(subnet, &routes) {
            Some(route) => taken(format!("this machine's route to {} by `{}`", route.block, route.interface)),
            None => Ok(()),
        }
    }

    /// The subnets of all networks but the lab's, with their names.
    async fn subnets_but(&self, lab: &LabName) -> Result<Vec<(ipnet::Ipv4Net, String)>, LabError> {
        let own = names::network(lab);
        let others = self.networks().await?.into_iter().filter(|network| network.name != own);
        let blocks = others.flat_map(|network| {
            let blocks = network.ipam.config.into_iter().filter_map(|config| config.subnet.parse().ok());
            blocks.map(move |block| (block, network.name.clone())).collect::<Vec<_>>()
        });
        Ok(blocks.collect())
    }

    /// The routes of the engine's machine, as far as it is this one; without the one of a network that goes.
    async fn routes_but(&self, replacing: Option<&Layout>) -> Result<Vec<Route>, LabError> {
        if !self.is_this_machines().await? {
            return Ok(Vec::new());
        }
        Ok(routes().into_iter().filter(|route| replacing.is_none_or(|layout| layout.net != route.block)).collect())
    }

    /// Makes the lab's network with a subnet, unless another run of the lab has made it in the meantime.
    async fn try_network(&self, lab: &LabName, subnet: Subnet) -> Result<Made, LabError> {
        let name = names::network(lab);
        let layout = Layout::of(subnet);
        let config = IpamConfig {
            subnet: Some(layout.net.to_string()),
            gateway: layout.gateway().map(|gateway| gateway.to_string()),
            ip_range: layout.free_range.map(|range| range.to_string()),
            ..IpamConfig::default()
        };
        let mut labels = labels(lab);
        labels.insert(names::SUBNET.to_owned(), subnet.to_string());
        let request = NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".to_owned()),
            labels: Some(labels),
            options: self.default_mtu().await.map(|mtu| HashMap::from([(MTU_OPTION.to_owned(), mtu)])),
            ipam: Some(Ipam { config: Some(vec![config]), ..Ipam::default() }),
            ..NetworkCreateRequest::default()
        };
        let action = format!("create network `{name}` with subnet {subnet}");
        match self.call(&action, CHANGE, self.docker().create_network(request)).await {
            Ok(made) => self.give_way(lab, &made.id).await.map(|()| Made::Done),
            // Another run of the same lab was quicker.
            Err(error) if error.status() == Some(409) => Ok(Made::Done),
            Err(LabError::Api { source, .. }) if is_overlap(&source.message) => {
                Ok(if self.appears(&name).await? { Made::Done } else { Made::Taken(source.message) })
            }
            Err(error) => Err(error),
        }
    }

    async fn appears(&self, name: &str) -> Result<bool, LabError> {
        for _ in 0..LOOKS {
            if self.network(name).await?.is_some() {
                return Ok(true);
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        Ok(false)
    }

    /// The engine may make two networks of one name when it is asked twice at once. The first one stays, whoever made it: each
    /// run comes to the same conclusion.
    async fn give_way(&self, lab: &LabName, made: &str) -> Result<(), LabError> {
        let name = names::network(lab);
        let ours = self.networks().await?.into_iter().filter(|found| found.name == name);
        let first = ours.min_by(|one, other| (&one.created, &one.id).cmp(&(&other.created, &other.id)));
        if first.is_none_or(|first| first.id == made) {
            return Ok(());
        }
        let action = format!("remove the second network `{name}`");
        self.call(&action, CHANGE, self.docker().remove_network(made)).await
    }

    /// The largest packet that the engine's default network allows. A new network would ignore the engine's setting, and
    /// packets would get lost where the way out is narrower than 1500 bytes.
    async fn default_mtu(&self) -> Option<String> {
        let default = self.network("bridge").await.ok().flatten()?;
        default.options.get(MTU_OPTION).filter(|mtu| *mtu != "1500").cloned()
    }

    async fn networks(&self) -> Result<Vec<NetworkFound>, LabError> {
        let listed: Vec<Value> = self.read("list networks", "/networks").await?;
        Ok(each(listed))
    }

    async fn network(&self, name: &str) -> Result<Option<NetworkFound>, LabError> {
        let action = format!("look at network `{name}`");
        let found: Option<NetworkFound> = self.read_if_there(&action, &format!("/networks/{name}")).await?;
        // The engine also finds a network by the beginning of its id.
        Ok(found.filter(|network| network.name == name))
    }

    /// Refuses networks of the inventory's that the engine does not have.
    pub(super) async fn check_networks(&self, subjects: &[Subject<'_>]) -> Result<(), LabError> {
        for subject in subjects.iter().filter(|subject| !subject.uses_lab_network()) {
            self.check_network(subject).await?;
        }
        Ok(())
    }

    async fn check_network(&self, subject: &Subject<'_>) -> Result<(), LabError> {
        let network = subject.network();
        if BUILT_IN.contains(&network.as_str()) || network.starts_with("container:") {
            return Ok(());
        }
        let is_name = network.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if !is_name || self.network(&network).await?.is_none() {
            return Err(LabError::NetworkMissing { host: subject.host.clone(), network });
        }
        Ok(())
    }

    async fn ensure_volume(&self, lab: &LabName, name: &str) -> Result<(), LabError> {
        let name = names::volume(lab, name);
        // Creating a volume that is there already answers with it as it is.
        let request = VolumeCreateRequest {
            name: Some(name.clone()),
            labels: Some(labels(lab)),
            ..VolumeCreateRequest::default()
        };
        let action = format!("create volume `{name}`");
        self.call(&action, CHANGE, self.docker().create_volume(request)).await.map(drop)
    }

    /// Removes the lab's network and tells whether none is left. One that is not ours, or that something is still attached
    /// to, stays.
    pub(super) async fn remove_network(&self, lab: &LabName) -> Result<bool, LabError> {
        let name = names::network(lab);
        let ours = self.network(&name).await?.filter(|network| network.labels.get(names::LAB) == Some(&name));
        let Some(network) = ours else { return Ok(true) };
        let action = format!("remove network `{name}`");
        match self.call(&action, CHANGE, self.docker().remove_network(&network.id)).await {
            Err(error) if error.is_missing() => Ok(true),
            // It has active endpoints.
            Err(error) if error.status() == Some(403) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Names of the volumes that carry the lab's label.
    pub(super) async fn lab_volumes(&self, lab: &LabName) -> Result<BTreeSet<String>, LabError> {
        let path = format!("/volumes{}", names::label_query(lab));
        let listed: Volumes = self.read("list volumes", &path).await?;
        Ok(each::<Named>(listed.volumes).into_iter().map(|volume| volume.name).collect())
    }

    /// Removes a volume and tells whether it did; one that is in use stays.
    pub(super) async fn remove_volume(&self, name: &str) -> Result<bool, LabError> {
        let call = self.docker().remove_volume(name, None::<RemoveVolumeOptions>);
        match self.call(&format!("remove volume `{name}`"), CHANGE, call).await {
            Err(error) if error.is_missing() || error.status() == Some(409) => Ok(false),
            other => other.map(|()| true),
        }
    }
}

/// Docker says "Pool overlaps with other one on this address space" or "networks have overlapping IPv4", of the very same
/// subnet "failed to allocate gateway (10.0.0.1): Address already in use"; Podman "subnet 10.0.0.0/24 is already used on the
/// host or by another config".
fn is_overlap(message: &str) -> bool {
    ["overlap", "failed to allocate gateway", "is already used"].iter().any(|words| message.contains(words))
}

fn labels(lab: &LabName) -> HashMap<String, String> {
    HashMap::from([(names::LAB.to_owned(), lab.to_string())])
}
