//! Pushes of the real program over a real SSH connection that is cut at any byte, or whose near side is killed: every
//! file on the host is wholly old or wholly new, nothing outside the tree is touched, and the next push converges.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::root_of;
use crate::support::lab::TestLab;

/// Cuts of the trial, and the seed that makes them; `CUT_RUNS` and `CUT_SEED` in the environment make it longer or
/// other.
const RUNS: u64 = 24;
const SEED: u64 = 20_261_121;
/// A push of the trial's tree is some 300 KB on the wire, most of them towards the host.
const MOST_BYTES: u64 = 300_000;

/// A relay to an SSH server that goes silent and closes after so many bytes.
struct Relay {
    port: u16,
    /// Bytes that may still pass, in both directions together.
    left: Arc<AtomicUsize>,
    is_cut: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    fn to(address: String) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (left, is_cut, is_over) = (Arc::new(AtomicUsize::new(usize::MAX)), Arc::default(), Arc::default());
        let (passing, cut, over) = (Arc::clone(&left), Arc::clone(&is_cut), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            for near in listener.incoming() {
                if AtomicBool::load(&over, Ordering::Relaxed) {
                    return;
                }
                let (Ok(near), Ok(far)) = (near, TcpStream::connect((address.as_str(), 22))) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (passing, cut) = (Arc::clone(&passing), Arc::clone(&cut));
                    thread::spawn(move || pass(from, to, &passing, &cut));
                }
            }
        });
        Self { port, left, is_cut, is_over, thread: Some(thread) }
    }

    /// Lets so many bytes pass from now on.
    fn allow(&self, bytes: usize) {
        self.is_cut.store(false, Ordering::SeqCst);
        self.left.store(bytes, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Wakes the thread, which finds that it is over.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Passes bytes on as long as that is allowed; then both ends are closed.
fn pass(mut from: TcpStream, mut to: TcpStream, left: &AtomicUsize, is_cut: &AtomicBool) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let take = |left: usize| Some(left.saturating_sub(if left == usize::MAX { 0 } else { count }));
        let before = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).unwrap_or(0);
        let passed = to.write_all(&buffer[..count.min(before)]);
        if before < count {
            is_cut.store(true, Ordering::SeqCst);
        }
        if passed.is_err() || before < count {
            break;
        }
    }
    // Either may be closed already.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// Numbers that follow from a seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Content that does not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Another version of the tree: files that change, come, go, and become directories.
fn next_version(build: &Path, round: u64, numbers: &mut Numbers) {
    for number in 0..12 {
        let path = build.join(format!("dir{}/file{number}", number % 3));
        let _ = fs_err::remove_dir_all(&path).or_else(|_| fs_err::remove_file(&path));
        match numbers.below(6) {
            0 => {}
            1 => {
                fs_err::create_dir_all(&path).unwrap();
                fs_err::write(path.join("below"), noise(round * 100 + number, 700)).unwrap();
            }
            _ => {
                fs_err::create_dir_all(path.parent().unwrap()).unwrap();
                let size = usize::try_from(numbers.below(9000)).unwrap();
                fs_err::write(path, noise(round * 100 + number, size)).unwrap();
            }
        }
    }
    fs_err::write(build.join("large"), noise(round, 200_000)).unwrap();
}

/// Digests of the files below a directory; unfinished ones of ours aside.
fn files(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        // What vanishes meanwhile is not there.
        for path in fs_err::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.file_name().unwrap().to_string_lossy().starts_with(".ovs-cuisine.") {
                continue;
            }
            if path.is_dir() {
                waiting.push(path);
            } else if let Ok(content) = fs_err::read(&path) {
                files.insert(path.strip_prefix(root).unwrap().to_path_buf(), blake3::hash(&content).to_string());
            }
        }
    }
    files
}

const INVENTORY: &str = r#"
[host.node-1.container]
image = "ovs-cuisine/ssh:latest"
"#;

const RECIPE: &str = r#"
"""A tree."""

params(build = param("path", doc = "Tree to push."))

def deploy(ctx):
    sync(ctx.params.build, "/srv/app", delete = True)
