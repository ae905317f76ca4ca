//! What few entries have: several names, holes, extended attributes.

use std::{
    ffi::CString,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
    process::Command,
};

use ovs_cuisine::{plan::FailureKind, tree::SourceTree};

use super::world::{Loopback, World, noise, set_mode, write};

fn ino(path: &Path) -> u64 {
    fs_err::metadata(path).unwrap().ino()
}

fn blocks(path: &Path) -> u64 {
    fs_err::metadata(path).unwrap().blocks() * 512
}

/// Whether names are one file at the destination.
fn is_one_file(world: &World, names: &[&str]) -> bool {
    names.iter().all(|name| ino(&world.dst().join(name)) == ino(&world.dst().join(names[0])))
}

fn name_again(world: &World, from: &str, to: &str) {
    let to = world.src().join(to);
    fs_err::create_dir_all(to.parent().unwrap()).unwrap();
    fs_err::hard_link(world.src().join(from), to).unwrap();
}

#[test]
fn names_of_one_file_stay_names_of_one_file() {
    let world = World::new();
    world.write("bin/app", noise(1, 200_000));
    name_again(&world, "bin/app", "bin/app-1.0");
    name_again(&world, "bin/app", "a-first/app");
    world.write("same", noise(1, 200_000));
    let supplier = world.sync_well();
    assert_eq!(supplier.wants(), 2, "the manifest, and one content for four names");
    world.assert_equal();
    world.assert_rsync_agrees();
    assert!(is_one_file(&world, &["bin/app", "bin/app-1.0", "a-first/app"]));
    assert!(!is_one_file(&world, &["bin/app", "same"]), "equal contents are not one file");

    // A change through one name is one of all names.
    fs_err::write(world.src().join("bin/app"), noise(2, 1000)).unwrap();
    set_mode(&world.src().join("bin/app"), 0o700);
    world.sync_well();
    world.assert_equal();
    assert!(is_one_file(&world, &["bin/app", "bin/app-1.0", "a-first/app"]));

    // The first name goes, another comes, and one becomes a file of its own.
    fs_err::remove_file(world.src().join("a-first/app")).unwrap();
    name_again(&world, "bin/app", "z");
    fs_err::remove_file(world.src().join("bin/app-1.0")).unwrap();
    world.write("bin/app-1.0", noise(2, 1000));
    world.sync_well();
    world.assert_equal();
    world.assert_rsync_agrees();
    assert!(is_one_file(&world, &["bin/app", "z"]) && !is_one_file(&world, &["bin/app", "bin/app-1.0"]));
}

#[test]
fn what_another_hand_joined_is_parted_again() {
    let world = World::new();
    for name in ["a", "b", "c"] {
        world.write(name, "the same content");
    }
    world.sync_well();
    fs_err::remove_file(world.dst().join("b")).unwrap();
    fs_err::hard_link(world.dst().join("a"), world.dst().join("b")).unwrap();
    fs_err::hard_link(world.dst().join("c"), world.dst().join("0-strange")).unwrap();
    world.sync_well();
    world.assert_equal();
    assert!(!is_one_file(&world, &["a", "b"]));
    fs_err::write(world.dst().join("a"), "changed").unwrap();
    assert_eq!(fs_err::read_to_string(world.dst().join("b")).unwrap(), "the same content");
}

#[test]
fn a_renamed_directory_of_names_costs_no_content() {
    let world = World::new();
    world.write("old/one", noise(1, 100_000));
    name_again(&world, "old/one", "old/two");
    world.sync_well();
    fs_err::rename(world.src().join("old"), world.src().join("new")).unwrap();
    let supplier = world.sync_well();
    assert_eq!(supplier.wants(), 1, "the manifest only");
    world.assert_equal();
    assert!(is_one_file(&world, &["new/one", "new/two"]));
}

#[test]
fn names_that_are_ignored_leave_the_file_to_the_others() {
    let mut world = World::new();
    world.write("a", "content");
    name_again(&world, "a", "b");
    name_again(&world, "a", "c");
    world.ignore = vec!["/a".to_owned()];
    world.sync_well();
    assert!(!world.dst().join("a").exists());
    assert!(is_one_file(&world, &["b", "c"]));
}

/// Makes a file with content at both ends of a hole.
fn sparse(path: &Path, len: u64) {
    use std::os::unix::fs::FileExt;
    let file = fs_err::File::create(path).unwrap();
    file.file().write_all_at(b"begin", 0).unwrap();
    file.file().write_all_at(b"end", len - 3).unwrap();
    assert!(blocks(path) < len, "the tests' file system keeps holes");
}

