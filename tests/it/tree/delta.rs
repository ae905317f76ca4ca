//! Large files that change: whatever is known of the old version on either side, the new one arrives, and little travels.

use ovs_cuisine::tree::{Contents, Old, Supply, Versions};
use proptest::prelude::*;

use super::world::{Loopback, World, noise};

/// Syncs from a near side that keeps versions; gives the supplier with what it counted.
fn sync(world: &World) -> Loopback {
    let source = world.scan();
    let mut contents = Contents::new();
    contents.use_versions(Versions::new(world.path().join("versions")));
    contents.add_tree(&source);
    let mut supplier = Loopback::of(contents);
    world.compare(&source, &mut supplier, true).unwrap().expect("something differs").apply(&mut supplier).unwrap();
    supplier.finish_keeping();
    world.assert_equal();
    supplier
}

/// How the file was asked for, demand by demand.
fn ways(supplier: &Loopback) -> Vec<&'static str> {
    let wants = supplier.demands.iter().flat_map(|demand| &demand.wants);
    let way = |old: &Old| match old {
        Old::Nothing => "whole",
        Old::Version { .. } => "version",
        Old::Chunks { parts, .. } if parts.is_empty() => "chunks",
        Old::Chunks { .. } => "finer chunks",
    };
    // The first one is the manifest.
    wants.skip(1).map(|want| way(&want.old)).collect()
}

/// Text that compresses to a third or so, like programs do.
fn program(seed: u64, len: usize) -> Vec<u8> {
    let words: Vec<Vec<u8>> = (0..4000).map(|word| noise(word, 3 + usize::try_from(word % 14).unwrap())).collect();
    let picks = noise(seed, len);
    let picks = picks.chunks_exact(2).map(|pair| usize::from(u16::from_le_bytes([pair[0], pair[1]])) % words.len());
    picks.flat_map(|pick| words[pick].clone()).take(len).collect()
}

/// Scattered changes, and an insertion.
fn next_build(old: &[u8], edits: u64) -> Vec<u8> {
    let mut new = old.to_vec();
    for edit in 0..edits {
        let at = usize::try_from(edit * 7919).unwrap() * 4099 % (new.len() - 4096);
        new[at..at + 200].copy_from_slice(&noise(edit + 1_000_000, 200));
    }
    let at = new.len() / 3;
    new.splice(at..at, noise(7, 5000));
    new
}

#[test]
fn the_next_build_travels_as_a_patch_of_the_version_pushed_last() {
    let world = World::new();
    let first = program(1, 6_000_000);
    world.write("app", &first);
    sync(&world);
    world.write("app", next_build(&first, 40));
    let second = sync(&world);
    assert_eq!(ways(&second), ["version"]);
    // 40 edits of 200 bytes and 5,000 inserted ones, none of which compresses.
    assert!(second.patch_bytes + second.literal_bytes < 16_000, "{} bytes", second.patch_bytes);

    // Nothing but the old version on the host: its chunks are told.
    fs_err::remove_dir_all(world.path().join("versions")).unwrap();
    world.write("app", next_build(&first, 45));
    let third = sync(&world);
    assert_eq!(ways(&third), ["version", "chunks"]);
    assert!(third.literal_bytes < 1_500_000, "{} bytes", third.literal_bytes);
}

#[test]
fn of_a_very_large_file_what_is_left_is_cut_finer() {
    let world = World::new();
    let first = noise(1, 12_000_000);
    world.write("app", &first);
    sync(&world);
    fs_err::remove_dir_all(world.path().join("versions")).unwrap();
    let mut second = first.clone();
    for edit in 0..60 {
        second[edit * 190_000..][..50].copy_from_slice(&noise(edit as u64, 50));
    }
    world.write("app", &second);
    let supplier = sync(&world);
    assert_eq!(ways(&supplier), ["version", "chunks", "finer chunks"]);
    assert!(supplier.literal_bytes < 60 * 10_000, "{} bytes", supplier.literal_bytes);
}

#[test]
fn what_no_chunk_finds_again_is_still_patched() {
    let world = World::new();
    let first = program(1, 9_000_000);
    world.write("app", &first);
    let cold = sync(&world).literal_bytes;
    // Every 300 bytes an address differs, as after a relink.
    let mut second = first;
    for at in (0..second.len() - 4).step_by(300) {
        second[at] ^= 0x55;
    }
    world.write("app", &second);
    let warm = sync(&world);
    assert_eq!(ways(&warm), ["version"]);
    assert!(warm.patch_bytes < cold / 4, "{} of {cold} bytes", warm.patch_bytes);
}

#[test]
fn a_damaged_version_costs_a_round_trip_and_is_forgotten() {
    let world = World::new();
    let first = noise(1, 2_000_000);
    world.write("app", &first);
    sync(&world);
    let kept = || {
        let files = fs_err::read_dir(world.path().join("versions")).unwrap();
        files.map(|file| file.unwrap().path()).find(|path| path.extension().is_none()).unwrap()
    };
    // What it is not, it seems to have in common with the next build.
    let second = next_build(&first, 5);
    let mut damaged = fs_err::read(kept()).unwrap();
    damaged[..200].copy_from_slice(&second[..200]);
    assert!(damaged != first);
    fs_err::write(kept(), damaged).unwrap();
    world.write("app", &second);
    assert_eq!(ways(&sync(&world)), ["version", "chunks"]);
    world.write("app", next_build(&first, 6));
    assert_eq!(ways(&sync(&world)), ["version"], "what was pushed in between is kept");
}

