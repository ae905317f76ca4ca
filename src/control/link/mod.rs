//! One authenticated SSH connection to one host, and the lab's keys. Knows SSH and how a helper gets onto a host; does
//! not know what an op means.
//!
//! A [`Link`] has one connection for control, with one long helper channel, and opens a second one on demand for
//! tunnels: in SSH a channel that nobody reads stalls its whole connection.

mod error;
mod host_key;
mod keyring;
mod known_hosts;
mod private_key;
mod program;
mod target;

use std::{sync::Arc, time::Duration};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    plan::Facts,
    wire::{FromHelper, NearHello, ToHelper},
};

pub use self::{
    error::{Hop, LinkError, LinkErrorKind, Phase, SudoProblem},
    host_key::HostKeyProblem,
    keyring::{KeyPair, Keyring},
    known_hosts::KnownHostsError,
    private_key::{KeyError, LoadedKey},
    program::{HelperProgram, ProgramError, launcher},
    target::{HostKeys, Identity, SSH_PORT, Target, Timeouts},
};

/// A byte stream through a connection.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// One authenticated connection to one host. Dropping it ends everything that runs over it.
#[derive(Debug)]
pub struct Link {
    target: Arc<Target>,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit status; 128 + n when signal n ended it; none when it is unknown because the connection was lost.
    pub status: Option<i32>,
    /// The signal that ended it, without `SIG`.
    pub signal: Option<String>,
    /// Standard output, at most 16 MiB.
    pub stdout: Vec<u8>,
    /// Standard error, at most 16 MiB.
    pub stderr: Vec<u8>,
    /// Whether some output was dropped because there was too much.
    pub truncated: bool,
}

/// The one channel to a running helper.
#[derive(Debug)]
pub struct HelperChannel {
    facts: Facts,
}

/// The sending half of a helper channel. When the last one is gone the helper sees the end of its input and ends.
#[derive(Debug, Clone)]
pub struct HelperSender {}

/// The receiving half of a helper channel.
#[derive(Debug)]
pub struct HelperReceiver {}

/// What went over a helper channel so far, both hellos included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages to the helper.
    pub sent_messages: u64,
    /// Bytes to the helper, frame headers included.
    pub sent_bytes: u64,
    /// Messages from the helper.
    pub received_messages: u64,
    /// Bytes from the helper, frame headers included.
    pub received_bytes: u64,
}

impl Link {
    /// Connects and logs in. Each phase has its own deadline. A server that hangs up before its banner (MaxStartups)
    /// is tried again for `timeouts.busy`.
    pub async fn connect(target: Arc<Target>) -> Result<Self, LinkError> {
        todo!("{target:?}")
    }

    /// The same for a machine that is starting: tries again until `deadline` while nothing listens or the far side
    /// hangs up. Wrong host keys and refused logins fail at once.
    pub async fn connect_when_ready(target: Arc<Target>, deadline: Duration) -> Result<Self, LinkError> {
        todo!("{target:?} {deadline:?}")
    }

    /// Where it goes.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// Starts the helper, placing it first when the host does not have it. `progress` is called with the bytes sent
    /// so far; never when the helper is there already.
    pub async fn start_helper(
        &self,
        program: &HelperProgram,
        hello: NearHello,
        progress: impl Fn(u64) + Send,
    ) -> Result<HelperChannel, LinkError> {
        progress(0);
        todo!("{program:?} {hello:?}")
    }

    /// Opens a TCP connection from the host to `host`:`port`, over the second connection.
    pub async fn tunnel(&self, host: &str, port: u16) -> Result<Box<dyn Stream>, LinkError> {
        todo!("{host} {port}")
    }

    /// Runs a command with the user's login shell, without input, and waits until it ends.
    pub async fn exec(&self, command: &str) -> Result<ExecOutput, LinkError> {
        todo!("{command}")
    }

    /// Connects our standard streams to a shell or command on the host and gives its exit status (128 + n for signal
    /// n). When standard input is a terminal, the far side gets one of the same size.
    pub async fn shell(&self, command: Option<&str>) -> Result<i32, LinkError> {
        todo!("{command:?}")
    }

    /// Ends the connection politely.
    pub async fn close(self) {
        todo!()
    }
}

impl HelperChannel {
    /// What the host is.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Sends a message. Returns when it is queued; at most 4 MiB wait in the queue.
    pub async fn send(&self, message: &ToHelper) -> Result<(), LinkError> {
        todo!("{message:?}")
    }

    /// The next message; none when the helper ended as it was told to.
    pub async fn recv(&mut self) -> Result<Option<FromHelper>, LinkError> {
        todo!()
    }

    /// What went over the channel so far.
    pub fn traffic(&self) -> Traffic {
        todo!()
    }

    /// Both halves, for two tasks.
    pub fn split(self) -> (HelperSender, HelperReceiver) {
        todo!()
    }
}

impl HelperSender {
    /// Sends a message. Returns when it is queued; at most 4 MiB wait in the queue. May be cancelled at any time.
    pub async fn send(&self, message: &ToHelper) -> Result<(), LinkError> {
        todo!("{message:?}")
    }

    /// What went over the channel so far.
    pub fn traffic(&self) -> Traffic {
        todo!()
    }
}

impl HelperReceiver {
    /// The next message; none when the helper ended as it was told to. May be cancelled at any time.
    pub async fn recv(&mut self) -> Result<Option<FromHelper>, LinkError> {
        todo!()
    }

    /// What went over the channel so far.
    pub fn traffic(&self) -> Traffic {
        todo!()
    }
}
