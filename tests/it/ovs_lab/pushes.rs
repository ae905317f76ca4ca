//! What a changed key and a pushed build restart: exactly that, and in that order.

use std::{
    process::{Child, Stdio},
    time::Instant,
};

use serde_json::Value;

use super::{processes, restarted};
use crate::support::{lab::TestLab, wait::wait_for};

/// The process that a service of `ovs-launch` runs, not the launcher.
fn process(lab: &TestLab, host: &str, pattern: &str) -> String {
    lab.inside(host, &format!("pgrep -f -x '{pattern}' || true")).trim().to_owned()
}

fn asd_key(lab: &TestLab, host: &str) -> String {
    let id = lab.inside(host, "ls /mnt/alba-asd/disk-1 | grep -v lost+found | head -n 1");
    format!("alba/asds/{}/config", id.trim())
}

pub(super) fn a_key_reaches_its_component(lab: &TestLab) {
    // A log level is taken on SIGUSR1: the file changes, the process stays.
    let before = processes(lab);
    let asd = "/usr/bin/alba asd-start --config /run/ovs-cuisine/alba-asd-.*";
    let (own, key) = (process(lab, "asd-2", asd), asd_key(lab, "asd-2"));
    assert_eq!(own.lines().count(), 2, "two ASDs: {own}");
    lab.expect(0, &["config", "set", "LAB", &format!("{key}|log_level"), "debug"]);
    let rendered = "grep -l '\"log_level\": *\"debug\"' /run/ovs-cuisine/alba-asd-*/config.json || true";
    wait_for("the rendered file", || (lab.inside("asd-2", rendered).lines().count() == 1).then_some(()));
    wait_for("the ASD's word", || {
        let log = lab.inside("asd-2", "cat /var/log/alba-asd-*/current");
        (log.contains("debug") && log.contains("SIGUSR1") || log.contains("log level")).then_some(())
    });
    assert_eq!(process(lab, "asd-2", asd), own, "told by a signal, not restarted");
    for host in ["asd-1", "asd-3"] {
        assert_eq!(lab.inside(host, rendered), "", "{host} has other keys");
    }
    // A cluster must not lose its quorum by a key: its files are rendered anew, and the next deploy restarts one node after
    // the other.
    let arakoon = "/usr/bin/arakoon --node .*";
    let nodes = ["db-1", "db-2", "db-3"].map(|host| process(lab, host, arakoon));
    let ini = lab.expect(0, &["config", "get", "LAB", "arakoon/ovsdb/config"]).stdout;
    let louder = ini.replace("log_level = info", "log_level = debug");
    assert_ne!(ini, louder);
    lab.expect(0, &["config", "set", "LAB", "arakoon/ovsdb/config", &louder]);
    for host in ["db-1", "db-2", "db-3"] {
        let loud = "grep -l 'log_level = debug' /run/ovs-cuisine/arakoon-*/config.ini || true";
        let wanted = "/run/ovs-cuisine/arakoon-ovsdb/config.ini\n";
        wait_for("a rendered file", || (lab.inside(host, loud) == wanted).then_some(()));
    }
    assert_eq!(["db-1", "db-2", "db-3"].map(|host| process(lab, host, arakoon)), nodes);
    // A volumedriver reads its sections at its start: that one restarts, its neighbours do not.
    let driver = "/usr/bin/volumedriver_fs .*";
    let drivers = || ["vd-fuse", "vd-iscsi", "vd-qemu"].map(|host| process(lab, host, driver));
    let old = drivers();
    let keys = lab.expect(0, &["config", "get", "LAB", "vpools/", "--json"]).events();
    let section = keys.iter().map(|row| row["key"].as_str().unwrap().to_owned()).find(|key| {
        let value = keys.iter().find(|row| row["key"] == key.as_str()).unwrap()["value"].to_string();
        key.ends_with("/volume_manager") && value.contains("vp-qemu")
    });
    lab.expect(0, &["config", "set", "LAB", &format!("{}|clean_interval", section.unwrap()), "2"]);
    wait_for("another volumedriver", || {
        let now = process(lab, "vd-qemu", driver);
        (!now.is_empty() && now != old[2]).then_some(())
    });
    wait_for("its mount", || {
        lab.inside("vd-qemu", "ls /mnt/vp-qemu 2>/dev/null || true").contains("disk1.raw").then_some(())
    });
    assert_eq!(drivers()[..2], old[..2]);
    // Launchers are the same all over: nothing that anybody else runs was restarted either.
    let after: Vec<_> = restarted(&before, &processes(lab));
    let unexpected: Vec<_> = after.iter().filter(|name| !name.contains("heartbeat")).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
    lab.expect(0, &["deploy", "LAB"]);
}

pub(super) fn a_framework_file_restarts_the_framework(lab: &TestLab) {
    let before = processes(lab);
    lab.write("standins/framework/opt/OpenvStorage/webapps/frontend/index.html", "<html>pushed</html>\n");
    lab.expect(0, &["push", "LAB", "controller"]);
    assert_eq!(restarted(&before, &processes(lab)), Vec::<String>::new(), "the frontend is only read");
    lab.inside("controller", "grep pushed /opt/OpenvStorage/webapps/frontend/index.html");

    let file = lab.path("standins/framework/opt/OpenvStorage/ovs/extensions/generic/heartbeat.py");
    let text = fs_err::read_to_string(&file).unwrap();
    fs_err::write(&file, format!("{text}\n# pushed\n")).unwrap();
    lab.expect(0, &["push", "LAB", "controller"]);
    let set = restarted(&before, &processes(lab));
    for unit in ["ovs-watcher-framework", "ovs-workers", "ovs-scheduled-tasks", "ovs-webapp-api", "memcached"] {
        assert!(set.contains(&format!("controller {unit}")), "{unit} is of the set: {set:?}");
    }
    for unit in ["nginx", "rabbitmq-server", "redis-server", "etcd-v2", "ssh"] {
        assert!(!set.iter().any(|name| name == &format!("controller {unit}")), "{unit} is not: {set:?}");
    }
    assert!(set.iter().all(|name| name.starts_with("controller ")), "{set:?}");
}

