//! The configuration of ASD, proxy and maintenance. As in the real ones a member that is not known is an error.

use std::path::PathBuf;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{config_url::ConfigUrl, log};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    cert: PathBuf,
    key: PathBuf,
    port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read for its types only; the stand-in does not tune sockets")]
#[expect(clippy::struct_field_names, reason = "the names of the real members")]
struct Keepalive {
    enable_tcp_keepalive: Option<bool>,
    tcp_keepalive_time: Option<u32>,
    tcp_keepalive_intvl: Option<u32>,
    tcp_keepalive_probes: Option<u32>,
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the type of the member")]
fn ten() -> Option<f64> {
    Some(10.0)
}

fn all_but_one_percent() -> u64 {
    99
}

fn yes() -> bool {
    true
}

/// `/ovs/alba/asds/<asd_id>/config`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "some members are read for their types only")]
pub(crate) struct AsdSettings {
    pub(crate) node_id: String,
    pub(crate) home: PathBuf,
    pub(crate) log_level: String,
    pub(crate) asd_id: Option<String>,
    pub(crate) port: Option<u16>,
    #[serde(default)]
    pub(crate) ips: Vec<String>,
    transport: Option<String>,
    pub(crate) capacity: Option<u64>,
    #[serde(default = "all_but_one_percent")]
    pub(crate) limit: u64,
    #[serde(default = "ten")]
    pub(crate) multicast: Option<f64>,
    pub(crate) tls: Option<Tls>,
    tcp_keepalive: Option<Keepalive>,
    use_fadvise: Option<bool>,
    #[serde(default = "yes")]
    pub(crate) use_fallocate: bool,
    rocksdb_block_cache_size: Option<u64>,
    lwt_unix_pool_size: Option<u32>,
    rora_ips: Option<Vec<String>>,
    rora_port: Option<u16>,
    rora_transport: Option<String>,
    rora_num_cores: Option<u32>,
    rora_queue_depth: Option<u32>,
    #[serde(default = "yes", rename = "__sync_dont_use")]
    pub(crate) sync: bool,
    #[serde(default = "yes", rename = "__warranty_void__write_blobs")]
    pub(crate) write_blobs: bool,
    buffer_size: Option<u64>,
}

/// `.../proxies/<proxy>/config/main`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "some members are read for their types only")]
pub(crate) struct ProxySettings {
    pub(crate) port: u16,
    pub(crate) log_level: String,
    albamgr_cfg_url: Option<String>,
    albamgr_cfg_file: Option<String>,
    #[serde(default)]
    pub(crate) ips: Vec<String>,
    transport: Option<String>,
    fragment_cache: Option<Value>,
    manifest_cache_size: Option<u64>,
    albamgr_connection_pool_size: Option<u32>,
    nsm_host_connection_pool_size: Option<u32>,
    osd_connection_pool_size: Option<u32>,
    osd_timeout: Option<f64>,
    lwt_preemptive_thread_pool_min_size: Option<u32>,
    lwt_preemptive_thread_pool_max_size: Option<u32>,
    max_client_connections: Option<u32>,
    tls_client: Option<Value>,
    tcp_keepalive: Option<Keepalive>,
    use_fadvise: Option<bool>,
    upload_slack: Option<f64>,
    #[serde(default)]
    pub(crate) read_preference: Vec<String>,
    chattiness: Option<Value>,
    fragment_cache_dir: Option<PathBuf>,
    fragment_cache_size: Option<u64>,
}

/// `/ovs/alba/backends/<guid>/maintenance/config`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "some members are read for their types only")]
pub(crate) struct MaintenanceSettings {
    pub(crate) log_level: String,
    pub(crate) albamgr_cfg_url: String,
    fragment_cache: Option<Value>,
    albamgr_connection_pool_size: Option<u32>,
    nsm_host_connection_pool_size: Option<u32>,
    osd_connection_pool_size: Option<u32>,
    osd_timeout: Option<f64>,
    lwt_preemptive_thread_pool_min_size: Option<u32>,
    lwt_preemptive_thread_pool_max_size: Option<u32>,
    tls_client: Option<Value>,
    load: Option<f64>,
    tcp_keepalive: Option<Keepalive>,
    #[serde(rename = "__retry_timeout")]
    retry_timeout: Option<f64>,
    read_preference: Option<Vec<String>>,
}

/// Settings that can be read again while the program runs.
pub(crate) trait Settings: DeserializeOwned {
    fn check(&self) -> Result<(), String>;

