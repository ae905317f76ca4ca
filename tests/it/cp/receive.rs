//! The program that writes what hosts say, spoken to directly: whatever comes, nothing lands outside the destination, and
//! nothing lands at all that is not what was announced.

use std::{
    io::Write as _,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
};

use ovs_cuisine::{
    plan::{FailureKind, Landing, OfferKind, Op, OpFailure, Outcome, Plan, Put, Source, Step, StepId},
    tree::{Contents, Demand, Digest, Entry, EntryKind, Manifest, RelPath, Supply, Time, TreeSummary},
    wire::{self, FromHelper, Mode, StepEvent, ToHelper},
};

use super::{Seen, look};

pub(super) const TIME: Time = Time { secs: 1_000_000_000, nanos: 5 };

pub(super) fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry::plain(RelPath::new(path).unwrap(), kind, TIME)
}

pub(super) fn file(path: &str, content: &[u8]) -> Entry {
    entry(path, EntryKind::File { size: content.len() as u64, digest: Digest::of(content), mode: 0o644 })
}

pub(super) fn directory(path: &str) -> Entry {
    entry(path, EntryKind::Dir { mode: 0o755 })
}

pub(super) fn link(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::Symlink { target: target.into() })
}

/// The bytes of a manifest, and the summary that an honest host would give of it.
pub(super) fn described(entries: Vec<Entry>) -> (Vec<u8>, TreeSummary) {
    let manifest = Manifest::new(entries, 0o755).unwrap();
    let encoded = manifest.encode().unwrap();
    let sizes = manifest.entries().iter().filter_map(|entry| match entry.kind {
        EntryKind::File { size, .. } => Some(size),
        _ => None,
    });
    let summary = TreeSummary {
        origin: "/srv/tree".to_owned(),
        root: manifest.root(),
        manifest: Digest::of(&encoded),
        manifest_size: encoded.len() as u64,
        files: sizes.clone().count() as u64,
        bytes: sizes.sum(),
        ignore: Vec::new(),
        xattrs: false,
    };
    (encoded, summary)
}

/// The same manifest with some bytes replaced by as many others, and the summary made to fit.
pub(super) fn forged(entries: Vec<Entry>, from: &[u8], to: &[u8]) -> (Vec<u8>, TreeSummary) {
    assert_eq!(from.len(), to.len());
    let (mut encoded, summary) = described(entries);
    let at = encoded.windows(from.len()).position(|window| window == from).expect("it is there as it is");
    encoded[at..at + from.len()].copy_from_slice(to);
    let manifest = Digest::of(&encoded);
    (encoded, TreeSummary { manifest, ..summary })
}

/// What a host with these contents answers.
pub(super) fn honest(contents: &Contents, demand: &Demand) -> Vec<Supply> {
    let mut answer = Vec::new();
    contents
        .answer(demand, &mut |supply| {
            answer.push(supply);
            Ok(())
        })
        .unwrap();
    answer
}

fn put(dest: &Path, kind: OfferKind, tree: TreeSummary) -> Put {
    Put {
        dest: dest.to_str().unwrap().parse().unwrap(),
        landing: Landing::Either,
        name: Some(b"tree".to_vec()),
        kind,
        tree,
        special_bits: false,
    }
}

