//! A lab that lives: turns of a cluster, keys changed by hand, components looked at and kept still, hosts that come and
//! go. Real containers and a real etcd; one test, because a lab with etcd takes a while to start.

use std::{io::Read as _, net::TcpStream};

use serde_json::Value;

use crate::support::{
    lab::{Run, TestLab, docker},
    listener::EngineListener,
    wait::wait_until,
};

/// A cluster whose members are healthy only while all of them are: as with a quorum, one alone never is.
const CLUSTER: &str = r#"
params(
    build = param("path", contains = ["serve"], doc = "Where the program is."),
    port = param("port", default = 9000),
)

def config(ctx):
    return {ctx.component + "/main": json.encode({"message": "first", "port": ctx.params.port})}

def prepare(ctx):
    file_write("/var/tmp/prepared-%s" % ctx.component, "")

def deploy(ctx):
    build = sync(ctx.params.build, "/opt/%s" % ctx.component)
    launch(
        ctx.component,
        argv = ["/usr/bin/perl", "/opt/%s/serve" % ctx.component, str(ctx.params.port), file("main", key = ctx.component + "/main")],
        restart_on = [build],
    )

def drain(ctx):
    for host in ctx.leaving:
        run("echo %s left >> /var/tmp/drained" % host.name)

def health(ctx):
    for host in ctx.hosts:
        wait_port(ctx.params.port, host.address, timeout = 20)
"#;

/// Says its configuration and its process to whoever connects.
const SERVE: &str = r#"use strict; use IO::Socket::INET;
my ($port, $path) = @ARGV;
open my $file, '<', $path or die; my $text = join '', <$file>;
my $server = IO::Socket::INET->new(LocalPort => $port, Listen => 5, ReuseAddr => 1) or die $!;
while (my $client = $server->accept) { print $client "$text $$\n"; close $client; print STDERR "served\n" }
"#;

fn inventory(members: &str, other: &str) -> String {
    format!(
        "[defaults.container]\nimage = \"ovs-cuisine/ssh:latest\"\n\n[host.etcd]\ncontainer = true\n\n\
         [host.\"{members}\"]\ncontainer = {{ volumes = [\"{{host}}-data:/data\"] }}\n\n\
         [component.etcd]\nrecipe = \"etcd\"\nhosts = [\"etcd\"]\n\n\
         [component.cluster]\nrecipe = \"cluster\"\nhosts = [\"node-*\"]\nneeds = [\"etcd\"]\nserial = 1\n\
         params = {{ build = \"build\" }}\n\n{other}"
    )
}

const OTHER: &str = "[component.other]\nrecipe = \"cluster\"\nhosts = [\"node-1\"]\nneeds = [\"etcd\"]\n\
                     params = { build = \"build\", port = 9001 }\n";

#[test]
fn a_lab_lives() {
    let lab = TestLab::new(&inventory("node-[1-3]", OTHER));
    lab.recipe("cluster", CLUSTER);
    a_missing_build_stops_everything(&lab);
    lab.write("build/serve", SERVE);
    members_come_up_together(&lab);
    a_push_goes_one_after_another(&lab);
    a_key_set_by_hand_reaches_its_component_only(&lab);
    what_is_not_json_is_refused(&lab);
    ps_tells_how_components_are(&lab);
    safe_mode_keeps_still(&lab);
    who_leaves_is_drained(&lab);
    pruning_forgets(&lab);
}

