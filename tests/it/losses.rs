//! etcd that goes away in the middle of a deploy: what had no need of it ends well, what had is told and left whole, and
//! the next deploy finishes it. Real containers; a deploy is held at a point by a step that waits for a file.

mod cluster;

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{
    lab::{Run, TestLab, docker, summary},
    wait::wait_for,
};

/// How long a run may take to give up on an etcd that is gone. It says when it does; this is for one that never would.
const GIVES_UP: Duration = Duration::from_secs(90);

/// A service with one file from etcd, and a deploy that can be held before its first step, before its service and in its
/// probe, until the file `/var/tmp/go` is there.
const APP: &str = r#"
params(
    value = param("str", default = "one"),
    hold = param("str", default = ""),
)

def wait(ctx, point):
    if ctx.params.hold == point:
        run("touch /var/tmp/held; until [ -e /var/tmp/go ]; do sleep 0.05; done", timeout = 120, changes = False)

def config(ctx):
    return {ctx.component + "/main": ctx.params.value, ctx.component + "/other": ctx.params.value}

def deploy(ctx):
    wait(ctx, "first")
    file_write("/srv/" + ctx.component, ctx.params.value)
    wait(ctx, "service")
    launch(
        ctx.component,
        argv = ["/bin/sh", "-c", "exec sleep 1000000", "app", file("main", key = ctx.component + "/main")],
    )

def health(ctx):
    wait(ctx, "probe")
    run("for _ in $(seq 60); do grep -qx %s /run/ovs-cuisine/%s/main && exit; sleep 0.1; done; exit 1" % (ctx.params.value, ctx.component), changes = False)
"#;

/// Needs no etcd.
const PLAIN: &str = r#"
params(value = param("str", default = "one"), hold = param("bool", default = False))

def deploy(ctx):
    if ctx.params.hold:
        run("touch /var/tmp/held; until [ -e /var/tmp/go ]; do sleep 0.05; done", timeout = 120, changes = False)
    file_write("/srv/" + ctx.component, ctx.params.value)
"#;

/// `first` and `second` are services, `gate` stands between them, `apart` needs nothing.
fn inventory(values: [&str; 4], more: &str) -> String {
    let [first, gate, second, apart] = values;
    format!(
        "[defaults.container]\nimage = \"ovs-cuisine/ssh:latest\"\n\n\
         [host.etcd]\ncontainer = {{ volumes = [\"etcd:/var/lib/etcd\"] }}\n\n[host.\"node-[1-4]\"]\ncontainer = true\n\n\
         [component.etcd]\nrecipe = \"etcd\"\nhosts = [\"etcd\"]\n\n\
         [component.first]\nrecipe = \"app\"\nhosts = [\"node-1\"]\nneeds = [\"etcd\"]\nparams = {{ {first} }}\n\n\
         [component.gate]\nrecipe = \"plain\"\nhosts = [\"node-2\"]\nneeds = [\"first\"]\nparams = {{ {gate} }}\n\n\
         [component.second]\nrecipe = \"app\"\nhosts = [\"node-3\"]\nneeds = [\"gate\"]\nparams = {{ {second} }}\n\n\
         [component.apart]\nrecipe = \"plain\"\nhosts = [\"node-4\"]\nparams = {{ {apart} }}\n\n{more}"
    )
}

const PLAIN_VALUE: &str = "value = \"one\"";

/// A deploy under way, and its events as they come.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    events: Vec<Value>,
}

impl Running {
    pub(crate) fn deploy(lab: &TestLab) -> Self {
        let mut command = lab.command(&["deploy", "LAB", "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (send, lines) = channel();
        std::thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|l| send.send(l)));
        Self { child, lines, events: Vec::new() }
    }

