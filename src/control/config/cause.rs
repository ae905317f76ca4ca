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
        let mut source: Option<&(dyn std::error::Error + 'static)> = match &self.0 {
            Error::GRpcStatus(status) => std::error::Error::source(status),
            Error::TransportError(error) => Some(error),
            Error::IoError(error) => Some(error),
            _ => None,
        };
        let mut innermost = None;
        while let Some(error) = source {
            innermost = Some(error);
            source = error.source();
        }
        match (innermost, &self.0) {
            (Some(error), _) => write!(f, "{error}"),
            (None, Error::GRpcStatus(status)) => f.write_str(status.message().trim_start_matches("etcdserver: ")),
            (None, error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Cause {}