#[test]
fn lies_about_the_old_version_are_noticed() {
    type Lie = fn(&mut Supply) -> bool;
    let lies: [(&str, Lie); 7] = [
        ("another part", |supply| {
            if let Supply::Copy { offset, .. } = supply {
                *offset += 1;
                true
            } else {
                false
            }
        }),
        ("beyond the end", |supply| {
            if let Supply::Copy { offset, .. } = supply {
                *offset = 1 << 40;
                true
            } else {
                false
            }
        }),
        ("beyond all files", |supply| {
            if let Supply::Copy { len, .. } = supply {
                *len = u64::MAX;
                true
            } else {
                false
            }
        }),
        ("a long prefix", |supply| {
            if let Supply::Patch { prefix, .. } = supply {
                *prefix = u32::MAX;
                true
            } else {
                false
            }
        }),
        ("another length", |supply| {
            if let Supply::Patch { len, .. } = supply {
                *len += 1;
                true
            } else {
                false
            }
        }),
        ("another prefix", |supply| {
            if let Supply::Patch { offset, .. } = supply {
                *offset += 1;
                true
            } else {
                false
            }
        }),
        ("a broken frame", |supply| {
            if let Supply::Patch { frame, .. } = supply {
                frame[0] ^= 1;
                true
            } else {
                false
            }
        }),
    ];
    for (name, lie) in lies {
        let world = World::new();
        let first = program(1, 1_000_000);
        world.write("app", &first);
        sync(&world);
        world.write("app", next_build(&first, 3));
        let source = world.scan();
        let mut contents = Contents::new();
        contents.use_versions(Versions::new(world.path().join("versions")));
        contents.add_tree(&source);
        let mut supplier = Loopback::of(contents);
        let mut done = false;
        supplier.hook = Some(Box::new(move |_, supply| {
            done = done || lie(supply);
            Ok(())
        }));
        let change = world.compare(&source, &mut supplier, true).unwrap().unwrap();
        match change.apply(&mut supplier) {
            // The whole hash differed, and the near side was asked in another way.
            Ok(()) => assert!(ways(&supplier).len() > 1, "{name}: {:?}", ways(&supplier)),
            Err(failure) => assert!(failure.message.contains("app"), "{name}: {failure:?}"),
        }
        let now = fs_err::read(world.dst().join("app")).unwrap();
        assert!(now == first || now == next_build(&first, 3), "{name}: neither old nor new");
    }
}

#[derive(Debug, Clone)]
enum Edit {
    Overwrite(u32, u16),
    Insert(u32, u16),
    Remove(u32, u16),
    Move(u32, u32, u16),
    Truncate(u32),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        (any::<u32>(), any::<u16>()).prop_map(|(at, len)| Edit::Overwrite(at, len)),
        (any::<u32>(), any::<u16>()).prop_map(|(at, len)| Edit::Insert(at, len)),
        (any::<u32>(), any::<u16>()).prop_map(|(at, len)| Edit::Remove(at, len)),
        (any::<u32>(), any::<u32>(), any::<u16>()).prop_map(|(from, to, len)| Edit::Move(from, to, len)),
        any::<u32>().prop_map(Edit::Truncate),
    ];
    proptest::collection::vec(edit, 0..6)
}

fn edited(old: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut new = old.to_vec();
    for (seed, edit) in (100..).zip(edits) {
        let place = |at: u32, len: usize| at as usize % (len + 1);
        match *edit {
            Edit::Overwrite(at, len) => {
                let at = place(at, new.len());
                let to = new.len().min(at + usize::from(len));
                let bytes = noise(seed, to - at);
                new[at..to].copy_from_slice(&bytes);
            }
            Edit::Insert(at, len) => {
                let at = place(at, new.len());
                new.splice(at..at, noise(seed, usize::from(len)));
            }
            Edit::Remove(at, len) => {
                let at = place(at, new.len());
                let to = new.len().min(at + usize::from(len));
                new.drain(at..to);
            }
            Edit::Move(from, to, len) => {
                let from = place(from, new.len());
                let end = new.len().min(from + usize::from(len) * 3);
                let moved: Vec<u8> = new.drain(from..end).collect();
                let to = place(to, new.len());
                new.splice(to..to, moved);
            }
            Edit::Truncate(at) => new.truncate(place(at, new.len()).max(1000)),
        }
    }
    new
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_new_version_arrives_whatever_is_known_of_the_old_one(
        len in 70_000usize..900_000,
        edits in edits(),
        has_version: bool,
        has_list: bool,
    ) {
        let world = World::new();
        let first = if len.is_multiple_of(2) { program(3, len) } else { noise(3, len) };
        world.write("app", &first);
        sync(&world);
        for file in fs_err::read_dir(world.path().join("versions")).unwrap() {
            let path = file.unwrap().path();
            let stays = if path.extension().is_some() { has_list } else { has_version };
            if !stays {
                fs_err::remove_file(path).unwrap();
            }
        }
        world.write("app", edited(&first, &edits));
        world.write("other", "something differs in any case");
        sync(&world);
    }
}
