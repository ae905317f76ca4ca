//! A source that changes all the time: every run ends well or says that the source changed, no file is ever torn, and
//! once it is quiet one run makes the trees equal.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use ovs_cuisine::{
    plan::FailureKind,
    tree::{Digest, EntryKind, HashError, ScanError, SourceTree, WalkError},
};

use super::world::{Loopback, Seen, World, link, look, noise, write};

const ROUNDS: u64 = 50;
const SEED: u64 = 20_261_121;

/// Edits without end, and every content that ever was in a file.
struct Editor {
    root: PathBuf,
    written: Arc<Mutex<HashSet<String>>>,
    state: u64,
}

impl Editor {
    fn below(&mut self, limit: u64) -> u64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % limit
    }

    fn path(&mut self) -> PathBuf {
        let (directory, file) = (self.below(4), self.below(6));
        self.root.join(format!("dir{directory}/file{file}"))
    }

    fn knows(&self, content: &[u8]) {
        self.written.lock().unwrap().insert(blake3::hash(content).to_string());
    }

    /// One edit. What is in its way makes it fail, which is as good.
    fn edit(&mut self) {
        let path = self.path();
        let size = if self.below(10) == 0 { 200_000 } else { self.below(9000) };
        let content = noise(self.state, usize::try_from(size).unwrap());
        // Before it can be seen.
        self.knows(&content);
        match self.below(12) {
            // Cut off and written anew, as most programs do.
            0..=2 => drop(fs_err::create_dir_all(path.parent().unwrap()).and_then(|()| fs_err::write(&path, content))),
            // Written aside and renamed, as careful ones do.
            3 | 4 => {
                let aside = self.root.join("aside");
                let _ = fs_err::write(&aside, content).and_then(|()| fs_err::rename(&aside, &path));
            }
            5 => drop(fs_err::remove_file(&path)),
            6 => drop(fs_err::rename(path.parent().unwrap(), self.root.join("dir1"))),
            7 => {
                if let Ok(old) = fs_err::read(&path) {
                    let half = &old[..old.len() / 2];
                    self.knows(half);
                    let file = fs_err::OpenOptions::new().write(true).open(&path);
                    let _ = file.and_then(|file| file.set_len(half.len() as u64));
                }
            }
            8 => drop(fs_err::remove_dir_all(path.parent().unwrap())),
            9 => {
                // A file becomes a directory, or the other way round.
                let _ = fs_err::remove_file(&path).or_else(|_| fs_err::remove_dir_all(&path));
                let _ = fs_err::create_dir_all(path.join("below"))
                    .and_then(|()| fs_err::write(path.join("below/deep"), content));
            }
            10 => {
                let _ = fs_err::remove_file(&path);
                let _ = std::os::unix::fs::symlink("../dir0", &path);
            }
            _ => {
                let _ = fs_err::remove_dir_all(&path).or_else(|_| fs_err::remove_file(&path));
                let _ = fs_err::write(&path, content);
            }
        }
    }
}

/// Whether an error says that the source changed, and nothing else.
fn says_that_it_changed(error: &ScanError) -> bool {
    let says = matches!(
        error,
        ScanError::File { source: HashError::Changing, .. }
            | ScanError::Replaced { .. }
            | ScanError::Walk(WalkError::Changed { .. })
    );
    assert!(!says || error.hint().is_some_and(|hint| hint.contains("run again")), "{error}");
    says
}

/// One run. Gives whether it made the destination equal to what it saw.
fn try_sync(world: &World, index: &Path) -> bool {
    let source = match SourceTree::scan(&world.src(), &[], Some(index)) {
        Ok(source) => source,
        Err(error) if says_that_it_changed(&error) => return false,
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    };
    let mut supplier = Loopback::new(&source);
    let change = world.compare(&source, &mut supplier, true).unwrap_or_else(|failure| panic!("{failure}"));
    match change.map_or(Ok(()), |change| change.apply(&mut supplier)) {
        Ok(()) => true,
        Err(failure) => {
            // A file that was seen is another one by now, or gone.
            let says =
                failure.message.contains("changed since it was scanned") || failure.message.contains("cannot read");
            assert!(failure.kind == FailureKind::Content && says, "{failure}");
            false
        }
    }
}

#[test]
fn no_file_is_ever_torn_while_the_source_changes() {
    let world = World::new();
    let index = world.path().join("index");
    world.write("kept", "kept");
    let written =
        Arc::new(Mutex::new(HashSet::from([b"".as_slice(), b"kept"].map(|text| blake3::hash(text).to_string()))));
    let mut editor = Editor { root: world.src(), written: Arc::clone(&written), state: SEED };
    world.sync_well();
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let editing = thread::spawn(move || {
        let mut edits = 0;
        while !over.load(Ordering::Relaxed) {
            editor.edit();
            edits += 1;
        }
        edits
    });
    let mut good = 0;
    for round in 0..ROUNDS {
        good += u32::from(try_sync(&world, &index));
        for (path, seen) in look(&world.dst()) {
            if let Seen::File { digest, size, .. } = seen {
                let is_whole = written.lock().unwrap().contains(&digest);
                assert!(is_whole, "round {round}: {} of {size} bytes never was like that", path.display());
            }
        }
        assert!(world.dst().join("kept").exists(), "round {round}");
    }
    is_over.store(true, Ordering::Relaxed);
    let edits: u64 = editing.join().unwrap();
    println!("{ROUNDS} runs during {edits} edits, {good} of them good");
    assert!(edits > ROUNDS, "the source was quiet");
    assert!(try_sync(&world, &index), "the source is quiet");
    world.assert_equal();
}