#[test]
fn holes_stay_holes_and_zeros_stay_zeros() {
    const LEN: u64 = 40_000_000;
    let world = World::new();
    sparse(&world.src().join("image"), LEN);
    world.write("zeros", vec![0; 1_000_000]);
    world.sync_well();
    world.assert_equal();
    assert!(blocks(&world.dst().join("image")) < 1_000_000);
    assert!(blocks(&world.dst().join("zeros")) >= 1_000_000);

    // Also in a copy that needs nothing from the near side, and in a patched version.
    sparse(&world.src().join("copy"), LEN);
    let supplier = world.sync_well();
    assert_eq!(supplier.wants(), 1, "the manifest only");
    let mut bytes = fs_err::read(world.src().join("image")).unwrap();
    bytes[20_000_000..20_000_005].copy_from_slice(b"inner");
    {
        use std::os::unix::fs::FileExt;
        let file = fs_err::OpenOptions::new().write(true).open(world.src().join("image")).unwrap();
        file.file().write_all_at(b"inner", 20_000_000).unwrap();
    }
    world.sync_well();
    assert_eq!(fs_err::read(world.dst().join("image")).unwrap(), bytes);
    for name in ["image", "copy"] {
        assert!(blocks(&world.dst().join(name)) < 1_000_000, "{name}");
    }
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut value = vec![0; 65_536];
    let len = rustix::fs::getxattr(path.as_c_str(), name, &mut value).ok()?;
    value.truncate(len);
    Some(value)
}

fn set_acl(path: &Path, acl: &str) {
    assert!(Command::new("setfacl").args(["-m", acl]).arg(path).status().unwrap().success());
}

fn acl(path: &Path) -> String {
    let output = Command::new("getfacl").args(["-n", "-c", "-p"]).arg(path).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// A sync with extended attributes, and a second one that finds nothing to do.
fn sync_with_xattrs(world: &World) -> Loopback {
    let scan = || SourceTree::scan_with_xattrs(&world.src(), &[], None).unwrap();
    let source = scan();
    let mut supplier = Loopback::new(&source);
    let change = world.compare(&source, &mut supplier, true).unwrap();
    if let Some(change) = change {
        change.apply(&mut supplier).unwrap();
    }
    let mut again = Loopback::new(&source);
    let change = world.compare(&scan(), &mut again, true).unwrap();
    assert!(change.is_none(), "a second sync finds {:?}", change.map(|change| change.diff()));
    supplier
}

#[test]
fn extended_attributes_and_access_lists_come_along_when_asked_for() {
    let world = World::new();
    world.write("dir/file", "content");
    world.write("plain", "plain");
    let (from, to) = (world.src(), world.dst());
    set_xattr(&from.join("dir/file"), "user.origin", b"build 7");
    set_xattr(&from.join("dir"), "user.kind", &[0, 255]);
    set_acl(&from.join("plain"), "u:65534:rw");
    set_acl(&from.join("dir"), "d:u:65534:rwx");
    world.sync_well();
    assert_eq!(xattr(&to.join("dir/file"), "user.origin"), None, "nobody asked for them");

    let supplier = sync_with_xattrs(&world);
    assert_eq!(supplier.wants(), 1, "the manifest: no content comes again for its attributes");
    assert_eq!(xattr(&to.join("dir/file"), "user.origin").unwrap(), b"build 7");
    assert_eq!(xattr(&to.join("dir"), "user.kind").unwrap(), [0, 255]);
    for path in ["plain", "dir", "dir/file"] {
        assert_eq!(acl(&from.join(path)), acl(&to.join(path)), "{path}");
    }
    world.assert_equal();

    // Changed, gone, new in a directory whose default list must not show in what has none, and added by another hand.
    set_xattr(&from.join("dir/file"), "user.origin", b"build 8");
    rustix::fs::removexattr(from.join("dir"), "user.kind").unwrap();
    fs_err::rename(from.join("plain"), from.join("dir/plain")).unwrap();
    set_xattr(&to.join("dir/file"), "user.strange", b"x");
    world.write("other", "made before it was moved");
    fs_err::rename(from.join("other"), from.join("dir/other")).unwrap();
    sync_with_xattrs(&world);
    assert_eq!(xattr(&to.join("dir/file"), "user.origin").unwrap(), b"build 8");
    assert_eq!(xattr(&to.join("dir"), "user.kind"), None);
    assert_eq!(xattr(&to.join("dir/file"), "user.strange"), None);
    for path in ["dir", "dir/file", "dir/plain", "dir/other"] {
        assert_eq!(acl(&from.join(path)), acl(&to.join(path)), "{path}");
    }
    world.assert_equal();

    // Without them being asked for, the host's own stay.
    set_xattr(&to.join("dir/file"), "user.strange", b"x");
    world.sync_well();
    assert_eq!(xattr(&to.join("dir/file"), "user.strange").unwrap(), b"x");
}

#[test]
fn a_hard_link_that_the_host_cannot_make_is_a_failure_that_names_it() {
    let world = World::new();
    // Another file system below the destination, so that the two names cannot be one file.
    let mount = world.dst().join("mount");
    fs_err::create_dir_all(&mount).unwrap();
    let target = mount.to_str().unwrap();
    assert!(Command::new("mount").args(["-t", "tmpfs", "tmpfs", target]).status().unwrap().success());
    world.write("mount/name", "content");
    name_again(&world, "mount/name", "a-name");
    write(&world.dst().join("a-name"), "before");
    let failed = world.sync();
    assert!(Command::new("umount").arg(target).status().unwrap().success());
    let failure = failed.map(|_| ()).unwrap_err();
    assert!(failure.message.contains("mount/name"), "{failure}");
    assert!(failure.hint.is_some_and(|hint| hint.contains("hard links")));
    assert_ne!(failure.kind, FailureKind::Internal);
    assert_eq!(fs_err::read_to_string(world.dst().join("a-name")).unwrap(), "before");
}
