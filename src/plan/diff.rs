//! Before and after of one op, in the form that people and programs read.

use serde::{Deserialize, Serialize};

use crate::tree::Digest;

/// Before and after of one op. Never empty: no difference is no diff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// What differs, in the order in which it is applied.
    pub changes: Vec<Change>,
}

impl Diff {
    /// A diff of one change.
    pub fn of(change: Change) -> Self {
        Self { changes: vec![change] }
    }
}

/// One thing that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What is created, modified, removed or run.
    pub action: Action,
    /// The thing: a path, `package htop`, `user ovs`, `service etcd`, a command.
    pub target: String,
    /// How it differs; may be empty when action and target say it all.
    pub details: Vec<Detail>,
}

impl Change {
    /// A change without details.
    pub fn new(action: Action, target: impl Into<String>) -> Self {
        Self { action, target: target.into(), details: Vec::new() }
    }

    /// The same change with one more detail.
    #[must_use]
    pub fn with(mut self, detail: Detail) -> Self {
        self.details.push(detail);
        self
    }
}

/// What is done to the thing that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is not there.
    Create,
    /// It is there but other.
    Modify,
    /// It is there and should not be.
    Remove,
    /// A command runs.
    Run,
    /// A service starts.
    Start,
    /// A service stops.
    Stop,
    /// A service restarts because something it depends on changed.
    Restart,
}

/// How one thing differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Detail {
    /// Text content, at most 256 KiB a side; reports show it as a unified diff.
    Text {
        /// Empty when created.
        before: String,
        /// Empty when removed.
        after: String,
    },
    /// Content that is not text or is large: sizes in bytes and BLAKE3 digests.
    Opaque {
        /// None when created.
        before: Option<(u64, Digest)>,
        /// None when removed.
        after: Option<(u64, Digest)>,
    },
    /// Content that is secret differs; nothing of it is shown.
    SecretContent,
    /// A named attribute: `mode`, `owner`, `uid`, `version`, `enabled` ...
    Attribute {
        /// Its name.
        name: String,
        /// None when there was none.
        before: Option<String>,
        /// None when it is taken away.
        after: Option<String>,
    },
    /// Why this is done: `restarted because /opt/agent changed`.
    Reason {
        /// In words.
        text: String,
    },
    /// Counts of a tree sync.
    Tree {
        /// Files, links and directories that are made new.
        created: u64,
        /// Files and links whose content or attributes change.
        modified: u64,
        /// Files, links and directories that go.
        removed: u64,
        /// Bytes of content of new and changed files.
        bytes: u64,
        /// The first paths (at most 200), each prefixed with `+`, `~` or `-`.
        paths: Vec<String>,
    },
}
