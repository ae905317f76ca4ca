//! How a lab's containers are, compared with what the inventory wants. Looks only.

use std::collections::BTreeMap;

use bollard::models::ContainerCreateBody;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    Endpoint, Engine, LabError,
    access::AccessKeys,
    ground::Ground,
    names,
    payload::Subject,
    reader::{ImageView, Inspected},
    spec::Spec,
};
use crate::{
    control::{
        inventory::{Access, Inventory},
        link::Keyring,
    },
    plan::{Action, HostName, LabName},
};

/// So many calls to the engine are under way at once.
pub(super) const AT_ONCE: usize = 4;

/// How one host's container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// Which host.
    pub host: HostName,
    /// How its container is.
    pub state: State,
    /// The engine's id of the container; none when missing.
    pub id: Option<String>,
    /// Where its SSH is reached now; none unless it runs.
    pub endpoint: Option<Endpoint>,
}

/// How a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// There is none.
    Missing,
    /// It is as wanted, but does not run.
    Stopped,
    /// It is as wanted and runs.
    Running,
    /// It was created from something else, or is in no state to go on from. It has to be made anew.
    Different {
        /// In words: `image changed`.
        why: String,
    },
}

impl Sight {
    /// What [`Engine::up`] would do, and why. None when nothing.
    pub fn needs(&self) -> Option<(Action, String)> {
        match &self.state {
            State::Missing => Some((Action::Create, "does not exist".to_owned())),
            State::Stopped => Some((Action::Start, "is stopped".to_owned())),
            State::Different { why } => Some((Action::Modify, why.clone())),
            State::Running => None,
        }
    }
}

/// A container as it should be, as far as that can be told without its keys.
pub(super) struct Wanted<'i> {
    pub(super) subject: Subject<'i>,
    pub(super) body: ContainerCreateBody,
    image_id: String,
}

impl Wanted<'_> {
    /// Everything about it. Makes the keys when they do not exist.
    pub(super) fn spec(&self, keyring: &Keyring) -> Result<Spec, LabError> {
        let keys = AccessKeys::of(keyring, self.subject.host)?;
        Spec::new(self.subject, self.body.clone(), &self.image_id, keys)
    }
}

/// How the containers of some hosts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Each host's, in the order in which they were given.
    pub sights: Vec<Sight>,
    /// What somebody should know about the lab's network; none when it is as it should be.
    pub notice: Option<String>,
}

