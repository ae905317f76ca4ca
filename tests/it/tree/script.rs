//! Any tree, and any script of edits that makes another one of it.

use std::{collections::BTreeMap, env, path::Path};

use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed, TestRunner},
};

use super::world::{World, link, look, noise, set_mode, write};

/// The seed of all trials; `TRIAL_SEED` in the environment makes other ones, and `TRIAL_RUNS` more.
const SEED: u64 = 20_261_121;

/// Runs a test with so many generated inputs, the same ones every time. Says the seed when one fails.
pub(super) fn trial<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let number = |name: &str, usual: u64| env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (seed, runs) = (number("TRIAL_SEED", SEED), number("TRIAL_RUNS", cases.into()));
    let config = Config {
        cases: u32::try_from(runs).unwrap(),
        failure_persistence: None,
        max_shrink_iters: 200,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    };
    if let Err(error) = TestRunner::new(config).run(strategy, test) {
        panic!("seed {seed}: {error}");
    }
}

/// What a generated tree has at a path.
#[derive(Debug, Clone)]
pub(super) enum Made {
    File { content: u8, mode: u32 },
    Dir { mode: u32 },
    Link { target: String },
}

pub(super) type Tree = BTreeMap<String, Made>;

/// One edit; whatever it cannot do, because something else is there, it leaves.
#[derive(Debug, Clone)]
pub(super) enum Edit {
    Make(String, Made),
    Append(String, u8),
    Truncate(String, u16),
    Remove(String),
    Rename(String, String),
    Chmod(String, u32),
    /// The time of the last modification alone; no difference.
    Touch(String),
    /// The same content under another name.
    Copy(String, String),
    /// Another name of the same file.
    Name(String, String),
}

/// Few names, so that edits meet what is there: file over directory, link over file and so on.
fn path() -> impl Strategy<Value = String> {
    "[abc]( |\n|é)?(/[abcd]){0,3}"
}

fn made() -> impl Strategy<Value = Made> {
    prop_oneof![
        5 => (0u8..12, prop_oneof![Just(0o644), Just(0o755), Just(0o600), Just(0o4755), Just(0o444)])
            .prop_map(|(content, mode)| Made::File { content, mode }),
        2 => prop_oneof![Just(0o755), Just(0o700), Just(0o555), Just(0o1777)].prop_map(|mode| Made::Dir { mode }),
        1 => prop_oneof!["[abc]", Just("/etc/passwd".to_owned()), Just("../../..".to_owned())]
            .prop_map(|target| Made::Link { target }),
    ]
}

pub(super) fn tree() -> impl Strategy<Value = Tree> {
    prop::collection::btree_map(path(), made(), 1..16)
}

pub(super) fn script() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        4 => (path(), made()).prop_map(|(path, made)| Edit::Make(path, made)),
        2 => (path(), any::<u8>()).prop_map(|(path, seed)| Edit::Append(path, seed)),
        1 => (path(), any::<u16>()).prop_map(|(path, len)| Edit::Truncate(path, len)),
        3 => path().prop_map(Edit::Remove),
        3 => (path(), path()).prop_map(|(from, to)| Edit::Rename(from, to)),
        2 => (path(), prop_oneof![Just(0o700), Just(0o711), Just(0o555)]).prop_map(|(path, mode)| Edit::Chmod(path, mode)),
        1 => path().prop_map(Edit::Touch),
        1 => (path(), path()).prop_map(|(from, to)| Edit::Copy(from, to)),
        2 => (path(), path()).prop_map(|(from, to)| Edit::Name(from, to)),
    ];
    prop::collection::vec(edit, 1..20)
}

/// Small contents, empty ones, and large ones that differ a little from each other.
fn content(number: u8) -> Vec<u8> {
    match number {
        0 => Vec::new(),
        1..=5 => format!("content {number}\n").repeat(usize::from(number)).into_bytes(),
        _ => {
            let mut large = noise(1, 300_000);
            let at = usize::from(number) * 20_000;
            large.splice(at..at + 1000, noise(number.into(), 2000 + usize::from(number)));
            large
        }
    }
}

