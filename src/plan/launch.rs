//! What `ovs-launch` reads from etcd: which files to render and which process to run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{HostPath, Mode};

/// How one service is started. Stored as JSON at `<launch node>/description`; written by the near side, read by
/// `ovs-launch`. Unknown members are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchDescription {
    /// Program (absolute path) and arguments.
    pub argv: Vec<String>,
    /// Files that are rendered before the process starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<LaunchFile>,
    /// Environment of the process, besides `PATH`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// User to run as; root when not given. Files belong to this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working directory; `/` when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<HostPath>,
    /// What happens when a rendered file changes.
    #[serde(default)]
    pub on_change: OnChange,
    /// Seconds between the stop signal and SIGKILL.
    #[serde(default = "default_stop_timeout")]
    pub stop_timeout: u64,
    /// Commands (program and arguments) that run to their end before each start, one after another, as root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before_start: Vec<Vec<String>>,
    /// Asks the process to end, before any signal: program and arguments, run as root. None when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop_command: Vec<String>,
}

fn default_stop_timeout() -> u64 {
    10
}

/// A file rendered from keys in etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchFile {
    /// Where it is rendered; the directory is made (0755) when missing.
    pub path: HostPath,
    /// The whole key in etcd whose value is the content, byte for byte. One that ends in `/` is a directory: the
    /// content is then one JSON object, whose members are the keys below it and whose values are theirs.
    pub key: String,
    /// Permission bits; 0600 when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Overrides the description's `on_change` for this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_change: Option<OnChange>,
}

/// What happens to the process when a file changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnChange {
    /// It is stopped and started again.
    #[default]
    Restart,
    /// It gets this signal: `HUP`, `USR1` ...
    Signal(String),
    /// Nothing: it re-reads by itself.
    Ignore,
}

impl LaunchFile {
    /// Whether the content is one JSON object made of the keys below a directory.
    pub fn is_merged(&self) -> bool {
        self.key.ends_with('/')
    }
}

impl LaunchDescription {
    /// Name of the description's key below a launch node.
    pub const KEY: &'static str = "description";

    /// The launch node of a service: the path of its etcd link. `prefix` is the component's prefix, `/`-terminated.
    pub fn node(prefix: &str, host: &super::HostName, service: &str) -> String {
        format!("{prefix}launch/{host}/{service}")
    }
}