    fn read(url: &str) -> Result<Self, String> {
        let text = ConfigUrl::of_arakoon(url)?.read()?;
        let settings: Self = serde_json::from_str(&text).map_err(|error| format!("{url}: {error}"))?;
        settings.check().map_err(|error| format!("{url}: {error}"))?;
        Ok(settings)
    }
}

fn level(text: &str) -> Result<(), String> {
    if log::is_level(text) { Ok(()) } else { Err(format!("log_level `{text}` is unknown")) }
}

fn transport(transport: Option<&str>) -> Result<(), String> {
    match transport {
        None | Some("tcp") => Ok(()),
        Some("rdma") => Err("the stand-in has no rdma".to_owned()),
        Some(other) => Err(format!("transport `{other}` is unknown")),
    }
}

impl Settings for AsdSettings {
    fn check(&self) -> Result<(), String> {
        level(&self.log_level)?;
        transport(self.transport.as_deref())?;
        if self.limit > 100 {
            return Err("limit is a percentage".to_owned());
        }
        match (&self.port, &self.tls) {
            (None, None) => Err("neither a port nor tls is configured".to_owned()),
            (_, Some(tls)) if !tls.cert.is_file() || !tls.key.is_file() => Err("tls: no certificate".to_owned()),
            (None, Some(tls)) => Err(format!("the stand-in speaks no TLS on port {}", tls.port)),
            _ => Ok(()),
        }
    }
}

impl Settings for ProxySettings {
    fn check(&self) -> Result<(), String> {
        level(&self.log_level)?;
        transport(self.transport.as_deref())?;
        self.manager_url()?;
        if self.fragment_cache.is_some() && (self.fragment_cache_dir.is_some() || self.fragment_cache_size.is_some()) {
            return Err("fragment_cache and fragment_cache_dir/_size cannot be combined".to_owned());
        }
        self.fragment_cache.as_ref().map_or(Ok(()), fragment_cache)
    }
}

impl ProxySettings {
    pub(crate) fn manager_url(&self) -> Result<&str, String> {
        match (&self.albamgr_cfg_url, &self.albamgr_cfg_file) {
            (Some(url), None) | (None, Some(url)) => Ok(url),
            _ => Err("exactly one of albamgr_cfg_url and albamgr_cfg_file is needed".to_owned()),
        }
    }
}

impl Settings for MaintenanceSettings {
    fn check(&self) -> Result<(), String> {
        level(&self.log_level)?;
        self.fragment_cache.as_ref().map_or(Ok(()), fragment_cache)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read for its types only; the stand-in caches nothing")]
struct LocalCache {
    path: PathBuf,
    max_size: u64,
    cache_on_read: bool,
    cache_on_write: bool,
    rocksdb_max_open_files: Option<u32>,
}

/// `["none"]`, `["local", {...}]` or `["alba", {...}]`.
fn fragment_cache(value: &Value) -> Result<(), String> {
    let known = match (value[0].as_str(), value.as_array().map(Vec::len)) {
        (Some("none"), Some(1)) => return Ok(()),
        (Some(kind @ ("local" | "alba")), Some(2)) => kind,
        _ => return Err(format!("fragment_cache: {value} is not a fragment cache")),
    };
    if known == "alba" {
        let named = value[1]["albamgr_cfg_url"].is_string() && value[1]["bucket_strategy"].is_array();
        return if named {
            Ok(())
        } else {
            Err("fragment_cache: albamgr_cfg_url or bucket_strategy is missing".to_owned())
        };
    }
    let local: LocalCache =
        serde_json::from_value(value[1].clone()).map_err(|error| format!("fragment_cache: {error}"))?;
    if !local.path.is_absolute() {
        return Err("fragment_cache: path is not absolute".to_owned());
    }
    if !crate::limits::is_writable_directory(&local.path) {
        return Err(format!("fragment_cache: {} is not a directory that I can write", local.path.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(text: &str) -> Result<(), String> {
        let settings: ProxySettings = serde_json::from_str(text).map_err(|error| error.to_string())?;
        settings.check()
    }

    #[test]
    fn unknown_members_and_double_ones_are_errors() {
        let good = r#"{"port":1,"log_level":"info","albamgr_cfg_url":"/a","fragment_cache":["none"]}"#;
        proxy(good).unwrap();
        for (from, to) in [
            (r#""port":1"#, r#""prot":1"#),
            (r#""port":1"#, r#""port":1,"port2":1"#),
            (r#""info""#, r#""loud""#),
            (r#""albamgr_cfg_url":"/a""#, r#""albamgr_cfg_url":"/a","albamgr_cfg_file":"/a""#),
            (r#""albamgr_cfg_url":"/a","#, ""),
            (r#"["none"]"#, r#"["local",{"path":"x","max_size":1,"cache_on_read":true,"cache_on_write":true}]"#),
            (r#"["none"]"#, r#""none""#),
            (r#"["none"]"#, r#"["none"],"fragment_cache_dir":"/x""#),
        ] {
            let bad = good.replace(from, to);
            assert!(bad != good && proxy(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_asd_needs_a_port() {
        let read = |text: &str| serde_json::from_str::<AsdSettings>(text).unwrap().check();
        read(r#"{"node_id":"n","home":"/","log_level":"info","port":8600}"#).unwrap();
        assert!(read(r#"{"node_id":"n","home":"/","log_level":"info"}"#).is_err());
    }
}
