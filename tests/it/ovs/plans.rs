//! Services, files and keys of each component, as the programs want them.

use std::collections::BTreeMap;

use ovs_cuisine::plan::{Content, LaunchDescription, ListenPort, OnChange, Op, Plan};
use serde_json::Value;

use super::lab::Lab;

/// Components of the demo lab whose programs start by `launch()`, with a host of each.
const LAUNCHED: [(&str, &str); 10] = [
    ("ovsdb", "db-1"),
    ("voldrv", "db-2"),
    ("backend", "db-1"),
    ("asd", "asd-1"),
    ("maintenance", "asd-1"),
    ("proxy-fuse", "vd-fuse"),
    ("dtl-fuse", "vd-fuse"),
    ("vd-fuse", "vd-fuse"),
    ("vd-iscsi", "vd-iscsi"),
    ("vd-qemu", "vd-qemu"),
];

fn launches(lab: &Lab, component: &str, host: &str) -> Vec<LaunchDescription> {
    lab.deploy(component, host).launches.into_iter().map(|launch| launch.description).collect()
}

fn line(description: &LaunchDescription) -> String {
    description.argv.join(" ")
}

fn services(plan: &Plan) -> BTreeMap<String, Option<u64>> {
    let found = plan.steps.iter().filter_map(|step| match &step.op {
        Op::ServiceEnsure(service) => {
            Some((service.name.clone(), service.definition.as_ref().and_then(|definition| definition.limit_nofile)))
        }
        _ => None,
    });
    found.collect()
}

#[test]
fn every_file_that_is_rendered_has_its_key_and_health_is_looked_at() {
    let lab = Lab::demo();
    for (component, host) in LAUNCHED {
        let config = lab.config(component).unwrap();
        let keyspace = lab.keyspace(component);
        let prefix = &lab.inventory.lab.prefix;
        for key in config.keys() {
            assert!(keyspace.owns(&format!("{prefix}{key}")), "{component} writes {key}");
        }
        let descriptions = launches(&lab, component, host);
        assert!(!descriptions.is_empty(), "{component}");
        for file in descriptions.iter().flat_map(|description| &description.files) {
            let key = file.key.strip_prefix(prefix).unwrap();
            let found =
                config.keys().any(|known| if key.ends_with('/') { known.starts_with(key) } else { known == key });
            assert!(found, "{component} reads {key}, which is not written");
        }
        assert!(lab.health(component, host).is_some(), "{component}");
    }
    assert!(lab.prepare("vd-iscsi", "vd-iscsi").is_some());
}

#[test]
fn no_component_reads_what_another_one_owns() {
    let lab = Lab::demo();
    let all: Vec<_> = LAUNCHED.iter().map(|(name, _)| (name, lab.keyspace(name))).collect();
    for (one, keyspace) in &all {
        assert!(keyspace.reads.is_empty() && keyspace.writes.is_empty(), "{one}");
        for (other, theirs) in all.iter().filter(|(other, _)| other != one) {
            let shared = theirs.prefixes.iter().find(|prefix| keyspace.shows(prefix));
            assert_eq!(shared, None, "{one} reads {other}");
        }
    }
}

#[test]
fn an_arakoon_node_is_started_as_its_unit_does() {
    let lab = Lab::demo();
    let [node] = <[_; 1]>::try_from(launches(&lab, "ovsdb", "db-1")).unwrap();
    let id = node.argv[2].clone();
    assert_eq!(id.len(), 16);
    assert_eq!(
        line(&node),
        format!("/usr/bin/arakoon --node {id} -config /run/ovs-cuisine/arakoon-ovsdb/config.ini -autofix -start")
    );
    assert_eq!(node.user.as_deref(), Some("ovs"));
    // Three nodes that restart at once have no quorum: the deploy takes them in turn.
    assert_eq!(node.on_change, OnChange::Ignore);
    assert_eq!(services(&lab.deploy("ovsdb", "db-1").plan), BTreeMap::from([("arakoon-ovsdb".into(), Some(8192))]));

    let alone = Lab::with(&[("[host.\"db-[1-3]\"]", "[host.\"db-[1-1]\"]")]);
    assert_eq!(launches(&alone, "ovsdb", "db-1")[0].on_change, OnChange::Restart);
}

#[test]
fn a_clusters_ini_names_each_node() {
    let lab = Lab::demo();
    let config = lab.config("backend").unwrap();
    assert_eq!(config.keys().collect::<Vec<_>>(), ["arakoon/mybackend-abm/config", "arakoon/mybackend-nsm_0/config"]);
    insta::assert_snapshot!(config["arakoon/mybackend-abm/config"]);
    assert!(config["arakoon/mybackend-nsm_0/config"].contains("plugins = nsm_host_plugin"));
    let links: Vec<_> = lab.deploy("backend", "db-1").plan.steps;
    let links = links.iter().filter_map(|step| match &step.op {
        Op::FileLink(link) => Some(format!("{} {}", link.path, link.target)),
        _ => None,
    });
    let home = "/opt/OpenvStorage/db/arakoon/mybackend-abm/db";
    assert!(links.clone().any(|link| link == format!("{home}/albamgr_plugin.cmxs /usr/lib/alba/albamgr_plugin.cmxs")));
}

