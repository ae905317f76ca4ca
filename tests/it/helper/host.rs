//! One container for all tests of a run, and a helper in it that is spoken to by its standard streams.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use ovs_cuisine::{
    plan::{Detail, Diff, Facts, Op, OpFailure, Outcome, Plan, Source, Step, StepId, Tally},
    tree::Contents,
    wire::{self, FromHelper, Mode, NearHello, PROTOCOL, Preamble, PreambleScanner, StepEvent, StepReport, ToHelper},
};

/// Nothing that is waited for takes longer, on however slow a machine.
const DEADLINE: Duration = Duration::from_secs(180);
const NONCE: &str = "n0nce";
const PROGRAM: &str = "/opt/cuisine-helper";

/// Runs a program and gives what it printed. Panics when it fails.
pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = docker_output(arguments);
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn docker_output(arguments: &[&str]) -> Output {
    Command::new("docker").args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// The container, alone for the test that holds it: checks compare listings of the whole machine.
pub(crate) struct Host {
    name: &'static str,
    _alone: MutexGuard<'static, ()>,
}

/// Lists every file that a step could touch. What runsv keeps of running services changes by itself, the engine
/// touches /etc itself after the start, and the helper's own state lies in /var/lib.
const LISTING: &str = "find /etc /home /opt /root /small /srv /usr/local /usr/sbin /var -mindepth 1 \\( -name supervise -o -path '/var/log/*/*' \\) -prune \
    -o -path /var/lib -o -printf '%p %y %m %U %G %s %T@ %C@ %l\\n' | sort; cat /etc/passwd /etc/group";

/// The container of this run; made when it is first asked for.
pub(crate) fn host() -> Host {
    static ALONE: Mutex<()> = Mutex::new(());
    static NAME: OnceLock<String> = OnceLock::new();
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let make = || {
        // What boots makes files of its own; a test that compares listings must not meet it.
        let up = "set -e; for service in /etc/service/*/; do sv check $service; done";
        let (name, since) = start("helper", &["--tmpfs", "/small:size=1m", "ovs-cuisine/ssh:latest"], up);
        settle(&name, since);
        name
    };
    Host { name: NAME.get_or_init(make), _alone: alone }
}

/// The same with systemd as process 1, which needs what `init = "systemd"` gives to a container.
pub(crate) fn systemd_host() -> Host {
    static ALONE: Mutex<()> = Mutex::new(());
    static NAME: OnceLock<String> = OnceLock::new();
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let options = [
        "--cap-add=SYS_ADMIN",
        "--cgroupns=private",
        "--tmpfs=/run:rw,nosuid,nodev,exec,mode=755",
        "--tmpfs=/run/lock:rw,nosuid,nodev,noexec,mode=1777",
        "ovs-cuisine/ssh:systemd",
    ];
    let make = || start("systemd", &options, "systemctl is-active --quiet multi-user.target").0;
    Host { name: NAME.get_or_init(make), _alone: alone }
}

/// A container with the helper in it, once the command succeeds. Gives its name, and when it was made.
fn start(kind: &str, options: &[&str], up: &str) -> (String, Instant) {
    let name = format!("ovs-cuisine-it-{kind}-{}", std::process::id());
    remove_when_this_process_ends(&name);
    docker(&[&["run", "--detach", "--name", &name, "--label", "ovs-cuisine-it=helper"], options].concat());
    let packed = fs_err::read(env!("OVS_CUISINE_EMBEDDED_HELPER_ZST")).unwrap();
    let mut program = tempfile::NamedTempFile::new().unwrap();
    zstd::stream::copy_decode(packed.as_slice(), &mut program).unwrap();
    program.flush().unwrap();
    docker(&["cp", program.path().to_str().unwrap(), &format!("{name}:{PROGRAM}")]);
    docker(&["exec", &name, "chmod", "0755", PROGRAM]);
    let since = Instant::now();
    while !docker_output(&["exec", &name, "sh", "-c", up]).status.success() {
        assert!(since.elapsed() < DEADLINE, "the container does not come up");
    }
    (name, since)
}

/// Waits until the machine has been quiet for a second: the engine and the services write until a moment after the
/// start, and nothing tells when they are done.
fn settle(name: &str, since: Instant) {
    let listing = || docker_output(&["exec", name, "sh", "-c", LISTING]).stdout;
    let mut before = listing();
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1));
        let after = listing();
        if after == before {
            return;
        }
        assert!(since.elapsed() < DEADLINE, "the container does not come to rest");
        before = after;
    }
}

