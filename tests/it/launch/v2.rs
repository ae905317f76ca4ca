//! `ovs-launch --serve-v2`: etcd's v2 API with the link's login, over the v3 keyspace of a real etcd.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
};

use etcd_client::{Client, Permission};
use serde_json::{Value, json};

use super::{Lab, Launch, launcher};
use crate::config::server::{Etcd, LONG};

/// A forwarder that runs.
pub(super) struct Forwarder {
    pub(super) launch: Launch,
    pub(super) port: u16,
}

impl Forwarder {
    pub(super) fn start(link: &str) -> Self {
        let launch = Launch::with(&["--serve-v2", "127.0.0.1:0", link]);
        let said = launch.expect_said("v2 API is served at 127.0.0.1:");
        let port = said.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        Self { launch, port }
    }

    pub(super) fn ask(&self, method: &str, path: &str, form: &str) -> Answer {
        ask(self.port, method, path, form)
    }
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// In lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn error(&self) -> (u16, u64) {
        (self.status, self.json()["errorCode"].as_u64().unwrap_or_default())
    }
}

/// A request of which the head of the answer has been read.
pub(super) struct Asked {
    reader: BufReader<TcpStream>,
    pub(super) answer: Answer,
}

impl Asked {
    pub(super) fn begin(port: u16, method: &str, path: &str, form: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        // Version 1.0: the answer comes in one piece and ends with the connection.
        let head = format!("{method} {path} HTTP/1.0\r\nHost: h\r\nContent-Length: {}\r\n", form.len());
        let kind = "Content-Type: application/x-www-form-urlencoded\r\n\r\n";
        let _ = stream.write_all(format!("{head}{kind}{form}").as_bytes());
        let mut reader = BufReader::new(stream);
        let mut line = || {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        };
        let first = line();
        let status = first.split(' ').nth(1).unwrap_or_else(|| panic!("{first}")).parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = line();
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        Self { reader, answer: Answer { status, headers, text: String::new() } }
    }

    pub(super) fn end(mut self) -> Answer {
        self.reader.read_to_string(&mut self.answer.text).unwrap();
        self.answer
    }
}

pub(super) fn ask(port: u16, method: &str, path: &str, form: &str) -> Answer {
    Asked::begin(port, method, path, form).end()
}

pub(super) fn root_link(etcd: &Etcd) -> String {
    format!("etcd://root:root-pw@localhost:{}/ovs", etcd.port)
}

/// The user `fw`, who may read and write below `/ovs/fw/`, read one key of another's, and nothing else.
async fn framework(root: &mut Client) {
    root.role_add("fw").await.unwrap();
    root.role_grant_permission("fw", Permission::read_write("/ovs/fw/").with_prefix()).await.unwrap();
    root.role_grant_permission("fw", Permission::read("/ovs/one")).await.unwrap();
    root.user_add("fw", "canary", None).await.unwrap();
    root.user_grant_role("fw", "fw").await.unwrap();
}

fn framework_link(lab: &Lab) -> String {
    lab.link_file(&format!("etcd://fw:canary@localhost:{}/ovs/fw", lab.etcd.port))
}

