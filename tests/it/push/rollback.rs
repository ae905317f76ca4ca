//! Release trees with the real program: push, back, and forward again, with what reacts to it.

use crate::{
    push::{change_set, root_of},
    support::lab::TestLab,
};

const INVENTORY: &str = r#"
[host.node]
container = {}

[component.app]
recipe = "app"
hosts = ["node"]
params = { build = "build" }

[component.plain]
recipe = "plain"
hosts = ["node"]
params = { build = "build" }
"#;

const APP: &str = r#"
"""An app whose versions switch at once."""

params(build = param("path", doc = "Tree to push."))

def deploy(ctx):
    build = sync(ctx.params.build, "/opt/app", release = True, keep = 2)
    service_ensure("app", argv = ["/bin/sh", "/opt/app/current/run"], restart_on = [build])
"#;

const PLAIN: &str = r#"
"""A tree without releases."""

params(build = param("path", doc = "Tree to push."))

def deploy(ctx):
    sync(ctx.params.build, "/opt/plain")
"#;

const RUN: &str = "cat /opt/app/current/version >> /srv/starts\nexec sleep 100000\n";

#[test]
fn a_release_switches_at_once_and_back() {
    let lab = TestLab::new(INVENTORY);
    lab.recipe("app", APP);
    lab.recipe("plain", PLAIN);
    lab.write("build/run", RUN);
    lab.write("build/version", "1\n");
    lab.expect(0, &["deploy", "LAB"]);
    let root = root_of(&lab, "node");
    let read = |path: &str| fs_err::read_to_string(root.join(path)).unwrap();
    // An absolute path of the host would be read as one of this machine; the link itself is relative.
    let version = || read("opt/app/current/version");
    assert_eq!(version(), "1\n");

    let nothing = lab.expect(40, &["push", "LAB", "app", "--rollback"]);
    assert!(nothing.stderr.contains("no release"), "{}", nothing.stderr);

    lab.write("build/version", "2\n");
    let set = lab.events(0, &["push", "LAB", "app"]);
    let set = change_set(&set).unwrap();
    assert_eq!((&set["modified"], &set["restarted"][0]), (&1.into(), &"app".into()), "{set}");
    assert_eq!(version(), "2\n");

    let events = lab.events(0, &["push", "LAB", "app", "--rollback", "--check"]);
    assert_eq!(change_set(&events).unwrap()["applied"], false);
    assert_eq!(version(), "2\n");
    let back = lab.expect(0, &["push", "LAB", "app", "--rollback", "--diff"]);
    assert!(back.stdout.contains("current") || back.stderr.contains("current"), "{}{}", back.stdout, back.stderr);
    assert_eq!(version(), "1\n");
    let starts = read("srv/starts");
    assert!(starts.ends_with("2\n1\n"), "the service restarted with what it got: {starts:?}");

    lab.expect(0, &["push", "LAB", "app"]);
    assert_eq!(version(), "2\n", "a push goes forward again");

    let refused = lab.expect(20, &["push", "LAB", "plain", "--rollback"]);
    assert!(refused.stderr.contains("release = True"), "{}", refused.stderr);
    lab.expect(20, &["push", "LAB", "app", "--rollback", "--watch"]);
}
