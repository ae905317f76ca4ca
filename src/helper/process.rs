//! Runs commands: a clean environment, an own process group, a deadline, and output that is passed on line by line.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::PathBuf,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{Pid, Signal, kill_process_group},
};

use super::{
    become_user::{self, Identity},
    stop::Stop,
};
use crate::{plan::Secret, wire::Stream};

/// Where commands are looked for.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Longest line that is passed on in bytes; longer ones are cut into several.
const MAX_LINE: usize = 16 * 1024;
/// How many last lines are kept for error messages.
const TAIL: usize = 20;
/// How often a cancellation or deadline is looked at.
const TICK: Duration = Duration::from_millis(50);
/// How soon a command is looked at that has closed all that it writes to; then in twice the time, and so on.
const FIRST_LOOK: Duration = Duration::from_micros(200);
/// How long a command may take to end by itself after SIGTERM.
const GRACE: Duration = Duration::from_secs(1);
/// How long the output of an ended command is waited for. A daemon that it left behind may hold it for ever.
const LINGER: Duration = Duration::from_millis(250);

/// A command to run.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    what: What,
    environment: Vec<(String, Secret<String>)>,
    directory: Option<PathBuf>,
    identity: Option<Identity>,
    stdin: Option<Secret<Vec<u8>>>,
    timeout: Duration,
}

#[derive(Debug, Clone)]
enum What {
    Program(Vec<String>),
    /// A shell script that must not be seen in a process listing.
    Hidden(Secret<String>),
}

impl Job {
    /// A program (looked for in [`PATH`]) with arguments, with a minute's time.
    pub(crate) fn program<'a>(program: &'a str, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        let argv = std::iter::once(program).chain(arguments).map(str::to_owned).collect();
        Self::of(What::Program(argv))
    }

    /// A shell command.
    pub(crate) fn shell(command: &str) -> Self {
        Self::program("/bin/sh", ["-c", command])
    }

    /// A shell command that no process listing shows.
    pub(crate) fn hidden_shell(command: &Secret<String>) -> Self {
        Self::of(What::Hidden(command.clone()))
    }

    fn of(what: What) -> Self {
        Self {
            what,
            environment: Vec::new(),
            directory: None,
            identity: None,
            stdin: None,
            timeout: Duration::from_secs(60),
        }
    }

    /// The same with another deadline.
    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same with one more variable.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), Secret::new(value.to_owned())));
        self
    }

    /// The same with one more variable that is not to be seen.
    pub(crate) fn secret_variable(mut self, name: &str, value: &Secret<String>) -> Self {
        self.environment.push((name.to_owned(), value.clone()));
        self
    }

    /// The same in a working directory.
    pub(crate) fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// The same as another user.
    pub(crate) fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// The same with this standard input.
    pub(crate) fn stdin(mut self, text: Secret<Vec<u8>>) -> Self {
        self.stdin = Some(text);
        self
    }

    /// The command line and all that stands on standard input.
    fn resolve(&self) -> (Vec<String>, Vec<u8>) {
        let stdin = self.stdin.as_ref().map(|text| text.expose().clone()).unwrap_or_default();
        let myself = |mut arguments: Vec<String>| {
            arguments.insert(0, "/proc/self/exe".to_owned());
            arguments
        };
        match (&self.what, &self.identity) {
            (What::Hidden(script), identity) => {
                let mut input = become_user::frame_script(script.expose());
                input.extend(stdin);
                (myself(become_user::script_arguments(identity.as_ref())), input)
            }
            (What::Program(argv), Some(identity)) => {
                (myself(become_user::program_arguments(Some(identity), argv)), stdin)
            }
            (What::Program(argv), None) => (argv.clone(), stdin),
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal, not sent by us.
    Signalled(i32),
    /// Ended by us: its time was over.
    TimedOut,
    /// Ended by us: the run was cancelled.
    Cancelled,
}

/// What is known of a command that has ended.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// In which way.
    pub(crate) ending: Ending,
    /// The last lines of standard error, or of standard output when that was empty.
    pub(crate) tail: Vec<String>,
}

impl Ended {
    /// Whether it ended by itself with status 0.
    pub(crate) fn succeeded(&self) -> bool {
        self.ending == Ending::Exited(0)
    }
}

