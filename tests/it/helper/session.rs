//! How a conversation with the helper begins, is interrupted and ends.

use ovs_cuisine::{
    plan::{FailureKind, InitSystem, Op, Outcome, PackageManager},
    wire::{self, FromHelper, Mode, NearHello, PROTOCOL, ToHelper},
};

use super::{
    host::{Helper, docker, host, plan},
    operations::{dir, run},
};

fn long(mark: &str) -> Op {
    Op::Run(run(&format!("echo begun; sleep {mark} & wait")))
}

/// Listens until the command of a plan has printed something.
fn wait_for_output(helper: &mut Helper) {
    loop {
        if let FromHelper::Steps { reports, .. } = helper.receive()
            && format!("{reports:?}").contains("begun")
        {
            return;
        }
    }
}

#[test]
fn facts_tell_what_the_host_is() {
    let host = host();
    let helper = host.helper();
    let facts = helper.facts();
    assert_eq!((facts.init, facts.packages), (InitSystem::Runit, PackageManager::Apt));
    assert_eq!((facts.user.as_str(), facts.uid, facts.home.as_str()), ("root", 0, "/root"));
    assert_eq!(facts.hostname, host.shell("uname -n").trim());
    assert_eq!(facts.distribution.id, host.shell(". /etc/os-release; echo $ID").trim());
    assert_eq!(facts.boot_id, host.shell("cat /proc/sys/kernel/random/boot_id").trim());
    assert!(facts.container && facts.memory > 0 && facts.cpus > 0);
    let address = host.shell("hostname -I | cut -d' ' -f1");
    assert_eq!(facts.addresses.first().map(ToString::to_string).as_deref(), Some(address.trim()));
}

#[test]
fn the_program_knows_itself() {
    let host = host();
    let id = host.shell("/opt/cuisine-helper --self-check");
    assert_eq!(id.trim(), env!("OVS_CUISINE_EMBEDDED_HELPER_ID"));
    assert!(host.shell("/opt/cuisine-helper --version").starts_with("cuisine-helper "));
    assert!(host.shell("/opt/cuisine-helper --help").contains("Usage:"));
    assert!(
        !host.succeeds("/opt/cuisine-helper nonsense") && !host.succeeds("/opt/cuisine-helper serve 'not a nonce'")
    );
}

#[test]
fn strangers_are_sent_away() {
    let host = host();
    let mut foreign = host.mute_helper("root");
    foreign.send(&ToHelper::Hello(NearHello {
        protocol: PROTOCOL + 1,
        owner: String::new(),
        lock_wait_ms: 0,
        lab: "test".parse().unwrap(),
    }));
    let FromHelper::Fault { why } = foreign.receive() else { panic!() };
    assert!(why.contains("protocol"), "{why}");
    assert!(!foreign.wait());
    let mut garbage = host.helper();
    garbage.send_bytes(&[0xff; 64]);
    assert!(matches!(garbage.receive(), FromHelper::Fault { .. }));
    assert!(!garbage.wait());
    let mut polite = host.helper();
    polite.send(&ToHelper::Bye);
    assert!(polite.wait());
}

#[test]
fn the_end_of_the_stream_takes_the_children_along() {
    let host = host();
    let mut helper = host.helper();
    helper.begin(Mode::Apply, &plan([long("61001")]));
    wait_for_output(&mut helper);
    assert!(host.succeeds("pgrep -f '[s]leep 61001'"));
    helper.hang_up();
    assert!(helper.wait(), "the end of the stream is a goodbye");
    assert!(!host.succeeds("pgrep -f '[s]leep 61001'"));
}

#[test]
fn a_cancelled_plan_ends_and_the_next_one_runs() {
    let host = host();
    let mut helper = host.helper();
    let request = helper.begin(Mode::Apply, &plan([long("61002"), Op::DirEnsure(dir("/srv"))]));
    wait_for_output(&mut helper);
    helper.send(&ToHelper::Cancel { request });
    let told = helper.finish(request);
    assert_eq!(told.failure().kind, FailureKind::Cancelled);
    assert_eq!(told.outcomes()[1], Outcome::NotAttempted);
    assert!(!host.succeeds("pgrep -f '[s]leep 61002'"));
    assert_eq!(helper.apply(&Op::DirEnsure(dir("/srv"))).outcome(), Outcome::NoChange);
}

#[test]
fn a_command_that_takes_too_long_is_ended() {
    let host = host();
    let mut helper = host.helper();
    let mut slow = run("sleep 61003");
    slow.timeout_ms = 200;
    let failure = helper.apply(&Op::Run(slow)).failure();
    assert_eq!(failure.kind, FailureKind::Timeout);
    assert!(!host.succeeds("pgrep -f '[s]leep 61003'"));
}

#[test]
fn one_run_at_a_time() {
    let host = host();
    let mut first = host.helper();
    let mut second = host.helper();
    let request = first.begin(Mode::Apply, &plan([long("61004")]));
    wait_for_output(&mut first);
    let refused = second.apply(&Op::DirEnsure(dir("/srv"))).failure();
    assert_eq!(refused.kind, FailureKind::Locked);
    assert!(refused.message.contains("tester@here, run 1"), "{refused:?}");
    assert_eq!(second.check(&Op::DirEnsure(dir("/srv"))).outcome(), Outcome::NoChange, "a check needs no lock");
    // The lock goes with its owner, however it ends.
    host.shell("pkill -KILL -o -x cuisine-helper");
    assert!(!first.wait());
    assert_eq!(second.apply(&Op::DirEnsure(dir("/srv"))).outcome(), Outcome::NoChange);
    host.shell("pkill -f '[s]leep 61004' || true");
    let _ = request;
}

#[test]
fn quiet_plans_cost_two_messages() {
    let host = host();
    let mut helper = host.helper();
    let ops = |count| plan(std::iter::repeat_n(Op::DirEnsure(dir("/srv")), count));
    // A machine that stalls for a second may cost one more message; it may not grow with the number of steps.
    let counts = [5, 200].map(|count| helper.run(Mode::Apply, &ops(count)).messages);
    assert!(counts[0] >= 2 && counts[1] < 20, "{counts:?}");
}

#[test]
fn output_is_shown_line_by_line() {
    let host = host();
    let mut helper = host.helper();
    let told = helper.apply(&Op::Run(run("seq 1 500; echo oops >&2")));
    assert_eq!(told.output().len(), 501);
    assert!(told.messages < 50, "{} messages", told.messages);
    let failure = helper.apply(&Op::Run(run("seq 1 500 >&2; exit 1"))).failure();
    assert_eq!((failure.output_tail.len(), failure.output_tail.last().map(String::as_str)), (20, Some("500")));
}

#[test]
fn a_frame_that_promises_too_much_is_refused() {
    let host = host();
    let mut helper = host.helper();
    let frame = wire::encode(&ToHelper::Bye).unwrap();
    helper.send_bytes(&frame[..2]);
    helper.hang_up();
    assert!(!helper.wait(), "a stream that ends inside a frame is no goodbye");
    assert!(docker(&["version", "--format", "{{.Server.Version}}"]).len() > 1);
}
