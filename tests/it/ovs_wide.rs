//! More than one of something, `inventory/ovs-wide.toml`: two backends on the same hosts, a vpool with two hosts, two vpools
//! on one host; and the second backend taken away again.

use serde_json::Value;

use crate::{
    ovs_lab::{changed, processes, restarted, standin_lab},
    support::{
        lab::{TestLab, docker, summary},
        wait::wait_for,
    },
};

const ALBA: &str = "LD_LIBRARY_PATH=/usr/lib/alba /usr/bin/alba";
const STORAGE: [&str; 3] = ["asd-1", "asd-2", "asd-3"];

#[test]
fn two_backends_and_a_vpool_on_two_hosts() {
    let lab = standin_lab("ovs-wide");
    let events = lab.events(0, &["deploy", "LAB"]);
    for component in summary(&events)["components"].as_array().unwrap() {
        assert_eq!(component["healthy"], true, "{component}");
    }
    nothing_is_left_to_do(&lab);
    services_note_their_builds(&lab);
    a_disk_of_two_hosts(&lab);
    each_vpool_has_its_own_disk(&lab);
    objects_stay_in_their_backend(&lab);
    the_agent_knows_both(&lab);
    a_host_joins_the_vpool(&lab);
    a_host_leaves_the_vpool(&lab);
    the_second_backend_goes(&lab);
    lab.expect(0, &["down", "LAB", "--volumes", "--yes"]);
}

fn nothing_is_left_to_do(lab: &TestLab) {
    let again = lab.events(0, &["deploy", "LAB"]);
    assert_eq!(changed(&again), Vec::<String>::new());
    assert_eq!((&summary(&again)["keys_changed"], &summary(&again)["containers_changed"]), (&0.into(), &0.into()));
}

/// What the framework compares with what is installed.
fn services_note_their_builds(lab: &TestLab) {
    for (host, file, wanted) in [
        ("db-1", "/opt/OpenvStorage/run/arakoon-voldrv.version", "arakoon=1.9.15"),
        ("db-1", "/opt/OpenvStorage/run/arakoon-ssd-abm.version", "arakoon=1.9.15;alba=1.3.3"),
        ("asd-2", "/opt/asd-manager/run/alba-asd-*.version", "alba=1.3.3\nalba=1.3.3"),
        ("vd-1", "/opt/OpenvStorage/run/ovs-albaproxy_fast.version", "alba=1.3.3"),
        ("vd-1", "/opt/OpenvStorage/run/ovs-volumedriver_wide.version", "volumedriver=6.8.1"),
    ] {
        assert_eq!(lab.inside(host, &format!("cat {file}")).trim(), wanted, "{host} {file}");
    }
}

fn write(lab: &TestLab, host: &str, disk: &str, offset: u32, text: &str) {
    lab.inside(host, &format!("printf '{text}' | dd of={disk} bs=1 seek={offset} conv=notrunc,fsync status=none"));
}

fn read(lab: &TestLab, host: &str, disk: &str, offset: u32, length: usize) -> String {
    lab.inside(host, &format!("dd if={disk} bs=1 skip={offset} count={length} status=none | tr -d '\\0'"))
}

/// One of the volumedrivers has the disk, the other reaches it there: both see what either writes.
fn a_disk_of_two_hosts(lab: &TestLab) {
    let disk = "/mnt/wide/disk1.raw";
    write(lab, "vd-1", disk, 4096, "by the first");
    assert_eq!(read(lab, "vd-2", disk, 4096, 12), "by the first");
    write(lab, "vd-2", disk, 9000, "by the second");
    assert_eq!(read(lab, "vd-1", disk, 9000, 13), "by the second");
    assert_eq!(lab.inside("vd-2", "ls /mnt/wide"), "disk1.raw\n", "one disk, not one on each host");
    let held = ["vd-1", "vd-2"].map(|host| lab.inside(host, "ls /mnt/storage/wide_write_sco_1/files | wc -l"));
    assert_eq!(held.iter().filter(|count| count.trim() == "1").count(), 1, "it lies on one of them: {held:?}");
    // What one has not yet sent to the backend is kept by the other.
    for (host, other) in [("vd-1", "vd-2"), ("vd-2", "vd-1")] {
        wait_for("the log on the other host", || {
            let said = lab.inside(host, "cat /var/log/ovs-volumedriver_wide/current");
            let found = format!("at {}:26202", lab.address(other));
            let last = said.lines().rfind(|line| line.contains("DTL: "))?.to_owned();
            // The first to start finds nobody; it looks at its start only.
            (last.contains(&found) || (last.contains("DTL: none") && host == "vd-1")).then_some(())
        });
    }
}

