//! The types of an inventory. They exist only in valid form: names resolve, ranges are expanded, the graph has no cycle.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use indexmap::IndexMap;
use serde::Serialize;

use super::{
    mask::{Masked, ParamValue},
    subnet::Subnet,
};
use crate::plan::{ComponentName, GroupName, HostName, LabName, Source};

/// Variables for recipes; values whose name tells a secret are not printed.
pub type Vars = Masked<serde_json::Map<String, serde_json::Value>>;

/// Everything that one inventory describes.
#[derive(Debug, Clone, Serialize)]
pub struct Inventory {
    /// The file it was read from, absolute.
    pub path: PathBuf,
    /// The lab itself.
    pub lab: Lab,
    /// Hosts, in the order of the file; ranges are expanded in place.
    pub hosts: IndexMap<HostName, Host>,
    /// Groups, in the order of the file.
    pub groups: IndexMap<GroupName, Group>,
    /// Components, in the order of the file. `needs` has no cycle.
    pub components: IndexMap<ComponentName, Component>,
}

/// The lab itself.
#[derive(Debug, Clone, Serialize)]
pub struct Lab {
    /// Its name; also names its network, volumes and labels.
    pub name: LabName,
    /// Directories with recipes, absolute, searched in order. `//lib/x.star` is `lib/x.star` below one of them.
    pub recipes: Vec<PathBuf>,
    /// Where keys, pins and passwords live, absolute; `keys/<lab>` beside the inventory by default.
    pub keys: PathBuf,
    /// The prefix of the lab's configuration in etcd: begins and ends with `/`; `/ovs/` by default.
    pub prefix: String,
    /// The engine that containers run on.
    pub engine: Engine,
    /// The subnet of the lab's network; a free one when not given. It has room for every container of the network.
    pub subnet: Option<Subnet>,
    /// Variables for all recipes (`ctx.vars`), weaker than group and host variables.
    pub vars: Vars,
}

/// A Docker engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// `DOCKER_HOST`, else the local socket.
    Default,
    /// A socket or TCP address: `unix:///path`, `tcp://host:2375`.
    Address(String),
}

/// A machine reached by SSH, container or not.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// Its name.
    pub name: HostName,
    /// Groups that name it.
    pub groups: Vec<GroupName>,
    /// Variables for recipes: lab, then groups in file order, then host, later ones win.
    pub vars: Vars,
    /// How it is reached.
    pub access: Access,
    /// Where the inventory defines it.
    pub source: Source,
}

/// How a host is reached.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// A bare container that we start.
    Container(Box<Container>),
    /// A machine that is there already.
    Ssh(Box<SshAccess>),
}

/// A bare container, `[defaults.container]` already merged in. `{host}` and `{lab}` in texts are replaced.
#[derive(Debug, Clone, Serialize)]
pub struct Container {
    /// Image reference.
    pub image: String,
    /// Process 1 of the image, which says what the container needs beside it.
    pub init: Init,
    /// Whether FUSE file systems are mounted in it: `/dev/fuse` and the capability that mounting takes.
    pub fuse: bool,
    /// Mounts.
    pub volumes: Vec<VolumeMount>,
    /// Published ports besides SSH's own.
    pub ports: Vec<PortMapping>,
    /// Environment.
    pub environment: Masked<BTreeMap<String, String>>,
    /// Host devices, `/dev/x` or `/dev/x:/dev/y:rwm`.
    pub devices: Vec<String>,
    /// Capabilities to add.
    pub cap_add: Vec<String>,
    /// Capabilities to drop.
    pub cap_drop: Vec<String>,
    /// Security options, such as `apparmor=unconfined`.
    pub security_opt: Vec<String>,
    /// All capabilities and devices.
    pub privileged: bool,
    /// Network; the lab's own when not given. `host` and `none` as in Docker.
    pub network: Option<String>,
    /// Address on that network, no other container's; one that follows from the host's name when not given. On the lab's
    /// own network it lies in the lab's subnet.
    pub address: Option<Ipv4Addr>,
    /// More names on the network besides the host's own.
    pub aliases: Vec<String>,
    /// Host name inside; the host's name by default.
    pub hostname: Option<String>,
    /// Restart policy: `no`, `always`, `unless-stopped`, `on-failure[:n]`.
    pub restart: Option<String>,
    /// Memory limit in bytes.
    pub memory: Option<u64>,
    /// CPU limit, such as 1.5.
    pub cpus: Option<f64>,
    /// tmpfs mounts: path to options.
    pub tmpfs: BTreeMap<String, String>,
    /// `name = value` or `name = soft:hard`.
    pub ulimits: BTreeMap<String, String>,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// DNS servers.
    pub dns: Vec<IpAddr>,
    /// More lines for `/etc/hosts`: name to address.
    pub extra_hosts: BTreeMap<String, String>,
    /// Labels besides ours.
    pub labels: BTreeMap<String, String>,
    /// Replaces the image's command; it must start sshd.
    pub command: Option<Vec<String>>,
    /// Loopback port to publish SSH on; a free one when not given.
    pub ssh_port: Option<u16>,
    /// User to log in as; root by default.
    pub user: String,
    /// Docker API create payload, merged last.
    pub api: Masked<serde_json::Value>,
}