#[tokio::test]
async fn what_the_login_may_not_is_unauthorized() {
    let mut lab = Lab::new(&[]).await;
    framework(&mut lab.root).await;
    lab.put(&[("/ovs/fw/a/b", "1".into()), ("/ovs/one", "1".into()), ("/ovs/agent/x", "secret".into())]).await;
    let fw = Forwarder::start(&framework_link(&lab));
    // Its own prefix can be listed, although the key of that name and all above it are not its own.
    let listed = fw.ask("GET", "/v2/keys/ovs/fw?recursive=true", "");
    assert_eq!(listed.status, 200, "{listed:?}");
    assert_eq!(listed.json()["node"]["nodes"][0]["nodes"][0]["value"], "1");
    assert_eq!(fw.ask("GET", "/v2/keys/ovs/one", "").json()["node"]["value"], "1");
    for (method, path, form) in [
        ("GET", "/", ""),
        ("GET", "/ovs", ""),
        ("GET", "/ovs/agent/x", ""),
        ("GET", "/ovs/agent", ""),
        ("GET", "/ovs/agent?wait=true&recursive=true", ""),
        ("GET", "/ovs/agent/x?wait=true", ""),
        ("PUT", "/ovs/one", "value=2"),
        ("PUT", "/ovs/agent/x", "value=2"),
        ("PUT", "/ovs/agent/x?prevExist=false", "value=2"),
        ("POST", "/ovs/agent", "value=2"),
        ("DELETE", "/ovs/agent/x", ""),
        ("DELETE", "/ovs?recursive=true", ""),
    ] {
        let answer = fw.ask(method, &format!("/v2/keys{path}"), form);
        assert_eq!(answer.error(), (401, 110), "{method} {path}: {answer:?}");
        assert!(!answer.text.contains("secret"), "{answer:?}");
    }
    for (path, cause) in [("/ovs/fw/x/y", "/ovs/fw/x"), ("/ovs/fw/a/c", "/ovs/fw/a/c")] {
        let answer = fw.ask("GET", &format!("/v2/keys{path}"), "");
        assert_eq!((answer.error(), answer.json()["cause"].as_str()), ((404, 100), Some(cause)));
    }
    assert_eq!(fw.ask("PUT", "/v2/keys/ovs/fw/a/b/c", "value=1").json()["cause"], "/ovs/fw/a/b");
    assert_eq!(fw.ask("PUT", "/v2/keys/ovs/fw/new", "value=1").status, 201);
    assert_eq!(fw.ask("POST", "/v2/keys/ovs/fw/queue", "value=1").status, 201);
    assert_eq!(fw.ask("DELETE", "/v2/keys/ovs/fw?recursive=true", "").status, 200);
    assert_eq!(fw.ask("GET", "/v2/keys/ovs/fw", "").error(), (404, 100));
    drop(fw);
    let wrong = Forwarder::start(&format!("etcd://fw:wrong@localhost:{}/ovs/fw", lab.etcd.port));
    assert_eq!(wrong.ask("GET", "/v2/keys/ovs/fw", "").error(), (401, 110));
}

#[tokio::test]
async fn it_goes_on_when_etcd_comes_back_and_when_tokens_expire() {
    let mut lab = Lab::new(&["--auth-token-ttl", "2"]).await;
    framework(&mut lab.root).await;
    // The first member is not there.
    let link = format!("etcd://fw:canary@localhost:1,localhost:{}/ovs/fw", lab.etcd.port);
    let fw = Forwarder::start(&lab.link_file(&link));
    assert_eq!(fw.ask("GET", "/health", "").json(), json!({"health": "true"}));
    assert_eq!(fw.ask("PUT", "/v2/keys/ovs/fw/a", "value=1").status, 201);
    let waiting = Asked::begin(fw.port, "GET", "/v2/keys/ovs/fw/a?wait=true", "");
    lab.etcd.kill();
    let answer = fw.ask("GET", "/v2/keys/ovs/fw/a", "");
    assert_eq!(answer.error(), (500, 300), "{answer:?}");
    assert!(answer.json()["cause"].as_str().unwrap().contains("does not answer"), "{answer:?}");
    assert_eq!(fw.ask("PUT", "/v2/keys/ovs/fw/a", "value=9").error(), (500, 300));
    assert_eq!(fw.ask("GET", "/health", "").status, 503);
    lab.etcd.restart();
    // Its pause after an error is shorter than what etcd needs to come back, as a rule.
    let deadline = std::time::Instant::now() + LONG;
    while fw.ask("GET", "/v2/keys/ovs/fw/a?quorum=true", "").status != 200 {
        assert!(std::time::Instant::now() < deadline, "etcd is back and the forwarder does not notice");
    }
    // Tokens expire; there is nothing to await but the time.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let late = Asked::begin(fw.port, "GET", "/v2/keys/ovs/fw?wait=true&recursive=true", "");
    assert_eq!(late.answer.status, 200);
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert_eq!(fw.ask("PUT", "/v2/keys/ovs/fw/a", "value=2").status, 200);
    assert_eq!(late.end().json()["node"]["value"], "2");
    let event = waiting.end().json();
    assert_eq!(
        (&event["action"], &event["node"]["value"], &event["prevNode"]["value"]),
        (&json!("set"), &json!("2"), &json!("1"))
    );
}

