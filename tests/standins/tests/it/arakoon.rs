//! Clusters of the arakoon stand-in on loopback.

use std::{
    fmt::Write as _,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
};

use crate::stage::{ARAKOON, Running, Stage, failed, free_ports, printed, run, until};

/// A cluster whose nodes are started one by one.
pub(crate) struct Cluster {
    pub(crate) config: String,
    names: Vec<String>,
    nodes: Vec<Option<Running>>,
}

/// What a plugin file holds, as `scripts/standins` writes it.
const PLUGIN: &str = "arakoon stand-in 1.9.15\n";

impl Cluster {
    /// Writes the ini of a cluster and makes its directories.
    pub(crate) fn prepare(stage: &Stage, id: &str, ports: &[u16], plugins: &[&str]) -> Self {
        let names: Vec<String> = (1..=ports.len() / 2).map(|number| format!("{id}-n{number}")).collect();
        let mut ini = format!("[global]\ncluster = {}\ncluster_id = {id}\n", names.join(","));
        if !plugins.is_empty() {
            writeln!(ini, "plugins = {}", plugins.join(" ")).unwrap();
        }
        for (name, ports) in names.iter().zip(ports.chunks(2)) {
            let home = stage.make_dir(&format!("{name}/db"));
            let tlogs = stage.make_dir(&format!("{name}/tlogs"));
            for plugin in plugins {
                stage.write(&format!("{name}/db/{plugin}.cmxs"), PLUGIN);
            }
            let crash = stage.text_path(&format!("{name}/crash"));
            writeln!(
                ini,
                "\n[{name}]\nname = {name}\nip = 127.0.0.1\nclient_port = {}\nmessaging_port = {}\nhome = {home}\n\
                 tlog_dir = {tlogs}\nlog_level = debug\nlog_sinks = console:\ncrash_log_sinks = {crash}\n\
                 tlog_compression = snappy\nfsync = true",
                ports[0], ports[1]
            )
            .unwrap();
        }
        let config = stage.write(&format!("{id}.ini"), &ini);
        let nodes = names.iter().map(|_| None).collect();
        Self { config, names, nodes }
    }

    pub(crate) fn start(&mut self, stage: &Stage, node: usize) {
        let name = &self.names[node];
        let mut command = Command::new(ARAKOON);
        command.args(["--node", name, "-config", &self.config, "-autofix", "-start"]);
        self.nodes[node] = Some(Running::start(&mut command, &stage.path(&format!("{name}.out"))));
    }

    /// A cluster that has a master.
    pub(crate) fn running(stage: &Stage, id: &str, ports: &[u16], plugins: &[&str]) -> Self {
        let mut cluster = Self::prepare(stage, id, ports, plugins);
        for node in 0..cluster.names.len() {
            cluster.start(stage, node);
        }
        cluster.await_master();
        cluster
    }

    pub(crate) fn ask(&self, words: &[&str]) -> std::process::Output {
        run(ARAKOON, &[words, &["-config", &self.config]].concat())
    }

    pub(crate) fn await_master(&self) -> usize {
        let who = || {
            let who = self.ask(&["--who-master"]);
            who.status.success().then(|| String::from_utf8(who.stdout).unwrap().trim().to_owned())
        };
        let mut master = None;
        // The same before and after an answer: right after a change some still name the old one.
        until("there is a master", || {
            let before = who();
            let is_up = before.is_some() && self.ask(&["--nop"]).status.success();
            master = before.as_ref().and_then(|name| self.names.iter().position(|known| known == name));
            is_up && before == who()
        });
        master.unwrap()
    }

    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].take().unwrap().end("KILL");
    }

    pub(crate) fn get(&self, key: &str) -> String {
        printed(&self.ask(&["--get", key]))
    }

    pub(crate) fn set(&self, key: &str, value: &str) {
        printed(&self.ask(&["--set", key, value]));
    }
}

