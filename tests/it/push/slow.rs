//! A host that takes nothing any more: the others go on, and memory does not grow.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{TWO_HOSTS, deployed, root_of};
use crate::support::lab::{TestLab, docker};

/// Bytes of content, which do not compress.
const CONTENT: u64 = FILES << 21;
const FILES: u64 = 96;
/// What may be on its way to a host that takes nothing: messages, the connection's window, what hosts share, and what the
/// allocator keeps of it for each thread.
const MOST_GROWTH: u64 = 128 << 20;
/// After this long whatever is waited for will not come.
const PATIENCE: Duration = Duration::from_secs(120);

fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_there() {
        assert!(since.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Processes of the helper on a host, as this machine numbers them.
fn helpers(lab: &TestLab, host: &str) -> Vec<String> {
    let output = docker(&["top", &lab.container(host), "-eo", "pid,args"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let helpers = text.lines().filter(|line| line.contains("cuisine-helper"));
    helpers.filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

fn signal(name: &str, pids: &[String]) {
    assert!(Command::new("kill").arg(name).args(pids).status().unwrap().success());
}

/// A number of bytes in a process's status.
fn memory(pid: u32, field: &str) -> u64 {
    let status = fs_err::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn write_noise(lab: &TestLab) {
    let directory = lab.path("build/data");
    fs_err::create_dir_all(&directory).unwrap();
    let mut hasher = blake3::Hasher::new();
    for number in 0..FILES {
        let mut bytes = vec![0; 2 << 20];
        hasher.update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
        fs_err::write(directory.join(number.to_string()), bytes).unwrap();
    }
}

#[test]
fn a_host_that_stands_still_holds_up_nobody_and_costs_no_memory() {
    let lab = deployed(TWO_HOSTS);
    write_noise(&lab);
    let roots = ["node-1", "node-2"].map(|host| root_of(&lab, host).join("opt/app"));
    let mut push = lab.command(&["push", "LAB", "app"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let is_unfinished = |name: &str| name.starts_with(".ovs-cuisine.");
    wait_for("content at the second host", || {
        let mut names = fs_err::read_dir(&roots[1]).unwrap().map(|entry| entry.unwrap().file_name());
        names.any(|name| is_unfinished(&name.to_string_lossy()))
    });
    let stopped = helpers(&lab, "node-2");
    assert!(!stopped.is_empty(), "the helper of the second host runs");
    signal("-STOP", &stopped);
    let before = memory(push.id(), "VmRSS:");
    wait_for("the first host", || {
        let names = fs_err::read_dir(roots[0].join("data")).map_or(0, Iterator::count);
        names as u64 == FILES
    });
    assert!(push.try_wait().unwrap().is_none(), "the second host is waited for");
    assert!(!roots[1].join(format!("data/{}", FILES - 1)).exists(), "the second host stood still");
    let growth = memory(push.id(), "VmHWM:").saturating_sub(before);
    assert!(growth < MOST_GROWTH, "{growth} bytes more while {CONTENT} bytes wait for a host");
    signal("-CONT", &stopped);
    assert!(push.wait().unwrap().success());
    assert_eq!(fs_err::read_dir(roots[1].join("data")).unwrap().count() as u64, FILES);
    assert_eq!(
        lab.inside("node-1", "cd /opt/app && sha256sum data/*"),
        lab.inside("node-2", "cd /opt/app && sha256sum data/*")
    );
}