/// Gets the lines of a running command.
pub(crate) trait Listener {
    /// One line, without its newline.
    fn line(&mut self, stream: Stream, line: &str);

    /// Called at least every 50 ms while the command runs.
    fn tick(&mut self) {}
}

/// Nobody listens.
impl Listener for () {
    fn line(&mut self, _: Stream, _: &str) {}
}

/// Keeps standard output; at most 16 MiB.
#[derive(Debug, Default)]
pub(crate) struct Collected(pub(crate) String);

impl Listener for Collected {
    fn line(&mut self, stream: Stream, line: &str) {
        const MAX: usize = 16 * 1024 * 1024;
        if stream == Stream::Stdout && self.0.len() + line.len() < MAX {
            self.0.push_str(line);
            self.0.push('\n');
        }
    }
}

/// Runs a command to its end. The error is that it could not be started.
pub(crate) fn run(job: &Job, stop: &Stop, listener: &mut dyn Listener) -> io::Result<Ended> {
    let (argv, input) = job.resolve();
    let (program, arguments) = argv.split_first().ok_or_else(|| io::Error::other("there is no command"))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs([("PATH", PATH), ("LANG", "C.UTF-8"), ("HOME", "/")])
        .envs(job.environment.iter().map(|(name, value)| (name, value.expose())))
        .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if let Some(directory) = &job.directory {
        command.current_dir(directory);
    }
    let child = command.spawn()?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let group = group.ok_or_else(|| io::Error::other("a process without a number"))?;
    stop.enter(group);
    let ended =
        Attendance::new(child, group, input, job.timeout).and_then(|attendance| attendance.attend(stop, listener));
    stop.leave(group);
    ended
}

/// A running command and all that is still open of it.
struct Attendance {
    child: Child,
    group: Pid,
    stdin: Option<(ChildStdin, VecDeque<u8>)>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    lines: [Lines; 2],
    deadline: Instant,
    /// Why and when it was asked to end.
    ending: Option<(Ending, Instant)>,
}

