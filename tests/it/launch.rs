//! The real `ovs-launch` against a real etcd: rendering, following, signals, losses.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::{fs::MetadataExt as _, fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Instant,
};

use etcd_client::{Client, Permission, Txn, TxnOp};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::config::server::{Etcd, LONG, Tls};

mod commands;
mod etcdctl;
mod recipe;
mod v2;
mod v2_alike;

const NODE: &str = "/ovs/agent/launch/node-1/agent";
const PASSWORD: &str = "canary:@/pw";

/// Prints what it is told and what its file says, for ever. Deaf to nothing.
const TALKER: &str = r#"
trap 'echo hup $(cat "$1")' HUP
trap 'echo usr1' USR1
trap 'echo term; exit 7' TERM
echo started $(cat "$1")
while :; do sleep 600 >/dev/null 2>&1 & wait; done
"#;

/// An etcd with authentication, the component's login, and a directory for what is rendered.
struct Lab {
    etcd: Etcd,
    root: Client,
    directory: tempfile::TempDir,
}

impl Lab {
    async fn new(options: &[&str]) -> Self {
        Self::with(Etcd::start(options)).await
    }

    async fn with(etcd: Etcd) -> Self {
        let mut root = etcd.client(None).await.unwrap();
        root.user_add("root", "root-pw", None).await.unwrap();
        root.role_add("root").await.unwrap();
        root.user_grant_role("root", "root").await.unwrap();
        root.role_add("agent").await.unwrap();
        root.role_grant_permission("agent", Permission::read("/ovs/agent/").with_prefix()).await.unwrap();
        root.user_add("agent", PASSWORD, None).await.unwrap();
        root.user_grant_role("agent", "agent").await.unwrap();
        root.auth_enable().await.unwrap();
        let root = etcd.root().await;
        let directory = tempfile::Builder::new().prefix("ovs-launch-").tempdir().unwrap();
        // Other users must reach the rendered files.
        fs_err::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { etcd, root, directory }
    }

    /// Writes these keys in one transaction.
    async fn put(&mut self, keys: &[(&str, String)]) {
        let ops: Vec<TxnOp> = keys.iter().map(|(key, value)| TxnOp::put(*key, value.as_str(), None)).collect();
        assert!(self.root.txn(Txn::new().and_then(ops)).await.unwrap().succeeded());
    }

    async fn describe(&mut self, description: &Value) {
        self.put(&[(&format!("{NODE}/description"), description.to_string())]).await;
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("run").join(name)
    }

    /// A talker with one file.
    fn talker(&self) -> Value {
        let config = self.file("config");
        json!({
            "argv": ["/bin/sh", "-c", TALKER, "talker", config],
            "files": [{"path": config, "key": "/ovs/agent/config"}],
        })
    }

    fn link(&self) -> String {
        format!("etcd://agent:canary%3A%40%2Fpw@localhost:{}{NODE}", self.etcd.port)
    }

    /// The link in a file that only its owner can read.
    fn link_file(&self, link: &str) -> String {
        let path = self.directory.path().join("agent.link");
        fs_err::write(&path, format!("{link}\n")).unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        format!("@{}", path.display())
    }

    fn start(&self) -> Launch {
        Launch::start(&self.link_file(&self.link()))
    }

    /// Runs the launcher to its end.
    fn run(arguments: &[&str]) -> Output {
        let output = launcher().args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
        assert!(!said.contains("canary"), "a secret was said: {said}");
        output
    }
}

fn launcher() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ovs-launch"));
    command.stdin(Stdio::null());
    command
}

/// A running launcher; ended with the test.
struct Launch {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Launch {
    fn start(link: &str) -> Self {
        Self::with(&[link])
    }

