//! Services under runit.

use std::path::Path;

use ovs_cuisine::{
    plan::{
        Action, FailureKind, ListenPort, MaxDelete, MemoryLock, Op, Outcome, Plan, ServiceDefinition, ServiceEnsure,
        StepId, Sync,
    },
    tree::SourceTree,
    wire::Mode,
};

use super::{
    host::{Helper, Host, host, plan},
    operations::{converge, file, text, user},
};

pub(super) fn definition(script: &str) -> ServiceDefinition {
    ServiceDefinition {
        argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
        description: "A test".into(),
        ..ServiceDefinition::default()
    }
}

pub(super) fn service(name: &str, definition: Option<ServiceDefinition>) -> ServiceEnsure {
    ServiceEnsure {
        name: name.into(),
        definition,
        running: true,
        enabled: true,
        restart_on: Vec::new(),
        ports: Vec::new(),
        yields: Vec::new(),
    }
}

fn pid(host: &Host, name: &str) -> String {
    host.shell(&format!("cat /etc/service/{name}/supervise/pid"))
}

#[test]
fn a_service_is_defined_started_restarted_and_stopped() {
    let host = host();
    let mut helper = host.helper();
    host.shell("id ovs >/dev/null 2>&1 || useradd -m -G audio ovs");
    let script = "echo \"I am $(id -un) $(id -Gn | tr ' ' ,) $HOME $X $(pwd) $(ulimit -n)\"; exec sleep 1000";
    let mut wanted = definition(script);
    wanted.user = Some("ovs".into());
    wanted.directory = Some("/usr".parse().unwrap());
    wanted.environment = vec![("X".into(), "it's $HOME".into())];
    wanted.limit_nofile = Some(500);
    let mut op = service("worker", Some(wanted));
    let told = converge(&host, &mut helper, &Op::ServiceEnsure(op.clone()));
    let actions: Vec<Action> = told.diffs()[0].changes.iter().map(|change| change.action).collect();
    // The script, its bonds, what happens at its end and start, and its log's script.
    assert_eq!(actions, [vec![Action::Create; 5], vec![Action::Modify, Action::Start]].concat());
    host.wait_until("grep -q 'I am ovs ovs,audio /home/ovs it.s .HOME /usr 500' /var/log/worker/current");

    // A new definition restarts it; the same one does not.
    let before = pid(&host, "worker");
    assert_eq!(helper.apply(&Op::ServiceEnsure(op.clone())).outcome(), Outcome::NoChange);
    assert_eq!(pid(&host, "worker"), before);
    op.definition = Some(definition("exec sleep 2000"));
    let told = converge(&host, &mut helper, &Op::ServiceEnsure(op.clone()));
    assert_eq!(told.diffs()[0].changes.last().unwrap().action, Action::Restart);
    assert_ne!(pid(&host, "worker"), before);

    op.enabled = false;
    converge(&host, &mut helper, &Op::ServiceEnsure(op.clone()));
    op.running = false;
    converge(&host, &mut helper, &Op::ServiceEnsure(op.clone()));
    assert!(host.shell("sv status worker").starts_with("down"));
    (op.running, op.enabled) = (true, true);
    converge(&host, &mut helper, &Op::ServiceEnsure(op));
    assert!(host.shell("sv status worker").starts_with("run"));

    // Without a definition it is one that exists already.
    let mut there = service("worker", None);
    assert_eq!(helper.check(&Op::ServiceEnsure(there.clone())).outcome(), Outcome::NoChange);
    there.running = false;
    converge(&host, &mut helper, &Op::ServiceEnsure(there));
    let missing = helper.check(&Op::ServiceEnsure(service("never-heard-of", None))).failure();
    assert_eq!(missing.kind, FailureKind::BadInput);
    assert!(missing.message.contains("`never-heard-of`"), "{missing:?}");
}

#[test]
fn a_service_that_dies_at_once_is_a_failure_with_its_log() {
    let host = host();
    let mut helper = host.helper();
    let op = Op::ServiceEnsure(service("mayfly", Some(definition("echo my last words; exit 1"))));
    let failure = helper.apply(&op).failure();
    assert!(failure.message.contains("service `mayfly`"), "{failure:?}");
    assert!(failure.output_tail.iter().any(|line| line.contains("my last words")), "{failure:?}");
    let mut stopped = service("mayfly", None);
    (stopped.running, stopped.enabled) = (false, false);
    helper.apply(&Op::ServiceEnsure(stopped));
}

