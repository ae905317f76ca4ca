//! What runsv(8) tells of a service that it looks after: `supervise/status`, 20 bytes, replaced whole at each change.
//!
//! The text beside it, `supervise/stat`, does not say which life of the service it is of, nor, of one that is down, whether
//! it is wanted up; and it is another file than the one with the process's number.

use std::{fmt::Write as _, path::Path};

/// Time of the last change (TAI64N), process, paused, wanted, told to end, state.
const LENGTH: usize = 20;
const PROCESS: std::ops::Range<usize> = 12..16;
const WANTED: usize = 17;
const TOLD_TO_END: usize = 18;
const STATE: usize = 19;
const RUNS: u8 = 1;

/// A service as its supervisor sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Supervised([u8; LENGTH]);

impl Supervised {
    /// None when nobody has looked after it yet.
    pub(super) fn read(link: &Path) -> Option<Self> {
        fs_err::read(link.join("supervise/status")).ok()?.try_into().ok().map(Self)
    }

    fn process(self) -> u32 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|at| self.0[PROCESS.start + at]);
        u32::from_le_bytes([a, b, c, d])
    }

    /// It runs, and nobody has told it to end.
    pub(super) fn runs(self) -> bool {
        self.0[STATE] == RUNS && self.0[TOLD_TO_END] == 0 && self.process() != 0
    }

    /// It has ended, what is run at its end too, and it does not start again: a supervisor that has not yet heard of the
    /// wish starts it anew.
    pub(super) fn stays_down(self) -> bool {
        self.process() == 0 && self.0[WANTED] == b'd'
    }

    /// Tells one life of it from the next.
    pub(super) fn life(self) -> String {
        let mut life = self.process().to_string();
        for byte in &self.0[..PROCESS.start] {
            // Writing to a string cannot fail.
            let _ = write!(life, "{byte:02x}");
        }
        life
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(process: u32, wanted: u8, told_to_end: u8, state: u8) -> Supervised {
        let mut bytes = [0x40; LENGTH];
        bytes[PROCESS].copy_from_slice(&process.to_le_bytes());
        (bytes[WANTED], bytes[TOLD_TO_END], bytes[STATE]) = (wanted, told_to_end, state);
        Supervised(bytes)
    }

    #[test]
    fn a_status_tells_what_is_and_what_will_be() {
        let tells = |status: Supervised| (status.runs(), status.stays_down());
        assert_eq!(tells(status(4711, b'u', 0, 1)), (true, false));
        assert_eq!(tells(status(4711, b'd', 1, 1)), (false, false), "on its way down");
        assert_eq!(tells(status(4712, b'd', 0, 2)), (false, false), "what runs at its end");
        assert_eq!(tells(status(0, b'u', 0, 0)), (false, false), "it comes back by itself");
        assert_eq!(tells(status(0, b'd', 0, 0)), (false, true));
        assert_ne!(status(1, b'u', 0, 1).life(), status(2, b'u', 0, 1).life());
    }

    #[test]
    fn what_is_not_a_status_is_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Supervised::read(folder.path()), None);
        fs_err::create_dir(folder.path().join("supervise")).unwrap();
        fs_err::write(folder.path().join("supervise/status"), [0; LENGTH - 1]).unwrap();
        assert_eq!(Supervised::read(folder.path()), None, "it is being written");
        fs_err::write(folder.path().join("supervise/status"), status(7, b'u', 0, 1).0).unwrap();
        assert!(Supervised::read(folder.path()).unwrap().runs());
    }
}
