//! etcd's errors as people read them.

use std::fmt;

use etcd_client::Error;

/// An error of etcd or of the way to it. Shows the innermost cause only: the layers around it add noise.
#[derive(Debug)]
pub struct Cause(Error);

impl Cause {
    /// The error itself.
    pub fn error(&self) -> &Error {
        &self.0
    }
}

impl From<Error> for Cause {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&innermost(&self.0))
    }
}

impl std::error::Error for Cause {}

/// The innermost cause of an error of etcd, in words.
pub(super) fn innermost(error: &Error) -> String {
    let mut source: Option<&(dyn std::error::Error + 'static)> = match error {
        Error::GRpcStatus(status) => std::error::Error::source(status),
        Error::TransportError(error) => Some(error),
        Error::IoError(error) => Some(error),
        _ => None,
    };
    let mut found = None;
    while let Some(cause) = source {
        found = Some(cause);
        source = cause.source();
    }
    match (found, error) {
        (Some(cause), _) => cause.to_string(),
        (None, Error::GRpcStatus(status)) => status.message().trim_start_matches("etcdserver: ").to_owned(),
        (None, error) => error.to_string(),
    }
}
