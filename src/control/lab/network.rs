//! A lab's network and volumes.

use std::collections::{BTreeSet, HashMap};

use bollard::{
    models::{NetworkCreateRequest, VolumeCreateRequest},
    query_parameters::RemoveVolumeOptions,
};

use super::{
    Engine, LabError,
    engine::CHANGE,
    names,
    payload::Subject,
    reader::{Owned, Volumes, each},
};
use crate::{control::inventory::VolumeSource, plan::LabName};

/// Docker's option for a bridge's largest packet in bytes.
const MTU_OPTION: &str = "com.docker.network.driver.mtu";

/// Networks that every engine has.
const BUILT_IN: [&str; 4] = ["bridge", "host", "none", "default"];

impl Engine {
    /// Makes the network and the named volumes that these containers want, as far as they do not exist.
    pub(super) async fn ensure_surroundings(&self, lab: &LabName, subjects: &[Subject<'_>]) -> Result<(), LabError> {
        if subjects.iter().any(Subject::uses_lab_network) {
            self.ensure_network(lab).await?;
        }
        for subject in subjects.iter().filter(|subject| !subject.uses_lab_network()) {
            self.check_network(subject).await?;
        }
        let volumes: BTreeSet<&str> = subjects
            .iter()
            .flat_map(|subject| &subject.container.volumes)
            .filter_map(|mount| match &mount.source {
                VolumeSource::Named(name) => Some(name.as_str()),
                VolumeSource::Bind(_) | VolumeSource::Anonymous => None,
            })
            .collect();
        for name in volumes {
            self.ensure_volume(lab, name).await?;
        }
        Ok(())
    }

    async fn ensure_network(&self, lab: &LabName) -> Result<(), LabError> {
        let name = names::network(lab);
        if BUILT_IN.contains(&name.as_str()) {
            return Err(LabError::ForeignNetwork { name });
        }
        match self.network(&name).await? {
            Some(found) if found.labels.get(names::LAB) == Some(&name) => return Ok(()),
            Some(_) => return Err(LabError::ForeignNetwork { name }),
            None => {}
        }
        let request = NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".to_owned()),
            labels: Some(labels(lab)),
            options: self.default_mtu().await.map(|mtu| HashMap::from([(MTU_OPTION.to_owned(), mtu)])),
            ..NetworkCreateRequest::default()
        };
        let action = format!("create network `{name}`");
        match self.call(&action, CHANGE, self.docker().create_network(request)).await {
            // Another run of the same lab was quicker.
            Err(error) if error.status() == Some(409) => Ok(()),
            other => other.map(drop),
        }
    }

    /// The largest packet that the engine's default network allows. A new network would ignore the engine's setting, and
    /// packets would get lost where the way out is narrower than 1500 bytes.
    async fn default_mtu(&self) -> Option<String> {
        let default = self.network("bridge").await.ok().flatten()?;
        default.options.get(MTU_OPTION).filter(|mtu| *mtu != "1500").cloned()
    }

    async fn network(&self, name: &str) -> Result<Option<Owned>, LabError> {
        let action = format!("look at network `{name}`");
        let found: Option<Owned> = self.read_if_there(&action, &format!("/networks/{name}")).await?;
        // The engine also finds a network by the beginning of its id.
        Ok(found.filter(|network| network.name == name))
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

    /// Removes the lab's network. One that is not ours, or that something is still attached to, stays.
    pub(super) async fn remove_network(&self, lab: &LabName) -> Result<(), LabError> {
        let name = names::network(lab);
        let ours = self.network(&name).await?.filter(|network| network.labels.get(names::LAB) == Some(&name));
        let Some(network) = ours else { return Ok(()) };
        let action = format!("remove network `{name}`");
        match self.call(&action, CHANGE, self.docker().remove_network(&network.id)).await {
            // 403: it has active endpoints.
            Err(error) if error.is_missing() || error.status() == Some(403) => Ok(()),
            other => other,
        }
    }

    /// Names of the volumes that carry the lab's label.
    pub(super) async fn lab_volumes(&self, lab: &LabName) -> Result<BTreeSet<String>, LabError> {
        let path = format!("/volumes{}", names::label_query(lab));
        let listed: Volumes = self.read("list volumes", &path).await?;
        Ok(each::<Owned>(listed.volumes).into_iter().map(|volume| volume.name).collect())
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

fn labels(lab: &LabName) -> HashMap<String, String> {
    HashMap::from([(names::LAB.to_owned(), lab.to_string())])
}
