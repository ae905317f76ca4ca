//! `push --watch`: every change arrives, whatever happens to hosts and sources meanwhile.

use std::{
    collections::HashSet,
    io::{BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{deployed, edits::Edits, root_of};
use crate::support::{
    lab::{TestLab, docker},
    wait::wait_until,
};

/// How long anything may take before the test says that it did not happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// Random edits of the long test, and the seed that makes them.
const EDITS: u64 = 200;
const SEED: u64 = 20_261_121;

const ONE_HOST: &str = r#"
[defaults.container]
image = "ovs-cuisine/ssh:latest"

[host.node-1]
container = {}

[component.app]
recipe = "app"
hosts = ["node-1"]
params = { build = "build" }
"#;

const TREE_ONLY: &str = r#"
"""A tree and nothing else."""

params(build = param("path", doc = "Tree to push."))

def deploy(ctx):
    sync(ctx.params.build, "/opt/app", delete = True, ignore = ["*.log"])
"#;

/// A watching program; ended when dropped.
struct Watching {
    child: Child,
    events: Receiver<Value>,
}

impl Watching {
    /// Starts to watch; comes back when all is in sync.
    fn start(lab: &TestLab) -> Self {
        let watching = Self::started(lab.command(&["push", "LAB", "app", "--watch", "--json"]));
        watching.expect("in-sync");
        watching
    }

    fn started(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        Self { child, events }
    }

    /// The next event of this kind.
    fn expect(&self, kind: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) if event["event"] == kind => return event,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => panic!("no {kind} came"),
                Err(RecvTimeoutError::Disconnected) => panic!("the program ended before {kind} came"),
            }
        }
    }

    /// The next event of this kind that is like this.
    fn expect_where(&self, kind: &str, is_like: impl Fn(&Value) -> bool) -> Value {
        loop {
            let event = self.expect(kind);
            if is_like(&event) {
                return event;
            }
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Interrupts it; its exit status.
    fn interrupt(mut self) -> i32 {
        self.signal(rustix::process::Signal::INT);
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn has(path: PathBuf, text: &str) -> impl Fn() -> bool {
    let text = text.to_owned();
    move || fs_err::read_to_string(&path).is_ok_and(|now| now == text)
}

/// What rsync would still have to do to make `target` equal to `source`: nothing, when a sync is right.
fn rsync_says(source: &Path, target: &Path) -> String {
    let output = Command::new("rsync")
        .args(["-n", "-rlp", "--checksum", "--delete", "--itemize-changes", "--exclude=*.log", "--exclude=.git"])
        .arg(format!("{}/", source.display()))
        .arg(target)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Times of directories are no part of a tree's equality.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter(|line| !line.starts_with(".d..t")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_saved_file_arrives_and_its_service_restarts() {
    let lab = deployed(ONE_HOST);
    let root = root_of(&lab, "node-1");
    let watching = Watching::start(&lab);

    lab.write("build/lib/text", "second\n");
    let set = watching.expect("change-set");
    assert_eq!((&set["modified"], &set["restarted"]), (&1.into(), &serde_json::json!(["app"])), "{set}");
    assert!(has(root.join("opt/app/lib/text"), "second\n")());
    watching.expect("in-sync");

    // As editors save: a new file takes the old one's name.
    lab.write("build/lib/.text.swp", "third\n");
    fs_err::rename(lab.path("build/lib/.text.swp"), lab.path("build/lib/text")).unwrap();
    wait_until("a rename over a file", has(root.join("opt/app/lib/text"), "third\n"));

    // A file in a directory in a directory that was not there a moment ago.
    lab.write("build/deep/er/and/deeper/file", "deep\n");
    wait_until("a file in new directories", has(root.join("opt/app/deep/er/and/deeper/file"), "deep\n"));

    // What is ignored is no change.
    watching.expect("in-sync");
    lab.write("build/x.log", "noise\n");
    lab.write("build/lib/text", "fourth\n");
    let set = watching.expect("change-set");
    assert_eq!((&set["created"], &set["modified"]), (&0.into(), &1.into()), "{set}");
    assert!(!root.join("opt/app/x.log").exists());

    // What was hand-edited there is mended with the next change.
    fs_err::write(root.join("opt/app/lib/text"), "by hand\n").unwrap();
    lab.write("build/lib/other", "other\n");
    wait_until("a hand edit is mended", has(root.join("opt/app/lib/text"), "fourth\n"));

    assert_eq!(watching.interrupt(), 130);
}

#[test]
fn nothing_is_lost_when_hosts_and_sources_come_and_go() {
    let lab = deployed(ONE_HOST);
    let watching = Watching::start(&lab);

    // The source vanishes and comes back as another directory: nothing is deleted meanwhile, and it is watched again.
    fs_err::rename(lab.path("build"), lab.path("away")).unwrap();
    watching.expect("component-failed");
    assert_eq!(lab.inside("node-1", "ls /opt/app"), "lib\nrun\n");
    lab.write("build/run", super::RUN);
    lab.write("build/lib/text", "another directory\n");
    watching.expect("in-sync");
    assert_eq!(lab.inside("node-1", "cat /opt/app/lib/text"), "another directory\n");
    lab.write("build/lib/text", "still watched\n");
    watching.expect("in-sync");
    assert_eq!(lab.inside("node-1", "cat /opt/app/lib/text"), "still watched\n");

    // The host restarts, and a change is made while it is away.
    docker(&["stop", "-t", "0", &lab.container("node-1")]);
    watching.expect("warning");
    lab.write("build/lib/text", "while it was away\n");
    docker(&["start", &lab.container("node-1")]);
    watching.expect("in-sync");
    assert_eq!(lab.inside("node-1", "cat /opt/app/lib/text"), "while it was away\n");

    // The container is made anew, empty: everything comes again before it counts as in sync.
    docker(&["rm", "-f", "-v", &lab.container("node-1")]);
    watching.expect("warning");
    lab.expect(0, &["up", "LAB"]);
    watching.expect("in-sync");
    assert_eq!(lab.inside("node-1", "cat /opt/app/lib/text"), "while it was away\n");
}

/// A lab whose component is a tree without a service: restarts take their time.
fn tree_only() -> TestLab {
    let lab = TestLab::new(ONE_HOST);
    lab.recipe("app", TREE_ONLY);
    lab.write("build/lib/text", "first\n");
    lab.expect(0, &["deploy", "LAB"]);
    lab
}

/// The inodes that a process has the system watch, as the kernel tells (`proc_pid_fdinfo(5)`).
fn watched_inodes(pid: u32) -> HashSet<u64> {
    let descriptors = fs_err::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten();
    let texts = descriptors.filter_map(|entry| fs_err::read_to_string(entry.path()).ok());
    let lines: Vec<String> = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let watches = lines.iter().filter(|line| line.starts_with("inotify "));
    let inode =
        |line: &String| line.split(' ').find_map(|word| u64::from_str_radix(word.strip_prefix("ino:")?, 16).ok());
    watches.filter_map(inode).collect()
}

#[test]
fn what_is_ignored_is_not_watched() {
    let lab = tree_only();
    lab.write("build/.cuisineignore", "/modules/\n");
    lab.write("build/modules/deep/file", "x\n");
    let watching = Watching::start(&lab);
    let inode = |path: &str| fs_err::metadata(lab.path(path)).unwrap().ino();
    let watched = || watched_inodes(watching.child.id());
    assert!(watched().contains(&inode("build")) && watched().contains(&inode("build/lib")));
    for path in ["build/modules", "build/modules/deep"] {
        assert!(!watched().contains(&inode(path)), "{path} is watched");
    }
    let target = root_of(&lab, "node-1").join("opt/app");
    // What comes later is watched too, and what is ignored of it is not.
    lab.write("build/new/deep/file", "new\n");
    wait_until("a file in a new directory", has(target.join("new/deep/file"), "new\n"));
    wait_until("a watch of the new directory", || watched().contains(&inode("build/new/deep")));
    lab.write("build/modules/later/file", "x\n");
    lab.write("build/new/deep/file", "changed\n");
    wait_until("a change in a new directory", has(target.join("new/deep/file"), "changed\n"));
    assert!(!watched().contains(&inode("build/modules/later")));

    // With other rules other directories count.
    lab.write("build/.cuisineignore", "/new/\n");
    wait_until("what is no longer ignored", has(target.join("modules/deep/file"), "x\n"));
    lab.write("build/modules/deep/file", "y\n");
    wait_until("a change of it", has(target.join("modules/deep/file"), "y\n"));
    wait_until("other watches", || {
        watched().contains(&inode("build/modules/deep")) && !watched().contains(&inode("build/new"))
    });
    // What was synced and is ignored now stays as it is.
    assert_eq!(fs_err::read_to_string(target.join("new/deep/file")).unwrap(), "changed\n");
    assert_eq!(watching.interrupt(), 130);
}

#[test]
fn another_directory_in_the_sources_place_deletes_nothing_at_first() {
    let lab = tree_only();
    let watching = Watching::start(&lab);
    // A build that is put in place as a whole, or a volume that is no longer mounted: who can tell.
    lab.write("next/lib/other", "another directory\n");
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(rustix::fs::CWD, lab.path("next"), rustix::fs::CWD, lab.path("build"), flags).unwrap();
    let warning = watching.expect("warning");
    let text = warning["text"].as_str().unwrap();
    assert!(text.contains("build` is another directory now: nothing is deleted"), "{text}");
    let set = watching.expect("change-set");
    assert_eq!((&set["created"], &set["removed"]), (&1.into(), &0.into()), "{set}");
    // It stays the same directory: what it lacks is meant to be lacking.
    let set = watching.expect("change-set");
    assert_eq!((&set["created"], &set["removed"]), (&0.into(), &1.into()), "{set}");
    watching.expect("in-sync");
    assert_eq!(lab.inside("node-1", "ls /opt/app/lib"), "other\n");

    // An empty one deletes nothing, however long it stays.
    fs_err::create_dir(lab.path("empty")).unwrap();
    rustix::fs::renameat_with(rustix::fs::CWD, lab.path("empty"), rustix::fs::CWD, lab.path("build"), flags).unwrap();
    let failed = watching.expect_where("step", |step| step["outcome"]["is"] == "failed");
    assert!(failed.to_string().contains("is empty"), "{failed}");
    assert_eq!(lab.inside("node-1", "ls /opt/app/lib"), "other\n");
    assert_eq!(watching.interrupt(), 130);
}

#[test]
fn more_changes_than_the_system_can_report_arrive() {
    let lab = tree_only();
    for number in 0..10 {
        lab.write(&format!("build/many/{number}/first"), "");
    }
    let watching = Watching::start(&lab);
    // Nobody reads the queue meanwhile, and it holds 16,384 events by default: each file makes three.
    watching.signal(rustix::process::Signal::STOP);
    let limit = fs_err::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let files = limit.trim().parse::<usize>().unwrap() / 3 + 1000;
    for number in 0..files {
        lab.write(&format!("build/many/{}/{number}", number % 10), "");
    }
    lab.write("build/lib/text", "after the flood\n");
    watching.signal(rustix::process::Signal::CONT);
    let warning = watching.expect("warning");
    assert!(warning["text"].as_str().unwrap().contains("max_queued_events"), "{warning}");
    watching.expect("in-sync");
    assert_eq!(lab.inside("node-1", "cat /opt/app/lib/text"), "after the flood\n");
    assert_eq!(lab.inside("node-1", "find /opt/app/many -type f | wc -l").trim(), (files + 10).to_string());
}

#[test]
fn where_the_system_refuses_watches_changes_arrive_all_the_same() {
    let lab = tree_only();
    for number in 0..8 {
        lab.write(&format!("build/{number}/file"), "file\n");
    }
    // The limit of a user namespace of its own: nobody else's.
    let program = lab.command(&["push", "LAB", "app", "--watch", "--json"]);
    let mut limited = Command::new("unshare");
    limited
        .args(["-U", "-r", "sh", "-c", "echo 4 > /proc/sys/user/max_inotify_watches && exec \"$0\" \"$@\""])
        .arg(program.get_program())
        .args(program.get_args())
        .envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdin(Stdio::null());
    let watching = Watching::started(limited);
    let warning = watching.expect("warning");
    assert!(warning["text"].as_str().unwrap().contains("max_user_watches"), "{warning}");
    watching.expect("in-sync");
    lab.write("build/5/file", "changed\n");
    let path = root_of(&lab, "node-1").join("opt/app/5/file");
    wait_until("a change that nobody reported", has(path, "changed\n"));
    assert_eq!(watching.interrupt(), 130);
}

#[test]
fn two_hundred_random_edits_all_arrive() {
    let lab = tree_only();
    let source = lab.path("build");
    let mut edits = Edits::begin(&source, SEED);
    lab.expect(0, &["push", "LAB", "app"]);
    let target = root_of(&lab, "node-1").join("opt/app");
    let watching = Watching::start(&lab);

    let mut millis = Vec::new();
    for number in 0..EDITS {
        let saved = Instant::now();
        let edit = edits.next();
        wait_until(&format!("edit {number}, {edit:?}"), || edit.is_visible(&target));
        millis.push(saved.elapsed().as_secs_f64() * 1000.0);
    }
    watching.expect("in-sync");
    let copies = tempfile::tempdir().unwrap();
    let copy = copies.path().join("app");
    let output = docker(&["cp", &format!("{}:/opt/app", lab.container("node-1")), copy.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(rsync_says(&source, &copy), "");
    assert!(copy.join("code/0/0.rs").exists() && !copy.join(".git").exists());

    millis.sort_by(f64::total_cmp);
    let percentile = |part: usize| millis[(millis.len() - 1) * part / 100];
    eprintln!("{EDITS} edits, from save to visible: p50 {:.1} ms, p95 {:.1} ms", percentile(50), percentile(95));
    assert_eq!(watching.interrupt(), 130);
}
