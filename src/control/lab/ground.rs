//! What a lab's containers stand on: its network, the addresses on it, and its volumes.

use std::{collections::BTreeSet, net::Ipv4Addr};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;

use super::{
    Engine, LabError, Sight, State,
    address::{Addresses, Misfit, Roll, asked, endpoint, lab_endpoint},
    names,
    network::LabNetwork,
    payload::Subject,
    reader::{Inspected, Listed, each},
    sight::{AT_ONCE, Wanted},
    subnet::Layout,
};
use crate::{
    control::inventory::{Inventory, Lab},
    plan::HostName,
};

/// The lab's network as it is, when a container of the run is on it.
pub(super) struct Ground<'i> {
    lab: &'i Lab,
    network: Option<LabNetwork>,
}

/// A container that is to be worked on, and how it is.
pub(super) type Work<'w, 'i> = (&'w Wanted<'i>, Sight);

/// What the ground is like once containers can be made on it.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Addresses to be asked for on the lab's network.
    pub(super) addresses: Addresses,
    /// Ids of containers that ran and were stopped already, so that what they held is free.
    pub(super) stopped: BTreeSet<String>,
}

impl Ground<'_> {
    /// Whether the inventory wants another subnet than the network has.
    fn is_changed(&self) -> bool {
        match (&self.network, self.lab.subnet) {
            (Some(LabNetwork::Laid { layout, .. }), Some(wanted)) => layout.net != wanted.net(),
            (Some(LabNetwork::Loose { .. }), Some(_)) => true,
            _ => false,
        }
    }

    /// What somebody should know about the network; none when it is as it should be.
    pub(super) fn notice(&self) -> Option<String> {
        let is_loose = matches!(self.network, Some(LabNetwork::Loose { .. })) && !self.is_changed();
        is_loose.then(|| {
            let name = names::network(&self.lab.name);
            format!(
                "network {name} was made by an earlier version and keeps no addresses: a container that is made anew may get \
                 another one; `ovs-cuisine down` and `up` make it anew with addresses that are kept, volumes stay"
            )
        })
    }

    /// Why a container has to be made anew although it was made from what is wanted: where it is on its network differs.
    pub(super) fn misplaced(&self, wanted: &Wanted<'_>, found: &Inspected) -> Option<String> {
        let subject = wanted.subject;
        let attached = found.network_settings.networks.get(&subject.network());
        if let Some(network) = self.network.as_ref().filter(|_| lab_endpoint(&subject, &wanted.body).is_some()) {
            if self.is_changed() {
                return Some("subnet changed".to_owned());
            }
            let id = attached.map(|attached| attached.network_id.as_str()).filter(|id| !id.is_empty());
            let is_gone = match network {
                LabNetwork::Missing => true,
                LabNetwork::Loose { id: there, .. } | LabNetwork::Laid { id: there, .. } => {
                    id.is_some_and(|id| id != there && id != subject.network())
                }
            };
            // One that runs has a network, whatever we see of it.
            if is_gone && !found.state.running {
                return Some("network is gone".to_owned());
            }
        }
        subject.container.address?;
        let given = endpoint(&subject, &wanted.body).and_then(asked);
        let there = attached.and_then(|attached| attached.ipam.ipv4_address.parse().ok());
        (given != there).then(|| "address changed".to_owned())
    }
}

