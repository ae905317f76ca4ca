//! `push` and `push --watch` of the real program against real containers, and `sync explain`.

mod cut;
mod edits;
mod refusals;
mod rollback;
mod transfer;
mod watch;

use std::path::PathBuf;

use serde_json::Value;

use crate::support::lab::{TestLab, docker, summary};

const TWO_HOSTS: &str = r#"
[defaults.container]
image = "ovs-cuisine/ssh:latest"

[host."node-[1-2]"]
container = {}

[component.app]
recipe = "app"
hosts = ["node-*"]
params = { build = "build" }

[component.plain]
recipe = "plain"
hosts = ["node-1"]
"#;

/// A tree, a reaction to it, a service, and a file that is none of a push's business.
const APP: &str = r#"
"""An app that is pushed."""

params(build = param("path", doc = "Tree to push."))

def deploy(ctx):
    file_write("/srv/setting", "as deployed\n")
    build = sync(ctx.params.build, "/opt/app", delete = True, ignore = ["*.log"])
    run("echo reacted >> /srv/reactions", only_if_changed = [build])
    service_ensure("app", argv = ["/bin/sh", "/opt/app/run"], restart_on = [build])

def health(ctx):
    wait_port(22, timeout = 10)
"#;

const PLAIN: &str = r#"
"""A recipe without a tree."""

def deploy(ctx):
    file_write("/srv/plain", "plain\n")
"#;

/// Says which process it is, so that a restart shows.
const RUN: &str = "echo $$ >> /srv/starts\nexec sleep 100000\n";

/// A lab whose app is deployed.
pub(super) fn deployed(inventory: &str) -> TestLab {
    let lab = TestLab::new(inventory);
    lab.recipe("app", APP);
    lab.recipe("plain", PLAIN);
    lab.write("build/run", RUN);
    lab.write("build/lib/text", "first\n");
    lab.expect(0, &["deploy", "LAB"]);
    lab
}

/// The root directory of a host's container, as this machine sees it.
pub(super) fn root_of(lab: &TestLab, host: &str) -> PathBuf {
    let output = docker(&["inspect", "--format", "{{.State.Pid}}", &lab.container(host)]);
    let pid = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert_ne!(pid, "0", "the container of {host} does not run");
    PathBuf::from(format!("/proc/{pid}/root"))
}

fn lines(text: &str) -> usize {
    text.lines().count()
}

fn change_set(events: &[Value]) -> Option<&Value> {
    events.iter().find(|event| event["event"] == "change-set")
}

#[test]
fn a_push_brings_the_tree_and_restarts_what_reacts_to_it() {
    let lab = deployed(TWO_HOSTS);
    let hosts = ["node-1", "node-2"];
    for host in hosts {
        assert_eq!(lab.inside(host, "cat /opt/app/lib/text"), "first\n");
        lab.inside(host, "echo by hand > /srv/setting");
    }
    let starts = |host: &str| lines(&lab.inside(host, "cat /srv/starts"));
    let before = hosts.map(starts);

    lab.write("build/lib/text", "second\n");
    lab.write("build/lib/new", "new\n");
    lab.write("build/noise.log", "not for hosts\n");

    let check = lab.events(0, &["push", "LAB", "app", "--check"]);
    let set = change_set(&check).unwrap();
    assert_eq!((&set["applied"], &set["created"], &set["modified"]), (&false.into(), &1.into(), &1.into()), "{set}");
    assert_eq!(lab.inside("node-1", "cat /opt/app/lib/text"), "first\n", "--check wrote");

    let events = lab.events(0, &["push", "LAB", "app"]);
    let set = change_set(&events).unwrap();
    assert_eq!(set["hosts"].as_array().unwrap().len(), 2, "{set}");
    assert_eq!((&set["created"], &set["modified"], &set["removed"]), (&1.into(), &1.into(), &0.into()), "{set}");
    assert_eq!(set["restarted"], serde_json::json!(["app"]));
    let steps: Vec<&str> = events
        .iter()
        .filter(|event| event["event"] == "step" && event["host"] == "node-1" && event["progress"] == "finished")
        .filter_map(|event| event["title"].as_str())
        .collect();
    let pushed = ["sync /opt/app", "run echo reacted >> /srv/reactions", "service_ensure app"];
    assert_eq!(steps[..3], pushed, "a push runs trees and what reacts to them, then probes");
    for (host, before) in hosts.iter().zip(before) {
        assert_eq!(lab.inside(host, "cat /opt/app/lib/text /opt/app/lib/new"), "second\nnew\n");
        assert_eq!(lab.inside(host, "ls /opt/app"), "lib\nrun\n", "what is ignored is not sent");
        assert_eq!(lab.inside(host, "cat /srv/setting"), "by hand\n", "a push leaves the rest alone");
        assert_eq!(starts(host), before + 1, "{host} restarted once");
        assert_eq!(lines(&lab.inside(host, "cat /srv/reactions")), 2);
    }

    let idle = lab.events(0, &["push", "LAB", "app"]);
    assert!(change_set(&idle).is_none(), "nothing changed");
    assert_eq!(summary(&idle)["hosts"][0]["status"], "unchanged");

    // One host only; the other keeps what it has.
    fs_err::remove_file(lab.path("build/lib/new")).unwrap();
    let one = lab.events(0, &["push", "LAB", "app", "--on", "node-2"]);
    assert_eq!(change_set(&one).unwrap()["hosts"], serde_json::json!(["node-2"]));
    assert_eq!(lab.inside("node-1", "ls /opt/app/lib"), "new\ntext\n");
    assert_eq!(lab.inside("node-2", "ls /opt/app/lib"), "text\n");

    let text = lab.expect(0, &["push", "LAB", "app"]).stdout;
    assert!(text.starts_with("app: -1, 0 B in ") && text.contains("to 1 host, restarted app"), "{text}");
}