#[test]
fn a_service_that_listens_and_dies_is_a_failure() {
    let host = host();
    let mut helper = host.helper();
    let listening = |then: &str| {
        let script = format!(
            "exec perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(LocalPort => 4717, Listen => 1, ReuseAddr => 1) or die; {then}'"
        );
        let ports = vec![ListenPort::tcp(4717)];
        Op::ServiceEnsure(ServiceEnsure { ports, ..service("listens", Some(definition(&script))) })
    };
    let failure = helper.apply(&listening("select undef, undef, undef, 0.1; die \"too much\\n\"")).failure();
    assert!(failure.message.contains("service `listens`"), "{failure:?}");
    assert!(failure.output_tail.iter().any(|line| line.contains("too much")), "{failure:?}");
    // What goes on listening is taken for what it is, and keeps its port for itself.
    let steady = listening("sleep 1000");
    assert_eq!(helper.apply(&steady).outcome(), Outcome::Changed);
    assert_eq!(helper.apply(&steady).outcome(), Outcome::NoChange);
    let mut stopped = service("listens", None);
    (stopped.running, stopped.enabled) = (false, false);
    helper.apply(&Op::ServiceEnsure(stopped));
}

#[test]
fn a_service_restarts_on_changes_only_when_it_ran() {
    let host = host();
    let mut helper = host.helper();
    host.shell("rm -f /srv/reacting.conf");
    let mut reacting = service("reacting", Some(definition("exec sleep 3000")));
    reacting.restart_on = vec![StepId(0)];
    let with = |content: &str| {
        plan([Op::FileWrite(file("/srv/reacting.conf", text(content))), Op::ServiceEnsure(reacting.clone())])
    };
    let first = helper.run(Mode::Apply, &with("1"));
    assert_eq!(first.outcomes(), [Outcome::Changed, Outcome::Changed]);
    assert_eq!(first.diffs()[1].changes.last().unwrap().action, Action::Start, "a fresh start needs no restart");
    let before = pid(&host, "reacting");
    assert_eq!(helper.run(Mode::Apply, &with("1")).outcomes(), [Outcome::NoChange, Outcome::NoChange]);
    let checked = helper.run(Mode::Check, &with("2"));
    assert_eq!(checked.diffs()[1].changes[0].action, Action::Restart);
    assert_eq!(pid(&host, "reacting"), before);
    assert_eq!(helper.run(Mode::Apply, &with("2")).outcomes(), [Outcome::Changed, Outcome::Changed]);
    assert_ne!(pid(&host, "reacting"), before);
}

#[test]
fn an_interrupted_restart_is_made_up_for_exactly_once() {
    let host = host();
    host.shell("rm -f /srv/interrupted.conf /srv/gate; rm -rf /var/lib/ovs-cuisine/pending/test");
    let mut interrupted = service("interrupted", Some(definition("exec sleep 4000")));
    interrupted.restart_on = vec![StepId(0)];
    let steps = |content: &str| {
        let write = Op::FileWrite(file("/srv/interrupted.conf", text(content)));
        // Holds the run up between the change and the reaction, where it is killed.
        let mut hold = super::operations::run("test -e /srv/gate || { touch /srv/held; sleep 1000; }");
        hold.changes = false;
        plan([write, Op::Run(hold), Op::ServiceEnsure(interrupted.clone())])
    };
    host.shell("touch /srv/gate; rm -f /srv/held");
    let mut helper = host.helper();
    helper.run(Mode::Apply, &steps("1"));
    let before = pid(&host, "interrupted");
    host.shell("rm /srv/gate");
    helper.begin(Mode::Apply, &steps("2"));
    host.wait_until("test -e /srv/held");
    host.shell("pkill -KILL -x cuisine-helper; touch /srv/gate; pkill -f '[s]leep 1000' || true");
    assert!(!helper.wait(), "a killed helper is no success");
    assert_eq!(pid(&host, "interrupted"), before, "the restart has not happened");

    let mut helper = host.helper();
    let checked = helper.run(Mode::Check, &steps("2"));
    assert_eq!(checked.outcomes(), [Outcome::NoChange, Outcome::NoChange, Outcome::WouldChange]);
    assert!(format!("{:?}", checked.diffs()).contains("interrupted"), "{checked:?}");
    let made_up = helper.run(Mode::Apply, &steps("2"));
    assert_eq!(made_up.outcomes(), [Outcome::NoChange, Outcome::NoChange, Outcome::Changed]);
    let after = pid(&host, "interrupted");
    assert_ne!(after, before);
    assert_eq!(helper.run(Mode::Apply, &steps("2")).outcomes(), vec![Outcome::NoChange; 3]);
    assert_eq!(pid(&host, "interrupted"), after);
}

