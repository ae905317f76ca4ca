//! One desired state each: plain data. Only `helper::ops` knows how to reach it.

use serde::{Deserialize, Serialize};

use super::{HostPath, Leftovers, ListenPort, Mode, Principal, Put, Secret, StepId};
use crate::tree::{Digest, TreeSummary};

/// One desired state of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// A regular file with this content.
    FileWrite(FileWrite),
    /// A symbolic link.
    FileLink(FileLink),
    /// No file at this path.
    FileRemove(FileRemove),
    /// A directory.
    DirEnsure(DirEnsure),
    /// No directory at this path.
    DirRemove(DirRemove),
    /// Packages installed or absent.
    PackageEnsure(PackageEnsure),
    /// A user account.
    UserEnsure(UserEnsure),
    /// A group.
    GroupEnsure(GroupEnsure),
    /// A public key that may log in.
    SshAuthorize(SshAuthorize),
    /// A service: its definition, whether it runs, whether it starts at boot.
    ServiceEnsure(ServiceEnsure),
    /// A shell command, guarded.
    Run(Run),
    /// A directory that equals a tree of the near side.
    Sync(Sync),
    /// A TCP port that accepts connections; waits for it.
    WaitPort(WaitPort),
    /// A file or directory copied by hand; no recipe function.
    Put(Put),
    /// What a component no longer has on the host; no recipe function.
    Leftovers(Leftovers),
}

impl Op {
    /// The function's name in recipes.
    pub fn name(&self) -> &'static str {
        match self {
            Self::FileWrite(_) => "file_write",
            Self::FileLink(_) => "file_link",
            Self::FileRemove(_) => "file_remove",
            Self::DirEnsure(_) => "dir_ensure",
            Self::DirRemove(_) => "dir_remove",
            Self::PackageEnsure(_) => "package_ensure",
            Self::UserEnsure(_) => "user_ensure",
            Self::GroupEnsure(_) => "group_ensure",
            Self::SshAuthorize(_) => "ssh_authorize",
            Self::ServiceEnsure(_) => "service_ensure",
            Self::Run(_) => "run",
            Self::Sync(_) => "sync",
            Self::WaitPort(_) => "wait_port",
            Self::Put(_) => "put",
            Self::Leftovers(_) => "leftovers",
        }
    }

    /// The thing that the op is about, for titles and stable keys: a path, a package list, a unit, a command's first
    /// line.
    pub fn subject(&self) -> String {
        match self {
            Self::FileWrite(op) => op.path.to_string(),
            Self::FileLink(op) => op.path.to_string(),
            Self::FileRemove(op) => op.path.to_string(),
            Self::DirEnsure(op) => op.path.to_string(),
            Self::DirRemove(op) => op.path.to_string(),
            Self::PackageEnsure(op) => op.packages.join(" "),
            Self::UserEnsure(op) => op.name.clone(),
            Self::GroupEnsure(op) => op.name.clone(),
            Self::SshAuthorize(op) => op.user.clone(),
            Self::ServiceEnsure(op) => op.name.clone(),
            Self::Run(op) => op.title(),
            Self::Sync(op) => op.dest.to_string(),
            Self::WaitPort(op) => op.port.to_string(),
            Self::Put(op) => op.dest.to_string(),
            Self::Leftovers(op) if op.services.is_empty() => "notes".to_owned(),
            Self::Leftovers(op) => op.services.join(" "),
        }
    }
}

/// Content of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Carried in the plan itself; at most 64 KiB by custom.
    Inline(Vec<u8>),
    /// The same, never shown.
    Secret(Secret<Vec<u8>>),
    /// Asked for by digest when the host does not have it.
    Blob {
        /// BLAKE3 of the content.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
    },
}

/// A regular file with this content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileWrite {
    /// Where.
    pub path: HostPath,
    /// What.
    pub content: Content,
    /// Permission bits; 0644 for a new file and left alone for an old one when not given.
    pub mode: Option<Mode>,
    /// Owner; the helper's user for a new file and left alone for an old one when not given.
    pub owner: Option<Principal>,
    /// Group; likewise.
    pub group: Option<Principal>,
}

/// A symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileLink {
    /// The link.
    pub path: HostPath,
    /// What it points to, as written into the link; may be relative.
    pub target: String,
    /// Replace a regular file that is in the way. A directory is never replaced.
    pub force: bool,
}

/// No file (or link) at this path. A directory there is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRemove {
    /// Where.
    pub path: HostPath,
}

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirEnsure {
    /// Where; missing parents are made with mode 0755.
    pub path: HostPath,
    /// Permission bits; 0755 for a new directory and left alone for an old one when not given.
    pub mode: Option<Mode>,
    /// Owner.
    pub owner: Option<Principal>,
    /// Group.
    pub group: Option<Principal>,
    /// Owner and group also for everything below.
    pub recursive: bool,
}

/// No directory at this path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirRemove {
    /// Where. `/` and other first-level directories are refused.
    pub path: HostPath,
    /// With all that is in it; else a directory that is not empty is an error.
    pub recursive: bool,
}

/// Packages installed or absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageEnsure {
    /// Names, each optionally `name=version`.
    pub packages: Vec<String>,
    /// Wanted state.
    pub state: PackageState,
    /// Refresh the package lists even when nothing seems to need it.
    pub refresh: bool,
}

/// Whether packages should be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackageState {
    /// Installed, in any version unless one was named.
    Present,
    /// Not installed; configuration files may stay.
    Absent,
}

