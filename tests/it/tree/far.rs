//! The real helper as a process of this machine, and what can be done to it while it works.

use std::{
    io::{self, Read, Write},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::OnceLock,
    thread::{self, JoinHandle},
};

use ovs_cuisine::{
    plan::{Op, Outcome, Plan, Source, Step, StepId},
    tree::{Contents, SourceTree},
    wire::{self, FromHelper, Mode, NearHello, PROTOCOL, Preamble, PreambleScanner, StepEvent, ToHelper},
};
use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid},
};

use super::world::{Seen, World, look};

const NONCE: &str = "n0nce";
/// Bytes of events read at once.
const EVENTS: usize = 16 * 1024;

/// The embedded helper, unpacked once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = PROGRAM.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        fs_err::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let path = dir.path().join("cuisine-helper");
        let packed = fs_err::read(env!("OVS_CUISINE_EMBEDDED_HELPER_ZST")).unwrap();
        zstd::stream::copy_decode(packed.as_slice(), fs_err::File::create(&path).unwrap()).unwrap();
        fs_err::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        (dir, path)
    });
    path
}

/// Who the helper is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum As {
    /// Root, whose state lies in the world, though it believes that it is in `/var/lib`.
    Root,
    /// An ordinary user, who owns the destination and its state in the world.
    Nobody,
}

/// What ends a helper before its time.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// Nothing does.
    Late,
    /// It is killed when so many names below the destination have come, gone or changed.
    KilledAtEvent(usize),
    /// It is killed when so many bytes have been sent to it.
    KilledAtByte(usize),
    /// The connection ends after so many bytes to it, in the middle of whatever is being said.
    CutAtByte(usize),
}

/// What came of a run.
#[derive(Debug)]
pub(super) enum Ran {
    /// It said what became of the sync.
    Told(Outcome),
    /// It was gone before.
    Gone,
}

/// Counts bytes on their way to the helper and ends it, or the connection, at the right one.
struct Tap {
    stdin: Option<ChildStdin>,
    pid: Pid,
    left: Option<usize>,
    kills: bool,
}

impl Write for Tap {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let stdin = self.stdin.as_mut().ok_or_else(gone)?;
        let Some(left) = &mut self.left else { return stdin.write(bytes) };
        if *left == 0 {
            if self.kills {
                // It may have ended by itself.
                let _ = kill_process(self.pid, Signal::KILL);
            }
            self.stdin = None;
            return Err(gone());
        }
        let count = stdin.write(&bytes[..bytes.len().min(*left)])?;
        *left -= count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdin.as_mut().map_or(Ok(()), Write::flush)
    }
}

/// A helper at work.
struct Far {
    child: Child,
    tap: Tap,
    stdout: ChildStdout,
}

