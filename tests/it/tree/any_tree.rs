//! Any tree becomes any other, whatever interrupts.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use ovs_cuisine::plan::MaxDelete;
use proptest::prelude::*;

use super::world::{Loopback, Seen, World, link, look, noise, set_mode};

/// What a generated tree has at a path.
#[derive(Debug, Clone)]
enum Made {
    File { content: u8, mode: u32 },
    Dir { mode: u32 },
    Link { target: String },
}

type Tree = BTreeMap<String, Made>;

/// Few names, so that two trees collide in every way: file over directory, link over file and so on.
fn tree() -> impl Strategy<Value = Tree> {
    let path = "[abc]( |\n|é)?(/[abcd]){0,3}";
    let made = prop_oneof![
        5 => (0u8..12, prop_oneof![Just(0o644), Just(0o755), Just(0o600), Just(0o4755), Just(0o444)])
            .prop_map(|(content, mode)| Made::File { content, mode }),
        2 => prop_oneof![Just(0o755), Just(0o700), Just(0o555), Just(0o1777)].prop_map(|mode| Made::Dir { mode }),
        1 => prop_oneof!["[abc]", Just("/etc/passwd".to_owned()), Just("../../..".to_owned())]
            .prop_map(|target| Made::Link { target }),
    ];
    proptest::collection::btree_map(path, made, 0..16)
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

/// Makes the source this tree and nothing else. What cannot be, because a file is where a directory must be, is left
/// out.
fn build(root: &Path, tree: &Tree) {
    fs_err::remove_dir_all(root).unwrap();
    fs_err::create_dir(root).unwrap();
    let mut modes = Vec::new();
    for (path, made) in tree {
        let path = root.join(path);
        if fs_err::create_dir_all(path.parent().unwrap()).is_err() || fs_err::symlink_metadata(&path).is_ok() {
            continue;
        }
        // A link among the parents would lead the test out of its directory.
        if !fs_err::canonicalize(path.parent().unwrap()).unwrap().starts_with(fs_err::canonicalize(root).unwrap()) {
            continue;
        }
        match made {
            Made::File { content: number, mode } => {
                fs_err::write(&path, content(*number)).unwrap();
                set_mode(&path, *mode);
            }
            Made::Dir { mode } => {
                fs_err::create_dir(&path).unwrap();
                modes.push((path, *mode));
            }
            Made::Link { target } => link(&path, target),
        }
    }
    modes.iter().rev().for_each(|(path, mode)| set_mode(path, *mode));
}

/// The contents that a path may have: digests of files, or `None` for nothing or something else.
fn versions(seen: &BTreeMap<PathBuf, Seen>) -> BTreeMap<&PathBuf, &String> {
    seen.iter()
        .filter_map(|(path, seen)| match seen {
            Seen::File { digest, .. } => Some((path, digest)),
            _ => None,
        })
        .collect()
}

fn is_temporary(path: &Path) -> bool {
    path.iter().any(|part| part.to_string_lossy().starts_with(".ovs-cuisine."))
}

#[derive(Debug, Clone, Copy)]
enum Cut {
    /// The near side goes away: an error that the helper sees.
    Error,
    /// The helper is killed: nothing of it runs any more.
    Kill,
}

/// A sync that is cut at the given message. Gives whether it was.
fn cut_sync(world: &World, at: usize, cut: Cut) -> bool {
    let source = world.scan();
    let mut supplier = Loopback::new(&source);
    supplier.hook = Some(Box::new(move |number, _| match cut {
        _ if number < at => Ok(()),
        Cut::Error => Err(io::ErrorKind::ConnectionAborted.into()),
        Cut::Kill => std::panic::resume_unwind(Box::new("killed")),
    }));
    let done = catch_unwind(AssertUnwindSafe(|| {
        let change = world.compare(&source, &mut supplier, true)?;
        change.map_or(Ok(()), |change| change.apply(&mut supplier))
    }));
    !matches!(done, Ok(Ok(())))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_tree_becomes_any_other(trees in proptest::collection::vec(tree(), 2..4)) {
        let mut world = World::new();
        // Also what is empty: a limit says that everything may go.
        world.delete = MaxDelete::AtMost(u64::MAX);
        for tree in &trees {
            build(&world.src(), tree);
            world.sync_well();
            world.assert_equal();
        }
        world.assert_rsync_agrees();
    }

    #[test]
    fn a_cut_sync_leaves_whole_files_and_the_next_one_converges(
        old in tree(),
        new in tree(),
        at in 0usize..40,
        cut in prop_oneof![Just(Cut::Error), Just(Cut::Kill)],
    ) {
        let mut world = World::new();
        // Also what is empty: a limit says that everything may go.
        world.delete = MaxDelete::AtMost(u64::MAX);
        build(&world.src(), &old);
        world.sync_well();
        let before = look(&world.dst());
        build(&world.src(), &new);
        let after = look(&world.src());
        let was_cut = cut_sync(&world, at, cut);
        let now = look(&world.dst());
        let possible: BTreeSet<_> = versions(&before).into_iter().chain(versions(&after)).collect();
        for version in versions(&now) {
            prop_assert!(is_temporary(version.0) || possible.contains(&version), "{version:?} is neither old nor new");
        }
        if was_cut {
            // Everything is staged before anything is switched.
            let kept: BTreeMap<_, _> = now.into_iter().filter(|(path, _)| !is_temporary(path)).collect();
            prop_assert_eq!(kept, before);
        }
        world.sync_well();
        world.assert_equal();
    }
}
