//! The volumedriver stand-in: checks at its start, a real mount, the edge, the registry through Python.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Output},
};

use fs_err::os::unix::fs::FileExt as _;
use serde_json::{Value, json};

use crate::{
    alba::Backend,
    arakoon::Cluster,
    stage::{DTL, DTL_HELPER, Running, Stage, VOLUMEDRIVER, failed, free_ports, printed, until},
};

/// A volumedriver with its arakoon, registered or not.
struct Volumes {
    running: Option<Running>,
    arakoon: Cluster,
    config: Value,
    /// message, xmlrpc, dtl, edge, mds
    ports: [u16; 5],
    arakoon_port: u16,
    stage: Stage,
}

/// Another volumedriver of the same cluster: own ports and directories, in the directory of the first.
struct Second {
    running: Option<Running>,
    ports: [u16; 5],
}

const CLUSTER: &str = "5f0c0000-0000-4000-8000-000000000001";

fn ask(port: u16, request: &Value) -> Value {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    writeln!(stream, "{request}").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

impl Volumes {
    fn prepare() -> Self {
        let stage = Stage::new();
        let [client, messaging] = free_ports();
        let arakoon = Cluster::running(&stage, "voldrv", &[client, messaging], &[]);
        let ports = free_ports::<5>();
        for directory in ["sco", "backend", "mnt", "dtl"] {
            stage.make_dir(directory);
        }
        let nodes = json!([{"node_id": "voldrv-n1", "host": "127.0.0.1", "port": client}]);
        let path = |name: &str| stage.text_path(name);
        let config = json!({
            "backend_connection_manager": {"backend_type": "LOCAL", "local_connection_path": path("backend")},
            "content_addressed_cache": {"read_cache_serialization_path": path("rsp"), "clustercache_mount_points": []},
            "scocache": {"scocache_mount_points": [{"path": path("sco"), "size": "8MiB"}], "trigger_gap": "1MB", "backoff_gap": "2MB"},
            "distributed_transaction_log": {"dtl_path": path("dtl"), "dtl_transport": "TCP"},
            "filesystem": {"fs_virtual_disk_format": "raw", "fs_raw_disk_suffix": ".raw", "fs_enable_network_interface": 1, "fs_max_open_files": 1024},
            "volume_manager": {"tlog_path": path("tlog"), "metadata_path": path("md"), "clean_interval": 1,
                "required_tlog_freespace": "1MiB", "required_meta_freespace": "1MiB"},
            "volume_router": {"vrouter_id": "vp1n1", "vrouter_min_workers": "4"},
            "volume_router_cluster": {"vrouter_cluster_id": CLUSTER},
            "volume_registry": {"vregistry_arakoon_cluster_id": "voldrv", "vregistry_arakoon_cluster_nodes": nodes},
            "distributed_lock_store": {"dls_type": "Arakoon", "dls_arakoon_cluster_id": "voldrv", "dls_arakoon_cluster_nodes": nodes},
            "metadata_server": {"mds_nodes": [{"host": "127.0.0.1", "port": ports[4], "db_directory": path("mds"), "scratch_directory": path("mds")}]},
            "file_driver": {"fd_cache_path": path("fd"), "fd_namespace": format!("fd-vp1-{CLUSTER}")},
            "network_interface": {"network_uri": "tcp://127.0.0.1:1"},
        });
        Self { running: None, arakoon, config, ports, arakoon_port: client, stage }
    }

    /// The same, where this machine can mount.
    fn mountable() -> Option<Self> {
        if Path::new("/dev/fuse").exists() {
            return Some(Self::prepare());
        }
        eprintln!("not run: this machine has no /dev/fuse");
        None
    }

    /// Registers the node through the Python module, and reads it back.
    fn register(&self) {
        let [message, xmlrpc, dtl, edge, _] = self.ports;
        Self::python(&format!(
            "registry = ClusterRegistry('{CLUSTER}', 'voldrv', [ArakoonNodeConfig('voldrv-n1', '127.0.0.1', {})])\n\
             registry.set_node_configs([ClusterNodeConfig('vp1n1', '127.0.0.1', {message}, {xmlrpc}, {dtl}, 'tcp://127.0.0.1:{edge}')])\n\
             assert registry.get_node_configs()[0].xmlrpc_port == {xmlrpc}\n",
            self.arakoon_port
        ));
    }

    fn python(text: &str) -> String {
        let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("volumedriver/usr/lib/python2.7/dist-packages");
        let text = format!("from volumedriver.storagerouter.storagerouterclient import *\n{text}");
        let mut python = Command::new("python3");
        python.args(["-B", "-c", &text]).env("PYTHONPATH", module).env("no_proxy", "*");
        printed(&python.output().unwrap())
    }

    fn command(&self) -> Command {
        let config = self.stage.write("config.json", &self.config.to_string());
        let mut command = Command::new(VOLUMEDRIVER);
        command
            .args(["-f", "--config", &config, "--lock-file", &self.stage.text_path("lock"), "--logrotation"])
            .args(["--mountpoint", &self.stage.text_path("mnt"), "--logsink", "console:"])
            .args(["-o", "big_writes", "-o", "sync_read", "-o", "allow_other", "-o", "use_ino"])
            .args(["-o", "default_permissions", "-o", "uid=1234", "-o", "gid=1235", "-o", "umask=0002"])
            .env("METADATASTORE_BITS", "6");
        command
    }

    /// Why it does not start.
    fn refusal(&self) -> String {
        failed(&self.command().output().unwrap(), 1)
    }

    fn mount(&mut self) {
        let mut command = self.command();
        self.mount_by(&mut command);
    }

    fn mount_by(&mut self, command: &mut Command) {
        let mount = self.stage.path("mnt");
        let outside = fs_err::metadata(&mount).unwrap().dev();
        let log = self.stage.path("volumedriver.out");
        let mut running = Running::start(command, &log);
        until("it is mounted", || {
            assert!(running.child.try_wait().unwrap().is_none(), "{}", running.said());
            fs_err::metadata(&mount).is_ok_and(|metadata| metadata.dev() != outside)
        });
        self.running = Some(running);
    }

    fn unmount(&mut self) -> Option<i32> {
        let mount = self.stage.text_path("mnt");
        printed(&Command::new("fusermount").args(["-u", &mount]).output().unwrap());
        self.running.take().unwrap().code()
    }

    fn edge(&self, request: &Value) -> Value {
        ask(self.ports[3], request)
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        if self.running.take().is_some() {
            // Lazily: what a failed test left open must not keep the mount.
            Command::new("umount").args(["-l", &self.stage.text_path("mnt")]).status().ok();
        }
        Command::new("umount").args(["-q", "-l", &self.stage.text_path("mnt2")]).status().ok();
    }
}

#[test]
fn a_block_written_at_one_end_is_read_at_the_other_and_survives_a_restart() {
    let Some(mut volumes) = Volumes::mountable() else { return };
    volumes.register();
    volumes.mount();
    let disk = volumes.stage.path("mnt/disk1.raw");
    printed(&Command::new("truncate").args(["-s", "10G"]).arg(&disk).output().unwrap());
    let file = fs_err::OpenOptions::new().read(true).write(true).open(&disk).unwrap();
    file.write_all_at(b"from the mount", 1 << 30).unwrap();
    file.sync_all().unwrap();
    let read = volumes.edge(&json!({"op": "read", "volume": "disk1", "offset": 1 << 30, "length": 14}));
    assert_eq!(read, json!({"ok": true, "value": "ZnJvbSB0aGUgbW91bnQ="}));
    let write = json!({"op": "write", "volume": "disk1", "offset": 4096, "data": "ZWRnZQ=="});
    assert_eq!(volumes.edge(&write)["ok"], true);
    let mut block = [0; 4];
    file.read_exact_at(&mut block, 4096).unwrap();
    assert_eq!(&block, b"edge");
    drop(file);

    let metadata = fs_err::metadata(&disk).unwrap();
    assert_eq!(
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o777, metadata.len()),
        (1234, 1235, 0o775, 10 << 30)
    );
    let list = format!(
        "print(StorageRouterClient('{CLUSTER}', [ClusterContact('127.0.0.1', {})]).list_volumes())",
        volumes.ports[1]
    );
    assert_eq!(Volumes::python(&list), "['disk1']");
    for port in [0, 4] {
        assert_eq!(ask(volumes.ports[port], &json!({"op": "hello"}))["ok"], true);
    }
    // Two with one lock file do not run.
    assert!(volumes.refusal().contains("failed to lock"));
    // It is stopped by unmounting, and by nothing else that is asked politely.
    let running = volumes.running.as_ref().unwrap();
    for signal in ["TERM", "HUP"] {
        running.signal(signal);
    }
    until("the signals are logged", || running.said().matches("use fusermount -u").count() == 2);
    assert_eq!(volumes.unmount(), Some(0));
    volumes.mount();
    let mut block = [0; 4];
    fs_err::File::open(&disk).unwrap().read_exact_at(&mut block, 4096).unwrap();
    assert_eq!(&block, b"edge");
    assert_eq!(volumes.unmount(), Some(0));
}