#[test]
fn a_service_of_a_user_who_would_be_made_would_change() {
    let host = host();
    let mut helper = host.helper();
    let mut wanted = definition("exec sleep 5000");
    wanted.user = Some("not-yet".into());
    let op = Op::ServiceEnsure(service("not-yet", Some(wanted)));
    assert_eq!(helper.check(&op).failure().message, "user `not-yet` does not exist");
    let checked = helper.run(Mode::Check, &plan([Op::UserEnsure(user("not-yet")), op]));
    assert_eq!(checked.outcomes(), [Outcome::WouldChange, Outcome::WouldChange]);
}

/// Takes services away that a test has made.
fn remove(helper: &mut Helper, names: &[&str]) {
    for name in names {
        let mut gone = service(name, None);
        (gone.running, gone.enabled) = (false, false);
        helper.apply(&Op::ServiceEnsure(gone));
    }
}

#[test]
fn a_service_waits_for_those_that_it_needs() {
    let host = host();
    let mut helper = host.helper();
    let mut needing = definition("echo I run; exec sleep 6000");
    needing.binds_to = vec!["needed".into()];
    let needing = Op::ServiceEnsure(service("needing", Some(needing)));
    let mut following = definition("echo I follow; exec sleep 6000");
    following.after = vec!["needed".into(), "never-heard-of".into()];
    let following = Op::ServiceEnsure(service("following", Some(following)));
    let failure = helper.apply(&needing).failure();
    let told = "waits for the service needed, which does not run";
    assert!(failure.output_tail.iter().any(|line| line.contains(told)), "{failure:?}");
    // What only goes first need not be there.
    converge(&host, &mut helper, &following);
    host.wait_until("grep -q 'I follow' /var/log/following/current");
    converge(&host, &mut helper, &Op::ServiceEnsure(service("needed", Some(definition("exec sleep 6000")))));
    host.wait_until("grep -q 'I run' /var/log/needing/current");
    assert_eq!(helper.apply(&needing).outcome(), Outcome::NoChange);
    // One that is down is started by the service that needs it.
    host.shell("sv stop needing needed");
    host.shell("sv start needing");
    host.wait_until("sv status needed | grep -q ^run");
    remove(&mut helper, &["needing", "following", "needed"]);
}

