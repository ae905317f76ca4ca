//! Three members of which one goes away in the middle of a deploy: the leader, the one that is talked to, any.

use super::{Running, is_repaired};
use crate::support::lab::{TestLab, docker};

const APP: &str = r#"
params(value = param("str", default = "one"), hold = param("bool", default = False))

def config(ctx):
    return {ctx.component + "/main": ctx.params.value}

def deploy(ctx):
    if ctx.params.hold:
        run("touch /var/tmp/held; until [ -e /var/tmp/go ]; do sleep 0.05; done", timeout = 120, changes = False)
    launch(
        ctx.component,
        argv = ["/bin/sh", "-c", "exec sleep 1000000", "app", file("main", key = ctx.component + "/main")],
    )

# A service that follows a member which falls silent notices after 18 s.
def health(ctx):
    run("for _ in $(seq 600); do grep -qx %s /run/ovs-cuisine/%s/main && exit; sleep 0.1; done; exit 1" % (ctx.params.value, ctx.component), changes = False)
"#;

const MEMBERS: [&str; 3] = ["etcd-1", "etcd-2", "etcd-3"];

fn inventory(value: &str, hold: bool) -> String {
    format!(
        "[defaults.container]\nimage = \"ovs-cuisine/ssh:latest\"\n\n[host.\"etcd-[1-3]\"]\ncontainer = true\n\n\
         [host.\"node-[1-2]\"]\ncontainer = true\n\n[component.etcd]\nrecipe = \"etcd\"\nhosts = [\"etcd-*\"]\n\n\
         [component.first]\nrecipe = \"app\"\nhosts = [\"node-1\"]\nneeds = [\"etcd\"]\n\
         params = {{ value = \"{value}\", hold = {hold} }}\n\n\
         [component.second]\nrecipe = \"app\"\nhosts = [\"node-2\"]\nneeds = [\"first\"]\nparams = {{ value = \"{value}\" }}\n"
    )
}

/// The member that leads, as the members themselves say.
fn leader(lab: &TestLab) -> &'static str {
    let password = lab.password("secret.etcd.root");
    let ask = |member: &str| {
        let command = format!(
            "ETCDCTL_API=3 ETCDCTL_USER='root:{password}' etcdctl --endpoints http://127.0.0.1:2379 endpoint status -w json"
        );
        let status: serde_json::Value = serde_json::from_str(&lab.inside(member, &command)).unwrap();
        let status = &status[0]["Status"];
        status["leader"].is_u64() && status["leader"] == status["header"]["member_id"]
    };
    MEMBERS.into_iter().find(|member| ask(member)).expect("one of them leads")
}

/// Which member goes.
type Choice<'a> = &'a dyn Fn(&TestLab) -> &'static str;

#[test]
fn a_deploy_outlives_any_one_member() {
    let lab = TestLab::new(&inventory("v0", false));
    lab.recipe("app", APP);
    is_repaired(&lab);
    // The first one in the list is the one that is talked to.
    let talked_to = |_: &TestLab| MEMBERS[0];
    let not_leading = |lab: &TestLab| if leader(lab) == MEMBERS[2] { MEMBERS[1] } else { MEMBERS[2] };
    let choices: [(&str, Choice<'_>); 4] =
        [("kill", &leader), ("kill", &talked_to), ("pause", &talked_to), ("pause", &not_leading)];
    for (round, (verb, choose)) in choices.into_iter().enumerate() {
        let value = format!("v{}", round + 1);
        lab.inventory(&inventory(&value, true));
        let run = Running::deploy(&lab).held(&lab, "node-1");
        let member = choose(&lab);
        docker(&[verb, &lab.container(member)]);
        let (_, took) = run.go(&lab, "node-1", 0);
        eprintln!("{verb} {member}: the rest took {took:?}");
        assert_eq!(lab.inside("node-2", "cat /run/ovs-cuisine/second/main"), value);
        lab.inventory(&inventory(&value, false));
        is_repaired(&lab);
    }
}
