//! Ports inside hosts: two services that want the same one, a process that has it already, services that swap theirs.
//! Whole runs of the real program against real containers.

use std::{
    io::Read as _,
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::lab::{TestLab, docker, summary};

const WEB: &str = r#"
"""Says its name to whoever connects."""

params(
    port = param("port", doc = "Where it listens."),
    command = param("str", default = "", doc = "What runs before."),
)

def deploy(ctx):
    p = ctx.params
    file_write("/srv/serve", source = "serve")
    if p.command:
        run(p.command)
    service_ensure(
        "web-" + ctx.component,
        argv = ["/usr/bin/perl", "/srv/serve", str(p.port), ctx.component],
        ports = {"port": p.port},
    )

def health(ctx):
    wait_port(ctx.params.port, timeout = 20)
"#;

const SERVE: &str = r#"use strict; use IO::Socket::INET;
my ($port, $name) = @ARGV;
my $server = IO::Socket::INET->new(LocalPort => $port, Listen => 5, ReuseAddr => 1) or die "port $port: $!";
while (my $client = $server->accept) { print $client "$name\n"; close $client }
"#;

/// Components of the one host, each with its port.
fn inventory(init: &str, components: &[(&str, u16)]) -> String {
    let of = |(name, port): &(&str, u16)| {
        format!("\n[component.{name}]\nrecipe = \"web\"\nhosts = [\"one\"]\nparams = {{ port = {port} }}\n")
    };
    let components: String = components.iter().map(of).collect();
    format!("[host.one]\ncontainer = {{ init = \"{init}\" }}\n{components}")
}

fn lab(body: &str) -> TestLab {
    let lab = TestLab::new(body);
    lab.recipe("web", WEB);
    lab.write("recipes/web/serve", SERVE);
    lab
}

/// What answers on a port of the host; none when nothing does.
fn said(lab: &TestLab, port: u16) -> Option<String> {
    let mut text = String::new();
    TcpStream::connect((lab.address("one"), port)).ok()?.read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}

fn changed(events: &[Value]) -> u64 {
    summary(events)["hosts"].as_array().unwrap().iter().map(|host| host["tally"]["changed"].as_u64().unwrap()).sum()
}

fn services_swap_their_ports(init: &str) {
    let lab = lab(&inventory(init, &[("a", 9000), ("b", 9001)]));
    lab.expect(0, &["deploy", "LAB"]);
    assert_eq!([said(&lab, 9000), said(&lab, 9001)], [Some("a".into()), Some("b".into())]);
    assert_eq!(changed(&lab.events(0, &["deploy", "LAB"])), 0);

    lab.inventory(&inventory(init, &[("a", 9001), ("b", 9000)]));
    let plan = lab.expect(10, &["plan", "LAB", "--exit-code"]);
    assert!(plan.stdout.contains("leaves a port to web-"), "{plan:?}");
    lab.expect(0, &["deploy", "LAB"]);
    assert_eq!([said(&lab, 9000), said(&lab, 9001)], [Some("b".into()), Some("a".into())]);
    assert_eq!(changed(&lab.events(0, &["deploy", "LAB"])), 0);

    // One after the other does, too: the second's turn comes when the first has its port already.
    let after = inventory(init, &[("a", 9002), ("b", 9001)]).replace("[component.b]", "[component.b]\nneeds = [\"a\"]");
    lab.inventory(&after);
    lab.expect(0, &["deploy", "LAB"]);
    assert_eq!([said(&lab, 9000), said(&lab, 9001), said(&lab, 9002)], [None, Some("b".into()), Some("a".into())]);
}

#[test]
fn services_swap_their_ports_under_runit() {
    services_swap_their_ports("runit");
}

#[test]
fn services_swap_their_ports_under_systemd() {
    services_swap_their_ports("systemd");
}

#[test]
fn two_services_that_want_the_same_port_are_told_before_a_container_is_made() {
    let lab = lab(&inventory("runit", &[("a", 9000), ("b", 9000)]));
    for command in ["plan", "deploy"] {
        let run = lab.expect(20, &[command, "LAB"]);
        let told =
            "host one: port 9000 is wanted by service `web-a` of component `a` and by service `web-b` of component `b`";
        assert!(run.stderr.contains(told), "{run:?}");
        assert!(run.stderr.contains("`port` of component `a` or `port` of component `b`"), "{run:?}");
        assert!(docker(&["inspect", &lab.container("one")]).status.code() != Some(0), "a container was made");
    }
}

#[test]
fn two_services_that_want_the_same_port_are_told_before_the_first_is_touched() {
    // Which port it wants is known on the machine only.
    let odd = WEB.replace("\"port\": p.port", "\"port\": p.port if ctx.facts.memory == 1 << 30 else 9000");
    let lab = lab(&inventory("runit", &[("a", 9000), ("b", 9001)]));
    lab.recipe("web", &odd);
    let run = lab.expect(20, &["deploy", "LAB"]);
    assert!(run.stderr.contains("port 9000 is wanted by service `web-a`"), "{run:?}");
    assert_eq!(lab.inside("one", "ls -A /srv /etc/sv | grep -e serve -e web || true"), "");
    // Known by a question only: in its turn, before anything of it is done.
    let asks = WEB.replace(
        "def deploy(ctx):\n    p = ctx.params",
        "def deploy(ctx):\n    p = ctx.params\n    file_exists(\"/etc/hosts\")",
    );
    lab.recipe("web", &asks);
    lab.inventory(
        &inventory("runit", &[("a", 9000), ("b", 9000)]).replace("[component.b]", "[component.b]\nneeds = [\"a\"]"),
    );
    let run = lab.expect(40, &["deploy", "LAB"]);
    assert!(run.stderr.contains("port 9000 is wanted by service `web-a`"), "{run:?}");
    assert_eq!(lab.inside("one", "ls /etc/sv | grep web"), "web-a\n");
}

fn a_process_that_has_a_port_is_named(init: &str) {
    let lab = lab(&inventory(init, &[("a", 9000)]));
    lab.expect(0, &["up", "LAB"]);
    // By SSH, as somebody would: what the engine starts may be more than the host's own root can look into.
    let hold = "setsid perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(LocalAddr => \"127.0.0.1\", LocalPort => 9000, \
                Listen => 1) or die; sleep 1000' </dev/null >/dev/null 2>&1 & echo $!";
    let pid = lab.expect(0, &["ssh", "LAB", "one", "--", hold]).stdout.trim().to_owned();
    let deadline = Instant::now() + Duration::from_secs(30);
    while docker(&["exec", &lab.container("one"), "grep", "-q", ":2328 ", "/proc/net/tcp"]).status.code() != Some(0) {
        assert!(Instant::now() < deadline, "nobody took the port");
    }
    for command in ["plan", "deploy"] {
        let run = lab.expect(40, &[command, "LAB"]);
        let told = format!("service `web-a` cannot start: port 9000 is held by `perl` (process {pid})");
        assert!(format!("{run:?}").contains(&told), "{run:?}");
        assert!(format!("{run:?}").contains("parameter `port`") && run.stderr.contains("one"), "{run:?}");
        assert_eq!(lab.inside("one", "ls -A /srv; ls /etc/sv /etc/systemd/system 2>/dev/null | grep web || true"), "");
    }
    lab.inside("one", &format!("kill {pid}"));
    lab.expect(0, &["deploy", "LAB"]);
    // Its own port is no obstacle, also when it restarts.
    lab.write("recipes/web/serve", &format!("# changed\n{SERVE}"));
    lab.recipe("web", &WEB.replace("str(p.port), ctx", "str(p.port), \"new-\" + ctx"));
    lab.expect(0, &["deploy", "LAB"]);
    assert_eq!(said(&lab, 9000), Some("new-a".into()));
    // A service of ours that is not in this run keeps what it has.
    lab.inventory(&inventory(init, &[("b", 9000)]));
    let run = lab.expect(40, &["deploy", "LAB"]);
    assert!(format!("{run:?}").contains("of service `web-a`"), "{run:?}");
    assert!(format!("{run:?}").contains("deploy --prune"), "{run:?}");
    assert_eq!(said(&lab, 9000), Some("new-a".into()));
}

#[test]
fn a_process_that_has_a_port_is_named_under_runit() {
    a_process_that_has_a_port_is_named("runit");
}

#[test]
fn a_process_that_has_a_port_is_named_under_systemd() {
    a_process_that_has_a_port_is_named("systemd");
}

/// The same with keys in etcd: a service of the launcher.
const KEPT: &str = r#"
params(port = param("port"))

def config(ctx):
    return {ctx.component + "/name": ctx.component}

def deploy(ctx):
    p = ctx.params
    file_write("/srv/serve", source = "serve")
    launch(
        "kept-" + ctx.component,
        argv = ["/usr/bin/perl", "/srv/serve", str(p.port), ctx.component],
        files = [file("name", key = ctx.component + "/name")],
        ports = {"port": p.port},
    )

def health(ctx):
    wait_port(ctx.params.port, timeout = 20)
"#;

fn with_keys(a: u16, b: u16) -> String {
    let of = |name: &str, port: u16| {
        format!(
            "[component.{name}]\nrecipe = \"kept\"\nhosts = [\"one\"]\nneeds = [\"etcd\"]\nparams = {{ port = {port} }}\n"
        )
    };
    format!(
        "[host.etcd]\ncontainer = true\n[host.one]\ncontainer = true\n[component.etcd]\nrecipe = \"etcd\"\nhosts = [\"etcd\"]\n{}{}",
        of("a", a),
        of("b", b)
    )
}

/// Has a port of a host taken; gives the process.
fn take(lab: &TestLab, host: &str, port: u16) -> String {
    let program = format!(
        "my $s = IO::Socket::INET->new(LocalPort => {port}, Listen => 1) or die; print \"$$\\n\"; close STDOUT; sleep 1000"
    );
    let command = format!("setsid perl -MIO::Socket::INET -e '$|=1; {program}' </dev/null 2>/dev/null &");
    lab.expect(0, &["ssh", "LAB", host, "--", &command]).stdout.trim().to_owned()
}

#[test]
fn a_taken_port_stops_a_component_before_its_keys() {
    let lab = TestLab::new(&with_keys(9000, 9001));
    lab.recipe("kept", KEPT);
    lab.write("recipes/kept/serve", SERVE);
    lab.expect(0, &["up", "LAB"]);
    // The store itself: nothing of its plan is begun.
    let pid = take(&lab, "etcd", 2379);
    let run = lab.expect(40, &["deploy", "LAB"]);
    let told = format!("service `etcd` cannot start: port 0.0.0.0:2379 is held by `perl` (process {pid})");
    assert!(run.stderr.contains(&told), "{run:?}");
    assert_eq!(lab.inside("etcd", "command -v etcd; ls -A /var/lib/etcd 2>/dev/null || true"), "");
    lab.inside("etcd", &format!("kill {pid}"));
    let pid = take(&lab, "one", 9001);
    let run = lab.expect(40, &["deploy", "LAB"]);
    let told = format!("host one: service `kept-b` cannot start: port 9001 is held by `perl` (process {pid})");
    assert!(run.stderr.contains(&told) && run.stderr.contains("nothing of it was changed"), "{run:?}");
    assert!(lab.expect(20, &["config", "get", "LAB", "b/"]).stderr.contains("no key"));
    assert_eq!(lab.inside("one", "ls /etc/sv | grep kept; ls /etc/ovs-cuisine"), "kept-a\nkept-a.link\n");
    lab.inside("one", &format!("kill {pid}"));
    lab.expect(0, &["deploy", "LAB"]);
    assert_eq!([said(&lab, 9000), said(&lab, 9001)], [Some("a".into()), Some("b".into())]);
    // What follows its keys by itself swaps as well.
    lab.inventory(&with_keys(9001, 9000));
    lab.expect(0, &["deploy", "LAB"]);
    assert_eq!([said(&lab, 9000), said(&lab, 9001)], [Some("b".into()), Some("a".into())]);
    let again = lab.events(0, &["deploy", "LAB"]);
    assert_eq!((changed(&again), &summary(&again)["keys_changed"]), (0, &Value::from(0)));
}
