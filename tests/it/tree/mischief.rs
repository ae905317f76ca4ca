//! Another hand changes the destination while the real helper changes it: directories are swapped for links that lead
//! outside, links and pipes are planted, names are taken away, at any change that the helper makes. Nothing outside is
//! touched, nothing is torn, and the next run converges.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};

use super::{
    far::{As, End, Ran, run},
    world::{Seen, World, link, look, noise, set_mode, write},
};

/// Runs of the trial, and the seed that makes them; `MISCHIEF_RUNS` and `MISCHIEF_SEED` in the environment make it
/// longer or other.
const RUNS: u64 = 80;
const SEED: u64 = 20_261_121;

/// What the other hand does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    /// A directory becomes a link to one outside that has the same names in it.
    SwapForLink,
    /// Likewise, and a moment later it is back.
    SwapAndBack,
    /// A link to a file outside takes the place of a file.
    PlantLink,
    /// Links outside take the place of everything unfinished.
    PlantInUnfinished,
    /// A pipe takes the place of a file.
    PlantPipe,
    /// A directory with all that is in it goes.
    TakeAway,
    /// Nobody but the owner may do anything any more.
    Close,
}

const DEEDS: [Deed; 7] = [
    Deed::SwapForLink,
    Deed::SwapAndBack,
    Deed::PlantLink,
    Deed::PlantInUnfinished,
    Deed::PlantPipe,
    Deed::TakeAway,
    Deed::Close,
];

struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// The next version of the source: some files change, some come and go, one directory becomes a file and back.
fn edit(world: &World, round: u64, numbers: &mut Numbers) {
    for number in 0..24 {
        let path = format!("dir{}/sub/file{number}", number % 3);
        match numbers.below(4) {
            0 => drop(fs_err::remove_file(world.src().join(path))),
            _ => world.write(&path, noise(round * 1000 + number, usize::try_from(numbers.below(3000)).unwrap())),
        }
    }
    let turning = world.src().join("turning");
    let _ = fs_err::remove_dir_all(&turning).or_else(|_| fs_err::remove_file(&turning));
    world.write(if round.is_multiple_of(2) { "turning" } else { "turning/file" }, noise(round, 100));
    world.write("large", noise(round, 150_000));
}

/// A directory that nothing may touch, with the names that the tree has.
fn outside(world: &World) -> PathBuf {
    let path = world.path().join("outside");
    for number in 0..24 {
        write(&path.join(format!("sub/file{number}")), "outside");
        write(&path.join(format!("file{number}")), "outside");
    }
    path
}

