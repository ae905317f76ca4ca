//! The process: started in a group of its own, stopped with patience, never left behind.

use std::{io, os::unix::process::ExitStatusExt as _, process::ExitStatus, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, sleep_until},
};

use super::{
    account::Account,
    arguments::BECOME,
    command,
    failure::Failure,
    say::say,
    signals::{Signals, ends},
    switch,
};
use crate::plan::LaunchDescription;

/// The path of a process whose launcher has none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How often a group that is asked to end is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// The process of a service.
pub(super) struct Process {
    child: Child,
    /// Its process id, which is its group's too.
    pid: Option<Pid>,
}

impl Process {
    /// Starts the process of a description, as the account when one is given.
    pub(super) fn start(description: &LaunchDescription, account: Option<&Account>) -> Result<Self, Failure> {
        let system = |source| Failure::System { what: "start the process", source };
        let mut command = command(description, account, &description.argv);
        let directory = description.directory.as_ref().map_or("/", |path| path.as_str());
        if !std::path::Path::new(directory).is_dir() {
            return Err(system(io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no directory `{directory}`"),
            )));
        }
        let child = command.current_dir(directory).spawn().map_err(system)?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Self { child, pid })
    }

    /// Waits for the process to end by itself.
    pub(super) async fn wait(&mut self) -> Result<ExitStatus, Failure> {
        self.child.wait().await.map_err(|source| Failure::System { what: "wait for the process", source })
    }

    /// Sends a signal to the process alone: what it means to its children is its own affair.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid
            && let Err(error) = kill_process(pid, signal)
        {
            say(format_args!("cannot signal the process: {error}"));
        }
    }

    /// Ends the process and what is left of its group: the description's stop command, this signal when the command
    /// failed or the timeout has passed, then KILL after the timeout. Signals that arrive meanwhile are passed on; one
    /// that asks us to end is returned too.
    pub(super) async fn stop(
        mut self,
        signal: Signal,
        description: &LaunchDescription,
        signals: &mut Signals,
    ) -> Result<(ExitStatus, Option<Signal>), Failure> {
        let timeout = Duration::from_secs(description.stop_timeout);
        let mut asked = None;
        if !description.stop_command.is_empty() {
            match self.ask(description, timeout, signals).await? {
                (Some(status), asked) => {
                    self.sweep(Instant::now() + timeout).await;
                    return Ok((status, asked));
                }
                (None, also) => asked = also,
            }
        }
        let deadline = Instant::now() + timeout;
        self.signal_group(signal);
        let status = loop {
            tokio::select! {
                status = self.child.wait() => {
                    break status.map_err(|source| Failure::System { what: "wait for the process", source })?;
                }
                () = sleep_until(deadline) => {
                    say(format_args!("the process did not end within {} s: killed", timeout.as_secs()));
                    self.signal_group(Signal::KILL);
                    break self.wait().await?;
                }
                next = signals.next() => {
                    if ends(next) {
                        asked = Some(next);
                        self.signal_group(next);
                    } else {
                        self.signal(next);
                    }
                }
            }
        };
        self.sweep(deadline).await;
        Ok((status, asked))
    }

    /// Runs the stop command and waits for the process to end by itself. None when it does not. A signal that asks us
    /// to end is returned and not passed on: this is the end, done gently.
    async fn ask(
        &mut self,
        description: &LaunchDescription,
        timeout: Duration,
        signals: &mut Signals,
    ) -> Result<(Option<ExitStatus>, Option<Signal>), Failure> {
        let deadline = Instant::now() + timeout;
        let mut asked = None;
        let command = command::run(description, &description.stop_command, timeout);
        let (mut command, mut is_over) = (std::pin::pin!(command), false);
        loop {
            tokio::select! {
                status = self.child.wait() => {
                    let status = status.map_err(|source| Failure::System { what: "wait for the process", source })?;
                    return Ok((Some(status), asked));
                }
                result = &mut command, if !is_over => {
                    is_over = true;
                    if let Err(error) = result {
                        say(error.line());
                        return Ok((None, asked));
                    }
                }
                () = sleep_until(deadline) => {
                    say(format_args!("the process did not end within {} s of its stop command", timeout.as_secs()));
                    return Ok((None, asked));
                }
                next = signals.next() => {
                    if ends(next) { asked = Some(next) } else { self.signal(next) }
                }
            }
        }
    }

    /// Waits for the rest of the group, then kills it.
    async fn sweep(&self, deadline: Instant) {
        let Some(pid) = self.pid else {
            return;
        };
        while test_kill_process_group(pid).is_ok() && Instant::now() < deadline {
            sleep(LOOK).await;
        }
        self.signal_group(Signal::KILL);
    }

    fn signal_group(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            // An empty group is what we want.
            let _ = kill_process_group(pid, signal);
        }
    }
}

/// A command with the surroundings that the description gives, not yet started: as the account when one is given, in a
/// group of its own, ended with the launcher.
pub(super) fn command(description: &LaunchDescription, account: Option<&Account>, argv: &[String]) -> Command {
    // This same program: it becomes the user and then the command.
    let mut command = Command::new("/proc/self/exe");
    command.arg(BECOME).arg(switch::identity(account)).args(argv);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH.into()));
    if let Some(account) = account {
        command.env("HOME", &account.home).env("USER", &account.name).env("LOGNAME", &account.name);
    } else {
        command.envs(["HOME", "USER", "LOGNAME"].iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    }
    command.envs(&description.environment).stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    command
}

/// What a shell would say: the exit code, or 128 and the number of the signal.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
