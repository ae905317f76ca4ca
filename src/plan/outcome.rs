//! What became of an op.

use serde::{Deserialize, Serialize};

use super::StepId;

/// What check mode says of one step. Exactly these four; "cannot tell" is never reported as "no change".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The host is as wanted.
    NoChange,
    /// Applying would change the host.
    WouldChange,
    /// Cannot be told without running.
    Unknown,
    /// The step's condition does not hold.
    Skipped,
}

/// What became of one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The host was as wanted.
    NoChange,
    /// Check mode: the host differs and applying would change it.
    WouldChange,
    /// Check mode: cannot be told without running.
    Unknown {
        /// What stands in the way of telling.
        why: String,
    },
    /// The host was changed and is now as wanted.
    Changed,
    /// The step's condition did not hold.
    Skipped {
        /// The condition, in words.
        why: String,
        /// The step whose lack of change is the reason, if it was one.
        because: Option<StepId>,
    },
    /// The step failed; steps after it were not attempted.
    Failed(OpFailure),
    /// An earlier step failed or the run was stopped.
    NotAttempted,
}

impl Outcome {
    /// The check-mode verdict that this outcome states, if it is one.
    pub fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::NoChange => Some(Verdict::NoChange),
            Self::WouldChange => Some(Verdict::WouldChange),
            Self::Unknown { .. } => Some(Verdict::Unknown),
            Self::Skipped { .. } => Some(Verdict::Skipped),
            Self::Changed | Self::Failed(_) | Self::NotAttempted => None,
        }
    }
}

/// Why an op failed. Names the thing; the near side adds host, component and recipe line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct OpFailure {
    /// What family of failure this is.
    pub kind: FailureKind,
    /// Lower case, names the path, package or command: ``cannot write `/etc/x`: permission denied``.
    pub message: String,
    /// The last lines (at most 20) that a command wrote to standard error, or its output when that was empty.
    pub output_tail: Vec<String>,
    /// One line that says what to do, when that is known.
    pub hint: Option<String>,
}

impl OpFailure {
    /// A failure without output or hint.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), output_tail: Vec::new(), hint: None }
    }

    /// The same failure with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure with the last lines of a command's output.
    #[must_use]
    pub fn output(mut self, lines: Vec<String>) -> Self {
        self.output_tail = lines;
        self
    }
}

/// Families of op failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The op itself is wrong for this host (no such user, path is a directory ...).
    BadInput,
    /// The helper's user may not do this.
    Permission,
    /// No space left, or quota exceeded.
    NoSpace,
    /// The file system is read-only.
    ReadOnly,
    /// Another input or output error.
    Io,
    /// A command ended with a status that does not count as success, or by a signal.
    Command,
    /// A deadline passed.
    Timeout,
    /// The host lacks what the op needs (package manager, service manager, program).
    Unsupported,
    /// Content that arrived is not what was announced.
    Content,
    /// The run was cancelled.
    Cancelled,
    /// Another run holds the host's lock.
    Locked,
    /// A defect of ours.
    Internal,
}

/// How many steps ended in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Host was as wanted.
    pub unchanged: u32,
    /// Changed, or in check mode would change.
    pub changed: u32,
    /// Check mode could not tell.
    pub unknown: u32,
    /// Condition did not hold.
    pub skipped: u32,
    /// Failed.
    pub failed: u32,
    /// Not attempted after a failure.
    pub not_attempted: u32,
}

impl Tally {
    /// Counts one outcome.
    pub fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::NoChange => self.unchanged += 1,
            Outcome::WouldChange | Outcome::Changed => self.changed += 1,
            Outcome::Unknown { .. } => self.unknown += 1,
            Outcome::Skipped { .. } => self.skipped += 1,
            Outcome::Failed(_) => self.failed += 1,
            Outcome::NotAttempted => self.not_attempted += 1,
        }
    }

    /// All steps counted.
    pub fn total(&self) -> u32 {
        self.unchanged + self.changed + self.unknown + self.skipped + self.failed + self.not_attempted
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.unchanged += other.unchanged;
        self.changed += other.changed;
        self.unknown += other.unknown;
        self.skipped += other.skipped;
        self.failed += other.failed;
        self.not_attempted += other.not_attempted;
    }
}