/// Contents, owners and times: what a write through a link would change.
fn canary(path: &Path) -> (BTreeMap<PathBuf, Seen>, String) {
    let output = Command::new("find").arg(path).args(["-printf", "%p %m %U %G %T@ %C@\n"]).output().unwrap();
    (look(path), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn unfinished(dst: &Path) -> Vec<PathBuf> {
    let is_ours = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(".ovs-cuisine.");
    look(dst).into_keys().filter(is_ours).map(|path| dst.join(path)).collect()
}

fn remove(path: &Path) {
    let _ = fs_err::remove_dir_all(path).or_else(|_| fs_err::remove_file(path));
}

/// Does it; a deed that finds nothing to do it to does nothing.
fn act(deed: Deed, world: &World, which: u64) {
    let (dst, outside, aside) = (world.dst(), world.path().join("outside"), world.path().join("aside"));
    let directory = dst.join(format!("dir{}", which % 3)).join(if which.is_multiple_of(2) { "sub" } else { "" });
    let file = dst.join(format!("dir{}/sub/file{}", which % 3, which % 24));
    let is_directory = fs_err::symlink_metadata(&directory).is_ok_and(|status| status.is_dir());
    match deed {
        Deed::SwapForLink | Deed::SwapAndBack if is_directory => {
            // Without the slash that `join("")` leaves.
            let directory: PathBuf = directory.components().collect();
            fs_err::rename(&directory, &aside).unwrap();
            link(&directory, outside.to_str().unwrap());
            if deed == Deed::SwapAndBack {
                fs_err::remove_file(&directory).unwrap();
                fs_err::rename(&aside, &directory).unwrap();
            }
        }
        Deed::PlantLink if file.parent().unwrap().is_dir() => {
            remove(&file);
            link(&file, outside.join("file0").to_str().unwrap());
        }
        Deed::PlantInUnfinished => {
            for path in unfinished(&dst) {
                remove(&path);
                link(&path, outside.join("file0").to_str().unwrap());
            }
        }
        Deed::PlantPipe if file.parent().unwrap().is_dir() => {
            remove(&file);
            assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
        }
        Deed::TakeAway => remove(&directory),
        Deed::Close if is_directory => set_mode(&directory, 0),
        _ => {}
    }
}

#[test]
fn another_hand_at_work_leads_nowhere() {
    let number = |name: &str, usual: u64| env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (seed, runs) = (number("MISCHIEF_SEED", SEED), number("MISCHIEF_RUNS", RUNS));
    let mut numbers = Numbers(seed);
    let world = World::new();
    let outside = outside(&world);
    edit(&world, 0, &mut numbers);
    world.sync_well();
    let mut counts: BTreeMap<Deed, [u32; 3]> = BTreeMap::new();
    for round in 1..=runs {
        let deed = DEEDS[usize::try_from(round).unwrap() % DEEDS.len()];
        let (at, which) = (usize::try_from(1 + numbers.below(50)).unwrap(), numbers.below(1000));
        let (old, before) = (look(&world.dst()), canary(&outside));
        edit(&world, round, &mut numbers);
        let new = look(&world.src());
        let source = world.scan();
        let (twin, done) = (World::at(world.path()), Arc::new(Mutex::new(false)));
        let (mut events, is_done) = (0, Arc::clone(&done));
        let (ran, _) = run(&world, &source, (As::Root, End::Late), move || {
            events += 1;
            if events == at {
                act(deed, &twin, which);
                *is_done.lock().unwrap() = true;
            }
        });
        let is_done = *done.lock().unwrap();
        let has_failed = matches!(&ran, Ran::Told(ovs_cuisine::plan::Outcome::Failed(_)));
        let story = format!("seed {seed}, round {round}, {deed:?} at change {at}, done: {is_done}: {ran:?}");
        let count = counts.entry(deed).or_default();
        count[0] += 1;
        count[1] += u32::from(is_done);
        count[2] += u32::from(has_failed);

        assert!(matches!(ran, Ran::Told(_)), "the helper is gone: {story}");
        assert_eq!(canary(&outside), before, "{story}");
        let digests = |seen: &BTreeMap<PathBuf, Seen>| -> Vec<String> {
            let digest = |seen: &Seen| if let Seen::File { digest, .. } = seen { Some(digest.clone()) } else { None };
            seen.values().filter_map(digest).collect()
        };
        let whole = [digests(&old), digests(&new)].concat();
        for (path, seen) in look(&world.dst()) {
            let is_ours = path.iter().any(|part| part.to_string_lossy().starts_with(".ovs-cuisine."));
            if let (Seen::File { digest, .. }, false) = (seen, is_ours) {
                assert!(whole.contains(&digest), "{} is torn: {story}", path.display());
            }
        }

        remove(&world.path().join("aside"));
        world.sync_well();
        world.assert_equal();
        assert_eq!(canary(&outside), before, "after the next run: {story}");
    }
    println!("{:<20}{:>6}{:>6}{:>8}", "deed", "runs", "done", "failed");
    for (deed, [runs, done, failed]) in &counts {
        println!("{:<20}{runs:>6}{done:>6}{failed:>8}", format!("{deed:?}"));
        assert!(*done > 0, "{deed:?} was never done in the middle of a run");
    }
}
