//! Services under systemd: whole runs of the real program against a container whose process 1 it is.

use serde_json::Value;

use crate::support::lab::{TestLab, docker, summary};

const LAB: &str = r#"
[host.one]
container = { init = "systemd" }

[component.worker]
recipe = "worker"
hosts = ["one"]
"#;

const WORKER: &str = r#"
"""One service, of a definition of its own."""

params(
    text = param("str", default = "first", doc = "What the file says."),
    script = param("str", default = "exec sleep 1000", doc = "What the service runs."),
    running = param("bool", default = True, doc = "Whether it runs."),
)

def deploy(ctx):
    user_ensure("ovs", system = True, home = "/srv")
    conf = file_write("/srv/worker.conf", ctx.params.text)
    service_ensure(
        "worker",
        argv = ["/bin/sh", "-c", "echo \"I am $(id -un) $HOME $X 50% $(pwd) $(ulimit -n)\"; " + ctx.params.script],
        user = "ovs",
        directory = "/usr",
        environment = {"X": "it's $HOME"},
        limit_nofile = 500,
        description = "A worker, 100% of it",
        running = ctx.params.running,
        enabled = ctx.params.running,
        restart_on = [conf],
    )
"#;

fn lab() -> TestLab {
    let lab = TestLab::new(LAB);
    lab.recipe("worker", WORKER);
    lab
}

fn with(params: &str) -> String {
    format!("{LAB}params = {{ {params} }}\n")
}

fn property(lab: &TestLab, name: &str) -> String {
    lab.inside("one", &format!("systemctl show --value --property={name} worker")).trim().to_owned()
}

fn actions(events: &[Value]) -> Vec<String> {
    let diffs = events.iter().filter(|event| event["title"] == "service_ensure worker" && event["diff"].is_object());
    let changes = diffs.flat_map(|event| event["diff"]["changes"].as_array().cloned().unwrap_or_default());
    changes.map(|change| change["action"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_service_is_defined_started_restarted_and_stopped() {
    let lab = lab();
    let events = lab.events(0, &["deploy", "LAB"]);
    assert_eq!(actions(&events), ["create", "modify", "start"]);
    assert_eq!(
        (property(&lab, "ActiveState").as_str(), property(&lab, "UnitFileState").as_str()),
        ("active", "enabled")
    );
    assert_eq!(property(&lab, "Description"), "A worker, 100% of it");
    let said = lab.inside("one", "journalctl --no-pager --output=cat --unit worker | grep 'I am'");
    assert_eq!(said, "I am ovs /srv it's $HOME 50% /usr 500\n");

    // The same again changes nothing, and the process is the one that was there.
    let before = property(&lab, "MainPID");
    let events = lab.events(0, &["deploy", "LAB"]);
    assert_eq!((actions(&events), property(&lab, "MainPID")), (Vec::new(), before.clone()));
    lab.expect(0, &["plan", "LAB", "--exit-code"]);

    // A change of what it reacts to, then of its definition.
    lab.inventory(&with("text = \"second\""));
    assert_eq!(actions(&lab.events(0, &["deploy", "LAB"])), ["restart"]);
    let second = property(&lab, "MainPID");
    assert_ne!(second, before);
    lab.inventory(&with("text = \"second\", script = \"exec sleep 2000\""));
    assert_eq!(actions(&lab.events(0, &["deploy", "LAB"])), ["modify", "restart"]);
    assert_ne!(property(&lab, "MainPID"), second);

    // A service that somebody stopped is drift; one that is not wanted is stopped.
    lab.inside("one", "systemctl stop worker");
    let plan = lab.events(10, &["plan", "LAB", "--exit-code"]);
    assert_eq!(actions(&plan), ["start"]);
    assert_eq!(actions(&lab.events(0, &["deploy", "LAB"])), ["start"]);
    lab.inventory(&with("text = \"second\", script = \"exec sleep 2000\", running = false"));
    assert_eq!(actions(&lab.events(0, &["deploy", "LAB"])), ["modify", "stop"]);
    assert_eq!(
        (property(&lab, "ActiveState").as_str(), property(&lab, "UnitFileState").as_str()),
        ("inactive", "disabled")
    );
}

#[test]
fn a_service_that_dies_at_once_is_a_failure_with_its_log_and_a_started_one_comes_back_with_the_container() {
    let lab = lab();
    lab.inventory(&with("script = \"echo my last words; exit 1\""));
    let failed = lab.expect(40, &["deploy", "LAB"]);
    let told = failed.stdout + &failed.stderr;
    assert!(told.contains("service `worker`") && told.contains("my last words"), "{told}");
    assert!(told.contains("granted SYS_ADMIN until systemd begins (not privileged)"), "{told}");

    lab.inventory(&with("script = \"exec sleep 3000\""));
    let events = lab.events(0, &["deploy", "LAB"]);
    assert_eq!(summary(&events)["hosts"][0]["status"], "changed");
    assert!(docker(&["restart", &lab.container("one")]).status.success());
    let booted = "for _ in $(seq 600); do systemctl is-active --quiet worker 2>/dev/null && break; sleep 0.1; done; \
                  systemctl is-system-running --wait; systemctl is-active worker";
    assert_eq!(lab.inside("one", booted), "running\nactive\n");
    lab.expect(0, &["plan", "LAB", "--exit-code"]);
}
