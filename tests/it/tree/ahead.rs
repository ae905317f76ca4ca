//! What comes ahead of a plan saves demands when the guess was right, and costs nothing but bytes when it was wrong.

use ovs_cuisine::tree::{Ahead, Care, Digest, Larder, ManifestPatch, SourceTree};

use super::world::{Loopback, World, noise};

/// What is sent to a host that has `old`, with these contents.
fn ahead(old: Option<&SourceTree>, new: &SourceTree, contents: &[&[u8]]) -> Larder {
    let nothing = std::sync::Arc::default();
    let (base, old) = match old {
        Some(old) => (old.summary().manifest, old.manifest()),
        None => (Digest::of(b""), &nothing),
    };
    let patch = ManifestPatch::between(base, old, new.manifest());
    let contents = contents.iter().map(|content| content.to_vec()).collect();
    Larder::of(Ahead { contents, patches: vec![(new.summary().manifest, patch)], care: Care::Whole }).unwrap()
}

/// Syncs with this larder; gives how many contents had to be demanded.
fn wants(world: &World, source: &SourceTree, larder: Larder) -> usize {
    let mut supplier = Loopback::new(source);
    supplier.larder = Some(larder);
    let change = world.compare(source, &mut supplier, true).unwrap();
    change.expect("something differs").apply(&mut supplier).unwrap();
    world.assert_equal();
    supplier.wants()
}

fn world() -> World {
    let world = World::new();
    for number in 0..200 {
        world.write(&format!("dir{}/file{number}", number % 7), format!("content {number}"));
    }
    world
}

#[test]
fn a_right_guess_leaves_nothing_to_ask_for() {
    let world = world();
    let first = world.scan();
    let contents: Vec<String> = (0..200).map(|number| format!("content {number}")).collect();
    let contents: Vec<&[u8]> = contents.iter().map(String::as_bytes).collect();
    assert_eq!(wants(&world, &first, ahead(None, &first, &contents)), 0);

    world.write("dir1/file1", "changed");
    fs_err::remove_dir_all(world.src().join("dir2")).unwrap();
    fs_err::rename(world.src().join("dir3"), world.src().join("dir9")).unwrap();
    let second = world.scan();
    assert_eq!(wants(&world, &second, ahead(Some(&first), &second, &[b"changed"])), 0);
    world.sync_well();
}

#[test]
fn what_is_missing_is_demanded() {
    let world = world();
    let first = world.scan();
    world.sync_well();
    world.write("dir1/file1", "changed");
    world.write("dir1/large", noise(1, 300_000));
    let second = world.scan();
    assert_eq!(wants(&world, &second, ahead(Some(&first), &second, &[b"changed"])), 1, "the large file");
}

#[test]
fn a_wrong_guess_is_noticed() {
    let world = world();
    let first = world.scan();
    world.sync_well();
    world.write("dir1/file1", "second");
    let second = world.scan();
    world.sync_well();
    world.write("dir1/file2", "third");
    let third = world.scan();
    // The host has the second tree, the patch starts from the first, and the content is another one.
    assert_eq!(wants(&world, &third, ahead(Some(&first), &third, &[b"thirD"])), 2, "the manifest and the file");

    // A patch that leads to another tree than the one announced.
    world.write("dir1/file3", "fourth");
    let fourth = world.scan();
    let wrong = ManifestPatch::between(third.summary().manifest, third.manifest(), second.manifest());
    let larder =
        Larder::of(Ahead { contents: vec![], patches: vec![(fourth.summary().manifest, wrong)], care: Care::Whole })
            .unwrap();
    assert_eq!(wants(&world, &fourth, larder), 2);

    // Another hand was at work on the host: its tree is not the one that is remembered.
    fs_err::write(world.dst().join("dir1/file3"), "by hand").unwrap();
    world.write("dir1/file4", "fifth");
    let fifth = world.scan();
    assert_eq!(wants(&world, &fifth, ahead(Some(&fourth), &fifth, &[b"fifth"])), 1, "what was changed by hand");
    world.sync_well();
}
