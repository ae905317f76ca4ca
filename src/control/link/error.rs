//! Why a connection or a helper could not be had, or was lost.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use super::{
    host_key::HostKeyProblem, known_hosts::KnownHostsError, private_key::KeyError, program::ProgramError,
    target::Target,
};
use crate::wire::{FrameError, MAX_NOISE, PROTOCOL};

/// A problem with one host's connection: which host, which hop, what.
#[derive(Debug, Clone)]
pub struct LinkError {
    /// The host that was wanted.
    pub host: String,
    /// The jump host where it happened; none when at the host itself.
    pub hop: Option<Hop>,
    /// What happened. Shared: one failure of a jump host is the failure of all hosts behind it.
    pub kind: Arc<LinkErrorKind>,
}

/// A jump host on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Its place in the chain, 1 is the outermost.
    pub number: usize,
    /// Its name.
    pub name: String,
}

/// A phase of connecting, each under its own deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Name resolution and TCP.
    Dial,
    /// Waiting for the server's first line.
    Banner,
    /// Agreeing on keys and checking the host's.
    KeyExchange,
    /// Logging in.
    Authentication,
    /// Opening a channel.
    Open,
    /// Waiting for the helper's first message.
    Hello,
    /// Sending the helper.
    Upload,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dial => "dial",
            Self::Banner => "banner",
            Self::KeyExchange => "key exchange",
            Self::Authentication => "authentication",
            Self::Open => "channel open",
            Self::Hello => "helper hello",
            Self::Upload => "helper upload",
        })
    }
}

