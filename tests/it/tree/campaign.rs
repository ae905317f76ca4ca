//! A campaign of faults: whatever goes wrong in the middle of a sync, nothing is lost, nothing outside is touched, every
//! file is wholly old or wholly new, and the next run puts everything right.
//!
//! `CAMPAIGN_RUNS` and `CAMPAIGN_SEED` in the environment make it longer or other.

use std::{
    collections::{BTreeMap, HashSet},
    env, io,
    path::{Path, PathBuf},
    process::Command,
};

use ovs_cuisine::tree::{Contents, Supply, Versions};

use super::world::{Loopback, Seen, World, link, look, noise, set_mode, write};

const RUNS: u64 = 220;
const SEED: u64 = 20_261_121;
/// Room of the small file system: enough for the tree twice, and little more.
const SMALL: usize = 6 * 1024 * 1024;

/// What goes wrong, once the near side has sent some messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Cut,
    Corruption,
    FullDisk,
    SwappedParent,
    PlantedLink,
    ForeignFiles,
    SourceChanged,
    SourceGone,
    DestinationReplaced,
    ModesChanged,
}

const FAULTS: [Fault; 10] = [
    Fault::Cut,
    Fault::Corruption,
    Fault::FullDisk,
    Fault::SwappedParent,
    Fault::PlantedLink,
    Fault::ForeignFiles,
    Fault::SourceChanged,
    Fault::SourceGone,
    Fault::DestinationReplaced,
    Fault::ModesChanged,
];

/// Numbers that follow from a seed.
struct Numbers(u64);

impl Numbers {
    fn index(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).unwrap()
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }
}

/// A small file system below the world.
struct Small(PathBuf);

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn small(world: &World) -> Small {
    fs_err::create_dir_all(world.dst()).unwrap();
    let options = format!("size={SMALL}");
    let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(world.dst()).status();
    assert!(status.unwrap().success(), "this test mounts a tmpfs and needs root for it");
    Small(world.dst())
}

/// A directory that no sync may touch, with something of everything in it.
fn outside(world: &World) -> PathBuf {
    let path = world.path().join("outside");
    write(&path.join("file"), "outside");
    write(&path.join("dir0/file0"), "outside too");
    link(&path.join("link"), "file");
    path
}

/// Edits some of the source.
fn edit(world: &World, numbers: &mut Numbers, round: u64) {
    let src = world.src();
    for _ in 0..=numbers.below(12) {
        let directory = format!("dir{}", numbers.below(4));
        let file = format!("{directory}/file{}", numbers.below(12));
        let gone = |path: &Path| drop(fs_err::remove_dir_all(path).or_else(|_| fs_err::remove_file(path)));
        match numbers.below(8) {
            0 => gone(&src.join(&file)),
            1 => {
                gone(&src.join(&file));
                world.write(&format!("{file}/below"), noise(round, 3000));
            }
            2 => {
                let other = src.join(format!("dir{}", 4 + numbers.below(3)));
                gone(&other);
                if src.join(&directory).is_dir() {
                    fs_err::rename(src.join(&directory), other).unwrap();
                }
            }
            3 if src.join(&file).is_file() => {
                set_mode(&src.join(&file), if round.is_multiple_of(2) { 0o600 } else { 0o711 });
            }
            4 => {
                gone(&src.join(&directory).join("link"));
                link(&src.join(&directory).join("link"), "../dir1");
            }
            _ => {
                if src.join(&file).is_dir() {
                    gone(&src.join(&file));
                }
                world.write(&file, noise(round * 100 + numbers.below(100), numbers.index(9000)));
            }
        }
    }
    // Large enough for patches and chunks, and always something to send.
    let mut big = fs_err::read(src.join("big")).unwrap_or_else(|_| noise(1, 600_000));
    let at = numbers.index(big.len() - 2000);
    big[at..at + 1500].copy_from_slice(&noise(round, 1500));
    world.write("big", big);
    world.write("fresh", noise(round + 7_000_000, 200_000));
}