#[test]
fn a_push_that_cannot_be_says_why() {
    let lab = deployed(TWO_HOSTS);
    let refused = |status: i32, words: &[&str], wanted: &[&str]| {
        let run = lab.expect(status, words);
        for text in wanted {
            assert!(run.stderr.contains(text), "{words:?}: no `{text}` in\n{}", run.stderr);
        }
    };
    refused(20, &["push", "LAB", "ap"], &["ap", "app"]);
    refused(20, &["push", "LAB", "plain"], &["calls no `sync`", "deploy"]);
    refused(20, &["push", "LAB", "plain", "--on", "node-2"], &["on none of the hosts"]);

    fs_err::rename(lab.path("build"), lab.path("elsewhere")).unwrap();
    refused(40, &["push", "LAB", "app"], &["build", "No such file or directory"]);
    assert_eq!(lab.inside("node-1", "ls /opt/app"), "lib\nrun\n", "a missing source deletes nothing");
    fs_err::rename(lab.path("elsewhere"), lab.path("build")).unwrap();

    // A host that is not there does not keep the change from the other one.
    lab.write("build/lib/text", "second\n");
    docker(&["rm", "-f", "-v", &lab.container("node-2")]);
    let run = lab.expect(30, &["push", "LAB", "app"]);
    assert!(run.stderr.contains("node-2") && run.stdout.contains("to 1 host"), "{}\n{}", run.stdout, run.stderr);
    assert_eq!(lab.inside("node-1", "cat /opt/app/lib/text"), "second\n");
}

#[test]
fn explain_names_the_deciding_rule() {
    let lab = TestLab::new("");
    lab.write("tree/.cuisineignore", "*.o\nbuild/\n");
    lab.write("tree/src/.cuisineignore", "!wanted.o\n");
    lab.write("tree/build/x/y", "");
    let explain = |path: &str, more: &[&str]| {
        let path = lab.path(path);
        let words = ["sync", "explain", path.to_str().unwrap()];
        lab.run(&words.iter().chain(more).copied().collect::<Vec<_>>())
    };
    for (path, more, wanted) in [
        ("tree/a.o", &[][..], "a.o: ignored, by `*.o` (.cuisineignore:1)\n"),
        ("tree/src/wanted.o", &[], "src/wanted.o: synced, by `!wanted.o` (src/.cuisineignore:1)\n"),
        ("tree/build/x/y", &[], "build/x/y: ignored with `build`, by `build/` (.cuisineignore:2)\n"),
        ("tree/main.c", &[], "main.c: synced, no rule matches\n"),
        ("tree/main.c", &["--ignore", "*.c"], "main.c: ignored, by `*.c` (parameter)\n"),
    ] {
        let run = explain(path, more);
        assert_eq!((run.stdout.as_str(), run.status), (wanted, 0), "{path}: {}", run.stderr);
    }
    let outside = explain("elsewhere/a.o", &["--root", lab.path("tree").to_str().unwrap()]);
    assert_eq!(outside.status, 20);
    assert!(outside.stderr.contains("is not below"), "{}", outside.stderr);
}
