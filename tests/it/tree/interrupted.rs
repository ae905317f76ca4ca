//! Any tree, any script of edits, any point of interruption: the real helper is stopped at every change that it makes
//! below the destination, and killed or cut off at any of them or at any byte that it is sent. At each of these moments
//! every entry is wholly old or wholly new, and the next run makes the trees equal to two independent eyes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use ovs_cuisine::plan::Outcome;
use proptest::prelude::*;

use super::{
    far::{As, End, Ran, run},
    script::{build, edit, script, tree, trial},
    world::{Seen, World, look, set_mode},
};

/// Cases of the trial, each with two interruptions; and those in which the helper is no root.
const RUNS: u32 = 40;
const RUNS_AS_NOBODY: u32 = 12;

type Listing = BTreeMap<PathBuf, Seen>;

fn is_temporary(path: &Path) -> bool {
    path.iter().any(|part| part.to_string_lossy().starts_with(".ovs-cuisine."))
}

/// What the real rsync would still do. Compared is all that `-aH` compares but times, by content: a time alone is no
/// difference for us and is not brought over. Owners are compared because both trees belong to the tests' own user.
fn rsync_says(world: &World) -> String {
    let mut from = world.src().into_os_string();
    from.push("/");
    let output = Command::new("rsync")
        .args(["-n", "-aH", "--no-times", "--checksum", "--delete", "--itemize-changes"])
        .args([from.as_os_str(), world.dst().as_os_str()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What is wrong with a destination between an old and a new state: every entry must be that of one of them, and what
/// both have must be there.
/// An ordinary user gives itself the rights that it needs in a directory, and takes them back at the end.
fn torn(who: As, now: &Listing, old: &Listing, new: &Listing) -> Vec<String> {
    let mut wrong = Vec::new();
    let is = |seen: &Seen, of: Option<&Seen>| match (seen, of) {
        (Seen::Dir { mode }, Some(Seen::Dir { mode: known })) if who == As::Nobody => *mode | 0o700 == *known | 0o700,
        _ => of == Some(seen),
    };
    for (path, seen) in now.iter().filter(|(path, _)| !is_temporary(path)) {
        if !is(seen, old.get(path)) && !is(seen, new.get(path)) {
            let (was, becomes) = (old.get(path), new.get(path));
            wrong.push(format!("`{}` is {seen:?}, was {was:?}, becomes {becomes:?}", path.display()));
        }
    }
    let both = old.keys().filter(|path| new.contains_key(*path));
    wrong.extend(both.filter(|path| !now.contains_key(*path)).map(|path| format!("`{}` is gone", path.display())));
    wrong
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        1 => Just(End::Late),
        4 => (1usize..60).prop_map(End::KilledAtEvent),
        2 => (1usize..6000).prop_map(End::KilledAtByte),
        1 => (1usize..200_000).prop_map(End::KilledAtByte),
        2 => (1usize..6000).prop_map(End::CutAtByte),
        1 => (1usize..200_000).prop_map(End::CutAtByte),
    ]
}

/// How many runs ended before the helper had finished, and how many moments were looked at.
#[derive(Debug, Default)]
struct Count {
    gone: u32,
    moments: u32,
}

fn interrupt(world: &World, (who, end): (As, End), count: &Mutex<Count>) {
    let (old, new) = (look(&world.dst()), look(&world.src()));
    let source = world.scan();
    let found = Arc::new(Mutex::new((Vec::new(), 0)));
    let (dst, seen) = (world.dst(), Arc::clone(&found));
    let (before, after) = (old.clone(), new.clone());
    let (ran, _) = run(world, &source, (who, end), move || {
        let mut seen = seen.lock().unwrap();
        seen.1 += 1;
        let number = seen.1;
        let wrong = torn(who, &look(&dst), &before, &after);
        seen.0.extend(wrong.into_iter().map(|wrong| format!("at change {number}: {wrong}")));
    });
    let (mut wrong, moments) = std::mem::take(&mut *found.lock().unwrap());
    wrong.extend(torn(who, &look(&world.dst()), &old, &new).into_iter().map(|wrong| format!("afterwards: {wrong}")));
    assert_eq!(wrong, Vec::<String>::new());
    let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
    count.moments += moments;
    match ran {
        Ran::Gone => count.gone += 1,
        Ran::Told(Outcome::Changed | Outcome::NoChange) => assert_eq!(rsync_says(world), ""),
        Ran::Told(other) => panic!("{other:?}"),
    }
}

#[test]
fn at_any_point_every_file_is_whole_and_the_next_run_converges() {
    trial_as(As::Root, RUNS);
}

#[test]
fn likewise_when_the_helper_is_an_ordinary_user() {
    trial_as(As::Nobody, RUNS_AS_NOBODY);
}

/// Makes what the helper works with its user's own.
fn give(world: &World) {
    set_mode(world.path(), 0o755);
    fs_err::create_dir_all(world.state()).unwrap();
    let status =
        Command::new("chown").args(["-hR", "65534:65534"]).args([world.src(), world.dst(), world.state()]).status();
    assert!(status.unwrap().success());
}

fn trial_as(who: As, runs: u32) {
    let count = Mutex::new(Count::default());
    trial(runs, &(tree(), script(), script(), end(), end()), |(tree, first, second, one, other)| {
        let world = World::new();
        build(&world, &tree);
        world.sync_well();
        edit(&world, &first);
        if who == As::Nobody {
            give(&world);
        }
        interrupt(&world, (who, one), &count);
        // Once more on top of what the first interruption left.
        edit(&world, &second);
        if who == As::Nobody {
            give(&world);
        }
        interrupt(&world, (who, other), &count);
        world.sync_well();
        if who == As::Nobody {
            // The last run was root's.
            give(&world);
        }
        world.assert_equal();
        prop_assert_eq!(rsync_says(&world), "");
        Ok(())
    });
    let count = count.into_inner().unwrap();
    eprintln!("{} runs were ended early, {} moments were looked at", count.gone, count.moments);
    assert!(count.gone > runs / 4 && count.moments > runs, "{count:?}");
}
