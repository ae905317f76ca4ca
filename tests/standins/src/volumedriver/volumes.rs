//! The volumes of all nodes of a vpool: each belongs to the node that made it, and the others reach it there.
//!
//! Who owns what is in the arakoon of the volume registry, `<vrouter_cluster_id>/volumes/<name>`. Only files of the
//! mount's top that have the suffix of raw disks are volumes here; everything else stays with its node.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use fuser::Errno;
use serde_json::{Value, json};

use super::{
    config::Config,
    registry::{self, NodeConfig},
    storage::Storage,
};
use crate::{
    arakoon::Client,
    lines::{self, Answer, locked},
    log,
};

/// How long another node may take to answer.
const WAIT: Duration = Duration::from_secs(5);

/// The files of this node, and the way to those of the others.
pub(crate) struct Volumes {
    pub(crate) storage: Arc<Storage>,
    config: Config,
    arakoon: Client,
    prefix: String,
    own: String,
    nodes: Mutex<Vec<NodeConfig>>,
}

/// Where a volume is.
#[derive(Debug)]
pub(crate) enum Whereabouts {
    Here,
    /// At the node of this name.
    At(String),
    Nowhere,
}

impl Volumes {
    /// Takes up the files of this node; `nodes` begins with it.
    pub(crate) fn open(storage: Storage, config: &Config, nodes: Vec<NodeConfig>) -> Result<Self, String> {
        let cluster =
            config.cluster("volume_registry", "vregistry_arakoon_cluster_id", "vregistry_arakoon_cluster_nodes")?;
        let volumes = Self {
            storage: Arc::new(storage),
            config: config.clone(),
            arakoon: Client::new(cluster),
            prefix: format!("{}/volumes/", config.text("volume_router_cluster", "vrouter_cluster_id")?),
            own: config.text("volume_router", "vrouter_id")?.to_owned(),
            nodes: Mutex::new(nodes),
        };
        volumes.adopt()?;
        Ok(volumes)
    }

    /// What lies here is registered, and what is registered as lying here and does not is forgotten.
    fn adopt(&self) -> Result<(), String> {
        for name in self.storage.volumes().into_iter().filter(|name| !name.contains('/')) {
            if let Err(other) = self.claim(&name)? {
                log::warning(&format!("volume {name} lies here, but {other} has it: only this node sees its own"));
            }
        }
        for (name, owner) in self.registered()? {
            if owner == self.own && !self.path(&name).exists() {
                log::warning(&format!("volume {name} was here and is lost"));
                self.release(&name)?;
            }
        }
        Ok(())
    }

