//! Commands around the process: run to their end before it starts, or to ask it to end.

use std::{io::Write as _, process::ExitStatus, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, ChildStderr},
    time::{sleep, timeout},
};

use super::{failure::Failure, process};
use crate::plan::LaunchDescription;

/// How long a command before the start may take. Some wait for other services.
const LONGEST: Duration = Duration::from_secs(600);
/// How much of what a command says is kept for the error.
const TAIL: usize = 2048;
/// How long is waited for the rest of what an ended command has said; what it left behind may hold the pipe open.
const REST: Duration = Duration::from_millis(100);

/// Runs the commands before the start, one after another. What they say goes to the log. Dropped half-way, the command
/// that runs is killed.
pub(super) async fn before_start(description: &LaunchDescription) -> Result<(), Failure> {
    for argv in &description.before_start {
        run(description, argv, LONGEST).await?;
    }
    Ok(())
}

/// Runs one command to its end. It must succeed.
pub(super) async fn run(description: &LaunchDescription, argv: &[String], longest: Duration) -> Result<(), Failure> {
    let program = argv.first().cloned().unwrap_or_default();
    let failed = |why: String| Failure::Command { program: program.clone(), why };
    let mut command = process::command(description, None, argv);
    let child = command.current_dir("/").stderr(Stdio::piped()).spawn().map_err(|error| failed(error.to_string()))?;
    let mut running = Running::new(child);
    let mut said = Vec::new();
    let Ok(status) = timeout(longest, running.end(&mut said)).await else {
        return Err(failed(format!("did not end within {} s", longest.as_secs())));
    };
    let status = status.map_err(|error| failed(error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(3)..].join(" / ");
    Err(failed(if last.is_empty() { told(status) } else { format!("{}: {last}", told(status)) }))
}

fn told(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// A command that runs; killed with its group when dropped before its end.
struct Running {
    child: Child,
    stderr: Option<ChildStderr>,
    group: Option<Pid>,
}

impl Running {
    fn new(mut child: Child) -> Self {
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let stderr = child.stderr.take();
        Self { child, stderr, group }
    }

    /// Waits for the end and passes on what is said meanwhile.
    async fn end(&mut self, said: &mut Vec<u8>) -> std::io::Result<ExitStatus> {
        let mut stderr = self.stderr.take();
        let status = loop {
            tokio::select! {
                status = self.child.wait() => break status?,
                more = listen(&mut stderr, said) => if !more { stderr = None },
            }
        };
        // What it has left behind on purpose goes on.
        self.group = None;
        while stderr.is_some() && timeout(REST, listen(&mut stderr, said)).await == Ok(true) {}
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // An empty group is what we want.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Passes some bytes on. False at the end.
async fn listen(stderr: &mut Option<ChildStderr>, said: &mut Vec<u8>) -> bool {
    let Some(stderr) = stderr else {
        // Nothing more to hear: whoever waits for something else goes on waiting.
        sleep(LONGEST).await;
        return false;
    };
    let mut bytes = [0; 1024];
    let Ok(count @ 1..) = stderr.read(&mut bytes).await else {
        return false;
    };
    // A log that cannot be written to must not stop the service.
    let _ = std::io::stderr().lock().write_all(&bytes[..count]);
    said.extend_from_slice(&bytes[..count]);
    said.drain(..said.len().saturating_sub(TAIL));
    true
}
