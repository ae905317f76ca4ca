//! Where a connection goes, as whom, and which host keys are good.

use std::{path::PathBuf, time::Duration};

use super::private_key::LoadedKey;
use crate::plan::HostPath;

/// Port of SSH (RFC 4253 section 4).
pub const SSH_PORT: u16 = 22;

/// A machine to connect to, with the way to it.
#[derive(Debug, Clone)]
pub struct Target {
    /// What people call it; used in messages only.
    pub name: String,
    /// Name or address to dial. Behind jump hosts the last of them resolves it.
    pub address: String,
    /// TCP port.
    pub port: u16,
    /// User to log in as.
    pub user: String,
    /// Keys to offer, in order. Empty: the agent's, then the usual files in `~/.ssh`.
    pub identities: Vec<Identity>,
    /// Jump hosts, outermost first. Their own `jump` is not looked at.
    pub jump: Vec<Target>,
    /// Which host keys are good.
    pub host_keys: HostKeys,
    /// Whether the helper is started through `sudo -n`.
    pub sudo: bool,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Directory for the helper, tried before the usual places.
    pub helper_dir: Option<HostPath>,
}

impl Target {
    /// A target on port 22 with the usual identities, the user's and the system's known hosts, no jump hosts and
    /// default deadlines.
    pub fn new(name: impl Into<String>, address: impl Into<String>, user: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            address: address.into(),
            port: SSH_PORT,
            user: user.into(),
            identities: Vec::new(),
            jump: Vec::new(),
            host_keys: HostKeys::usual(),
            sudo: false,
            timeouts: Timeouts::default(),
            helper_dir: None,
        }
    }

    /// The key under which the target is listed in `known_hosts` files: `address`, or `[address]:port` for another
    /// port than 22 (sshd(8), `SSH_KNOWN_HOSTS` FILE FORMAT).
    pub fn known_as(&self) -> String {
        super::known_hosts::host_pattern(&self.address, self.port)
    }
}

/// A key to log in with.
#[derive(Debug, Clone)]
pub enum Identity {
    /// A private key file. It is read once per run. When it is encrypted, or only its `.pub` exists, the agent must
    /// hold the key.
    KeyFile(PathBuf),
    /// At most five keys of the agent (`SSH_AUTH_SOCK`).
    Agent,
    /// A key that is in memory already.
    Loaded(LoadedKey),
}

/// Which host keys are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostKeys {
    /// Exactly these public keys (`ssh-ed25519 AAAA...`).
    Pinned(Vec<String>),
    /// Those listed in `known_hosts` files. A file that does not exist counts as empty, an unreadable one is an error.
    KnownHosts {
        /// Looked through in order.
        files: Vec<PathBuf>,
        /// Takes the key of a host that no file knows (never a changed one) and writes it here.
        accept_new_into: Option<PathBuf>,
    },
}

impl HostKeys {
    /// `~/.ssh/known_hosts`, `~/.ssh/known_hosts2` and the system's file, as ssh(1) reads them.
    pub fn usual() -> Self {
        let home = directories::BaseDirs::new().map(|dirs| dirs.home_dir().to_owned());
        let own = home.iter().flat_map(|home| ["known_hosts", "known_hosts2"].map(|file| home.join(".ssh").join(file)));
        let system = ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"].map(PathBuf::from);
        Self::KnownHosts { files: own.chain(system).collect(), accept_new_into: None }
    }
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Each phase of connecting: dial, banner, key exchange, authentication, channel open, helper hello.
    pub phase: Duration,
    /// Tries to connect again for so long when the far side hangs up before its banner (`MaxStartups` of sshd).
    pub busy: Duration,
    /// A keepalive is sent after so much silence; after two unanswered ones the peer is dead.
    pub keepalive: Duration,
    /// Longest standstill while the helper is sent.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            phase: Duration::from_secs(10),
            busy: Duration::from_secs(20),
            keepalive: Duration::from_secs(10),
            stall: Duration::from_secs(30),
        }
    }
}
