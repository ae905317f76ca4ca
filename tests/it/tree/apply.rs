//! What applying a change does, and what it must never do.

use std::{
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
};

use ovs_cuisine::{
    plan::{Action, Detail, FailureKind, MaxDelete},
    tree::{Demand, Digest},
};

use super::world::{Loopback, World, link, look, noise, set_mode, write};

fn detail(world: &World) -> Option<(Action, [u64; 4], Vec<String>)> {
    let source = world.scan();
    let mut supplier = Loopback::new(&source);
    let change = world.compare(&source, &mut supplier, false).unwrap()?.diff().changes.remove(0);
    match change.details.into_iter().next().unwrap() {
        Detail::Tree { created, modified, removed, bytes, paths } => {
            Some((change.action, [created, modified, removed, bytes], paths))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_destination_is_made_with_its_parents_and_reported_truly() {
    let world = World::new();
    world.write("bin/tool", "#!/bin/sh\n");
    set_mode(&world.src().join("bin/tool"), 0o755);
    link(&world.src().join("tool"), "bin/tool");
    set_mode(&world.src(), 0o750);
    let (action, counts, paths) = detail(&world).unwrap();
    assert_eq!((action, counts), (Action::Create, [3, 0, 0, 10]));
    assert_eq!(paths, ["+ bin", "+ bin/tool", "+ tool"]);
    assert!(!world.dst().exists() && !world.state().exists(), "a comparison writes nothing");
    world.sync_well();
    world.assert_equal();
    world.assert_rsync_agrees();
    assert_eq!(fs_err::metadata(world.dst()).unwrap().mode() & 0o7777, 0o750);

    world.write("bin/tool", "#!/bin/bash\n");
    set_mode(&world.src().join("bin"), 0o700);
    fs_err::remove_file(world.src().join("tool")).unwrap();
    world.write("new", "");
    let (action, counts, paths) = detail(&world).unwrap();
    assert_eq!((action, counts), (Action::Modify, [1, 2, 1, 12]));
    assert_eq!(paths, ["~ bin", "~ bin/tool", "+ new", "- tool"]);
    world.sync_well();
    world.assert_equal();
    assert_eq!(detail(&world), None);
}

#[test]
fn times_are_those_of_the_source_also_of_directories_in_which_names_change() {
    let world = World::new();
    world.write("dir/sub/file", "x");
    world.write("dir/goes", "x");
    link(&world.src().join("dir/link"), "goes");
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    let set = |path: &str| fs_err::File::open(world.src().join(path)).unwrap().file().set_modified(old).unwrap();
    ["dir/sub/file", "dir/sub", "dir"].into_iter().for_each(set);
    let times = |root: &std::path::Path| {
        ["dir", "dir/sub", "dir/sub/file", "dir/link"].map(|path| {
            let meta = fs_err::symlink_metadata(root.join(path)).unwrap();
            (path, meta.mtime(), meta.mtime_nsec())
        })
    };
    world.sync_well();
    assert_eq!(times(&world.dst()), times(&world.src()));
    world.write("dir/sub/new", "y");
    fs_err::remove_file(world.src().join("dir/goes")).unwrap();
    ["dir/sub", "dir"].into_iter().for_each(set);
    world.sync_well();
    assert_eq!(times(&world.dst()), times(&world.src()));
    assert_eq!(times(&world.dst())[1].1, 1_000_000_000);
}

#[test]
fn a_file_with_another_name_elsewhere_is_not_taken_over() {
    let world = World::new();
    world.write("old", noise(8, 100_000));
    world.sync_well();
    let outside = world.path().join("outside");
    fs_err::hard_link(world.dst().join("old"), &outside).unwrap();
    fs_err::rename(world.src().join("old"), world.src().join("new")).unwrap();
    let supplier = world.sync_well();
    assert_eq!(supplier.wants(), 1, "it is copied, not fetched");
    let inode = |path: &std::path::Path| fs_err::metadata(path).unwrap().ino();
    assert_ne!(inode(&world.dst().join("new")), inode(&outside));
    world.assert_equal();
}

#[test]
fn the_mode_of_an_existing_destination_is_its_own() {
    let world = World::new();
    world.write("file", "x");
    fs_err::create_dir(world.dst()).unwrap();
    set_mode(&world.dst(), 0o1777);
    world.sync_well();
    assert_eq!(fs_err::metadata(world.dst()).unwrap().mode() & 0o7777, 0o1777);
}

#[test]
fn without_delete_the_rest_stays_and_is_no_difference() {
    let mut world = World::new();
    world.delete = MaxDelete::Never;
    world.write("a/file", "x");
    write(&world.dst().join("a/extra"), "keep");
    write(&world.dst().join("b/extra"), "keep");
    world.sync_well();
    assert_eq!(fs_err::read_to_string(world.dst().join("a/extra")).unwrap(), "keep");
    assert!(world.dst().join("b/extra").exists());

    fs_err::remove_dir_all(world.src().join("a")).unwrap();
    world.write("a", "now a file");
    let refused = world.sync().err().unwrap();
    assert_eq!(refused.kind, FailureKind::BadInput);
    assert!(refused.message.contains("nothing may be deleted"), "{refused}");
    assert!(world.dst().join("a/extra").exists());
}

#[test]
fn more_deletions_than_allowed_are_refused_before_any_write() {
    let mut world = World::new();
    world.delete = MaxDelete::AtMost(2);
    world.write("new", "x");
    for name in ["1", "2", "3"] {
        write(&world.dst().join(name), name);
    }
    let before = look(&world.dst());
    let refused = world.sync().err().unwrap();
    assert!(refused.message.contains("would delete 3 entries"), "{refused}");
    assert_eq!(look(&world.dst()), before);
    fs_err::remove_file(world.dst().join("1")).unwrap();
    world.sync_well();
    world.assert_equal();
}

#[test]
fn ignored_paths_are_neither_sent_nor_deleted_nor_a_difference() {
    let mut world = World::new();
    world.ignore = vec!["/data/".to_owned()];
    world.write("app/run", "x");
    world.write("app/.cuisineignore", "*.log\n");
    world.write("app/source.log", "stays here");
    world.write("data/local", "stays here");
    write(&world.dst().join("data/precious"), "theirs");
    write(&world.dst().join("old/app.txt"), "goes");
    write(&world.dst().join("app/old/run.log"), "theirs");
    write(&world.dst().join("app/old/x"), "goes");
    // Reading it would wait for ever.
    assert!(Command::new("mkfifo").arg(world.dst().join("app/pipe.log")).status().unwrap().success());
    world.sync_well();
    let there: Vec<String> = look(&world.dst()).into_keys().map(|path| path.display().to_string()).collect();
    let expected =
        ["app", "app/.cuisineignore", "app/old", "app/old/run.log", "app/pipe.log", "app/run", "data", "data/precious"];
    assert_eq!(there, expected);

    fs_err::remove_dir_all(world.src().join("app/old")).unwrap_or_default();
    world.write("app/old", "now a file");
    let refused = world.sync().err().unwrap();
    assert!(refused.message.contains("holds something that is ignored"), "{refused}");
}

#[test]
fn what_the_host_has_is_never_asked_for_again() {
    let world = World::new();
    world.write("one/big", noise(1, 3_000_000));
    world.write("one/small", "s");
    world.sync_well();
    fs_err::rename(world.src().join("one"), world.src().join("two")).unwrap();
    fs_err::copy(world.src().join("two/big"), world.src().join("copy")).unwrap();
    let inode = fs_err::metadata(world.dst().join("one/big")).unwrap().ino();
    let supplier = world.sync_well();
    assert_eq!(supplier.wants(), 1, "only the manifest");
    world.assert_equal();
    let inodes = ["two/big", "copy"].map(|path| fs_err::metadata(world.dst().join(path)).unwrap().ino());
    assert!(inodes.contains(&inode), "the renamed file was taken over, not copied");
    assert_ne!(inodes[0], inodes[1], "two files never share later changes");
}

#[test]
fn equal_contents_travel_once() {
    let world = World::new();
    for name in ["a", "b", "c/d"] {
        world.write(name, noise(2, 100_000));
    }
    let supplier = world.sync_well();
    assert_eq!(supplier.wants(), 2, "the manifest and one content");
    world.assert_equal();
}

#[test]
fn of_a_large_changed_file_only_the_changes_travel() {
    let world = World::new();
    let mut content = noise(3, 8_000_000);
    world.write("big", &content);
    let first = world.sync_well();
    assert!(first.literal_bytes > 8_000_000);
    content.splice(1_000_000..1_000_000, noise(4, 5000));
    content.truncate(7_900_000);
    content.extend(noise(5, 1000));
    world.write("big", &content);
    let second = world.sync_well();
    assert!(second.literal_bytes < 300_000, "{} bytes for 6000 changed ones", second.literal_bytes);
    world.assert_equal();
}

#[test]
fn many_small_files_travel_in_one_compressed_stream() {
    let world = World::new();
    for number in 0..500 {
        world.write(&format!("d{}/f{number}", number % 7), format!("def function_{number}(self):\n").repeat(40));
    }
    let supplier = world.sync_well();
    assert_eq!(supplier.demands.len(), 2, "one for the manifest, one for everything else");
    assert!(supplier.literal_bytes < 60_000, "{} bytes", supplier.literal_bytes);
    world.assert_equal();
    world.assert_rsync_agrees();
}

#[test]
fn a_running_program_is_replaced_and_runs_on() {
    let world = World::new();
    fs_err::copy("/bin/sleep", world.src().join("program")).unwrap();
    world.sync_well();
    let program = world.dst().join("program");
    let mut running = Command::new(&program).arg("600").stdout(Stdio::null()).spawn().unwrap();
    let busy = fs_err::OpenOptions::new().write(true).open(&program);
    world.write("program", "a new version");
    let outcome = world.sync();
    let runs_on = running.try_wait().unwrap().is_none();
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(busy.unwrap_err().kind(), std::io::ErrorKind::ExecutableFileBusy);
    assert!(outcome.is_ok() && runs_on);
    assert_eq!(fs_err::read_to_string(&program).unwrap(), "a new version");
}

#[test]
fn owner_and_group_are_those_asked_for_everywhere() {
    let mut world = World::new();
    world.write("new/dir/file", "x");
    link(&world.src().join("link"), "new");
    world.sync_well();
    (world.uid, world.gid) = (Some(12_345), Some(54_321));
    world.write("new/other", "y");
    world.sync_well();
    for path in ["", "new", "new/dir", "new/dir/file", "new/other", "link"] {
        let meta = fs_err::symlink_metadata(world.dst().join(path)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (12_345, 54_321), "{path:?}");
    }
    world.assert_equal();
}

#[test]
fn planted_links_lead_nowhere() {
    let world = World::new();
    let outside = world.path().join("outside");
    write(&outside.join("victim"), "untouched");
    world.write("sub/victim", "new content");
    world.write("sub/deep/victim", "new content");
    world.sync_well();
    fs_err::remove_dir_all(world.dst().join("sub")).unwrap();
    link(&world.dst().join("sub"), outside.to_str().unwrap());
    link(&world.dst().join("extra"), outside.to_str().unwrap());
    world.sync_well();
    world.assert_equal();
    assert_eq!(look(&outside).len(), 1);
    assert_eq!(fs_err::read_to_string(outside.join("victim")).unwrap(), "untouched");
}

#[test]
fn a_directory_swapped_for_a_link_while_content_travels_leads_nowhere() {
    let world = World::new();
    let outside = world.path().join("outside");
    write(&outside.join("deep/victim"), "untouched");
    world.write("a", noise(6, 500_000));
    world.write("sub/deep/victim", "old");
    world.sync_well();
    world.write("a", noise(7, 500_000));
    world.write("sub/deep/victim", "new");
    let source = world.scan();
    let mut supplier = Loopback::new(&source);
    let change = world.compare(&source, &mut supplier, true).unwrap().unwrap();
    let (sub, aside) = (world.dst().join("sub"), world.dst().join("aside"));
    let target = outside.clone();
    let mut swapped = false;
    supplier.hook = Some(Box::new(move |_, _| {
        if !std::mem::replace(&mut swapped, true) {
            fs_err::rename(&sub, &aside)?;
            std::os::unix::fs::symlink(&target, &sub)?;
        }
        Ok(())
    }));
    let failure = change.apply(&mut supplier).unwrap_err();
    assert!(failure.message.contains("sub/deep/victim"), "{failure}");
    assert_eq!(look(&outside).len(), 2);
    assert_eq!(fs_err::read_to_string(outside.join("deep/victim")).unwrap(), "untouched");
    world.sync_well();
    world.assert_equal();
}

#[test]
fn the_destination_itself_may_be_reached_through_a_link() {
    let world = World::new();
    world.write("file", "x");
    let real = world.path().join("real");
    fs_err::create_dir(&real).unwrap();
    link(&world.dst(), "real");
    world.sync_well();
    assert_eq!(look(&real), look(&world.src()));
    assert!(fs_err::symlink_metadata(world.dst()).unwrap().is_symlink());
}

#[test]
fn leftovers_are_swept_and_count_as_a_difference() {
    let world = World::new();
    world.write("dir/file", "x");
    world.sync_well();
    write(&world.dst().join("dir/.ovs-cuisine.00112233445566ff.tmp"), "half");
    write(&world.dst().join(".ovs-cuisine.00112233445566ff.tmp/deep/er"), "half");
    let (_, counts, paths) = detail(&world).unwrap();
    assert_eq!(counts, [0, 0, 2, 0]);
    assert!(paths[0].starts_with("- "));
    world.sync_well();
    world.assert_equal();
    world.write(".ovs-cuisine.00112233445566ff.tmp", "never a part of a tree");
    assert_eq!(detail(&world), None);
}

#[test]
fn a_remembered_manifest_is_not_asked_for_again() {
    let mut world = World::new();
    world.delete = MaxDelete::Never;
    world.write("file", "x");
    write(&world.dst().join("extra"), "y");
    world.sync_well();
    let source = world.scan();
    let forgetful = world.state().join("trees");
    for entry in fs_err::read_dir(&forgetful).unwrap() {
        fs_err::write(entry.unwrap().path(), "damaged").unwrap();
    }
    let mut supplier = Loopback::new(&source);
    assert!(world.compare(&source, &mut supplier, true).unwrap().is_none());
    let manifest = source.summary().manifest;
    let asked: Vec<Digest> =
        supplier.demands.iter().flat_map(|Demand { wants }| wants.iter().map(|want| want.digest)).collect();
    assert_eq!(asked, [manifest], "after damage it is asked for once");
    world.sync_well();
}
