//! What services need of each other and may use, under systemd.

use ovs_cuisine::plan::{MemoryLock, Op, Outcome};

use super::{
    host::{Helper, Host, systemd_host},
    services::{definition, service},
};

fn state(host: &Host, name: &str) -> String {
    host.shell(&format!("systemctl show --value --property=ActiveState {name}")).trim().to_owned()
}

fn converge(helper: &mut Helper, op: &Op) {
    let outcomes = [helper.apply(op).outcome(), helper.check(op).outcome(), helper.apply(op).outcome()];
    assert_eq!(outcomes, [Outcome::Changed, Outcome::NoChange, Outcome::NoChange]);
}

#[test]
fn a_bound_service_goes_and_comes_back_with_the_other() {
    let host = systemd_host();
    let mut helper = host.helper();
    let mut bound = definition("exec sleep 1000");
    bound.binds_to = vec!["base".into()];
    let mut following = definition("exec sleep 1000");
    following.after = vec!["base".into(), "never-heard-of".into()];
    for (name, definition) in [("base", definition("exec sleep 1000")), ("bound", bound), ("following", following)] {
        converge(&mut helper, &Op::ServiceEnsure(service(name, Some(definition))));
    }
    host.shell("systemctl stop base");
    host.wait_until("! systemctl is-active --quiet bound");
    assert_eq!((state(&host, "base").as_str(), state(&host, "following").as_str()), ("inactive", "active"));
    // Started by the service that needs it.
    host.shell("systemctl start bound");
    assert_eq!(state(&host, "base"), "active");
    // Restarted by itself after a crash, with what depends on it.
    let pid = |name: &str| host.shell(&format!("systemctl show --value --property=MainPID {name}"));
    let (before, other) = (pid("bound"), pid("base"));
    host.shell("systemctl kill --signal=KILL base");
    host.wait_until(&format!("test \"$(systemctl show --value --property=MainPID base)\" != {}", other.trim()));
    host.wait_until("systemctl is-active --quiet bound");
    host.wait_until(&format!("test \"$(systemctl show --value --property=MainPID bound)\" != {}", before.trim()));
    host.wait_until("systemctl is-active --quiet base && systemctl is-active --quiet bound");
}

#[test]
fn limits_and_the_time_to_stop_are_the_unit_s() {
    let host = systemd_host();
    let mut helper = host.helper();
    let hard: u64 =
        host.shell("sed -n 's/^Max open files *[0-9]* *\\([0-9]*\\).*/\\1/p' /proc/1/limits").trim().parse().unwrap();
    let mut wanted = definition("echo limits $(ulimit -n) $(ulimit -l); exec sleep 1000");
    wanted.limit_nofile = Some(hard + 1);
    let failure = helper.apply(&Op::ServiceEnsure(service("limited", Some(wanted.clone())))).failure();
    assert!(failure.message.contains(&format!("{hard} at most")), "{failure:?}");
    assert!(host.succeeds("test ! -e /etc/systemd/system/limited.service"));
    (wanted.limit_nofile, wanted.limit_memlock, wanted.stop_timeout) =
        (Some(hard), Some(MemoryLock::Bytes(32768)), Some(77));
    converge(&mut helper, &Op::ServiceEnsure(service("limited", Some(wanted))));
    host.wait_until(&format!("journalctl --no-pager --output=cat --unit limited | grep -qx 'limits {hard} 32'"));
    assert_eq!(host.shell("systemctl show --value --property=TimeoutStopUSec limited").trim(), "1min 17s");
}
