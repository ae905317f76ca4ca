//! The controller and the agent of storage nodes, with stand-ins of the framework, the agent and arakoon, and with
//! `RabbitMQ`, memcached, redis, nginx, gunicorn and etcd as they are. One test, because a lab with all of that takes a while to start.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::lab::{TestLab, summary};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A lab with copies of the stand-ins' trees, which the test edits.
fn lab() -> TestLab {
    let made = Command::new(format!("{ROOT}/scripts/standins")).status().unwrap();
    assert!(made.success(), "scripts/standins failed");
    let body = fs_err::read_to_string(format!("{ROOT}/tests/fixtures/ovs/controller.toml")).unwrap();
    let lab = TestLab::new(&body);
    for tree in ["arakoon", "framework", "asd-manager"] {
        let source = format!("{ROOT}/target/standins/{tree}");
        assert!(Command::new("cp").arg("-a").arg(source).arg(lab.path(tree)).status().unwrap().success(), "{tree}");
    }
    lab
}

fn append(lab: &TestLab, path: &str, text: &str) {
    let path = lab.path(path);
    let before = fs_err::read_to_string(&path).unwrap();
    fs_err::write(path, before + text).unwrap();
}

/// Pushes a component and gives what was restarted, in order.
fn push(lab: &TestLab, component: &str) -> Vec<String> {
    let events = lab.events(0, &["push", "LAB", component]);
    let sets = events.iter().filter(|event| event["event"] == "change-set");
    let restarted = sets.flat_map(|set| set["restarted"].as_array().cloned().unwrap_or_default());
    restarted.map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// Main processes of units, in order.
fn processes(lab: &TestLab, units: &[&str]) -> Vec<String> {
    let script = format!("for unit in {}; do systemctl show --value --property=MainPID $unit; done", units.join(" "));
    lab.inside("controller", &script).lines().map(str::to_owned).collect()
}

const CURL: &str = "curl -sS --cacert /opt/OpenvStorage/config/ssl/ca.crt";

fn api(lab: &TestLab, rest: &str) -> Value {
    let text = lab.inside("controller", &format!("{CURL} {rest}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn unchanged(lab: &TestLab) {
    let events = lab.events(0, &["deploy", "LAB"]);
    let summary = summary(&events);
    assert_eq!(summary["keys_changed"], 0, "{summary}");
    let changed = summary["hosts"].as_array().unwrap().iter().map(|host| host["tally"]["changed"].as_u64().unwrap());
    assert_eq!(changed.sum::<u64>(), 0, "{summary}");
}

const BOUND: [&str; 4] = ["ovs-workers", "ovs-scheduled-tasks", "ovs-webapp-api", "ovs-volumerouter-consumer"];
const OTHERS: [&str; 6] =
    ["ovs-watcher-config", "ovs-watcher-volumedriver", "ovs-etcd-v2", "rabbitmq-server", "redis-server", "nginx"];

#[test]
fn a_controller_and_an_agent_come_up_and_react_to_exactly_what_concerns_them() {
    let lab = lab();
    let deployed = lab.events(0, &["deploy", "LAB"]);
    let healthy = |component: &str| {
        let all = summary(&deployed)["components"].as_array().unwrap();
        all.iter().find(|found| found["component"] == component).unwrap()["healthy"].clone()
    };
    assert_eq!((healthy("controller"), healthy("agent")), (Value::Bool(true), Value::Bool(true)));
    unchanged(&lab);

    the_whole_stack_answers(&lab);
    the_login_reaches_what_the_framework_may(&lab);
    a_key_that_is_gone_is_told_and_brought_back(&lab);
    the_frameworks_set_is_restarted_and_nothing_else(&lab);
    the_agents_set_is_restarted_and_nothing_else(&lab);
    unchanged(&lab);
}

fn the_whole_stack_answers(lab: &TestLab) {
    // Process 1 is what the framework's service manager takes, and the units have its names.
    let form = "-d grant_type=password -d username=admin -d password=admin https://localhost/api/oauth2/token/";
    let token = api(lab, form)["access_token"].as_str().unwrap().to_owned();
    let services = api(lab, &format!("-H 'Authorization: Bearer {token}' https://localhost/api/services/"));
    let services = services.as_object().unwrap();
    for unit in BOUND.iter().chain(&["ovs-watcher-framework", "ovs-support-agent"]) {
        assert_eq!(services[*unit], true, "{services:?}");
    }
    let users = lab.inside("controller", "rabbitmqctl -q list_users; rabbitmqctl -q list_policies");
    assert!(users.contains("ovs\t[administrator]") && !users.contains("guest"), "{users}");
    assert!(users.contains("ha-all\t^(volumerouter|ovs_.*)$"), "{users}");
    let page = lab.inside("controller", &format!("{CURL} -L http://localhost/ --location-trusted"));
    assert!(page.contains("Open vStorage"), "{page}");
    let modes = "stat -c '%U:%G %a' /var/log/ovs /opt/OpenvStorage/ovs/celery_run.py /opt/OpenvStorage/config/ssl/server.key; \
                 ps -o user= -C celery | sort -u; wc -c < /etc/openvstorage_id";
    assert_eq!(lab.inside("controller", modes), "ovs:ovs 750\novs:ovs 644\novs:ovs 600\novs\n17\n");

    // A heartbeat goes through RabbitMQ to a worker, which writes its own into the model.
    lab.inside("controller", "systemctl start ovs-heartbeat.service && systemctl is-active ovs-heartbeat.timer");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let beats = api(lab, "https://localhost/api/")["heartbeats"].clone();
        if beats.as_object().unwrap().values().all(|beat| beat["process"].is_number() && beat["celery"].is_number()) {
            break;
        }
        assert!(Instant::now() < deadline, "no worker answered: {beats}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn the_login_reaches_what_the_framework_may(lab: &TestLab) {
    let read = |key: &str| {
        lab.inside("controller", &format!("etcdctl --peers=127.0.0.1:2379 get --quorum {key} 2>&1 || true"))
    };
    assert!(read("/ovs/framework/stores").starts_with("{\"persistent\":\"pyrakoon\""), "JSON, also for the framework");
    assert!(read("/ovs/framework/cluster_name").starts_with('"'), "scalars are JSON, too");
    assert!(read("/ovs/arakoon/ovsdb/config").contains("cluster_id = ovsdb"));
    assert!(read("/ovs/etcd/anything").contains("110"), "what is nobody's business here is refused");
    let write = "etcdctl --peers=127.0.0.1:2379 set /ovs/arakoon/ovsdb/config x 2>&1 || true";
    assert!(lab.inside("controller", write).contains("110"));
}

fn a_key_that_is_gone_is_told_and_brought_back(lab: &TestLab) {
    let gone = "curl -sS -X DELETE http://127.0.0.1:2379/v2/keys/ovs/framework/messagequeue; \
                PYTHONPATH=/opt/OpenvStorage python3 /opt/OpenvStorage/ovs/extensions/generic/watcher.py framework wait || true";
    let said = lab.inside("controller", gone);
    assert!(said.contains("key not found: /ovs/framework/messagequeue"), "{said}");
    let events = lab.events(0, &["deploy", "LAB", "--only", "controller"]);
    assert_eq!(summary(&events)["keys_changed"], 1);
    unchanged(lab);
}

fn the_frameworks_set_is_restarted_and_nothing_else(lab: &TestLab) {
    let (bound, others) = (processes(lab, &BOUND), processes(lab, &OTHERS));
    append(lab, "framework/opt/OpenvStorage/ovs/dal/helpers.py", "\n# Changed.\n");
    assert_eq!(push(lab, "controller"), ["ovs-watcher-framework", "memcached", "ovs-support-agent"]);
    let after = processes(lab, &BOUND);
    assert!(bound.iter().zip(&after).all(|(before, after)| before != after && after != "0"), "{bound:?}, {after:?}");
    assert_eq!(processes(lab, &OTHERS), others);

    append(lab, "framework/opt/OpenvStorage/webapps/frontend/index.html", "<!-- changed -->\n");
    assert_eq!(push(lab, "controller"), Vec::<String>::new());
    assert_eq!(processes(lab, &BOUND), after);
    let page = lab.inside("controller", &format!("{CURL} https://localhost/"));
    assert!(page.contains("<!-- changed -->"));
}

fn the_agents_set_is_restarted_and_nothing_else(lab: &TestLab) {
    let asds = lab.inside(
        "asd",
        "curl -sk https://localhost:8500/net; curl -sk -o /dev/null -w '%{http_code}' https://localhost:8500/asds",
    );
    assert!(asds.contains("\"_success\": true") && asds.ends_with("401"), "{asds}");
    append(lab, "asd-manager/opt/asd-manager/source/asds.py", "\n# Changed.\n");
    assert_eq!(push(lab, "agent"), ["asd-manager"]);
    append(lab, "asd-manager/opt/asd-manager/source/tools/watcher.py", "\n# Changed.\n");
    assert_eq!(push(lab, "agent"), ["asd-watcher", "asd-manager"]);
}
