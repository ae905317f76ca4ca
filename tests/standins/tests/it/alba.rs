//! An object's way through the alba stand-in: ABM and NSM, ASDs, proxy and maintenance.

use std::{
    net::TcpStream,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::{
    arakoon::Cluster,
    stage::{ALBA, Running, Stage, failed, free_ports, printed, until},
};

/// A backend on loopback.
pub(crate) struct Backend {
    abm: Cluster,
    nsm: Cluster,
    asds: Vec<Running>,
    asd_ports: Vec<u16>,
    pub(crate) proxy_port: u16,
    daemons: Vec<Running>,
    /// Last: the logs are shown before their directory goes.
    pub(crate) stage: Stage,
}

fn alba(stage: &Stage) -> Command {
    let mut command = Command::new(ALBA);
    command.env("LD_LIBRARY_PATH", stage.path("lib")).env("OVS_STANDIN_PERIOD_SECS", "1");
    command
}

fn with_libraries() -> Stage {
    let stage = Stage::new();
    stage.make_dir("lib");
    for library in ["libJerasure.so.2", "libgf_complete.so.1", "librocksdb.so.4", "libisal.so.2", "libgobjfs.so"] {
        stage.write(&format!("lib/{library}"), "stand-in");
    }
    stage
}

impl Backend {
    /// ABM and NSM with masters, ASDs on two nodes, a proxy and a maintenance agent; nothing registered yet.
    fn started(asds: usize) -> Self {
        let stage = with_libraries();
        let abm = Cluster::running(&stage, "abm", &free_ports::<2>(), &["albamgr_plugin"]);
        let nsm = Cluster::running(&stage, "nsm", &free_ports::<2>(), &["nsm_host_plugin"]);
        let [proxy_port] = free_ports();
        let mut backend =
            Self { stage, abm, nsm, asds: Vec::new(), asd_ports: Vec::new(), proxy_port, daemons: Vec::new() };
        (0..asds).for_each(|number| backend.start_asd(number));
        let stage = &backend.stage;
        let copy = stage.write("proxy-abm", &fs_err::read_to_string(&backend.abm.config).unwrap());
        let proxy = json!({"log_level": "info", "port": proxy_port, "ips": ["127.0.0.1"], "albamgr_cfg_url": copy});
        let proxy = stage.write("proxy", &proxy.to_string());
        let maintenance = json!({"log_level": "info", "albamgr_cfg_url": backend.abm.config});
        let maintenance = stage.write("maintenance", &maintenance.to_string());
        for (command, config) in [("proxy-start", proxy), ("maintenance", maintenance)] {
            let mut daemon = alba(stage);
            daemon.args([command, "--config", &config, "--log-sink", "console:"]);
            backend.daemons.push(Running::start(&mut daemon, &stage.path(&format!("{command}.out"))));
        }
        until("the proxy listens", || TcpStream::connect(("127.0.0.1", proxy_port)).is_ok());
        until("maintenance has started", || backend.daemons[1].said().contains("starts"));
        backend
    }

    fn start_asd(&mut self, number: usize) {
        let [port] = free_ports();
        let home = self.stage.make_dir(&format!("asd{number}"));
        let config = json!({
            "node_id": format!("node{}", number % 2), "asd_id": format!("asd{number}"), "home": home, "log_level": "info",
            "ips": ["127.0.0.1"], "port": port, "capacity": 64 << 20, "multicast": null,
        });
        let config = self.stage.write(&format!("asd{number}.json"), &config.to_string());
        let mut daemon = alba(&self.stage);
        daemon.args(["asd-start", "--config", &config, "--log-sink", "console:"]);
        self.asds.push(Running::start(&mut daemon, &self.stage.path(&format!("asd{number}.out"))));
        self.asd_ports.push(port);
        until("the asd listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    fn manager(&self, words: &[&str]) -> Output {
        alba(&self.stage).args(words).env("ALBA_CONFIG", &self.abm.config).output().unwrap()
    }

    fn json(&self, words: &[&str]) -> Value {
        let answer: Value = serde_json::from_str(&printed(&self.manager(&[words, &["--to-json"]].concat()))).unwrap();
        assert_eq!(answer["success"], true, "{answer}");
        answer["result"].clone()
    }

    fn proxy(&self, words: &[&str]) -> Output {
        let port = self.proxy_port.to_string();
        alba(&self.stage).args(words).args(["-h", "127.0.0.1", "-p", &port]).output().unwrap()
    }

    fn add(&self, number: usize) {
        let (port, node) = (self.asd_ports[number].to_string(), format!("node{}", number % 2));
        let added = self.json(&["add-osd", "-h", "127.0.0.1", "-p", &port, "--node-id", &node]);
        assert_eq!(added["long_id"], format!("asd{number}"));
        self.json(&["claim-osd", "--long-id", &format!("asd{number}")]);
    }

    /// A backend that takes objects.
    pub(crate) fn ready(asds: usize) -> Self {
        let backend = Self::started(asds);
        printed(&backend.manager(&["add-nsm-host", &backend.nsm.config]));
        (0..asds).for_each(|number| backend.add(number));
        until("the claims have reached the asds", || {
            let osds = backend.json(&["list-osds"]);
            osds.as_array().unwrap().iter().all(|osd| osd["delivered"] == true)
        });
        backend
    }

    fn upload(&self, name: &str, content: &[u8]) -> Output {
        fs_err::write(self.stage.path("up"), content).unwrap();
        self.proxy(&["proxy-upload-object", "demo", &self.stage.text_path("up"), name])
    }

    fn download(&self, name: &str) -> Vec<u8> {
        printed(&self.proxy(&["proxy-download-object", "demo", name, &self.stage.text_path("down")]));
        fs_err::read(self.stage.path("down")).unwrap()
    }
}

#[test]
fn an_object_survives_the_loss_of_an_asd_and_its_decommissioning() {
    let mut backend = Backend::ready(5);
    printed(&backend.proxy(&["proxy-create-namespace", "demo"]));
    let content: Vec<u8> = (0_u32..700_000).flat_map(u32::to_le_bytes).collect();
    printed(&backend.upload("one", &content));
    assert_eq!(backend.download("one"), content);
    // One after the other, also when fewer are left than a chunk has fragments.
    for (gone, left) in [("asd1", 4), ("asd2", 3)] {
        assert!(fs_err::read_dir(backend.stage.path(gone).join("blobs")).unwrap().next().is_some());
        printed(&backend.manager(&["decommission-osd", "--long-id", gone]));
        until("the asd is gone", || !backend.json(&["list-osds"]).to_string().contains(gone));
        assert_eq!(backend.json(&["list-decommissioning-osds"]), json!([]));
        assert_eq!(backend.json(&["list-osds"]).as_array().unwrap().len(), left);
        drop(backend.asds.remove(1));
        assert_eq!(backend.download("one"), content);
    }
    // One that dies without a word: what the others have is enough to read, but too few to write.
    drop(backend.asds.remove(0));
    assert_eq!(backend.download("one"), content);
    let said = failed(&backend.upload("two", b"x"), 2);
    assert!(said.contains("Too few OSDs"), "{said}");
}

#[test]
fn without_enough_asds_no_policy_can_be_satisfied() {
    let backend = Backend::ready(2);
    printed(&backend.proxy(&["proxy-create-namespace", "demo"]));
    assert!(failed(&backend.upload("one", b"x"), 2).contains("No_satisfiable_policy"));
    let preset = backend.stage.write("preset", r#"{"policies":[[1,1,2,1]],"fragment_size":65536}"#);
    let made = alba(&backend.stage)
        .args(["create-preset", "lab", "--config", &backend.abm.config])
        .stdin(fs_err::File::open(preset).unwrap().into_parts().0)
        .output()
        .unwrap();
    printed(&made);
    printed(&backend.manager(&["preset-set-default", "lab"]));
    printed(&backend.proxy(&["proxy-create-namespace", "second"]));
    let up = backend.stage.write("file", "hello");
    printed(&backend.proxy(&["proxy-upload-object", "second", &up, "k"]));
    printed(&backend.proxy(&["proxy-download-object", "second", "k", &backend.stage.text_path("down")]));
    assert_eq!(fs_err::read_to_string(backend.stage.path("down")).unwrap(), "hello");
}

#[test]
fn failures_are_told_by_exit_code_or_in_json() {
    let backend = Backend::started(1);
    failed(&backend.proxy(&["proxy-create-namespace", "demo"]), 2);
    let claim = ["claim-osd", "--long-id", "asd9"];
    assert!(failed(&backend.manager(&claim), 2).contains("Osd_unknown"));
    let output = backend.manager(&[&claim[..], &["--to-json"]].concat());
    let answer: Value = serde_json::from_str(&printed(&output)).unwrap();
    assert_eq!(answer["success"], false);
    assert!(answer["error"]["message"].as_str().unwrap().contains("Osd_unknown"));
    assert!(answer["error"]["exception_type"].is_string() && answer["error"]["exception_code"].is_u64());
    // The defaults of the real ones: ::1 for a proxy, nobody for an ASD.
    failed(&alba(&backend.stage).args(["asd-get-version", "-p", "1"]).output().unwrap(), 2);
    failed(&alba(&backend.stage).arg("frobnicate").output().unwrap(), 124);
    failed(&alba(&backend.stage).args(["get-alba-id", "--loud"]).output().unwrap(), 124);
    printed(&backend.manager(&["add-nsm-host", &backend.nsm.config]));
    assert!(failed(&backend.manager(&["add-nsm-host", &backend.nsm.config]), 2).contains("already_exists"));
    let port = backend.asd_ports[0].to_string();
    for probe in ["asd-get-version", "asd-statistics", "asd-disk-usage"] {
        printed(&alba(&backend.stage).args([probe, "-h", "127.0.0.1", "-p", &port]).output().unwrap());
    }
    for probe in ["proxy-get-version", "proxy-statistics", "proxy-osd-info", "proxy-list-namespaces"] {
        printed(&backend.proxy(&[probe]));
    }
    for probe in ["get-alba-id", "mgr-get-version", "list-nsm-hosts", "get-maintenance-config", "list-presets"] {
        backend.json(&[probe]);
    }
    assert_eq!(backend.json(&["nsm-host-statistics", "nsm"])["objects"], 0);
}

#[test]
fn an_asd_is_full_when_its_capacity_is_used_and_takes_a_new_one_on_sigusr1() {
    let backend = Backend::ready(3);
    printed(&backend.proxy(&["proxy-create-namespace", "demo"]));
    let large = vec![7; 3 << 20];
    let resize = |capacity: u64| {
        for (number, asd) in backend.asds.iter().enumerate() {
            let path = backend.stage.path(&format!("asd{number}.json"));
            let mut config: Value = serde_json::from_str(&fs_err::read_to_string(&path).unwrap()).unwrap();
            config["capacity"] = json!(capacity);
            config["log_level"] = json!("debug");
            fs_err::write(&path, config.to_string()).unwrap();
            let before = asd.said().matches("read again").count();
            asd.signal("USR1");
            until("the asd has read it", || asd.said().matches("read again, log level debug").count() > before);
        }
    };
    resize(1 << 20);
    let said = failed(&backend.upload("large", &large), 2);
    assert!(said.contains("Full"), "{said}");
    resize(64 << 20);
    printed(&backend.upload("large", &large));
    assert_eq!(backend.download("large"), large);
}

#[test]
fn the_proxy_replaces_its_copy_of_the_managers_configuration() {
    let backend = Backend::started(0);
    until("the server's members are gone from the copy", || {
        let copy = fs_err::read_to_string(backend.stage.path("proxy-abm")).unwrap();
        copy.contains("cluster_id = abm") && copy.contains("client_port") && !copy.contains("home")
    });
    printed(&backend.proxy(&["proxy-list-namespaces"]));
    backend.json(&["update-abm-client-config"]);
    assert!(backend.json(&["get-abm-client-config"]).as_str().unwrap().contains("client_port"));
}

#[test]
fn proxy_and_maintenance_read_their_configuration_again_on_sigusr1() {
    let backend = Backend::started(0);
    for (daemon, config) in backend.daemons.iter().zip(["proxy", "maintenance"]) {
        let path = backend.stage.path(config);
        let mut settings: Value = serde_json::from_str(&fs_err::read_to_string(&path).unwrap()).unwrap();
        settings["log_level"] = json!("debug");
        fs_err::write(&path, settings.to_string()).unwrap();
        daemon.signal("USR1");
        until("it has read it", || daemon.said().contains("read again, log level debug"));
        // What cannot be read changes nothing.
        fs_err::write(&path, "{}").unwrap();
        daemon.signal("USR1");
        until("it has refused it", || daemon.said().contains("configuration not taken"));
    }
    printed(&backend.proxy(&["proxy-get-version"]));
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    let stage = with_libraries();
    let start = |command: &str, config: &Value| {
        let config = stage.write("config", &config.to_string());
        alba(&stage).args([command, "--config", &config]).output().unwrap()
    };
    let home = stage.text_path("absent");
    let asd = json!({"node_id": "n", "home": home, "log_level": "info", "port": 1});
    assert!(failed(&start("asd-start", &asd), 2).contains("not a directory that I can write"));
    let mut strict = asd;
    strict["comment"] = json!("x");
    assert!(failed(&start("asd-start", &strict), 2).contains("unknown field `comment`"));
    let maintenance = json!({"log_level": "info", "albamgr_cfg_url": "/absent"});
    assert!(failed(&start("maintenance", &maintenance), 2).contains("/absent"));
    fs_err::remove_file(stage.path("lib/libJerasure.so.2")).unwrap();
    assert!(
        failed(&start("maintenance", &maintenance), 127).contains("error while loading shared libraries: libJerasure")
    );
}
