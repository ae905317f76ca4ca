//! From a host of the inventory to something that a link can be made to.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::DriveError;
use crate::{
    control::{
        inventory::{Access, Host, HostKeyPolicy, Inventory, Jump, SshAccess},
        lab::Endpoint,
        link::{HostKeys, Identity, Keyring, Target, Timeouts},
    },
    plan::HostName,
};

/// The key ring of an inventory's lab.
pub fn open_keyring(inventory: &Inventory) -> Result<Arc<Keyring>, DriveError> {
    Ok(Arc::new(Keyring::open(&inventory.lab.keys)?))
}

/// How to reach a host. `endpoint` is where the engine says that a container's sshd is; it is looked up at each
/// connect, never stored.
pub fn target_of(host: &Host, keyring: &Keyring, endpoint: Option<&Endpoint>) -> Result<Target, DriveError> {
    match (&host.access, endpoint) {
        (Access::Ssh(access), _) => Ok(ssh_target(&host.name, access, keyring)),
        (Access::Container(container), Some(endpoint)) => Ok(Target {
            name: host.name.to_string(),
            address: endpoint.address.clone(),
            port: endpoint.port,
            user: container.user.clone(),
            identities: vec![keyring.lab_key()?.identity()],
            jump: Vec::new(),
            host_keys: keyring.pin(&host.name)?,
            sudo: container.user != "root",
            timeouts: Timeouts::default(),
            helper_dir: None,
        }),
        (Access::Container(_), None) => Err(DriveError::NoContainer(host.name.clone())),
    }
}

fn ssh_target(name: &HostName, access: &SshAccess, keyring: &Keyring) -> Target {
    let timeouts = Timeouts { phase: Duration::from_secs(access.timeout), ..Timeouts::default() };
    Target {
        name: name.to_string(),
        address: access.address.clone(),
        port: access.port,
        user: access.user.clone(),
        identities: identities(access.key.as_ref()),
        jump: access.jump.iter().map(|hop| jump_target(hop, keyring, timeouts)).collect(),
        host_keys: host_keys(&access.host_key, keyring),
        sudo: access.sudo,
        timeouts,
        helper_dir: None,
    }
}

fn jump_target(hop: &Jump, keyring: &Keyring, timeouts: Timeouts) -> Target {
    Target {
        name: hop.name.clone(),
        address: hop.address.clone(),
        port: hop.port,
        user: hop.user.clone(),
        identities: identities(hop.key.as_ref()),
        jump: Vec::new(),
        host_keys: host_keys(&hop.host_key, keyring),
        sudo: false,
        timeouts,
        helper_dir: None,
    }
}

/// A named key is the only one offered; without one the link offers the agent's and the usual files.
fn identities(key: Option<&PathBuf>) -> Vec<Identity> {
    key.map(|path| Identity::KeyFile(path.clone())).into_iter().collect()
}

fn host_keys(policy: &HostKeyPolicy, keyring: &Keyring) -> HostKeys {
    let lab_file = keyring.known_hosts();
    match policy {
        HostKeyPolicy::Pinned(line) => HostKeys::Pinned(vec![line.clone()]),
        HostKeyPolicy::Strict => HostKeys::KnownHosts { files: known_hosts_files(lab_file), accept_new_into: None },
        HostKeyPolicy::AcceptNew => {
            HostKeys::KnownHosts { files: known_hosts_files(lab_file.clone()), accept_new_into: Some(lab_file) }
        }
    }
}

/// The lab's own file first, then those that ssh(1) reads.
fn known_hosts_files(lab: PathBuf) -> Vec<PathBuf> {
    let usual = match HostKeys::usual() {
        HostKeys::KnownHosts { files, .. } => files,
        HostKeys::Pinned(_) => Vec::new(),
    };
    std::iter::once(lab).chain(usual).collect()
}
