//! Why a run could not begin, and why a host fell out of one.

use std::error::Error;

use super::Clash;
use crate::{
    control::{
        config::ConfigError,
        event::Problem,
        inventory::SelectError,
        lab::LabError,
        link::{KeyError, LinkError, ProgramError},
        recipe::RecipeError,
    },
    plan::{ComponentName, HostName},
};

/// Why a run could not begin. What goes wrong on a host or component later is an event, not an error.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// A recipe cannot be loaded or a parameter does not fit.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The engine or a container.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The lab's keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// A selection names what does not exist.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The configuration store.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A host without container was asked for.
    #[error("the container of host `{0}` does not exist")]
    NoContainer(HostName),
    /// A host could not be reached.
    #[error("host `{host}` cannot be reached")]
    Host {
        /// Which host.
        host: HostName,
        /// Why.
        source: HostError,
    },
    /// A component keeps configuration but nothing it needs is a store.
    #[error("component `{component}` keeps configuration in etcd but needs no component that provides it")]
    NoStore {
        /// Which component.
        component: ComponentName,
        /// A store that the inventory has, if it has one.
        candidate: Option<ComponentName>,
    },
    /// The recipe of a store says nonsense.
    #[error("`{endpoint}`, which store(ctx) of component `{component}` gives, is not `host:port`")]
    BadEndpoint {
        /// Which component.
        component: ComponentName,
        /// What it says.
        endpoint: String,
    },
    /// Two components would share a part of etcd.
    #[error("the keys of components `{one}` and `{other}` lie within each other at `{prefix}`")]
    PrefixesOverlap {
        /// One component.
        one: ComponentName,
        /// The other.
        other: ComponentName,
        /// Where.
        prefix: String,
    },
    /// A push of a component whose recipe syncs nothing.
    #[error("component `{0}` pushes nothing: its recipe calls no `sync`")]
    NothingToPush(ComponentName),
    /// A rollback of a component whose recipe keeps no releases.
    #[error("component `{0}` has nothing to go back to: its recipe calls no `sync` with `release = True`")]
    NoReleases(ComponentName),
    /// Services of one host want the same ports. At least one.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n       "))]
    PortsClash(Vec<Clash>),
    /// The inventory has no component with a configuration store.
    #[error("the inventory has no component that keeps configuration (a recipe with `store(ctx)`)")]
    NoStoreAtAll,
}

/// Why a host fell out of a run.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Connecting, logging in, placing the helper, or sending.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The program to place cannot be had.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The helper or the connection ended.
    #[error("the connection was lost: {why}")]
    Lost {
        /// Why, as far as is known.
        why: String,
    },
    /// The helper did not answer in time.
    #[error("the helper did not answer within {seconds} s")]
    Silent {
        /// The deadline.
        seconds: u64,
    },
    /// The helper said what it may not say.
    #[error("the helper broke the protocol: {0}")]
    Protocol(&'static str),
    /// The container is not there.
    #[error("its container does not exist")]
    NoContainer,
    /// The engine or the keys failed while the way to the host was looked up.
    #[error("the way to it cannot be found")]
    NoWay(#[source] Box<DriveError>),
}

impl DriveError {
    /// What to do, in one line.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Recipe(error) => error.hint(),
            Self::Lab(error) => error.hint(),
            Self::Keys(error) => error.hint(),
            Self::Select(error) => error.hint(),
            Self::Config(error) => error.hint(),
            Self::NoContainer(_) => Some("start it with `ovs-cuisine up INVENTORY`".to_owned()),
            Self::Host { source, .. } => source.hint(),
            Self::NoStore { component, candidate } => Some(match candidate {
                Some(store) => format!("add `needs = [\"{store}\"]` to [component.{component}]"),
                None => "add a component with the recipe `etcd` and name it in `needs`".to_owned(),
            }),
            Self::BadEndpoint { .. } => None,
            Self::PrefixesOverlap { .. } => {
                let hint = "tell them apart by a parameter that names one (`recipe doc`), or by `def prefix(ctx)` in the recipe";
                Some(hint.to_owned())
            }
            Self::NoReleases(_) => Some("push an older state of the source instead".to_owned()),
            Self::NothingToPush(_) => Some("`deploy` brings what is no tree".to_owned()),
            Self::PortsClash(clashes) => clashes.first().map(Clash::hint),
            Self::NoStoreAtAll => Some("add a component with the recipe `etcd`".to_owned()),
        }
    }
}

impl HostError {
    /// What to do, in one line.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Link(error) => error.hint(),
            Self::NoWay(error) => error.hint(),
            Self::NoContainer => Some("start it with `ovs-cuisine up INVENTORY`".to_owned()),
            Self::Lost { .. } | Self::Silent { .. } => {
                Some("run the same command again: what was done stays done".to_owned())
            }
            Self::Protocol(_) | Self::Program(_) => None,
        }
    }
}

/// An error and its causes as one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// An error as people see it.
pub(super) fn problem(error: &dyn Error, hint: Option<String>) -> Problem {
    let mut because = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        because.push(cause.to_string());
        source = cause.source();
    }
    Problem { error: error.to_string(), because, output_tail: Vec::new(), hint }
}