impl Engine {
    pub(super) async fn sights(
        &self,
        wanted: &[Wanted<'_>],
        ground: &Ground<'_>,
        keyring: &Keyring,
    ) -> Result<Vec<Sight>, LabError> {
        stream::iter(wanted).map(|wanted| self.sight(wanted, ground, keyring)).buffered(AT_ONCE).try_collect().await
    }

    async fn sight(&self, wanted: &Wanted<'_>, ground: &Ground<'_>, keyring: &Keyring) -> Result<Sight, LabError> {
        let Subject { lab, host, .. } = wanted.subject;
        let Some(found) = self.ours(lab, host).await? else {
            return Ok(Sight { host: host.clone(), state: State::Missing, id: None, endpoint: None });
        };
        let state = match found.state.status.as_str() {
            // The keys may not be in it yet: its maker was stopped between creating and starting.
            "created" | "initialized" | "configured" => State::Different { why: "was never started".to_owned() },
            "dead" | "removing" => State::Different { why: format!("is {}", found.state.status) },
            _ => {
                match differs(wanted.spec(keyring)?.difference(&found.config.labels), ground.misplaced(wanted, &found))
                {
                    Some(why) => State::Different { why },
                    None if found.state.running && found.state.status != "paused" => State::Running,
                    None => State::Stopped,
                }
            }
        };
        let endpoint = match state {
            State::Running => self.endpoint_of(lab, host, &found).ok(),
            _ => None,
        };
        Ok(Sight { host: host.clone(), state, id: Some(found.id), endpoint })
    }

    /// Turns hosts into payloads and checks everything that can be checked without touching a container.
    pub(super) async fn wanted<'i>(
        &self,
        inventory: &'i Inventory,
        hosts: &[HostName],
    ) -> Result<Vec<Wanted<'i>>, LabError> {
        let apparmor = self.confines(inventory, hosts).await?;
        let mut images: BTreeMap<String, String> = BTreeMap::new();
        let mut wanted = Vec::new();
        for name in hosts {
            let host = inventory.hosts.get(name).ok_or_else(|| LabError::NotAContainer { host: name.clone() })?;
            let Access::Container(container) = &host.access else { continue };
            let subject = Subject { lab: &inventory.lab.name, host: &host.name, container, apparmor };
            let body = subject.payload()?;
            let image = body.image.clone().unwrap_or_default();
            if !images.contains_key(&image) {
                images.insert(image.clone(), self.image_id(&image, name).await?);
            }
            wanted.push(Wanted { subject, image_id: images[&image].clone(), body });
        }
        Ok(wanted)
    }

    async fn image_id(&self, image: &str, host: &HostName) -> Result<String, LabError> {
        let path = format!("/images/{image}/json");
        let found: Option<ImageView> = self.read_if_there(&format!("look at image `{image}`"), &path).await?;
        let missing = || LabError::ImageMissing { host: host.clone(), image: image.to_owned() };
        found.map(|image| image.id).ok_or_else(missing)
    }

    /// The container of a host, if there is one. One of that name that belongs to somebody else is an error.
    pub(super) async fn ours(&self, lab: &LabName, host: &HostName) -> Result<Option<Inspected>, LabError> {
        let name = names::container(lab, host);
        match self.inspected(&name).await? {
            Some(found) if is_ours(&found.config.labels, lab, host) => Ok(Some(found)),
            Some(found) => Err(LabError::ForeignContainer { name, owner: owner(&found.config.labels) }),
            None => Ok(None),
        }
    }

    pub(super) async fn inspected(&self, name: &str) -> Result<Option<Inspected>, LabError> {
        self.read_if_there(&format!("look at container `{name}`"), &format!("/containers/{name}/json")).await
    }
}

/// Both reasons to make a container anew, as one.
fn differs(spec: Option<String>, place: Option<String>) -> Option<String> {
    match (spec, place) {
        (Some(spec), Some(place)) => Some(format!("{place}, {spec}")),
        (spec, place) => spec.or(place),
    }
}

pub(super) fn is_ours(labels: &BTreeMap<String, String>, lab: &LabName, host: &HostName) -> bool {
    labels.get(names::LAB).is_some_and(|found| found == lab.as_str())
        && labels.get(names::HOST).is_some_and(|found| found == host.as_str())
}

fn owner(labels: &BTreeMap<String, String>) -> String {
    match (labels.get(names::LAB), labels.get(names::HOST)) {
        (Some(lab), Some(host)) => format!("is host `{host}` of lab `{lab}`"),
        _ => "was not made by ovs-cuisine".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_needs_one_action() {
        let needs = |state| {
            Sight { host: "a".parse().unwrap(), state, id: None, endpoint: None }.needs().map(|(action, _)| action)
        };
        assert_eq!(needs(State::Missing), Some(Action::Create));
        assert_eq!(needs(State::Stopped), Some(Action::Start));
        assert_eq!(needs(State::Different { why: "image changed".into() }), Some(Action::Modify));
        assert_eq!(needs(State::Running), None);
    }

    #[test]
    fn a_foreign_container_is_named_by_its_owner() {
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let (lab, host) = ("a".parse().unwrap(), "b-c".parse().unwrap());
        assert!(is_ours(&labels(&[(names::LAB, "a"), (names::HOST, "b-c")]), &lab, &host));
        // Lab `a-b` with host `c` has a container of the same name.
        let other = labels(&[(names::LAB, "a-b"), (names::HOST, "c")]);
        assert!(!is_ours(&other, &lab, &host));
        assert_eq!(owner(&other), "is host `c` of lab `a-b`");
        assert_eq!(owner(&labels(&[])), "was not made by ovs-cuisine");
    }
}
