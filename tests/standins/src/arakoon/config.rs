//! The ini of a cluster: `[global]` and one section a node, with the members that the real one insists on.

use std::{fmt::Write as _, path::PathBuf};

use serde_json::{Value, json};

use crate::{ini::Ini, log};

/// What clients need of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) id: String,
    pub(crate) nodes: Vec<Contact>,
}

/// Where clients find a node.
#[derive(Clone, Debug)]
pub(crate) struct Contact {
    pub(crate) name: String,
    pub(crate) ips: Vec<String>,
    pub(crate) port: u16,
}

impl Cluster {
    /// The client's part of an ini: other members are not looked at.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let ini = Ini::parse(text)?;
        let global = ini.section("global")?;
        if global.get("tls_version").is_some() {
            return Err("the stand-in speaks no TLS".to_owned());
        }
        let mut nodes = Vec::new();
        for name in global.required_list("cluster")? {
            let node = ini.section(&name)?;
            let port = node.required_port("client_port")?;
            nodes.push(Contact { ips: node.required_list("ip")?, port, name });
        }
        Ok(Self { id: global.required("cluster_id")?.to_owned(), nodes })
    }

    /// The ini for clients only, as the ABM hands it out.
    pub(crate) fn client_ini(&self) -> String {
        let names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        let mut text = format!("[global]\ncluster = {}\ncluster_id = {}\n", names.join(","), self.id);
        text.push_str("enable_tcp_keepalive = true\n");
        for node in &self.nodes {
            let ips = node.ips.join(",");
            // Writing to a text cannot fail.
            write!(text, "\n[{}]\nip = {ips}\nclient_port = {}\n", node.name, node.port).ok();
        }
        text
    }

    pub(crate) fn to_json(&self) -> Value {
        let node = |node: &Contact| json!({"id": node.name, "ips": node.ips, "port": node.port});
        json!({"cluster_id": self.id, "nodes": self.nodes.iter().map(node).collect::<Vec<_>>()})
    }

    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let texts =
            |value: &Value| Some(value.as_array()?.iter().filter_map(|ip| Some(ip.as_str()?.to_owned())).collect());
        let node = |node: &Value| {
            let port = u16::try_from(node["port"].as_u64()?).ok()?;
            Some(Contact { name: node["id"].as_str()?.to_owned(), ips: texts(&node["ips"])?, port })
        };
        let nodes = value["nodes"].as_array()?.iter().map(node).collect::<Option<Vec<_>>>()?;
        Some(Self { id: value["cluster_id"].as_str()?.to_owned(), nodes })
    }
}

/// A node as its cluster's ini describes it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) contact: Contact,
    pub(crate) messaging_port: u16,
    pub(crate) home: PathBuf,
    pub(crate) tlog_dir: PathBuf,
    pub(crate) tlx_dir: PathBuf,
    pub(crate) head_dir: PathBuf,
    pub(crate) log_level: String,
    pub(crate) log_sinks: Vec<String>,
    pub(crate) crash_log: PathBuf,
    pub(crate) fsync: bool,
}

/// The whole of a cluster's ini, from the view of one node.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) id: String,
    pub(crate) members: Vec<Member>,
    /// Position of this node in `members`.
    pub(crate) own: usize,
    pub(crate) plugins: Vec<String>,
    /// Nodes that become master when they can, best first.
    pub(crate) preferred: Vec<String>,
}

const GLOBAL_NUMBERS: [&str; 9] = [
    "lease_period",
    "quorum",
    "tlog_max_entries",
    "tlog_max_size",
    "client_buffer_capacity",
    "lcnum",
    "ncnum",
    "tcp_keepalive_time",
    "tcp_keepalive_probes",
];

impl Config {
    /// Reads the ini for the node of this name, which must be one of `cluster`.
    pub(crate) fn parse(text: &str, node: &str) -> Result<Self, String> {
        let ini = Ini::parse(text)?;
        let global = ini.section("global")?;
        let id = global.required("cluster_id")?.to_owned();
        let names = global.required_list("cluster")?;
        for key in GLOBAL_NUMBERS {
            global.check_number(key)?;
        }
        for key in ["readonly", "enable_tcp_keepalive", "tls_service_validate_peer"] {
            global.boolean(key, false)?;
        }
        if global.boolean("tls_service", false)? || global.get("tls_version").is_some() {
            return Err("the stand-in speaks no TLS".to_owned());
        }
        let members = names.iter().map(|name| member(&ini, name)).collect::<Result<Vec<_>, _>>()?;
        let own = names.iter().position(|name| name == node);
        let own = own.ok_or_else(|| format!("node {node} is not in cluster = {}", names.join(",")))?;
        let mut preferred = global.list("master");
        preferred.extend(global.list("preferred_masters"));
        if let Some(unknown) = preferred.iter().find(|name| !names.contains(name)) {
            return Err(format!("master {unknown} is not in cluster = {}", names.join(",")));
        }
        Ok(Self { id, members, own, plugins: global.list("plugins"), preferred })
    }

