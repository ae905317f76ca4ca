//! A Docker engine that answers and is new enough.

use std::{future::Future, path::PathBuf, time::Duration};

use bollard::{API_DEFAULT_VERSION, Docker};
use serde::de::DeserializeOwned;

use super::{
    LabError,
    error::{api_error, dial_error},
    reader::{Reader, Socket, Version},
};
use crate::control::inventory;

/// Docker 19.03, the first with everything that a create payload of ours may hold.
const MINIMUM_API: (u32, u32) = (1, 40);
const MINIMUM_API_TEXT: &str = "1.40";

const LOCAL_SOCKET: &str = "unix:///var/run/docker.sock";

/// For calls that only look.
pub(super) const QUICK: Duration = Duration::from_secs(10);
/// For calls that make or change one thing. Usually well under a second; some storage drivers copy the whole image for each
/// new container, which takes a busy disk a while.
pub(super) const CHANGE: Duration = Duration::from_secs(120);

/// bollard's own timeout, in seconds: beyond all of ours, which each call sets for itself.
const CLIENT_TIMEOUT: u64 = 24 * 60 * 60;

/// A Docker engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
    reader: Reader,
    address: String,
    place: Place,
    version: String,
    api: String,
}

/// From where an engine's containers are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// This machine's own engine: containers have addresses that we can dial.
    Here,
    /// An engine behind a user namespace or in a virtual machine of this machine: only published ports are reached.
    Loopback,
    /// Another machine: its name or address.
    Elsewhere(String),
}

impl Engine {
    /// Dials an engine, asks for its version and refuses one whose API is too old.
    ///
    /// `timeout` is for both together. Errors tell apart an engine that is not running, a socket that this user may not
    /// use, a refused TCP connection, a mute engine and an old one.
    pub async fn connect(engine: &inventory::Engine, timeout: Duration) -> Result<Self, LabError> {
        let address = match engine {
            inventory::Engine::Address(address) => address.clone(),
            inventory::Engine::Default => std::env::var("DOCKER_HOST")
                .ok()
                .filter(|host| !host.is_empty())
                .unwrap_or_else(|| LOCAL_SOCKET.to_owned()),
        };
        let socket = parse_address(&address)?;
        let reader = Reader::new(&address, &socket);
        let version: Version = reader.get("ask docker for its version", "/version", timeout).await?;
        if parse_api(&version.api).is_none_or(|api| api < MINIMUM_API) {
            let (version, api) = (version.engine, version.api);
            return Err(LabError::TooOld { address, version, api, minimum: MINIMUM_API_TEXT });
        }
        let docker = match &socket {
            Socket::Unix(path) => {
                Docker::connect_with_unix(&path.to_string_lossy(), CLIENT_TIMEOUT, API_DEFAULT_VERSION)
            }
            Socket::Tcp(host) => Docker::connect_with_http(host, CLIENT_TIMEOUT, API_DEFAULT_VERSION),
        }
        .map_err(|error| dial_error(&address, Box::new(error)))?;
        let place = place(&socket, &version);
        Ok(Self { docker, reader, address, place, version: version.engine, api: version.api })
    }