#[test]
fn a_bound_service_goes_and_comes_back_with_the_other() {
    let host = host();
    let mut helper = host.helper();
    let bound_to = |names: &[&str], seconds: u32| {
        let mut wanted = definition(&format!("exec sleep {seconds}"));
        wanted.binds_to = names.iter().map(|name| (*name).to_owned()).collect();
        wanted
    };
    let op = |name: &str, definition| Op::ServiceEnsure(service(name, Some(definition)));
    // A chain, one that is bound to two, and one that only follows.
    let mut following = definition("exec sleep 9005");
    following.after = vec!["base".into()];
    for (name, definition) in [
        ("base", definition("exec sleep 9000")),
        ("middle", bound_to(&["base"], 9001)),
        ("end", bound_to(&["middle"], 9002)),
        ("both", bound_to(&["base", "middle"], 9003)),
        ("following", following),
    ] {
        converge(&host, &mut helper, &op(name, definition));
    }
    let state = |name: &str| host.shell(&format!("sv status {name} | cut -d: -f1")).trim().to_owned();
    let states = || ["base", "middle", "end", "both", "following"].map(state);
    let all_run = "for name in base middle end both following; do sv status $name | grep -q ^run: || exit 1; done";
    // Stopped, it takes along what is bound to it; that stays down until it comes back.
    host.shell("sv stop base");
    host.wait_until("for name in middle end both; do sv status $name | grep -q ^down: || exit 1; done");
    assert_eq!(states(), ["down", "down", "down", "down", "run"]);
    assert!(host.succeeds("! pgrep -f 'sleep 900[0123]'"), "a process was left");
    host.shell("sv start base");
    host.wait_until(all_run);
    // Killed, it comes back by itself, with all of them anew.
    let before = ["base", "middle", "end", "both", "following"].map(|name| pid(&host, name));
    host.shell("kill -KILL $(cat /etc/service/base/supervise/pid)");
    for (name, old) in ["base", "middle", "end", "both"].iter().zip(&before) {
        let is_new = format!("test \"$(cat /etc/service/{name}/supervise/pid)\" != \"{}\"", old.trim());
        host.wait_until(&format!("sv status {name} | grep -q ^run: && {is_new}"));
    }
    assert_eq!(pid(&host, "following"), before[4]);
    // Restarted by a deploy, in order; the others are as the next steps want them, whatever they find.
    let mut other = definition("exec sleep 9000; true");
    other.description = "Another".into();
    let again = |definition| {
        plan([
            op("base", definition),
            op("middle", bound_to(&["base"], 9001)),
            op("end", bound_to(&["middle"], 9002)),
            op("both", bound_to(&["base", "middle"], 9003)),
        ])
    };
    let done = helper.run(Mode::Apply, &again(other.clone()));
    assert!(done.outcomes().iter().all(|outcome| matches!(outcome, Outcome::Changed | Outcome::NoChange)), "{done:?}");
    host.wait_until(all_run);
    assert_eq!(helper.run(Mode::Apply, &again(other)).outcomes(), vec![Outcome::NoChange; 4]);
    // One that does not start by itself is not started with it.
    let mut asleep = service("both", Some(bound_to(&["base", "middle"], 9003)));
    (asleep.running, asleep.enabled) = (false, false);
    converge(&host, &mut helper, &Op::ServiceEnsure(asleep));
    host.shell("sv restart base");
    host.wait_until("sv status end | grep -q ^run:");
    assert_eq!(states(), ["run", "run", "run", "down", "run"]);
    // A bond that is undone is gone.
    converge(&host, &mut helper, &op("middle", bound_to(&[], 9001)));
    host.wait_until("sv status end | grep -q ^run:");
    host.shell("sv stop base");
    host.wait_until("sv status base | grep -q ^down:");
    assert_eq!(states(), ["down", "run", "run", "down", "run"]);
    remove(&mut helper, &["end", "both", "middle", "following", "base"]);
}

#[test]
fn limits_that_the_host_cannot_give_are_refused_before_anything_is_written() {
    let host = host();
    let mut helper = host.helper();
    let hard: u64 = host.shell("ulimit -Hn").trim().parse().unwrap();
    let locked: u64 = host.shell("ulimit -Hl").trim().parse().unwrap();
    let with = |nofile, memlock| {
        let mut wanted = definition("echo limits $(ulimit -n) $(ulimit -l); exec sleep 7000");
        (wanted.limit_nofile, wanted.limit_memlock) = (Some(nofile), memlock);
        Op::ServiceEnsure(service("limited", Some(wanted)))
    };
    for (op, message, hint) in [
        (with(hard + 1, None), format!("{hard} at most"), format!("ulimits = {{ nofile = {} }}", hard + 1)),
        (
            with(1, Some(MemoryLock::Unlimited)),
            "unlimited locked memory".to_owned(),
            "ulimits = { memlock = -1 }".into(),
        ),
    ] {
        for told in [helper.check(&op), helper.apply(&op)] {
            let failure = told.failure();
            assert_eq!(failure.kind, FailureKind::BadInput);
            assert!(failure.message.contains(&message), "{failure:?}");
            assert!(failure.hint.as_ref().unwrap().contains(&hint), "{failure:?}");
        }
    }
    assert!(host.succeeds("test ! -e /etc/sv/limited -a ! -e /etc/service/limited"), "something was written");
    converge(&host, &mut helper, &with(hard, Some(MemoryLock::Bytes(locked * 1024))));
    host.wait_until(&format!("grep -q 'limits {hard} {locked}' /var/log/limited/current"));
    remove(&mut helper, &["limited"]);
}

