//! The demo lab from nothing to healthy, then everything that can be done to it by hand: real containers, real SSH, a
//! real etcd. One test, because a lab with etcd takes a while to start.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::lab::{TestLab, docker, summary};

/// The repository's own demo, under a lab name of its own.
fn demo_lab() -> TestLab {
    let demo = fs_err::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/inventory/demo.toml")).unwrap();
    let (_, body) = demo.split_once("[defaults.container]").expect("the demo inventory has defaults");
    let lab = TestLab::new(&format!("[defaults.container]{}", body.replace("../examples", "examples")));
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let copied = std::process::Command::new("cp").arg("-a").arg(examples).arg(lab.path("examples")).status().unwrap();
    assert!(copied.success());
    lab
}

fn address(lab: &TestLab, host: &str) -> String {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let output = docker(&["inspect", "-f", format, &lab.container(host)]);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn get(address: &str, port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((address, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Waits until a page says something; gives the page.
fn wait_for_page(address: &str, port: u16, needle: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let page = get(address, port, "/").unwrap_or_default();
        if page.contains(needle) {
            return page;
        }
        assert!(Instant::now() < deadline, "`{needle}` never came on {address}:{port}; the last page: {page}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn titles(events: &[Value], outcomes: &[&str]) -> Vec<String> {
    let steps = events.iter().filter(|event| event["event"] == "step");
    let hit =
        steps.filter(|event| outcomes.iter().any(|outcome| event.to_string().contains(&format!("\"{outcome}\""))));
    hit.map(|event| format!("{}: {}", event["host"].as_str().unwrap(), event["title"].as_str().unwrap())).collect()
}

fn changed_keys(events: &[Value]) -> Vec<String> {
    let configs = events.iter().filter(|event| event["event"] == "config");
    let changes = configs.flat_map(|event| event["changes"].as_array().unwrap());
    changes.map(|change| change["key"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_demo_lab_from_nothing_and_back() {
    let lab = demo_lab();
    plan_of_nothing(&lab);
    deploys_to_healthy(&lab);
    second_deploy_changes_nothing(&lab);
    three_edits_by_hand_are_found_and_mended(&lab);
    logins_are_confined(&lab);
    a_changed_key_reaches_the_service(&lab);
    a_restarted_etcd_is_survived(&lab);
    a_wrong_password_is_named(&lab);
    lab.expect(0, &["down", "LAB", "--volumes", "--yes"]);
    let left = docker(&["ps", "-aq", "--filter", &format!("name={}", lab.container(""))]);
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
}

fn plan_of_nothing(lab: &TestLab) {
    let plan = lab.events(10, &["plan", "LAB", "--exit-code"]);
    assert_eq!(summary(&plan)["containers_changed"], 4);
    let unknown = plan.iter().filter(|event| event["event"] == "component-unknown").count();
    assert_eq!(unknown, 4, "etcd, controller and two nodes cannot be told before they exist");
}

fn deploys_to_healthy(lab: &TestLab) {
    let events = lab.events(0, &["deploy", "LAB"]);
    let end = summary(&events);
    for component in end["components"].as_array().unwrap() {
        assert_eq!(component["status"], "changed", "{component}");
        assert_eq!(component["healthy"], true, "{component}");
    }
    let page = wait_for_page(&address(lab, "node-1"), 8081, "hello from etcd");
    assert!(page.contains("node-1"), "{page}");
    wait_for_page(&address(lab, "controller"), 8080, "node-2");
    // No secret where others can read it.
    let argv = lab.inside("node-1", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
    assert!(argv.contains("ovs-launch") && !argv.contains("etcd://"), "{argv}");
    assert_eq!(lab.inside("node-1", "stat -c %a /etc/ovs-cuisine/*.link"), "600\n");
}

fn second_deploy_changes_nothing(lab: &TestLab) {
    let events = lab.events(0, &["deploy", "LAB"]);
    let end = summary(&events);
    assert_eq!(titles(&events, &["changed"]), Vec::<String>::new());
    assert_eq!(changed_keys(&events), Vec::<String>::new());
    assert_eq!(end["containers_changed"], 0);
    assert_eq!(end["keys_changed"], 0);
    assert!(end["components"].as_array().unwrap().iter().all(|component| component["status"] == "unchanged"), "{end}");
    lab.expect(0, &["plan", "LAB", "--exit-code"]);
    // A command on a host is no component: it leaves no trace in etcd.
    let exec = lab.expect(0, &["exec", "LAB", "--on", "node-*", "--json", "--", "true"]);
    assert_eq!(summary(&exec.events())["keys_changed"], 0);
    let text = lab.expect(0, &["deploy", "LAB"]).stdout;
    assert!(text.contains("0 changed"), "{text}");
}

fn etcdctl(lab: &TestLab, user: &str, password: &str, words: &str) -> std::process::Output {
    let login = if user.is_empty() { String::new() } else { format!("--user '{user}:{password}'") };
    let command = format!("ETCDCTL_API=3 etcdctl --endpoints http://127.0.0.1:2379 {login} {words}");
    docker(&["exec", &lab.container("etcd"), "sh", "-c", &command])
}

/// A generated password, as the key ring keeps it.
fn password(lab: &TestLab, name: &str) -> String {
    let keys = fs_err::read_dir(lab.path("keys")).unwrap().next().unwrap().unwrap().path();
    let found =
        std::process::Command::new("grep").args(["-rh", ""]).arg(keys.join("passwords").join(name)).output().unwrap();
    let text = String::from_utf8(found.stdout).unwrap();
    assert!(text.trim().len() >= 32, "no password `{name}`");
    text.trim().to_owned()
}

fn root_password(lab: &TestLab) -> String {
    password(lab, "secret.etcd.root")
}

fn three_edits_by_hand_are_found_and_mended(lab: &TestLab) {
    lab.inside("node-1", "echo tampered > /opt/agent/VERSION");
    lab.inside("controller", "sv -w 10 stop framework");
    let key = "/ovs/node/config/node-2.ini";
    let put = etcdctl(lab, "root", &root_password(lab), &format!("put {key} tampered"));
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));

    let plan = lab.events(10, &["plan", "LAB", "--exit-code"]);
    let mut found = titles(&plan, &["would-change"]);
    found.sort();
    // The tampered tree also restarts the agent that runs from it: that is what `restart_on` is for.
    assert_eq!(
        found,
        ["controller: service_ensure framework", "node-1: service_ensure agent", "node-1: sync /opt/agent"]
    );
    assert_eq!(changed_keys(&plan), [key]);

    let deploy = lab.events(0, &["deploy", "LAB"]);
    let mut mended = titles(&deploy, &["changed"]);
    mended.sort();
    assert_eq!(mended, found);
    assert_eq!(changed_keys(&deploy), [key]);
    lab.expect(0, &["plan", "LAB", "--exit-code"]);
    wait_for_page(&address(lab, "node-2"), 8081, "hello from etcd");
}

fn logins_are_confined(lab: &TestLab) {
    let node = password(lab, "login.node");
    let own = etcdctl(lab, "node", &node, "get --prefix /ovs/node/ --keys-only");
    assert!(String::from_utf8_lossy(&own.stdout).contains("/ovs/node/config/node-1.ini"));
    for words in ["get --prefix /ovs/controller/", "get --prefix /", "put /ovs/node/config/node-1.ini x"] {
        let denied = etcdctl(lab, "node", &node, words);
        assert!(String::from_utf8_lossy(&denied.stderr).contains("permission denied"), "{words}: {denied:?}");
    }
    let anonymous = etcdctl(lab, "", "", "get --prefix /ovs/");
    assert!(!anonymous.status.success());
}

fn a_changed_key_reaches_the_service(lab: &TestLab) {
    let demo = fs_err::read_to_string(lab.path("lab.toml")).unwrap();
    fs_err::write(lab.path("lab.toml"), demo.replace("hello from etcd", "another message")).unwrap();
    let events = lab.events(0, &["deploy", "LAB"]);
    assert_eq!(changed_keys(&events), ["/ovs/node/config/node-1.ini", "/ovs/node/config/node-2.ini"]);
    assert_eq!(titles(&events, &["changed"]), Vec::<String>::new(), "only keys changed");
    for node in ["node-1", "node-2"] {
        wait_for_page(&address(lab, node), 8081, "another message");
    }
}

fn a_restarted_etcd_is_survived(lab: &TestLab) {
    lab.inside("etcd", "pkill -9 -x etcd || kill -9 $(pidof etcd)");
    lab.expect(0, &["deploy", "LAB"]);
    let demo = fs_err::read_to_string(lab.path("lab.toml")).unwrap();
    fs_err::write(lab.path("lab.toml"), demo.replace("another message", "after the restart")).unwrap();
    lab.expect(0, &["deploy", "LAB"]);
    wait_for_page(&address(lab, "node-1"), 8081, "after the restart");
}

fn a_wrong_password_is_named(lab: &TestLab) {
    let keys = fs_err::read_dir(lab.path("keys")).unwrap().next().unwrap().unwrap().path();
    let file = keys.join("passwords").join("secret.etcd.root");
    let right = fs_err::read_to_string(&file).unwrap();
    fs_err::write(&file, "x".repeat(32)).unwrap();
    let run = lab.run(&["config", "get", "LAB"]);
    assert_eq!(run.status, 30, "{run:?}");
    assert!(run.stderr.contains("refuses the login"), "{run:?}");
    assert!(!run.stderr.contains("xxxx"), "{run:?}");
    fs_err::write(&file, right).unwrap();
    let got = lab.expect(0, &["config", "get", "LAB", "node/config/node-1.ini"]);
    assert!(got.stdout.contains("after the restart"), "{got:?}");
}