impl Volumes {
    /// Registers two nodes, the first one with the transaction log at this port.
    fn register_two(&self, second: [u16; 5], log_port: u16) {
        let node = |name: &str, [message, xmlrpc, _, edge, _]: [u16; 5], log: u16| {
            format!("ClusterNodeConfig('{name}', '127.0.0.1', {message}, {xmlrpc}, {log}, 'tcp://127.0.0.1:{edge}')")
        };
        Self::python(&format!(
            "registry = ClusterRegistry('{CLUSTER}', 'voldrv', [ArakoonNodeConfig('voldrv-n1', '127.0.0.1', {})])\n\
             registry.set_node_configs([{}, {}])\n",
            self.arakoon_port,
            node("vp1n1", self.ports, log_port),
            node("vp1n2", second, second[2]),
        ));
    }

    /// Has the node that is managed at this port read the registry.
    fn tell(port: u16) {
        Self::python(&format!(
            "StorageRouterClient('{CLUSTER}', [ClusterContact('127.0.0.1', {port})]).update_cluster_node_configs('')"
        ));
    }

    /// Starts the second node, with a mount and directories of its own.
    fn second(&self, ports: [u16; 5]) -> Second {
        let path = |name: &str| self.stage.text_path(name);
        for directory in ["sco2", "mnt2", "dtl2"] {
            self.stage.make_dir(directory);
        }
        let mut config = self.config.clone();
        for (pointer, value) in [
            ("/content_addressed_cache/read_cache_serialization_path", json!(path("rsp2"))),
            ("/scocache/scocache_mount_points/0/path", json!(path("sco2"))),
            ("/volume_manager/tlog_path", json!(path("tlog2"))),
            ("/volume_manager/metadata_path", json!(path("md2"))),
            ("/volume_router/vrouter_id", json!("vp1n2")),
            ("/metadata_server/mds_nodes/0/port", json!(ports[4])),
            ("/metadata_server/mds_nodes/0/db_directory", json!(path("mds2"))),
            ("/metadata_server/mds_nodes/0/scratch_directory", json!(path("mds2"))),
            ("/file_driver/fd_cache_path", json!(path("fd2"))),
            ("/filesystem/fs_raw_disk_suffix", json!(".raw")),
        ] {
            *config.pointer_mut(pointer).unwrap() = value;
        }
        config["filesystem"]["fs_dtl_config_mode"] = json!("Automatic");
        let config = self.stage.write("config2.json", &config.to_string());
        let mount = self.stage.path("mnt2");
        let outside = fs_err::metadata(&mount).unwrap().dev();
        let mut command = Command::new(VOLUMEDRIVER);
        command.args(["-f", "--config", &config, "--lock-file", &path("lock2"), "--mountpoint", &path("mnt2")]);
        command.args(["--logsink", "console:"]).env("METADATASTORE_BITS", "6");
        let mut running = Running::start(&mut command, &self.stage.path("second.out"));
        until("the second is mounted", || {
            assert!(running.child.try_wait().unwrap().is_none(), "{}", running.said());
            fs_err::metadata(&mount).is_ok_and(|metadata| metadata.dev() != outside)
        });
        Second { running: Some(running), ports }
    }
}