    /// The file of a volume, here.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.storage.root.join(format!("{name}{}", self.storage.suffix))
    }

    /// The volume that a path of the mount would be, wherever it is.
    pub(crate) fn name_of(&self, path: &Path) -> Option<String> {
        let name = path.strip_prefix(&self.storage.root).ok()?.to_str()?.strip_suffix(&self.storage.suffix)?;
        (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Registers a volume as this node's; the inner error names the other one that has it.
    pub(crate) fn claim(&self, name: &str) -> Result<Result<(), String>, String> {
        let request = json!({"op": "test_and_set", "key": self.key(name), "expected": null, "value": self.own});
        let before = self.arakoon.call(&request).map_err(|error| format!("volume registry: {error}"))?;
        match before.as_str() {
            Some(owner) if owner != self.own => Ok(Err(owner.to_owned())),
            _ => Ok(Ok(())),
        }
    }

    /// Registers a volume as this node's that was another's.
    pub(crate) fn hand_over(&self, name: &str, owner: &str) -> Result<(), String> {
        let request = json!({"op": "test_and_set", "key": self.key(name), "expected": owner, "value": self.own});
        let before = self.arakoon.call(&request).map_err(|error| format!("volume registry: {error}"))?;
        if before.as_str() == Some(owner) { Ok(()) } else { Err(format!("volume {name} is no longer {owner}'s")) }
    }

    /// The node that a volume is registered with.
    pub(crate) fn owner(&self, name: &str) -> Result<Option<String>, String> {
        self.arakoon.get(&self.key(name)).map_err(|error| format!("volume registry: {error}"))
    }

    /// The node that has a volume; those below directories are in no registry.
    pub(crate) fn keeper(&self, name: &str) -> Result<String, String> {
        match self.owner(name)? {
            Some(owner) => Ok(owner),
            None if self.path(name).exists() => Ok(self.own.clone()),
            None => Err(format!("no volume {name}")),
        }
    }

    /// Whether this is the node of that name.
    pub(crate) fn is_own(&self, node: &str) -> bool {
        self.own == node
    }

    /// Forgets a volume.
    pub(crate) fn release(&self, name: &str) -> Result<(), String> {
        match self.arakoon.call(&json!({"op": "delete", "key": self.key(name)})) {
            Err(error) if error != "not found" => Err(format!("volume registry: {error}")),
            _ => Ok(()),
        }
    }

    fn registered(&self) -> Result<Vec<(String, String)>, String> {
        let found = self.arakoon.call(&json!({"op": "prefix", "key": self.prefix}));
        let found = found.map_err(|error| format!("volume registry: {error}"))?;
        let pair = |pair: &Value| {
            Some((pair[0].as_str()?.strip_prefix(&self.prefix)?.to_owned(), pair[1].as_str()?.to_owned()))
        };
        Ok(found.as_array().into_iter().flatten().filter_map(pair).collect())
    }

    /// The names of the volumes of other nodes.
    pub(crate) fn elsewhere(&self) -> Result<Vec<String>, String> {
        let others =
            self.registered()?.into_iter().filter(|(name, owner)| *owner != self.own && !self.path(name).exists());
        Ok(others.map(|(name, _)| name).collect())
    }

    /// The names of all volumes.
    pub(crate) fn list(&self) -> Result<Vec<String>, String> {
        let mut names = self.storage.volumes();
        names.extend(self.elsewhere()?);
        names.sort();
        Ok(names)
    }

    pub(crate) fn find(&self, name: &str) -> Result<Whereabouts, String> {
        if self.path(name).exists() {
            return Ok(Whereabouts::Here);
        }
        Ok(match self.owner(name)? {
            Some(owner) if owner != self.own => Whereabouts::At(owner),
            _ => Whereabouts::Nowhere,
        })
    }

    /// Asks the node that has a volume, by its message port.
    pub(crate) fn ask(&self, owner: &str, request: &Value) -> Answer {
        let node = locked(&self.nodes).iter().find(|node| node.vrouter_id == owner).cloned();
        let node = node.ok_or_else(|| format!("node {owner} is not one that I know"))?;
        lines::call(&node.host, node.message_port, request, WAIT)
    }

    /// Asks about a volume of another node, for the mount.
    pub(crate) fn ask_for(&self, name: &str, request: &Value) -> Result<Value, Errno> {
        let broken = |error: String| {
            log::warning(&format!("volume {name}: {error}"));
            Errno::EIO
        };
        match self.find(name).map_err(broken)? {
            Whereabouts::At(owner) => self.ask(&owner, request).map_err(broken),
            Whereabouts::Here | Whereabouts::Nowhere => Err(Errno::ENOENT),
        }
    }

    /// Reads anew which nodes there are: a node that runs does so when it is told to.
    pub(crate) fn refresh(&self) -> Result<(), String> {
        let nodes = registry::nodes(&self.config)?;
        log::info(&format!("the registry has {} nodes", nodes.len()));
        *locked(&self.nodes) = nodes;
        Ok(())
    }

    /// Whether the transaction log of another node takes what this one writes.
    pub(crate) fn look_for_log(&self) {
        if self.config.text("filesystem", "fs_dtl_config_mode") != Ok("Automatic") {
            return;
        }
        let others: Vec<_> = locked(&self.nodes)[1..].to_vec();
        let greets = |node: &&NodeConfig| {
            lines::call(node.failovercache_host(), node.failovercache_port, &json!({"op": "hello"}), WAIT).is_ok()
        };
        match others.iter().find(greets) {
            Some(node) => {
                let (host, port) = (node.failovercache_host(), node.failovercache_port);
                log::info(&format!("DTL: that of {} at {host}:{port}", node.vrouter_id));
            }
            None => log::warning(&format!("DTL: none, {} other nodes are registered", others.len())),
        }
    }

    /// What another node wants to know of a file here, and does to it.
    pub(crate) fn stat(&self, name: &str) -> io::Result<Value> {
        let metadata = self.path(name).symlink_metadata()?;
        Ok(
            json!({"size": metadata.size(), "blocks": metadata.blocks(), "mode": metadata.mode(), "mtime": metadata.mtime()}),
        )
    }
}