#[test]
fn a_cluster_survives_the_loss_of_its_master_and_takes_it_back() {
    let stage = Stage::new();
    let mut cluster = Cluster::running(&stage, "ovsdb", &free_ports::<6>(), &[]);
    cluster.set("a", "1");
    assert_eq!(printed(&cluster.ask(&["--expect-progress-possible"])), "true");
    let master = cluster.await_master();
    cluster.kill(master);
    let second = cluster.await_master();
    assert_ne!(second, master);
    assert_eq!(cluster.get("a"), "1");
    cluster.set("b", "2");
    cluster.start(&stage, master);
    let name = cluster.names[master].clone();
    until("the lost node follows", || {
        let statistics: serde_json::Value = serde_json::from_str(&printed(&cluster.ask(&["--statistics"]))).unwrap();
        statistics["node_is"].as_object().unwrap().values().all(|entries| *entries == statistics["i"])
            && printed(&cluster.ask(&["--node-state", &name])) == "Slave_steady_state"
    });
    // What it missed it has: with it and without the second master, everything is there.
    cluster.kill(second);
    cluster.await_master();
    assert_eq!((cluster.get("a"), cluster.get("b")), ("1".to_owned(), "2".to_owned()));
}

#[test]
fn without_a_majority_there_is_no_master_and_no_answer() {
    let stage = Stage::new();
    let mut cluster = Cluster::running(&stage, "ovsdb", &free_ports::<6>(), &[]);
    cluster.set("a", "1");
    let master = cluster.await_master();
    for node in (0..3).filter(|node| *node != master) {
        cluster.kill(node);
    }
    until("the master knows", || !cluster.ask(&["--who-master"]).status.success());
    assert!(failed(&cluster.ask(&["--who-master"]), 1).contains("quorum"));
    assert!(!cluster.ask(&["--get", "a"]).status.success());
    assert!(!cluster.ask(&["--set", "a", "2"]).status.success());
    cluster.start(&stage, (master + 1) % 3);
    cluster.await_master();
    assert_eq!(cluster.get("a"), "1");
}

#[test]
fn everything_killed_at_once_loses_nothing_that_was_answered() {
    let stage = Stage::new();
    let mut cluster = Cluster::running(&stage, "voldrv", &free_ports::<6>(), &[]);
    for number in 0..20 {
        cluster.set(&format!("k{number}"), &number.to_string());
    }
    (0..3).for_each(|node| cluster.kill(node));
    (0..3).for_each(|node| cluster.start(&stage, node));
    cluster.await_master();
    for number in 0..20 {
        assert_eq!(cluster.get(&format!("k{number}")), number.to_string());
    }
}

#[test]
fn the_first_of_the_cluster_becomes_master_or_the_preferred_one() {
    let stage = Stage::new();
    let cluster = Cluster::running(&stage, "one", &free_ports::<6>(), &[]);
    assert_eq!(cluster.await_master(), 0);
    let mut cluster = Cluster::prepare(&stage, "two", &free_ports::<6>(), &[]);
    let ini = fs_err::read_to_string(&cluster.config).unwrap();
    fs_err::write(&cluster.config, ini.replace("[global]", "[global]\npreferred_masters = two-n3")).unwrap();
    (0..2).for_each(|node| cluster.start(&stage, node));
    assert_eq!(cluster.await_master(), 0);
    cluster.start(&stage, 2);
    until("the preferred master has taken over", || cluster.await_master() == 2);
}

#[test]
fn a_value_may_come_from_stdin_and_an_absent_key_is_an_error() {
    let stage = Stage::new();
    let cluster = Cluster::running(&stage, "ovsdb", &free_ports::<2>(), &[]);
    let mut set = Command::new(ARAKOON)
        .args(["--set-raw", "__ovs_config", "-config", &cluster.config])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    set.stdin.take().unwrap().write_all(b"[global]\nx = 1\n").unwrap();
    assert!(set.wait().unwrap().success());
    assert_eq!(cluster.get("__ovs_config"), "[global]\nx = 1");
    failed(&cluster.ask(&["--get", "absent"]), 1);
    assert!(printed(&run(ARAKOON, &["--version"])).contains("stand-in"));
}

/// The exit code of a node that does not start.
fn refusal(cluster: &mut Cluster, stage: &Stage) -> (Option<i32>, String) {
    cluster.start(stage, 0);
    let mut node = cluster.nodes[0].take().unwrap();
    let code = node.code();
    (code, node.said())
}