impl Second {
    fn unmount(&mut self, volumes: &Volumes) {
        printed(&Command::new("fusermount").args(["-u", &volumes.stage.text_path("mnt2")]).output().unwrap());
        assert_eq!(self.running.take().unwrap().code(), Some(0));
    }
}

#[test]
fn a_volume_belongs_to_one_node_and_the_others_reach_it_there() {
    let Some(mut volumes) = Volumes::mountable() else { return };
    volumes.register();
    volumes.mount();
    let (first, mount) = (volumes.stage.path("mnt/disk1.raw"), volumes.stage.path("mnt2"));
    printed(&Command::new("truncate").args(["-s", "1M"]).arg(&first).output().unwrap());
    // The one that runs learns of the other only when it is told.
    let ports = free_ports::<5>();
    volumes.register_two(ports, volumes.arakoon_port);
    let mut second = volumes.second(ports);
    let disk = mount.join("disk1.raw");
    assert_eq!(fs_err::metadata(&disk).unwrap().len(), 1 << 20);
    assert_eq!(
        fs_err::read_dir(&mount).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(),
        ["disk1.raw"]
    );
    let file = fs_err::OpenOptions::new().read(true).write(true).open(&disk).unwrap();
    file.write_all_at(b"from the second", 5000).unwrap();
    let mut block = [0; 15];
    fs_err::File::open(&first).unwrap().read_exact_at(&mut block, 5000).unwrap();
    assert_eq!(&block, b"from the second");
    drop(file);
    // By the edge of either.
    let read = json!({"op": "read", "volume": "disk1", "offset": 5000, "length": 4});
    assert_eq!(ask(second.ports[3], &read), json!({"ok": true, "value": "ZnJvbQ=="}));
    assert_eq!(ask(second.ports[3], &json!({"op": "list"}))["value"], json!(["disk1"]));
    assert_eq!(ask(second.ports[3], &json!({"op": "create", "volume": "disk1", "size": 1}))["ok"], false);
    let again = fs_err::OpenOptions::new().write(true).create_new(true).open(&disk).unwrap_err();
    assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);

    printed(&Command::new("truncate").args(["-s", "2M"]).arg(mount.join("disk2.raw")).output().unwrap());
    let there = volumes.stage.path("mnt/disk2.raw");
    assert!(fs_err::metadata(&there).is_err(), "nobody told the first of the second");
    Volumes::tell(volumes.ports[1]);
    assert_eq!(fs_err::metadata(&there).unwrap().len(), 2 << 20);
    printed(&Command::new("truncate").args(["-s", "3M"]).arg(&there).output().unwrap());
    assert_eq!(fs_err::metadata(mount.join("disk2.raw")).unwrap().len(), 3 << 20);
    let said = || second.running.as_ref().unwrap().said();
    until("it looks for a log", || said().contains("DTL: none, 1 other nodes are registered"));

    // One that is away keeps its volumes to itself, and has them when it is back.
    second.unmount(&volumes);
    let away = failed(&Command::new("stat").arg(&there).env("LC_ALL", "C").output().unwrap(), 1);
    assert!(away.contains("Input/output error"), "{away}");
    let mut second = volumes.second(ports);
    assert_eq!(fs_err::metadata(&there).unwrap().len(), 3 << 20);
    fs_err::remove_file(&there).unwrap();
    assert!(!mount.join("disk2.raw").exists());
    second.unmount(&volumes);
    assert_eq!(volumes.unmount(), Some(0));
}

