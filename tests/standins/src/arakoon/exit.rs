//! How an arakoon node ends: the exit codes of the real one.

/// Why a node does not start, and the code that says so.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) code: u8,
    pub(crate) text: String,
}

pub(crate) const STORE_AHEAD_OF_TLOGS: u8 = 40;
pub(crate) const TLOG_NOT_CLOSED: u8 = 42;
pub(crate) const TLOG_DIRECTORY: u8 = 43;
pub(crate) const HOME_DIRECTORY: u8 = 44;
pub(crate) const CORRUPT_STORE: u8 = 45;
pub(crate) const TLX_DIRECTORY: u8 = 46;
pub(crate) const HEAD_DIRECTORY: u8 = 47;
pub(crate) const OTHER: u8 = 66;

impl Exit {
    pub(crate) fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

impl From<String> for Exit {
    fn from(text: String) -> Self {
        Self::new(OTHER, text)
    }
}