/// Whether nothing is at a path, and its directory can be made without being led elsewhere by a link.
fn is_free(root: &Path, path: &Path) -> bool {
    fs_err::create_dir_all(path.parent().unwrap()).is_ok() && is_inside(root, path) && is_nothing(path)
}

fn is_nothing(path: &Path) -> bool {
    fs_err::symlink_metadata(path).is_err()
}

/// Whether no link among the directories above a path leads the test out of its own.
fn is_inside(root: &Path, path: &Path) -> bool {
    let real = |path: &Path| fs_err::canonicalize(path).ok();
    real(path.parent().unwrap()).zip(real(root)).is_some_and(|(parent, root)| parent.starts_with(root))
}

fn remove(path: &Path) {
    // What is not there, or below a file, is gone already.
    let _ = fs_err::remove_dir_all(path).or_else(|_| fs_err::remove_file(path));
}

fn make(root: &Path, path: &str, made: &Made) {
    let path = root.join(path);
    // A link among the parents is left alone: what is below it is not ours.
    if !is_free(root, &path) {
        return;
    }
    match made {
        Made::File { content: number, mode } => {
            write(&path, content(*number));
            set_mode(&path, *mode);
        }
        Made::Dir { mode } => {
            fs_err::create_dir(&path).unwrap();
            set_mode(&path, *mode);
        }
        Made::Link { target } => link(&path, target),
    }
}

/// Makes the source this tree and nothing else.
pub(super) fn build(world: &World, tree: &Tree) {
    let root = world.src();
    remove(&root);
    fs_err::create_dir(&root).unwrap();
    for (path, made) in tree {
        make(&root, path, made);
    }
}

/// Edits the source.
pub(super) fn edit(world: &World, script: &[Edit]) {
    let root = world.src();
    for step in script {
        apply(&root, step);
    }
    if look(&root).is_empty() {
        // An empty source is another story.
        make(&root, "a", &Made::File { content: 1, mode: 0o644 });
    }
}

fn apply(root: &Path, edit: &Edit) {
    let at = |path: &str| {
        let path = root.join(path);
        (is_inside(root, &path) && !is_nothing(&path)).then_some(path)
    };
    let file = |path: &str| at(path).filter(|path| fs_err::symlink_metadata(path).is_ok_and(|status| status.is_file()));
    match edit {
        Edit::Make(path, made) => {
            if let Some(path) = at(path) {
                remove(&path);
            }
            make(root, path, made);
        }
        Edit::Append(path, seed) => {
            if let Some(path) = file(path) {
                let mut content = fs_err::read(&path).unwrap();
                content.extend(noise(u64::from(*seed), 500));
                fs_err::write(path, content).unwrap();
            }
        }
        Edit::Truncate(path, len) => {
            if let Some(path) = file(path) {
                let file = fs_err::OpenOptions::new().write(true).open(path).unwrap();
                let len = file.metadata().unwrap().len().min(u64::from(*len));
                file.set_len(len).unwrap();
            }
        }
        Edit::Remove(path) => {
            if let Some(path) = at(path) {
                remove(&path);
            }
        }
        Edit::Rename(from, to) => {
            let to = root.join(to);
            if let Some(from) = at(from)
                && !to.starts_with(&from)
                && is_free(root, &to)
            {
                fs_err::rename(from, to).unwrap();
            }
        }
        Edit::Chmod(path, mode) => {
            let is_link = |path: &Path| fs_err::symlink_metadata(path).is_ok_and(|status| status.is_symlink());
            if let Some(path) = at(path).filter(|path| !is_link(path)) {
                set_mode(&path, *mode);
            }
        }
        Edit::Touch(path) => {
            if let Some(path) = file(path) {
                let file = fs_err::OpenOptions::new().write(true).open(path).unwrap();
                file.file().set_modified(std::time::UNIX_EPOCH).unwrap();
            }
        }
        Edit::Copy(from, to) => {
            let to = root.join(to);
            if let Some(from) = file(from)
                && is_free(root, &to)
            {
                fs_err::copy(from, to).unwrap();
            }
        }
        Edit::Name(from, to) => {
            let to = root.join(to);
            if let Some(from) = file(from)
                && is_free(root, &to)
            {
                fs_err::hard_link(from, to).unwrap();
            }
        }
    }
}