fn git(root: &Path, words: &[&str]) {
    let identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "core.hooksPath=/dev/null"];
    let output = Command::new("git").args(identity).args(words).current_dir(root).output().unwrap();
    assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_is_deleted_and_made_again_at_once_arrives_every_time() {
    let mut world = World::new();
    world.ignore = vec!["/.git/".to_owned()];
    let (src, index) = (world.src(), world.path().join("index"));
    git(&src, &["init", "-q", "-b", "main"]);
    for branch in ["main", "other"] {
        if branch == "other" {
            git(&src, &["checkout", "-q", "-b", branch]);
        }
        for number in 0..60 {
            // The same size on both branches, and written in the same moment: only the content tells.
            let which = number % 3 == 0 && branch == "other";
            world.write(
                &format!("code/{}/{number}.rs", number % 7),
                format!("{number} {}\n", if which { "b" } else { "a" }),
            );
        }
        git(&src, &["add", "."]);
        git(&src, &["commit", "-q", "-m", branch]);
    }
    for round in 0..ROUNDS {
        fs_err::remove_dir_all(src.join("code")).unwrap();
        git(&src, &["checkout", "-q", "-f", if round % 2 == 0 { "main" } else { "other" }]);
        // A build: made anew in one directory.
        let _ = fs_err::remove_dir_all(src.join("target"));
        (0..40).for_each(|number| world.write(&format!("target/{number}.o"), format!("{:04} {number}\n", round % 2)));
        let source = SourceTree::scan(&src, &world.ignore, Some(&index)).unwrap();
        let mut supplier = Loopback::new(&source);
        if let Some(change) = world.compare(&source, &mut supplier, true).unwrap() {
            change.apply(&mut supplier).unwrap();
        }
        let mut there = look(&src);
        there.retain(|path, _| !path.starts_with(".git"));
        assert_eq!(there, look(&world.dst()), "round {round}");
    }
}

#[test]
fn a_source_that_is_swapped_during_the_scan_is_one_or_the_other_or_refused() {
    let world = World::new();
    let (src, other) = (world.src(), world.path().join("other"));
    for (root, text) in [(&src, "one"), (&other, "other")] {
        (0..300).for_each(|number| write(&root.join(format!("{}/{number}", number % 10)), text));
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let (over, one) = (Arc::clone(&is_over), src.clone());
    let swapping = thread::spawn(move || {
        let cwd = rustix::fs::CWD;
        while !over.load(Ordering::Relaxed) {
            rustix::fs::renameat_with(cwd, &one, cwd, &other, rustix::fs::RenameFlags::EXCHANGE).unwrap();
            thread::yield_now();
        }
    });
    for _ in 0..40 {
        match world.try_scan() {
            Ok(tree) => {
                let of_files = tree.manifest().entries().iter().filter_map(|entry| match entry.kind {
                    EntryKind::File { digest, .. } => Some(digest),
                    _ => None,
                });
                let digests: HashSet<Digest> = of_files.collect();
                assert_eq!((digests.len(), tree.summary().files), (1, 300), "a tree of two directories");
            }
            Err(error) => assert!(matches!(error, ScanError::Replaced { .. }), "{error}"),
        }
    }
    is_over.store(true, Ordering::Relaxed);
    swapping.join().unwrap();
}

#[test]
fn an_empty_source_deletes_nothing() {
    let mut world = World::new();
    write(&world.dst().join("data/precious"), "stays");
    link(&world.dst().join("link"), "data");
    let before = look(&world.dst());
    let refused = world.sync().err().expect("an empty source must not empty the host");
    assert_eq!(refused.kind, FailureKind::BadInput);
    let (src, dst) = (world.src().display().to_string(), world.dst().display().to_string());
    assert!(refused.message.contains(&src) && refused.message.contains(&dst), "{refused}");
    assert!(refused.message.contains("is empty") && refused.hint.unwrap().contains("max"), "{}", refused.message);
    assert_eq!(look(&world.dst()), before);

    // What is ignored leaves it as empty as what is not there.
    world.ignore = vec!["*.log".to_owned()];
    world.write("a.log", "x");
    assert!(world.sync().is_err());
    assert_eq!(look(&world.dst()), before);

    // A number is a decision.
    world.delete = ovs_cuisine::plan::MaxDelete::AtMost(3);
    world.sync_well();
    assert!(look(&world.dst()).is_empty());
    // And where nothing is, nothing is lost.
    world.delete = ovs_cuisine::plan::MaxDelete::Any;
    world.sync_well();
}