#[tokio::test]
async fn changes_are_waited_for() {
    let mut lab = Lab::new(&[]).await;
    let fw = Forwarder::start(&root_link(&lab.etcd));
    lab.put(&[("/ovs/fw/a", "1".into())]).await;
    let now = fw.ask("GET", "/v2/keys/ovs/fw/a", "");
    let index: u64 = now.header("x-etcd-index").unwrap().parse().unwrap();
    assert_eq!(now.json()["node"]["modifiedIndex"], index);
    // From now on, the head of the answer comes at once.
    let key = Asked::begin(fw.port, "GET", "/v2/keys/ovs/fw/a?wait=true", "");
    let tree = Asked::begin(fw.port, "GET", "/v2/keys/ovs/fw?wait=true&recursive=true", "");
    let quiet = Asked::begin(fw.port, "GET", "/v2/keys/ovs/fw?wait=true", "");
    assert_eq!((key.answer.status, key.answer.header("x-etcd-index")), (200, Some(index.to_string().as_str())));
    lab.put(&[("/ovs/other", "x".into()), ("/ovs/fw/_hidden/x", "x".into())]).await;
    lab.put(&[("/ovs/fw/a", "2".into())]).await;
    for waiting in [key, tree] {
        let event = waiting.end().json();
        let (key, value) = (&event["node"]["key"], &event["node"]["value"]);
        assert_eq!((key, value, &event["prevNode"]["value"]), (&json!("/ovs/fw/a"), &json!("2"), &json!("1")));
        assert_eq!(event["node"]["modifiedIndex"], index + 2);
    }
    // What has happened already, and what may come.
    let past = fw.ask("GET", &format!("/v2/keys/ovs/fw/a?wait=true&waitIndex={}", index + 1), "");
    assert_eq!(past.json()["node"]["value"], "2");
    let later = Asked::begin(fw.port, "GET", &format!("/v2/keys/ovs/fw/b?wait=true&waitIndex={}", index + 4), "");
    lab.put(&[("/ovs/fw/b", "early".into())]).await;
    lab.put(&[("/ovs/fw/b", "right".into())]).await;
    assert_eq!(later.end().json()["node"]["value"], "right");
    let deleted = Asked::begin(fw.port, "GET", "/v2/keys/ovs/fw/b?wait=true", "");
    fw.ask("DELETE", "/v2/keys/ovs/fw?recursive=true", "");
    let event = deleted.end().json();
    assert_eq!((&event["action"], &event["prevNode"]["value"]), (&json!("delete"), &json!("right")));
    assert!(event["node"].get("value").is_none(), "{event}");
    // A history that is gone.
    let revision = lab.root.get("/ovs/fw", None).await.unwrap().header().unwrap().revision();
    lab.root.compact(revision, None).await.unwrap();
    let cleared = fw.ask("GET", &format!("/v2/keys/ovs/fw/a?wait=true&waitIndex={index}"), "");
    assert_eq!(cleared.error(), (400, 401), "{cleared:?}");
    // A wait for what never comes ends with the forwarder.
    fw.launch.signal(rustix::process::Signal::TERM);
    assert_eq!(fw.launch.end().code(), Some(0));
    drop(quiet);
}

#[tokio::test]
async fn everything_has_a_limit() {
    let lab = Lab::new(&[]).await;
    let fw = Forwarder::start(&root_link(&lab.etcd));
    let large = "x".repeat(1 << 20);
    assert_eq!(fw.ask("PUT", "/v2/keys/large", &format!("value={large}")).status, 201);
    assert_eq!(fw.ask("GET", "/v2/keys/large", "").json()["node"]["value"].as_str().map(str::len), Some(1 << 20));
    let answer = fw.ask("PUT", "/v2/keys/larger", &format!("value={}", "x".repeat(1_600_000)));
    assert_eq!(answer.error(), (413, 210), "{answer:?}");
    // etcd's own bound is that of its message, key and all.
    let answer = fw.ask("PUT", "/v2/keys/larger", &format!("value={}", "x".repeat(1_572_800)));
    assert_eq!(answer.error(), (500, 300), "{answer:?}");
    for count in 0..17 {
        assert_eq!(fw.ask("PUT", &format!("/v2/keys/many/{count}"), &format!("value={large}")).status, 201);
    }
    let answer = fw.ask("GET", "/v2/keys/many", "");
    assert_eq!(answer.error(), (500, 300), "{:?}", answer.error());
    assert_eq!(fw.ask("GET", "/v2/keys/many/16", "").status, 200);
    // What is no HTTP, a head without end, and a body that is promised and not sent.
    let head = format!("GET /v2/keys/{} HTTP/1.1\r\n", "x".repeat(200_000));
    for (bytes, answer) in [
        (b"\x16\x03\x01\x02\x00".as_slice(), "HTTP/1.1 400 "),
        // Its answer may be lost: the rest of the head is never read.
        (head.as_bytes(), ""),
        (b"PUT /v2/keys/a HTTP/1.0\r\nContent-Length: 5\r\n\r\nval", ""),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", fw.port)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        // It may hang up before it has read all.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(said.starts_with(answer.as_bytes()), "{:?}", String::from_utf8_lossy(&said));
    }
    assert_eq!(fw.ask("GET", "/v2/keys/a", "").error(), (404, 100));
    // More clients than it takes at once: the others wait until one of them is done.
    let waiting: Vec<Asked> = (0..256).map(|_| Asked::begin(fw.port, "GET", "/v2/keys/signal?wait=true", "")).collect();
    let port = fw.port;
    let late = std::thread::spawn(move || ask(port, "GET", "/v2/keys/large", "").status);
    drop(waiting);
    assert_eq!(late.join().unwrap(), 200);
}

