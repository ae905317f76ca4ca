//! What is refused or fails, with the right kind, the path, and nothing half done.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use ovs_cuisine::{
    helper::tree::{Place, compare, fetch_blob},
    plan::{FailureKind, MaxDelete, OpFailure},
    tree::{Contents, Digest, Supply},
};

use super::world::{Loopback, Seen, World, link, look, noise, write};

/// A small file system that goes away with the test.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(path: &'a Path, options: &str) -> Self {
        fs_err::create_dir_all(path).unwrap();
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path).status().unwrap();
        assert!(status.success(), "this test mounts a tmpfs and needs root for it");
        Self(path)
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount").args(["-o", options]).arg(self.0).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

fn failure(world: &World) -> OpFailure {
    world.sync().err().expect("this sync must fail")
}

#[test]
fn too_little_space_is_found_before_the_first_write() {
    let world = World::new();
    let dst = world.dst();
    let mounted = Mounted::new(&dst, "size=1m,nr_inodes=30");
    write(&dst.join("old"), "old");
    world.write("big", noise(1, 2_000_000));
    let full = failure(&world);
    assert_eq!(full.kind, FailureKind::NoSpace);
    assert!(full.message.contains(dst.to_str().unwrap()), "{full}");
    assert!(full.message.contains("bytes are needed and") && full.message.contains("are available"), "{full}");
    assert_eq!(look(&dst).len(), 1, "nothing was written");

    fs_err::remove_file(world.src().join("big")).unwrap();
    (0..40).for_each(|number| world.write(&number.to_string(), "x"));
    let full = failure(&world);
    assert!(full.message.contains("inodes are needed"), "{full}");
    assert_eq!(look(&dst).len(), 1);
    drop(mounted);
}

#[test]
fn a_file_of_holes_needs_no_space_for_them() {
    let world = World::new();
    let dst = world.dst();
    let _mounted = Mounted::new(&dst, "size=1m");
    let image = fs_err::File::create(world.src().join("image")).unwrap();
    image.file().set_len(50_000_000).unwrap();
    drop(image);
    world.sync_well();
    world.assert_equal();
}

#[test]
fn space_that_others_take_meanwhile_leaves_the_old_tree() {
    let world = World::new();
    let dst = world.dst();
    let mounted = Mounted::new(&dst, "size=1m");
    world.write("a", noise(1, 300_000));
    world.sync_well();
    let before = look(&dst);
    world.write("a", noise(2, 400_000));
    let source = world.scan();
    let mut supplier = Loopback::new(&source);
    let change = world.compare(&source, &mut supplier, true).unwrap().unwrap();
    let hog = dst.join(".ovs-cuisine.ffffffffffffffff.tmp");
    supplier.hook = Some(Box::new(move |_, _| {
        // The file system fills up under the helper's hands.
        let _ = fs_err::write(&hog, noise(9, 900_000));
        Ok(())
    }));
    let full = change.apply(&mut supplier).unwrap_err();
    assert_eq!(full.kind, FailureKind::NoSpace);
    assert!(full.message.contains("dst/a`"), "{full}");
    fs_err::remove_file(dst.join(".ovs-cuisine.ffffffffffffffff.tmp")).unwrap();
    assert_eq!(look(&dst), before);
    drop(mounted);
}

#[test]
fn a_read_only_file_system_is_named_as_such() {
    let world = World::new();
    let dst = world.dst();
    let mounted = Mounted::new(&dst, "size=1m");
    write(&dst.join("old"), "old");
    mounted.remount("remount,ro");
    world.write("new", "new");
    let refused = failure(&world);
    assert_eq!(refused.kind, FailureKind::ReadOnly);
    assert!(refused.message.contains("dst/"), "{refused}");
    drop(mounted);
}