fn each_vpool_has_its_own_disk(lab: &TestLab) {
    write(lab, "vd-1", "/mnt/fast/disk1.raw", 4096, "fast");
    assert_eq!(read(lab, "vd-1", "/mnt/fast/disk1.raw", 4096, 4), "fast");
    assert_eq!(read(lab, "vd-1", "/mnt/wide/disk1.raw", 4096, 12), "by the first", "a disk of the same name elsewhere");
    // By the edges of both, from the other host.
    for (port, wanted) in [(26203, "YnkgdA=="), (26213, "ZmFzdA==")] {
        let program = format!(
            "import socket,json; s=socket.create_connection((\"{}\",{port})); \
             s.sendall(json.dumps(dict(op=\"read\",volume=\"disk1\",offset=4096,length=4)).encode()+b\"\\n\"); \
             print(json.loads(s.makefile().readline())[\"value\"])",
            lab.address("vd-1")
        );
        assert_eq!(lab.inside("vd-2", &format!("python3 -c '{program}'")).trim(), wanted, "edge {port}");
    }
}

/// Writes an object through a proxy of vd-1.
fn upload(lab: &TestLab, port: u16, object: &str) {
    let proxy = format!("-h {} -p {port}", lab.address("vd-1"));
    lab.inside("vd-1", &format!("head -c 300000 /dev/urandom > /var/tmp/{object}"));
    lab.inside("vd-1", &format!("{ALBA} proxy-create-namespace {object} {proxy}"));
    wait_for("a namespace that takes objects", || {
        let put = format!("{ALBA} proxy-upload-object {object} /var/tmp/{object} key {proxy} >/dev/null 2>&1");
        lab.inside("vd-1", &format!("{put} && echo yes || true")).contains("yes").then_some(())
    });
}

/// Reads it through the proxy of a host, which writes the file itself.
fn download(lab: &TestLab, host: &str, port: u16, object: &str) {
    let proxy = format!("-h {} -p {port}", lab.address(host));
    lab.inside(host, &format!("rm -f /var/tmp/back; {ALBA} proxy-download-object {object} key /var/tmp/back {proxy}"));
    let sum = |host: &str, file: &str| lab.inside(host, &format!("sha256sum < /var/tmp/{file}"));
    assert_eq!(sum("vd-1", object), sum(host, "back"), "{object} through {host}");
}

/// How many large files each kind of volume holds, over all storage hosts.
fn fragments(lab: &TestLab, kind: &str) -> u32 {
    let count = |host: &&str| lab.inside(host, &format!("find /mnt/alba-asd/{kind} -type f -size +50k | wc -l"));
    STORAGE.iter().map(|host| count(host).trim().parse::<u32>().unwrap()).sum()
}

fn objects_stay_in_their_backend(lab: &TestLab) {
    let before = (fragments(lab, "hdd"), fragments(lab, "ssd"));
    upload(lab, 26204, "slow");
    let one = (fragments(lab, "hdd"), fragments(lab, "ssd"));
    assert!(one.0 > before.0 && one.1 == before.1, "{before:?} {one:?}");
    upload(lab, 26214, "quick");
    let two = (fragments(lab, "hdd"), fragments(lab, "ssd"));
    assert!(two.0 == one.0 && two.1 > one.1, "{one:?} {two:?}");
    download(lab, "vd-1", 26204, "slow");
    // The other proxy of the same vpool reads what the first wrote; that of the other backend knows nothing of it.
    download(lab, "vd-2", 26204, "slow");
    download(lab, "vd-1", 26214, "quick");
    let namespaces = lab.inside("vd-1", &format!("{ALBA} proxy-list-namespaces -h {} -p 26214", lab.address("vd-1")));
    assert!(namespaces.contains("quick") && !namespaces.contains("slow"), "{namespaces}");
}