fn said(lab: &TestLab, host: &str, port: u16) -> Option<String> {
    let mut stream = TcpStream::connect((lab.address(host), port)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn containers(lab: &TestLab, all: bool) -> Vec<String> {
    let filter = format!("label=ovs-cuisine.lab={}", lab.container("").trim_end_matches('-'));
    let words = ["ps", if all { "-a" } else { "--no-trunc" }, "--format", "{{.Names}}", "--filter", &filter];
    let mut names: Vec<_> = String::from_utf8(docker(&words).stdout).unwrap().lines().map(str::to_owned).collect();
    names.sort();
    names
}

fn a_missing_build_stops_everything(lab: &TestLab) {
    let run = lab.expect(20, &["deploy", "LAB"]);
    assert!(run.stderr.contains("build") && run.stderr.contains("is not a directory"), "{run:?}");
    assert!(run.stderr.contains("Where the program is."), "{run:?}");
    assert_eq!(containers(lab, true), Vec::<String>::new(), "nothing was started");
}

fn members_come_up_together(lab: &TestLab) {
    lab.expect(0, &["deploy", "LAB"]);
    assert_eq!(lab.inside("node-2", "ls /var/tmp"), "prepared-cluster\n");
    let again = lab.expect(0, &["deploy", "LAB"]);
    assert!(again.stdout.contains("0 changed"), "{again:?}");
}

/// In which order hosts were restarted and found healthy.
fn turns(events: &[Value]) -> Vec<(String, &'static str)> {
    let turn = |event: &Value| {
        let host = event["host"].as_str()?.to_owned();
        let restarted = event["event"] == "step"
            && event["title"] == "service_ensure cluster"
            && event.to_string().contains("\"changed\"");
        match event["event"].as_str()? {
            "health" if event["component"] == "cluster" => Some((host, "healthy")),
            _ if restarted => Some((host, "restarted")),
            _ => None,
        }
    };
    events.iter().filter_map(turn).collect()
}

fn a_push_goes_one_after_another(lab: &TestLab) {
    lab.write("build/serve", &format!("# another build\n{SERVE}"));
    let build = lab.path("build");
    let before = said(lab, "node-1", 9001);
    let events = lab.events(0, &["push", "LAB", "cluster"]);
    let mut hosts: Vec<String> = turns(&events).chunks(2).map(|pair| pair[0].0.clone()).collect();
    for pair in turns(&events).chunks(2) {
        assert!(pair[0].0 == pair[1].0 && pair[0].1 == "restarted" && pair[1].1 == "healthy", "{:?}", turns(&events));
    }
    hosts.sort();
    assert_eq!(hosts, ["node-1", "node-2", "node-3"]);
    assert_eq!(said(lab, "node-1", 9001), before, "the other component was left alone");
    // Who has the build as a parameter.
    let pushed = lab.expect(0, &["push", "LAB", "--build", build.to_str().unwrap()]);
    assert!(pushed.stderr.contains("other") || pushed.stdout.contains("other"), "{pushed:?}");
    assert_ne!(said(lab, "node-1", 9001), before, "now it was pushed too");
    let nothing = lab.expect(20, &["push", "LAB", "--build", "/"]);
    assert!(nothing.stderr.contains("no component has"), "{nothing:?}");
}

fn a_key_set_by_hand_reaches_its_component_only(lab: &TestLab) {
    let (other, first) = (said(lab, "node-1", 9001), said(lab, "node-1", 9000));
    let set = lab.expect(0, &["config", "set", "LAB", "cluster/main|message", "by hand"]);
    assert!(set.stdout.contains("/ovs/cluster/main changed"), "{set:?}");
    assert!(set.stderr.contains("next deploy of component cluster"), "{set:?}");
    for host in ["node-1", "node-2", "node-3"] {
        wait_until("the new message", || said(lab, host, 9000).is_some_and(|text| text.contains("by hand")));
    }
    assert_ne!(said(lab, "node-1", 9000), first);
    assert_eq!(said(lab, "node-1", 9001), other, "same text, same process");
    assert!(lab.expect(0, &["config", "set", "LAB", "cluster/main|message", "by hand"]).stdout.contains("so already"));
    let plan = lab.expect(10, &["plan", "LAB", "--exit-code"]);
    assert!(plan.stdout.contains("/ovs/cluster/main"), "the recipe wants it back: {plan:?}");
    lab.expect(0, &["deploy", "LAB"]);
    wait_until("the first message", || said(lab, "node-1", 9000).is_some_and(|text| text.contains("first")));
}

fn what_is_not_json_is_refused(lab: &TestLab) {
    let refused = |words: &[&str], why: &str| {
        let run: Run = lab.expect(20, words);
        assert!(run.stderr.contains(why), "{run:?}");
    };
    refused(&["config", "set", "LAB", "cluster/main", "plain text"], "holds JSON");
    refused(&["config", "set", "LAB", "cluster/main|message.deeper", "1"], "no place for the member");
    refused(&["config", "set", "LAB", "cluster/none|a", "1"], "no key");
    refused(&["config", "set", "LAB", "/ovs-cuisine/x", "1"], "not a key of the lab's configuration");
}

/// The component's health on a host, as `ps --json` tells.
fn health(lab: &TestLab, host: &str, component: &str) -> Value {
    let rows = lab.expect(0, &["ps", "LAB", "--json"]).events();
    let row = rows.iter().find(|row| row["host"] == host).unwrap();
    serde_json::json!([row["health"][component], row["problems"].as_array().map(Vec::len)])
}

fn ps_tells_how_components_are(lab: &TestLab) {
    assert_eq!(health(lab, "node-2", "cluster"), serde_json::json!(["healthy", 0]));
    lab.inside("node-2", "sv -w 10 stop cluster");
    assert_eq!(health(lab, "node-2", "cluster"), serde_json::json!(["unhealthy", 1]));
    let text = lab.expect(0, &["ps", "LAB"]);
    assert!(text.stdout.contains("cluster (unhealthy)") && text.stdout.contains("etcd (healthy)"), "{text:?}");
    assert!(text.stderr.contains("wait_port"), "it says which probe failed: {text:?}");
    let logs = lab.expect(0, &["logs", "LAB", "component:cluster,!node-3", "clus*"]);
    assert!(!logs.stdout.contains("node-3") && logs.stdout.contains("node-1"), "{logs:?}");
    let none = lab.expect(40, &["logs", "LAB", "node-1", "nothing"]);
    assert!(format!("{none:?}").contains("no such service here"), "{none:?}");
    assert!(!lab.expect(0, &["ps", "LAB", "--containers"]).stdout.contains("healthy"));
    let engine = EngineListener::at(&lab.path("engine.sock"));
    let heard = Run::of(&lab.command(&["ps", "LAB"]).env("DOCKER_HOST", engine.address()).output().unwrap());
    assert_eq!((heard.status, &heard.stdout), (0, &text.stdout));
    assert_eq!(engine.count("GET /containers/json"), 1, "the containers are listed once");
    lab.expect(0, &["deploy", "LAB"]);
    assert_eq!(health(lab, "node-2", "cluster"), serde_json::json!(["healthy", 0]));
}

fn safe_mode_keeps_still(lab: &TestLab) {
    lab.inside("node-3", "rm -r /opt/cluster");
    lab.expect(0, &["deploy", "LAB", "--safe", "cluster"]);
    assert_eq!(lab.inside("node-3", "ls /opt/cluster"), "serve\n", "everything else is in place");
    assert!(said(lab, "node-3", 9000).is_none() && said(lab, "node-1", 9001).is_some());
    let checked = lab.inside("node-3", "/usr/local/lib/ovs-cuisine/ovs-launch --check @/etc/ovs-cuisine/cluster.link");
    assert!(checked.contains("/opt/cluster/serve"), "{checked}");
    lab.expect(0, &["deploy", "LAB"]);
    assert!(said(lab, "node-3", 9000).is_some());
}

fn who_leaves_is_drained(lab: &TestLab) {
    let before = containers(lab, false);
    lab.inventory(&inventory("node-[1-2]", OTHER));
    let plan = lab.expect(10, &["plan", "LAB", "--exit-code"]);
    assert!(plan.stdout.contains("/ovs/cluster/launch/node-3/"), "{plan:?}");
    lab.expect(0, &["deploy", "LAB"]);
    let drained =
        ["node-1", "node-2"].map(|host| lab.inside(host, "cat /var/tmp/drained 2>/dev/null || true")).concat();
    assert_eq!(drained, "node-3 left\n", "once, by one that stays");
    let left: Vec<_> = before.iter().filter(|name| !containers(lab, false).contains(name)).cloned().collect();
    assert_eq!(left, [lab.container("node-3")], "its container is stopped");
    let keys = lab.expect(0, &["config", "get", "LAB", "cluster/"]).stdout;
    assert!(keys.contains("launch/node-2/") && !keys.contains("launch/node-3/"), "{keys}");
    let again = lab.expect(0, &["deploy", "LAB"]);
    assert!(again.stdout.contains("0 changed"), "{again:?}");
}

fn pruning_forgets(lab: &TestLab) {
    lab.inventory(&inventory("node-[1-2]", ""));
    lab.expect(0, &["deploy", "LAB"]);
    assert!(lab.expect(0, &["config", "get", "LAB", "other/"]).stdout.contains("first"), "kept until it is pruned");
    lab.expect(0, &["deploy", "LAB", "--prune"]);
    assert!(lab.expect(20, &["config", "get", "LAB", "other/"]).stderr.contains("no key"));
    assert!(said(lab, "node-1", 9001).is_none() && said(lab, "node-1", 9000).is_some());
    assert!(!containers(lab, true).contains(&lab.container("node-3")), "its container is gone");
    let volumes = String::from_utf8(docker(&["volume", "ls", "-q"]).stdout).unwrap();
    assert!(volumes.contains(&lab.container("node-3-data")), "its data is not: {volumes}");
    assert!(lab.expect(20, &["deploy", "LAB", "--prune", "--only", "etcd"]).stderr.contains("--only"));
}
