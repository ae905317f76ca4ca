//! Services that a component no longer has on a host go wholly, and nothing else does. Whole runs of the real program
//! against real containers.

use serde_json::Value;

use crate::support::lab::{TestLab, summary};

const MANY: &str = r#"
"""Some services."""

params(services = param("list", default = ["x", "x.y"], doc = "Their names."))

def deploy(ctx):
    dir_ensure("/opt/ovs-cuisine/started")
    for name in ctx.params.services:
        file_write("/srv/%s.data" % name, "kept")
        noted = file_write("/opt/ovs-cuisine/started/%s.json" % name, "{}")
        service_ensure(name, argv = ["/bin/sh", "-c", "echo I am %s; exec sleep 1000" % name], restart_on = [noted])
"#;

fn inventory(init: &str, hosts: &str, services: &str) -> String {
    format!(
        "[defaults.container]\ninit = \"{init}\"\n[host.\"node-[1-2]\"]\ncontainer = true\n\
         [component.many]\nrecipe = \"many\"\nhosts = [{hosts}]\nparams = {{ services = [{services}] }}\n\
         [component.other]\nrecipe = \"many\"\nhosts = [\"node-*\"]\nparams = {{ services = [\"z\"] }}\n"
    )
}

/// What there is of services on a host: what runs, what is defined, what is noted, what is on record.
fn there(lab: &TestLab, host: &str, init: &str) -> String {
    let definitions = if init == "systemd" {
        "cd /etc/systemd/system; ls | grep -E '^[xz]([.]y)?[.]service$' | sed 's/[.]service$//'"
    } else {
        "for path in /etc/sv/* /etc/service/*; do name=${path##*/}; case $name in x|x.y|z) echo $name ;; esac; done | sort | uniq -d"
    };
    let script = format!("{definitions}; ls /opt/ovs-cuisine/started; ls /srv | grep data");
    lab.inside(host, &script).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn running(lab: &TestLab, host: &str) -> usize {
    lab.inside(host, "pgrep -fcx 'sleep 1000' || true").trim().parse().unwrap()
}

fn changed(events: &[Value]) -> u64 {
    summary(events)["hosts"].as_array().unwrap().iter().map(|host| host["tally"]["changed"].as_u64().unwrap()).sum()
}

fn what_is_no_longer_wanted_goes(init: &str) {
    let both = "\"node-1\", \"node-2\"";
    let lab = TestLab::new(&inventory(init, both, "\"x\", \"x.y\""));
    lab.recipe("many", MANY);
    lab.expect(0, &["deploy", "LAB"]);
    let whole = "x x.y z x.json x.y.json z.json x.data x.y.data z.data";
    assert_eq!((there(&lab, "node-1", init).as_str(), running(&lab, "node-1")), (whole, 3));
    assert_eq!(changed(&lab.events(0, &["deploy", "LAB"])), 0);

    // A service that left the plan.
    lab.inventory(&inventory(init, both, "\"x.y\""));
    let plan = lab.expect(10, &["plan", "LAB", "--exit-code"]);
    assert!(plan.stdout.contains("service x") && plan.stdout.contains("started/x.json"), "{plan:?}");
    assert_eq!(running(&lab, "node-1"), 3, "plan stopped something");
    let done = lab.expect(0, &["deploy", "LAB", "--diff"]);
    assert!(done.stdout.contains("leftovers x"), "{done:?}");
    let rest = "x.y z x.y.json z.json x.data x.y.data z.data";
    assert_eq!((there(&lab, "node-1", init).as_str(), running(&lab, "node-1")), (rest, 2));
    assert_eq!(changed(&lab.events(0, &["deploy", "LAB"])), 0);
    lab.expect(0, &["plan", "LAB", "--exit-code"]);

    // It comes back as if it had never been there.
    lab.inventory(&inventory(init, both, "\"x\", \"x.y\""));
    lab.expect(0, &["deploy", "LAB"]);
    assert_eq!((there(&lab, "node-1", init).as_str(), running(&lab, "node-1")), (whole, 3));

    // What was put there by another hand under the name is let alone.
    let foreign = if init == "systemd" { "/etc/systemd/system/x.service" } else { "/etc/sv/x/run" };
    lab.inside("node-2", &format!("sed -i /ovs-cuisine/d {foreign}"));
    // A host that is taken from the component.
    lab.inventory(&inventory(init, "\"node-1\"", "\"x\", \"x.y\""));
    let plan = lab.expect(10, &["plan", "LAB", "--exit-code"]);
    assert!(plan.stdout.contains("node-2") && plan.stdout.contains("service x.y"), "{plan:?}");
    lab.expect(0, &["deploy", "LAB"]);
    assert_eq!(there(&lab, "node-2", init), "x z z.json x.data x.y.data z.data");
    assert_eq!(there(&lab, "node-1", init), whole, "the host that stays");
    assert_eq!(changed(&lab.events(0, &["deploy", "LAB"])), 0);

    // What somebody runs by hand is no component, and takes nothing away.
    for name in ["by-hand", "by-hand-2"] {
        let one = format!("service_ensure(\"{name}\", argv = [\"/bin/sleep\", \"1000\"])");
        lab.expect(0, &["run", "LAB", "-e", &one, "--on", "node-1"]);
    }
    assert_eq!(running(&lab, "node-1"), 3);
    assert_eq!(lab.inside("node-1", "pgrep -fc '^/bin/sleep 1000' || true"), "2\n");

    // A component that is gone, when that is asked for.
    let text = inventory(init, "\"node-1\"", "\"x\"");
    lab.inventory(&format!(
        "{}{}",
        &text[..text.find("[component.many]").unwrap()],
        &text[text.find("[component.other]").unwrap()..]
    ));
    lab.expect(0, &["deploy", "LAB"]);
    assert_eq!(running(&lab, "node-1"), 3, "kept until it is pruned");
    lab.expect(0, &["deploy", "LAB", "--prune"]);
    assert_eq!(there(&lab, "node-1", init), "z z.json x.data x.y.data z.data");
    assert_eq!(lab.inside("node-1", "pgrep -fc '^/bin/sleep 1000' || true"), "2\n");
    assert_eq!(lab.inside("node-1", "ls /var/lib/ovs-cuisine/holdings/*/ | grep -v ad-hoc"), "other\n");
}

#[test]
fn what_is_no_longer_wanted_goes_under_runit() {
    what_is_no_longer_wanted_goes("runit");
}

#[test]
fn what_is_no_longer_wanted_goes_under_systemd() {
    what_is_no_longer_wanted_goes("systemd");
}

const LAUNCHED: &str = r#"
params(services = param("list"), build = param("path"))

def config(ctx):
    return {ctx.component + "/main": "text"}

def deploy(ctx):
    build = sync(ctx.params.build, "/opt/shared")
    for name in ctx.params.services:
        launch(
            name,
            argv = ["/bin/sleep", "1000"],
            files = [file("main", key = ctx.component + "/main")],
            restart_on = [build],
        )
"#;

#[test]
fn launched_services_go_with_links_and_rendered_files_also_those_of_earlier_versions() {
    let of = |services: &str| {
        format!(
            "[host.etcd]\ncontainer = true\n[host.one]\ncontainer = true\n[component.etcd]\nrecipe = \"etcd\"\nhosts = [\"etcd\"]\n\
             [component.l]\nrecipe = \"launched\"\nhosts = [\"one\"]\nneeds = [\"etcd\"]\nparams = {{ services = [{services}], build = \"build\" }}\n"
        )
    };
    let lab = TestLab::new(&of("\"a\", \"b\", \"c\""));
    lab.recipe("launched", LAUNCHED);
    lab.write("build/file", "x");
    lab.expect(0, &["deploy", "LAB"]);
    let there = "cd / && ls -d etc/sv/[abc] etc/service/[abc] etc/ovs-cuisine/* run/ovs-cuisine/*";
    let of_service = |name: &str| {
        format!("etc/ovs-cuisine/{name}.link\netc/service/{name}\netc/sv/{name}\nrun/ovs-cuisine/{name}\n")
    };
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&lab.inside("one", there)), sorted(&["a", "b", "c"].map(of_service).concat()));
    lab.inventory(&of("\"a\", \"b\""));
    lab.expect(0, &["deploy", "LAB"]);
    assert_eq!(sorted(&lab.inside("one", there)), sorted(&["a", "b"].map(of_service).concat()));
    // A host of an earlier version has no record; etcd tells.
    lab.inside("one", "rm -r /var/lib/ovs-cuisine/holdings");
    lab.inventory(&of("\"a\""));
    let plan = lab.expect(10, &["plan", "LAB", "--exit-code"]);
    assert!(plan.stdout.contains("leftovers b"), "{plan:?}");
    lab.expect(0, &["deploy", "LAB"]);
    assert_eq!(sorted(&lab.inside("one", there)), sorted(&of_service("a")));
    assert_eq!(lab.inside("one", "pgrep -fcx '/bin/sleep 1000'; ls /opt/shared"), "1\nfile\n", "the tree stays");
    assert_eq!(changed(&lab.events(0, &["deploy", "LAB"])), 0);
    // All of it.
    lab.inventory(
        &of("").replace("[component.l]", "[component.etcd-2]").replace("recipe = \"launched\"", "recipe = \"nothing\""),
    );
    lab.recipe("nothing", "params(services = param(\"list\"), build = param(\"path\"))\ndef deploy(ctx):\n    pass\n");
    lab.expect(0, &["deploy", "LAB", "--prune"]);
    assert_eq!(lab.inside("one", &format!("{there} 2>/dev/null || true")), "");
}