"#;

/// How a push ends before its time.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The connection is cut after so many bytes.
    Cut(usize),
    /// The near side is killed when so many bytes have passed.
    Killed(usize),
}

fn push_and_end(lab: &TestLab, relay: &Relay, end: End) -> bool {
    let mut command = lab.command(&["push", "LAB", "app"]);
    match end {
        End::Cut(bytes) => {
            relay.allow(bytes);
            !command.output().unwrap().status.success()
        }
        End::Killed(bytes) => {
            // No byte passes beyond that point, and the cut is what tells that it is reached.
            relay.allow(bytes);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            loop {
                if let Some(status) = child.try_wait().unwrap() {
                    return !status.success();
                }
                if relay.is_cut.load(Ordering::SeqCst) {
                    // It may have ended this moment.
                    let _ = child.kill();
                    return !child.wait().unwrap().success();
                }
                thread::yield_now();
            }
        }
    }
}

#[test]
fn a_push_that_is_cut_or_killed_anywhere_leaves_whole_files() {
    let number = |name: &str, usual: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (seed, runs) = (number("CUT_SEED", SEED), number("CUT_RUNS", RUNS));
    let lab = TestLab::new(INVENTORY);
    lab.recipe("app", RECIPE);
    lab.expect(0, &["up", "LAB"]);
    let relay = Relay::to(lab.address("node-1"));
    let mut text = INVENTORY.to_owned();
    let (key, login) = (lab.host_key("node-1"), lab.login_key());
    write!(
        text,
        "[host.far.ssh]\naddress = \"127.0.0.1\"\nport = {}\nhost_key = \"{key}\"\nkey = \"{}\"\n\n\
         [component.app]\nrecipe = \"app\"\nhosts = [\"far\"]\nparams = {{ build = \"build\" }}\n",
        relay.port,
        login.display()
    )
    .unwrap();
    lab.inventory(&text);
    lab.inside("node-1", "mkdir /srv/beside; echo precious >/srv/beside/file");
    let (build, target) = (lab.path("build"), root_of(&lab, "node-1").join("srv/app"));
    let mut numbers = Numbers(seed);
    fs_err::create_dir(&build).unwrap();
    next_version(&build, 0, &mut numbers);
    lab.expect(0, &["push", "LAB", "app"]);
    assert_eq!(files(&build), files(&target));
    let mut ended = 0;
    // Every version since the last push that was not ended: a helper finishes what it has received, in its own time.
    let mut whole: BTreeSet<(PathBuf, String)> = files(&target).into_iter().collect();
    for round in 1..=runs {
        next_version(&build, round, &mut numbers);
        whole.extend(files(&build));
        let bytes = usize::try_from(numbers.below(MOST_BYTES)).unwrap();
        let end = if round % 4 == 0 { End::Killed(bytes) } else { End::Cut(bytes) };
        let is_ended = push_and_end(&lab, &relay, end);
        ended += u64::from(is_ended);
        let story = format!("seed {seed}, round {round}, {end:?}, ended early: {is_ended}");
        for version in files(&target) {
            assert!(whole.contains(&version), "{} is neither old nor new: {story}", version.0.display());
        }
        assert_eq!(lab.inside("node-1", "ls /srv; cat /srv/beside/*"), "app\nbeside\nprecious\n", "{story}");
        relay.allow(usize::MAX);
        if round % 4 == 0 || !is_ended {
            let run = lab.run(&["push", "LAB", "app"]);
            assert_eq!(run.status, 0, "{story}: {}", run.stderr);
            assert_eq!(files(&build), files(&target), "{story}");
            whole = files(&target).into_iter().collect();
        }
    }
    println!("{runs} pushes, {ended} of them ended early");
    assert!(ended * 4 > runs, "only {ended} of {runs} pushes were ended early");
    lab.expect(0, &["push", "LAB", "app"]);
    assert_eq!(files(&build), files(&target));
    let left = lab.inside("node-1", "find /srv -name '.ovs-cuisine.*'");
    assert_eq!(left, "", "the last push sweeps what the others left");
}
