//! Syncs in a process of their own: killed at any time, or without root's rights.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use super::world::{Seen, World, look, noise, set_mode, write};

/// Names the world's directory to the child.
const WORLD: &str = "OVS_CUISINE_TEST_WORLD";
/// An ordinary user: `nobody`.
const NOBODY: u32 = 65_534;

#[test]
#[ignore = "run as a child by the tests below"]
fn child() {
    let world = World::at(Path::new(&env::var_os(WORLD).unwrap()));
    println!("begins");
    match world.try_scan().map_err(|error| format!("{error}: {:?}", std::error::Error::source(&error))) {
        Ok(_) => match world.sync() {
            Ok(_) => println!("synced"),
            Err(failure) => println!("failed: {:?}: {failure}", failure.kind),
        },
        Err(error) => println!("no scan: {error}"),
    }
}

/// Starts the child and waits until it begins.
fn begin(mut command: Command, world: &World) -> (Child, impl Iterator<Item = String>) {
    let mut child = command
        .args(["--exact", "tree::child::child", "--ignored", "--nocapture"])
        .env(WORLD, world.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.by_ref().any(|line| line.ends_with("begins")));
    (child, lines)
}

fn possible(seen: &BTreeMap<PathBuf, Seen>) -> BTreeSet<(PathBuf, String)> {
    seen.iter()
        .filter_map(|(path, seen)| match seen {
            Seen::File { digest, .. } => Some((path.clone(), digest.clone())),
            _ => None,
        })
        .collect()
}

#[test]
fn killed_at_any_time_it_leaves_whole_files_and_the_next_run_finishes() {
    let world = World::new();
    let mut kills = 0;
    for round in 0..24u64 {
        let before = look_or_nothing(&world.dst());
        for number in 0..60 {
            world.write(&format!("{}/{number}", number % 5), noise(round * 1000 + number, 20_000));
        }
        world.write("big", noise(round, 400_000));
        let (swap, other) = if round % 2 == 0 { ("swap", "swap/file") } else { ("swap/file", "swap") };
        let _ =
            fs_err::remove_dir_all(world.src().join("swap")).or_else(|_| fs_err::remove_file(world.src().join(swap)));
        world.write(other, "x");
        let (mut child, _lines) = begin(Command::new(env::current_exe().unwrap()), &world);
        // Any moment will do: what must hold, holds at every one.
        thread::sleep(Duration::from_micros(round * 1500));
        child.kill().unwrap();
        kills += usize::from(!child.wait().unwrap().success());
        let now = look_or_nothing(&world.dst());
        let allowed = &possible(&before) | &possible(&look(&world.src()));
        for (path, digest) in possible(&now) {
            let is_ours = path.iter().any(|part| part.to_string_lossy().starts_with(".ovs-cuisine."));
            assert!(is_ours || allowed.contains(&(path.clone(), digest)), "{} is neither old nor new", path.display());
        }
        if round % 3 == 2 {
            world.sync_well();
            world.assert_equal();
        }
    }
    assert!(kills > 0, "no child was killed before it had finished");
}

fn look_or_nothing(path: &Path) -> BTreeMap<PathBuf, Seen> {
    if path.exists() { look(path) } else { BTreeMap::new() }
}

/// Runs a sync as an ordinary user; gives its last word.
fn sync_as_nobody(world: &World) -> String {
    set_mode(world.path(), 0o777);
    // The tests' own place may be closed to others.
    let program = world.path().join("program");
    if !program.exists() {
        fs_err::copy(env::current_exe().unwrap(), &program).unwrap();
    }
    let mut command = Command::new("setpriv");
    let id = NOBODY.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(program).env("TMPDIR", world.path());
    let (mut child, lines) = begin(command, world);
    let words: Vec<String> =
        lines.filter(|line| line.contains("sync") || line.contains("failed") || line.contains("scan")).collect();
    child.wait().unwrap();
    words.first().cloned().unwrap_or_default()
}

fn give_to_nobody(path: &Path) {
    let id = NOBODY.to_string();
    assert!(Command::new("chown").args(["-hR", &format!("{id}:{id}")]).arg(path).status().unwrap().success());
}

#[test]
fn an_ordinary_user_can_change_its_read_only_directories() {
    let world = World::new();
    world.write("closed/deep/file", "old");
    world.write("closed/same", "same");
    world.write("closed/goes", "goes");
    world.write("secret", "old secret");
    world.sync_well();
    world.write("closed/deep/file", "new");
    world.write("secret", "new secret");
    fs_err::remove_file(world.src().join("closed/goes")).unwrap();
    for root in [world.src(), world.dst()] {
        set_mode(&root.join("closed/deep"), 0o555);
        set_mode(&root.join("closed"), 0o555);
        give_to_nobody(&root);
    }
    // The host's file cannot be read by its owner; the new one must take its place anyway.
    set_mode(&world.dst().join("secret"), 0);
    give_to_nobody(&world.state());
    assert_eq!(sync_as_nobody(&world), "synced");
    world.assert_equal();
    assert_eq!(fs_err::metadata(world.dst().join("closed/deep/file")).unwrap().uid(), NOBODY);
}

#[test]
fn what_an_ordinary_user_may_not_is_a_failure_that_names_the_path() {
    let world = World::new();
    world.write("sub/file", "new");
    write(&world.dst().join("sub/file"), "old");
    give_to_nobody(&world.src());
    let said = sync_as_nobody(&world);
    assert!(said.starts_with("failed: Permission") && said.contains("dst/sub/file"), "{said}");
    assert_eq!(fs_err::read_to_string(world.dst().join("sub/file")).unwrap(), "old");

    fs_err::remove_dir_all(world.dst()).unwrap();
    set_mode(&world.src().join("sub/file"), 0);
    let said = sync_as_nobody(&world);
    assert!(said.starts_with("no scan: cannot read") && said.contains("src/sub/file"), "{said}");
    assert!(!world.dst().exists());
}