    /// Waits until this host's step waits for its file.
    pub(crate) fn held(self, lab: &TestLab, host: &str) -> Self {
        let deadline = Instant::now() + Duration::from_secs(120);
        while docker(&["exec", &lab.container(host), "test", "-e", "/var/tmp/held"]).status.code() != Some(0) {
            assert!(Instant::now() < deadline, "{host} never came to its hold");
            std::thread::sleep(Duration::from_millis(50));
        }
        self
    }

    /// Lets the held step go on and waits for the end. Anything longer than [`GIVES_UP`] is a run that hangs.
    pub(crate) fn go(mut self, lab: &TestLab, host: &str, status: i32) -> (Vec<Value>, Duration) {
        lab.inside(host, "touch /var/tmp/go");
        let begun = Instant::now();
        loop {
            let left = GIVES_UP.saturating_sub(begun.elapsed());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.events.push(serde_json::from_str(&line).unwrap()),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    self.child.kill().unwrap();
                    panic!(
                        "the deploy hangs; last events: {:#?}",
                        self.events.iter().rev().take(5).collect::<Vec<_>>()
                    );
                }
            }
        }
        let took = begun.elapsed();
        let run = Run::of(&self.child.wait_with_output().unwrap());
        assert_eq!(run.status, status, "{}\n{:#?}", run.stderr, self.events);
        lab.inside(host, "rm -f /var/tmp/go /var/tmp/held");
        (self.events, took)
    }
}

/// What became of each component, as `name status`.
fn ends(events: &[Value]) -> Vec<String> {
    let rows = summary(events)["components"].as_array().unwrap().iter();
    let mut ends: Vec<_> =
        rows.map(|row| format!("{} {}", row["component"].as_str().unwrap(), row["status"].as_str().unwrap())).collect();
    ends.sort();
    ends
}

/// The only thing that failed outside a step: the component and the problem's text.
fn problem(events: &[Value]) -> (String, String) {
    let failed: Vec<_> = events.iter().filter(|event| event["event"] == "component-failed").collect();
    let [found] = failed[..] else { panic!("one thing was to fail: {failed:#?}") };
    (found["component"].as_str().unwrap().to_owned(), found["problem"].to_string())
}

fn process(lab: &TestLab, host: &str) -> String {
    lab.inside(host, "pgrep -f '^sleep 1000000'")
}

/// The next deploy brings etcd back and finishes; the one after it has nothing to do.
pub(crate) fn is_repaired(lab: &TestLab) {
    lab.events(0, &["deploy", "LAB"]);
    let again = lab.expect(0, &["deploy", "LAB"]);
    assert!(again.stdout.contains("\n0 changed"), "{again:?}");
}

fn healthy_lab() -> TestLab {
    let lab = TestLab::new(&inventory([PLAIN_VALUE; 4], ""));
    lab.recipe("app", APP);
    lab.recipe("plain", PLAIN);
    is_repaired(&lab);
    lab
}

#[test]
fn etcd_goes_away_in_the_middle() {
    let lab = healthy_lab();
    between_components(&lab);
    after_the_keys(&lab);
}

#[test]
fn etcd_falls_silent_and_comes_back() {
    let lab = healthy_lab();
    a_paused_etcd_in_a_probe(&lab);
    interrupted_while_it_is_silent(&lab);
    restarted_in_between(&lab);
}

#[test]
fn services_outlive_their_etcd() {
    let lab = healthy_lab();
    services_that_restart_without_it(&lab);
    an_etcd_that_lost_everything(&lab);
}