/// A user account. What is not given is left alone on an old account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserEnsure {
    /// Login name.
    pub name: String,
    /// False: the account must not exist.
    pub present: bool,
    /// Numeric id.
    pub uid: Option<u32>,
    /// Primary group.
    pub group: Option<Principal>,
    /// Supplementary groups that the user must be in; others are left alone.
    pub groups: Vec<String>,
    /// Home directory, made when the account is made.
    pub home: Option<HostPath>,
    /// Login shell.
    pub shell: Option<String>,
    /// Full name (GECOS).
    pub comment: Option<String>,
    /// A system account (only matters when it is made).
    pub system: bool,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEnsure {
    /// Its name.
    pub name: String,
    /// False: the group must not exist.
    pub present: bool,
    /// Numeric id.
    pub gid: Option<u32>,
    /// A system group (only matters when it is made).
    pub system: bool,
}

/// A public key in a user's `authorized_keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshAuthorize {
    /// Whose file.
    pub user: String,
    /// One line: optional options, type, base64, comment. Compared by type and base64.
    pub key: String,
    /// False: the key must not be there.
    pub present: bool,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEnsure {
    /// Its name, without `.service`.
    pub name: String,
    /// How it is run. None: the service exists already (from a package).
    pub definition: Option<ServiceDefinition>,
    /// Whether it runs.
    pub running: bool,
    /// Whether it starts at boot.
    pub enabled: bool,
    /// Restarted when any of these steps changed something and it already ran.
    pub restart_on: Vec<StepId>,
    /// Ports that it listens on while it runs. One that another process of the host has is an error.
    pub ports: Vec<ListenPort>,
    /// Services of the host that are about to leave their ports to others: one that still has a port of this one is
    /// stopped for it.
    pub yields: Vec<String>,
}

/// How a service is run; written as a systemd unit or a runit run script.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceDefinition {
    /// Program and arguments, no shell. The program is an absolute path.
    pub argv: Vec<String>,
    /// User that it runs as; root when not given.
    pub user: Option<String>,
    /// Working directory.
    pub directory: Option<HostPath>,
    /// Extra environment, in order.
    pub environment: Vec<(String, String)>,
    /// Limit of open files, soft and hard.
    pub limit_nofile: Option<u64>,
    /// Limit of memory that may be locked.
    pub limit_memlock: Option<MemoryLock>,
    /// Services without which it does not run: it starts after them and, under systemd, stops with them.
    pub binds_to: Vec<String>,
    /// Services that it starts after, if they start at all.
    pub after: Vec<String>,
    /// Seconds that it may take to stop before it is killed; the service manager's own choice when not given.
    pub stop_timeout: Option<u64>,
    /// One line for people.
    pub description: String,
}

/// How much memory a service may lock, soft and hard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryLock {
    /// So many bytes.
    Bytes(u64),
    /// As much as there is.
    Unlimited,
}

/// A shell command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Run by `/bin/sh -c`. Secret when it was built from a secret; then neither it nor its output is shown.
    pub command: Secret<String>,
    /// Whether the command holds a secret.
    pub sensitive: bool,
    /// When it need not run.
    pub guards: Vec<RunGuard>,
    /// Working directory.
    pub directory: Option<HostPath>,
    /// Extra environment.
    pub environment: Vec<(String, Secret<String>)>,
    /// User to run as; the helper's user when not given.
    pub user: Option<String>,
    /// Ends it after so many milliseconds.
    pub timeout_ms: u64,
    /// Exit statuses that count as success.
    pub success: Vec<i32>,
    /// Text for its standard input.
    pub stdin: Option<Secret<String>>,
    /// Whether running it counts as a change (false: a read-only command such as a probe).
    pub changes: bool,
}

impl Run {
    /// The command's first line, at most 60 characters, or `***` when it holds a secret.
    pub fn title(&self) -> String {
        if self.sensitive {
            return "***".to_owned();
        }
        let line = self.command.expose().trim().lines().next().unwrap_or_default();
        if line.chars().count() <= 60 { line.to_owned() } else { line.chars().take(59).chain(['…']).collect() }
    }
}

/// When a command need not run. All must agree that it has to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunGuard {
    /// Not when this path exists.
    Creates(HostPath),
    /// Not when this shell command succeeds. It changes nothing, so check mode runs it too.
    Unless(String),
    /// Only when this shell command succeeds. Likewise.
    OnlyIf(String),
}

/// A directory that equals a tree of the near side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {
    /// The directory on the host; it is made, with parents, when missing.
    pub dest: HostPath,
    /// The tree as the near side scanned it.
    pub tree: TreeSummary,
    /// Owner of everything; the helper's user when not given.
    pub owner: Option<Principal>,
    /// Group of everything.
    pub group: Option<Principal>,
    /// Whether what the tree does not have is deleted.
    pub delete: MaxDelete,
    /// Paths below `dest` (gitignore patterns) that are neither read, sent nor deleted.
    pub ignore: Vec<String>,
    /// Every version of the tree is a directory of its own below `dest`, and one link says which is current.
    pub release: Option<Release>,
}

/// How a tree with releases is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// So many releases stay on the host, the current one and the one before it in any case.
    pub keep: u32,
    /// Makes the release current that was so before, whatever the tree is now.
    pub rollback: bool,
}

/// How much a sync may delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxDelete {
    /// Nothing.
    Never,
    /// At most so many entries; more is an error before any write.
    AtMost(u64),
    /// Whatever the tree does not have.
    Any,
}

/// A TCP port that accepts connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitPort {
    /// Name or address, seen from the host; `127.0.0.1` by default.
    pub address: String,
    /// Its number.
    pub port: u16,
    /// Deadline in milliseconds.
    pub timeout_ms: u64,
}
