//! Where a program's configuration lies: a path, `file://`, or `etcd://host:port/path`.
//!
//! The two families of programs read etcd in their own ways, both in the v2 API and both without a login: arakoon and
//! alba fork `etcdctl`, volumedriver asks by HTTP itself.

use std::{
    fmt,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use serde_json::{Map, Value};

const ARAKOON_ETCD_PORT: u16 = 6379;
const VOLUMEDRIVER_ETCD_PORT: u16 = 2379;
const WAIT: Duration = Duration::from_secs(10);
/// More than any configuration; what is longer is not read to its end.
const MOST_BYTES: u64 = 16 << 20;

/// The argument of `--config`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ConfigUrl {
    File(PathBuf),
    Etcd { peer: String, path: String },
}

impl fmt::Display for ConfigUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(formatter, "{}", path.display()),
            Self::Etcd { peer, path } => write!(formatter, "etcd://{peer}{path}"),
        }
    }
}

impl ConfigUrl {
    /// As arakoon and alba read it: a user in the link is dropped, a missing port becomes 6379.
    pub(crate) fn of_arakoon(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            None => Ok(Self::File(text.into())),
            Some(("file", path)) => Ok(Self::File(path.into())),
            Some(("etcd", rest)) => etcd(rest, ARAKOON_ETCD_PORT),
            Some((scheme, _)) => Err(format!("unsupported scheme {scheme}: in {text}")),
        }
    }

    /// As volumedriver reads it: a file is a bare path only, a missing port becomes 2379.
    pub(crate) fn of_volumedriver(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            None => Ok(Self::File(text.into())),
            Some(("etcd", rest)) => etcd(rest, VOLUMEDRIVER_ETCD_PORT),
            Some(_) => Err(format!("Unsupported config location {text}")),
        }
    }

    /// One text, as arakoon and alba read it.
    pub(crate) fn read(&self) -> Result<String, String> {
        match self {
            Self::File(path) => fs_err::read_to_string(path).map_err(|error| error.to_string()),
            Self::Etcd { peer, path } => {
                let mut text = etcdctl(peer, &["get", "--quorum", path])?;
                if text.ends_with('\n') {
                    text.pop();
                }
                Ok(text)
            }
        }
    }

    /// Replaces the text, as the proxy does with its copy of the ABM's client configuration.
    pub(crate) fn write(&self, text: &str) -> Result<(), String> {
        match self {
            Self::File(path) => {
                let beside = path.with_extension("new");
                fs_err::write(&beside, text).map_err(|error| error.to_string())?;
                fs_err::rename(&beside, path).map_err(|error| error.to_string())
            }
            Self::Etcd { peer, path } => etcdctl(peer, &["set", path, text]).map(|_| ()),
        }
    }

    /// The sections of a volumedriver: members of one document, or the records below an etcd directory.
    pub(crate) fn sections(&self) -> Result<Map<String, Value>, String> {
        match self {
            Self::File(_) => {
                serde_json::from_str(&self.read()?).map_err(|error| format!("{self}: not a JSON object: {error}"))
            }
            Self::Etcd { peer, path } => directory(peer, path),
        }
    }
}

fn etcd(rest: &str, port: u16) -> Result<ConfigUrl, String> {
    let (authority, path) = rest.split_once('/').ok_or_else(|| format!("etcd://{rest} has no path"))?;
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let peer = if place.contains(':') { place.to_owned() } else { format!("{place}:{port}") };
    Ok(ConfigUrl::Etcd { peer, path: format!("/{path}") })
}

fn etcdctl(peer: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("etcdctl").arg(format!("--peers={peer}")).args(arguments).output();
    let output = output.map_err(|error| format!("etcdctl: {error}"))?;
    if output.status.success() {
        return String::from_utf8(output.stdout).map_err(|_| "etcdctl: the value is not UTF-8".to_owned());
    }
    Err(format!("etcdctl {} failed: {}", arguments[0], String::from_utf8_lossy(&output.stderr).trim()))
}

