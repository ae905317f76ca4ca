//! What can go wrong with etcd, told apart by what a person would do about it.

use super::cause::Cause;
use crate::plan::ComponentName;

/// Why something about etcd failed. No variant holds a password or a value.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No member answered before the deadline. A write that this ended is either wholly there or not at all, unless it was
    /// too large for one request.
    #[error("etcd at {endpoints} does not answer: cannot {what}")]
    Unreachable {
        /// The members tried.
        endpoints: String,
        /// What was tried, in words that follow "cannot".
        what: String,
        /// The last failure.
        #[source]
        source: Cause,
    },
    /// User or password is wrong.
    #[error("etcd at {endpoints} refuses the login of `{user}`")]
    LoginRefused {
        /// The members tried.
        endpoints: String,
        /// Who tried to log in.
        user: String,
    },
    /// Anybody may write: authentication is not enabled, and nothing is written before it is.
    #[error("etcd at {endpoints} has authentication switched off")]
    AuthOff {
        /// The members.
        endpoints: String,
    },
    /// The user that is logged in may not do this.
    #[error("user `{user}` may not {what}")]
    Denied {
        /// Who is logged in.
        user: String,
        /// What was tried.
        what: String,
    },
    /// Another hand changed a key between comparison and write. Nothing was written.
    #[error("key `{key}` was changed by another hand while we were about to write it")]
    Conflict {
        /// The first such key.
        key: String,
    },
    /// Somebody else writes and did not finish in time.
    #[error("the lab's configuration is locked by {owner} for more than {waited} s{}", ends_in(*left))]
    LockHeld {
        /// Who, as they wrote it themselves.
        owner: String,
        /// How long we waited, in seconds.
        waited: u64,
        /// When the lock ends by itself if that run is dead, in seconds from now, as far as is known.
        left: Option<u64>,
    },
    /// Our lock ran out before the write. Nothing of this write happened.
    #[error("the lock on the lab's configuration was lost before the write")]
    LockLost,
    /// A value is larger than etcd takes in one request.
    #[error("the value of key `{key}` has {size} bytes, more than etcd takes (1 MiB)")]
    ValueTooLarge {
        /// Which key.
        key: String,
        /// Its size in bytes.
        size: usize,
    },
    /// A key or prefix cannot be used.
    #[error("key `{key}` of component `{component}` {why}")]
    BadKey {
        /// Whose.
        component: ComponentName,
        /// Which key or prefix.
        key: String,
        /// Why not, in words that follow the key.
        why: &'static str,
    },
    /// A key that nobody may set by hand.
    #[error("`{key}` is not a key of the lab's configuration")]
    BadEdit {
        /// Which key.
        key: String,
    },
    /// A login cannot be used.
    #[error("login `{user}` {why}")]
    BadLogin {
        /// Whose.
        user: String,
        /// Why not, in words that follow the name.
        why: &'static str,
    },
    /// The CA is not a certificate, or names no host that TLS can check.
    #[error("cannot use TLS with etcd at {endpoints}")]
    Tls {
        /// The members.
        endpoints: String,
        /// What is wrong.
        #[source]
        source: Cause,
    },
    /// One of our own records in etcd is not readable: damaged, or written by a later version.
    #[error("cannot read our record `{key}` in etcd")]
    Record {
        /// Which key.
        key: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Nothing that could be gone back to.
    #[error("there is no run or revision `{run}` in the history of the lab's configuration")]
    NoSuchRun {
        /// What was named.
        run: String,
    },
    /// The history does not hold what going back needs.
    #[error("what write {number} of component `{component}` replaced is not kept any more")]
    NotKept {
        /// Whose.
        component: ComponentName,
        /// The number of the first write that would have to be undone.
        number: u64,
    },
    /// A key does not hold what we wrote last. Nothing was rolled back.
    #[error("key `{key}` was changed by another hand since we wrote it last")]
    Changed {
        /// Which key.
        key: String,
    },
    /// Two components wrote one key since.
    #[error("key `{key}` went from one component to another since then")]
    Shared {
        /// Which key.
        key: String,
    },
    /// Going back does not fit into one transaction.
    #[error("{keys} keys are too many to go back in one transaction")]
    TooMuch {
        /// How many.
        keys: usize,
    },
    /// etcd answered with an error.
    #[error("etcd failed to {what}")]
    Etcd {
        /// What was tried.
        what: String,
        /// The answer.
        #[source]
        source: Cause,
    },
}

impl ConfigError {
    /// One line that says what to do, when there is something.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unreachable { .. } => {
                "look whether the etcd component's service runs: `ovs-cuisine logs INVENTORY component:etcd`"
            }
            Self::LoginRefused { .. } => {
                "the password in the lab's key ring is not etcd's; deploy the etcd component again, or set its `password`"
            }
            Self::AuthOff { .. } => "deploy the etcd component first: it switches authentication on",
            Self::Conflict { .. } => "run it again: it starts from what the key holds now",
            Self::LockHeld { .. } => "run it again when the other run has ended; a dead one's lock ends by itself",
            Self::LockLost => "run it again",
            Self::NoSuchRun { .. } => "see what there is: ovs-cuisine config history INVENTORY",
            Self::NotKept { .. } => "go back less far, or deploy an older state of the inventory and its recipes",
            Self::Changed { .. } => "set it to what it was (`config set`), or deploy: recipes decide again",
            Self::Shared { .. } => "go back less far: an owner changed; or deploy an older state of the inventory",
            Self::TooMuch { .. } => "name some components: --only COMPONENTS",
            Self::ValueTooLarge { .. } => "push large content with `sync` and keep only its path in etcd",
            Self::Record { .. } => "remove that key with etcdctl: our keys are adopted again at the next deploy",
            Self::Tls { .. }
            | Self::BadKey { .. }
            | Self::BadEdit { .. }
            | Self::BadLogin { .. }
            | Self::Denied { .. }
            | Self::Etcd { .. } => {
                return None;
            }
        };
        Some(hint.to_owned())
    }

    /// Whether nobody could look: etcd was not reached, or did not let us in.
    pub fn is_of_access(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::LoginRefused { .. } | Self::Tls { .. })
    }

    /// Whether etcd could not be reached at all, as opposed to having answered.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

fn ends_in(left: Option<u64>) -> String {
    left.map_or_else(String::new, |seconds| format!("; the lock ends by itself in {seconds} s"))
}