    fn with(arguments: &[&str]) -> Self {
        let mut child = launcher().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    /// Waits for the process's next line.
    fn expect(&self, wanted: &str) {
        let line = self.stdout.recv_timeout(LONG);
        assert_eq!(line.as_deref(), Ok(wanted), "launcher said: {:?}", self.stderr.try_iter().collect::<Vec<_>>());
    }

    /// Waits until the launcher says something; gives that line.
    fn expect_said(&self, wanted: &str) -> String {
        let deadline = Instant::now() + LONG;
        while let Ok(line) = self.stderr.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            assert!(!line.contains("canary"), "a secret was said: {line}");
            if line.contains(wanted) {
                return line;
            }
        }
        panic!("`{wanted}` was not said");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end. The process must be gone too: only then its output ends.
    fn end(mut self) -> ExitStatus {
        let deadline = Instant::now() + LONG;
        loop {
            match self.stdout.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => eprintln!("left over: {line}"),
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
                Err(RecvTimeoutError::Timeout) => panic!("the launcher or its process did not end"),
            }
        }
    }
}

impl Drop for Launch {
    // Asked first: a launcher that is killed can end its process, but not what that one started.
    fn drop(&mut self) {
        let deadline = Instant::now() + LONG;
        // Not one that has been waited for: its number may be somebody else's by now.
        let runs = matches!(self.child.try_wait(), Ok(None));
        if runs && kill_process(Pid::from_child(&self.child), Signal::TERM).is_ok() {
            while self.child.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < deadline {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn mode(path: &Path) -> u32 {
    fs_err::metadata(path).unwrap().mode() & 0o7777
}

#[tokio::test]
async fn files_are_rendered_and_changes_are_followed() {
    let mut lab = Lab::new(&[]).await;
    let description = lab.talker();
    lab.put(&[(&format!("{NODE}/description"), description.to_string()), ("/ovs/agent/config", "1".into())]).await;
    let launch = lab.start();
    launch.expect("started 1");
    assert_eq!(mode(&lab.file("config")), 0o600);
    assert_eq!(mode(lab.file("config").parent().unwrap()), 0o755);

    lab.put(&[("/ovs/agent/config", "2".into())]).await;
    launch.expect("term");
    launch.expect("started 2");
    // A foreign key, and a description that says the same: nothing to do.
    lab.put(&[("/ovs/agent/other", "x".into())]).await;
    lab.describe(&description).await;
    // Several changes at once: one restart, with both.
    let mut other = description.clone();
    other["files"]
        .as_array_mut()
        .unwrap()
        .push(json!({"path": lab.file("extra"), "key": "/ovs/agent/extra", "mode": 0o644}));
    lab.put(&[
        (&format!("{NODE}/description"), other.to_string()),
        ("/ovs/agent/config", "3".into()),
        ("/ovs/agent/extra", "more".into()),
    ])
    .await;
    launch.expect("term");
    launch.expect("started 3");
    assert_eq!(fs_err::read_to_string(lab.file("extra")).unwrap(), "more");
    assert_eq!(mode(&lab.file("extra")), 0o644);
    // A description with another process.
    other["argv"][4] = json!(lab.file("extra"));
    lab.describe(&other).await;
    launch.expect("term");
    launch.expect("started more");
    // A file that the description drops goes.
    other["files"] = json!([other["files"][1]]);
    other["argv"][3] = json!("renamed");
    lab.describe(&other).await;
    launch.expect("term");
    launch.expect("started more");
    launch.signal(Signal::TERM);
    launch.expect("term");
    assert_eq!(launch.end().code(), Some(7));
    assert!(!lab.file("config").exists() && lab.file("extra").exists());
}

#[tokio::test]
async fn a_file_may_ask_for_a_signal_or_for_nothing() {
    let mut lab = Lab::new(&[]).await;
    let mut description = lab.talker();
    description["files"][0]["on_change"] = json!({"signal": "HUP"});
    description["files"].as_array_mut().unwrap().push(json!(
        {"path": lab.file("quiet"), "key": "/ovs/agent/quiet", "on_change": "ignore"}
    ));
    lab.describe(&description).await;
    lab.put(&[("/ovs/agent/config", "1".into()), ("/ovs/agent/quiet", "1".into())]).await;
    let launch = lab.start();
    launch.expect("started 1");
    lab.put(&[("/ovs/agent/quiet", "2".into())]).await;
    launch.expect_said("files rendered");
    assert_eq!(fs_err::read_to_string(lab.file("quiet")).unwrap(), "2");
    lab.put(&[("/ovs/agent/config", "2".into())]).await;
    launch.expect("hup 2");
    for (signal, line) in [(Signal::HUP, "hup 2"), (Signal::USR1, "usr1")] {
        launch.signal(signal);
        launch.expect(line);
    }
    launch.signal(Signal::TERM);
    launch.expect("term");
    assert_eq!(launch.end().code(), Some(7));
}

#[tokio::test]
async fn the_exit_status_is_the_process_s() {
    let mut lab = Lab::new(&[]).await;
    let link = lab.link_file(&lab.link());
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
        lab.describe(&json!({"argv": ["/bin/sh", "-c", script]})).await;
        assert_eq!(Lab::run(&[&link]).status.code(), Some(code), "{script}");
    }
    for (program, code) in [("/no/such/program", 127), ("/etc/passwd", 126)] {
        lab.describe(&json!({"argv": [program]})).await;
        let output = Lab::run(&[&link]);
        assert_eq!(output.status.code(), Some(code));
        assert!(String::from_utf8_lossy(&output.stderr).contains(program));
    }
}

#[tokio::test]
async fn a_stop_is_patient_and_then_is_not() {
    let mut lab = Lab::new(&[]).await;
    // Ends by the very signal: as it was told.
    lab.describe(&json!({"argv": ["/bin/sh", "-c", "echo started; exec sleep 600"]})).await;
    let launch = lab.start();
    launch.expect("started");
    launch.signal(Signal::TERM);
    assert_eq!(launch.end().code(), Some(0));
    // Deaf to TERM, with a child that is deaf too: killed, both.
    let deaf = "trap '' TERM; sleep 600 & echo started; wait; sleep 600";
    lab.describe(&json!({"argv": ["/bin/sh", "-c", deaf], "stop_timeout": 1})).await;
    let launch = lab.start();
    launch.expect("started");
    launch.signal(Signal::TERM);
    assert_eq!(launch.end().code(), Some(137));
    // A launcher that is killed takes its process along.
    lab.describe(&json!({"argv": ["/bin/sh", "-c", "echo started; exec sleep 600"]})).await;
    let launch = lab.start();
    launch.expect("started");
    launch.signal(Signal::KILL);
    assert_eq!(launch.end().signal(), Some(9));
}

#[tokio::test]
async fn etcd_may_crash_and_come_back() {
    let mut lab = Lab::new(&["--auth-token-ttl", "2"]).await;
    let description = lab.talker();
    lab.describe(&description).await;
    lab.put(&[("/ovs/agent/config", "1".into())]).await;
    let launch = lab.start();
    launch.expect("started 1");
    lab.etcd.kill();
    launch.expect_said("the process goes on");
    launch.signal(Signal::USR1);
    launch.expect("usr1");
    lab.etcd.restart();
    lab.root = lab.etcd.root().await;
    lab.put(&[("/ovs/agent/config", "2".into())]).await;
    launch.expect("term");
    launch.expect("started 2");
    // Its token expires; there is nothing to await but the time.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    lab.put(&[("/ovs/agent/config", "3".into())]).await;
    launch.expect("term");
    launch.expect("started 3");
    // What is broken in etcd breaks nothing here, and what is mended counts again.
    lab.put(&[(&format!("{NODE}/description"), "{canary".into())]).await;
    launch.expect_said("not the JSON");
    lab.describe(&description).await;
    launch.expect_said("followed again");
    lab.root.delete("/ovs/agent/config", None).await.unwrap();
    launch.expect_said("no key `/ovs/agent/config`");
    lab.put(&[("/ovs/agent/config", "4".into())]).await;
    launch.expect("term");
    launch.expect("started 4");
}

#[tokio::test]
async fn a_compacted_history_is_read_anew() {
    let mut lab = Lab::new(&[]).await;
    let description = lab.talker();
    lab.describe(&description).await;
    lab.put(&[("/ovs/agent/config", "1".into())]).await;
    let launch = lab.start();
    launch.expect("started 1");
    // The change and the compaction happen while nobody can see them: the launcher is stopped.
    launch.signal(Signal::STOP);
    lab.etcd.restart();
    lab.root = lab.etcd.root().await;
    lab.put(&[("/ovs/agent/config", "2".into())]).await;
    lab.put(&[("/ovs/agent/other", "x".into())]).await;
    let revision = lab.root.get("/ovs/agent/config", None).await.unwrap().header().unwrap().revision();
    lab.root.compact(revision, None).await.unwrap();
    launch.signal(Signal::CONT);
    launch.expect("term");
    launch.expect("started 2");
}

#[tokio::test]
async fn a_service_waits_for_etcd_and_its_keys() {
    let mut lab = Lab::new(&[]).await;
    lab.etcd.kill();
    let launch = lab.start();
    launch.expect_said("does not answer");
    lab.etcd.restart();
    lab.root = lab.etcd.root().await;
    launch.expect_said("no key");
    lab.describe(&lab.talker()).await;
    launch.expect_said("no key `/ovs/agent/config`");
    lab.put(&[("/ovs/agent/config", "1".into())]).await;
    launch.expect("started 1");
    drop(launch);
    lab.etcd.kill();
    let launch = lab.start();
    launch.expect_said("does not answer");
    launch.signal(Signal::TERM);
    assert_eq!(launch.end().code(), Some(143), "it can be stopped while it waits");
}

#[tokio::test]
async fn once_and_check_tell_what_is_wrong() {
    let mut lab = Lab::new(&[]).await;
    let link = lab.link_file(&lab.link());
    let code = |output: &Output| output.status.code().unwrap();
    assert_eq!(code(&Lab::run(&["--check", &link])), 65, "no description yet");
    let mut description = lab.talker();
    description["environment"] = json!({"TOKEN": "canary"});
    lab.describe(&description).await;
    assert_eq!(code(&Lab::run(&["--once", &link])), 65, "no file's key yet");
    lab.put(&[("/ovs/agent/config", "canary".into())]).await;
    let output = Lab::run(&["--check", &link]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(code(&output), 0);
    for part in ["etcd://agent:***@localhost", "config from /ovs/agent/config", "to be written", "TOKEN", "/bin/sh"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!lab.file("config").exists(), "check writes nothing");
    assert_eq!(code(&Lab::run(&["--once", &link])), 0);
    assert_eq!(fs_err::read_to_string(lab.file("config")).unwrap(), "canary");
    assert!(String::from_utf8_lossy(&Lab::run(&["--check", &link]).stdout).contains("as wanted"));

    let place = |from: &str, to: &str| lab.link().replace(from, to);
    assert_eq!(code(&Lab::run(&["--once", &place("canary%3A%40%2Fpw", "canary")])), 77, "wrong password");
    assert_eq!(code(&Lab::run(&[&place("canary%3A%40%2Fpw", "canary")])), 77, "a service does not wait for that");
    assert_eq!(code(&Lab::run(&["--once", &place("/ovs/agent/", "/ovs/other/")])), 77, "another's prefix");
    assert_eq!(code(&Lab::run(&["--once", "etcd://agent:canary@localhost:1/n"])), 69);
    assert_eq!(code(&Lab::run(&["--once", "etcd://agent:canary@no-such-host.invalid/n"])), 69);
    assert_eq!(code(&Lab::run(&["--once", "etcd://agent:canary"])), 64);
    assert_eq!(code(&Lab::run(&[])), 64);
    assert_eq!(code(&Lab::run(&["--once", "@/no/such/file"])), 66);
    let open = lab.directory.path().join("agent.link");
    fs_err::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = Lab::run(&["--once", &link]);
    assert_eq!(code(&output), 78);
    assert!(String::from_utf8_lossy(&output.stderr).contains("0600"));
    lab.describe(&json!({"argv": ["/bin/true"], "user": "no-such-user"})).await;
    assert_eq!(code(&Lab::run(&["--once", &lab.link()])), 67);
    lab.put(&[(&format!("{NODE}/description"), r#"{"argv":["/bin/true"],"nope":"canary"}"#.into())]).await;
    let output = Lab::run(&["--once", &lab.link()]);
    assert_eq!(code(&output), 65);
    assert!(String::from_utf8_lossy(&output.stderr).contains("nope"));
    for option in ["--help", "--version"] {
        assert!(String::from_utf8_lossy(&Lab::run(&[option]).stdout).contains("ovs-launch"));
    }
}

#[tokio::test]
async fn the_process_runs_as_its_user() {
    assert!(rustix::process::geteuid().is_root(), "this test must run as root");
    let mut lab = Lab::new(&[]).await;
    let config = lab.file("config");
    let script =
        r#"id -u; id -g; id -G; pwd; echo "$HOME $USER $EXTRA"; cat "$1"; sed -n 's/^SigIgn:\t//p' /proc/self/status"#;
    lab.put(&[("/ovs/agent/config", "mine\n".into())]).await;
    lab.describe(&json!({
        "argv": ["/bin/sh", "-c", script, "x", config],
        "files": [{"path": config, "key": "/ovs/agent/config"}],
        "user": "nobody", "directory": "/usr", "environment": {"EXTRA": "e"},
    }))
    .await;
    let output = Lab::run(&[&lab.link_file(&lab.link())]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let id = |option: &str| {
        let output = Command::new("id").args([option, "nobody"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..4], [id("-u").as_str(), &id("-g"), &id("-G"), "/usr"], "{said}");
    assert!(lines[4].ends_with(" nobody e") && lines[5] == "mine", "{said}");
    let ignored = u64::from_str_radix(lines[6], 16).unwrap();
    assert_eq!(ignored & 0x7fff_ffff, 0, "no signal is ignored (above 31 are the C library's own)");
    let meta = fs_err::metadata(lab.file("config")).unwrap();
    assert_eq!((meta.uid().to_string(), meta.mode() & 0o7777), (id("-u"), 0o600));
}

/// The second half by itself: supplementary groups, which no account of a bare machine has.
#[test]
fn supplementary_groups_are_taken_along() {
    assert!(rustix::process::geteuid().is_root(), "this test must run as root");
    let become_id = |parent| {
        let mut command = launcher();
        let identity = format!("{parent}:65534:65533,4,6");
        command.args(["--become", &identity, "/bin/sh", "-c", "id -u; id -G; id -g"]).output().unwrap()
    };
    let output = become_id(std::process::id());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "65534\n65533 4 6\n65533\n");
    assert_eq!(become_id(1).status.code(), Some(126), "whose launcher is gone does not start");
}

#[tokio::test]
async fn a_link_may_name_or_carry_its_ca() {
    let tls = Tls::new("localhost");
    let lab_etcd = Etcd::start_tls(tls.clone());
    let store = lab_etcd.store().await;
    let agent = "agent".parse().unwrap();
    let password = ovs_cuisine::plan::Secret::new(PASSWORD.to_owned());
    let apply = ovs_cuisine::control::config::LoginMode::Apply;
    store
        .ensure_login(&agent, &[ovs_cuisine::control::config::Grant::read("/ovs/agent/")], &password, apply)
        .await
        .unwrap();
    let description =
        ovs_cuisine::control::config::Value { bytes: br#"{"argv":["/bin/echo","over tls"]}"#.to_vec(), secret: false };
    let wish = ovs_cuisine::control::config::Wish {
        component: agent,
        prefixes: vec!["/ovs/agent/".to_owned()],
        keys: [(format!("{NODE}/description"), description)].into(),
    };
    store.apply(store.compare(&wish).await.unwrap()).await.unwrap();
    let carried = store.access().etcd_link("agent", &password, NODE).unwrap().expose().clone();
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    fs_err::write(&ca, &tls.ca).unwrap();
    let bare = carried.split('?').next().unwrap().to_owned();
    let other = directory.path().join("other.pem");
    fs_err::write(&other, Tls::new("localhost").ca).unwrap();
    let run = |link: String| launcher().args(["--once", &link]).output().unwrap().status.code();
    assert_eq!(run(carried.clone()), Some(0));
    assert_eq!(run(format!("{bare}?ca={}", ca.display())), Some(0));
    assert_eq!(run(format!("{bare}?ca={}", other.display())), Some(69), "another CA");
    assert_eq!(run(format!("{bare}?ca=/no/such/file")), Some(66));
    assert_eq!(run(bare), Some(69), "TLS is not left out");
    let output = launcher().arg(&carried).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "over tls\n");
}