/// Process 1 of a container's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// runit, or any other program that needs nothing from the engine.
    Runit,
    /// systemd, which needs control groups of its own and directories in memory.
    Systemd,
}

/// A mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeMount {
    /// What is mounted.
    pub source: VolumeSource,
    /// Absolute path inside.
    pub target: String,
    /// Mount read-only.
    pub read_only: bool,
    /// How mounts below it are passed on between container and machine; the engine's default (`rprivate`) when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation: Option<Propagation>,
}

/// How mounts below a bound directory are passed on (`mount(8)`, shared subtrees).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// Both ways.
    Shared,
    /// Both ways, also for what lies below.
    Rshared,
    /// From the machine to the container.
    Slave,
    /// Likewise, also for what lies below.
    Rslave,
    /// Not at all.
    Private,
    /// Likewise, also for what lies below.
    Rprivate,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeSource {
    /// A named volume of the lab (its engine name is prefixed with the lab's).
    Named(String),
    /// A directory of the engine's machine, absolute.
    Bind(PathBuf),
    /// A volume without name.
    Anonymous,
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct PortMapping {
    /// Address on the engine's machine; 127.0.0.1 by default.
    pub address: IpAddr,
    /// Port there; a free one when not given.
    pub host: Option<u16>,
    /// Port inside.
    pub container: u16,
    /// UDP instead of TCP.
    pub udp: bool,
}

/// How a machine that is there already is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SshAccess {
    /// Name or address; the host's name by default.
    pub address: String,
    /// Port; 22 by default.
    pub port: u16,
    /// User to log in as; root by default.
    pub user: String,
    /// Private key file, absolute. When not given: the agent, then the usual files.
    pub key: Option<PathBuf>,
    /// Whether the helper is started through sudo.
    pub sudo: bool,
    /// Jump hosts, outermost first. A chain has no loop.
    pub jump: Vec<Jump>,
    /// Which host keys are good.
    pub host_key: HostKeyPolicy,
    /// Seconds for each phase of connecting; 10 by default.
    pub timeout: u64,
}

/// One hop of a chain of jump hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Jump {
    /// A host of this inventory or any SSH address, for messages.
    pub name: String,
    /// Name or address.
    pub address: String,
    /// Port.
    pub port: u16,
    /// User.
    pub user: String,
    /// Private key file, absolute.
    pub key: Option<PathBuf>,
    /// Which host keys are good.
    pub host_key: HostKeyPolicy,
}

/// Which host keys are good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostKeyPolicy {
    /// Listed in a `known_hosts` file: the lab's own, then the user's and the system's.
    Strict,
    /// Like `Strict`, and an unknown key (never a changed one) is taken and written to the lab's file.
    AcceptNew,
    /// Exactly this public key (`ssh-ed25519 AAAA...`).
    Pinned(String),
}

/// A set of hosts with variables.
#[derive(Debug, Clone, Serialize)]
pub struct Group {
    /// Its name.
    pub name: GroupName,
    /// Its hosts, globs and nested groups resolved, in inventory order.
    pub hosts: Vec<HostName>,
    /// Its variables.
    pub vars: Vars,
}

/// A recipe with parameters on some hosts.
#[derive(Debug, Clone, Serialize)]
pub struct Component {
    /// Its name; also its etcd user and role.
    pub name: ComponentName,
    /// Which recipe.
    pub recipe: RecipeRef,
    /// Its hosts in inventory order; never empty.
    pub hosts: Vec<HostName>,
    /// Components that must be done before it begins.
    pub needs: Vec<ComponentName>,
    /// At most so many of its hosts at once.
    pub serial: Option<u32>,
    /// What a failure on one host means for the rest.
    pub on_failure: FailurePolicy,
    /// Parameters as written; the recipe checks them.
    pub params: IndexMap<String, ParamValue>,
    /// Where the inventory defines it.
    pub source: Source,
}

/// Which recipe a component uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecipeRef {
    /// `<dir>/<name>/recipe.star` in one of the lab's recipe directories.
    Named(String),
    /// A recipe's own folder (or its `.star` file), absolute.
    Path(PathBuf),
}

/// What a failure on one host means for the rest of the run. Unreachable counts as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailurePolicy {
    /// No further host or component begins.
    StopAll,
    /// The host gets nothing more, other hosts go on; components that need this one do not begin.
    #[default]
    StopHost,
    /// Components that need this one begin all the same.
    Continue,
}

impl Inventory {
    /// The directory of the inventory file; relative paths in it start here.
    pub fn directory(&self) -> &Path {
        self.path.parent().unwrap_or_else(|| Path::new("/"))
    }
}
