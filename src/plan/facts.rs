//! What a host is, as the helper found it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What a host is. Gathered once by the helper when it starts; sent in its hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Node name of the kernel (`uname -n`).
    pub hostname: String,
    /// The distribution, from `/etc/os-release`.
    pub distribution: Distribution,
    /// Machine type (`uname -m`), such as `x86_64`.
    pub arch: String,
    /// Kernel release (`uname -r`).
    pub kernel: String,
    /// CPUs that this process may use.
    pub cpus: u32,
    /// Main memory in bytes.
    pub memory: u64,
    /// The service manager, by what runs as PID 1.
    pub init: InitSystem,
    /// The package manager found on the path.
    pub packages: PackageManager,
    /// Addresses of all interfaces but loopback, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// The user that the helper runs as.
    pub user: String,
    /// Its numeric id; 0 may do everything.
    pub uid: u32,
    /// Its home directory.
    pub home: String,
    /// The kernel's boot id; changes with every boot.
    pub boot_id: String,
    /// The host's machine id (`/etc/machine-id`), empty when there is none.
    pub machine_id: String,
    /// Whether this is a container (Docker, podman, LXC).
    pub container: bool,
    /// Where the helper keeps its state: scan index, pending reactions, lock.
    pub state_dir: String,
}

/// A distribution, from `os-release(5)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// `ID`, such as `ubuntu` or `debian`.
    pub id: String,
    /// `ID_LIKE` split at blanks.
    pub like: Vec<String>,
    /// `VERSION_ID`, such as `24.04`.
    pub version: String,
    /// `VERSION_CODENAME`, such as `noble`.
    pub codename: String,
}

/// The service manager that runs as PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InitSystem {
    /// `runit`, `runsvdir` or `runit-init`.
    Runit,
    /// `systemd`.
    Systemd,
    /// Anything else: services cannot be managed.
    None,
}

/// The package manager of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageManager {
    /// dpkg and apt.
    Apt,
    /// None that the helper knows.
    None,
}
