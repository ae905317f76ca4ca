//! The sections of a volumedriver's configuration, and the members that have no default.

use serde_json::{Map, Value};

use super::members;
use crate::{arakoon::Cluster, config_url::ConfigUrl, log};

/// Members without default, `section.member`.
const REQUIRED: [&str; 15] = [
    "filesystem.fs_virtual_disk_format",
    "volume_manager.metadata_path",
    "volume_manager.tlog_path",
    "volume_manager.clean_interval",
    "volume_router.vrouter_id",
    "volume_router_cluster.vrouter_cluster_id",
    "volume_registry.vregistry_arakoon_cluster_id",
    "volume_registry.vregistry_arakoon_cluster_nodes",
    "scocache.trigger_gap",
    "scocache.backoff_gap",
    "scocache.scocache_mount_points",
    "content_addressed_cache.read_cache_serialization_path",
    "distributed_transaction_log.dtl_path",
    "file_driver.fd_cache_path",
    "file_driver.fd_namespace",
];

/// A configuration that has what it must have.
#[derive(Clone, Debug)]
pub(crate) struct Config(Map<String, Value>);

impl Config {
    pub(crate) fn read(url: &ConfigUrl) -> Result<Self, String> {
        Self::from_sections(url.sections()?)
    }

    fn from_sections(sections: Map<String, Value>) -> Result<Self, String> {
        for (name, section) in &sections {
            if !section.is_object() {
                return Err(format!("section {name} is not a JSON object"));
            }
        }
        for name in members::unknown(&sections) {
            log::warning(&format!("unknown parameter {name} in the configuration: ignored"));
        }
        let config = Self(sections);
        for member in REQUIRED {
            let (section, name) = member.split_once('.').unwrap_or((member, ""));
            if config.get(section, name).is_null() {
                return Err(format!("No value for required parameter {member}"));
            }
        }
        let format = config.text("filesystem", "fs_virtual_disk_format")?;
        match format {
            "raw" if config.text("filesystem", "fs_raw_disk_suffix").unwrap_or("").is_empty() => {
                Err("fs_raw_disk_suffix must not be empty for the raw disk format".to_owned())
            }
            "raw" | "vmdk" => Ok(config),
            other => Err(format!("fs_virtual_disk_format {other} is neither raw nor vmdk")),
        }
    }

    /// A member, or null.
    pub(crate) fn get(&self, section: &str, member: &str) -> &Value {
        self.0.get(section).map_or(&Value::Null, |section| &section[member])
    }

    pub(crate) fn text(&self, section: &str, member: &str) -> Result<&str, String> {
        let value = self.get(section, member).as_str();
        value.ok_or_else(|| format!("{section}.{member} is not a text"))
    }

    /// Numbers may be texts.
    pub(crate) fn number(&self, section: &str, member: &str, default: u64) -> Result<u64, String> {
        match self.get(section, member) {
            Value::Null => Ok(default),
            value => number(value).ok_or_else(|| format!("{section}.{member}: {value} is not a number")),
        }
    }

    /// Sizes are numbers or literals such as `20GiB`.
    pub(crate) fn size(&self, section: &str, member: &str, default: u64) -> Result<u64, String> {
        match self.get(section, member) {
            Value::Null => Ok(default),
            value => size(value).ok_or_else(|| format!("{section}.{member}: {value} is not a size")),
        }
    }

    pub(crate) fn is_on(&self, section: &str, member: &str) -> bool {
        match self.get(section, member) {
            Value::Bool(value) => *value,
            value => number(value).is_some_and(|number| number > 0) || value == "true",
        }
    }

    /// The members of a list.
    pub(crate) fn list(&self, section: &str, member: &str) -> &[Value] {
        self.get(section, member).as_array().map_or(&[], Vec::as_slice)
    }

    pub(crate) fn section(&self, section: &str) -> &Value {
        self.0.get(section).unwrap_or(&Value::Null)
    }

    /// The cluster that two members of a section describe: its id and a list of `{node_id, host, port}`.
    pub(crate) fn cluster(&self, section: &str, id: &str, nodes: &str) -> Result<Cluster, String> {
        let contact = |node: &Value| {
            let node_id = node["node_id"].as_str()?;
            let port = number(&node["port"])?;
            Some(serde_json::json!({"id": node_id, "ips": [node["host"].as_str()?], "port": port}))
        };
        let nodes: Option<Vec<Value>> = self.list(section, nodes).iter().map(contact).collect();
        let cluster = serde_json::json!({"cluster_id": self.text(section, id)?, "nodes": nodes.unwrap_or_default()});
        let cluster = Cluster::from_json(&cluster).filter(|cluster| !cluster.nodes.is_empty());
        cluster.ok_or_else(|| format!("{section}: no arakoon nodes with node_id, host and port"))
    }
}

pub(crate) fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Bytes of `20GiB`, `1GB`, `4096` and the like.
pub(crate) fn size(value: &Value) -> Option<u64> {
    if let Some(number) = value.as_u64() {
        return Some(number);
    }
    let text = value.as_str()?;
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_are_literals() {
        for (text, want) in [("20GiB", Some(20 << 30)), ("1GB", Some(1_000_000_000)), ("7", Some(7)), ("7X", None)] {
            assert_eq!(size(&json!(text)), want, "{text}");
        }
    }

    #[test]
    fn each_required_member_is_missed() {
        let mut whole = Map::new();
        for member in REQUIRED {
            let (section, name) = member.split_once('.').unwrap();
            let section = whole.entry(section).or_insert_with(|| json!({}));
            section[name] = json!("1");
        }
        whole["filesystem"] = json!({"fs_virtual_disk_format": "raw", "fs_raw_disk_suffix": ".raw"});
        Config::from_sections(whole.clone()).unwrap();
        for member in REQUIRED {
            let (section, name) = member.split_once('.').unwrap();
            let mut without = whole.clone();
            without[section].as_object_mut().unwrap().remove(name);
            assert!(Config::from_sections(without).unwrap_err().contains(member));
        }
        whole["filesystem"] = json!({"fs_virtual_disk_format": "raw", "fs_raw_disk_suffix": ""});
        assert!(Config::from_sections(whole).unwrap_err().contains("suffix"));
    }
}
