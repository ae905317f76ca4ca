//! One authenticated SSH connection to one host, and the lab's keys. Knows SSH and how a helper gets onto a host; does
//! not know what an op means.
//!
//! A [`Link`] has one connection for control, with one long helper channel, and opens a second one on demand for
//! tunnels: in SSH a channel that nobody reads stalls its whole connection.

mod auth;
mod bootstrap;
mod connection;
mod dial;
mod error;
mod exec;
mod helper_channel;
mod host_key;
mod jump;
mod keyring;
mod known_hosts;
mod private_key;
mod program;
mod remote_text;
mod script;
mod shell;
mod socket;
mod target;
mod tunnel;

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Mutex,
    time::Instant,
};

use self::{connection::Connection, dial::Patience, tunnel::Tunnel};
pub use self::{
    error::{Hop, LinkError, LinkErrorKind, Phase, SudoProblem},
    exec::ExecOutput,
    helper_channel::{Framed, Gauge, HelperChannel, HelperReceiver, HelperSender, Traffic},
    host_key::HostKeyProblem,
    keyring::{KeyPair, Keyring},
    known_hosts::KnownHostsError,
    private_key::{KeyError, LoadedKey},
    program::{HelperProgram, ProgramError, launcher},
    shell::{ShellStreams, TerminalSize},
    target::{HostKeys, Identity, SSH_PORT, Target, Timeouts},
};
use crate::wire::NearHello;

/// How long a polite end may take before the connection is cut.
const GOODBYE: Duration = Duration::from_secs(1);

/// A byte stream through a connection.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// One authenticated connection to one host. Dropping it ends everything that runs over it.
#[derive(Debug)]
pub struct Link {
    target: Arc<Target>,
    control: Connection,
    /// For tunnels; opened on demand, and again when it was lost.
    bulk: Mutex<Option<Arc<Connection>>>,
}

impl Link {
    /// Connects and logs in. Each phase has its own deadline. A server that hangs up before its banner (`MaxStartups`)
    /// is tried again for `timeouts.busy`.
    pub async fn connect(target: Arc<Target>) -> Result<Self, LinkError> {
        let patience = Patience::Busy(Instant::now() + target.timeouts.busy);
        Self::open(target, patience).await
    }

    /// The same for a machine that is starting: tries again until `deadline` from now while nothing listens or the
    /// far side hangs up. Wrong host keys and refused logins fail at once.
    pub async fn connect_when_ready(target: Arc<Target>, deadline: Duration) -> Result<Self, LinkError> {
        Self::open(target, Patience::Starting(Instant::now() + deadline)).await
    }

    async fn open(target: Arc<Target>, patience: Patience) -> Result<Self, LinkError> {
        let control = connect(&target, patience).await?;
        Ok(Self { target, control, bulk: Mutex::new(None) })
    }

    /// Where it goes.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// Why the connection was lost, if it was.
    pub fn why_lost(&self) -> Option<String> {
        self.control.state().why_lost()
    }

    /// Starts the helper, placing it first when the host does not have it. `progress` is called with the bytes sent
    /// so far; never when the helper is there already.
    pub async fn start_helper(
        &self,
        program: &HelperProgram,
        hello: NearHello,
        progress: impl Fn(u64) + Send,
    ) -> Result<HelperChannel, LinkError> {
        bootstrap::start(&self.control, &self.target, program, hello, progress).await
    }

    /// Opens a TCP connection from the host to `host`:`port`, over the second connection.
    pub async fn tunnel(&self, host: &str, port: u16) -> Result<Box<dyn Stream>, LinkError> {
        let connection = self.bulk().await?;
        let channel = connection.open_tcp(host, port, Phase::Open).await.map_err(|kind| kind.of(&self.target))?;
        Ok(Box::new(Tunnel::new(channel)))
    }

    /// The second connection. Whoever comes while it is being made waits for it.
    async fn bulk(&self) -> Result<Arc<Connection>, LinkError> {
        let mut bulk = self.bulk.lock().await;
        if let Some(connection) = bulk.as_ref().filter(|connection| !connection.is_lost()) {
            return Ok(Arc::clone(connection));
        }
        let patience = Patience::Busy(Instant::now() + self.target.timeouts.busy);
        let connection = Arc::new(connect(&self.target, patience).await?);
        *bulk = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Runs a command with the user's login shell, without input, and waits until it ends, however long that takes: only
    /// a dead connection ends the wait. Cancelling closes the channel.
    pub async fn exec(&self, command: &str) -> Result<ExecOutput, LinkError> {
        exec::run(&self.control, command).await.map_err(|kind| kind.of(&self.target))
    }

    /// Connects our standard streams to a shell or command on the host and gives its exit status (128 + n for signal
    /// n). When standard input is a terminal, the far side gets one of the same size.
    pub async fn shell(&self, command: Option<&str>) -> Result<i32, LinkError> {
        shell::run_here(&self.control, command).await.map_err(|kind| kind.of(&self.target))
    }

    /// The same with other streams than our own.
    pub async fn shell_with(&self, command: Option<&str>, streams: ShellStreams) -> Result<i32, LinkError> {
        shell::run(&self.control, command, streams).await.map_err(|kind| kind.of(&self.target))
    }

    /// Ends the connection politely.
    pub async fn close(self) {
        if let Some(bulk) = self.bulk.into_inner() {
            bulk.close(GOODBYE).await;
        }
        self.control.close(GOODBYE).await;
    }
}

async fn connect(target: &Target, patience: Patience) -> Result<Connection, LinkError> {
    let (via, way) = jump::reach(target).await?;
    dial::connect(target, via, &way, patience).await.map_err(|kind| kind.of(target))
}