/// Killed when the first components are done. What still needs it fails, untouched; the rest ends well.
fn between_components(lab: &TestLab) {
    let (first, second) = (process(lab, "node-1"), process(lab, "node-3"));
    let two = "value = \"two\"";
    lab.inventory(&inventory([two, "value = \"two\", hold = true", two, two], ""));
    let run = Running::deploy(lab).held(lab, "node-2");
    docker(&["kill", &lab.container("etcd")]);
    let (events, took) = run.go(lab, "node-2", 40);
    assert_eq!(ends(&events), ["apart changed", "etcd unchanged", "first changed", "gate changed", "second failed"]);
    let (component, text) = problem(&events);
    assert_eq!(component, "second");
    for part in ["etcd at etcd:2379 does not answer: cannot ", "through host etcd", "component:etcd", "deploy again"] {
        assert!(text.contains(part), "`{part}` is not in {text}");
    }
    eprintln!("etcd was given up after {took:?}");
    assert_eq!(lab.inside("node-3", "cat /srv/second /run/ovs-cuisine/second/main"), "oneone", "left as it was");
    assert_eq!(process(lab, "node-3"), second, "and running");
    assert_ne!(process(lab, "node-1"), first, "the other one has its new configuration");
    lab.inventory(&inventory([two; 4], ""));
    is_repaired(lab);
    assert_eq!(lab.inside("node-3", "cat /srv/second /run/ovs-cuisine/second/main"), "twotwo");
}

/// Killed when a new component's keys are written and no host is touched yet, and again between two steps: the service
/// waits for etcd, its probe fails, and the run says why.
fn after_the_keys(lab: &TestLab) {
    for (point, is_written) in [("first", false), ("service", true)] {
        let two = "value = \"two\"";
        let more = |hold: &str| {
            format!(
                "[component.{point}-held]\nrecipe = \"app\"\nhosts = [\"node-4\"]\nneeds = [\"second\"]\nparams = {{ {hold} }}\n"
            )
        };
        lab.inventory(&inventory([two; 4], &more(&format!("hold = \"{point}\""))));
        let run = Running::deploy(lab).held(lab, "node-4");
        let there = format!("test -e /srv/{point}-held && echo yes || echo no");
        assert_eq!(lab.inside("node-4", &there), if is_written { "yes\n" } else { "no\n" });
        docker(&["kill", &lab.container("etcd")]);
        let (events, _) = run.go(lab, "node-4", 40);
        let (component, text) = problem(&events);
        assert_eq!(component, format!("{point}-held"));
        assert!(text.contains("etcd at etcd:2379 does not answer") && text.contains("wait for it"), "{text}");
        let log = lab.inside("node-4", &format!("cat /var/log/{point}-held/current"));
        assert!(log.contains("waiting: ") && log.contains("does not answer"), "{log}");
        lab.inventory(&inventory([two; 4], &more("")));
        is_repaired(lab);
        // Both halves of the keys are there, and only now the service reads them.
        let keys = lab.expect(0, &["config", "get", "LAB", &format!("{point}-held/")]).stdout;
        assert!(keys.contains("/main") && keys.contains("/other"), "{keys}");
    }
    lab.inventory(&inventory(["value = \"two\""; 4], ""));
    lab.expect(0, &["deploy", "LAB", "--prune"]);
}

/// Paused, which looks like a network that swallows everything: no call may wait for ever.
fn a_paused_etcd_in_a_probe(lab: &TestLab) {
    let three = "value = \"three\"";
    lab.inventory(&inventory(["value = \"three\", hold = \"probe\"", three, three, three], ""));
    let run = Running::deploy(lab).held(lab, "node-1");
    wait_for("the new value", || (lab.inside("node-1", "cat /run/ovs-cuisine/first/main") == "three").then_some(()));
    docker(&["pause", &lab.container("etcd")]);
    let (events, took) = run.go(lab, "node-1", 40);
    assert_eq!(
        ends(&events),
        ["apart changed", "etcd unchanged", "first changed", "gate changed", "second failed"],
        "a probe that asks no etcd passes"
    );
    let (_, text) = problem(&events);
    assert!(text.contains("etcd at etcd:2379 does not answer: cannot "), "{text}");
    eprintln!("a paused etcd was given up after {took:?}");
    lab.inventory(&inventory([three; 4], ""));
    is_repaired(lab);
}

