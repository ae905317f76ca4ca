//! Whole runs of the real program against real containers: deploy, plan, hand edits, kills, bad input.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::lab::{TestLab, docker, summary};

const ONE_HOST: &str = r#"
[defaults.container]
image = "ovs-cuisine/ssh:latest"

[host.one]
container = {}

[component.files]
recipe = "files"
hosts = ["one"]
"#;

const FILES: &str = r#"
"""A few files."""

params(text = param("str", default = "hello\n", doc = "What is written."))

def deploy(ctx):
    dir_ensure("/srv/files", mode = "0750")
    file_write("/srv/files/a", ctx.params.text, mode = "0640")
    file_link("/srv/files/b", "a")
"#;

fn hosts_tally(events: &[Value], member: &str) -> u64 {
    summary(events)["hosts"].as_array().unwrap().iter().map(|host| host["tally"][member].as_u64().unwrap()).sum()
}

/// Titles of the steps that would change or were changed.
fn changed_steps(events: &[Value]) -> Vec<String> {
    let finished = events.iter().filter(|event| event["event"] == "step");
    let changed = finished.filter(|event| {
        let text = event.to_string();
        text.contains("\"changed\"") || text.contains("\"would-change\"")
    });
    changed.map(|event| event["title"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_deploy_converges_and_plan_tells_the_truth() {
    let lab = TestLab::new(ONE_HOST);
    lab.recipe("files", FILES);

    // Nothing is there: plan says so and creates nothing.
    let plan = lab.events(10, &["plan", "LAB", "--exit-code"]);
    assert_eq!(summary(&plan)["containers_changed"], 1);
    assert!(docker(&["inspect", &lab.container("one")]).status.code() != Some(0), "plan created a container");

    let first = lab.events(0, &["deploy", "LAB"]);
    assert_eq!(hosts_tally(&first, "changed"), 3);
    assert_eq!(lab.inside("one", "cat /srv/files/b"), "hello\n");
    assert_eq!(lab.inside("one", "stat -c %a /srv/files /srv/files/a"), "750\n640\n");

    let second = lab.events(0, &["deploy", "LAB"]);
    assert_eq!(hosts_tally(&second, "changed"), 0);
    assert_eq!(hosts_tally(&second, "unchanged"), 3);
    assert_eq!(summary(&second)["containers_changed"], 0);
    lab.expect(0, &["plan", "LAB", "--exit-code"]);

    // A hand edit is the one thing that plan shows and deploy mends.
    lab.inside("one", "echo edited > /srv/files/a");
    let before = lab.inside("one", "stat -c '%n %y %z' /srv/files/*");
    let plan = lab.events(10, &["plan", "LAB", "--exit-code"]);
    assert_eq!(changed_steps(&plan), ["file_write /srv/files/a"]);
    assert_eq!(lab.inside("one", "stat -c '%n %y %z' /srv/files/*"), before, "plan wrote");
    let text = lab.expect(0, &["plan", "LAB"]).stdout;
    assert!(text.contains("-edited") && text.contains("+hello"), "{text}");
    assert_eq!(changed_steps(&lab.events(0, &["deploy", "LAB"])), ["file_write /srv/files/a"]);
    assert_eq!(lab.inside("one", "cat /srv/files/a"), "hello\n");
    lab.expect(0, &["plan", "LAB", "--exit-code"]);
}

#[test]
fn two_hundred_quiet_steps_cost_no_more_messages_than_five() {
    let lab = TestLab::new(ONE_HOST);
    let recipe = |steps: usize| {
        format!("def deploy(ctx):\n    for i in range({steps}):\n        file_write(\"/srv/f%d\" % i, \"x\")\n")
    };
    let mut messages = Vec::new();
    for steps in [5, 200] {
        lab.recipe("files", &recipe(steps));
        lab.events(0, &["deploy", "LAB"]);
        let quiet = lab.events(0, &["deploy", "LAB"]);
        assert_eq!(hosts_tally(&quiet, "unchanged"), steps as u64);
        messages.push(summary(&quiet)["hosts"][0]["messages"].as_u64().unwrap());
    }
    assert!(messages[0] > 0);
    assert_eq!(messages[0], messages[1], "messages for 5 and for 200 steps");
}

#[test]
fn a_killed_run_leaves_whole_files_and_the_next_one_finishes() {
    let lab = TestLab::new(ONE_HOST);
    let recipe = |generation: &str| {
        format!(
            "def deploy(ctx):\n    for i in range(300):\n        file_write(\"/srv/f%d\" % i, \"{generation}%d \" % i * 2000)\n"
        )
    };
    lab.recipe("files", &recipe("old"));
    lab.expect(0, &["deploy", "LAB"]);
    let whole = "cd /srv && for f in f*; do n=${f#f}; \
        awk -v n=$n 'BEGIN{RS=\" \"} {c++; if (!first) first=$0; if ($0 != first) bad=1} \
        END{if (bad || c != 2000 || (first != \"old\" n && first != \"new\" n)) print FILENAME}' $f; done";
    let mut killed = 0;
    for round in 0..6u64 {
        lab.recipe("files", &recipe(if round % 2 == 0 { "new" } else { "old" }));
        let mut child = lab.command(&["deploy", "LAB"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(60 + 45 * round));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            killed += 1;
        }
        child.wait().unwrap();
        assert_eq!(lab.inside("one", whole), "", "torn files after kill {round}");
    }
    assert!(killed > 0, "no run was killed before its end");
    lab.recipe("files", &recipe("new"));
    lab.expect(0, &["deploy", "LAB"]);
    assert_eq!(lab.inside("one", "grep -L '^new' /srv/f*; ls -A /srv | grep -c tmp || true"), "0\n");
    lab.expect(0, &["plan", "LAB", "--exit-code"]);
}

#[test]
fn interrupt_stops_within_two_seconds() {
    let lab = TestLab::new(ONE_HOST);
    lab.recipe("files", "def deploy(ctx):\n    run(\"echo begun > /srv/begun; exec sleep 300\")\n");
    lab.expect(0, &["up", "LAB"]);
    let child = lab.command(&["deploy", "LAB"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while docker(&["exec", &lab.container("one"), "test", "-e", "/srv/begun"]).status.code() != Some(0) {
        assert!(Instant::now() < deadline, "the step did not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    let interrupted = Instant::now();
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    // The promise is 2 s; the margin is for a busy machine.
    assert!(interrupted.elapsed() < Duration::from_secs(10), "{:?}", interrupted.elapsed());
    // The bracket keeps the pattern from matching the shell that looks.
    let left = lab.inside("one", "grep -l 'sleep.30[0]' /proc/[0-9]*/cmdline 2>/dev/null || true");
    assert_eq!(left.trim(), "", "the command outlived the run");
}

#[test]
fn exec_shows_output_and_status() {
    let lab = TestLab::new(ONE_HOST);
    lab.recipe("files", FILES);
    lab.expect(0, &["up", "LAB"]);
    let run = lab.expect(0, &["exec", "LAB", "--on", "one", "--", "echo", "here; hostname"]);
    assert!(run.stdout.contains("here"), "{run:?}");
    let failed = lab.expect(40, &["exec", "LAB", "--on", "one", "--", "echo why >&2; exit 3"]);
    assert!(failed.stderr.contains("why") || failed.stdout.contains("why"), "{failed:?}");
    let run = lab.expect(7, &["ssh", "LAB", "one", "--", "cat /etc/hostname; exit 7"]);
    assert_eq!(run.stdout, "one\n");
    lab.expect(0, &["run", "LAB", "-e", "file_write(\"/srv/x\", \"y\")", "--on", "one"]);
    assert_eq!(lab.inside("one", "cat /srv/x"), "y");
    let down = lab.expect(0, &["down", "LAB"]);
    assert!(down.stderr.contains("one") || down.stdout.contains("one"), "{down:?}");
    assert!(lab.expect(0, &["ps", "LAB"]).stdout.contains("missing"));
}

/// Bad input: a clear error with the right exit status, and nothing changed.
#[test]
fn bad_input_is_refused_before_anything_is_touched() {
    let lab = TestLab::new(ONE_HOST);
    let untouched = |lab: &TestLab| {
        assert!(docker(&["inspect", &lab.container("one")]).status.code() != Some(0), "a container was made");
    };
    let refused = |lab: &TestLab, words: &[&str], needles: &[&str]| {
        let run = lab.expect(20, words);
        for needle in needles {
            assert!(run.stderr.contains(needle), "`{needle}` is not in\n{}", run.stderr);
        }
        untouched(lab);
    };
    lab.recipe("files", FILES);

    lab.inventory(&ONE_HOST.replace("recipe =", "recipes ="));
    refused(&lab, &["deploy", "LAB"], &["unknown key", "recipes", "lab.toml:", "recipe"]);
    lab.inventory(&ONE_HOST.replace("\"files\"", "\"fils\""));
    refused(&lab, &["deploy", "LAB"], &["fils", "files"]);
    lab.inventory(&ONE_HOST.replace("hosts = [\"one\"]", "hosts = [\"two\"]"));
    refused(&lab, &["deploy", "LAB"], &["two", "lab.toml:"]);
    lab.inventory(ONE_HOST);

    lab.recipe("files", "params(size = param(\"int\"))\ndef deploy(ctx):\n    pass\n");
    refused(&lab, &["deploy", "LAB"], &["size"]);
    lab.recipe("files", "def deploy(ctx):\n    x = 1\n    file_wirte(\"/srv/a\", \"b\")\n");
    refused(&lab, &["deploy", "LAB"], &["recipe.star:3", "file_wirte"]);
    lab.recipe("files", "def config(ctx):\n    return {\"files/a\": \"b\"}\n\ndef deploy(ctx):\n    pass\n");
    refused(&lab, &["deploy", "LAB"], &["etcd"]);
    lab.recipe("files", FILES);

    refused(&lab, &["deploy", "LAB", "--on", "on"], &["on", "one"]);
    refused(&lab, &["deploy", "LAB", "--only", "file"], &["file", "files"]);
    lab.inventory(&ONE_HOST.replace("ovs-cuisine/ssh:latest", "ovs-cuisine/none:1"));
    let run = lab.run(&["deploy", "LAB"]);
    assert!([20, 30].contains(&run.status), "{run:?}");
    assert!(run.stderr.contains("ovs-cuisine/none:1"), "{run:?}");
    untouched(&lab);

    lab.inventory(ONE_HOST);
    let output =
        lab.command(&["deploy", "LAB"]).env("DOCKER_HOST", "unix:///nonexistent/docker.sock").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(30), "{stderr}");
    assert!(stderr.contains("docker is not running"), "{stderr}");
}

/// An error in `deploy(ctx)` of the last component is found before the first component is touched.
#[test]
fn an_error_in_the_last_recipe_is_found_before_the_first_is_applied() {
    let lab = TestLab::new(&format!(
        "{ONE_HOST}\n[component.later]\nrecipe = \"later\"\nhosts = [\"one\"]\nneeds = [\"files\"]\n"
    ));
    lab.recipe("files", FILES);
    lab.recipe("later", "def deploy(ctx):\n    x = [1]\n    file_write(\"/srv/%d\" % x[3], \"\")\n");
    let run = lab.expect(20, &["deploy", "LAB"]);
    assert!(run.stderr.contains("later/recipe.star:3"), "{run:?}");
    assert_eq!(lab.inside("one", "ls -A /srv"), "");
}

#[test]
fn hosts_that_cannot_be_reached_or_trusted_say_why() {
    let lab = TestLab::new(&format!(
        "{ONE_HOST}\n[host.gone]\nssh = {{ address = \"127.0.0.1\", port = 1 }}\n\n[component.gone]\nrecipe = \"files\"\nhosts = [\"gone\"]\n"
    ));
    lab.recipe("files", FILES);
    // The host that is there is served all the same.
    let run = lab.expect(30, &["deploy", "LAB"]);
    assert!(run.stderr.contains("refused") && run.stderr.contains("gone"), "{run:?}");
    assert_eq!(lab.inside("one", "cat /srv/files/a"), "hello\n");

    // Another host key than the pinned one.
    lab.inventory(ONE_HOST);
    lab.inside("one", "sed -i 's/hello/HELLO/' /srv/files/a");
    fs_err::remove_file(find_host_key(&lab, "one")).unwrap();
    fs_err::remove_file(format!("{}.pub", find_host_key(&lab, "one").display())).unwrap();
    let run = lab.run(&["ssh", "LAB", "one", "--", "true"]);
    assert_eq!(run.status, 30, "{run:?}");
    assert!(run.stderr.contains("host key") && run.stderr.contains("SHA256:"), "{run:?}");
    assert_eq!(lab.inside("one", "cat /srv/files/a"), "HELLO\n");
}

fn find_host_key(lab: &TestLab, host: &str) -> std::path::PathBuf {
    let keys = lab.path("keys");
    let lab_dir = fs_err::read_dir(keys).unwrap().next().unwrap().unwrap().path();
    lab_dir.join("hosts").join(host)
}

#[test]
fn a_container_that_never_lets_us_in_is_removed_with_its_last_words() {
    let silent = "container = { command = [\"/bin/sh\", \"-c\", \"echo no sshd here; exec sleep 1000\"] }";
    let lab = TestLab::new(&ONE_HOST.replace("container = {}", silent));
    lab.recipe("files", FILES);
    let run = lab.expect(30, &["up", "LAB"]);
    assert!(run.stderr.contains("no sshd here"), "{run:?}");
    assert!(docker(&["inspect", &lab.container("one")]).status.code() != Some(0), "the container was left behind");
}

#[test]
fn a_refused_login_names_the_user_and_the_keys() {
    let lab = TestLab::new(ONE_HOST);
    lab.recipe("files", FILES);
    lab.expect(0, &["deploy", "LAB"]);
    lab.inside("one", "rm /root/.ssh/authorized_keys; echo edited > /srv/files/a");
    let run = lab.expect(30, &["deploy", "LAB"]);
    assert!(run.stderr.contains("refused") && run.stderr.contains("root"), "{run:?}");
    assert_eq!(lab.inside("one", "cat /srv/files/a"), "edited\n");
}

#[test]
fn a_full_disk_is_named_and_leaves_no_half_file() {
    let body = ONE_HOST.replace("container = {}", "container = { tmpfs = { \"/small\" = \"size=256k\" } }");
    let lab = TestLab::new(&body);
    lab.recipe("files", "def deploy(ctx):\n    file_write(\"/small/a\", \"x\" * 40000)\n    file_write(\"/small/big\", \"y\" * 400000)\n    file_write(\"/small/after\", \"z\")\n");
    let run = lab.expect(40, &["deploy", "LAB"]);
    assert!(run.stderr.contains("/small/big") && run.stderr.contains("space"), "{run:?}");
    assert!(run.stderr.contains("recipe.star:3"), "the recipe line is missing: {run:?}");
    assert_eq!(lab.inside("one", "ls -A /small"), "a\n");
}

#[test]
fn plan_tells_what_a_deploy_would_refuse_and_makes_nothing() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let with = |container: &str| ONE_HOST.replace("container = {}", &format!("container = {{ {container} }}"));
    let lab = TestLab::new(&with(&format!("ports = [\"{port}:80\"]")));
    lab.recipe("files", FILES);
    let network = lab.container("");
    let network = network.trim_end_matches('-');
    for (container, status, told) in [
        (format!("ports = [\"{port}:80\"]"), 50, format!("port {port} on 127.0.0.1 is already in use")),
        ("devices = [\"/dev/no-such-device\"]".to_owned(), 20, "no device `/dev/no-such-device`".to_owned()),
        ("network = \"no-such-network\"".to_owned(), 20, "no-such-network".to_owned()),
    ] {
        lab.inventory(&with(&container));
        for command in ["plan", "deploy"] {
            let run = lab.expect(status, &[command, "LAB"]);
            assert!(run.stderr.contains(&told) && run.stderr.contains("one"), "{command}: {run:?}");
        }
        assert!(docker(&["inspect", &lab.container("one")]).status.code() != Some(0), "a container was made");
        assert!(docker(&["network", "inspect", network]).status.code() != Some(0), "a network was made");
    }
    drop(held);
    lab.inventory(&with(&format!("ports = [\"{port}:80\"]")));
    lab.expect(10, &["plan", "LAB", "--exit-code"]);
}
