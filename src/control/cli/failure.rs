//! Why the run itself stopped: error, causes, hint, exit code. The only place where errors of rooms become exit codes.

use std::{error::Error, fmt, process::ExitCode};

use crate::control::{
    config::ConfigError,
    drive::{CopyError, DriveError, HostError},
    event::{Status, Summary},
    inventory::{InventoryError, SelectError},
    lab::LabError,
    link::{KeyError, LinkError},
    recipe::RecipeError,
};

/// What the process exits with. Families of ten; with several hosts the largest wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Exit {
    /// Done; nothing differs that should not.
    Done,
    /// `plan --exit-code` found changes.
    Drift,
    /// The inventory, a recipe, a parameter or the usage is wrong.
    BadInput,
    /// A host or engine could not be reached or trusted.
    Unreachable,
    /// A step, probe or transaction failed.
    OpFailed,
    /// Stopped by policy: a lock is held, a confirmation was refused.
    Refused,
    /// Interrupted.
    Interrupted,
    /// What a remote command exited with (`ssh`).
    Remote(u8),
}

impl Exit {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Drift => 10,
            Self::BadInput => 20,
            Self::Unreachable => 30,
            Self::OpFailed => 40,
            Self::Refused => 50,
            Self::Interrupted => 130,
            Self::Remote(code) => code,
        }
    }

    /// What a run's summary means for the exit status.
    pub(super) fn of(summary: &Summary) -> Self {
        let of_status = |status: Status| match status {
            Status::Unchanged | Status::Changed | Status::Unknown => Self::Done,
            Status::NotAttempted | Status::Failed => Self::OpFailed,
            Status::Unreachable => Self::Unreachable,
            Status::Interrupted => Self::Interrupted,
        };
        let hosts = summary.hosts.iter().map(|host| of_status(host.status));
        let components = summary.components.iter().map(|component| of_status(component.status));
        let interrupted = if summary.interrupted { Self::Interrupted } else { Self::Done };
        hosts.chain(components).max().unwrap_or(Self::Done).max(interrupted)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why the run itself stopped.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) error: Shown,
    pub(super) hint: Option<String>,
}

/// How an error is shown.
#[derive(Debug)]
pub(super) enum Shown {
    /// `error: ...` and a `because: ...` for each cause.
    Chain(Box<dyn Error + Send + Sync>),
    /// Already laid out, with its own `error:` heads: diagnostics with snippets.
    Rendered(String),
}

impl Failure {
    /// Input that is wrong in itself.
    pub(super) fn bad_input(message: impl Into<String>) -> Self {
        Self { exit: Exit::BadInput, error: Shown::Chain(Box::new(Plain(message.into()))), hint: None }
    }

    /// Stopped by policy.
    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self { exit: Exit::Refused, ..Self::bad_input(message) }
    }

    /// Something that ought to work everywhere did not.
    pub(super) fn internal(what: &'static str, source: impl Error + Send + Sync + 'static) -> Self {
        let error = Because { what: what.to_owned(), source: Box::new(source) };
        Self { exit: Exit::OpFailed, error: Shown::Chain(Box::new(error)), hint: None }
    }

    /// Any error with its place among the exit codes.
    pub(super) fn new(exit: Exit, error: impl Error + Send + Sync + 'static, hint: Option<String>) -> Self {
        Self { exit, error: Shown::Chain(Box::new(error)), hint }
    }

    /// The same failure with a hint.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A message without a cause.
#[derive(Debug)]
struct Plain(String);

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Plain {}

/// A message with a cause.
#[derive(Debug)]
struct Because {
    what: String,
    source: Box<dyn Error + Send + Sync>,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Because {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}

impl From<InventoryError> for Failure {
    fn from(error: InventoryError) -> Self {
        let rendered = error.render(super::output::stderr_color());
        Self { exit: Exit::BadInput, error: Shown::Rendered(rendered), hint: None }
    }
}

impl From<SelectError> for Failure {
    fn from(error: SelectError) -> Self {
        let hint = error.hint();
        Self::new(Exit::BadInput, error, hint)
    }
}

impl From<RecipeError> for Failure {
    fn from(error: RecipeError) -> Self {
        let hint = error.hint();
        Self::new(Exit::BadInput, error, hint)
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        let hint = error.hint();
        Self::new(Exit::BadInput, error, hint)
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        let hint = error.hint();
        Self::new(Exit::Unreachable, error, hint)
    }
}

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        let exit = match &error {
            LabError::ImageMissing { .. }
            | LabError::NetworkMissing { .. }
            | LabError::UnknownField { .. }
            | LabError::BadSetting { .. }
            | LabError::BadAddress { .. }
            | LabError::DeviceMissing { .. }
            | LabError::UserMissing { .. }
            | LabError::AddressOutside { .. }
            | LabError::AddressRefused { .. }
            | LabError::NotAContainer { .. } => Exit::BadInput,
            LabError::Build { .. } | LabError::Rootfs { .. } | LabError::Api { .. } => Exit::OpFailed,
            LabError::ForeignContainer { .. }
            | LabError::ForeignNetwork { .. }
            | LabError::PortInUse { .. }
            | LabError::AddressInUse { .. }
            | LabError::SubnetTaken { .. }
            | LabError::NoSubnet { .. }
            | LabError::SubnetChanged { .. }
            | LabError::SubnetFull { .. } => Exit::Refused,
            _ => Exit::Unreachable,
        };
        let hint = error.hint();
        Self::new(exit, error, hint)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let exit = match &error {
            ConfigError::Unreachable { .. } | ConfigError::LoginRefused { .. } | ConfigError::Tls { .. } => {
                Exit::Unreachable
            }
            ConfigError::LockHeld { .. } | ConfigError::Changed { .. } => Exit::Refused,
            ConfigError::BadEdit { .. }
            | ConfigError::ValueTooLarge { .. }
            | ConfigError::NoSuchRun { .. }
            | ConfigError::NotKept { .. }
            | ConfigError::Shared { .. }
            | ConfigError::TooMuch { .. } => Exit::BadInput,
            _ => Exit::OpFailed,
        };
        let hint = error.hint();
        Self::new(exit, error, hint)
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        let hint = error.hint();
        Self::new(Exit::Unreachable, error, hint)
    }
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Self {
        let exit = match error {
            CopyError::Start(error) => return (*error).into(),
            CopyError::Host(_) => Exit::Unreachable,
            CopyError::Usage { .. } | CopyError::Scan(_) | CopyError::Look { .. } => Exit::BadInput,
            CopyError::Interrupted => Exit::Interrupted,
            CopyError::Refused(_) | CopyError::Program(_) | CopyError::Receiver(_) | CopyError::Protocol(_) => {
                Exit::OpFailed
            }
        };
        let hint = error.hint();
        Self::new(exit, error, hint)
    }
}

impl From<DriveError> for Failure {
    fn from(error: DriveError) -> Self {
        match error {
            DriveError::Recipe(error) => error.into(),
            DriveError::Lab(error) => error.into(),
            DriveError::Keys(error) => error.into(),
            DriveError::Select(error) => error.into(),
            DriveError::Config(error) => error.into(),
            error => {
                let exit = match &error {
                    DriveError::Host { .. } | DriveError::NoContainer(_) => Exit::Unreachable,
                    _ => Exit::BadInput,
                };
                let hint = error.hint();
                Self::new(exit, error, hint)
            }
        }
    }
}
