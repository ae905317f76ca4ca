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
        // This same program: it becomes the user and then the process.
        let mut command = Command::new("/proc/self/exe");
        command.arg(BECOME).arg(switch::identity(account)).args(&description.argv);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH.into()));
        if let Some(account) = account {
            command.env("HOME", &account.home).env("USER", &account.name).env("LOGNAME", &account.name);
        } else {
            command.envs(["HOME", "USER", "LOGNAME"].iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        }
        command.envs(&description.environment);
        let directory = description.directory.as_ref().map_or("/", |path| path.as_str());
        if !std::path::Path::new(directory).is_dir() {
            return Err(system(io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no directory `{directory}`"),
            )));
        }
        let child = command
            .current_dir(directory)
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(system)?;
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

    /// Ends the process and what is left of its group: this signal, then KILL after the timeout. Signals that arrive
    /// meanwhile are passed on; one that asks us to end is returned too.
    pub(super) async fn stop(
        mut self,
        signal: Signal,
        timeout: Duration,
        signals: &mut Signals,
    ) -> Result<(ExitStatus, Option<Signal>), Failure> {
        let deadline = Instant::now() + timeout;
        let mut asked = None;
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

/// What a shell would say: the exit code, or 128 and the number of the signal.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
