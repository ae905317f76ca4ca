//! The whole Open vStorage lab of `inventory/ovs-demo.toml`, with stand-ins for what cannot be had, and all that is done
//! to a lab: logins, keys changed by hand, builds pushed, hosts that come, go and die. One test, because the lab takes a
//! while to start.

mod logins;
mod pushes;
mod trouble;
mod volumes;

use std::{process::Command, time::Instant};

use serde_json::Value;

use crate::support::lab::{TestLab, docker, summary};

/// The repository's own demo.
pub(crate) fn ovs_lab() -> TestLab {
    standin_lab("ovs-demo")
}

/// An inventory of the repository, under a lab name of its own. Builds are copied, so that a push may change them.
pub(crate) fn standin_lab(name: &str) -> TestLab {
    let root = env!("CARGO_MANIFEST_DIR");
    let laid_out = Command::new(format!("{root}/scripts/standins")).output().unwrap();
    assert!(laid_out.status.success(), "{}", String::from_utf8_lossy(&laid_out.stderr));
    let demo = fs_err::read_to_string(format!("{root}/inventory/{name}.toml")).unwrap();
    let (_, body) = demo.split_once("[defaults.").expect("the inventory has defaults");
    let lab = TestLab::new(&format!("[defaults.{}", body.replace("../target/standins", "standins")));
    let copied = Command::new("cp").arg("-a").arg(format!("{root}/target/standins")).arg(lab.path("standins")).status();
    assert!(copied.unwrap().success());
    lab
}

impl TestLab {
    /// Changes the inventory's text.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let text = fs_err::read_to_string(self.path("lab.toml")).unwrap();
        assert!(text.contains(from), "the inventory has no `{from}`");
        fs_err::write(self.path("lab.toml"), text.replace(from, to)).unwrap();
    }
}

/// The steps that changed something, as `host: title`, sorted.
pub(crate) fn changed(events: &[Value]) -> Vec<String> {
    let hits = events.iter().filter(|event| event["event"] == "step" && event.to_string().contains("\"changed\""));
    let mut titles: Vec<_> = hits
        .map(|event| format!("{}: {}", event["host"].as_str().unwrap(), event["title"].as_str().unwrap()))
        .collect();
    titles.sort();
    titles
}

/// Every service of ours on every host with its process: what a restart changes.
pub(crate) fn processes(lab: &TestLab) -> Vec<String> {
    let script = "if [ -d /run/systemd/system ]; then \
                      for u in $(systemctl list-units --type=service --state=running --plain --no-legend | cut -d' ' -f1); do \
                          echo \"${u%.service} $(systemctl show -p MainPID --value $u)\"; done; \
                  else for s in /etc/service/*; do \
                      [ -e $s/supervise/pid ] && echo \"${s##*/} $(cat $s/supervise/pid)\"; done; fi";
    let mut found = Vec::new();
    for host in hosts(lab) {
        let lines = lab.inside(&host, script);
        found.extend(lines.lines().map(|line| format!("{host} {line}")));
    }
    found.sort();
    found
}

/// Names of services (`host service`) whose process differs.
pub(crate) fn restarted(before: &[String], after: &[String]) -> Vec<String> {
    let gone = after.iter().filter(|line| !before.contains(line));
    let mut names: Vec<_> = gone.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect();
    names.sort();
    names
}

fn hosts(lab: &TestLab) -> Vec<String> {
    let shown = lab.expect(0, &["inventory", "show", "LAB", "--json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    shown["hosts"].as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_open_vstorage_lab() {
    let lab = ovs_lab();
    trouble::builds_are_looked_at_before_anything_starts(&lab);
    trouble::fuse_is_asked_for_before_anything_is_touched(&lab);
    from_nothing_to_healthy(&lab);
    a_second_deploy_changes_nothing(&lab);
    nodes_know_each_other(&lab);
    logins::each_component_reads_its_own(&lab);
    logins::nobody_reads_anything(&lab);
    logins::etcdctl_says_the_same(&lab);
    volumes::what_one_end_writes_the_other_reads(&lab);
    volumes::objects_go_through_the_proxy(&lab);
    pushes::a_key_reaches_its_component(&lab);
    pushes::a_framework_file_restarts_the_framework(&lab);
    pushes::an_arakoon_build_rolls(&lab);
    pushes::a_volumedriver_build_goes_in_upstreams_order(&lab);
    trouble::nodes_that_are_lost_at_once_are_repaired(&lab);
    trouble::asds_come_and_go(&lab);
    volumes::a_volume_goes_and_comes_back(&lab);
    trouble::another_cluster_is_one_more_component(&lab);
    trouble::etcd_goes_away(&lab);
    trouble::wrong_values_change_nothing(&lab);
    let left = docker(&["ps", "-aq", "--filter", &format!("name=^{}", lab.container(""))]);
    assert!(!left.stdout.is_empty());
    lab.expect(0, &["down", "LAB", "--volumes", "--yes"]);
}

fn from_nothing_to_healthy(lab: &TestLab) {
    let begun = Instant::now();
    let events = lab.events(0, &["deploy", "LAB"]);
    eprintln!("from nothing to healthy: {:.1} s", begun.elapsed().as_secs_f32());
    for component in summary(&events)["components"].as_array().unwrap() {
        assert_eq!(component["healthy"], true, "{component}");
    }
    let rows = lab.expect(0, &["ps", "LAB", "--json"]).events();
    for row in &rows {
        let health = row["health"].as_object().unwrap();
        assert!(health.values().all(|word| word == "healthy"), "{row}");
    }
}

/// The framework drives the volumedrivers' hosts by SSH, and knows them by its keys.
fn nodes_know_each_other(lab: &TestLab) {
    for host in ["vd-fuse", "vd-qemu"] {
        let ssh = format!(
            "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes root@{} cat /etc/openvstorage_id",
            lab.address(host)
        );
        let machine = lab.inside("controller", &format!("su -s /bin/sh ovs -c '{ssh}'"));
        let role = lab.expect(0, &["config", "get", "LAB", &format!("framework/hosts/{}/type", machine.trim())]);
        assert_eq!(role.stdout.trim(), "\"EXTRA\"", "{host}");
    }
}

fn a_second_deploy_changes_nothing(lab: &TestLab) {
    let begun = Instant::now();
    let events = lab.events(0, &["deploy", "LAB"]);
    eprintln!("a second deploy: {:.1} s", begun.elapsed().as_secs_f32());
    assert_eq!(changed(&events), Vec::<String>::new());
    assert_eq!((&summary(&events)["keys_changed"], &summary(&events)["containers_changed"]), (&0.into(), &0.into()));
    lab.expect(0, &["plan", "LAB", "--exit-code"]);
}