/// Asks a cluster again and again whether it can make progress, from a host that is not one of its own.
struct Watch(Child);

impl Watch {
    fn begin(lab: &TestLab) -> Self {
        let script = "while :; do /usr/bin/arakoon --expect-progress-possible -config /run/ovs-cuisine/arakoon-ovsdb/config.ini \
                      >/dev/null 2>&1 && echo yes || echo no; sleep 0.1; done";
        let mut command = std::process::Command::new("docker");
        command.args(["exec", &lab.container("db-1"), "timeout", "120", "sh", "-c", script]);
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn end(mut self, lab: &TestLab) -> Vec<String> {
        lab.inside("db-1", "pkill -f '[e]xpect-progress-possible'; pkill -x timeout; true");
        self.0.kill().unwrap();
        let output = self.0.wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }
}

pub(super) fn an_arakoon_build_rolls(lab: &TestLab) {
    let binary = lab.path("standins/arakoon/usr/bin/arakoon");
    let mut build = fs_err::read(&binary).unwrap();
    build.extend_from_slice(b"another build");
    fs_err::write(&binary, build).unwrap();
    let watch = Watch::begin(lab);
    let begun = Instant::now();
    let events = lab.events(0, &["push", "LAB", "ovsdb"]);
    eprintln!("an arakoon build on three nodes: {:.1} s", begun.elapsed().as_secs_f32());
    let seen = watch.end(lab);
    let mut turns = Vec::new();
    for event in &events {
        let host = event["host"].as_str().unwrap_or_default();
        let restarted = event["event"] == "step"
            && event["title"] == "service_ensure arakoon-ovsdb"
            && event.to_string().contains("\"changed\"");
        if restarted {
            turns.push((host, "restarted"));
        } else if event["event"] == "health" && event["component"] == "ovsdb" {
            assert_eq!(event["healthy"], true, "{event}");
            turns.push((host, "healthy"));
        }
    }
    assert_eq!(turns.len(), 6, "{turns:?}");
    for pair in turns.chunks(2) {
        assert!(pair[0].0 == pair[1].0 && pair[0].1 == "restarted", "one after another: {turns:?}");
    }
    // A majority was there at each moment; a change of the master takes the store a moment, so a few may say no.
    let no = seen.iter().filter(|word| *word == "no").count();
    assert!(seen.len() > 10 && no * 3 < seen.len(), "{no} of {} said no", seen.len());
    // The same build for all others that have it: each restarts its own, though the tree is there already.
    let build = lab.path("standins/arakoon");
    let events = lab.events(0, &["push", "LAB", "--build", build.to_str().unwrap()]);
    let services: Vec<&Value> = events
        .iter()
        .filter(|event| event["event"] == "step" && event.to_string().contains("\"changed\""))
        .map(|event| &event["title"])
        .filter(|title| title.as_str().unwrap().starts_with("service_ensure"))
        .collect();
    assert!(services.iter().any(|title| title.as_str().unwrap().contains("arakoon-voldrv")), "{services:?}");
    assert!(services.iter().any(|title| title.as_str().unwrap().contains("mybackend-abm")), "{services:?}");
    assert!(!services.iter().any(|title| title.as_str().unwrap().contains("arakoon-ovsdb")), "{services:?}");
    let nothing = lab.expect(0, &["push", "LAB", "ovsdb,voldrv,backend"]);
    assert!(!nothing.stderr.contains("restarted"), "{nothing:?}");
}

/// Volumedrivers, then DTLs, then who imports the Python extension: the order of an update upstream, though volumedrivers
/// need their DTLs.
pub(super) fn a_volumedriver_build_goes_in_upstreams_order(lab: &TestLab) {
    let extension = "usr/lib/python2.7/dist-packages/volumedriver/storagerouter/storagerouterclient.py";
    let file = lab.path(&format!("standins/volumedriver/{extension}"));
    let text = fs_err::read_to_string(&file).unwrap();
    fs_err::write(&file, format!("{text}\n# pushed\n")).unwrap();
    let before = processes(lab);
    let build = lab.path("standins/volumedriver");
    let events = lab.events(0, &["push", "LAB", "--build", build.to_str().unwrap()]);
    let order: Vec<_> = events
        .iter()
        .filter(|event| event["event"] == "component-finished")
        .map(|event| event["component"].as_str().unwrap())
        .collect();
    assert_eq!(order, ["vd-fuse", "vd-iscsi", "vd-qemu", "dtl-fuse", "dtl-iscsi", "dtl-qemu", "controller"]);
    let set = restarted(&before, &processes(lab));
    let flavours = ["fuse", "iscsi", "qemu"];
    for name in flavours.map(|flavour| format!("vd-{flavour} ovs-volumedriver_vp-{flavour}")) {
        assert!(set.contains(&name), "{name}: {set:?}");
    }
    for name in flavours.map(|flavour| format!("vd-{flavour} ovs-dtl_vp-{flavour}")) {
        assert!(set.contains(&name), "{name}: {set:?}");
    }
    let importers: Vec<_> = set.iter().filter(|name| name.starts_with("controller ")).collect();
    assert_eq!(importers, ["controller ovs-webapp-api", "controller ovs-workers"]);
    assert!(set.iter().all(|name| name.starts_with("controller ") || name.starts_with("vd-")), "{set:?}");
    assert!(!set.iter().any(|name| name.contains("albaproxy")), "{set:?}");
}
