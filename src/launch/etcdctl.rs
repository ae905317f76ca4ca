//! The two calls of etcdctl 2.x that arakoon and alba make, for hosts whose etcdctl no longer understands them:
//! `etcdctl --peers=HOST:PORT get --quorum PATH` and `etcdctl --peers=HOST:PORT set PATH VALUE`. Output, errors and
//! exit codes are those of etcdctl 2.3, `etcdctl/ctlv2/command`.

use std::{
    ffi::{OsStr, OsString},
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::timeout;

use super::{failure::Failure, resolve};

/// The name that makes this program etcdctl.
const NAME: &str = "etcdctl";
/// Everything but RFC 3986's unreserved characters and `/`.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
/// One request, all in all. etcdctl's own `--total-timeout` is 5 s.
const LONGEST: Duration = Duration::from_secs(10);
/// The largest answer: a value that etcd takes has 1.5 MiB, and JSON may write a character with six.
const LARGEST_ANSWER: usize = 16 << 20;
/// Exit codes of etcdctl 2.x (`error.go`): a failure of its own, and one that the server told.
const FAILED: u8 = 1;
const SERVER_ERROR: u8 = 4;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    Get { path: String },
    Set { path: String, value: String },
}

/// How a call ended, when not well: what stands on standard error, and the exit code.
struct Ended(String, u8);

/// Whether a program's name asks for this.
pub(super) fn is_meant(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new(NAME))
}

/// Does what the arguments (without the program's name) ask for; gives the exit code.
pub(super) fn run(arguments: &[OsString]) -> Result<u8, Failure> {
    let Some((place, call)) = parse(arguments) else {
        return Ok(run_another(arguments));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Failure::System { what: "start", source })?;
    let result = runtime.block_on(async {
        let late = || unreachable(&place, "no answer in time");
        timeout(LONGEST, perform(&place, &call)).await.unwrap_or_else(|_| Err(late()))
    });
    Ok(match result {
        Ok(value) => {
            let printed = writeln!(std::io::stdout().lock(), "{value}");
            if printed.is_ok() { 0 } else { FAILED }
        }
        Err(Ended(text, code)) => {
            complain(&text);
            code
        }
    })
}