/// Ctrl-C ends a run that waits for an etcd that says nothing.
fn interrupted_while_it_is_silent(lab: &TestLab) {
    let four = "value = \"four\"";
    lab.inventory(&inventory([four, "value = \"four\", hold = true", four, four], ""));
    let mut run = Running::deploy(lab).held(lab, "node-2");
    docker(&["pause", &lab.container("etcd")]);
    lab.inside("node-2", "touch /var/tmp/go");
    while !run
        .events
        .last()
        .is_some_and(|event| event["event"] == "component-started" && event["component"] == "second")
    {
        run.events.push(serde_json::from_str(&run.lines.recv_timeout(GIVES_UP).unwrap()).unwrap());
    }
    let interrupted = Instant::now();
    let pid = rustix::process::Pid::from_raw(i32::try_from(run.child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(run.child.wait().unwrap().code(), Some(130));
    // The promise is 2 s, less than it takes to give etcd up; the margin is for a busy machine.
    assert!(interrupted.elapsed() < Duration::from_secs(8), "{:?}", interrupted.elapsed());
    lab.inside("node-2", "rm -f /var/tmp/go /var/tmp/held");
    lab.inventory(&inventory([four; 4], ""));
    is_repaired(lab);
}

/// Away and back while nobody asked: the run finds its way again, although the first link is dead.
fn restarted_in_between(lab: &TestLab) {
    let five = "value = \"five\"";
    lab.inventory(&inventory([five, "value = \"five\", hold = true", five, five], ""));
    let run = Running::deploy(lab).held(lab, "node-2");
    docker(&["restart", "-t", "0", &lab.container("etcd")]);
    run.go(lab, "node-2", 0);
    assert_eq!(lab.inside("node-3", "cat /srv/second"), "five");
    lab.inventory(&inventory([five; 4], ""));
    is_repaired(lab);
}

/// A service that is restarted while etcd is away comes back by itself when etcd does.
fn services_that_restart_without_it(lab: &TestLab) {
    let other = process(lab, "node-3");
    docker(&["kill", &lab.container("etcd")]);
    lab.inside("node-1", "sv restart first");
    wait_for("the launcher's word", || {
        lab.inside("node-1", "tail -n 3 /var/log/first/current").contains("waiting: ").then_some(())
    });
    assert_eq!(lab.inside("node-1", "pgrep -f '^sleep 1000000' || true"), "");
    assert_eq!(process(lab, "node-3"), other, "who was not restarted goes on");
    docker(&["start", &lab.container("etcd")]);
    wait_for("the service", || (!lab.inside("node-1", "pgrep -f '^sleep 1000000' || true").is_empty()).then_some(()));
    assert_eq!(process(lab, "node-3"), other);
    is_repaired(lab);
}

/// Back without its data, which stands for one that was restored from nothing: nobody who runs loses anything, and the
/// next deploy writes all of it again.
fn an_etcd_that_lost_everything(lab: &TestLab) {
    let before = [process(lab, "node-1"), process(lab, "node-3")];
    let files = |lab: &TestLab| ["node-1", "node-3"].map(|host| lab.inside(host, "cat /run/ovs-cuisine/*/*"));
    let rendered = files(lab);
    docker(&["rm", "-f", &lab.container("etcd")]);
    docker(&["volume", "rm", &lab.container("etcd")]);
    let events = lab.events(0, &["deploy", "LAB"]);
    assert!(summary(&events)["keys_changed"].as_u64().unwrap() >= 8, "{}", summary(&events));
    assert_eq!([process(lab, "node-1"), process(lab, "node-3")], before, "nobody was restarted");
    assert_eq!(files(lab), rendered);
    let again = lab.expect(0, &["deploy", "LAB"]);
    assert!(again.stdout.contains("\n0 changed"), "{again:?}");
    // And they follow the new etcd.
    lab.expect(0, &["config", "set", "LAB", "first/main", "by hand"]);
    wait_for("the new value", || (lab.inside("node-1", "cat /run/ovs-cuisine/first/main") == "by hand").then_some(()));
    is_repaired(lab);
}
