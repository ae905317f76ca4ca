//! Release trees: `current` always leads to a whole release, and there is a way back.

use std::{collections::BTreeMap, os::unix::fs::MetadataExt, path::PathBuf};

use ovs_cuisine::{
    helper::tree::{Place, compare_release},
    plan::{FailureKind, OpFailure, Release, Sync},
};

use super::world::{Loopback, Seen, World, link, look, noise, set_mode, write};

const KEEP: u32 = 3;

fn op(world: &World, rollback: bool) -> (Sync, Release, Loopback) {
    let source = world.scan();
    let release = Release { keep: KEEP, rollback };
    (Sync { release: Some(release), ..world.op(&source) }, release, Loopback::new(&source))
}

/// Pushes or goes back; whether anything changed, and how many contents were asked for.
fn run(world: &World, rollback: bool) -> Result<(bool, usize), OpFailure> {
    let (op, release, mut supplier) = op(world, rollback);
    let state = world.state();
    let place = Place { state: Some(&state), remember: true, ..Place::default() };
    let Some(change) = compare_release(&op, release, &place, &mut supplier)? else { return Ok((false, 0)) };
    assert!(!change.diff().changes.is_empty());
    change.apply(&op, &place, &mut supplier)?;
    Ok((true, supplier.wants()))
}

fn push(world: &World) -> (bool, usize) {
    run(world, false).unwrap()
}

/// What is there through the link.
fn current(world: &World) -> BTreeMap<PathBuf, Seen> {
    look(&fs_err::canonicalize(world.dst().join("current")).unwrap())
}

fn releases(world: &World) -> usize {
    let names = fs_err::read_dir(world.dst().join("releases")).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<_> = names.filter(|name| name != ".order").collect();
    assert!(names.iter().all(|name| name.len() == 16), "{names:?}");
    names.len()
}

fn world(version: u64) -> World {
    let world = World::new();
    world.write("bin/app", noise(1, 200_000));
    world.write("lib/same", "stays");
    world.write("version", version.to_string());
    world
}

#[test]
fn each_version_is_a_release_and_what_is_the_same_is_one_file() {
    let world = world(1);
    assert_eq!(push(&world), (true, 4), "the manifest and three files");
    assert_eq!(current(&world), look(&world.src()));
    assert_eq!(push(&world), (false, 0));
    let before = fs_err::metadata(world.dst().join("current/bin/app")).unwrap();
    world.write("version", "2");
    set_mode(&world.src().join("lib/same"), 0o600);
    assert_eq!(push(&world), (true, 2), "the manifest and one file");
    assert_eq!(current(&world), look(&world.src()));
    let after = fs_err::metadata(world.dst().join("current/bin/app")).unwrap();
    assert_eq!(before.ino(), after.ino(), "an unchanged file is linked");
    assert_eq!(releases(&world), 2);

    let old = fs_err::read_dir(world.dst().join("releases")).unwrap().map(|entry| entry.unwrap().path());
    let old = old.filter(|path| path.is_dir() && fs_err::read(path.join("version")).unwrap() == b"1");
    let old: Vec<PathBuf> = old.collect();
    let mode = fs_err::metadata(old[0].join("lib/same")).unwrap().mode() & 0o7777;
    assert_eq!(mode, 0o644, "the release before is as it was");
}

#[test]
fn there_is_a_way_back_and_forward_again() {
    let world = world(1);
    let nothing = run(&world, true).unwrap_err();
    assert_eq!(nothing.kind, FailureKind::BadInput);
    push(&world);
    assert!(run(&world, true).unwrap_err().message.contains("no release"));
    for version in 2..=6 {
        world.write("version", version.to_string());
        push(&world);
        assert!(releases(&world) <= KEEP as usize);
    }
    let version = || fs_err::read_to_string(world.dst().join("current/version")).unwrap();
    for expected in ["5", "4"] {
        assert_eq!(run(&world, true).unwrap(), (true, 0));
        assert_eq!(version(), expected);
    }
    assert!(run(&world, true).is_err(), "no more of them are kept");
    assert_eq!(version(), "4");
    assert_eq!(push(&world), (true, 0), "the newest one is still there");
    assert_eq!(version(), "6");
    run(&world, true).unwrap();
    assert_eq!(version(), "4", "that was current before");
}

#[test]
fn a_hand_edit_is_mended_by_another_directory_of_the_same_name() {
    let world = world(1);
    push(&world);
    let path = fs_err::canonicalize(world.dst().join("current")).unwrap();
    fs_err::write(path.join("version"), "by hand").unwrap();
    fs_err::write(path.join("extra"), "by hand").unwrap();
    assert!(push(&world).0);
    assert_eq!(current(&world), look(&world.src()));
    assert_eq!(fs_err::canonicalize(world.dst().join("current")).unwrap(), path);
    assert_eq!(releases(&world), 1);
}

#[test]
fn what_is_not_of_a_release_is_left_alone() {
    let world = world(1);
    fs_err::create_dir_all(world.dst()).unwrap();
    write(&world.dst().join("shared/data"), "not ours");
    push(&world);
    assert!(world.dst().join("shared/data").exists());

    for target in ["elsewhere", "releases/../../x", "/etc", "releases/0123456789abcdeX"] {
        fs_err::remove_file(world.dst().join("current")).unwrap();
        link(&world.dst().join("current"), target);
        world.write("version", "2");
        let refused = run(&world, false).unwrap_err();
        assert!(refused.message.contains("current"), "{refused}");
        assert_eq!(fs_err::read_link(world.dst().join("current")).unwrap(), PathBuf::from(target));
    }
    fs_err::remove_file(world.dst().join("current")).unwrap();
    write(&world.dst().join("current/file"), "a directory");
    assert!(run(&world, false).is_err());
}

#[test]
fn planted_links_lead_nowhere() {
    let world = world(1);
    let outside = world.path().join("outside");
    fs_err::create_dir_all(&outside).unwrap();
    fs_err::create_dir_all(world.dst()).unwrap();
    link(&world.dst().join("releases"), outside.to_str().unwrap());
    assert!(run(&world, false).is_err());
    assert_eq!(fs_err::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_push_that_ends_anywhere_leaves_a_whole_release() {
    let world = world(1);
    push(&world);
    let first = look(&world.src());
    for number in 0..6 {
        world.write(&format!("many/file{number}"), noise(number, 70_000));
    }
    world.write("version", "2");
    for end in 0.. {
        let (op, release, mut supplier) = op(&world, false);
        let state = world.state();
        let place = Place { state: Some(&state), remember: true, ..Place::default() };
        let change = compare_release(&op, release, &place, &mut supplier).unwrap().unwrap();
        let start = supplier.given;
        supplier.hook =
            Some(Box::new(
                move |given, _| {
                    if given - start == end { Err(std::io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
                },
            ));
        if change.apply(&op, &place, &mut supplier).is_ok() {
            assert!(end > 3, "it ended in the middle some times");
            break;
        }
        assert_eq!(current(&world), first, "after {end} messages");
        assert_eq!(releases(&world), 1);
    }
    assert_eq!(current(&world), look(&world.src()));
}
