//! How the programs of alba reach each other: the ABM, the NSM hosts and the OSDs.

use std::{io::Read as _, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    arakoon::{Client, Cluster},
    config_url::ConfigUrl,
    lines::{self, Answer},
};

/// How long an OSD has for one call.
const WAIT: Duration = Duration::from_secs(10);

/// An OSD as the ABM knows it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Osd {
    pub(crate) long_id: String,
    pub(crate) node_id: String,
    pub(crate) ips: Vec<String>,
    pub(crate) port: u16,
    pub(crate) claimed: bool,
    /// The OSD itself knows that it is claimed.
    pub(crate) delivered: bool,
    pub(crate) decommissioned: bool,
}

impl Osd {
    pub(crate) fn is_usable(&self) -> bool {
        self.claimed && self.delivered && !self.decommissioned
    }

    /// Asks the OSD at the first of its addresses that answers.
    pub(crate) fn ask(&self, request: &Value) -> Answer {
        let mut answer = Err(format!("Osd {} has no address", self.long_id));
        for ip in &self.ips {
            answer = lines::call(ip, self.port, request, WAIT);
            if answer.is_ok() {
                break;
            }
        }
        answer
    }
}

/// The ABM, reached as a configuration says.
#[derive(Clone, Debug)]
pub(crate) struct Manager {
    pub(crate) client: Client,
}

impl Manager {
    /// Reads the ini of the ABM at this address.
    pub(crate) fn read(url: &str) -> Result<Self, String> {
        let text = ConfigUrl::of_arakoon(url)?.read()?;
        Ok(Self { client: Client::new(Cluster::parse(&text).map_err(|error| format!("{url}: {error}"))?) })
    }

    pub(crate) fn call(&self, op: &str, members: Value) -> Answer {
        let mut request = members;
        request["op"] = json!(format!("abm.{op}"));
        self.client.call(&request)
    }

    pub(crate) fn get(&self, op: &str) -> Answer {
        self.call(op, json!({}))
    }

    pub(crate) fn osds(&self) -> Result<Vec<Osd>, String> {
        serde_json::from_value(self.get("list_osds")?).map_err(|error| error.to_string())
    }

    /// The cluster behind a registered NSM host.
    pub(crate) fn nsm(&self, id: &str) -> Result<Client, String> {
        let hosts = self.get("list_nsm_hosts")?;
        let host = hosts.as_array().into_iter().flatten().find(|host| host["id"] == id);
        let cluster = host.and_then(|host| Cluster::from_json(&host["cluster"]));
        cluster.map(Client::new).ok_or_else(|| format!("Nsm_host_unknown: {id}"))
    }

    /// The NSM client and the preset of a name space.
    pub(crate) fn namespace(&self, name: &str) -> Result<(Client, Value), String> {
        let all = self.get("list_namespaces")?;
        let namespace = all.as_array().into_iter().flatten().find(|namespace| namespace["name"] == name);
        let namespace = namespace.ok_or_else(|| format!("Namespace_does_not_exist: {name}"))?;
        let presets = self.get("list_presets")?;
        let preset = presets.as_array().into_iter().flatten().find(|preset| preset["name"] == namespace["preset_name"]);
        let preset = preset.map(|preset| preset["preset"].clone()).ok_or("Preset_does_not_exist")?;
        Ok((self.nsm(lines::text(namespace, "nsm_host_id")?)?, preset))
    }
}

/// 32 characters that nobody has chosen before.
pub(crate) fn unique_id() -> Result<String, String> {
    let mut bytes = [0; 16];
    fs_err::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| error.to_string())?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}