    pub(crate) fn me(&self) -> &Member {
        &self.members[self.own]
    }

    /// The smaller, the sooner a node stands for election: preferred ones first, then in the order of `cluster`.
    pub(crate) fn rank(&self, member: usize) -> usize {
        let name = &self.members[member].contact.name;
        let preferred = self.preferred.iter().position(|other| other == name);
        preferred.unwrap_or(self.preferred.len() + member)
    }
}

fn member(ini: &Ini, name: &str) -> Result<Member, String> {
    let node = ini.section(name)?;
    let log_level = node.required("log_level")?.to_owned();
    if !log::is_level(&log_level) {
        return Err(format!("log_level in section [{name}]: `{log_level}` is unknown"));
    }
    let compression = node.get("tlog_compression").unwrap_or("snappy");
    if !["snappy", "bz2", "none"].contains(&compression) {
        return Err(format!("tlog_compression in section [{name}]: `{compression}` is unknown"));
    }
    for key in ["witness", "learner", "laggy"] {
        node.boolean(key, false)?;
    }
    node.check_number("reporting")?;
    let home = PathBuf::from(node.required("home")?);
    let path = |key: &str, default: &PathBuf| node.get(key).map_or_else(|| default.clone(), PathBuf::from);
    let tlog_dir = path("tlog_dir", &home);
    let tlx_dir = path("tlx_dir", &path("tlf_dir", &tlog_dir));
    let log_dir = path("log_dir", &home);
    let mut log_sinks = node.list("log_sinks");
    if log_sinks.is_empty() {
        log_sinks.push(log_dir.join(format!("{name}.log")).display().to_string());
    }
    Ok(Member {
        contact: Contact {
            name: name.to_owned(),
            ips: node.required_list("ip")?,
            port: node.required_port("client_port")?,
        },
        messaging_port: node.required_port("messaging_port")?,
        head_dir: path("head_dir", &tlx_dir),
        // A path, whatever is written there: `console:` becomes a file.
        crash_log: path("crash_log_sinks", &log_dir.join(format!("{name}.crash"))),
        fsync: node.boolean("fsync", true)?,
        tlx_dir,
        tlog_dir,
        home,
        log_level,
        log_sinks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INI: &str = "[global]\ncluster = n1,n2\ncluster_id = ovsdb\n[n1]\nip = 10.0.0.1\nclient_port = 1\n\
        messaging_port = 2\nhome = /db\nlog_level = info\n[n2]\nip = 10.0.0.2\nclient_port = 1\nmessaging_port = 2\n\
        home = /db\nlog_level = info\n";

    #[test]
    fn the_required_members_are_required() {
        let config = Config::parse(INI, "n2").unwrap();
        assert_eq!((config.own, config.me().tlog_dir.to_str()), (1, Some("/db")));
        assert!(Config::parse(INI, "n3").unwrap_err().contains("n3 is not in cluster"));
        for member in ["cluster =", "cluster_id", "ip =", "client_port", "messaging_port", "home", "log_level"] {
            let without: Vec<&str> = INI.lines().filter(|line| !line.starts_with(member)).collect();
            assert!(Config::parse(&without.join("\n"), "n1").is_err(), "{member} may be absent");
        }
        assert!(Config::parse(&INI.replace("log_level = info", "log_level = loud"), "n1").is_err());
    }

    #[test]
    fn the_client_part_survives_being_written_and_read() {
        let cluster = Cluster::parse(INI).unwrap();
        let again = Cluster::parse(&cluster.client_ini()).unwrap();
        assert_eq!(cluster.to_json(), again.to_json());
        assert_eq!(Cluster::from_json(&cluster.to_json()).unwrap().to_json(), cluster.to_json());
        assert!(!cluster.client_ini().contains("home"));
    }
}
