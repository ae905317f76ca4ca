//! What the near side's scan takes in, leaves out and refuses; its index.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, process::Command};

use ovs_cuisine::{
    helper::tree::{Place, apply},
    tree::{Digest, EntryKind, Index, Root, ScanError, SourceTree, status_at, unix_now},
};

use super::world::{Loopback, World, link, write};

fn paths(tree: &SourceTree) -> Vec<String> {
    tree.manifest().entries().iter().map(|entry| entry.path.to_string()).collect()
}

#[test]
fn ignored_paths_are_left_out_and_links_stay_links() {
    let mut world = World::new();
    world.ignore = vec!["*.o".to_owned(), "!keep.o".to_owned(), "/cache/".to_owned()];
    for path in ["a.c", "a.o", "keep.o", "cache/x", "sub/cache/y", "sub/log", "sub/deep/log", "log", ".gitignore"] {
        world.write(path, path);
    }
    world.write("sub/.cuisineignore", "log\n");
    world.write(".gitignore", "a.c\n");
    link(&world.src().join("loop"), ".");
    let tree = world.scan();
    let expected = [
        ".gitignore",
        "a.c",
        "keep.o",
        "log",
        "loop",
        "sub",
        "sub/.cuisineignore",
        "sub/cache",
        "sub/cache/y",
        "sub/deep",
    ];
    assert_eq!(paths(&tree), expected);
    assert_eq!(tree.summary().ignore, ["/sub/**/log", "*.o", "!keep.o", "/cache/"]);
    assert_eq!(tree.summary().files, 6);
}

#[test]
fn odd_names_are_names() {
    let world = World::new();
    for name in [&b"new\nline"[..], b"\xff\xfe", b"-rf", b" ", "é".as_bytes()] {
        write(&world.src().join(OsStr::from_bytes(name)), name);
    }
    assert_eq!(world.scan().manifest().entries().len(), 5);
    world.sync_well();
    world.assert_equal();
}

#[test]
fn sources_that_are_no_trees_are_refused_by_name() {
    let world = World::new();
    let refusal = |path: &str| SourceTree::scan(&world.src().join(path), &[], None).unwrap_err();
    let missing = refusal("missing");
    assert!(matches!(&missing, ScanError::Open { path, .. } if path.ends_with("missing")));
    assert!(missing.hint().unwrap().contains("build it first"));
    world.write("file", "");
    assert!(matches!(refusal("file"), ScanError::NotADirectory { .. }));
    let bad = SourceTree::scan(&world.src(), &["a[b".to_owned()], None).unwrap_err();
    assert!(bad.to_string().contains("`a[b`"), "{bad}");

    assert!(Command::new("mkfifo").arg(world.src().join("pipe")).status().unwrap().success());
    let special = SourceTree::scan(&world.src(), &[], None).unwrap_err();
    assert!(special.to_string().contains("pipe` is a named pipe"), "{special}");
    assert!(SourceTree::scan(&world.src(), &["pipe".to_owned()], None).is_ok(), "an ignored pipe does not matter");
}

#[test]
fn an_index_proves_without_reading_and_damage_costs_nothing_else() {
    let world = World::new();
    world.write("file", "true content");
    let path = world.path().join("index");
    let status = status_at(Root::open(&world.src()).unwrap(), b"file").unwrap();
    let mut index = Index::default();
    let told = Digest::of(b"what the index says");
    index.remember(&status, told, unix_now() + 60);
    index.save(&path).unwrap();
    let digest = |index| {
        let tree = SourceTree::scan(&world.src(), &[], Some(index)).unwrap();
        match tree.manifest().entries()[0].kind {
            EntryKind::File { digest, .. } => digest,
            _ => panic!("not a file"),
        }
    };
    // Only the index can have said so: the file was not read.
    assert_eq!(digest(&path), told);
    // The file changed less than two seconds ago, so that scan forgot it again.
    assert_eq!(digest(&path), Digest::of(b"true content"));
    fs_err::write(&path, "damaged").unwrap();
    assert_eq!(digest(&path), Digest::of(b"true content"));
}

#[test]
fn an_edit_that_keeps_size_and_time_is_found() {
    let world = World::new();
    world.write("file", "aaaa");
    let index = world.path().join("index");
    let file = world.src().join("file");
    let status = status_at(Root::open(&world.src()).unwrap(), b"file").unwrap();
    let mut known = Index::default();
    known.remember(&status, Digest::of(b"aaaa"), unix_now() + 60);
    known.save(&index).unwrap();
    let before = SourceTree::scan(&world.src(), &[], Some(&index)).unwrap();
    known.save(&index).unwrap();
    let time = fs_err::metadata(&file).unwrap().modified().unwrap();
    fs_err::write(&file, "bbbb").unwrap();
    fs_err::OpenOptions::new().write(true).open(&file).unwrap().file().set_modified(time).unwrap();
    let after = SourceTree::scan(&world.src(), &[], Some(&index)).unwrap();
    assert_ne!(before.summary().root, after.summary().root);
}

#[test]
fn a_host_proves_an_unchanged_tree_by_its_index_alone() {
    let world = World::new();
    world.write("file", "wanted");
    write(&world.dst().join("file"), "others");
    let status = status_at(Root::open(&world.dst()).unwrap(), b"file").unwrap();
    let mut index = Index::default();
    index.remember(&status, Digest::of(b"wanted"), unix_now() + 60);
    let name = Digest::of(world.dst().to_str().unwrap().as_bytes()).short();
    index.save(&world.state().join("trees").join(format!("{name}.index"))).unwrap();
    let source = world.scan();
    // Only the index can have said so: the file was not read.
    assert!(world.compare(&source, &mut Loopback::new(&source), false).unwrap().is_none());
    // Any change of the file takes the index's word away.
    write(&world.dst().join("file"), "change");
    assert!(world.compare(&source, &mut Loopback::new(&source), false).unwrap().is_some());
}

#[test]
fn what_was_just_made_need_not_be_read_again() {
    let world = World::new();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    for name in ["a", "dir/b"] {
        world.write(name, name);
        fs_err::OpenOptions::new().write(true).open(world.src().join(name)).unwrap().file().set_modified(old).unwrap();
    }
    let index = || {
        let name = Digest::of(world.dst().to_str().unwrap().as_bytes()).short();
        Index::load(&world.state().join("trees").join(format!("{name}.index")))
    };
    let source = world.scan();
    let mut supplier = Loopback::new(&source);
    let state = world.state();
    let place = Place { state: Some(&state), remember: true, ..Place::default() };
    let change = world.compare(&source, &mut supplier, true).unwrap().unwrap();
    apply(&world.op(&source), &place, change, &mut supplier).unwrap();
    let key = |name: &str| {
        let parent = Root::open(world.dst().join(name).parent().unwrap()).unwrap();
        status_at(parent, name.rsplit('/').next().unwrap().as_bytes()).unwrap().key()
    };
    for _ in 0..2 {
        assert_eq!(index().digest(&key("a")), Some(Digest::of(b"a")));
        assert_eq!(index().digest(&key("dir/b")), Some(Digest::of(b"dir/b")));
        // A scan so shortly after does not forget it.
        assert!(world.compare(&source, &mut Loopback::new(&source), true).unwrap().is_none());
    }
    write(&world.dst().join("a"), "b");
    assert!(world.compare(&source, &mut Loopback::new(&source), true).unwrap().is_some(), "another hand is noticed");
}