fn the_agent_knows_both(lab: &TestLab) {
    let network = lab.expect(0, &["config", "get", "LAB", "alba/asdnodes/"]).stdout;
    assert!(network.contains("8600") && !network.contains("8700"), "the lowest port of its host: {network}");
    let marks = lab.inside("asd-2", "sed -n '/BEGIN ALBA/,/END ALBA/p' /etc/fstab");
    assert!(marks.contains("/mnt/alba-asd/hdd") && marks.contains("/mnt/alba-asd/ssd"), "{marks}");
    let asds = lab.inside("asd-2", "ls -d /mnt/alba-asd/*/*/ | grep -v lost+found | wc -l");
    assert_eq!(asds.trim(), "2");
}

/// `vd-[1-2]` to `vd-[1-3]`: the volumedrivers that run learn of the new one, and are not restarted. `asd-[1-3]` to
/// `asd-[1-5]`: more ASDs of both backends.
fn a_host_joins_the_vpool(lab: &TestLab) {
    let before = processes(lab);
    lab.edit("vd-[1-2]", "vd-[1-3]");
    lab.edit("asd-[1-3]", "asd-[1-5]");
    lab.expect(0, &["deploy", "LAB"]);
    let again: Vec<_> = restarted(&before, &processes(lab))
        .into_iter()
        .filter(|name| !["vd-3", "asd-4", "asd-5"].iter().any(|new| name.starts_with(new)))
        .collect();
    assert_eq!(again, Vec::<String>::new());
    assert_eq!(read(lab, "vd-3", "/mnt/wide/disk1.raw", 9000, 13), "by the second");
    lab.inside("vd-3", "truncate -s 1M /mnt/wide/new.raw");
    write(lab, "vd-1", "/mnt/wide/new.raw", 100, "known");
    assert_eq!(read(lab, "vd-3", "/mnt/wide/new.raw", 100, 5), "known");
    for backend in ["hdd", "ssd"] {
        let list = format!("{ALBA} list-osds --config /opt/ovs-cuisine/started/asd-{backend}.abm.ini --to-json");
        assert_eq!(lab.inside("asd-4", &list).matches("long_id").count(), 5, "{backend}");
    }
    nothing_is_left_to_do(lab);
}

