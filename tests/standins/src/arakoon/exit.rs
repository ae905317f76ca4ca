//! How an arakoon node ends: the exit codes of the real one.

pub(crate) use crate::end::Exit;

pub(crate) const STORE_AHEAD_OF_TLOGS: u8 = 40;
pub(crate) const STORE_COUNTER_TOO_LOW: u8 = 41;
pub(crate) const TLOG_NOT_CLOSED: u8 = 42;
pub(crate) const TLOG_DIRECTORY: u8 = 43;
pub(crate) const HOME_DIRECTORY: u8 = 44;
pub(crate) const CORRUPT_STORE: u8 = 45;
pub(crate) const TLX_DIRECTORY: u8 = 46;
pub(crate) const HEAD_DIRECTORY: u8 = 47;
pub(crate) const OTHER: u8 = 66;

impl From<String> for Exit {
    fn from(text: String) -> Self {
        Self::new(OTHER, text)
    }
}