impl Engine {
    /// Looks at the network of the lab when one of these containers is on it.
    pub(super) async fn ground<'i>(
        &self,
        inventory: &'i Inventory,
        wanted: &[Wanted<'_>],
    ) -> Result<Ground<'i>, LabError> {
        let lab = &inventory.lab;
        let is_used = wanted.iter().any(|wanted| wanted.subject.uses_lab_network());
        let network = if is_used { Some(self.lab_network(&lab.name).await?) } else { None };
        let ground = Ground { lab, network };
        if ground.is_changed() || ground.network == Some(LabNetwork::Missing) {
            self.check_subnet(lab, ground.network.as_ref().and_then(layout)).await?;
        }
        Ok(ground)
    }

    /// The addresses that the inventory's hosts have on the lab's network, or will have when their containers are made; of
    /// none when that cannot be told before the network is there.
    pub(super) async fn foretell(&self, inventory: &Inventory) -> Result<Addresses, LabError> {
        let lab = &inventory.lab;
        let ground = Ground { lab, network: Some(self.lab_network(&lab.name).await?) };
        let there = ground.network.as_ref().filter(|_| !ground.is_changed());
        let layout = match (there, lab.subnet) {
            (Some(LabNetwork::Laid { layout, .. }), _) => layout.clone(),
            (Some(LabNetwork::Missing) | None, Some(subnet)) => Layout::of(subnet),
            _ => return Ok(Addresses::new()),
        };
        Ok(Roll::new(inventory, &self.all_listed().await?).decide(&layout))
    }

    async fn all_listed(&self) -> Result<Vec<Listed>, LabError> {
        let listed: Vec<Value> = self.read("list containers", "/containers/json?all=1").await?;
        Ok(each(listed))
    }

    /// Makes networks and volumes ready for these containers and decides their addresses, all before any of them is made.
    ///
    /// Errors before anything is touched: a network that does not exist, a subnet or an address that cannot be had, a subnet
    /// that changed below a container that this run does not make anew.
    pub(super) async fn settle(
        &self,
        inventory: &Inventory,
        ground: &Ground<'_>,
        work: &[Work<'_, '_>],
    ) -> Result<Settled, LabError> {
        let subjects: Vec<Subject<'_>> = work.iter().map(|(wanted, _)| wanted.subject).collect();
        self.check_networks(&subjects).await?;
        let settled = match &ground.network {
            Some(network) if subjects.iter().any(Subject::uses_lab_network) => {
                self.settle_network(inventory, ground, network, work).await?
            }
            _ => Settled::default(),
        };
        self.ensure_volumes(&inventory.lab.name, &subjects).await?;
        Ok(settled)
    }

    /// Refuses what [`Self::settle`] would refuse before anything is touched, and makes nothing.
    pub(super) async fn expect_ground(
        &self,
        inventory: &Inventory,
        ground: &Ground<'_>,
        work: &[Work<'_, '_>],
    ) -> Result<(), LabError> {
        let subjects: Vec<Subject<'_>> = work.iter().map(|(wanted, _)| wanted.subject).collect();
        self.check_networks(&subjects).await?;
        let layout = match &ground.network {
            Some(LabNetwork::Laid { layout, .. }) if !ground.is_changed() => Some(layout.clone()),
            Some(_) => inventory.lab.subnet.map(Layout::of),
            None => None,
        };
        let Some(layout) = layout.filter(|_| subjects.iter().any(Subject::uses_lab_network)) else { return Ok(()) };
        let listed: Vec<Value> = self.read("list containers", "/containers/json?all=1").await?;
        check(&Roll::new(inventory, &each::<Listed>(listed)), &layout, inventory, work).map(drop)
    }

    async fn settle_network(
        &self,
        inventory: &Inventory,
        ground: &Ground<'_>,
        network: &LabNetwork,
        work: &[Work<'_, '_>],
    ) -> Result<Settled, LabError> {
        let lab = &inventory.lab;
        let listed = self.all_listed().await?;
        let roll = Roll::new(inventory, &listed);
        let mut stopped = BTreeSet::new();
        let is_new = ground.is_changed() || *network == LabNetwork::Missing;
        let now = if is_new {
            if let Some(subnet) = lab.subnet {
                check(&roll, &Layout::of(subnet), inventory, work)?;
            }
            if ground.is_changed() {
                stopped = self.clear_network(ground, network, &listed, work).await?;
            }
            self.create_network(lab, roll.len(), layout(network)).await?;
            &self.lab_network(&lab.name).await?
        } else {
            network
        };
        let LabNetwork::Laid { layout, .. } = now else { return Ok(Settled { stopped, ..Settled::default() }) };
        let addresses = check(&roll, layout, inventory, work)?;
        stopped.extend(self.free_addresses(&roll, &addresses, work).await?);
        Ok(Settled { addresses, stopped })
    }

    /// Takes the lab's network away, whose subnet changed. Its containers are this run's, and are stopped first.
    async fn clear_network(
        &self,
        ground: &Ground<'_>,
        network: &LabNetwork,
        listed: &[Listed],
        work: &[Work<'_, '_>],
    ) -> Result<BTreeSet<String>, LabError> {
        let name = names::network(&ground.lab.name);
        let is_on_it =
            |item: &&Listed| item.network_settings.networks.get(&name).is_some_and(|at| !at.ip_address.is_empty());
        let ours: BTreeSet<&str> = work.iter().filter_map(|(_, sight)| sight.id.as_deref()).collect();
        let changed = |container: &str| LabError::SubnetChanged {
            network: name.clone(),
            found: layout(network).map_or_else(|| "none of its own".to_owned(), |layout| layout.net.to_string()),
            wanted: ground.lab.subnet.map(|subnet| subnet.to_string()).unwrap_or_default(),
            container: container.to_owned(),
        };
        if let Some(other) = listed.iter().filter(is_on_it).find(|item| !ours.contains(item.id.as_str())) {
            return Err(changed(other.names.first().map_or("", |name| name.trim_start_matches('/'))));
        }
        let running: Vec<&Listed> = listed.iter().filter(is_on_it).collect();
        let stopped = self.stop_all(running.iter().map(|item| item.id.as_str())).await?;
        if !self.remove_network(&ground.lab.name).await? {
            return Err(changed("that somebody just started"));
        }
        Ok(stopped)
    }

    /// Stops containers that hold what another one gets: addresses may be changed round about.
    async fn free_addresses(
        &self,
        roll: &Roll,
        addresses: &Addresses,
        work: &[Work<'_, '_>],
    ) -> Result<BTreeSet<String>, LabError> {
        let gets = |address: Ipv4Addr, but: &HostName| {
            work.iter().any(|(_, sight)| sight.host != *but && addresses.get(&sight.host) == Some(&address))
        };
        let holders =
            work.iter().filter(|(_, sight)| roll.held(&sight.host).is_some_and(|held| gets(held, &sight.host)));
        self.stop_all(holders.filter_map(|(_, sight)| sight.id.as_deref())).await
    }

    /// Stops containers and tells which of them ran.
    async fn stop_all<'c>(&self, ids: impl Iterator<Item = &'c str>) -> Result<BTreeSet<String>, LabError> {
        let ids: Vec<String> = ids.map(str::to_owned).collect();
        let stopped: Vec<Option<String>> = stream::iter(ids)
            .map(|id| async move {
                let ran = self.inspected(&id).await?.is_some_and(|found| found.state.running);
                self.stop_container(&id, &id).await?;
                Ok::<_, LabError>(ran.then_some(id))
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        Ok(stopped.into_iter().flatten().collect())
    }
}

/// Decides the addresses, and sees to it that every host that is worked on can have its own.
fn check(roll: &Roll, layout: &Layout, inventory: &Inventory, work: &[Work<'_, '_>]) -> Result<Addresses, LabError> {
    let lab = &inventory.lab.name;
    let decided = roll.decide(layout);
    let moves = |host: &HostName| {
        let new = |(_, sight): &&Work<'_, '_>| sight.host == *host && matches!(sight.state, State::Different { .. });
        work.iter().find(new).is_some_and(|_| decided.get(host).copied() != roll.held(host))
    };
    for (wanted, sight) in work {
        let Some(endpoint) = lab_endpoint(&wanted.subject, &wanted.body) else { continue };
        // Who asks for another kind of address only, by `container.api`, is the engine's to judge.
        if endpoint.ipam_config.is_some() && asked(endpoint).is_none() {
            continue;
        }
        let (host, network) = (sight.host.clone(), names::network(lab));
        match roll.misfit(&sight.host, &decided, layout, lab, moves) {
            None => {}
            Some(Misfit::Full) => return Err(LabError::SubnetFull { host, network, subnet: layout.net.to_string() }),
            Some(Misfit::Outside(address)) => {
                let (address, subnet) = (address.to_string(), Some(layout.net.to_string()));
                return Err(LabError::AddressOutside { host, address, network, subnet });
            }
            Some(Misfit::Held(address, holder)) => {
                return Err(LabError::AddressInUse {
                    host,
                    address: address.to_string(),
                    network,
                    holder: Some(holder),
                });
            }
        }
    }
    Ok(decided)
}

/// The layout of a network that is there.
fn layout(network: &LabNetwork) -> Option<&Layout> {
    match network {
        LabNetwork::Missing => None,
        LabNetwork::Loose { layout, .. } => layout.as_ref(),
        LabNetwork::Laid { layout, .. } => Some(layout),
    }
}
