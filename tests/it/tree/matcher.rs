//! The matcher beside git's own: whatever rules stand in whatever directories, the same paths are left out, and scan,
//! comparison and watch say the same of every path.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use ovs_cuisine::tree::{IgnoreRules, RelPath, SourceTree};
use proptest::prelude::*;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::{
    script::trial,
    world::{World, look, write},
};

/// Generated trees.
const CASES: u32 = 150;

/// Runs git with nobody's settings but the repository's.
fn git(repository: &Path, words: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("git")
        .args(words)
        .current_dir(repository)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env_remove("GIT_DIR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // What is asked is far smaller than a pipe.
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    // `check-ignore` ends with 1 when nothing is ignored.
    let is_fine = output.status.success() || output.status.code() == Some(1) && output.stderr.is_empty();
    assert!(is_fine, "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What a generated source holds: files, and the lines of ignore files by directory (no text: the root).
#[derive(Debug, Clone)]
struct Tree {
    files: BTreeSet<String>,
    rules: BTreeMap<String, Vec<String>>,
}

/// Few names that patterns like to trip over.
fn name() -> impl Strategy<Value = &'static str> {
    let odd = ["#a", "!b", "a b", "a ", "[a]", "{a,b}", "a\\", "a*", "b?", ".a", "a-b", "]", "é", "a\tb", "^b"];
    prop_oneof![
        6 => prop::sample::select(&["a", "b", "c", "ab", "ba", "a.x", "b.x", "A", "1"][..]),
        2 => prop::sample::select(odd.to_vec()),
    ]
}

fn file() -> impl Strategy<Value = String> {
    prop::collection::vec(name(), 1..5).prop_map(|names| names.join("/"))
}

/// A part of a pattern between two slashes.
fn part() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        8 => prop::sample::select(&["a", "b", "c", ".x", "A", "1"][..]).prop_map(str::to_owned),
        3 => prop::sample::select(&["*", "?"][..]).prop_map(str::to_owned),
        2 => prop::sample::select(
            &[
                "[ab]", "[!a]", "[^b]", "[a-c]", "[]a]", "[!]]", "[a-]", "[\\]a]", "[!^b]", "[[:alpha:]]",
                "[![:digit:].]", "[[:upper:]1]", "[/a]", "[!b-]", "[a-b\\-]", "[\\a-c]",
            ][..],
        )
        .prop_map(str::to_owned),
        2 => prop::sample::select(
            &["\\a", "\\*", "\\?", "\\[", "\\\\", "\\#", "\\!", " ", "\\ ", "{", "}", ",", "é", "-", "]", "^", "{a,b}"][..],
        )
        .prop_map(str::to_owned),
    ];
    prop_oneof![
        6 => prop::collection::vec(atom, 1..4).prop_map(|atoms| {
            // Beside anything else two stars are one, except that git sometimes forgets (docs/sync-safety.md).
            atoms.concat().replace("***", "*").replace("**", "*")
        }),
        1 => Just("**".to_owned()),
    ]
}

/// A line of an ignore file.
fn line() -> impl Strategy<Value = String> {
    let pattern = (
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.25),
        prop::collection::vec(part(), 1..4),
        prop::bool::weighted(0.25),
        prop::sample::select(&["", "", "", "", " ", "  ", "\r", "\t"][..]),
    )
        .prop_map(|(negated, anchored, parts, directory, end)| {
            let mark = |is_there: bool, text: &'static str| if is_there { text } else { "" };
            format!("{}{}{}{}{end}", mark(negated, "!"), mark(anchored, "/"), parts.join("/"), mark(directory, "/"))
        });
    prop_oneof![
        20 => pattern,
        1 => prop::sample::select(&["", "  ", "# a comment", "#a", "/", "!", "!/", "*", "!*/", "**/", "/**", "/*", "***/a"][..])
            .prop_map(str::to_owned),
    ]
}