fn complain(text: &str) {
    // Whoever closed standard error does not want to know.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// The place and the call, when the arguments are exactly one of the two.
fn parse(arguments: &[OsString]) -> Option<((String, u16), Call)> {
    let words: Vec<&str> = arguments.iter().map(|word| word.to_str()).collect::<Option<_>>()?;
    let path = |text: &str| format!("/{}", text.trim_start_matches('/'));
    let (peers, call) = match words.as_slice() {
        [peers, "get", "--quorum", key] => (peers, Call::Get { path: path(key) }),
        [peers, "set", key, value] => (peers, Call::Set { path: path(key), value: (*value).to_owned() }),
        _ => return None,
    };
    let place = peers.strip_prefix("--peers=")?;
    let place = place.strip_prefix("http://").unwrap_or(place).trim_end_matches('/');
    let (host, port) = place.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host.contains([',', '/', '@']) {
        return None;
    }
    Some(((host.to_owned(), port.parse().ok()?), call))
}

async fn perform((host, port): &(String, u16), call: &Call) -> Result<String, Ended> {
    let place = (host.clone(), *port);
    let away = |error: &dyn std::fmt::Display| unreachable(&place, &error.to_string());
    let stream = resolve::dial(host, *port).await.map_err(|error| away(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| away(&error))?;
    tokio::spawn(connection);
    let answer = sender.send_request(request(&place, call)).await.map_err(|error| away(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await.map_err(|error| away(&error))?;
    read(status, &body.to_bytes())
}

fn request((host, port): &(String, u16), call: &Call) -> Request<Full<Bytes>> {
    let (method, path, query, body) = match call {
        Call::Get { path } => (Method::GET, path, "?quorum=true", String::new()),
        Call::Set { path, value } => {
            let form = url::form_urlencoded::Serializer::new(String::new()).append_pair("value", value).finish();
            (Method::PUT, path, "", form)
        }
    };
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = method;
    let uri = format!("/v2/keys{}{query}", utf8_percent_encode(path, ESCAPED));
    // Only unreserved characters are left: it is always a path.
    *request.uri_mut() = uri.parse().unwrap_or_default();
    if let Ok(host) = format!("{host}:{port}").parse() {
        request.headers_mut().insert(HOST, host);
    }
    let form = hyper::header::HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers_mut().insert(CONTENT_TYPE, form);
    request
}

#[derive(Deserialize)]
struct Answer {
    node: Node,
}

#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    dir: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Refusal {
    error_code: u16,
    message: String,
    cause: String,
    index: u64,
}

fn read(status: StatusCode, body: &[u8]) -> Result<String, Ended> {
    if status.is_success() {
        return match serde_json::from_slice::<Answer>(body) {
            Ok(Answer { node }) if node.dir => Err(Ended(format!("{}: is a directory", node.key), FAILED)),
            Ok(Answer { node }) => Ok(node.value),
            Err(_) => Err(Ended("Error:  the answer is not that of etcd's v2 API".to_owned(), SERVER_ERROR)),
        };
    }
    let Ok(Refusal { error_code, message, cause, index }) = serde_json::from_slice(body) else {
        return Err(Ended(format!("Error:  the server answered with status {}", status.as_u16()), SERVER_ERROR));
    };
    Err(Ended(format!("Error:  {error_code}: {message} ({cause}) [{index}]"), SERVER_ERROR))
}

fn unreachable((host, port): &(String, u16), why: &str) -> Ended {
    let text = "client: etcd cluster is unavailable or misconfigured";
    Ended(format!("Error:  {text}\nerror #0: dial tcp {host}:{port}: {why}"), SERVER_ERROR)
}

/// Becomes the etcdctl that is next on `PATH`. Returns only when there is none.
fn run_another(arguments: &[OsString]) -> u8 {
    if let Some(program) = std::env::var_os("PATH").and_then(|path| another(&path)) {
        let error = Command::new(&program).args(arguments).exec();
        complain(&format!("ovs-launch: cannot run `{}`: {error}", program.display()));
        return 126;
    }
    complain(
        "this is ovs-launch in etcdctl's place: it understands `etcdctl --peers=HOST:PORT get --quorum PATH` and \
         `etcdctl --peers=HOST:PORT set PATH VALUE`; for anything else install etcd-client, no other etcdctl is on PATH",
    );
    FAILED
}

/// The first etcdctl on a search path that is not this program.
fn another(path: &OsStr) -> Option<PathBuf> {
    let own = fs_err::metadata("/proc/self/exe").ok()?;
    let candidates = path.as_bytes().split(|byte| *byte == b':').filter(|part| part.starts_with(b"/"));
    candidates.map(|part| Path::new(OsStr::from_bytes(part)).join(NAME)).find(|program| {
        fs_err::metadata(program).is_ok_and(|found| {
            found.is_file() && found.mode() & 0o111 != 0 && (found.dev(), found.ino()) != (own.dev(), own.ino())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Option<((String, u16), Call)> {
        parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn exactly_two_calls_are_understood() {
        let get = |host: &str| Some(((host.to_owned(), 2379), Call::Get { path: "/ovs/x".to_owned() }));
        assert_eq!(read(&["--peers=127.0.0.1:2379", "get", "--quorum", "ovs/x"]), get("127.0.0.1"));
        assert_eq!(read(&["--peers=http://[::1]:2379/", "get", "--quorum", "/ovs/x"]), get("::1"));
        let set = Call::Set { path: "/a".to_owned(), value: "--v".to_owned() };
        assert_eq!(read(&["--peers=h:1", "set", "/a", "--v"]), Some((("h".to_owned(), 1), set)));
        for words in [
            &[][..],
            &["get", "/a"],
            &["--peers=h:1", "get", "/a"],
            &["--peers=h", "get", "--quorum", "/a"],
            &["--peers=h:x", "get", "--quorum", "/a"],
            &["--peers=h:1,i:1", "get", "--quorum", "/a"],
            &["--peers=h:1", "set", "/a"],
            &["--peers=h:1", "set", "/a", "b", "c"],
            &["--endpoints=h:1", "get", "--quorum", "/a"],
        ] {
            assert_eq!(read(words), None, "{words:?}");
        }
    }

    #[test]
    fn the_name_counts_wherever_it_lies() {
        assert!(is_meant(OsStr::new("etcdctl")) && is_meant(OsStr::new("/usr/local/bin/etcdctl")));
        assert!(!is_meant(OsStr::new("/usr/bin/ovs-launch")) && !is_meant(OsStr::new("/proc/self/exe")));
    }
}