fn contents(seen: &BTreeMap<PathBuf, Seen>) -> HashSet<String> {
    let digest = |seen: &Seen| match seen {
        Seen::File { digest, .. } => Some(digest.clone()),
        _ => None,
    };
    seen.values().filter_map(digest).collect()
}

fn seen(path: &Path) -> BTreeMap<PathBuf, Seen> {
    if path.is_dir() { look(path) } else { BTreeMap::new() }
}

/// What happens at the given message. Gives whether it did anything.
fn strike(fault: Fault, world: &World, numbers: &mut Numbers, supply: &mut Supply) -> io::Result<()> {
    let (src, dst, outside) = (world.src(), world.dst(), world.path().join("outside"));
    let directory = format!("dir{}", numbers.below(7));
    match fault {
        Fault::Cut => return Err(io::ErrorKind::ConnectionReset.into()),
        Fault::Corruption => match supply {
            Supply::Literal(bytes) if !bytes.is_empty() => {
                let at = numbers.index(bytes.len());
                bytes[at] ^= 0x20;
            }
            Supply::Patch { frame, .. } => frame[0] ^= 0x20,
            Supply::Copy { offset, .. } => *offset ^= 1,
            Supply::Take(count) => *count += 1,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        },
        // Until nothing fits any more.
        Fault::FullDisk => drop(fs_err::write(dst.join("filler"), vec![1; SMALL])),
        Fault::SwappedParent => {
            if fs_err::rename(dst.join(&directory), world.path().join("aside")).is_ok() {
                link(&dst.join(&directory), outside.to_str().unwrap());
            }
        }
        Fault::PlantedLink => {
            let path = dst.join(&directory).join(format!("file{}", numbers.below(12)));
            let _ = fs_err::remove_file(&path);
            if path.parent().unwrap().is_dir() && fs_err::symlink_metadata(&path).is_err() {
                link(&path, outside.join("file").to_str().unwrap());
            }
        }
        Fault::ForeignFiles => {
            write(&dst.join(format!("foreign/{}", numbers.below(100))), "foreign");
            let _ = fs_err::write(dst.join(&directory).join("foreign"), "foreign");
        }
        Fault::SourceChanged => world.write("fresh", noise(numbers.below(1 << 30), 200_000)),
        Fault::SourceGone => fs_err::remove_dir_all(&src).unwrap(),
        Fault::DestinationReplaced => {
            fs_err::rename(&dst, world.path().join("aside")).unwrap();
            write(&dst.join("dir0/not-ours"), "another directory");
        }
        Fault::ModesChanged => {
            for path in [dst.join(&directory), dst.join("big")] {
                if fs_err::symlink_metadata(&path).is_ok_and(|status| !status.is_symlink()) {
                    set_mode(&path, 0o500);
                }
            }
        }
    }
    Ok(())
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    runs: u32,
    struck: u32,
    failed: u32,
}

/// One sync in which the fault strikes after some messages. Gives whether it struck, and whether the sync failed.
fn faulty(world: &World, fault: Fault, numbers: &mut Numbers) -> (bool, bool) {
    let source = world.scan();
    let mut offered = Contents::new();
    offered.use_versions(Versions::new(world.path().join("versions")));
    offered.add_tree(&source);
    let mut supplier = Loopback::of(offered);
    let change = match world.compare(&source, &mut supplier, true) {
        Ok(change) => change.expect("the source was edited"),
        Err(failure) => panic!("{failure}"),
    };
    let (after, seed, twin) = (supplier.given + numbers.index(9), numbers.below(1 << 40), World::at(world.path()));
    let struck = std::rc::Rc::new(std::cell::Cell::new(false));
    let strikes = std::rc::Rc::clone(&struck);
    supplier.hook = Some(Box::new(move |given, supply| {
        if given < after || strikes.replace(true) {
            return Ok(());
        }
        strike(fault, &twin, &mut Numbers(seed), supply)
    }));
    let failed = change.apply(&mut supplier).is_err();
    supplier.finish_keeping();
    (struck.get(), failed)
}