fn tree() -> impl Strategy<Value = Tree> {
    let directory = prop_oneof![2 => Just(String::new()), 1 => file()];
    let rules = prop::collection::btree_map(directory, prop::collection::vec(line(), 1..6), 1..4);
    (prop::collection::btree_set(file(), 1..24), rules).prop_map(|(files, rules)| Tree { files, rules })
}

/// The name of git's ignore files; ours stand beside them with the same lines.
const GITIGNORE: &str = ".gitignore";
const OURS: &str = ".cuisineignore";

fn is_rules(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == GITIGNORE || name == OURS)
}

/// Makes the repository hold this tree and nothing else.
fn build(root: &Path, tree: &Tree) {
    for entry in fs_err::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() != ".git" {
            let _ = fs_err::remove_dir_all(&path).or_else(|_| fs_err::remove_file(&path));
        }
    }
    for path in &tree.files {
        let path = root.join(path);
        if fs_err::create_dir_all(path.parent().unwrap()).is_ok() && !path.exists() {
            fs_err::write(&path, "").unwrap();
        }
    }
    for (directory, lines) in &tree.rules {
        let directory = root.join(directory);
        // What is a file by now has no rules.
        if fs_err::create_dir_all(&directory).is_ok() {
            let text = lines.join("\n") + "\n";
            write(&directory.join(GITIGNORE), &text);
            write(&directory.join(OURS), &text);
        }
    }
}

/// All paths below a root that git's own are not among, and which of them are directories.
fn paths(root: &Path) -> BTreeMap<PathBuf, bool> {
    let all = look(root).into_iter().map(|(path, seen)| (path, matches!(seen, super::world::Seen::Dir { .. })));
    all.filter(|(path, _)| !path.starts_with(".git")).collect()
}

/// What git ignores of these paths.
fn ignored_by_git(root: &Path, paths: &BTreeMap<PathBuf, bool>) -> BTreeSet<PathBuf> {
    let mut input = Vec::new();
    for path in paths.keys() {
        input.extend_from_slice(b"./");
        input.extend_from_slice(path.as_os_str().as_bytes());
        input.push(0);
    }
    let output = git(root, &["check-ignore", "-z", "--stdin"], &input);
    let names = output.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| PathBuf::from(std::ffi::OsStr::from_bytes(&name[2..]))).collect()
}

fn repository() -> World {
    let world = World::new();
    git(&world.src(), &["init", "--quiet"], b"");
    world
}

/// The scan, without git's own directory.
fn scan(root: &Path) -> SourceTree {
    SourceTree::scan(root, &["/.git".to_owned()], None).unwrap_or_else(|error| {
        panic!("{error}: {:?}", std::error::Error::source(&error));
    })
}

fn assert_agrees(world: &World, tree: &Tree) {
    let root = world.src();
    build(&root, tree);
    let there = paths(&root);
    let scanned = scan(&root);
    let taken: BTreeSet<PathBuf> =
        scanned.manifest().entries().iter().map(|entry| entry.path.as_path().to_path_buf()).collect();
    let ours: BTreeSet<PathBuf> = there.keys().filter(|path| !taken.contains(*path)).cloned().collect();
    let theirs = ignored_by_git(&root, &there);
    // Ours and git's ignore files have other names, which a pattern may tell apart.
    let differ: Vec<_> = ours.symmetric_difference(&theirs).filter(|path| !is_rules(path)).collect();
    assert!(differ.is_empty(), "git {theirs:?}\nours {ours:?}\ndiffer {differ:?}");

    // What the scan left out, the host's comparison and the watch leave out by the lines that travel.
    let carried = IgnoreRules::new(&scanned.summary().ignore).unwrap();
    for (path, is_directory) in &there {
        let relative = RelPath::new(path.as_os_str().as_bytes()).unwrap();
        let above = relative.ancestors().any(|directory| carried.ignores(&directory, true));
        let far = above || carried.ignores(&relative, *is_directory);
        let watch = carried.decision(&relative, *is_directory).is_some_and(|decision| decision.is_ignored);
        assert_eq!((far, watch), (ours.contains(path), ours.contains(path)), "{}", path.display());
    }
}