fn directory(peer: &str, path: &str) -> Result<Map<String, Value>, String> {
    let body = http_get(peer, &format!("/v2/keys{}?quorum=true", path.trim_end_matches('/')))?;
    let answer: Value = serde_json::from_str(&body).map_err(|error| format!("etcd at {peer}: {error}"))?;
    if let Some(message) = answer["message"].as_str() {
        return Err(format!("etcd at {peer}: {path}: {message}"));
    }
    let children = answer["node"]["nodes"].as_array().filter(|nodes| !nodes.is_empty());
    let children = children.ok_or_else(|| format!("{path}: no config subsections found"))?;
    let mut sections = Map::new();
    for child in children {
        // The lookup is one level deep: a directory below has no value.
        if let (Some(key), Some(text)) = (child["key"].as_str(), child["value"].as_str()) {
            let section = serde_json::from_str(text).map_err(|error| format!("{key}: {error}"))?;
            sections.insert(key.rsplit('/').next().unwrap_or(key).to_owned(), section);
        }
    }
    Ok(sections)
}

fn http_get(peer: &str, path: &str) -> Result<String, String> {
    let fail = |error: std::io::Error| format!("http://{peer}{path}: {error}");
    let mut stream = TcpStream::connect(peer).map_err(fail)?;
    stream.set_read_timeout(Some(WAIT)).map_err(fail)?;
    // HTTP 1.0: the answer ends with the connection and is never in chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {peer}\r\nAccept: application/json\r\n\r\n").map_err(fail)?;
    let mut text = String::new();
    stream.take(MOST_BYTES).read_to_string(&mut text).map_err(fail)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("http://{peer}{path}: no HTTP answer"))?;
    let status = head.split(' ').nth(1).unwrap_or("");
    match status {
        // Absent keys are told in the body.
        "200" | "404" => Ok(body.to_owned()),
        _ => Err(format!("http://{peer}{path}: HTTP status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use std::{io::BufRead as _, net::TcpListener, thread};

    use super::*;

    #[test]
    fn each_family_has_its_default_port_and_forgets_the_user() {
        let of = |peer: &str| ConfigUrl::Etcd { peer: peer.into(), path: "/ovs/a".into() };
        assert_eq!(ConfigUrl::of_arakoon("etcd://u:p@h/ovs/a").unwrap(), of("h:6379"));
        assert_eq!(ConfigUrl::of_volumedriver("etcd://h/ovs/a").unwrap(), of("h:2379"));
        assert_eq!(ConfigUrl::of_volumedriver("etcd://u:p@h:7/ovs/a").unwrap(), of("h:7"));
        assert_eq!(ConfigUrl::of_arakoon("file:///a/b").unwrap(), ConfigUrl::File("/a/b".into()));
        assert!(ConfigUrl::of_volumedriver("file:///a/b").is_err());
        assert!(ConfigUrl::of_arakoon("arakoon://x").is_err());
    }

    /// Answers one request with this body and gives the first line of the request.
    fn answering(body: &'static str) -> (String, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = listener.local_addr().unwrap().to_string();
        let served = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = std::io::BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            while !lines.next().unwrap().unwrap().is_empty() {}
            write!(stream, "HTTP/1.0 200 OK\r\n\r\n{body}").unwrap();
            first
        });
        (peer, served)
    }

    #[test]
    fn a_directory_of_etcd_is_one_section_a_key() {
        let (peer, served) = answering(
            r#"{"action":"get","node":{"key":"/ovs/c","dir":true,"nodes":[
                {"key":"/ovs/c/filesystem","value":"{\"a\":1}"},{"key":"/ovs/c/fuse","value":"{}"},{"key":"/ovs/c/d","dir":true}]}}"#,
        );
        let sections = ConfigUrl::of_volumedriver(&format!("etcd://{peer}/ovs/c")).unwrap().sections().unwrap();
        assert_eq!(Value::Object(sections), serde_json::json!({"filesystem": {"a": 1}, "fuse": {}}));
        assert_eq!(served.join().unwrap(), "GET /v2/keys/ovs/c?quorum=true HTTP/1.1".replace("1.1", "1.0"));
    }

    #[test]
    fn a_leaf_of_etcd_is_refused() {
        let (peer, served) = answering(r#"{"action":"get","node":{"key":"/ovs/c","value":"{}"}}"#);
        let failure = ConfigUrl::of_volumedriver(&format!("etcd://{peer}/ovs/c")).unwrap().sections().unwrap_err();
        assert!(failure.contains("config subsections"), "{failure}");
        served.join().unwrap();
    }
}