/// What happened.
#[derive(Debug, thiserror::Error)]
pub enum LinkErrorKind {
    /// The name has no address.
    #[error("cannot resolve `{address}`")]
    Resolve {
        /// The name.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing listens there.
    #[error("connection refused by `{address}` port {port}")]
    Refused {
        /// Where.
        address: String,
        /// TCP port.
        port: u16,
    },
    /// TCP failed otherwise.
    #[error("cannot connect to `{address}` port {port}")]
    Dial {
        /// Where.
        address: String,
        /// TCP port.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The jump host could not connect further.
    #[error("the jump host cannot connect to `{address}` port {port}: {why}")]
    DialBehind {
        /// Where.
        address: String,
        /// TCP port.
        port: u16,
        /// In the jump host's words.
        why: String,
    },
    /// The server forbids forwarding.
    #[error("the server forbids forwarding to `{address}` port {port}")]
    ForwardingForbidden {
        /// Where.
        address: String,
        /// TCP port.
        port: u16,
    },
    /// A phase took too long.
    #[error("{phase} timed out after {}", seconds(*after))]
    Deadline {
        /// Which phase.
        phase: Phase,
        /// Its deadline.
        after: Duration,
    },
    /// The server hung up during a phase.
    #[error("the connection ended during {phase}: {why}")]
    Closed {
        /// Which phase.
        phase: Phase,
        /// What was seen.
        why: String,
    },
    /// Something answers that does not speak SSH 2.
    #[error("`{address}` port {port} does not speak SSH 2")]
    NotSsh {
        /// Where.
        address: String,
        /// TCP port.
        port: u16,
    },
    /// No algorithm is known to both sides.
    #[error("no common {what} algorithm: the server offers {theirs}")]
    NoCommonAlgorithm {
        /// For what: `kex`, `key`, `cipher`.
        what: String,
        /// The server's.
        theirs: String,
    },
    /// The host's key is not good.
    #[error(transparent)]
    HostKey(Box<HostKeyProblem>),
    /// A file of known hosts cannot be used.
    #[error(transparent)]
    KnownHosts(#[from] KnownHostsError),
    /// A private key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No key was accepted.
    #[error("login as `{user}` refused; {}", offers(offered, accepts))]
    Refusal {
        /// The user.
        user: String,
        /// Keys offered, in order: type, fingerprint, where from. Keys passed over say why.
        offered: Vec<String>,
        /// Methods that the server would take.
        accepts: Vec<String>,
    },
    /// The server wants more than a key.
    #[error("a key was accepted for `{user}`, but the server wants also: {}", accepts.join(", "))]
    Partial {
        /// The user.
        user: String,
        /// Methods that the server wants.
        accepts: Vec<String>,
    },
    /// There is nothing to log in with.
    #[error("there is no key to log in with as `{user}`")]
    NoKeys {
        /// The user.
        user: String,
    },
    /// The server does not open another session.
    #[error("the server refuses to open a channel: {why}")]
    OpenRefused {
        /// Why.
        why: String,
    },
    /// The server does not run commands.
    #[error("the server refuses to run a command")]
    ExecRefused,
    /// The connection broke while in use.
    #[error("connection lost: {why}")]
    Lost {
        /// Why.
        why: String,
    },
    /// A program to place cannot be had.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// No directory takes the helper.
    #[error("no place for the helper on the host; tried {}", list(tried))]
    NoPlace {
        /// Directory and what is wrong with it.
        tried: Vec<(String, String)>,
    },
    /// The helper is for another CPU.
    #[error("the helper is for {helper}, the host is {host}")]
    WrongCpu {
        /// What the host is (`uname -m`).
        host: String,
        /// What the helper is for.
        helper: String,
    },
    /// The helper did not arrive on the host.
    #[error("cannot place the helper in `{place}`: {why}")]
    Upload {
        /// The directory.
        place: String,
        /// Why.
        why: String,
        /// The last lines of standard error.
        stderr: Vec<String>,
    },
    /// Sudo did not start the helper.
    #[error("{0}")]
    Sudo(SudoProblem),
    /// The host's shell did not start the helper.
    #[error("the helper did not start: {}", ending(*status, signal.as_deref()))]
    NotStarted {
        /// Exit status, when there was one.
        status: Option<i32>,
        /// The signal that ended it, when one did.
        signal: Option<String>,
        /// The last lines of output.
        output: Vec<String>,
    },
    /// The login shell never stopped talking.
    #[error("the login shell printed more than {MAX_NOISE} bytes and no helper began")]
    Noise,
    /// The helper speaks another protocol.
    #[error("the helper speaks protocol {theirs}, not {PROTOCOL}")]
    Protocol {
        /// Its version.
        theirs: u32,
    },
    /// The helper broke the rules of the channel.
    #[error("the helper sent what is not a message")]
    Frame(#[source] FrameError),
    /// A message of ours is too long for the channel.
    #[error("a message for the helper is too long")]
    TooLarge(#[source] FrameError),
    /// The helper began with something else than its hello.
    #[error("the helper did not begin with its hello")]
    NoHello,
    /// The helper gave up.
    #[error("the helper gave up: {why}")]
    Fault {
        /// In its words.
        why: String,
    },
    /// The helper ended while it was needed.
    #[error("the helper ended: {}", ending(*status, signal.as_deref()))]
    HelperEnded {
        /// Exit status, when there was one.
        status: Option<i32>,
        /// The signal that ended it, when one did.
        signal: Option<String>,
        /// The last lines of standard error.
        stderr: Vec<String>,
    },
    /// Our own terminal or standard streams failed.
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
}

/// Why sudo did not start the helper.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SudoProblem {
    /// Sudo wants a password.
    #[error("sudo wants a password for `{user}`")]
    PasswordRequired {
        /// The user.
        user: String,
    },
    /// The user may not become root.
    #[error("sudo does not allow `{user}` to run programs as root")]
    NotAllowed {
        /// The user.
        user: String,
    },
    /// Sudo insists on a terminal.
    #[error("sudo insists on a terminal for `{user}` (requiretty)")]
    TerminalRequired {
        /// The user.
        user: String,
    },
    /// There is no sudo.
    #[error("there is no sudo on the host")]
    Missing,
}

impl SudoProblem {
    /// What to do about it, in one line.
    fn hint(&self) -> String {
        match self {
            Self::PasswordRequired { user } | Self::NotAllowed { user } => {
                format!("echo '{user} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{user}   # as root on the host")
            }
            Self::TerminalRequired { user } => {
                format!("echo 'Defaults:{user} !requiretty' > /etc/sudoers.d/{user}-tty   # as root on the host")
            }
            Self::Missing => "log in as root (`user = \"root\"`), or install sudo on the host".to_owned(),
        }
    }
}

impl LinkErrorKind {
    /// This problem at the host itself.
    pub(super) fn of(self, target: &Target) -> LinkError {
        LinkError { host: target.name.clone(), hop: None, kind: Arc::new(self) }
    }

    /// What to do about it, in one line.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Resolve { address, .. } => format!("getent hosts {address}"),
            Self::Refused { port, .. } => format!("check that sshd runs there and listens on port {port}"),
            Self::ForwardingForbidden { .. } => "set `AllowTcpForwarding yes` in the server's sshd_config".to_owned(),
            Self::Deadline { phase: Phase::Dial, .. } => "check the address, the route and firewalls".to_owned(),
            Self::Deadline { phase: Phase::Banner, .. } => {
                "check that the port is sshd's and that the machine is not overloaded".to_owned()
            }
            Self::HostKey(problem) => problem.hint()?,
            Self::KnownHosts(error) => error.hint()?,
            Self::Key(error) => error.hint()?,
            Self::Refusal { user, .. } => {
                format!("put the public key into ~{user}/.ssh/authorized_keys on the host, or name another `key`")
            }
            Self::NoKeys { .. } => "name a `key` for the host in the inventory, or ssh-add one".to_owned(),
            Self::OpenRefused { .. } => "raise `MaxSessions` in the server's sshd_config".to_owned(),
            Self::NoPlace { .. } => "give the user a directory where programs may run".to_owned(),
            Self::WrongCpu { host, .. } => {
                format!("build cuisine-helper for {host} and set OVS_CUISINE_HELPER to its path")
            }
            Self::Sudo(problem) => problem.hint(),
            _ => return None,
        })
    }

    /// The last lines of remote output that belong to it.
    pub fn output_tail(&self) -> &[String] {
        match self {
            Self::Upload { stderr, .. } | Self::HelperEnded { stderr, .. } => stderr,
            Self::NotStarted { output, .. } => output,
            _ => &[],
        }
    }
}

impl LinkError {
    /// What to do about it, in one line.
    pub fn hint(&self) -> Option<String> {
        self.kind.hint()
    }

    /// The last lines of remote output that belong to it.
    pub fn output_tail(&self) -> &[String] {
        self.kind.output_tail()
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hop {
            Some(hop) => write!(f, "`{}` by jump host {} `{}`: {}", self.host, hop.number, hop.name, self.kind),
            None => write!(f, "`{}`: {}", self.host, self.kind),
        }
    }
}

impl Error for LinkError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The kind is part of this message already.
        self.kind.source()
    }
}

fn seconds(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

fn offers(offered: &[String], accepts: &[String]) -> String {
    let offered = if offered.is_empty() { "no key was offered".to_owned() } else { offered.join("; ") };
    if accepts.is_empty() { offered } else { format!("{offered} (the server takes {})", accepts.join(", ")) }
}

fn list(tried: &[(String, String)]) -> String {
    let parts: Vec<String> = tried.iter().map(|(place, why)| format!("`{place}` ({why})")).collect();
    parts.join(", ")
}

pub(super) fn ending(status: Option<i32>, signal: Option<&str>) -> String {
    match (signal, status) {
        (Some(signal), _) => format!("killed by SIG{signal}"),
        (None, Some(status)) => format!("exit status {status}"),
        (None, None) => "no exit status".to_owned(),
    }
}