#[test]
fn the_same_paths_are_ignored_as_git_ignores() {
    let world = repository();
    trial(CASES, &tree(), |tree| {
        assert_agrees(&world, &tree);
        Ok(())
    });
}

/// Notes every look at some paths from now on.
struct Watcher(std::os::fd::OwnedFd);

impl Watcher {
    fn of(paths: &[PathBuf]) -> Self {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        for path in paths {
            inotify::add_watch(&events, path, WatchFlags::ALL_EVENTS | WatchFlags::DONT_FOLLOW).unwrap();
        }
        Self(events)
    }

    /// What was done with any of them so far.
    fn seen(&self) -> Vec<String> {
        let mut buffer = vec![std::mem::MaybeUninit::uninit(); 16 * 1024];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        let mut seen = Vec::new();
        while let Ok(event) = reader.next() {
            seen.push(format!("{:?} {:?}", event.events(), event.file_name()));
        }
        seen
    }
}

#[test]
fn what_is_ignored_is_never_opened_sent_or_deleted() {
    let mut world = World::new();
    world.ignore = vec!["/by-parameter/".to_owned()];
    let ignored = ["logs", "logs/deep", "logs/deep/file", "by-parameter", "by-parameter/file", "sub/x.o"];
    for root in [world.src(), world.dst()] {
        for path in ["logs/deep/file", "by-parameter/file", "sub/x.o"] {
            write(&root.join(path), root.display().to_string());
        }
        // Whoever opens it waits for ever.
        assert!(Command::new("mkfifo").arg(root.join("logs/pipe")).status().unwrap().success());
    }
    world.write(".cuisineignore", "logs/\n*.o\n!kept.o\n");
    world.write("kept.o", "kept");
    world.write("sub/file", "one");
    write(&world.dst().join("gone/file"), "goes");
    let paths = [world.src(), world.dst()].map(|root| ignored.map(|path| root.join(path))).concat();
    let watcher = Watcher::of(&paths);
    world.sync_well();
    world.write("sub/file", "two");
    fs_err::remove_file(world.src().join("kept.o")).unwrap();
    world.sync_well();
    assert_eq!(watcher.seen(), Vec::<String>::new());
    let there: Vec<String> = look(&world.dst()).into_keys().map(|path| path.display().to_string()).collect();
    let expected = [
        ".cuisineignore",
        "by-parameter",
        "by-parameter/file",
        "logs",
        "logs/deep",
        "logs/deep/file",
        "logs/pipe",
        "sub",
        "sub/file",
        "sub/x.o",
    ];
    assert_eq!(there, expected);
    // The directory above is listed, which is how it is known that something is there.
    let _ = fs_err::read_dir(world.dst().join("logs")).unwrap().count();
    assert!(!watcher.seen().is_empty(), "a look would have been seen");
}

#[test]
fn rules_that_change_while_the_tree_is_read_stop_the_scan() {
    // Half-written rules are what this is about: they ignore less than is meant.
    let world = World::new();
    world.write("data/file", "x");
    world.write("large", vec![1; 64 << 20]);
    let file = world.src().join(".cuisineignore");
    let refused = (0..100).find_map(|_| {
        fs_err::write(&file, "").unwrap();
        let (watcher, path) = (Watcher::of(std::slice::from_ref(&file)), file.clone());
        let writer = std::thread::spawn(move || {
            // The scan has read them as soon as it closes them; the large file keeps it for a while.
            while !watcher.seen().iter().any(|event| event.contains("CLOSE_NOWRITE")) {
                std::thread::yield_now();
            }
            fs_err::write(path, "data/\n").unwrap();
        });
        // A scan may be over before the change is made: then there is nothing to refuse.
        let scanned = world.try_scan();
        writer.join().unwrap();
        scanned.err()
    });
    let error = refused.expect("a scan that met a change was taken for good");
    assert!(error.to_string().contains(".cuisineignore` changed while it was read"), "{error}");
    assert!(error.hint().unwrap().contains("run again"));
    assert!(!world.scan().manifest().has_directory(b"data"));
}
