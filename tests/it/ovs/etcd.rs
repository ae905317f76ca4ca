//! A member of an etcd cluster that lost its data, replaced by the recipe's bootstrap: real etcds on loopback.

use std::{
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::wait::wait_until;

const PASSWORD: &str = "open-sesame";
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Member {
    name: String,
    client: u16,
    peer: u16,
    directory: PathBuf,
}

struct Cluster {
    _directory: TempDir,
    members: Vec<Member>,
}

impl Cluster {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Below those that the kernel gives away: one that is free now is not somebody's outgoing connection in a moment.
        let first = 20_000 + u16::try_from(std::process::id() % 12_000).unwrap();
        let ports: Vec<u16> =
            (first..).filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).take(6).collect();
        let members = (0..3).map(|number| {
            let name = format!("m{number}");
            let home = directory.path().join(&name);
            fs_err::create_dir(&home).unwrap();
            Member { name, client: ports[2 * number], peer: ports[2 * number + 1], directory: home }
        });
        Self { members: members.collect(), _directory: directory }
    }

    fn arguments(&self, member: &Member) -> Vec<String> {
        let peer = |member: &Member| format!("http://127.0.0.1:{}", member.peer);
        let all: Vec<_> = self.members.iter().map(|one| format!("{}={}", one.name, peer(one))).collect();
        let data = member.directory.join("data").display().to_string();
        let client = format!("http://127.0.0.1:{}", member.client);
        [
            ("--name", member.name.clone()),
            ("--data-dir", data),
            ("--listen-peer-urls", peer(member)),
            ("--initial-advertise-peer-urls", peer(member)),
            ("--initial-cluster", all.join(",")),
            ("--initial-cluster-token", "test".to_owned()),
            ("--advertise-client-urls", client),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
    }

    fn bootstrap(&self, member: &Member) -> Running {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/etcd/bootstrap.sh");
        let others: Vec<_> = self.members.iter().filter(|other| other.name != member.name).collect();
        let others: Vec<_> = others.iter().map(|other| format!("http://127.0.0.1:{}", other.client)).collect();
        let mut child = Command::new("sh")
            .arg(script)
            .arg(member.directory.join("marker"))
            .arg(member.client.to_string())
            .arg("etcd")
            .args(self.arguments(member))
            .env("MEMBER_OTHERS", others.join(","))
            .env("MEMBER_NAME", &member.name)
            .env("MEMBER_URL", format!("http://127.0.0.1:{}", member.peer))
            .env("MEMBER_DATA", member.directory.join("data"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(format!("{PASSWORD}\n").as_bytes()).unwrap();
        Running(child)
    }

    fn start(&self, member: &Member) -> Running {
        let client = format!("http://127.0.0.1:{}", member.client);
        let log = fs_err::File::create(member.directory.join("log")).unwrap();
        let child = Command::new("etcd")
            .args(self.arguments(member))
            .args(["--listen-client-urls", &client])
            .stdout(Stdio::null())
            .stderr(log.into_file())
            .spawn()
            .unwrap();
        Running(child)
    }
}

fn ends_well(mut running: Running, member: &Member) {
    let log = || fs_err::read_to_string(member.directory.join("bootstrap.log")).unwrap_or_default();
    let status = running.0.wait().unwrap();
    assert!(status.success() && member.directory.join("marker").exists(), "{}: {}", member.name, log());
}

fn ask(member: &Member, words: &[&str]) -> Option<String> {
    let output = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .env("ETCDCTL_USER", format!("root:{PASSWORD}"))
        .args(["--endpoints", &format!("http://127.0.0.1:{}", member.client), "--command-timeout", "5s"])
        .args(words)
        .output()
        .unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[track_caller]
fn eventually(member: &Member, words: &[&str], wanted: impl Fn(&str) -> bool) {
    let begin = Instant::now();
    let mut last = None;
    while begin.elapsed() < PATIENCE {
        last = ask(member, words);
        if last.as_deref().is_some_and(&wanted) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{words:?} of {}: {last:?}", member.name);
}

/// Its volume is lost.
fn forget(member: &Member) {
    fs_err::remove_dir_all(member.directory.join("data")).unwrap();
    fs_err::remove_file(member.directory.join("marker")).unwrap();
    fs_err::remove_file(member.directory.join("bootstrap.log")).unwrap();
}

fn signal(pids: &[i32], signal: Signal) {
    for pid in pids {
        kill_process(Pid::from_raw(*pid).unwrap(), signal).unwrap();
    }
}

#[test]
fn a_member_whose_data_is_gone_is_replaced() {
    let cluster = Cluster::new();
    let all = &cluster.members;
    // Each runs as soon as its bootstrap is done, as in a deploy: the others may need it for a majority.
    let mut running: Vec<_> = std::thread::scope(|scope| {
        let started = all.iter().map(|member| {
            scope.spawn(|| {
                ends_well(cluster.bootstrap(member), member);
                cluster.start(member)
            })
        });
        let started: Vec<_> = started.collect();
        started.into_iter().map(|member| member.join().unwrap()).collect()
    });
    eventually(&all[0], &["put", "/a", "kept"], |said| said.contains("OK"));

    let lost = &all[2];
    // Others that do not answer when they are asked are taken for none; they are asked again when etcd knows better: that
    // they know the member, or that they knew one in its place.
    for (are_silent, said) in
        [(true, "has already been bootstrapped"), (true, "has been permanently removed"), (false, "member")]
    {
        drop(running.pop());
        forget(lost);
        let others: Vec<_> = running.iter().map(|other| i32::try_from(other.0.id()).unwrap()).collect();
        let log = || fs_err::read_to_string(lost.directory.join("bootstrap.log")).unwrap_or_default();
        if are_silent {
            signal(&others, Signal::STOP);
        }
        let begun = cluster.bootstrap(lost);
        if are_silent {
            wait_until("a question without an answer", || log().contains("Error: "));
            signal(&others, Signal::CONT);
        }
        ends_well(begun, lost);
        assert!(log().contains(said) && log().contains("it is replaced"), "{}", log());
        running.push(cluster.start(lost));
        eventually(lost, &["get", "/a", "--print-value-only"], |said| said == "kept\n");
        eventually(lost, &["member", "list"], |said| said.matches(", started, ").count() == 3);
    }

    // Nothing is replaced while its data is there: the mark alone was lost.
    drop(running.pop());
    fs_err::remove_file(lost.directory.join("marker")).unwrap();
    ends_well(cluster.bootstrap(lost), lost);
    let log = fs_err::read_to_string(lost.directory.join("bootstrap.log")).unwrap();
    assert!(!log.contains("it is replaced"), "{log}");
}
