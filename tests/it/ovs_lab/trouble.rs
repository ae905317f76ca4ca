//! What goes wrong in a lab, and hosts that come, go and die.

use super::{changed, volumes};
use crate::support::{
    lab::{TestLab, docker, summary},
    wait::wait_for,
};

fn is_there(lab: &TestLab) -> bool {
    let found = docker(&["ps", "-aq", "--filter", &format!("name=^{}", lab.container(""))]);
    !found.stdout.is_empty()
}

pub(super) fn builds_are_looked_at_before_anything_starts(lab: &TestLab) {
    lab.edit("standins/arakoon\"", "nowhere\"");
    let missing = lab.expect(20, &["deploy", "LAB"]);
    assert!(
        missing.stderr.contains("is not a directory") && missing.stderr.contains("Root of an arakoon build"),
        "{missing:?}"
    );
    lab.edit("nowhere\"", "standins/alba\"");
    let wrong = lab.expect(20, &["deploy", "LAB"]);
    assert!(wrong.stderr.contains("has no `usr/bin/arakoon`"), "{wrong:?}");
    lab.edit("build = \"standins/alba\", cluster", "build = \"standins/arakoon\", cluster");
    lab.edit("build = \"standins/alba\"\nalba_build", "build = \"standins/arakoon\"\nalba_build");
    assert!(!is_there(lab), "nothing was started");
}

/// A container that cannot mount: told before anything is installed in it, whatever component comes first.
pub(super) fn fuse_is_asked_for_before_anything_is_touched(lab: &TestLab) {
    let (with, without) = ("[host.vd-fuse]\ncontainer = { fuse = true, ", "[host.vd-fuse]\ncontainer = { ");
    lab.edit(with, without);
    let refused = lab.expect(20, &["deploy", "LAB", "--on", "vd-fuse"]);
    for part in ["vd-fuse has no /dev/fuse", "fuse = true", "recipes/volumedriver/recipe.star:"] {
        assert!(refused.stderr.contains(part), "{refused:?}");
    }
    assert_eq!(lab.inside("vd-fuse", "ls /opt /etc/ovs-cuisine /etc/service 2>/dev/null | grep -i ovs || true"), "");
    lab.edit(without, with);
    lab.expect(0, &["down", "LAB", "--volumes", "--yes"]);
    assert!(!is_there(lab));
}

pub(super) fn nodes_that_are_lost_at_once_are_repaired(lab: &TestLab) {
    let stored = |host: &str| lab.inside(host, "ls /opt/OpenvStorage/db/arakoon/ovsdb/db | wc -l");
    assert_ne!(stored("db-2").trim(), "0");
    let set =
        "su -s /bin/sh ovs -c '/usr/bin/arakoon --set KEY VALUE -config /run/ovs-cuisine/arakoon-ovsdb/config.ini'";
    lab.inside("db-1", &set.replace("KEY VALUE", "kept safe"));
    // The ABM knows ASDs by the address that they had when they were claimed, and keys hold addresses.
    let lost = ["asd-3", "db-2", "asd-2"];
    let addresses = lost.map(|host| lab.address(host));
    let containers = lost.map(|host| lab.container(host));
    let gone: Vec<&str> = ["rm", "-f"].into_iter().chain(containers.iter().map(String::as_str)).collect();
    assert!(docker(&gone).status.success());
    let planned = lab.events(0, &["plan", "LAB"]);
    assert_eq!((&summary(&planned)["containers_changed"], &summary(&planned)["keys_changed"]), (&3.into(), &0.into()));
    let repaired = lab.events(0, &["deploy", "LAB"]);
    assert_eq!(lost.map(|host| lab.address(host)), addresses);
    assert_eq!(
        (&summary(&repaired)["containers_changed"], &summary(&repaired)["keys_changed"]),
        (&3.into(), &0.into())
    );
    let get = set.replace("--set KEY VALUE", "--get kept");
    assert_eq!(lab.inside("db-2", &get).trim(), "safe", "the cluster and its data");
    volumes::the_object_is_still_there(lab);
    lab.expect(0, &["deploy", "LAB"]);
}

pub(super) fn asds_come_and_go(lab: &TestLab) {
    lab.edit("[host.\"asd-[1-3]\"]", "[host.\"asd-[1-4]\"]");
    let grown = lab.events(0, &["deploy", "LAB"]);
    let touched: Vec<_> =
        changed(&grown).into_iter().filter(|title| title.contains("service_ensure alba-asd")).collect();
    assert!(touched.len() == 2 && touched.iter().all(|title| title.starts_with("asd-4:")), "{touched:?}");
    let keys = lab.expect(0, &["config", "get", "LAB", "alba/asds/"]).stdout;
    assert_eq!(keys.matches("\"asd_id\"").count(), 8);
    lab.edit("[host.\"asd-[1-4]\"]", "[host.\"asd-[1-3]\"]");
    lab.expect(0, &["deploy", "LAB"]);
    let keys = lab.expect(0, &["config", "get", "LAB", "alba/asds/"]).stdout;
    assert_eq!(keys.matches("\"asd_id\"").count(), 6, "its keys went");
    let known = lab.inside(
        "asd-1",
        "LD_LIBRARY_PATH=/usr/lib/alba /usr/bin/alba list-osds --config /opt/ovs-cuisine/started/asd.abm.ini --to-json",
    );
    assert_eq!(known.matches("long_id").count(), 6, "decommissioned: {known}");
    volumes::the_object_is_still_there(lab);
    let running = docker(&["ps", "-q", "--filter", &format!("name=^{}$", lab.container("asd-4"))]);
    assert!(running.stdout.is_empty(), "its container is stopped");
    lab.expect(0, &["deploy", "LAB", "--prune"]);
    let left = docker(&["ps", "-aq", "--filter", &format!("name=^{}$", lab.container("asd-4"))]);
    assert!(left.stdout.is_empty(), "and gone when asked for");
}

