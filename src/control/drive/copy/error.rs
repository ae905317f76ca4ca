//! Why something was not copied.

use std::{io, path::PathBuf, sync::Arc};

use crate::{
    control::{
        drive::{DriveError, HostError},
        link::ProgramError,
    },
    plan::OpFailure,
    tree::ScanError,
};

/// Why something was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The inventory's keys or the engine cannot be used.
    #[error(transparent)]
    Start(Box<DriveError>),
    /// The host cannot be reached, or was lost.
    #[error(transparent)]
    Host(Arc<HostError>),
    /// The side that reads or the side that writes refused.
    #[error(transparent)]
    Refused(OpFailure),
    /// What is to be copied from here cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The command line asks for what cannot be done.
    #[error("{message}")]
    Usage {
        /// Lower case, names the path.
        message: String,
        /// What to do.
        hint: String,
    },
    /// A path of this machine cannot be looked at.
    #[error("cannot look at `{path}`", path = path.display())]
    Look {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program that writes on this machine cannot be had.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The program that writes on this machine could not be started, or ended early.
    #[error("the program that writes the copy failed")]
    Receiver(#[source] io::Error),
    /// A defect on one of the two sides.
    #[error("the copy broke the protocol: {0}")]
    Protocol(&'static str),
    /// The run was interrupted.
    #[error("interrupted")]
    Interrupted,
}

impl CopyError {
    pub(super) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: hint.into() }
    }

    /// What to do, in one line.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Start(error) => error.hint(),
            Self::Host(error) => {
                let look = || "see what `ovs-cuisine ps INVENTORY` says of the host".to_owned();
                error.hint().or_else(|| Some(look()))
            }
            Self::Refused(failure) => failure.hint.clone(),
            Self::Scan(ScanError::Open { .. } | ScanError::NotADirectory { .. }) => {
                Some("correct the path of the source".to_owned())
            }
            Self::Scan(error) => error.hint(),
            Self::Usage { hint, .. } => Some(hint.clone()),
            Self::Look { .. } => Some("correct the path, or its permissions".to_owned()),
            Self::Interrupted => Some("run the same command again: what is there is not sent again".to_owned()),
            Self::Program(_) | Self::Receiver(_) | Self::Protocol(_) => None,
        }
    }
}

impl From<HostError> for CopyError {
    fn from(error: HostError) -> Self {
        Self::Host(Arc::new(error))
    }
}
