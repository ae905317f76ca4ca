//! What recipes ask of the launcher, from an inventory to running containers: the v2 API and `etcdctl`, a file of
//! several keys, commands around the process, and the order of services.

use crate::support::lab::TestLab;

const LAB: &str = r#"
[host.etcd]
container = true

[host.node]
container = true

[component.etcd]
recipe = "etcd"
hosts = ["etcd"]

[component.client]
recipe = "client"
hosts = ["node"]
needs = ["etcd"]
"#;

/// A program that reads its configuration in both ways, and that ends when it is "unmounted".
const CLIENT: &str = r#"
"""Reads from etcd as the programs of 2016 do."""

SCRIPT = "etcdctl --peers=127.0.0.1:2379 get --quorum /ovs/client/config/fs >/srv/forked && cp $1 /srv/rendered && while test -e /srv/mounted; do sleep 0.1; done; echo unmounted"

def config(ctx):
    return {"client/config/fs": '{"port": 26203}', "client/config/log": '"info"', "client/secret": "s"}

def deploy(ctx):
    v2 = etcd_v2()
    launch(
        "mounter",
        argv = ["/bin/sh", "-c", SCRIPT, "mounter", file("config.json", key = "client/config/")],
        user = "nobody",
        before_start = [["/usr/bin/touch", "/srv/mounted"], ["/bin/chmod", "0777", "/srv"]],
        stop_command = ["/bin/rm", "/srv/mounted"],
        binds_to = ["etcd-v2"],
        limit_nofile = 1024,
        restart_on = [v2],
    )

def health(ctx):
    wait_port(2379)
    run("for i in $(seq 100); do test -e /srv/rendered && exit 0; sleep 0.1; done; exit 1", changes = False)
"#;

#[test]
fn the_v2_api_and_commands_are_the_recipe_s() {
    let lab = TestLab::new(LAB);
    lab.recipe("client", CLIENT);
    lab.events(0, &["deploy", "LAB"]);
    assert_eq!(lab.inside("node", "cat /srv/forked"), "{\"port\": 26203}\n");
    assert_eq!(lab.inside("node", "cat /srv/rendered"), "{\n\"fs\":{\"port\": 26203},\n\"log\":\"info\"\n}\n");
    // The login is the component's: it may read its own prefix and nothing else, and write nothing.
    let refused = "etcdctl --peers=127.0.0.1:2379 get --quorum /ovs/other 2>&1; test $? = 4";
    assert!(lab.inside("node", refused).starts_with("Error:  110: The request requires user authentication"));
    let refused = "etcdctl --peers=127.0.0.1:2379 set /ovs/client/secret x 2>&1; test $? = 4";
    assert!(lab.inside("node", refused).starts_with("Error:  110: "));
    // Listening on loopback only: 2379 is 094B.
    assert_eq!(lab.inside("node", "grep -c ' 0100007F:094B 00000000:0000 0A' /proc/net/tcp").trim(), "1");
    assert_eq!(lab.inside("node", "grep -c ' 00000000:094B 00000000:0000 0A' /proc/net/tcp || true").trim(), "0");
    lab.expect(0, &["plan", "LAB", "--exit-code"]);
    // Its end is the stop command's doing, and the next start is as the first.
    lab.inside("node", "rm /srv/rendered; sv restart mounter");
    lab.inside("node", "for i in $(seq 100); do test -e /srv/rendered && exit 0; sleep 0.1; done; exit 1");
    assert!(lab.inside("node", "cat /var/log/mounter/current").contains("unmounted"));
}
