//! What a process may do: resource limits, and directories that must be there and belong to it.

use std::path::Path;

use rustix::{
    fs::{Access, access},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use crate::log;

/// Says so when fewer files may be open than the unit of the real program grants.
pub(crate) fn warn_of_few_files(wanted: u64) {
    if let Some(soft) = getrlimit(Resource::Nofile).current.filter(|soft| *soft < wanted) {
        log::warning(&format!("only {soft} files may be open; the unit wants LimitNOFILE={wanted}"));
    }
}

/// Says so when memory cannot be locked without limit.
pub(crate) fn warn_of_locked_memory() {
    if let Some(soft) = getrlimit(Resource::Memlock).current {
        log::warning(&format!("only {soft} bytes of memory may be locked; the unit wants LimitMEMLOCK=infinity"));
    }
}

/// Asks for so many open files, for this process and what it starts.
pub(crate) fn set_files(count: u64) -> Result<(), String> {
    setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum: Some(count) })
        .map_err(|error| format!("Failed to set the max number of open files to {count}: {error}"))
}

/// Whether this is a directory in which this process may make files.
pub(crate) fn is_writable_directory(path: &Path) -> bool {
    path.is_dir() && access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// The bytes that a user may still write to the file system of this path, and its whole size.
pub(crate) fn space(path: &Path) -> Result<(u64, u64), String> {
    let stat = rustix::fs::statvfs(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize))
}
