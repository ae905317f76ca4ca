//! Reads the engine's JSON answers leniently.
//!
//! bollard decodes states into closed enums and a list as a whole, so one container in a state it does not know (another
//! engine, a newer Docker) would hide all others. What is only looked at is therefore read here, item by item, as text.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use hyperlocal::UnixConnector;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    LabError,
    error::{EngineAnswer, dial_error},
};

/// No answer that we ask for is longer than this; an inspected container has some 10 KiB.
const MAX_ANSWER: usize = 64 << 20;

/// Where the engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Socket {
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

/// A client for GET requests.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    address: String,
    transport: Transport,
}

#[derive(Debug, Clone)]
enum Transport {
    Unix(PathBuf, Client<UnixConnector, Empty<Bytes>>),
    Tcp(String, Client<HttpConnector, Empty<Bytes>>),
}

impl Reader {
    pub(super) fn new(address: &str, socket: &Socket) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        // An idle connection may be closed by the engine just as it is used again; dialling a socket costs nothing.
        builder.pool_max_idle_per_host(0);
        let transport = match socket {
            Socket::Unix(path) => Transport::Unix(path.clone(), builder.build(UnixConnector)),
            Socket::Tcp(host) => Transport::Tcp(host.clone(), builder.build(HttpConnector::new())),
        };
        Self { address: address.to_owned(), transport }
    }

    /// The answer to `GET path`. `action` completes "cannot ..." in errors.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        action: &str,
        path: &str,
        deadline: Duration,
    ) -> Result<T, LabError> {
        tokio::time::timeout(deadline, self.fetch(action, path))
            .await
            .map_err(|_| LabError::Timeout { action: action.to_owned(), seconds: deadline.as_secs() })?
    }

    async fn fetch<T: DeserializeOwned>(&self, action: &str, path: &str) -> Result<T, LabError> {
        let broken = |status: u16, message: String| LabError::Api {
            action: action.to_owned(),
            source: EngineAnswer { status, message },
        };
        let request = match &self.transport {
            Transport::Unix(socket, client) => client.get(hyperlocal::Uri::new(socket, path).into()),
            Transport::Tcp(host, client) => {
                let uri = format!("http://{host}{path}").parse();
                client.get(uri.map_err(|_| LabError::BadAddress { address: self.address.clone() })?)
            }
        };
        let response = request.await.map_err(|error| dial_error(&self.address, Box::new(error)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| broken(0, error.to_string()))?.to_bytes();
        if !status.is_success() {
            return Err(broken(status.as_u16(), refusal(&body)));
        }
        serde_json::from_slice(&body).map_err(|error| broken(0, format!("the answer cannot be understood: {error}")))
    }
}

/// The engine's own words in an error answer: `{"message": "..."}`.
fn refusal(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    serde_json::from_slice::<Refusal>(body)
        .map_or_else(|_| String::from_utf8_lossy(body).trim().to_owned(), |refusal| refusal.message)
}

/// `GET /version`, as far as it is needed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Version {
    #[serde(rename = "Version")]
    pub(super) engine: String,
    #[serde(rename = "ApiVersion")]
    pub(super) api: String,
    pub(super) platform: Named,
    pub(super) components: Vec<Named>,
}

/// Anything with a name.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Named {
    pub(super) name: String,
}

/// `GET /containers/<name>/json`, as far as it is needed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Inspected {
    pub(super) id: String,
    /// The image's id, not its tag.
    pub(super) image: String,
    pub(super) state: StateView,
    pub(super) config: ConfigView,
    pub(super) network_settings: NetworkView,
    pub(super) host_config: HostConfigView,
    pub(super) mounts: Vec<MountView>,
}