#[test]
fn a_node_that_cannot_start_says_why_in_its_exit_code() {
    let stage = Stage::new();
    let mut cluster = Cluster::prepare(&stage, "abm", &free_ports::<2>(), &["albamgr_plugin"]);
    let plugin = stage.path("abm-n1/db/albamgr_plugin.cmxs");
    fs_err::write(&plugin, "of another build").unwrap();
    let (code, said) = refusal(&mut cluster, &stage);
    assert_eq!(code, Some(66));
    assert!(said.contains("undefined symbol: camlArakoon_config_url"), "{said}");
    fs_err::remove_file(&plugin).unwrap();
    assert_eq!(refusal(&mut cluster, &stage).0, Some(66));
    fs_err::write(&plugin, PLUGIN).unwrap();
    fs_err::remove_dir(stage.path("abm-n1/tlogs")).unwrap();
    assert_eq!(refusal(&mut cluster, &stage).0, Some(43));
    stage.make_dir("abm-n1/tlogs");
    stage.write("abm-n1/db/abm-n1.db", "{");
    assert_eq!(refusal(&mut cluster, &stage).0, Some(45));
    stage.write("abm-n1/db/abm-n1.db", r#"{"term":1,"voted":null,"applied":7}"#);
    assert_eq!(refusal(&mut cluster, &stage).0, Some(40));
    fs_err::remove_dir_all(stage.path("abm-n1/db")).unwrap();
    assert_eq!(refusal(&mut cluster, &stage).0, Some(44));
}

/// What becomes of a node whose files of a life with data were damaged in these ways.
#[test]
fn damaged_files_are_told_apart() {
    let stage = Stage::new();
    let mut cluster = Cluster::running(&stage, "fwk", &free_ports::<2>(), &[]);
    for key in ["a", "b", "c"] {
        cluster.set(key, "1");
    }
    assert_eq!(cluster.nodes[0].as_mut().unwrap().end("TERM"), Some(0));
    let (tlog, store) = (stage.path("fwk-n1/tlogs/000.tlog"), stage.path("fwk-n1/db/fwk-n1.db"));
    let (log, kept) = (fs_err::read_to_string(&tlog).unwrap(), fs_err::read_to_string(&store).unwrap());
    let lines: Vec<&str> = log.split_inclusive('\n').collect();
    let without = |places: std::ops::Range<usize>| -> String {
        lines.iter().enumerate().filter(|(place, _)| !places.contains(place)).map(|(_, line)| *line).collect()
    };
    assert!(lines.len() > 4, "{log}");
    let mut ends = |log: Option<&str>, kept: Option<&str>| {
        let put = |path: &std::path::Path, text: Option<&str>| match text {
            Some(text) => fs_err::write(path, text).unwrap(),
            None => fs_err::remove_file(path).unwrap(),
        };
        put(&tlog, log);
        put(&store, kept);
        let ended = refusal(&mut cluster, &stage);
        put(&tlog, Some(""));
        put(&store, Some(""));
        ended
    };
    let last = lines.len() - 1;
    // The tlogs are gone, or their end is.
    assert_eq!(ends(None, Some(&kept)).0, Some(40));
    let (code, said) = ends(Some(&without(1..last)), Some(&kept));
    assert_eq!(code, Some(40), "{said}");
    // Their beginning is gone, and the store is older than what is left.
    let old = r#"{"term":1,"voted":null,"applied":1}"#;
    let (code, said) = ends(Some(&without(0..2)), Some(old));
    assert!(code == Some(41) && said.contains("counter is too low"), "{said}");
    assert_eq!(ends(Some(&without(0..2)), None).0, Some(41), "without a store, too");
    // Something in between is gone.
    let (code, said) = ends(Some(&without(1..2)), Some(old));
    assert!(code == Some(66) && said.contains("corrupt"), "{said}");
    // The store is no store, or half of one.
    for damaged in ["", "\0\0\0\0", &kept[..kept.len() / 2]] {
        assert_eq!(ends(Some(&log), Some(damaged)).0, Some(45), "{damaged:?}");
    }
    // Not closed, for who does not mend it.
    fs_err::write(&tlog, without(last..last + 1)).unwrap();
    fs_err::write(&store, &kept).unwrap();
    let config = cluster.config.clone();
    failed(&run(ARAKOON, &["--node", "fwk-n1", "-config", &config]), 42);
    // As it was, it starts and has everything; as an earlier version wrote it, too.
    let bare = lines.iter().map(|line| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        line.as_object_mut().map(|members| members.remove("i"));
        if line.is_null() { "closed\n".to_owned() } else { format!("{line}\n") }
    });
    for text in [log.clone(), bare.collect()] {
        fs_err::write(&tlog, text).unwrap();
        fs_err::write(&store, &kept).unwrap();
        // Somebody may have taken the old ports meanwhile.
        let mut cluster = Cluster::prepare(&stage, "fwk", &free_ports::<2>(), &[]);
        cluster.start(&stage, 0);
        cluster.await_master();
        assert_eq!(cluster.get("c"), "1");
        cluster.kill(0);
    }
}

