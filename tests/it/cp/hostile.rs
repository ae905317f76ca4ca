//! `cp` from a host whose helper is a fake that says what no honest one says. The container, sshd and everything on this
//! side are real.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use ovs_cuisine::{
    plan::{Facts, Offer, OfferKind},
    tree::{Contents, Demand, Digest, Old, Supply, TreeSummary, Want},
    wire::{self, FromHelper, HelperHello, PROTOCOL},
};

use rustix::process::Signal;

use super::{
    Seen, line, look, noise, number,
    receive::{TIME, described, directory, file, forged, honest, link},
    text, up,
};
use crate::support::{
    lab::{Run, TestLab},
    wait::wait_until,
};

/// The number of the first request of a session.
const REQUEST: u32 = 1;
const DIRECTORY: OfferKind = OfferKind::Directory { mtime: TIME };

fn hello() -> FromHelper {
    let facts: Facts = serde_json::from_str(
        r#"{"hostname":"h","distribution":{"id":"","like":[],"version":"","codename":""},"arch":"","kernel":"",
        "cpus":1,"memory":1,"init":"none","packages":"none","addresses":[],"user":"","uid":0,"home":"/","boot_id":"",
        "machine_id":"","container":false,"state_dir":""}"#,
    )
    .unwrap();
    FromHelper::Hello(HelperHello { protocol: PROTOCOL, facts, trees: Vec::new(), holdings: Vec::new() })
}

fn offered(kind: OfferKind, tree: TreeSummary) -> FromHelper {
    let offer = Offer { kind, tree, skipped: vec!["`\u{1b}[2Jx`: a socket".to_owned()], skipped_count: 1 };
    FromHelper::Offered { request: REQUEST, offer: Ok(offer) }
}

/// What an honest host would say to a demand for these contents, one after the other.
fn supplies(contents: &[&[u8]]) -> Vec<FromHelper> {
    let mut answers = Vec::new();
    for content in contents {
        let mut known = Contents::new();
        let digest = known.add_bytes(content.to_vec());
        let want = Want { digest, size: content.len() as u64, old: Old::Nothing };
        answers.extend(honest(&known, &Demand { wants: vec![want] }));
    }
    answers.into_iter().map(|supply| FromHelper::Supply { request: REQUEST, supply }).collect()
}

/// A fake helper: a script that looks like one and says these messages, whatever it is asked: the first one at once, the
/// others as soon as it has been asked for something.
fn fake(lab: &TestLab, says: &[FromHelper]) {
    let says: Vec<Vec<u8>> = says.iter().map(|message| wire::encode(message).unwrap()).collect();
    let script = |skip: usize| {
        let hello = says[0].len();
        format!(
            "#!/bin/sh\nframe() {{ dd bs=1 count=$(dd bs=1 count=4 2>&3 | od -An -tu4) of=/dev/null 2>&3; }}\n\
             says() {{ tail -c +{skip:06} \"$0\"; }}\n\
             case $1 in\n--self-check) n=${{0##*/.cuisine-helper-}}; echo ${{n%%.*}};;\n\
             serve) exec 3>/dev/null; printf '\\n\\000OVS-CUISINE %s\\n' $2; says | head -c {hello}; frame; frame\n\
             says | tail -c +$(({hello} + 1)); cat > /dev/null;;\nesac\nexit\n"
        )
    };
    let mut program = script(script(0).len() + 1).into_bytes();
    program.extend(says.concat());
    fs_err::write(lab.path("fake-helper"), program).unwrap();
}