fn campaign(seed: u64, runs: u64) -> BTreeMap<Fault, Count> {
    let mut counts: BTreeMap<Fault, Count> = BTreeMap::new();
    let mut numbers = Numbers(seed);
    let mut world = World::new();
    for round in 0..runs {
        let fault = FAULTS[usize::try_from(round).unwrap() % FAULTS.len()];
        if round.is_multiple_of(2 * FAULTS.len() as u64) {
            world = World::new();
            outside(&world);
        }
        let _small = (fault == Fault::FullDisk).then(|| {
            let _ = fs_err::remove_dir_all(world.dst());
            small(&world)
        });
        edit(&world, &mut numbers, 2 * round);
        world.sync_well();
        let (old, canary) = (seen(&world.dst()), seen(&world.path().join("outside")));
        edit(&world, &mut numbers, 2 * round + 1);
        let new = look(&world.src());
        let kept = world.path().join("kept-source");
        let _ = fs_err::remove_dir_all(&kept);
        assert!(Command::new("cp").arg("-a").arg(world.src()).arg(&kept).status().unwrap().success());

        let (struck, failed) = faulty(&world, fault, &mut numbers);
        let count = counts.entry(fault).or_default();
        count.runs += 1;
        count.struck += u32::from(struck);
        count.failed += u32::from(failed);
        let told = format!("seed {seed}, round {round}, {fault:?}, struck: {struck}, failed: {failed}");

        assert_eq!(seen(&world.path().join("outside")), canary, "nothing outside: {told}");
        let now = seen(&world.dst());
        let aside = seen(&world.path().join("aside"));
        let whole = &contents(&old) | &contents(&new);
        let foreign: HashSet<String> =
            [&b"foreign"[..], b"another directory"].iter().map(|text| blake3::hash(text).to_string()).collect();
        for (path, entry) in &now {
            let is_ours = path.to_string_lossy().contains(".ovs-cuisine.") || path.ends_with("filler");
            if let (Seen::File { digest, .. }, false) = (entry, is_ours) {
                assert!(whole.contains(digest) || foreign.contains(digest), "`{}` is mixed: {told}", path.display());
            }
        }
        if failed && !matches!(fault, Fault::PlantedLink) {
            // What both trees have is still there, or where the fault has moved it.
            let left = &contents(&now) | &contents(&aside);
            for lost in contents(&old).intersection(&contents(&new)) {
                assert!(left.contains(lost), "{lost} is lost: {told}");
            }
        }

        // Everybody goes home; the next run puts everything right.
        let _ = fs_err::remove_dir_all(world.path().join("aside"));
        let _ = fs_err::remove_file(world.dst().join("filler"));
        if !world.src().exists() {
            fs_err::rename(&kept, world.src()).unwrap();
        }
        world.sync_well();
        world.assert_equal();
        if round.is_multiple_of(10) {
            world.assert_rsync_agrees();
        }
    }
    counts
}

#[test]
fn whatever_goes_wrong_nothing_is_lost_and_the_next_run_puts_it_right() {
    let number = |name: &str, usual: u64| env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (seed, runs) = (number("CAMPAIGN_SEED", SEED), number("CAMPAIGN_RUNS", RUNS));
    let counts = campaign(seed, runs);
    println!("{:<22}{:>6}{:>8}{:>8}", "fault", "runs", "struck", "failed");
    for (fault, Count { runs, struck, failed }) in &counts {
        println!("{:<22}{runs:>6}{struck:>8}{failed:>8}", format!("{fault:?}"));
    }
    assert_eq!(counts.values().map(|count| u64::from(count.runs)).sum::<u64>(), runs);
    for (fault, count) in counts {
        assert!(count.struck > 0, "{fault:?} never struck in the middle of a run");
    }
}
