//! The number behind an error, for the kernel.

use fuser::Errno;

/// The system's number of an error. Only errors as the system gave them have one: those of `fs_err` have not, so what
/// the mount does goes without it.
pub(crate) fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_i32)
}