#[test]
fn an_asd_is_called_by_its_volume_and_has_the_port_of_its_place() {
    let volumes = "volumes = [\"/mnt/alba-asd/disk-1\", \"/mnt/alba-asd/disk-2\"]";
    let asds = |lab: &Lab| -> BTreeMap<String, Value> {
        let config = lab.config("asd").unwrap();
        let all = config.iter().filter(|(key, _)| key.starts_with("alba/asds/"));
        all.map(|(key, value)| (key.clone(), serde_json::from_str(value).unwrap())).collect()
    };
    let (both, second) =
        (asds(&Lab::demo()), asds(&Lab::with(&[(volumes, "volumes = [\"\", \"/mnt/alba-asd/disk-2/\"]")])));
    assert_eq!((both.len(), second.len()), (6, 3));
    for (key, value) in &second {
        assert_eq!(value["port"], both[key]["port"], "{key}");
    }
    let twice = Lab::with(&[(volumes, "volumes = [\"/mnt/a\", \"/mnt/a/\"]")]);
    assert!(twice.config("asd").is_err());
}

#[test]
fn asds_are_one_for_each_volume() {
    let lab = Lab::demo();
    let config = lab.config("asd").unwrap();
    let asds: Vec<Value> = config
        .iter()
        .filter(|(key, _)| key.starts_with("alba/asds/") && key.ends_with("/config"))
        .map(|(_, text)| serde_json::from_str(text).unwrap())
        .collect();
    assert_eq!(asds.len(), 6);
    for asd in &asds {
        assert_eq!(asd["asd_id"].as_str().unwrap().len(), 32);
        assert_eq!(asd["node_id"].as_str().unwrap().len(), 32);
        assert!(asd["home"].as_str().unwrap().ends_with(asd["asd_id"].as_str().unwrap()));
        // No multicast: null must be there, since the default announces.
        assert!(asd.as_object().unwrap().contains_key("multicast") && asd["multicast"].is_null());
    }
    let descriptions = launches(&lab, "asd", "asd-1");
    assert_eq!(descriptions.len(), 2);
    for description in descriptions {
        assert!(line(&description).starts_with("/usr/bin/alba asd-start --config /run/ovs-cuisine/alba-asd-"));
        assert!(line(&description).ends_with("/config.json --log-sink console:"));
        assert_eq!(description.user.as_deref(), Some("alba"));
        assert_eq!(description.on_change, OnChange::Signal("USR1".into()));
    }
}

/// What a component notes as needing a restart.
fn noted(lab: &Lab, component: &str, host: &str) -> String {
    let steps = lab.deploy(component, host).plan.steps;
    let files = steps.iter().filter_map(|step| match &step.op {
        Op::FileWrite(file) if file.path.as_str().starts_with("/opt/ovs-cuisine/started/") => Some(format!("{file:?}")),
        _ => None,
    });
    files.collect()
}

#[test]
fn what_is_read_again_on_a_signal_restarts_nothing() {
    let asd = "manager = \"backend\"\nvolumes";
    let plain = noted(&Lab::demo(), "asd", "asd-1");
    for (setting, restarts) in [("log_level = \"debug\"", false), ("capacity = 1048576", false), ("limit = 90", true)] {
        let lab = Lab::with(&[(asd, &format!("manager = \"backend\"\n{setting}\nvolumes"))]);
        assert_eq!(noted(&lab, "asd", "asd-1") != plain, restarts, "{setting}");
        assert_ne!(lab.config("asd").unwrap(), Lab::demo().config("asd").unwrap(), "{setting}");
    }
}

#[test]
fn a_proxy_gets_its_own_copy_of_where_the_abm_is() {
    let lab = Lab::demo();
    let config = lab.config("proxy-fuse").unwrap();
    let (key, abm) = config.iter().find(|(key, _)| key.ends_with("/config/abm")).unwrap();
    assert!(key.starts_with("vpools/"));
    // Clients' members only.
    assert!(abm.contains("cluster_id = mybackend-abm") && abm.contains("client_port = 26406"), "{abm}");
    assert!(!abm.contains("home") && !abm.contains("messaging_port") && !abm.contains("plugins"), "{abm}");
    let (_, main) = config.iter().find(|(key, _)| key.ends_with("/config/main")).unwrap();
    let main: Value = serde_json::from_str(main).unwrap();
    assert_eq!(main["albamgr_cfg_url"], "/run/ovs-cuisine/ovs-albaproxy_vp-fuse/abm.ini");
    assert_eq!(main["ips"][0], lab.ip("vd-fuse"));
    let [proxy] = <[_; 1]>::try_from(launches(&lab, "proxy-fuse", "vd-fuse")).unwrap();
    assert_eq!(proxy.environment["LD_LIBRARY_PATH"], "/usr/lib/alba");
    assert!(proxy.files.iter().any(|file| file.path.as_str() == main["albamgr_cfg_url"].as_str().unwrap()));
}