pub(super) fn another_cluster_is_one_more_component(lab: &TestLab) {
    let text = fs_err::read_to_string(lab.path("lab.toml")).unwrap();
    let more = "\n[component.extra]\nrecipe = \"arakoon\"\nhosts = [\"db-*\"]\nneeds = [\"etcd\"]\nserial = 1\n\
                params = { build = \"standins/arakoon\", cluster = \"extra\", client_port = 26420 }\n";
    fs_err::write(lab.path("lab.toml"), format!("{text}{more}")).unwrap();
    lab.expect(0, &["deploy", "LAB"]);
    lab.inside(
        "db-3",
        "su -s /bin/sh ovs -c '/usr/bin/arakoon --who-master -config /run/ovs-cuisine/arakoon-extra/config.ini'",
    );
    fs_err::write(lab.path("lab.toml"), text).unwrap();
    lab.expect(0, &["deploy", "LAB", "--prune"]);
    lab.expect(20, &["config", "get", "LAB", "arakoon/extra/config"]);
    assert_eq!(lab.inside("db-3", "pgrep -f '[b]in/arakoon .*extra' || true"), "");
}

pub(super) fn etcd_goes_away(lab: &TestLab) {
    // Nothing needs it while it runs.
    let before = super::processes(lab);
    lab.inside("etcd", "sv -w 10 force-stop etcd");
    lab.edit("client_port = 26404 }", "client_port = 26404, log_level = \"debug\" }");
    let down = lab.expect(30, &["config", "set", "LAB", "framework/rdma", "true"]);
    assert!(down.stderr.contains("does not answer"), "{down:?}");
    let only = lab.run(&["deploy", "LAB", "--only", "voldrv"]);
    assert!(only.status >= 30 && only.stderr.contains("etcd"), "{only:?}");
    let mut touched = super::restarted(&before, &super::processes(lab));
    // The agent's watcher is there to notice just this, and is started again until etcd is back; so is the agent, which is
    // bound to it.
    let watches = |name: &str| name.ends_with(" asd-watcher") || name.ends_with(" asd-manager");
    touched.retain(|name| name != "etcd etcd" && !watches(name));
    assert_eq!(touched, Vec::<String>::new(), "nothing was touched");
    // A whole deploy starts it again and goes on from there.
    lab.expect(0, &["deploy", "LAB"]);
    wait_for("the new level", || {
        let rendered = lab.inside("db-1", "cat /run/ovs-cuisine/arakoon-voldrv/config.ini");
        rendered.contains("log_level = debug").then_some(())
    });
}

pub(super) fn wrong_values_change_nothing(lab: &TestLab) {
    let keys = lab.expect(0, &["config", "get", "LAB"]).stdout;
    let before = super::processes(lab);
    for (from, to, why) in [
        ("volumes = [\"/mnt/alba-asd/disk-1\", \"/mnt/alba-asd/disk-2\"]", "volumes = [\"disk-1\"]", "mount points"),
        ("trigger_gap = \"128MB\"", "trigger_gap = \"512MB\"", "backoff_gap"),
        ("limit_memlock = \"\"     #", "limit_memlock = \"\"\nsettings = { colour = \"red\" } #", "colour"),
    ] {
        lab.edit(from, to);
        let run = lab.run(&["deploy", "LAB"]);
        assert!(run.status != 0 && run.stderr.contains(why), "{to}: {run:?}");
        assert_eq!(lab.expect(0, &["config", "get", "LAB"]).stdout, keys, "{to}: no key was touched");
        let mut touched = super::restarted(&before, &super::processes(lab));
        // One that comes and goes every minute.
        touched.retain(|name| !name.contains("heartbeat"));
        assert_eq!(touched, Vec::<String>::new(), "{to}: no service was touched");
        lab.edit(to, from);
    }
    assert_eq!(
        changed(&lab.events(0, &["deploy", "LAB"])),
        Vec::<String>::new(),
        "mended, and nothing was left behind"
    );
    // A disk that is larger than its cache has room for: the volumedriver says so, and the probe shows it.
    lab.inside("vd-fuse", "cat /mnt/vp-fuse/disk1.raw > /dev/null");
    let full = "dd if=/dev/zero of=/mnt/vp-fuse/full.raw bs=1M count=1200 2>&1 || true";
    assert!(lab.inside("vd-fuse", full).contains("No space left on device"));
    lab.inside("vd-fuse", "rm /mnt/vp-fuse/full.raw");
}