#[test]
fn destinations_that_cannot_be_are_refused() {
    let world = World::new();
    world.write("file", "x");
    write(&world.dst(), "a file");
    let refused = failure(&world);
    assert_eq!(refused.kind, FailureKind::BadInput);
    assert!(refused.message.contains("not a directory"), "{refused}");
    assert_eq!(fs_err::read_to_string(world.dst()).unwrap(), "a file");

    fs_err::remove_file(world.dst()).unwrap();
    link(&world.dst(), "nowhere");
    let refused = failure(&world);
    assert!(refused.message.contains("leads nowhere"), "{refused}");
    assert!(!world.path().join("nowhere").exists());
}

#[test]
fn neither_the_whole_host_nor_the_helpers_files_can_be_deleted() {
    let world = World::new();
    world.write("file", "x");
    let source = world.scan();
    let mut op = world.op(&source);
    let state = world.dst().join("deep/state");
    let place = Place { state: Some(&state), ..Place::default() };
    for (dest, delete, why) in [
        ("/", MaxDelete::Any, "the whole host"),
        ("/", MaxDelete::AtMost(5), "the whole host"),
        (world.dst().to_str().unwrap(), MaxDelete::Any, "the helper's own files"),
    ] {
        op.dest = dest.parse().unwrap();
        op.delete = delete;
        let refused = compare(&op, &place, &mut Loopback::new(&source)).unwrap_err();
        assert_eq!(refused.kind, FailureKind::BadInput);
        assert!(refused.message.contains(why), "{refused}");
    }
    op.delete = MaxDelete::Never;
    assert!(compare(&op, &place, &mut Loopback::new(&source)).unwrap().is_some());
}

#[test]
fn another_directory_in_the_destinations_place_is_left_alone() {
    let world = World::new();
    world.write("file", "x");
    write(&world.dst().join("old"), "goes");
    let source = world.scan();
    let mut supplier = Loopback::new(&source);
    let change = world.compare(&source, &mut supplier, true).unwrap().unwrap();
    fs_err::rename(world.dst(), world.path().join("aside")).unwrap();
    write(&world.dst().join("precious"), "stays");
    let refused = change.apply(&mut supplier).unwrap_err();
    assert!(refused.message.contains("was replaced by another directory"), "{refused}");
    assert_eq!(look(&world.dst()).len(), 1);
    assert!(world.path().join("aside/old").exists());
}

#[test]
fn a_source_that_changes_under_the_sync_changes_nothing() {
    let world = World::new();
    for (name, size) in [("small", 100), ("large", 300_000)] {
        write(&world.dst().join(name), noise(1, size));
        world.write(name, noise(2, size));
        let source = world.scan();
        let mut supplier = Loopback::new(&source);
        let change = world.compare(&source, &mut supplier, true).unwrap().unwrap();
        let before = look(&world.dst());
        world.write(name, noise(3, size));
        let gone = change.apply(&mut supplier).unwrap_err();
        assert_eq!(gone.kind, FailureKind::Content);
        assert!(gone.message.contains("changed since it was scanned"), "{gone}");
        assert_eq!(look(&world.dst()), before);
        world.sync_well();
    }
    world.assert_equal();
}

/// Changes the messages on their way; the sync must fail with `Content` and leave the destination as it was.
fn assert_refused(tamper: impl FnMut(usize, &mut Supply) + 'static) {
    let (world, before, done) = tampered(tamper);
    let refused = done.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Content, "{refused}");
    assert!(refused.message.contains("dst/file`"), "{refused}");
    assert_eq!(look(&world.dst()), before);
}

/// Changes the messages on their way so that the hash of what is made of the old version differs; the whole is asked
/// for then.
fn assert_asked_again(tamper: impl FnMut(usize, &mut Supply) + 'static) {
    let (world, _, done) = tampered(tamper);
    done.unwrap();
    world.assert_equal();
}

