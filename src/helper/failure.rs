//! Turns errors of the operating system into op failures: the one place where an errno gets its meaning.

use std::{error::Error, fmt::Display, io};

use crate::plan::{FailureKind, OpFailure};

/// Gives an error of the operating system the name of what was being done.
pub(crate) trait OrFail<T> {
    /// On error a failure ``cannot {doing} `{thing}`: {cause}`` with the kind and hint that the errno implies.
    fn or_fail(self, doing: &str, thing: impl Display) -> Result<T, OpFailure>;
}

impl<T, E: Into<io::Error>> OrFail<T> for Result<T, E> {
    fn or_fail(self, doing: &str, thing: impl Display) -> Result<T, OpFailure> {
        self.map_err(|error| io_failure(doing, thing, &error.into()))
    }
}

/// The failure that stands for an error met while doing something to a thing.
pub(crate) fn io_failure(doing: &str, thing: impl Display, error: &io::Error) -> OpFailure {
    let thing = thing.to_string();
    let failure = OpFailure::new(kind_of(error.kind()), format!("cannot {doing} `{thing}`: {}", cause(error)));
    match hint(error.kind(), &thing) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// A failure of the op itself: it is wrong for this host.
pub(crate) fn bad_input(message: impl Into<String>) -> OpFailure {
    OpFailure::new(FailureKind::BadInput, message)
}

fn kind_of(kind: io::ErrorKind) -> FailureKind {
    use io::ErrorKind as Kind;
    match kind {
        Kind::PermissionDenied => FailureKind::Permission,
        Kind::StorageFull | Kind::QuotaExceeded => FailureKind::NoSpace,
        Kind::ReadOnlyFilesystem => FailureKind::ReadOnly,
        Kind::TimedOut => FailureKind::Timeout,
        Kind::NotADirectory | Kind::IsADirectory | Kind::InvalidFilename | Kind::DirectoryNotEmpty => {
            FailureKind::BadInput
        }
        Kind::InvalidData => FailureKind::Content,
        Kind::Unsupported => FailureKind::Unsupported,
        Kind::ConnectionAborted => FailureKind::Cancelled,
        _ => FailureKind::Io,
    }
}

fn hint(kind: io::ErrorKind, thing: &str) -> Option<String> {
    use io::ErrorKind as Kind;
    match kind {
        Kind::PermissionDenied => Some(NEEDS_ROOT.to_owned()),
        Kind::StorageFull => {
            Some(format!("free some space on the file system of `{thing}`; `df -h` on the host shows it"))
        }
        Kind::QuotaExceeded => Some("raise the quota of the helper's user, or free some of its space".to_owned()),
        Kind::ReadOnlyFilesystem => {
            Some("the file system is mounted read-only; `dmesg` on the host may say why".to_owned())
        }
        Kind::InvalidFilename => Some("most file systems take names of at most 255 bytes".to_owned()),
        Kind::NotADirectory => Some(format!("a part of `{thing}` is no directory: remove it, or name another path")),
        _ => None,
    }
}

/// What to do about most refusals.
pub(crate) const NEEDS_ROOT: &str = "log in as root, or set `sudo = true` in the host's `ssh` table";

/// The deepest cause in words, in lower case, without the number.
pub(crate) fn cause(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut next: Option<&dyn Error> = error.source();
    if let Some(inner) = error.get_ref() {
        text = inner.to_string();
        next = inner.source();
    }
    while let Some(inner) = next {
        text = inner.to_string();
        next = inner.source();
    }
    // fs_err names the path and then the cause in one text; the path has been named already.
    let text = if text.starts_with("failed to ") { text.rsplit(": ").next().unwrap_or_default() } else { &text };
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_becomes_a_kind_a_cause_and_a_hint() {
        let full = io_failure("write", "/data/x", &io::Error::from_raw_os_error(28));
        assert_eq!(full.kind, FailureKind::NoSpace);
        assert_eq!(full.message, "cannot write `/data/x`: no space left on device");
        assert!(full.hint.unwrap().contains("`/data/x`"));
        let read_only = io_failure("write", "/x", &io::Error::from_raw_os_error(30));
        assert_eq!(read_only.kind, FailureKind::ReadOnly);
        let refused = io_failure("write", "/x", &io::Error::from_raw_os_error(13));
        assert_eq!(refused.kind, FailureKind::Permission);
        assert_eq!(refused.hint.as_deref(), Some(NEEDS_ROOT));
    }

    #[test]
    fn wrapped_errors_keep_their_kind_and_lose_their_wrapping() {
        let error = fs_err::read("/nonexistent/x").unwrap_err();
        let failure = io_failure("read", "/nonexistent/x", &error);
        assert_eq!(failure.message, "cannot read `/nonexistent/x`: no such file or directory");
    }
}