#[test]
fn a_service_has_its_own_time_to_stop() {
    let host = host();
    let mut helper = host.helper();
    let mut slow = definition("trap 'sleep 12; echo ended well; exit 0' TERM; while :; do sleep 1; done");
    slow.stop_timeout = Some(60);
    converge(&host, &mut helper, &Op::ServiceEnsure(service("slow", Some(slow.clone()))));
    let mut stopped = service("slow", Some(slow));
    stopped.running = false;
    helper.apply(&Op::ServiceEnsure(stopped)).outcome();
    assert!(host.succeeds("grep -q 'ended well' /var/log/slow/current"), "it was killed");
    remove(&mut helper, &["slow"]);
}

/// A plan of one component: a tree, and a service that restarts on it.
fn with_tree(helper: &mut Helper, source: &Path, component: &str, content: &str) -> Plan {
    let source = source.join(content);
    fs_err::create_dir_all(&source).unwrap();
    fs_err::write(source.join("tool"), content).unwrap();
    let tree = SourceTree::scan(&source, &[], None).unwrap();
    helper.contents.add_tree(&tree);
    let sync = Op::Sync(Sync {
        dest: "/srv/shared".parse().unwrap(),
        tree: tree.summary().clone(),
        owner: None,
        group: None,
        delete: MaxDelete::Any,
        ignore: Vec::new(),
        release: None,
    });
    let mut service = service(component, Some(definition("exec sleep 8000")));
    service.restart_on = vec![StepId(0)];
    Plan { component: component.parse().unwrap(), ..plan([sync, Op::ServiceEnsure(service)]) }
}

#[test]
fn components_that_share_a_tree_both_restart() {
    let host = host();
    host.shell("rm -rf /srv/shared /var/lib/ovs-cuisine/started /var/lib/ovs-cuisine/pending");
    let source = tempfile::tempdir().unwrap();
    let mut helper = host.helper();
    let mut run = |component: &str, content: &str, mode| {
        let plan = with_tree(&mut helper, source.path(), component, content);
        helper.run(mode, &plan)
    };
    for component in ["sharing-a", "sharing-b"] {
        run(component, "1", Mode::Apply);
        assert_eq!(run(component, "1", Mode::Apply).outcomes(), [Outcome::NoChange, Outcome::NoChange]);
    }
    let (a, b) = (pid(&host, "sharing-a"), pid(&host, "sharing-b"));
    assert_eq!(run("sharing-a", "2", Mode::Apply).outcomes(), [Outcome::Changed, Outcome::Changed]);
    assert_ne!(pid(&host, "sharing-a"), a);
    // The other component finds the tree in place; its service still has to restart, once.
    let checked = run("sharing-b", "2", Mode::Check);
    assert_eq!(checked.outcomes(), [Outcome::NoChange, Outcome::WouldChange]);
    assert!(format!("{:?}", checked.diffs()).contains("`/srv/shared` has changed since its start"), "{checked:?}");
    assert_eq!(pid(&host, "sharing-b"), b, "a check restarts nothing");
    let restarted = run("sharing-b", "2", Mode::Apply);
    assert_eq!(restarted.outcomes(), [Outcome::NoChange, Outcome::Changed]);
    assert_eq!(restarted.diffs()[0].changes[0].action, Action::Restart);
    let after = pid(&host, "sharing-b");
    assert_ne!(after, b);
    assert_eq!(run("sharing-b", "2", Mode::Apply).outcomes(), [Outcome::NoChange, Outcome::NoChange]);
    assert_eq!(pid(&host, "sharing-b"), after);
    // A service of which nobody knows what it was started with is taken as it is.
    host.shell("rm -rf /var/lib/ovs-cuisine/started");
    assert_eq!(run("sharing-b", "2", Mode::Apply).outcomes(), [Outcome::NoChange, Outcome::NoChange]);
    assert_eq!(pid(&host, "sharing-b"), after);
    // And remembered from then on.
    run("sharing-a", "3", Mode::Apply);
    assert_eq!(run("sharing-b", "3", Mode::Apply).outcomes(), [Outcome::NoChange, Outcome::Changed]);
    remove(&mut helper, &["sharing-a", "sharing-b"]);
}