impl Attendance {
    fn new(mut child: Child, group: Pid, input: Vec<u8>, timeout: Duration) -> io::Result<Self> {
        let stdin = child.stdin.take().map(|pipe| (pipe, VecDeque::from(input)));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // A command that neither reads nor writes must not stop us from looking at the clock.
        for pipe in [
            stdin.as_ref().map(|(pipe, _)| pipe.as_fd()),
            stdout.as_ref().map(AsFd::as_fd),
            stderr.as_ref().map(AsFd::as_fd),
        ]
        .into_iter()
        .flatten()
        {
            fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?;
        }
        // A deadline beyond what the clock can hold is no deadline.
        let now = Instant::now();
        let deadline = now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(u64::from(u32::MAX)));
        let lines = [Lines::new(Stream::Stdout), Lines::new(Stream::Stderr)];
        Ok(Self { child, group, stdin, stdout, stderr, lines, deadline, ending: None })
    }

    fn attend(mut self, stop: &Stop, listener: &mut dyn Listener) -> io::Result<Ended> {
        let mut closed = FIRST_LOOK;
        let mut exited: Option<(ExitStatus, Instant)> = None;
        loop {
            let open = self.stdout.is_some() || self.stderr.is_some();
            if let Some((status, since)) = exited
                && (!open || since.elapsed() >= LINGER || self.ending.is_some())
            {
                return Ok(self.conclude(status, listener));
            }
            let mut pause = TICK;
            if !open {
                // Only the exit is missing, and it nearly always comes at once.
                pause = closed;
                closed = (closed * 2).min(TICK);
            }
            self.wait(pause.min(self.deadline.saturating_duration_since(Instant::now()).max(FIRST_LOOK)))?;
            self.feed();
            self.listen(listener);
            listener.tick();
            if exited.is_none() {
                self.hurry(stop);
                exited = self.child.try_wait()?.map(|status| (status, Instant::now()));
            }
        }
    }

    /// Waits until something can be read or written, or the time is over.
    fn wait(&self, time: Duration) -> io::Result<()> {
        let pipes = [
            (self.stdout.as_ref().map(AsFd::as_fd), PollFlags::IN),
            (self.stderr.as_ref().map(AsFd::as_fd), PollFlags::IN),
            (self.stdin.as_ref().map(|(pipe, _)| pipe.as_fd()), PollFlags::OUT),
        ];
        let open = pipes.into_iter().filter_map(|(pipe, flags)| Some(PollFd::from_borrowed_fd(pipe?, flags)));
        let mut files: Vec<PollFd<'_>> = open.collect();
        let time = Timespec { tv_sec: 0, tv_nsec: i64::from(time.min(TICK).subsec_nanos()) };
        match poll(&mut files, Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what the command's standard input takes now.
    fn feed(&mut self) {
        let Some((pipe, rest)) = &mut self.stdin else { return };
        loop {
            let (piece, _) = rest.as_slices();
            match if piece.is_empty() { Ok(0) } else { pipe.write(piece) } {
                // All is written, or the command closed its end: it need not read its input.
                Ok(0) => break self.stdin = None,
                Ok(count) => drop(rest.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break self.stdin = None,
            }
        }
    }

    fn listen(&mut self, listener: &mut dyn Listener) {
        let [out, err] = &mut self.lines;
        if self.stdout.as_mut().is_some_and(|pipe| out.take(pipe, listener)) {
            self.stdout = None;
        }
        if self.stderr.as_mut().is_some_and(|pipe| err.take(pipe, listener)) {
            self.stderr = None;
        }
    }

    /// Asks the command to end when it should, and makes it when it does not.
    fn hurry(&mut self, stop: &Stop) {
        match self.ending {
            None => {
                let ending = if stop.is_set() {
                    Ending::Cancelled
                } else if Instant::now() >= self.deadline {
                    Ending::TimedOut
                } else {
                    return;
                };
                self.ending = Some((ending, Instant::now()));
                self.signal(Signal::TERM);
            }
            Some((_, since)) if since.elapsed() >= GRACE => self.signal(Signal::KILL),
            Some(_) => {}
        }
    }

    fn signal(&self, signal: Signal) {
        // A group that is gone needs no signal.
        let _ = kill_process_group(self.group, signal);
    }

    fn conclude(mut self, status: ExitStatus, listener: &mut dyn Listener) -> Ended {
        self.listen(listener);
        for lines in &mut self.lines {
            lines.finish(listener);
        }
        let ending = match self.ending {
            Some((ending, _)) => {
                // What it started may not have listened to SIGTERM.
                self.signal(Signal::KILL);
                ending
            }
            None => match (status.code(), status.signal()) {
                (Some(code), _) => Ending::Exited(code),
                (None, signal) => Ending::Signalled(signal.unwrap_or_default()),
            },
        };
        let [out, err] = self.lines;
        let tail = if err.tail.is_empty() { out.tail } else { err.tail };
        Ended { ending, tail: tail.into() }
    }
}

/// Cuts a stream into lines.
struct Lines {
    stream: Stream,
    partial: Vec<u8>,
    tail: VecDeque<String>,
}

impl Lines {
    fn new(stream: Stream) -> Self {
        Self { stream, partial: Vec::new(), tail: VecDeque::new() }
    }

    /// Reads what is there. Whether the stream has ended.
    fn take(&mut self, pipe: &mut impl Read, listener: &mut dyn Listener) -> bool {
        let mut buffer = [0; MAX_LINE];
        // Not until it is empty: a command that writes without end must not keep us from the clock.
        for _ in 0..16 {
            match pipe.read(&mut buffer) {
                Ok(0) => return true,
                Ok(count) => self.push(&buffer[..count], listener),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
        false
    }

    fn push(&mut self, mut bytes: &[u8], listener: &mut dyn Listener) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(&bytes[..end]);
            self.emit(listener);
            bytes = &bytes[end + 1..];
        }
        self.partial.extend_from_slice(bytes);
        while self.partial.len() > MAX_LINE {
            let rest = self.partial.split_off(MAX_LINE);
            self.emit(listener);
            self.partial = rest;
        }
    }

    fn finish(&mut self, listener: &mut dyn Listener) {
        if !self.partial.is_empty() {
            self.emit(listener);
        }
    }

    fn emit(&mut self, listener: &mut dyn Listener) {
        let bytes = std::mem::take(&mut self.partial);
        for piece in bytes.chunks(MAX_LINE).chain(bytes.is_empty().then_some(&[][..])) {
            let text = String::from_utf8_lossy(piece);
            let line = text.trim_end_matches('\r');
            listener.line(self.stream, line);
            if self.tail.len() == TAIL {
                self.tail.pop_front();
            }
            self.tail.push_back(line.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct CancelAtFirstLine(Stop);

    impl Listener for CancelAtFirstLine {
        fn line(&mut self, _: Stream, _: &str) {
            self.0.end_plan();
        }
    }

    #[derive(Default)]
    struct Heard(Vec<(Stream, String)>);

    impl Listener for Heard {
        fn line(&mut self, stream: Stream, line: &str) {
            self.0.push((stream, line.to_owned()));
        }
    }

    fn shell(command: &str) -> (Ended, Vec<(Stream, String)>) {
        let mut heard = Heard::default();
        let ended = run(&Job::shell(command), &Stop::default(), &mut heard).unwrap();
        (ended, heard.0)
    }

    #[test]
    fn output_comes_line_by_line_and_the_status_is_kept() {
        let (ended, heard) = shell("echo one; printf 'two' >&2; exit 3");
        assert_eq!(ended.ending, Ending::Exited(3));
        assert_eq!(ended.tail, ["two"]);
        assert!(heard.contains(&(Stream::Stdout, "one".into())) && heard.contains(&(Stream::Stderr, "two".into())));
    }

    #[test]
    fn the_environment_is_clean() {
        let (_, heard) = shell("env | cut -d= -f1 | sort");
        let names: Vec<&str> =
            heard.iter().map(|(_, line)| line.as_str()).filter(|n| *n != "PWD" && *n != "_").collect();
        assert_eq!(
            names,
            ["HOME", "LANG", "OLDPWD", "PATH", "SHLVL"]
                .iter()
                .copied()
                .filter(|n| names.contains(n))
                .collect::<Vec<_>>()
        );
        assert!(names.contains(&"PATH") && names.contains(&"LANG"));
    }

    #[test]
    fn a_deadline_ends_the_command_and_its_children() {
        let job = Job::shell("trap '' TERM; sleep 600 & echo $!; wait; sleep 600").timeout(Duration::from_millis(200));
        let mut heard = Heard::default();
        let ended = run(&job, &Stop::default(), &mut heard).unwrap();
        assert_eq!(ended.ending, Ending::TimedOut);
        let child = heard.0[0].1.clone();
        let gone = || {
            !std::path::Path::new(&format!("/proc/{child}/cmdline")).exists()
                || fs_err::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| stat.contains(") Z "))
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !gone() {
            assert!(Instant::now() < deadline, "the child still runs");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_cancelled_command_says_so() {
        let stop = Stop::default();
        let plan = stop.for_plan();
        let ended = run(&Job::shell("echo x; sleep 600"), &plan, &mut CancelAtFirstLine(plan.clone())).unwrap();
        assert_eq!(ended.ending, Ending::Cancelled);
        assert!(!stop.is_set());
    }

    #[test]
    fn a_daemon_left_behind_does_not_hold_us() {
        let (ended, heard) = shell("sleep 5 & echo started");
        assert!(ended.succeeded());
        assert_eq!(heard, [(Stream::Stdout, "started".to_owned())]);
    }

    #[test]
    fn large_input_passes_through() {
        let text = "0123456789\n".repeat(100_000);
        let job = Job::program("wc", ["-c"]).stdin(Secret::new(text.clone().into_bytes()));
        let mut collected = Collected::default();
        assert!(run(&job, &Stop::default(), &mut collected).unwrap().succeeded());
        assert_eq!(collected.0.trim(), text.len().to_string());
        // A command that does not read its input is no error.
        let deaf = Job::program("true", []).stdin(Secret::new(text.into_bytes()));
        assert!(run(&deaf, &Stop::default(), &mut ()).unwrap().succeeded());
    }

    #[test]
    fn only_the_last_lines_are_kept_and_long_lines_are_cut() {
        let (ended, _) = shell("seq 1 50");
        assert_eq!(ended.tail.first().map(String::as_str), Some("31"));
        let (_, heard) = shell("head -c 40000 /dev/zero | tr '\\0' x");
        assert_eq!(
            heard.iter().map(|(_, line)| line.len()).collect::<Vec<_>>(),
            [MAX_LINE, MAX_LINE, 40000 - 2 * MAX_LINE]
        );
    }
}