#[test]
fn a_volumedriver_has_a_key_for_each_section_and_the_units_command_line() {
    let lab = Lab::demo();
    let config = lab.config("vd-fuse").unwrap();
    let names: Vec<_> = config.keys().map(|key| key.rsplit('/').next().unwrap()).collect();
    insta::assert_snapshot!(names.join("\n"));
    for (key, text) in &config {
        let value: Value = serde_json::from_str(text).unwrap();
        assert!(value.is_object(), "{key}");
    }
    let section = |name: &str| -> Value {
        let (_, text) = config.iter().find(|(key, _)| key.ends_with(name)).unwrap();
        serde_json::from_str(text).unwrap()
    };
    assert_eq!(section("/volume_manager")["number_of_scos_in_tlog"], 16);
    assert_eq!(section("/volume_manager")["non_disposable_scos_factor"], 8.0);
    assert_eq!(section("/volume_router")["vrouter_sco_multiplier"], 1024);
    assert_eq!(section("/filesystem")["fs_dtl_config_mode"], "Automatic");
    assert_eq!(section("/backend_connection_manager")["0"]["alba_connection_host"], lab.ip("vd-fuse"));
    let [driver] = <[_; 1]>::try_from(launches(&lab, "vd-fuse", "vd-fuse")).unwrap();
    assert!(line(&driver).ends_with(
        "/usr/bin/volumedriver_fs.sh -f --config /run/ovs-cuisine/ovs-volumedriver_vp-fuse/config.json \
         --lock-file /opt/OpenvStorage/run/storagedriver_vp-fuse.lock --logrotation --mountpoint /mnt/vp-fuse \
         --logsink console: -o big_writes -o sync_read -o allow_other -o use_ino -o default_permissions"
    ));
    assert_eq!(driver.environment["METADATASTORE_BITS"], "6");
    assert_eq!(driver.stop_command[1..], ["stop", "/mnt/vp-fuse"]);
    assert_eq!(driver.before_start[0][1..], ["clean", "/mnt/vp-fuse"]);
}

#[test]
fn flavours_differ_by_their_front_end() {
    let lab = Lab::demo();
    let packages = |component: &str| {
        let plan = lab.prepare(component, component).unwrap();
        format!("{:?}", plan.steps.iter().map(|step| &step.op).collect::<Vec<_>>())
    };
    assert!(!packages("vd-fuse").contains("tgt") && !packages("vd-fuse").contains("qemu-utils"));
    assert!(packages("vd-iscsi").contains("\"tgt\"") && packages("vd-qemu").contains("\"qemu-utils\""));
    let names = |component: &str| services(&lab.deploy(component, component).plan).into_keys().collect::<Vec<_>>();
    assert_eq!(names("vd-fuse"), ["ovs-volumedriver_vp-fuse"]);
    assert_eq!(names("vd-iscsi"), ["ovs-iscsi_vp-iscsi", "ovs-volumedriver_vp-iscsi"]);
    assert_eq!(names("vd-qemu"), ["ovs-volumedriver_vp-qemu"]);
}

#[test]
fn a_patched_tgt_reaches_disks_by_the_edge_and_restarts_with_its_library() {
    let patched = Lab::with(&[("bstype = \"rdwr\" ", "bstype = \"openvstorage+tcp\" ")]);
    let export = |lab: &Lab| {
        let plan = lab.deploy("vd-iscsi", "vd-iscsi").plan;
        let is_library = |op: &Op| matches!(op, Op::FileLink(link) if link.path.to_string() == "/usr/lib/openvstorage");
        let has_library = plan.steps.iter().any(|step| is_library(&step.op));
        let export = plan.steps.into_iter().find_map(|step| match step.op {
            Op::ServiceEnsure(service) if service.name.starts_with("ovs-iscsi_") => Some(service),
            _ => None,
        });
        let export = export.unwrap();
        (export.definition.unwrap().argv.split_off(3), export.restart_on.len(), has_library)
    };
    let on_mount = ["rdwr", "/mnt/vp-iscsi/disk1.raw"].map(str::to_owned).to_vec();
    assert_eq!(export(&Lab::demo()), (on_mount, 1, false));
    let (words, reacts_to, has_library) = export(&patched);
    assert!(words[0] == "openvstorage+tcp" && words[1].ends_with(":26203/disk1"), "{words:?}");
    assert_eq!((reacts_to, has_library), (2, true));
}