/// Has the real program carry out a copy; `answer` is what the host says to each demand.
fn receive(put: Put, mut answer: impl FnMut(&Demand) -> Vec<Supply>) -> Outcome {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cuisine-helper"))
        .arg("receive")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let step = Step {
        id: StepId(0),
        key: "put".to_owned(),
        op: Op::Put(put),
        source: Source { file: "test".to_owned(), line: 0 },
        only_if_changed: Vec::new(),
        sensitive: false,
        ignore_errors: false,
    };
    let plan = Plan { component: "c".parse().unwrap(), host: "h".parse().unwrap(), steps: vec![step] };
    wire::write_message(&mut stdin, &ToHelper::Plan { request: 1, mode: Mode::Apply, plan }).unwrap();
    let mut ended = None;
    while let Some(message) = wire::read_message(&mut stdout).unwrap() {
        match message {
            FromHelper::Demand { demand, .. } => {
                for supply in answer(&demand) {
                    // It may have seen enough.
                    let _ = wire::write_message(&mut stdin, &ToHelper::Supply { request: 1, supply });
                }
                let _ = stdin.flush();
            }
            FromHelper::Steps { reports, .. } => {
                for report in reports {
                    if let StepEvent::Finished { outcome, .. } = report.event {
                        ended = Some(outcome);
                    }
                }
            }
            FromHelper::Done { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
    ended.expect("it says how the copy ended")
}

fn failure(outcome: Outcome) -> OpFailure {
    match outcome {
        Outcome::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// A directory to copy into, with one beside it that nothing may reach.
struct Ground {
    dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir(dir.path().join("inside")).unwrap();
        fs_err::create_dir(dir.path().join("outside")).unwrap();
        Self { dir }
    }

    fn inside(&self) -> std::path::PathBuf {
        self.dir.path().join("inside")
    }

    fn outside(&self) -> std::path::PathBuf {
        self.dir.path().join("outside")
    }

    /// Nothing but the two directories is there.
    fn is_untouched(&self) -> bool {
        look(self.dir.path()).len() == 3
    }
}

const DIRECTORY: OfferKind = OfferKind::Directory { mtime: TIME };

#[test]
fn an_honest_host_is_believed() {
    let ground = Ground::new();
    let (manifest, tree) = described(vec![directory("sub"), file("sub/a", b"a\n"), link("sub/l", "../../outside")]);
    let mut contents = Contents::new();
    contents.add_bytes(manifest);
    contents.add_bytes(b"a\n".to_vec());
    let outcome = receive(put(&ground.inside(), DIRECTORY, tree.clone()), |demand| honest(&contents, demand));
    assert_eq!(outcome, Outcome::Changed);
    let seen = look(&ground.inside());
    assert_eq!(seen[Path::new("tree/sub/a")], Seen::File(0o644, TIME.secs, b"a\n".to_vec()));
    assert_eq!(seen[Path::new("tree/sub/l")], Seen::Link("../../outside".into()));
    let again = receive(put(&ground.inside(), DIRECTORY, tree), |demand| honest(&contents, demand));
    assert_eq!(again, Outcome::NoChange);
}

#[test]
fn manifests_that_lead_out_are_refused() {
    let evil = || vec![directory("xx"), file("xx/evil", b"evil\n")];
    for (what, (manifest, tree)) in [
        ("a part that is `..`", forged(evil(), b"xx", b"..")),
        ("an absolute path", forged(vec![file("xtmp", b"evil\n")], b"xtmp", b"/tmp")),
        ("a part that is `.`", forged(vec![directory("x"), file("x/evil", b"evil\n")], b"\x01x", b"\x01.")),
        ("a zero byte", forged(vec![file("evil", b"evil\n")], b"evil", b"ev\0l")),
        ("no manifest at all", forged(evil(), b"OVSTREE", b"SOMEZIP")),
    ] {
        let ground = Ground::new();
        let mut contents = Contents::new();
        contents.add_bytes(manifest);
        contents.add_bytes(b"evil\n".to_vec());
        let failure = failure(receive(put(&ground.inside(), DIRECTORY, tree), |demand| honest(&contents, demand)));
        assert_eq!(failure.kind, FailureKind::Content, "{what}: {failure}");
        assert!(failure.message.contains("manifest"), "{what}: {failure}");
        assert!(ground.is_untouched(), "{what}");
    }
}

#[test]
fn a_planted_link_is_not_followed_by_the_next_copy() {
    let ground = Ground::new();
    let serve = |entries: Vec<Entry>| {
        let (manifest, tree) = described(entries);
        let mut contents = Contents::new();
        contents.add_bytes(manifest);
        contents.add_bytes(b"evil\n".to_vec());
        receive(put(&ground.inside(), DIRECTORY, tree), |demand| honest(&contents, demand))
    };
    assert_eq!(serve(vec![link("aa", "../../outside")]), Outcome::Changed);
    // A directory where the link is, and a file through it.
    let refused = failure(serve(vec![directory("aa"), file("aa/evil", b"evil\n")]));
    assert_eq!(refused.kind, FailureKind::BadInput, "{refused}");
    assert!(refused.hint.unwrap().contains("by hand"));
    assert_eq!(look(&ground.outside()).len(), 1);
    // A file in the link's place replaces it.
    assert_eq!(serve(vec![file("aa", b"evil\n")]), Outcome::Changed);
    assert_eq!(look(&ground.outside()).len(), 1);
    assert!(matches!(look(&ground.inside())[Path::new("tree/aa")], Seen::File(..)));

    // The same for a link at the top of the copy.
    fs_err::remove_dir_all(ground.inside().join("tree")).unwrap();
    symlink("../outside", ground.inside().join("tree")).unwrap();
    let refused = failure(serve(vec![file("evil", b"evil\n")]));
    assert_eq!(refused.kind, FailureKind::BadInput, "{refused}");
    assert_eq!(look(&ground.outside()).len(), 1);
}

#[test]
fn content_that_is_not_what_was_announced_does_not_land() {
    let (manifest, tree) = described(vec![file("a", b"right")]);
    let answer = |second: Vec<Supply>| {
        let mut contents = Contents::new();
        contents.add_bytes(manifest.clone());
        move |demand: &Demand| {
            if demand.wants.iter().any(|want| want.digest == Digest::of(b"right")) {
                second.clone()
            } else {
                honest(&contents, demand)
            }
        }
    };
    let literal = |bytes: &[u8]| Supply::Literal(zstd::bulk::compress(bytes, 1).unwrap());
    for (what, second) in [
        ("other bytes", vec![literal(b"wrong"), Supply::Take(5), Supply::End]),
        ("fewer bytes", vec![literal(b"righ"), Supply::Take(4), Supply::End]),
        ("more bytes", vec![literal(b"right and more"), Supply::Take(14), Supply::End]),
        ("more than there is", vec![literal(b"right"), Supply::Take(u64::MAX), Supply::End]),
        ("nothing", vec![Supply::End]),
        ("what is no zstd", vec![Supply::Literal(b"garbage!".to_vec()), Supply::Take(5), Supply::End]),
        ("parts of a file that was not proposed", vec![Supply::Copy { offset: 0, len: 5 }, Supply::End]),
        ("an endless stream", vec![Supply::Literal(vec![0; 256 * 1024]); 32]),
        ("that it is gone", vec![Supply::Gone { why: "\u{1b}[2J".to_owned() }]),
    ] {
        let ground = Ground::new();
        let outcome = receive(put(&ground.inside(), DIRECTORY, tree.clone()), answer(second));
        assert_eq!(failure(outcome).kind, FailureKind::Content, "{what}");
        assert!(ground.is_untouched(), "{what}: {:?}", look(ground.dir.path()).keys());
    }
}

#[test]
fn what_is_said_of_a_tree_must_be_so() {
    let (manifest, honest_tree) = described(vec![file("a", b"a"), file("b", b"b")]);
    let mut contents = Contents::new();
    for content in [manifest, b"a".to_vec(), b"b".to_vec()] {
        contents.add_bytes(content);
    }
    for (what, kind, tree) in [
        ("a manifest of any length", DIRECTORY, TreeSummary { manifest_size: u64::MAX, ..honest_tree.clone() }),
        ("another root", DIRECTORY, TreeSummary { root: Digest::of(b"x"), ..honest_tree.clone() }),
        ("fewer bytes", DIRECTORY, TreeSummary { bytes: 1, ..honest_tree.clone() }),
        ("fewer files", DIRECTORY, TreeSummary { files: 1, ..honest_tree.clone() }),
        ("two files as one", OfferKind::File, honest_tree.clone()),
        ("a time that is none", OfferKind::Directory { mtime: Time { secs: 0, nanos: u32::MAX } }, honest_tree.clone()),
    ] {
        let ground = Ground::new();
        let outcome = receive(put(&ground.inside(), kind, tree), |demand| honest(&contents, demand));
        assert_eq!(failure(outcome).kind, FailureKind::Content, "{what}");
        assert!(ground.is_untouched(), "{what}");
    }
    for name in [&b".."[..], b"a/b", b"", b"a\0"] {
        let ground = Ground::new();
        let named = Put { name: Some(name.to_vec()), ..put(&ground.inside(), DIRECTORY, honest_tree.clone()) };
        assert_eq!(failure(receive(named, |demand| honest(&contents, demand))).kind, FailureKind::BadInput, "{name:?}");
        assert!(ground.is_untouched(), "{name:?}");
    }
}
