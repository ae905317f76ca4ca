//! Commands before the start and for the stop, and files made of several keys.

use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Lab, NODE};

/// Ends when its file goes, and is deaf to TERM: like a file system that ends when it is unmounted.
const MOUNT: &str =
    r#"trap 'echo deaf' TERM; touch "$1"; echo started; while test -e "$1"; do sleep 0.02; done; echo gone; exit 3"#;

impl Lab {
    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn mount(&self, stop: &[&str]) -> Value {
        json!({"argv": ["/bin/sh", "-c", MOUNT, "mount", self.path("mounted")], "stop_command": stop, "stop_timeout": 2})
    }
}

#[tokio::test]
async fn commands_run_before_each_start() {
    let mut lab = Lab::new(&[]).await;
    let mut description = lab.talker();
    let (trace, uid) = (lab.path("trace"), Command::new("id").arg("-u").output().unwrap().stdout);
    let uid = String::from_utf8(uid).unwrap();
    let first = format!("id -u >> {trace}; cat $CONFIG >> {trace}; echo to the log >&2");
    description["before_start"] = json!([["/bin/sh", "-c", first], ["/bin/sh", "-c", format!("echo ' 2' >> {trace}")]]);
    description["environment"] = json!({"CONFIG": lab.file("config")});
    // Not as the service's user.
    description["user"] = json!("nobody");
    description["files"][0]["mode"] = json!(0o644);
    lab.describe(&description).await;
    lab.put(&[("/ovs/agent/config", "1".into())]).await;
    let launch = lab.start();
    launch.expect("started 1");
    launch.expect_said("to the log");
    assert_eq!(fs_err::read_to_string(&trace).unwrap(), format!("{uid}1 2\n"));
    lab.put(&[("/ovs/agent/config", "2".into())]).await;
    launch.expect("term");
    launch.expect("started 2");
    assert_eq!(fs_err::read_to_string(&trace).unwrap(), format!("{uid}1 2\n{uid}2 2\n"));
    // Another command is for the next start; it is no reason for one.
    description["before_start"] = json!([["/bin/sh", "-c", "echo one >&2; echo last words >&2; exit 9"]]);
    lab.describe(&description).await;
    launch.expect_said("files rendered");
    launch.signal(Signal::USR1);
    launch.expect("usr1");
    lab.put(&[("/ovs/agent/config", "3".into())]).await;
    launch.expect("term");
    launch.expect_said("error: `/bin/sh` ended with status 9: one / last words");
    assert_eq!(launch.end().code(), Some(75));
    let launch = lab.start();
    launch.expect_said("ended with status 9");
    assert_eq!(launch.end().code(), Some(75), "at the first start too");
    description["before_start"] = json!([["/no/such/program"]]);
    lab.describe(&description).await;
    let launch = lab.start();
    launch.expect_said("`/no/such/program` ended with status 127");
    assert_eq!(launch.end().code(), Some(75));
}

#[tokio::test]
async fn a_start_that_waits_can_be_stopped() {
    let mut lab = Lab::new(&[]).await;
    let script = "echo waiting; sleep 600 & wait";
    lab.describe(&json!({"argv": ["/bin/true"], "before_start": [["/bin/sh", "-c", script]]})).await;
    let launch = lab.start();
    launch.expect("waiting");
    launch.signal(Signal::TERM);
    assert_eq!(launch.end().code(), Some(143), "and nothing of the command is left, or its output would not end");
    // What a command leaves behind on purpose is not waited for.
    let script = "setsid sleep 600 & echo $!";
    lab.describe(&json!({"argv": ["/bin/echo", "started"], "before_start": [["/bin/sh", "-c", script]]})).await;
    let launch = lab.start();
    let left: i32 = launch.stdout.recv_timeout(crate::config::server::LONG).unwrap().parse().unwrap();
    launch.expect("started");
    rustix::process::kill_process(rustix::process::Pid::from_raw(left).unwrap(), Signal::KILL).unwrap();
    assert_eq!(launch.end().code(), Some(0));
}