#[test]
fn a_host_of_machines_gets_initiator_and_definitions() {
    let component = "[component.machines]\nrecipe = \"vm-host\"\nhosts = [\"vd-qemu\"]\n\
                     params = { volumedriver = \"vd-iscsi\", iscsi = true, libvirt = \"/etc/disks\", edge = true }\n\n\
                     [component.controller]\n";
    let lab = Lab::with(&[("[component.controller]\n", component)]);
    let packages = format!("{:?}", lab.prepare("machines", "vd-qemu").unwrap().steps[0].op);
    for package in ["fuse3", "open-iscsi", "qemu-utils", "kmod"] {
        assert!(packages.contains(&format!("\"{package}\"")), "{packages}");
    }
    let plan = lab.deploy("machines", "vd-qemu").plan;
    assert!(services(&plan).contains_key("iscsid"), "{:?}", services(&plan));
    let written: BTreeMap<_, _> = plan
        .steps
        .iter()
        .filter_map(|step| match &step.op {
            Op::FileWrite(file) => match &file.content {
                Content::Inline(bytes) => Some((file.path.to_string(), String::from_utf8_lossy(bytes).into_owned())),
                other => panic!("{}: {other:?}", file.path),
            },
            _ => None,
        })
        .collect();
    let ip = lab.ip("vd-iscsi");
    let definition = &written["/etc/disks/disk1.xml"];
    assert!(definition.contains(&format!("<host name='{ip}' port='26203' transport='tcp'/>")), "{definition}");
    assert!(written["/etc/modules-load.d/ovs-cuisine.conf"].contains("fuse\niscsi_tcp"), "{written:?}");
    let health = lab.health("machines", "vd-qemu").unwrap();
    let looked: Vec<_> = health.steps.iter().map(|step| step.op.subject().clone()).collect();
    assert!(looked.iter().any(|line| line.contains("iscsiadm -m discovery") && line.contains(&ip)), "{looked:?}");
    assert!(looked.iter().any(|line| line.contains(&format!("openvstorage+tcp:{ip}:26203/disk1"))), "{looked:?}");
}

/// Ports of a component's services on a host, each with the parameter that it follows from.
fn ports(lab: &Lab, component: &str, host: &str) -> Vec<String> {
    let plan = lab.deploy(component, host).plan;
    let services = plan.steps.iter().filter_map(|step| match &step.op {
        Op::ServiceEnsure(service) => Some(service),
        _ => None,
    });
    let shown = |port: &ListenPort| format!("{} {port}", port.parameter.as_deref().unwrap_or("-"));
    services.flat_map(|service| service.ports.iter().map(shown)).collect()
}

#[test]
fn every_service_that_listens_says_where() {
    let lab = Lab::demo();
    for (component, host, expected) in [
        ("etcd", "etcd", &["client_port 0.0.0.0:2379", "peer_port 127.0.0.1:2380"][..]),
        ("ovsdb", "db-1", &["client_port 26402", "messaging_port 26403"]),
        ("backend", "db-1", &["port 26406", "port 26407", "port 26408", "port 26409"]),
        ("asd", "asd-1", &["port 8600", "port 8601"]),
        ("agent", "asd-1", &["- 127.0.0.1:2379", "port 8500"]),
        ("maintenance", "asd-1", &[]),
        ("proxy-fuse", "vd-fuse", &["port 26204"]),
        ("dtl-fuse", "vd-fuse", &["port 26202"]),
        ("vd-fuse", "vd-fuse", &["message_port 26200", "xmlrpc_port 26201", "edge_port 26203", "mds_port 26300"]),
        (
            "vd-iscsi",
            "vd-iscsi",
            &["message_port 26200", "xmlrpc_port 26201", "edge_port 26203", "mds_port 26300", "- 3260"],
        ),
    ] {
        assert_eq!(ports(&lab, component, host), expected, "{component}");
    }
}

#[test]
fn a_host_that_cannot_mount_is_refused_before_anything() {
    let lab = Lab::demo();
    for component in ["vd-fuse", "vd-iscsi", "vd-qemu"] {
        // What Docker gives a container without more: no CAP_SYS_ADMIN.
        for (bounding, why) in [("", "has no /dev/fuse"), ("00000000a80425fb", "no CAP_SYS_ADMIN")] {
            let error = lab.prepare_with(component, component, bounding).unwrap_err();
            assert!(error.message().contains(why) && error.message().contains("fuse = true"), "{error}");
        }
    }
}
