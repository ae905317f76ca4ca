//! Why a launch failed, and with which exit code (the numbers of `sysexits.h`).

use std::{io, net::SocketAddr, path::PathBuf};

use super::cause::Cause;
use crate::plan::{EtcdLinkError, HostPath};

/// Why a launch failed. No variant holds a password or a value.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// The text given is not an etcd link.
    #[error(transparent)]
    Link(#[from] EtcdLinkError),
    /// The link file cannot be read.
    #[error("cannot read link file `{}`", path.display())]
    LinkFile {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The link file may have been read or written by others.
    #[error("link file `{}` {why}", path.display())]
    LinkFileOpen {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The CA that the link names cannot be read.
    #[error("cannot read the CA `{path}`")]
    Authority {
        /// Which file.
        path: HostPath,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// etcd does not answer.
    #[error("etcd at {place} does not answer")]
    Unreachable {
        /// The member tried.
        place: String,
        /// Why not, innermost cause.
        #[source]
        source: Cause,
    },
    /// etcd does not take our login.
    #[error("etcd at {place} refuses the login of `{user}`")]
    Refused {
        /// The member tried.
        place: String,
        /// Who tried.
        user: String,
    },
    /// The login may not read a key.
    #[error("user `{user}` may not read `{key}`")]
    Denied {
        /// Who is logged in.
        user: String,
        /// Which key.
        key: String,
    },
    /// A key is not there (yet).
    #[error("there is no key `{key}` in etcd")]
    Missing {
        /// Which key.
        key: String,
    },
    /// The description is not one.
    #[error("the description at `{key}` cannot be used: {why}")]
    Description {
        /// Where it is stored.
        key: String,
        /// What is wrong with it. Never quotes it: its environment may hold secrets.
        why: String,
    },
    /// The keys below a directory do not make one JSON object.
    #[error("key `{key}` cannot become part of a file: {why}")]
    Merge {
        /// Which key.
        key: String,
        /// What is wrong with it. Never quotes it.
        why: &'static str,
    },
    /// A command of the description did not succeed.
    #[error("`{program}` {why}")]
    Command {
        /// Its program.
        program: String,
        /// How it ended, with its last words.
        why: String,
    },
    /// No such user.
    #[error("there is no user `{0}` on this machine")]
    NoUser(String),
    /// Only root may run a process as another user.
    #[error("only root can run the process as user `{0}`")]
    NotRoot(String),
    /// A file could not be rendered.
    #[error("cannot render `{path}`")]
    Render {
        /// Which file.
        path: HostPath,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// An address cannot be listened at.
    #[error("cannot listen at {address}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The operating system refused something.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Failure {
    /// The exit code: `EX_USAGE` and so on of `sysexits.h`.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Link(_) => 64,
            Self::Description { .. } | Self::Missing { .. } | Self::Merge { .. } => 65,
            Self::LinkFile { .. } | Self::Authority { .. } => 66,
            Self::NoUser(_) => 67,
            Self::Unreachable { .. } => 69,
            Self::System { .. } | Self::Listen { .. } => 71,
            Self::Render { .. } => 73,
            Self::Command { .. } => 75,
            Self::Refused { .. } | Self::Denied { .. } | Self::NotRoot(_) => 77,
            Self::LinkFileOpen { .. } => 78,
        }
    }

    /// Whether waiting may cure it: nobody there yet, or not everything written yet.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Missing { .. })
    }

    /// The whole story in one line.
    pub(super) fn line(&self) -> String {
        let mut line = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let text = cause.to_string();
            if !line.contains(&text) {
                line = format!("{line}: {text}");
            }
            source = cause.source();
        }
        line
    }
}