#[test]
fn what_nobody_knows_is_logged_and_stops_nothing() {
    let Some(mut volumes) = Volumes::mountable() else { return };
    volumes.register();
    volumes.config["colours"] = json!({"red": 1});
    volumes.config["volume_manager"]["hue"] = json!(3);
    volumes.mount();
    let said = volumes.running.as_ref().unwrap().said();
    let unknown: Vec<&str> =
        said.lines().filter_map(|line| line.split_once("unknown parameter ")).map(|(_, rest)| rest).collect();
    assert_eq!(unknown, ["colours in the configuration: ignored", "volume_manager.hue in the configuration: ignored"]);
    assert_eq!(volumes.unmount(), Some(0));
}

#[test]
fn the_mount_is_a_file_system_like_others_and_can_be_full() {
    let Some(mut volumes) = Volumes::mountable() else { return };
    volumes.register();
    volumes.mount();
    let mount = volumes.stage.path("mnt");
    let at = |name: &str| mount.join(name);
    fs_err::create_dir(at("dir")).unwrap();
    fs_err::write(at("dir/a"), "one").unwrap();
    fs_err::rename(at("dir"), at("other")).unwrap();
    fs_err::write(at("other/b"), "two").unwrap();
    fs_err::rename(at("other/b"), at("other/a")).unwrap();
    assert_eq!(fs_err::read_to_string(at("other/a")).unwrap(), "two");
    assert!(!at("dir").exists());
    let error = fs_err::remove_dir(at("other")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::DirectoryNotEmpty);
    // A file without a name lives as long as it is open.
    let open = fs_err::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(at("gone")).unwrap();
    fs_err::remove_file(at("gone")).unwrap();
    open.write_all_at(b"still", 0).unwrap();
    assert_eq!(open.metadata().unwrap().len(), 5);
    drop(open);

    let full = fs_err::write(at("large"), vec![1; 9 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let used = printed(&Command::new("stat").args(["-f", "-c", "%b %S %f"]).arg(&mount).output().unwrap());
    let numbers: Vec<u64> = used.split(' ').map(|number| number.parse().unwrap()).collect();
    assert_eq!(numbers[0] * numbers[1], 8 << 20);
    assert!(numbers[2] * numbers[1] < 1 << 20, "{used}");
    fs_err::remove_file(at("large")).unwrap();
    fs_err::write(at("large"), vec![1; 6 << 20]).unwrap();
    // Blocks that are there can be written again, also when no new ones fit.
    fs_err::write(at("more"), vec![1; 1 << 20]).unwrap();
    let again = fs_err::OpenOptions::new().write(true).open(at("large")).unwrap();
    again.write_all_at(&vec![2; 4 << 20], 0).unwrap();
    drop(again);
    let names: Vec<_> = fs_err::read_dir(&mount).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(volumes.unmount(), Some(0));
}

#[test]
fn a_mount_whose_program_was_killed_is_stale() {
    let Some(mut volumes) = Volumes::mountable() else { return };
    volumes.register();
    volumes.mount();
    volumes.running.as_mut().unwrap().end("KILL");
    let refusal = volumes.refusal();
    assert!(refusal.contains("mnt': Transport endpoint is not connected"), "{refusal}");
    printed(&Command::new("umount").args(["-l", &volumes.stage.text_path("mnt")]).output().unwrap());
    volumes.running = None;
    volumes.mount();
    assert_eq!(volumes.unmount(), Some(0));
}

#[test]
fn what_is_missing_or_wrong_is_said_before_anything_is_mounted() {
    let mut volumes = Volumes::prepare();
    assert!(volumes.refusal().contains(&format!("cluster not registered: {CLUSTER}")));
    volumes.register();
    let good = volumes.config.clone();
    for (pointer, value, said) in [
        ("/volume_router/vrouter_id", json!("vp1n9"), "vp1n9 is not registered"),
        (
            "/volume_manager/clean_interval",
            Value::Null,
            "No value for required parameter volume_manager.clean_interval",
        ),
        ("/scocache/trigger_gap", json!("0"), "larger than 0"),
        ("/scocache/trigger_gap", json!("3MB"), "backoff_gap must not be smaller"),
        ("/scocache/scocache_mount_points/0/size", json!("900TiB"), "the file system has"),
        ("/scocache/scocache_mount_points/0/path", json!("/absent"), "/absent is not a directory"),
        ("/volume_manager/required_tlog_freespace", json!("900TiB"), "bytes are free"),
        ("/filesystem/fs_max_open_files", json!(1_u64 << 40), "max number of open files"),
        ("/filesystem/fs_raw_disk_suffix", json!(""), "fs_raw_disk_suffix"),
        ("/backend_connection_manager/local_connection_path", json!("/absent"), "local backend: /absent"),
        ("/volume_registry/vregistry_arakoon_cluster_id", json!("other"), "wrong cluster"),
    ] {
        volumes.config = good.clone();
        *volumes.config.pointer_mut(pointer).unwrap() = value;
        let refusal = volumes.refusal();
        assert!(refusal.contains(said), "{pointer}: {refusal}");
    }
    volumes.config = good;
    fs_err::remove_file(volumes.stage.path("md/stand-in.started")).ok();
    volumes.stage.write("sco/left", "");
    assert!(volumes.refusal().contains("is not empty"));
    fs_err::remove_file(volumes.stage.path("sco/left")).unwrap();
    let words = |words: &[&str]| failed(&Command::new(VOLUMEDRIVER).args(words).output().unwrap(), 1);
    assert!(words(&["-f", "--config", "etcd://127.0.0.1/x", "--mountpoint", "/"]).contains("--lock-file"));
    assert!(words(&["-f", "--config", "file:///x", "--mountpoint", "/"]).contains("Unsupported config location"));
    assert!(words(&["-f", "--config", "/x"]).contains("--mountpoint"));
    assert!(words(&["-o", "bigwrites"]).contains("fuse: unknown option `bigwrites'"));
    assert!(volumes.arakoon.get(&format!("{CLUSTER}/cluster_configuration")).contains("vp1n1"));
}

#[test]
fn an_alba_backend_must_answer_and_gets_the_name_space() {
    let backend = Backend::ready(1);
    let Some(mut volumes) = Volumes::mountable() else { return };
    volumes.register();
    let alba = |port: u16| {
        json!({"backend_type": "MULTI", "0": {
            "backend_type": "ALBA", "alba_connection_host": "127.0.0.1", "alba_connection_port": port,
            "alba_connection_preset": "default", "backend_interface_retries_on_error": 1, "backend_interface_retry_interval_secs": 0,
        }})
    };
    volumes.config["backend_connection_manager"] = alba(free_ports::<1>()[0]);
    assert!(volumes.refusal().contains("alba proxy at 127.0.0.1"));
    volumes.config["backend_connection_manager"] = alba(backend.proxy_port);
    // Any listener will do for a broker.
    let broker = volumes.arakoon_port;
    volumes.config["event_publisher"] =
        json!({"events_amqp_uris": [{"amqp_uri": format!("amqp://ovs:secret@127.0.0.1:{broker}")}]});
    volumes.mount();
    let running = volumes.running.as_ref().unwrap();
    until("the broker is seen", || running.said().contains(&format!("event publisher: 127.0.0.1:{broker} listens")));
    assert!(!running.said().contains("secret"));
    let namespaces = ask(backend.proxy_port, &json!({"op": "list_namespaces"}));
    assert_eq!(namespaces["value"][0]["name"], format!("fd-vp1-{CLUSTER}"));
    assert_eq!(volumes.unmount(), Some(0));
}

#[test]
fn the_helper_starts_the_transaction_log_where_the_registry_says() {
    let volumes = Volumes::prepare();
    volumes.register();
    let config = volumes.stage.write("config.json", &volumes.config.to_string());
    let log = volumes.stage.path("dtl.out");
    let mut dtl = Running::start(Command::new(DTL_HELPER).args(["--config", &config, "--logsink", "console:"]), &log);
    let port = volumes.ports[2];
    until("it listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    assert_eq!(ask(port, &json!({"op": "hello"}))["value"], "failovercache stand-in");
    let run = |words: &[&str]| -> Output { Command::new(DTL).args(words).output().unwrap() };
    let second = ["--path", &volumes.stage.text_path("dtl"), "--address", "127.0.0.1", "--port", &port.to_string()];
    assert!(failed(&run(&second), 1).contains("cannot listen"));
    assert_eq!(dtl.end("TERM"), Some(0));
    assert!(failed(&run(&["--path", "/absent"]), 1).contains("/absent"));
    assert!(failed(&run(&["--transport", "UDP"]), 1).contains("neither TCP nor RSocket"));
}

#[test]
fn the_sections_are_read_from_a_directory_of_a_real_etcd() {
    let Some(mut volumes) = Volumes::mountable() else { return };
    volumes.register();
    let [client, peer] = free_ports();
    let url = format!("http://127.0.0.1:{client}");
    let mut etcd = Command::new("etcd");
    etcd.args(["--enable-v2", "--data-dir", &volumes.stage.text_path("etcd"), "--listen-client-urls", &url]).args([
        "--advertise-client-urls",
        &url,
        "--listen-peer-urls",
        &format!("http://127.0.0.1:{peer}"),
    ]);
    let _etcd = Running::start(&mut etcd, &volumes.stage.path("etcd.out"));
    let set = |key: &str, value: &Value| {
        let mut set = Command::new("etcdctl");
        set.args(["--endpoints", &url, "set", key, &value.to_string()]).env("ETCDCTL_API", "2");
        set.output().unwrap().status.success()
    };
    until("etcd takes values", || set("/ovs/vpools/vp1/leaf", &json!({})));
    for (section, value) in volumes.config.as_object().unwrap() {
        assert!(set(&format!("/ovs/vpools/vp1/config/{section}"), value));
    }
    let start = |path: &str| {
        let mut command = volumes.command();
        let location = format!("etcd://lab:secret@127.0.0.1:{client}/ovs/vpools/vp1/{path}");
        command.args(["--config", &location]);
        command
    };
    assert!(failed(&start("leaf").output().unwrap(), 1).contains("config subsections"));
    assert!(failed(&start("absent").output().unwrap(), 1).contains("Key not found"));
    let mut command = start("config");
    volumes.mount_by(&mut command);
    assert_eq!(volumes.unmount(), Some(0));
}