/// That a machine is as it was, or else what is not.
pub(crate) fn assert_same(before: &str, after: &str, what: &str) {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (before, after) = (lines(before), lines(after));
    let changed: Vec<&String> = before.symmetric_difference(&after).collect();
    assert!(changed.is_empty(), "{what}: {changed:#?}");
}

/// Whatever ends this process, the shell sees its standard input end and takes the container away.
fn remove_when_this_process_ends(name: &str) {
    let script = format!("cat >/dev/null; docker rm --force --volumes {name} >/dev/null 2>&1");
    let mut watcher = Command::new("setsid")
        .args(["sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Waits in vain for the watcher, which waits for this process: its standard input stays open as long.
    let stdin = watcher.stdin.take();
    thread::spawn(move || {
        let ended = watcher.wait();
        drop((stdin, ended));
    });
}

impl Host {
    /// What a shell command in the container prints. Panics when it fails.
    pub(crate) fn shell(&self, command: &str) -> String {
        docker(&["exec", self.name, "sh", "-ec", command])
    }

    /// Whether a shell command in the container succeeds.
    pub(crate) fn succeeds(&self, command: &str) -> bool {
        docker_output(&["exec", self.name, "sh", "-c", command]).status.success()
    }

    /// Waits until a shell command in the container succeeds.
    pub(crate) fn wait_until(&self, command: &str) {
        let since = Instant::now();
        while !self.succeeds(command) {
            assert!(since.elapsed() < DEADLINE, "`{command}` never came true");
        }
    }

    /// Every file that a step could touch, with all that a write would change.
    pub(crate) fn listing(&self) -> String {
        self.shell(LISTING)
    }

    /// Starts a helper as root.
    pub(crate) fn helper(&self) -> Helper {
        self.helper_as("root")
    }

    /// Starts a helper as somebody and says hello.
    pub(crate) fn helper_as(&self, user: &str) -> Helper {
        let mut helper = self.mute_helper(user);
        helper.send(&ToHelper::Hello(NearHello {
            protocol: PROTOCOL,
            owner: "tester@here, run 1".into(),
            lock_wait_ms: 0,
            lab: "test".parse().unwrap(),
        }));
        helper
    }

    /// Starts a helper and leaves the word to it.
    pub(crate) fn mute_helper(&self, user: &str) -> Helper {
        let mut child = Command::new("docker")
            .args(["exec", "--interactive", "--user", user, self.name, PROGRAM, "serve", NONCE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (sender, messages) = channel();
        let mut stdout = child.stdout.take().unwrap();
        thread::spawn(move || {
            let mut scanner = PreambleScanner::new(Preamble::new(NONCE).unwrap());
            let mut byte = [0];
            loop {
                let count = io::Read::read(&mut stdout, &mut byte).unwrap();
                if count == 0 {
                    return;
                }
                if scanner.push(&byte[..count]).unwrap().is_some() {
                    break;
                }
            }
            while let Ok(Some(message)) = wire::read_message::<FromHelper>(&mut stdout) {
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let stdin = child.stdin.take();
        let mut helper = Helper { child, stdin, messages, contents: Contents::new(), facts: None, requests: 0 };
        let FromHelper::Hello(hello) = helper.receive() else { panic!("the helper did not say hello") };
        assert_eq!(hello.protocol, PROTOCOL);
        helper.facts = Some(hello.facts);
        helper
    }
}

/// A helper in the container.
pub(crate) struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
    messages: Receiver<FromHelper>,
    /// What it may demand.
    pub(crate) contents: Contents,
    facts: Option<Facts>,
    requests: u32,
}

/// All that became of a plan.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) reports: Vec<StepReport>,
    pub(crate) tally: Tally,
    /// Messages, `Done` included.
    pub(crate) messages: usize,
}

impl Told {
    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        let outcome = |report: &StepReport| match &report.event {
            StepEvent::Finished { outcome, .. } => Some(outcome.clone()),
            _ => None,
        };
        self.reports.iter().filter_map(outcome).collect()
    }

    /// The outcome of the only step.
    pub(crate) fn outcome(&self) -> Outcome {
        let [outcome] = <[Outcome; 1]>::try_from(self.outcomes()).unwrap();
        outcome
    }

    /// The failure of the last step that has one.
    pub(crate) fn failure(&self) -> OpFailure {
        let failure = |outcome| if let Outcome::Failed(failure) = outcome { Some(failure) } else { None };
        self.outcomes().into_iter().rev().find_map(failure).unwrap_or_else(|| panic!("nothing failed: {self:?}"))
    }

    pub(crate) fn diffs(&self) -> Vec<Diff> {
        let diff = |report: &StepReport| match &report.event {
            StepEvent::Finished { diff, .. } => diff.clone(),
            _ => None,
        };
        self.reports.iter().filter_map(diff).collect()
    }

    /// Every detail of every change.
    pub(crate) fn details(&self) -> Vec<Detail> {
        self.diffs().into_iter().flat_map(|diff| diff.changes).flat_map(|change| change.details).collect()
    }

    /// What commands printed.
    pub(crate) fn output(&self) -> Vec<String> {
        let line = |report: &StepReport| match &report.event {
            StepEvent::Output { line, .. } => Some(line.clone()),
            _ => None,
        };
        self.reports.iter().filter_map(line).collect()
    }
}

impl Helper {
    pub(crate) fn facts(&self) -> &Facts {
        self.facts.as_ref().unwrap()
    }

    pub(crate) fn send(&mut self, message: &ToHelper) {
        wire::write_message(self.stdin.as_mut().unwrap(), message).unwrap();
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(bytes).and_then(|()| stdin.flush()).unwrap();
    }

    pub(crate) fn receive(&mut self) -> FromHelper {
        self.messages.recv_timeout(DEADLINE).expect("the helper is silent or gone")
    }

    /// Sends a plan and gives its number.
    pub(crate) fn begin(&mut self, mode: Mode, plan: &Plan) -> u32 {
        self.requests += 1;
        let request = self.requests;
        self.send(&ToHelper::Plan { request, mode, plan: plan.clone() });
        request
    }

    /// Listens until a plan is done; supplies what it demands.
    pub(crate) fn finish(&mut self, request: u32) -> Told {
        let mut told = Told { reports: Vec::new(), tally: Tally::default(), messages: 0 };
        loop {
            told.messages += 1;
            match self.receive() {
                FromHelper::Steps { request: about, reports } => {
                    assert_eq!(about, request);
                    told.reports.extend(reports);
                }
                FromHelper::Demand { request: about, demand } => {
                    assert_eq!(about, request);
                    let (contents, stdin) = (&self.contents, self.stdin.as_mut().unwrap());
                    let mut send = |supply| {
                        wire::write_message(stdin, &ToHelper::Supply { request, supply }).map_err(io::Error::other)
                    };
                    contents.answer(&demand, &mut send).unwrap();
                }
                FromHelper::Done { request: about, tally } => {
                    assert_eq!(about, request);
                    told.tally = tally;
                    assert_eq!(tally.total() as usize, told.outcomes().len());
                    return told;
                }
                other => panic!("unexpected: {other:?}"),
            }
        }
    }

    pub(crate) fn run(&mut self, mode: Mode, plan: &Plan) -> Told {
        let request = self.begin(mode, plan);
        self.finish(request)
    }

    pub(crate) fn check(&mut self, op: &Op) -> Told {
        self.run(Mode::Check, &plan([op.clone()]))
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Told {
        self.run(Mode::Apply, &plan([op.clone()]))
    }

    /// Closes the stream, as a lost connection does.
    pub(crate) fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// Waits for the end of the helper; whether it was a success.
    pub(crate) fn wait(&mut self) -> bool {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            assert!(since.elapsed() < DEADLINE, "the helper does not end");
            thread::yield_now();
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.hang_up();
        if !thread::panicking() {
            self.wait();
        }
    }
}

/// A plan of these steps, each with a key of its own.
pub(crate) fn plan(ops: impl IntoIterator<Item = Op>) -> Plan {
    let step = |(index, op): (usize, Op)| Step {
        id: StepId(u32::try_from(index).unwrap()),
        key: format!("step {index}"),
        op,
        source: Source { file: "recipes/test/recipe.star".into(), line: 1 },
        only_if_changed: Vec::new(),
        sensitive: false,
        ignore_errors: false,
    };
    let steps = ops.into_iter().enumerate().map(step).collect();
    Plan { component: "test".parse().unwrap(), host: "host".parse().unwrap(), steps }
}