fn tampered(
    tamper: impl FnMut(usize, &mut Supply) + 'static,
) -> (World, BTreeMap<PathBuf, Seen>, Result<(), OpFailure>) {
    let mut tamper = tamper;
    let mut world = World::new();
    world.delete = MaxDelete::Any;
    let old = noise(1, 400_000);
    write(&world.dst().join("file"), &old);
    write(&world.dst().join("other"), "goes");
    let mut new = old;
    new.splice(200_000..200_001, noise(2, 3000));
    world.write("file", new);
    let source = world.scan();
    let mut supplier = Loopback::new(&source);
    let change = world.compare(&source, &mut supplier, true).unwrap().unwrap();
    let before = look(&world.dst());
    supplier.hook = Some(Box::new(move |number, supply| {
        tamper(number, supply);
        Ok(())
    }));
    let done = change.apply(&mut supplier);
    (world, before, done)
}

#[test]
fn lies_on_the_wire_are_refused() {
    let edit = |change: fn(&mut Supply)| move |_: usize, supply: &mut Supply| change(supply);
    assert_refused(edit(|supply| {
        if let Supply::Literal(bytes) = supply {
            *bytes.last_mut().unwrap() ^= 1;
        }
    }));
    assert_refused(edit(|supply| {
        if let Supply::Take(bytes) = supply {
            *bytes += 1;
        }
    }));
    assert_refused(edit(|supply| {
        if let Supply::Take(bytes) = supply {
            *bytes = u64::MAX;
        }
    }));
    assert_asked_again(edit(|supply| {
        if let Supply::Copy { offset, .. } = supply {
            *offset = offset.saturating_sub(1);
        }
    }));
    assert_refused(edit(|supply| {
        if let Supply::Copy { len, .. } = supply {
            *len = u64::MAX;
        }
    }));
    assert_refused(edit(|supply| {
        if let Supply::Copy { offset, .. } = supply {
            *offset = 1 << 50;
        }
    }));
    assert_asked_again(edit(|supply| {
        if let Supply::Copy { len, .. } = supply {
            *len -= 1;
        }
    }));
    assert_refused(edit(|supply| *supply = Supply::Gone { why: "moved away".to_owned() }));
    assert_refused(edit(|supply| {
        if !matches!(supply, Supply::Unknown) {
            *supply = Supply::Literal(vec![0; 256 * 1024]);
        }
    }));
    let bomb = zstd::bulk::compress(&vec![0; 30_000_000], 3).unwrap();
    assert_refused(move |_, supply| match supply {
        Supply::Literal(bytes) => bytes.clone_from(&bomb),
        Supply::Take(bytes) => *bytes = 30_000_000,
        _ => {}
    });
}

#[test]
fn a_blob_is_verified() {
    let mut contents = Contents::new();
    let bytes = noise(5, 200_000);
    let digest = contents.add_bytes(bytes.clone());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blob");
    write(&path, "from a file");
    let (from_file, size) = contents.add_file(&path).unwrap();
    let mut supplier = Loopback::of(contents);
    let mut got = Vec::new();
    fetch_blob(&mut supplier, digest, 200_000, &mut got).unwrap();
    assert!(got == bytes);
    got.clear();
    fetch_blob(&mut supplier, from_file, size, &mut got).unwrap();
    assert_eq!(got, b"from a file");
    let wrong_size = fetch_blob(&mut supplier, digest, 100, &mut Vec::new()).unwrap_err();
    assert_eq!(wrong_size.kind, FailureKind::Content);
    let unknown = fetch_blob(&mut Loopback::of(Contents::new()), Digest::of(b"?"), 1, &mut Vec::new()).unwrap_err();
    assert!(unknown.message.contains("not part of this run"), "{unknown}");
}

#[test]
fn a_planted_pipe_is_replaced_without_being_read() {
    let world = World::new();
    world.write("file", "x");
    fs_err::create_dir(world.dst()).unwrap();
    for name in ["file", "extra"] {
        assert!(Command::new("mkfifo").arg(world.dst().join(name)).status().unwrap().success());
    }
    world.sync_well();
    assert!(matches!(look(&world.dst()).into_values().next(), Some(Seen::File { .. })));
    world.assert_equal();
}