#[tokio::test]
async fn only_loopback_unless_it_is_asked_for() {
    let lab = Lab::new(&[]).await;
    let link = lab.link_file(&lab.link());
    let output = launcher().args(["--serve-v2", "0.0.0.0:0", &link]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--beyond-loopback"));
    let open = Launch::with(&["--serve-v2", "0.0.0.0:0", "--beyond-loopback", &link]);
    open.expect_said("served at 0.0.0.0:");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = taken.local_addr().unwrap().to_string();
    let output = launcher().args(["--serve-v2", &place, &link]).output().unwrap();
    assert_eq!(output.status.code(), Some(71));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&place));
}

#[tokio::test]
async fn what_stands_beside_the_keys() {
    let lab = Lab::new(&[]).await;
    let fw = Forwarder::start(&root_link(&lab.etcd));
    let place = format!("http://127.0.0.1:{}", fw.port);
    assert_eq!(fw.ask("GET", "/v2/machines", "").text, place);
    assert_eq!(fw.ask("GET", "/v2/members", "").json()["members"][0]["clientURLs"], json!([place]));
    assert!(fw.ask("GET", "/version", "").json()["etcdserver"].as_str().unwrap().starts_with("3."));
    let leader = fw.ask("GET", "/v2/stats/self", "").json()["leaderInfo"]["leader"].clone();
    assert_eq!(fw.ask("GET", "/v2/members", "").json()["members"][0]["id"], leader);
    assert_eq!(fw.ask("GET", "/v2/keysx", "").status, 404);
    assert_eq!(fw.ask("PUT", "/health", "").status, 405);
    assert_eq!(fw.ask("PATCH", "/v2/keys/a", "").status, 405);
}

/// Values that other hands wrote need not be text, and a key of theirs may be directory and file at once.
#[tokio::test]
async fn what_v2_cannot_hold_is_shown_as_well_as_it_can_be() {
    let mut lab = Lab::new(&[]).await;
    let fw = Forwarder::start(&root_link(&lab.etcd));
    lab.root.put("/x/bytes", vec![b'a', 0xff], None).await.unwrap();
    lab.put(&[("/x/both", "leaf".into()), ("/x/both/child", "1".into()), ("/x//odd", "1".into())]).await;
    let listed = fw.ask("GET", "/v2/keys/x?recursive=true&sorted=true", "").json();
    let keys: Vec<&str> =
        listed["node"]["nodes"].as_array().unwrap().iter().map(|node| node["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["/x/both", "/x/bytes"]);
    assert_eq!(listed["node"]["nodes"][0]["dir"], true);
    assert_eq!(fw.ask("GET", "/v2/keys/x/bytes", "").json()["node"]["value"], "a\u{fffd}");
    assert_eq!(fw.ask("PUT", "/v2/keys/x/both", "value=2").error(), (403, 102));
    // Two hands that add in order get names in order, whatever else is written.
    let port = fw.port;
    let names: Vec<String> = std::thread::scope(|scope| {
        let adding: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| -> Vec<String> {
                    let add = |_| ask(port, "POST", "/v2/keys/x/queue", "value=1").json()["node"]["key"].to_string();
                    (0..8).map(add).collect()
                })
            })
            .collect();
        adding.into_iter().flat_map(|hand| hand.join().unwrap()).collect()
    });
    let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
    assert_eq!(distinct.len(), 32, "{names:?}");
    for hand in names.chunks(8) {
        assert!(hand.is_sorted(), "{hand:?}");
    }
}