/// Copies from the fake.
fn copy(lab: &TestLab, status: i32, words: &[&str]) -> Run {
    let mut command = lab.command(&[&["cp", "LAB"], words].concat());
    let output = command.env("OVS_CUISINE_HELPER", lab.path("fake-helper")).output().unwrap();
    let run = Run {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    assert_eq!(run.status, status, "{words:?}\n--- stdout\n{}\n--- stderr\n{}", run.stdout, run.stderr);
    run
}

#[test]
fn a_hostile_host_writes_nothing_outside_and_nothing_unannounced() {
    let lab = up();
    fs_err::create_dir(lab.path("outside")).unwrap();
    fs_err::create_dir(lab.path("in")).unwrap();
    let dest = lab.path("in");
    let from = ["-r", "node-1:/srv/tree", text(&dest)];
    let empty = || look(&dest).len() == 1 && look(&lab.path("outside")).len() == 1;
    let said = |first: FromHelper, then: Vec<FromHelper>| fake(&lab, &[vec![hello(), first], then].concat());

    // The fake can be honest too: what follows fails for what it says, not for being a fake.
    let (manifest, tree) = described(vec![file("a", b"a\n"), link("l", "../../outside")]);
    said(offered(DIRECTORY, tree.clone()), supplies(&[&manifest, b"a\n"]));
    let run = copy(&lab, 0, &from);
    assert!(run.stdout.starts_with("node-1: 1 file, 2 B; 3 new, 0 changed, 2 B sent in "), "{}", run.stdout);
    assert!(!run.stderr.contains('\u{1b}'), "{:?}", run.stderr);

    // The link that it planted: a directory there, and a file through it.
    let (through, through_tree) = described(vec![directory("l"), file("l/evil", b"evil\n")]);
    said(offered(DIRECTORY, through_tree), supplies(&[&through, b"evil\n"]));
    let run = copy(&lab, 40, &from);
    assert!(run.stderr.contains("node-1: ") && run.stderr.contains("hint: "), "{}", run.stderr);
    assert_eq!(look(&lab.path("outside")).len(), 1, "through its own link");
    // The whole copy replaced by a link to elsewhere.
    fs_err::remove_dir_all(dest.join("tree")).unwrap();
    symlink(lab.path("outside"), dest.join("tree")).unwrap();
    said(offered(DIRECTORY, tree.clone()), supplies(&[&manifest, b"a\n"]));
    copy(&lab, 40, &from);
    assert_eq!(look(&lab.path("outside")).len(), 1, "through a link at the top");
    fs_err::remove_file(dest.join("tree")).unwrap();

    let (dots, dots_tree) = forged(vec![directory("xx"), file("xx/evil", b"evil\n")], b"xx", b"..");
    let (root, root_tree) = forged(vec![file("xtmp", b"evil\n")], b"xtmp", b"/tmp");
    let wrong = [&supplies(&[&manifest])[..], &supplies(&[b"b\n"])].concat();
    let more = [&supplies(&[&manifest])[..], &supplies(&[b"a\n and more"])].concat();
    let flood = |supply: Supply| vec![FromHelper::Supply { request: REQUEST, supply }; 40];
    let literals = flood(Supply::Literal(vec![0x55; 256 * 1024]));
    let too_long = flood(Supply::Literal(vec![0x55; 256 * 1024 + 1]));
    let huge = TreeSummary { manifest_size: u64::MAX, ..tree.clone() };
    let lies = TreeSummary { files: 1_000_000, ..tree.clone() };
    for (what, status, first, then, wanted) in [
        ("`..`", 40, offered(DIRECTORY, dots_tree), supplies(&[&dots, b"evil\n"]), "manifest"),
        ("absolute", 40, offered(DIRECTORY, root_tree), supplies(&[&root, b"evil\n"]), "manifest"),
        ("wrong hash", 40, offered(DIRECTORY, tree.clone()), wrong, "not what was announced"),
        ("more than announced", 40, offered(DIRECTORY, tree.clone()), more, "not what was announced"),
        ("a huge manifest", 40, offered(DIRECTORY, huge), literals.clone(), "too large"),
        ("a flood", 40, offered(DIRECTORY, tree.clone()), literals, "not what was announced"),
        ("long messages", 30, offered(DIRECTORY, tree.clone()), too_long, "more content at once"),
        ("lies", 40, offered(DIRECTORY, lies), supplies(&[&manifest, b"a\n"]), "counts"),
        ("demands", 30, FromHelper::Demand { request: REQUEST, demand: wants() }, Vec::new(), "protocol"),
        ("silence and goodbye", 30, FromHelper::Fault { why: "no".to_owned() }, Vec::new(), "node-1"),
    ] {
        said(first, then);
        let run = copy(&lab, status, &from);
        assert!(run.stderr.contains(wanted), "{what}: no `{wanted}` in\n{}", run.stderr);
        assert!(empty(), "{what}: {:?}", look(&dest).keys());
    }

    // A directory instead of the file that was asked for, and a file that is two.
    said(offered(DIRECTORY, tree.clone()), supplies(&[&manifest, b"a\n"]));
    copy(&lab, 40, &["node-1:/srv/file", text(&dest)]);
    let (two, two_tree) = described(vec![file("a", b"a\n"), file("b", b"b\n")]);
    said(offered(OfferKind::File, two_tree), supplies(&[&two, b"a\n", b"b\n"]));
    let run = copy(&lab, 40, &["node-1:/srv/file", text(&dest)]);
    assert!(run.stderr.contains("not that of one file"), "{}", run.stderr);
    assert!(empty());
}

/// Asks this side for a file of its own.
fn wants() -> Demand {
    Demand { wants: vec![Want { digest: Digest::of(b"x"), size: 1, old: Old::Nothing }] }
}

/// Starts a copy that the fake never completes; comes back once a file of so many bytes is there.
fn begin(lab: &TestLab, dest: &Path, bytes: usize) -> Child {
    let mut command = lab.command(&["cp", "LAB", "-r", "node-1:/srv/tree", text(dest)]);
    command.env("OVS_CUISINE_HELPER", lab.path("fake-helper")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let is_begun = |seen: &Seen| matches!(seen, Seen::File(_, _, content) if content.len() >= bytes);
    wait_until("the copy begins", || look(dest).values().any(is_begun));
    child
}

/// The same; ends it by a signal.
fn cut(lab: &TestLab, dest: &Path, bytes: usize, signal: Signal) -> (Option<i32>, String) {
    let child = begin(lab, dest, bytes);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A fake that gives half of a tree with one file of this content, and then nothing for ever.
fn half(lab: &TestLab, content: &[u8]) {
    let (manifest, tree) = described(vec![file("large", content)]);
    let mut half = supplies(&[&manifest, content]);
    half.truncate(half.len() / 2 + 2);
    fake(lab, &[vec![hello(), offered(DIRECTORY, tree)], half].concat());
}

#[test]
fn a_copy_that_is_cut_short_leaves_nothing() {
    let lab = up();
    let dest = lab.path("in");
    fs_err::create_dir(&dest).unwrap();
    half(&lab, &noise(3, 600_000));
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let (status, stderr) = cut(&lab, &dest, 1, signal);
        if signal == Signal::KILL {
            // The one that writes outlives the one that was killed, to sweep.
            wait_until("it is swept", || fs_err::read_dir(&dest).unwrap().count() == 0);
        } else {
            assert_eq!(status, Some(130), "{signal:?}: {stderr}");
            assert!(stderr.contains("node-1: interrupted"), "{stderr}");
        }
        assert_eq!(look(&dest).len(), 1, "{signal:?}: {:?}", look(&dest).keys());
    }
}

#[test]
fn a_large_copy_that_was_cut_goes_on_where_it_was() {
    let lab = up();
    let dest = lab.path("in");
    fs_err::create_dir(&dest).unwrap();
    let content = noise(4, 8_000_000);
    fs_err::create_dir(lab.path("tree")).unwrap();
    fs_err::write(lab.path("tree/large"), &content).unwrap();
    lab.expect(0, &["cp", "LAB", "-r", text(&lab.path("tree")), "node-1:/srv/"]);
    half(&lab, &content);
    cut(&lab, &dest, 2_500_000, Signal::INT);
    let unfinished = |seen: &Seen| matches!(seen, Seen::File(_, _, bytes) if bytes.len() > 1_000_000);
    assert!(look(&dest).values().any(unfinished), "what cost time to transfer stays: {:?}", look(&dest).keys());

    let events = lab.events(0, &["cp", "LAB", "-r", "node-1:/srv/tree", text(&dest)]);
    let sent = number(line(&events, "node-1"), "sent");
    assert!(sent < 7_000_000, "{sent} of 8000000 were sent again");
    let seen = look(&dest);
    assert_eq!(seen.len(), 3, "{:?}", seen.keys());
    assert!(matches!(&seen[Path::new("tree/large")], Seen::File(_, _, bytes) if *bytes == content));
}

#[test]
fn a_copy_does_not_sweep_what_another_one_is_making() {
    let lab = up();
    let dest = lab.path("in");
    fs_err::create_dir(&dest).unwrap();
    lab.inside("node-1", "echo other > /srv/other");
    half(&lab, &noise(5, 600_000));
    let mut other = begin(&lab, &dest, 1);
    let unfinished: Vec<PathBuf> = look(&dest).into_keys().collect();
    lab.expect(0, &["cp", "LAB", "node-1:/srv/other", text(&dest)]);
    let now = look(&dest);
    assert!(unfinished.iter().all(|path| now.contains_key(path)), "{:?}", now.keys());
    assert_eq!(fs_err::read_to_string(dest.join("other")).unwrap(), "other\n");
    other.kill().unwrap();
    other.wait().unwrap();
    wait_until("it is swept", || fs_err::read_dir(&dest).unwrap().count() == 1);
}
