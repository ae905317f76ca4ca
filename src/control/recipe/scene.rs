//! What an evaluation is given, what it may ask of the outside, and what it gives back.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use super::Params;
use crate::{
    control::inventory::{Component, Inventory},
    plan::{Answer, ComponentName, HostName, LaunchDescription, Plan, Question, Secret},
    tree::{Digest, TreeSummary},
};

/// All that evaluation may ask of the outside. The drive room implements it over a live host; a test may answer from
/// recorded facts.
///
/// Every method may block: evaluation runs on a thread of its own. The texts of errors name the thing (lower case);
/// they become the message of a [`super::RecipeError`] that adds the recipe's line.
pub trait Surroundings: Sync {
    /// Asks the host a read-only question and waits for its answer.
    fn ask(&self, question: Question) -> Result<Answer, String>;

    /// Asks another host of the same component. [`Answer::Absent`] for one that does not exist yet, in plan mode.
    fn ask_of(&self, host: &HostName, question: Question) -> Result<Answer, String> {
        let _ = question;
        Err(format!("`{host}` cannot be asked here"))
    }

    /// Scans a source tree for `sync()`. `source` is absolute; `ignore` holds gitignore patterns.
    fn tree(&self, source: &Path, ignore: &[String], xattrs: bool) -> Result<TreeSummary, Refusal>;

    /// Makes a local file that is too large to travel inside a plan available by digest; gives its length in bytes.
    fn blob(&self, file: &Path) -> Result<(Digest, u64), String>;

    /// The secret of this name, generated once per lab and component and kept by the lab's key ring. `of` names another
    /// component of the lab; without it, it is the evaluated one's.
    fn secret(&self, of: Option<&ComponentName>, name: &str) -> Result<Secret<String>, String>;

    /// The `ovs-launch` program as a blob: its digest and its length in bytes.
    fn launcher(&self) -> Result<(Digest, u64), String>;

    /// The etcd link that a service is started with, `etcd://user:password@host:2379/<node>`, where `node` begins
    /// with `/` (see [`LaunchDescription::node`]).
    fn etcd_link(&self, node: &str) -> Result<Secret<String>, String>;
}

/// Why something outside cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Lower case, names the thing.
    pub why: String,
    /// One line that says what to do, when that is known.
    pub hint: Option<String>,
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self { why, hint: None }
    }
}

/// A component in its lab: what stays the same for all of its hosts.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The whole lab.
    pub inventory: &'a Inventory,
    /// The component whose recipe is evaluated; its hosts are `ctx.hosts`.
    pub component: &'a Component,
    /// Its parameters, bound by [`super::Recipe::bind`].
    pub params: &'a Params,
    /// Where hosts find each other: `ctx.host.address`. A host that is not listed has the address `None`.
    pub addresses: &'a BTreeMap<HostName, String>,
    /// The same as numbers: `ctx.host.ip`, for programs that look up no names. A host that is not listed has None.
    pub ips: &'a BTreeMap<HostName, IpAddr>,
    /// Parameters of the lab's components, bound: `ctx.component_params`. One that is not listed has none to show.
    pub components: &'a BTreeMap<ComponentName, Params>,
    /// What the component has in etcd, with the lab's prefix: [`super::Recipe::keyspace`]. Empty while it is being asked
    /// for.
    pub keyspace: &'a Keyspace,
    /// Hosts that are the component's no longer: `ctx.leaving`, in `drain(ctx)`.
    pub leaving: &'a [HostName],
}

/// What of the lab's configuration is a component's, and what its login may touch besides. Keys are whole: they begin
/// with `/`, and one that ends in `/` stands for all keys below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keyspace {
    /// Where the component's own keys lie, each ending in `/`. Launch descriptions lie below the first. Its login reads
    /// all of it.
    pub prefixes: Vec<String>,
    /// What its login may read besides.
    pub reads: Vec<String>,
    /// What its login may read and write.
    pub writes: Vec<String>,
}

impl Keyspace {
    /// The first prefix; empty while there is none.
    pub fn prefix(&self) -> &str {
        self.prefixes.first().map_or("", String::as_str)
    }

    /// Whether a key is the component's own.
    pub fn owns(&self, key: &str) -> bool {
        self.prefixes.iter().any(|prefix| key.len() > prefix.len() && key.starts_with(prefix.as_str()))
    }

    /// Whether the component's login may read a key, or all keys below one that ends in `/`.
    pub fn shows(&self, key: &str) -> bool {
        let covers = |range: &String| if range.ends_with('/') { key.starts_with(range.as_str()) } else { key == range };
        self.prefixes.iter().chain(&self.reads).chain(&self.writes).any(covers)
    }
}

/// What `deploy(ctx)` asked for on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    /// The recorded ops.
    pub plan: Plan,
    /// Launch descriptions that must be in etcd before the plan is applied.
    pub launches: Vec<Launch>,
}

/// A launch description and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The whole key in etcd, `<launch node>/description`.
    pub key: String,
    /// What is stored there, as JSON.
    pub description: LaunchDescription,
}

impl Launch {
    /// The launch node, which is the path of the service's etcd link.
    pub fn node(&self) -> &str {
        self.key.strip_suffix(LaunchDescription::KEY).map_or(self.key.as_str(), |node| node.trim_end_matches('/'))
    }
}

/// A value that `config(ctx)` wants in etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigValue {
    /// The value, byte for byte.
    pub bytes: Vec<u8>,
    /// Whether it was built from a secret; then it is never shown.
    pub secret: bool,
}

impl std::fmt::Debug for ConfigValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.secret { f.write_str("***") } else { f.write_str(&String::from_utf8_lossy(&self.bytes)) }
    }
}

/// Where the lab's configuration store is, as the `store(ctx)` of the component that runs it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSpec {
    /// `host:port` of each member, as the hosts of the lab see it; never empty.
    pub endpoints: Vec<String>,
    /// The login that may do everything.
    pub user: String,
    /// Its password.
    pub password: Secret<String>,
    /// The certificate (PEM) that signed the members' certificates. None: no TLS.
    pub ca: Option<String>,
}
