//! Read-only questions that a recipe may ask a live host while it is evaluated.

use serde::{Deserialize, Serialize};

use super::{HostPath, ListenPort, OpFailure};

/// A read-only question about a host's live state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Is there anything at this path? Follows links. Answered with [`Answer::Flag`].
    Exists(HostPath),
    /// Is there a regular file at this path? Follows links. [`Answer::Flag`].
    IsFile(HostPath),
    /// Is there a directory at this path? Follows links. [`Answer::Flag`].
    IsDir(HostPath),
    /// Is there a symbolic link at this path? [`Answer::Flag`].
    IsLink(HostPath),
    /// The text of a file, at most 1 MiB, UTF-8. [`Answer::Text`], [`Answer::Absent`] when there is none.
    Read(HostPath),
    /// Is this command on the path? [`Answer::Flag`].
    CommandExists(String),
    /// Is this package installed? [`Answer::Flag`].
    PackageInstalled(String),
    /// Is there such a user? [`Answer::Flag`].
    UserExists(String),
    /// Is there such a group? [`Answer::Flag`].
    GroupExists(String),
    /// Standard output of a shell command that changes nothing, without its last newline. [`Answer::Text`].
    Output {
        /// Run by `/bin/sh -c`.
        command: String,
        /// Ends it after so many milliseconds.
        timeout_ms: u64,
    },
    /// May this service listen on these ports? [`Answer::Flag`], or [`Answer::Failed`] that names who has one.
    Ports {
        /// Which service: what it has itself is its own.
        service: String,
        /// What it wants.
        ports: Vec<ListenPort>,
        /// Services that leave theirs to it.
        yields: Vec<String>,
    },
}

/// What a host answers to a [`Question`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Yes or no.
    Flag(bool),
    /// A text.
    Text(String),
    /// There is no such thing.
    Absent,
    /// The question could not be answered.
    Failed(OpFailure),
}
