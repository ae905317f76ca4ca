//! The cluster registry: which nodes there are, in the arakoon of the volume registry.

use serde::Deserialize;

use super::config::Config;
use crate::arakoon::Client;

/// A node as `ClusterRegistry.set_node_configs` writes it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct NodeConfig {
    pub(crate) vrouter_id: String,
    pub(crate) host: String,
    pub(crate) message_port: u16,
    pub(crate) xmlrpc_port: u16,
    pub(crate) failovercache_port: u16,
    pub(crate) network_server_uri: Option<String>,
    xmlrpc_host: Option<String>,
    failovercache_host: Option<String>,
    #[serde(default)]
    node_distance_map: Option<std::collections::BTreeMap<String, u32>>,
}

impl NodeConfig {
    pub(crate) fn xmlrpc_host(&self) -> &str {
        self.xmlrpc_host.as_deref().unwrap_or(&self.host)
    }

    pub(crate) fn failovercache_host(&self) -> &str {
        self.failovercache_host.as_deref().unwrap_or(&self.host)
    }
}

/// All nodes of the own cluster, and the own one first.
pub(crate) fn nodes(config: &Config) -> Result<Vec<NodeConfig>, String> {
    let cluster =
        config.cluster("volume_registry", "vregistry_arakoon_cluster_id", "vregistry_arakoon_cluster_nodes")?;
    let cluster_id = config.text("volume_router_cluster", "vrouter_cluster_id")?;
    let text = Client::new(cluster).get(&format!("{cluster_id}/cluster_configuration"))?;
    let text = text.ok_or_else(|| format!("cluster not registered: {cluster_id}"))?;
    let mut nodes: Vec<NodeConfig> =
        serde_json::from_str(&text).map_err(|error| format!("registry of {cluster_id}: {error}"))?;
    let me = config.text("volume_router", "vrouter_id")?;
    let own = nodes.iter().position(|node| node.vrouter_id == me);
    let own = own.ok_or_else(|| format!("node {me} is not registered in cluster {cluster_id}"))?;
    nodes.swap(0, own);
    for node in &nodes {
        for other in node.node_distance_map.iter().flatten() {
            if !nodes.iter().any(|node| node.vrouter_id == *other.0) {
                return Err(format!("distance map of {}: node {} is not registered", node.vrouter_id, other.0));
            }
        }
    }
    Ok(nodes)
}