/// State of a container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct StateView {
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited`, `dead`, or what another engine says.
    pub(super) status: String,
    pub(super) running: bool,
}

/// Configuration of a container or image.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ConfigView {
    #[serde(deserialize_with = "null_as_default")]
    pub(super) labels: BTreeMap<String, String>,
}

/// Host side of a container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct HostConfigView {
    pub(super) network_mode: String,
}

/// One mount of a container.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct MountView {
    #[serde(rename = "Type")]
    pub(super) kind: String,
    pub(super) name: String,
}

/// Where a container is on the network.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct NetworkView {
    #[serde(deserialize_with = "null_as_default")]
    pub(super) networks: BTreeMap<String, AttachmentView>,
    #[serde(deserialize_with = "null_as_default")]
    pub(super) ports: BTreeMap<String, Option<Vec<BindingView>>>,
}

/// A container's place in one network.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AttachmentView {
    #[serde(rename = "IPAddress")]
    pub(super) ip_address: String,
    #[serde(rename = "GlobalIPv6Address")]
    pub(super) ipv6_address: String,
    /// The network's id; empty before the container's first start.
    #[serde(rename = "NetworkID")]
    pub(super) network_id: String,
    #[serde(rename = "IPAMConfig", deserialize_with = "null_as_default")]
    pub(super) ipam: AskedView,
}

impl AttachmentView {
    /// The address that it has, else the one that it will have when it is started; none when the engine will choose one.
    pub(super) fn address(&self) -> Option<&str> {
        [self.ip_address.as_str(), self.ipam.ipv4_address.as_str()].into_iter().find(|address| !address.is_empty())
    }
}

/// The address that a container asks for in one network.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AskedView {
    #[serde(rename = "IPv4Address")]
    pub(super) ipv4_address: String,
}

/// A published port.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct BindingView {
    pub(super) host_ip: String,
    pub(super) host_port: String,
}

/// One item of `GET /containers/json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Listed {
    pub(super) id: String,
    pub(super) names: Vec<String>,
    pub(super) image: String,
    pub(super) state: String,
    /// In Docker's words: `Up 2 minutes`.
    pub(super) status: String,
    #[serde(deserialize_with = "null_as_default")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_as_default")]
    pub(super) ports: Vec<PortView>,
    pub(super) network_settings: NetworkView,
}

/// A port of a listed container.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PortView {
    #[serde(rename = "PrivatePort")]
    pub(super) private: u16,
    #[serde(rename = "PublicPort")]
    pub(super) public: u16,
    /// Address on the engine's machine.
    #[serde(rename = "IP")]
    pub(super) address: String,
    /// `tcp` or `udp`.
    #[serde(rename = "Type")]
    pub(super) protocol: String,
}

/// `GET /info`, as far as it is needed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Info {
    /// Host name of the engine's machine.
    pub(super) name: String,
    /// `name=seccomp,profile=default`, `name=apparmor` and the like.
    #[serde(deserialize_with = "null_as_default")]
    pub(super) security_options: Vec<String>,
}

/// A network, as far as it is needed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct NetworkFound {
    pub(super) name: String,
    pub(super) id: String,
    /// When it was made, RFC 3339.
    pub(super) created: String,
    #[serde(deserialize_with = "null_as_default")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_as_default")]
    pub(super) options: BTreeMap<String, String>,
    #[serde(rename = "IPAM", deserialize_with = "null_as_default")]
    pub(super) ipam: IpamView,
}

/// The addresses of a network.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct IpamView {
    #[serde(deserialize_with = "null_as_default")]
    pub(super) config: Vec<SubnetView>,
}

/// One subnet of a network.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct SubnetView {
    pub(super) subnet: String,
    pub(super) gateway: String,
    #[serde(rename = "IPRange")]
    pub(super) ip_range: String,
    #[serde(deserialize_with = "null_as_default")]
    pub(super) auxiliary_addresses: BTreeMap<String, String>,
}

/// `GET /volumes`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Volumes {
    #[serde(deserialize_with = "null_as_default")]
    pub(super) volumes: Vec<Value>,
}

/// `GET /images/<name>/json`, as far as it is needed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ImageView {
    pub(super) id: String,
}

/// The items of a list that can be understood; the others do not hide them.
pub(super) fn each<T: DeserializeOwned>(items: Vec<Value>) -> Vec<T> {
    items
        .into_iter()
        .filter_map(|item| {
            serde_json::from_value(item)
                .inspect_err(|error| tracing::warn!(%error, "one item of the engine's list cannot be understood"))
                .ok()
        })
        .collect()
}

/// Docker writes `null` for an empty map or list.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_container_does_not_hide_the_others() {
        // Podman 4 says `initialized` and `configured`, which Docker does not know; the third item is no container.
        let answer = serde_json::json!([
            {"Id": "1", "Names": ["/lab-a"], "State": "running", "Labels": {"x": "y"}, "Ports": [{"PrivatePort": 22}]},
            {"Id": "2", "Names": ["/lab-b"], "State": "initialized", "Labels": null, "Ports": null},
            {"Id": 3},
        ]);
        let Value::Array(items) = answer else { unreachable!() };
        let listed: Vec<Listed> = each(items);
        assert_eq!(listed.iter().map(|item| item.state.as_str()).collect::<Vec<_>>(), ["running", "initialized"]);
        assert_eq!(listed[0].ports[0].private, 22);
    }

    #[test]
    fn the_engines_own_words_are_kept() {
        assert_eq!(refusal(br#"{"message":"No such container: x"}"#), "No such container: x");
        assert_eq!(refusal(b"404 page not found\n"), "404 page not found");
    }
}
