//! Hosts that the framework drives by SSH: keys that each makes and keeps, and that the others let in.

use crate::{
    ovs_lab::changed,
    support::lab::{TestLab, docker},
};

const LAB: &str = r#"
[host."node-[1-3]"]
container = true

[component.nodes]
recipe = "framework-node"
hosts = ["node-*"]
"#;

const ACCOUNTS: [(&str, &str); 2] = [("root", "/root"), ("ovs", "/opt/OpenvStorage")];

/// Logs in from an account of a host at an account of another, as the framework does; says whether it was let in.
fn reaches(lab: &TestLab, from: &str, user: &str, to: &str, other: &str) -> bool {
    let ssh = format!(
        "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=5 {other}@{} whoami",
        lab.address(to)
    );
    let run = docker(&["exec", "--user", user, &lab.container(from), "sh", "-c", &ssh]);
    run.status.success() && String::from_utf8_lossy(&run.stdout).trim() == other
}

fn private_keys(lab: &TestLab, host: &str) -> Vec<String> {
    ACCOUNTS.iter().map(|(_, home)| lab.inside(host, &format!("cat {home}/.ssh/id_rsa"))).collect()
}

fn authorized(lab: &TestLab, host: &str) -> usize {
    lab.inside(host, "grep -c ' ovs-node:' /root/.ssh/authorized_keys").trim().parse().unwrap()
}

#[test]
fn nodes_reach_each_other_with_keys_of_their_own() {
    let lab = TestLab::new(LAB);
    lab.expect(0, &["deploy", "LAB"]);
    assert_eq!(changed(&lab.events(0, &["deploy", "LAB"])), Vec::<String>::new());
    lab.expect(0, &["plan", "LAB", "--exit-code"]);
    for (user, _) in ACCOUNTS {
        for (other, _) in ACCOUNTS {
            assert!(reaches(&lab, "node-1", user, "node-3", other), "{user} to {other}");
        }
    }
    // Each account of each host has a key of its own, which nobody else has: not even this machine.
    let mut all: Vec<_> = ["node-1", "node-2", "node-3"].iter().flat_map(|host| private_keys(&lab, host)).collect();
    assert!(all.iter().all(|key| key.starts_with("-----BEGIN RSA PRIVATE KEY-----")), "as an old library reads it");
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 6);
    for key in &all {
        let body = key.lines().nth(3).unwrap();
        let mut grep = std::process::Command::new("grep");
        let found = grep.args(["-rqF", "--", body]).arg(lab.path("")).status().unwrap();
        assert_eq!(found.code(), Some(1), "a private key is beside the inventory");
    }
    assert_eq!(authorized(&lab, "node-1"), 6);

    // A host that is made anew has new keys; the old ones let nobody in.
    lab.inside("node-1", "echo 'ssh-ed25519 AAAA by-hand' >> /root/.ssh/authorized_keys");
    docker(&["rm", "-f", &lab.container("node-2")]);
    lab.expect(0, &["deploy", "LAB"]);
    assert!(private_keys(&lab, "node-2").iter().all(|key| !all.contains(key)));
    assert_eq!(authorized(&lab, "node-1"), 6, "new keys in place of the old ones");
    assert!(reaches(&lab, "node-2", "ovs", "node-1", "root") && reaches(&lab, "node-1", "root", "node-2", "ovs"));
    assert_eq!(changed(&lab.events(0, &["deploy", "LAB"])), Vec::<String>::new());

    // Health logs in at a neighbour: it names who is not let in, where and why.
    lab.inside("node-2", "mv /etc/ssh/ssh_known_hosts /etc/ssh/kept");
    let looked = lab.expect(0, &["ps", "LAB", "--json"]).events();
    let of = |host: &str| looked.iter().find(|row| row["host"] == host).unwrap()["health"]["nodes"].clone();
    assert_eq!((of("node-1"), of("node-2") == "healthy"), ("healthy".into(), false), "{looked:?}");
    lab.inside("node-2", "mv /etc/ssh/kept /etc/ssh/ssh_known_hosts");

    // A host that leaves is let in no more.
    assert!(reaches(&lab, "node-3", "root", "node-1", "root"));
    lab.inventory(&LAB.replace("hosts = [\"node-*\"]", "hosts = [\"node-[1-2]\"]"));
    lab.expect(0, &["deploy", "LAB"]);
    assert!(!reaches(&lab, "node-3", "root", "node-1", "root"));
    assert!(!reaches(&lab, "node-3", "ovs", "node-2", "ovs"));
    assert_eq!(authorized(&lab, "node-1"), 4);
    assert_eq!(lab.inside("node-1", "grep -c by-hand /root/.ssh/authorized_keys").trim(), "1", "lines of others stay");
    assert_eq!(changed(&lab.events(0, &["deploy", "LAB"])), Vec::<String>::new());
}

#[test]
fn a_file_of_another_host_is_read_when_that_one_is_prepared() {
    let lab = TestLab::new(
        "[host.\"node-[1-2]\"]\ncontainer = true\n\n[component.nodes]\nrecipe = \"nodes\"\nhosts = [\"node-*\"]\n",
    );
    let recipe = |of: &str| {
        format!(
            "\"\"\"Hosts that tell each other.\"\"\"\n\ndef prepare(ctx):\n    \"A file.\"\n    file_write(\"/srv/own\", ctx.host.name)\n\n\
             def deploy(ctx):\n    \"What the others have.\"\n    for host in ctx.hosts:\n        \
             file_write(\"/srv/of-\" + host.name, file_read(\"/srv/own\", default = \"none yet\", host = {of}))\n"
        )
    };
    lab.recipe("nodes", &recipe("host.name"));
    // Nobody is there yet: a plan says so instead of failing.
    lab.expect(0, &["plan", "LAB"]);
    lab.expect(0, &["deploy", "LAB"]);
    assert_eq!(lab.inside("node-1", "cat /srv/of-node-2"), "node-2");
    assert_eq!(lab.inside("node-2", "cat /srv/of-node-1"), "node-1");
    assert_eq!(changed(&lab.events(0, &["deploy", "LAB"])), Vec::<String>::new());
    docker(&["rm", "-f", &lab.container("node-2")]);
    let plan = lab.expect(0, &["plan", "LAB"]);
    assert!(plan.stdout.contains("none yet") || plan.stderr.contains("none yet"), "{plan:?}");
    // One that is not part of the run and not there is missed, not taken for one without the file.
    let some = lab.run(&["deploy", "LAB", "--on", "node-1"]);
    assert!(some.status >= 30 && some.stderr.contains("its container does not exist"), "{some:?}");

    lab.recipe("nodes", &recipe("\"elsewhere\""));
    let run = lab.expect(40, &["deploy", "LAB"]);
    assert!(run.stderr.contains("`elsewhere` is not a host of component nodes"), "{run:?}");
}