    /// The engine's address: `unix:///path` or `tcp://host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The engine's version: `20.10.24`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its API's version: `1.41`.
    pub fn api_version(&self) -> &str {
        &self.api
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The client, for calls that [`Engine::call`] gives a deadline.
    pub(super) fn docker(&self) -> &Docker {
        &self.docker
    }

    /// One call that changes something. `action` completes "cannot ..." in errors.
    pub(super) async fn call<T>(
        &self,
        action: &str,
        deadline: Duration,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, LabError> {
        tokio::time::timeout(deadline, call)
            .await
            .map_err(|_| LabError::Timeout { action: action.to_owned(), seconds: deadline.as_secs() })?
            .map_err(|error| api_error(action, &self.address, error))
    }

    /// One look at something.
    pub(super) async fn read<T: DeserializeOwned>(&self, action: &str, path: &str) -> Result<T, LabError> {
        self.reader.get(action, path, QUICK).await
    }

    /// One look at something that may not be there.
    pub(super) async fn read_if_there<T: DeserializeOwned>(
        &self,
        action: &str,
        path: &str,
    ) -> Result<Option<T>, LabError> {
        match self.read(action, path).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn parse_address(address: &str) -> Result<Socket, LabError> {
    let bad = || LabError::BadAddress { address: address.to_owned() };
    if let Some(path) = address.strip_prefix("unix://") {
        return if path.starts_with('/') { Ok(Socket::Unix(PathBuf::from(path))) } else { Err(bad()) };
    }
    let host = address.strip_prefix("tcp://").or_else(|| address.strip_prefix("http://")).ok_or_else(bad)?;
    let host = host.trim_end_matches('/');
    let url = url::Url::parse(&format!("http://{host}")).map_err(|_| bad())?;
    let is_plain = url.path() == "/" && url.query().is_none() && url.username().is_empty();
    if !is_plain || url.host_str().is_none() {
        return Err(bad());
    }
    if std::env::var("DOCKER_TLS_VERIFY").is_ok_and(|value| !value.is_empty()) {
        return Err(LabError::TlsUnsupported { address: address.to_owned() });
    }
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok(Socket::Tcp(if has_port { host.to_owned() } else { format!("{host}:2375") }))
}

fn parse_api(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Docker Desktop names itself in the platform, a rootless engine lists `rootlesskit` among its components.
fn place(socket: &Socket, version: &Version) -> Place {
    let apart = version.platform.name.contains("Docker Desktop")
        || version.components.iter().any(|component| component.name == "rootlesskit");
    match socket {
        Socket::Unix(_) if apart => Place::Loopback,
        Socket::Unix(_) => Place::Here,
        Socket::Tcp(host) => {
            let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
            let name = name.trim_start_matches('[').trim_end_matches(']');
            let loopback =
                name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
            if loopback { Place::Loopback } else { Place::Elsewhere(name.to_owned()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_sockets_or_ports() {
        assert_eq!(parse_address("unix:///run/d.sock").unwrap(), Socket::Unix("/run/d.sock".into()));
        assert_eq!(parse_address("tcp://rack1:2375").unwrap(), Socket::Tcp("rack1:2375".into()));
        assert_eq!(parse_address("tcp://rack1").unwrap(), Socket::Tcp("rack1:2375".into()));
        assert_eq!(parse_address("tcp://[::1]:2375/").unwrap(), Socket::Tcp("[::1]:2375".into()));
        for bad in ["", "rack1", "ssh://rack1", "unix://relative", "tcp://", "tcp://a b", "tcp://a/path", "tcp://u@a"] {
            assert!(matches!(parse_address(bad), Err(LabError::BadAddress { .. })), "{bad:?} must be refused");
        }
    }

    #[test]
    fn api_versions_compare_as_numbers() {
        assert!(parse_api("1.9") < parse_api("1.40"));
        assert_eq!(parse_api("1.41"), Some((1, 41)));
        assert_eq!(parse_api("new"), None);
    }

    #[test]
    fn containers_are_reached_where_they_are() {
        let version: Version = serde_json::from_str(r#"{"Components":[{"Name":"Engine"}]}"#).unwrap();
        let rootless: Version = serde_json::from_str(r#"{"Components":[{"Name":"rootlesskit"}]}"#).unwrap();
        let unix = Socket::Unix("/x".into());
        assert_eq!(place(&unix, &version), Place::Here);
        assert_eq!(place(&unix, &rootless), Place::Loopback);
        assert_eq!(place(&Socket::Tcp("127.0.0.1:1".into()), &version), Place::Loopback);
        assert_eq!(place(&Socket::Tcp("[::1]:1".into()), &version), Place::Loopback);
        assert_eq!(place(&Socket::Tcp("rack1:1".into()), &version), Place::Elsewhere("rack1".into()));
    }
}