/// And back: the disk that the third one has moves to one that stays, or nothing is removed. What it is moved by goes last.
fn a_host_leaves_the_vpool(lab: &TestLab) {
    const THREE: &str = "hosts = [\"vd-*\"]";
    const TWO: &str = "hosts = [\"vd-[1-2]\"]";
    let third = lab.address("vd-3");
    let keys = || lab.expect(0, &["config", "get", "LAB", "vpools/"]).stdout;
    docker(&["stop", "-t", "1", &lab.container("vd-3")]);
    // With its container the whole host would come back: the inventory has it no more.
    lab.edit("vd-[1-3]", "vd-[1-2]");
    let refused = lab.expect(40, &["deploy", "LAB"]);
    assert!(refused.stderr.contains("has new and does not answer"), "{refused:?}");
    assert!(refused.stderr.contains("mark_node_offline") && refused.stderr.contains("nothing of them was removed"));
    assert!(keys().contains(&third), "its keys stay");

    assert!(refused.stderr.contains("hosts that left may be needed by vd-wide"), "{refused:?}");

    lab.edit("vd-[1-2]", "vd-[1-3]");
    lab.expect(0, &["deploy", "LAB"]);
    lab.edit(THREE, TWO);
    let before = processes(lab);
    let events = lab.events(0, &["deploy", "LAB"]);
    let goes = |event: &&Value| event["title"].as_str().is_some_and(|title| title.starts_with("leftovers"));
    let finished = events.iter().filter(|event| event["host"] == "vd-3" && event["progress"] == "finished");
    let gone: Vec<_> = finished.filter(goes).map(|event| event["component"].as_str().unwrap()).collect();
    assert_eq!(gone, ["vd-wide", "proxy-wide", "dtl-wide"], "who needs something before it");
    assert_eq!(lab.inside("vd-3", "ls /etc/sv | grep ovs- || true"), "");
    assert!(!keys().contains(&third), "and go with it");
    assert_eq!(restarted(&before, &processes(lab)), Vec::<String>::new());
    for host in ["vd-1", "vd-2"] {
        assert_eq!(read(lab, host, "/mnt/wide/new.raw", 100, 5), "known", "{host}");
        assert_eq!(read(lab, host, "/mnt/wide/disk1.raw", 9000, 13), "by the second", "{host}");
        assert_eq!(
            lab.inside(host, "ls -s --block-size=1 /mnt/wide/new.raw | cut -d' ' -f1").trim(),
            "4096",
            "holes stay"
        );
    }
    write(lab, "vd-2", "/mnt/wide/new.raw", 200, "goes on");
    assert_eq!(read(lab, "vd-1", "/mnt/wide/new.raw", 200, 7), "goes on");
    nothing_is_left_to_do(lab);
}

/// Without the tables of the second backend: what they were goes in the right order, and nothing else is touched.
fn the_second_backend_goes(lab: &TestLab) {
    let whole = fs_err::read_to_string(lab.path("lab.toml")).unwrap();
    let (first, _) = whole.split_once("# --- Backend ssd").expect("the inventory marks its second backend");
    let before = processes(lab);
    fs_err::write(lab.path("lab.toml"), first.replace("more = [\"asd-ssd\"]", "more = []")).unwrap();
    let events = lab.events(0, &["deploy", "LAB", "--prune"]);
    let names = |event: &Value| event["component"].as_str().unwrap_or_default().to_owned();
    let gone: Vec<_> = events.iter().filter(|event| event["event"] == "config").map(names).collect();
    let place =
        |name: &str| gone.iter().position(|gone| gone == name).unwrap_or_else(|| panic!("{name} did not go: {gone:?}"));
    // Who uses something goes before it.
    let order = ["vd-fast", "proxy-fast", "asd-ssd", "ssd"].map(place);
    assert!(order.is_sorted(), "{gone:?}");

    // A service that is stopped may still be defined; it has no process.
    let after: Vec<_> = processes(lab).into_iter().filter(|line| !line.ends_with(' ')).collect();
    let left = |line: &&String| line.contains("fast") || line.contains("ssd");
    assert_eq!(after.iter().filter(left).collect::<Vec<_>>(), Vec::<&String>::new(), "services of what is gone");
    assert_eq!(restarted(&before, &after), Vec::<String>::new(), "what stays was not restarted");
    assert_eq!(lab.inside("vd-1", "grep -c ' /mnt/fast ' /proc/mounts || true").trim(), "0", "unmounted");
    let keys = lab.expect(0, &["config", "get", "LAB"]).stdout;
    assert!(keys.contains("hdd-abm") && !keys.contains("ssd"), "keys of the second backend: {keys}");
    let asds = lab.expect(0, &["config", "get", "LAB", "alba/asds/"]).stdout;
    assert_eq!(asds.matches("\"asd_id\"").count(), 5);

    download(lab, "vd-1", 26204, "slow");
    assert_eq!(read(lab, "vd-2", "/mnt/wide/disk1.raw", 4096, 12), "by the first");
    nothing_is_left_to_do(lab);
    // And comes back with what it had.
    fs_err::write(lab.path("lab.toml"), whole).unwrap();
    lab.expect(0, &["deploy", "LAB"]);
    download(lab, "vd-1", 26214, "quick");
    assert_eq!(read(lab, "vd-1", "/mnt/fast/disk1.raw", 4096, 4), "fast");
}