impl Far {
    fn start(world: &World, who: As, end: End) -> Self {
        fs_err::create_dir_all(world.state()).unwrap();
        let script = match who {
            As::Root => "mount --bind \"$0\" /var/lib; exec \"$1\" serve \"$2\"",
            As::Nobody => {
                "exec setpriv --reuid 65534 --regid 65534 --clear-groups env XDG_STATE_HOME=\"$0\" \"$1\" serve \"$2\""
            }
        };
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-euc", script])
            .arg(world.state())
            .arg(program())
            .arg(NONCE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (left, kills) = match end {
            End::Late | End::KilledAtEvent(_) => (None, false),
            End::KilledAtByte(bytes) => (Some(bytes), true),
            End::CutAtByte(bytes) => (Some(bytes), false),
        };
        let tap = Tap { stdin: child.stdin.take(), pid: Pid::from_child(&child), left, kills };
        Self { child, tap, stdout }
    }

    fn say(&mut self, message: &ToHelper) -> bool {
        wire::write_message(&mut self.tap, message).is_ok()
    }

    /// Syncs, as far as it gets.
    fn sync(&mut self, op: ovs_cuisine::plan::Sync, contents: &Contents) -> Ran {
        let mut scanner = PreambleScanner::new(Preamble::new(NONCE).unwrap());
        let mut byte = [0];
        loop {
            match self.stdout.read(&mut byte) {
                Ok(1) => {}
                _ => return Ran::Gone,
            }
            if scanner.push(&byte).unwrap().is_some() {
                break;
            }
        }
        let hello = NearHello {
            protocol: PROTOCOL,
            owner: "a trial".to_owned(),
            lock_wait_ms: 60_000,
            lab: "trial".parse().unwrap(),
        };
        let plan = ToHelper::Plan { request: 1, mode: Mode::Apply, plan: plan(op) };
        if !self.say(&ToHelper::Hello(hello)) || !self.say(&plan) {
            return Ran::Gone;
        }
        let mut outcome = None;
        while let Ok(Some(message)) = wire::read_message::<FromHelper>(&mut self.stdout) {
            match message {
                FromHelper::Demand { demand, .. } => {
                    let tap = &mut self.tap;
                    let mut send = |supply| {
                        wire::write_message(tap, &ToHelper::Supply { request: 1, supply }).map_err(io::Error::other)
                    };
                    if contents.answer(&demand, &mut send).is_err() {
                        return Ran::Gone;
                    }
                }
                FromHelper::Steps { reports, .. } => {
                    outcome = reports
                        .into_iter()
                        .rev()
                        .find_map(|report| match report.event {
                            StepEvent::Finished { outcome, .. } => Some(outcome),
                            _ => None,
                        })
                        .or(outcome);
                }
                FromHelper::Done { .. } => return outcome.map_or(Ran::Gone, Ran::Told),
                _ => {}
            }
        }
        Ran::Gone
    }

    /// Hangs up and waits for its end, which nobody has taken note of yet: its number stays its own.
    fn hang_up(&mut self) {
        self.tap.stdin = None;
        waitid(WaitId::Pid(self.tap.pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
    }
}

fn plan(op: ovs_cuisine::plan::Sync) -> Plan {
    let step = Step {
        id: StepId(0),
        key: "sync".to_owned(),
        op: Op::Sync(op),
        source: Source { file: "recipe.star".to_owned(), line: 1 },
        only_if_changed: Vec::new(),
        sensitive: false,
        ignore_errors: false,
    };
    Plan { component: "trial".parse().unwrap(), host: "host".parse().unwrap(), steps: vec![step] }
}

/// Sees every change below a directory and does something at chosen ones.
struct Guard {
    thread: JoinHandle<usize>,
    stop: PathBuf,
    _stops: tempfile::TempDir,
}

impl Guard {
    /// `strike` is called with the number of each event, from 1, while the helper stands still.
    fn set(dst: &Path, pid: Pid, mut strike: impl FnMut(usize) -> bool + Send + 'static) -> Self {
        let stops = tempfile::tempdir().unwrap();
        let events = inotify::init(CreateFlags::CLOEXEC).unwrap();
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_TO
            | WatchFlags::ATTRIB
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ONLYDIR;
        let end = inotify::add_watch(&events, stops.path(), WatchFlags::CREATE).unwrap();
        // The directory itself may be made by the helper; its parent is watched too.
        let directories = look(dst.parent().unwrap())
            .into_iter()
            .filter(|(path, seen)| path.starts_with("dst") && matches!(seen, Seen::Dir { .. }));
        for (path, _) in directories {
            inotify::add_watch(&events, dst.parent().unwrap().join(path), flags).unwrap();
        }
        let thread = thread::spawn(move || follow(&events, end, pid, &mut strike));
        Self { thread, stop: stops.path().join("stop"), _stops: stops }
    }

    /// How many events there were.
    fn end(self) -> usize {
        fs_err::File::create(&self.stop).unwrap();
        self.thread.join().unwrap()
    }
}

fn follow(events: &OwnedFd, end: i32, pid: Pid, strike: &mut dyn FnMut(usize) -> bool) -> usize {
    let mut buffer = vec![MaybeUninit::uninit(); EVENTS];
    let mut reader = inotify::Reader::new(events, &mut buffer);
    let mut count = 0;
    let mut is_over = false;
    loop {
        let event = reader.next().unwrap();
        if event.wd() == end {
            return count;
        }
        count += 1;
        // Still while it is looked at, so that what is seen is what a kill at this point would have left.
        if !is_over && kill_process(pid, Signal::STOP).is_ok() {
            wait_until_still(pid);
            is_over = strike(count);
            let _ = kill_process(pid, if is_over { Signal::KILL } else { Signal::CONT });
        }
    }
}

/// Waits until a process that was told to stop does nothing more, or is gone.
fn wait_until_still(pid: Pid) {
    let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
    let is_still = || {
        let Ok(threads) = fs_err::read_dir(&tasks) else { return true };
        threads.flatten().all(|thread| {
            let status = fs_err::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The state follows the name, which is in brackets.
            status.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't', 'Z', 'X']))
        })
    };
    while !is_still() {
        thread::yield_now();
    }
}

/// Runs one sync of the world by a real helper. `look_in` is called at some moments at which the helper stands still.
/// Gives what came of it, and how many changes below the destination were seen.
pub(super) fn run(
    world: &World,
    source: &SourceTree,
    (who, end): (As, End),
    mut look_in: impl FnMut() + Send + 'static,
) -> (Ran, usize) {
    let mut contents = Contents::new();
    contents.add_tree(source);
    let mut far = Far::start(world, who, end);
    let pid = Pid::from_child(&far.child);
    let guard = Guard::set(&world.dst(), pid, move |number| {
        look_in();
        matches!(end, End::KilledAtEvent(last) if number >= last)
    });
    let ran = far.sync(world.op(source), &contents);
    far.hang_up();
    let events = guard.end();
    far.child.wait().unwrap();
    (ran, events)
}