#[test]
fn a_log_that_was_not_closed_needs_autofix() {
    let stage = Stage::new();
    let mut cluster = Cluster::running(&stage, "ovsdb", &free_ports::<2>(), &[]);
    cluster.set("a", "1");
    cluster.kill(0);
    let config = cluster.config.clone();
    let without = ["--node", "ovsdb-n1", "-config", &config];
    failed(&run(ARAKOON, &without), 42);
    cluster.start(&stage, 0);
    cluster.await_master();
    assert_eq!(cluster.nodes[0].as_mut().unwrap().end("TERM"), Some(0));
    let node = Running::start(Command::new(ARAKOON).args(without), &stage.path("again"));
    cluster.await_master();
    assert_eq!(cluster.get("a"), "1");
    drop(node);
}

#[test]
fn sigusr1_opens_the_log_anew_and_a_ping_names_the_node() {
    let stage = Stage::new();
    let [client, messaging] = free_ports();
    let mut cluster = Cluster::prepare(&stage, "ovsdb", &[client, messaging], &[]);
    let ini = fs_err::read_to_string(&cluster.config).unwrap();
    fs_err::write(&cluster.config, ini.replace("console:", &stage.text_path("log"))).unwrap();
    cluster.start(&stage, 0);
    cluster.await_master();
    fs_err::rename(stage.path("log"), stage.path("log.1")).unwrap();
    cluster.nodes[0].as_ref().unwrap().signal("USR1");
    until("there is a new log", || stage.path("log").exists());
    cluster.nodes[0].take().unwrap().end("TERM");
    assert!(fs_err::read_to_string(stage.path("log")).unwrap().contains("stops"));
    let port = client.to_string();
    failed(&run(ARAKOON, &["--ping", "ovsdb", "127.0.0.1", &port]), 1);
    cluster.start(&stage, 0);
    cluster.await_master();
    let hello = printed(&run(ARAKOON, &["--ping", "ovsdb", "127.0.0.1", &port]));
    assert!(hello.contains("stand-in") && hello.contains("ovsdb-n1"), "{hello}");
    assert!(failed(&run(ARAKOON, &["--ping", "voldrv", "127.0.0.1", &port]), 1).contains("wrong cluster"));
}

#[test]
fn a_node_catches_up_without_taking_part() {
    let stage = Stage::new();
    let mut cluster = Cluster::prepare(&stage, "ovsdb", &free_ports::<6>(), &[]);
    (0..2).for_each(|node| cluster.start(&stage, node));
    cluster.await_master();
    (0..5).for_each(|number| cluster.set("k", &number.to_string()));
    let third = ["--node", "ovsdb-n3", "-config", &cluster.config, "-catchup-only"];
    printed(&run(ARAKOON, &third));
    let tlog = fs_err::read_to_string(stage.path("ovsdb-n3/tlogs/000.tlog")).unwrap();
    assert!(tlog.contains("[\"k\",\"4\"]") && tlog.ends_with("closed\n"), "{tlog}");
}

#[test]
fn etcdctl_is_forked_for_a_configuration_in_etcd() {
    let stage = Stage::new();
    let cluster = Cluster::running(&stage, "ovsdb", &free_ports::<2>(), &[]);
    let script = format!(
        "#!/bin/sh\n[ \"$*\" = '--peers=10.9.9.9:6379 get --quorum /ovs/arakoon/ovsdb/config' ] || exit 9\ncat {}; echo\n",
        cluster.config
    );
    let etcdctl = stage.write("etcdctl", &script);
    fs_err::set_permissions(&etcdctl, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", stage.dir.path().display(), std::env::var("PATH").unwrap());
    let url = "etcd://lab:secret@10.9.9.9/ovs/arakoon/ovsdb/config";
    let asked = Command::new(ARAKOON).args(["--who-master", "-config", url]).env("PATH", path).output().unwrap();
    assert_eq!(printed(&asked), "ovsdb-n1");
}