#[tokio::test]
async fn a_stop_command_comes_before_the_signal() {
    let mut lab = Lab::new(&[]).await;
    let mounted = lab.path("mounted");
    lab.describe(&lab.mount(&["/bin/rm", &mounted])).await;
    let launch = lab.start();
    launch.expect("started");
    launch.signal(Signal::TERM);
    // Not deaf: it was not asked by a signal.
    launch.expect("gone");
    assert_eq!(launch.end().code(), Some(3));
    // For a restart too.
    let launch = lab.start();
    launch.expect("started");
    let mut other = lab.mount(&["/bin/rm", &mounted]);
    other["environment"] = json!({"A": "1"});
    lab.describe(&other).await;
    launch.expect("gone");
    launch.expect("started");
    drop(launch);
    // One that fails, and one that does not help: the signal comes after all, and KILL in the end.
    for (command, told) in [(["/bin/false"].as_slice(), "ended with status 1"), (&["/bin/true"], "of its stop command")]
    {
        lab.describe(&lab.mount(command)).await;
        let launch = lab.start();
        launch.expect("started");
        launch.signal(Signal::TERM);
        launch.expect_said(told);
        launch.expect("deaf");
        launch.expect_said("killed");
        assert_eq!(launch.end().code(), Some(137));
    }
}

#[tokio::test]
async fn a_file_may_be_made_of_the_keys_below_a_directory() {
    let mut lab = Lab::new(&[]).await;
    let config = lab.file("config");
    let mut description = lab.talker();
    description["files"][0]["key"] = json!("/ovs/agent/config/");
    lab.describe(&description).await;
    // A neighbour whose name begins alike is none of it.
    lab.put(&[("/ovs/agent/config.old", "nonsense".into())]).await;
    let launch = lab.start();
    launch.expect_said("no key `/ovs/agent/config/`");
    let read = || serde_json::from_str::<Value>(&fs_err::read_to_string(&config).unwrap()).unwrap();
    lab.put(&[("/ovs/agent/config/fs", r#"{"port": 1}"#.into()), ("/ovs/agent/config/log", "\"info\"".into())]).await;
    launch.expect(r#"started { "fs":{"port": 1}, "log":"info" }"#);
    assert_eq!(read(), json!({"fs": {"port": 1}, "log": "info"}));
    lab.put(&[("/ovs/agent/config/fs", r#"{"port": 2}"#.into())]).await;
    launch.expect("term");
    launch.expect(r#"started { "fs":{"port": 2}, "log":"info" }"#);
    // A new member, and one that goes.
    lab.put(&[("/ovs/agent/config/more", "1".into())]).await;
    launch.expect("term");
    launch.expect(r#"started { "fs":{"port": 2}, "log":"info", "more":1 }"#);
    lab.root.delete("/ovs/agent/config/more", None).await.unwrap();
    launch.expect("term");
    launch.expect(r#"started { "fs":{"port": 2}, "log":"info" }"#);
    // What makes no object changes nothing.
    for (key, value, told) in [
        ("/ovs/agent/config/fs", "canary", "its value is not JSON"),
        ("/ovs/agent/config/fs/deep", "1", "deeper than one level"),
    ] {
        lab.put(&[(key, value.into())]).await;
        assert!(launch.expect_said(told).contains(key));
        launch.signal(Signal::USR1);
        launch.expect("usr1");
        assert_eq!(read(), json!({"fs": {"port": 2}, "log": "info"}));
        let output = Lab::run(&["--once", &lab.link()]);
        assert_eq!(output.status.code(), Some(65), "{told}");
        // Mended in one step: what is in between counts too.
        if key.ends_with("deep") {
            lab.root.delete(key, None).await.unwrap();
        } else {
            lab.put(&[(key, r#"{"port": 2}"#.into())]).await;
        }
        launch.expect_said("followed again");
    }
    let outline = Lab::run(&["--check", &lab.link()]);
    assert!(String::from_utf8_lossy(&outline.stdout).contains("config from /ovs/agent/config/ ("));
    assert!(NODE.starts_with("/ovs/agent/"));
}
