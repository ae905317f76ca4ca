//! Stops, starts and removes containers.

use std::collections::BTreeSet;

use bollard::query_parameters::StartContainerOptions;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{Engine, LabError, engine::CHANGE, names, sight::AT_ONCE};
use crate::plan::{Action, HostName, LabName};

/// A container or volume was stopped, started or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownEvent {
    /// Start, stop or remove.
    pub action: Action,
    /// The container's host; none for a volume or network.
    pub host: Option<HostName>,
    /// What: the name of a container or volume.
    pub name: String,
}

impl Engine {
    /// Removes containers of a lab: those of these hosts, or all that carry its label (also of hosts that the inventory no
    /// longer has). The lab's network goes with the last one. With `volumes`, so do the lab's named volumes: all of them, or
    /// those that the removed containers used and no other container uses. Without, they are kept.
    ///
    /// Only what carries the lab's label is ever touched. Gives what somebody should know: that the network stays, because a
    /// container that is not the lab's is on it.
    pub async fn down(
        &self,
        lab: &LabName,
        hosts: Option<&[HostName]>,
        volumes: bool,
        on_event: impl Fn(DownEvent) + Send + Sync,
    ) -> Result<Option<String>, LabError> {
        let listed = self.listed(lab).await?;
        let doomed: Vec<(String, HostName, String)> = listed
            .into_iter()
            .filter(|(_, (host, _))| hosts.is_none_or(|hosts| hosts.contains(host)))
            .map(|(name, (host, item))| (name, host, item.id))
            .collect();
        let used = if volumes { self.volumes_of(&doomed).await? } else { BTreeSet::new() };
        let mut results = stream::iter(&doomed)
            .map(|(name, host, id)| async move {
                self.stop_container(name, id).await?;
                self.remove_container(id).await?;
                Ok(DownEvent { action: Action::Remove, host: Some(host.clone()), name: name.clone() })
            })
            .buffer_unordered(AT_ONCE);
        // One that cannot be removed does not keep the others.
        let mut failure = None;
        while let Some(result) = results.next().await {
            match result {
                Ok(event) => on_event(event),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        if volumes {
            for name in self.lab_volumes(lab).await?.iter().filter(|name| hosts.is_none() || used.contains(*name)) {
                if self.remove_volume(name).await? {
                    on_event(DownEvent { action: Action::Remove, host: None, name: name.clone() });
                }
            }
        }
        let is_gone = !self.listed(lab).await?.is_empty() || self.remove_network(lab).await?;
        let network = names::network(lab);
        Ok((!is_gone).then(|| format!("network {network} stays: a container that is not the lab's is on it")))
    }

    async fn volumes_of(&self, containers: &[(String, HostName, String)]) -> Result<BTreeSet<String>, LabError> {
        let inspected: Vec<_> =
            stream::iter(containers).map(|(_, _, id)| self.inspected(id)).buffered(AT_ONCE).try_collect().await?;
        let mounts = inspected.into_iter().flatten().flat_map(|found| found.mounts);
        Ok(mounts.filter(|mount| mount.kind == "volume").map(|mount| mount.name).collect())
    }

    /// Stops a host's container; its services get ten seconds to end. One that does not run is no error.
    pub async fn stop(&self, lab: &LabName, host: &HostName) -> Result<(), LabError> {
        let found = self.there(lab, host).await?;
        self.stop_container(&names::container(lab, host), &found).await
    }

    /// Starts a host's container. One that runs is no error.
    pub async fn start(&self, lab: &LabName, host: &HostName) -> Result<(), LabError> {
        let found = self.there(lab, host).await?;
        let action = format!("start container `{}`", names::container(lab, host));
        self.call(&action, CHANGE, self.docker().start_container(&found, None::<StartContainerOptions>)).await
    }

    /// Removes a host's container at once, with its unnamed volumes. Named volumes stay. One that is gone is no error.
    pub async fn remove(&self, lab: &LabName, host: &HostName) -> Result<(), LabError> {
        match self.ours(lab, host).await? {
            Some(found) => self.remove_container(&found.id).await,
            None => Ok(()),
        }
    }

    async fn there(&self, lab: &LabName, host: &HostName) -> Result<String, LabError> {
        let missing = || LabError::NoContainer { host: host.clone(), name: names::container(lab, host) };
        self.ours(lab, host).await?.map(|found| found.id).ok_or_else(missing)
    }
}
