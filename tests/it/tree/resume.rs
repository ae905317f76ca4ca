//! A run that was cut off: what had arrived is not sent again.

use std::{
    io,
    os::unix::fs::{MetadataExt, symlink},
};

use ovs_cuisine::{
    helper::tree::{Place, compare_release},
    plan::{FailureKind, Release, Sync},
};

use super::world::{Loopback, World, look, noise, write};

/// A sync whose near side goes away at a message. False when it has come to its end before.
fn cut(world: &World, at: usize) -> bool {
    let source = world.scan();
    let mut supplier = cutting(Loopback::new(&source), at);
    let change = world.compare(&source, &mut supplier, true).unwrap().unwrap();
    let applied = change.apply(&mut supplier);
    assert!(
        applied.as_ref().is_ok_and(|()| supplier.given < at)
            || applied.is_err_and(|f| f.kind == FailureKind::Cancelled)
    );
    supplier.given >= at
}

fn cutting(mut supplier: Loopback, at: usize) -> Loopback {
    supplier.hook = Some(Box::new(move |number, _| match number {
        _ if number < at => Ok(()),
        _ => Err(io::ErrorKind::ConnectionAborted.into()),
    }));
    supplier
}

/// Files of different sizes: 4 MB that do not compress.
fn fill(world: &World, prefix: &str) {
    for number in 0..40u64 {
        world.write(&format!("{prefix}{number}"), noise(number, 100_000 + usize::try_from(number).unwrap()));
    }
}

/// How many messages a whole sync takes.
fn messages(world: &World) -> usize {
    let other = World::new();
    let source = world.scan();
    let mut supplier = Loopback::new(&source);
    other.compare(&source, &mut supplier, false).unwrap().unwrap().apply(&mut supplier).unwrap();
    supplier.given
}

#[test]
fn files_that_had_arrived_are_not_sent_again() {
    for prefix in ["", "new/deep/"] {
        let world = World::new();
        fill(&world, prefix);
        let all = messages(&world);
        assert!(cut(&world, all * 3 / 4));
        assert!(!look(&world.dst()).keys().any(|path| path.ends_with("0")) || !prefix.is_empty());
        let supplier = world.sync_well();
        assert!(supplier.literal_bytes < 2_000_000, "{} bytes again with {prefix:?}", supplier.literal_bytes);
        world.assert_equal();
    }
}

#[test]
fn the_beginning_of_a_large_file_is_not_sent_again() {
    for path in ["image", "new/image"] {
        let world = World::new();
        world.write(path, noise(7, 12_000_000));
        let all = messages(&world);
        assert!(cut(&world, all * 2 / 3));
        let supplier = world.sync_well();
        assert!(supplier.literal_bytes < 7_000_000, "{} bytes again of {path}", supplier.literal_bytes);
        world.assert_equal();
    }
}

#[test]
fn one_cut_after_another_ends_well_and_leaves_one_copy() {
    let world = World::new();
    fill(&world, "new/");
    world.write("new/image", noise(99, 4_000_000));
    let at = messages(&world) / 3;
    let mut cuts = 0;
    while cut(&world, at) {
        cuts += 1;
        assert!(cuts < 20, "each run brings something");
        let left = walk_bytes(&world.dst());
        assert!(left < 12_100_000, "{left} bytes are left of runs that were cut off");
    }
    assert!(cuts > 1, "{cuts}");
    world.sync_well();
    world.assert_equal();
}

fn walk_bytes(root: &std::path::Path) -> u64 {
    look(root)
        .values()
        .map(|seen| match seen {
            super::world::Seen::File { size, .. } => *size,
            _ => 0,
        })
        .sum()
}

#[test]
fn little_is_not_kept() {
    let world = World::new();
    world.write("a", noise(1, 100_000));
    world.write("b", noise(2, 200_000));
    let all = messages(&world);
    assert!(cut(&world, all - 1));
    assert!(look(&world.dst()).is_empty(), "what is sent again at once leaves nothing behind");
}

#[test]
fn what_others_planted_is_not_taken_over() {
    let world = World::new();
    let content = noise(3, 1_500_000);
    world.write("file", &content);
    let outside = world.path().join("outside");
    write(&outside, &content);
    let planted = ".ovs-cuisine.0123456789abcdef.tmp";
    fs_err::create_dir(world.dst()).unwrap();
    fs_err::hard_link(&outside, world.dst().join(planted)).unwrap();
    symlink(&outside, world.dst().join(".ovs-cuisine.0123456789abcdee.tmp")).unwrap();
    fs_err::create_dir(world.dst().join(".ovs-cuisine.0123456789abcded.tmp")).unwrap();
    symlink(&outside, world.dst().join(".ovs-cuisine.0123456789abcded.tmp/file")).unwrap();
    world.sync_well();
    world.assert_equal();
    let (ours, theirs) = (fs_err::metadata(world.dst().join("file")).unwrap(), fs_err::metadata(&outside).unwrap());
    assert_ne!(ours.ino(), theirs.ino(), "a file that has another name elsewhere is not ours");
    assert_eq!(fs_err::read(&outside).unwrap(), content);
}

#[test]
fn damaged_remains_cost_bytes_only() {
    let world = World::new();
    fill(&world, "new/");
    world.write("new/image", noise(99, 3_000_000));
    let all = messages(&world);
    assert!(cut(&world, all - 2));
    let mut damaged = 0;
    for (path, seen) in look(&world.dst()) {
        if let super::world::Seen::File { size, .. } = seen {
            let path = world.dst().join(path);
            let mut bytes = fs_err::read(&path).unwrap();
            bytes[usize::try_from(size).unwrap() / 2] ^= 1;
            fs_err::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 20);
    world.sync_well();
    world.assert_equal();
}

#[test]
fn a_release_goes_on_where_it_was_cut() {
    let world = World::new();
    fill(&world, "lib/");
    let release = Release { keep: 3, rollback: false };
    let state = world.state();
    let place = Place { state: Some(&state), remember: true, ..Place::default() };
    let source = world.scan();
    let op = Sync { release: Some(release), ..world.op(&source) };
    let all = messages(&world);
    let mut supplier = cutting(Loopback::new(&source), all * 3 / 4);
    let change = compare_release(&op, release, &place, &mut supplier).unwrap().unwrap();
    assert_eq!(change.apply(&op, &place, &mut supplier).unwrap_err().kind, FailureKind::Cancelled);
    assert!(!world.dst().join("current").exists());

    let mut supplier = Loopback::new(&source);
    let change = compare_release(&op, release, &place, &mut supplier).unwrap().unwrap();
    change.apply(&op, &place, &mut supplier).unwrap();
    assert!(supplier.literal_bytes < 2_000_000, "{} bytes again", supplier.literal_bytes);
    assert_eq!(look(&fs_err::canonicalize(world.dst().join("current")).unwrap()), look(&world.src()));
    let names = fs_err::read_dir(world.dst().join("releases")).unwrap();
    assert_eq!(names.count(), 2, "the release and the order, and nothing unfinished");
}
