//! Files from keys: each one wholly old or wholly new, and never readable by others on the way.

use std::{
    io::{self, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::Path,
};

use fs_err::os::unix::fs::OpenOptionsExt as _;
use rustix::fs::{Gid, OFlags, Uid};

use super::{account::Account, change::Service, failure::Failure};
use crate::plan::LaunchFile;

/// Permission bits of a file whose description names none.
const PRIVATE: u32 = 0o600;

/// Renders all files of a service; those that are right already are not touched.
pub(super) fn all(service: &Service, account: Option<&Account>) -> Result<(), Failure> {
    for (file, content) in service.files() {
        one(file, content, account)?;
    }
    Ok(())
}

/// Renders one file. True when it was not right already.
pub(super) fn one(file: &LaunchFile, content: &[u8], account: Option<&Account>) -> Result<bool, Failure> {
    if is_right(file, content, account) {
        return Ok(false);
    }
    write(file, content, account).map_err(|source| Failure::Render { path: file.path.clone(), source })?;
    Ok(true)
}

/// Removes the file of a key that the service no longer has. One that is gone already is fine.
pub(super) fn remove(file: &LaunchFile) -> Result<(), Failure> {
    match fs_err::remove_file(file.path.as_path()) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Failure::Render { path: file.path.clone(), source })
        }
        _ => Ok(()),
    }
}

/// Whether a file is there with this content, mode and owner.
pub(super) fn is_right(file: &LaunchFile, content: &[u8], account: Option<&Account>) -> bool {
    let path = file.path.as_path();
    let Ok(meta) = fs_err::symlink_metadata(path) else {
        return false;
    };
    let owner = account.is_none_or(|account| meta.uid() == account.uid && meta.gid() == account.gid);
    meta.is_file()
        && owner
        && meta.mode() & 0o7777 == mode(file)
        && meta.len() == content.len() as u64
        && fs_err::read(path).is_ok_and(|bytes| bytes == content)
}

fn write(file: &LaunchFile, content: &[u8], account: Option<&Account>) -> io::Result<()> {
    let path = file.path.as_path();
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file"));
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let mut temporary = b".".to_vec();
    temporary.extend_from_slice(name.as_bytes());
    temporary.extend_from_slice(b".ovs-launch");
    let temporary = directory.join(std::ffi::OsStr::from_bytes(&temporary));
    // One that a killed launcher left behind.
    match fs_err::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let result = fill(&temporary, file, content, account).and_then(|()| fs_err::rename(&temporary, path));
    if result.is_err() {
        // The first error is the one to tell.
        let _ = fs_err::remove_file(&temporary);
    }
    result
}

fn fill(temporary: &Path, file: &LaunchFile, content: &[u8], account: Option<&Account>) -> io::Result<()> {
    let nofollow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let mut options = fs_err::OpenOptions::new();
    // Never an existing file or link: the directory may belong to the service's user.
    options.write(true).create_new(true).mode(PRIVATE).custom_flags(nofollow);
    let mut handle = options.open(temporary)?;
    handle.write_all(content)?;
    if let Some(account) = account {
        rustix::fs::fchown(&handle, Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)))?;
    }
    // After the owner: a change of owner takes set-user-id bits away. Before the rename: nobody sees it half done.
    rustix::fs::fchmod(&handle, mode(file).into())?;
    handle.sync_all()
}

fn mode(file: &LaunchFile) -> u32 {
    file.mode.map_or(PRIVATE, crate::plan::Mode::bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &Path, mode: Option<u32>) -> LaunchFile {
        let path = path.to_str().unwrap().parse().unwrap();
        LaunchFile { path, key: "/n/x".to_owned(), mode: mode.map(|bits| bits.try_into().unwrap()), on_change: None }
    }

    #[test]
    fn content_and_mode_are_as_wanted_and_written_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/on/the/way/config");
        let wanted = file(&path, Some(0o640));
        assert!(one(&wanted, b"text", None).unwrap());
        assert_eq!(fs_err::read(&path).unwrap(), b"text");
        let meta = fs_err::metadata(&path).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o640);
        assert_eq!(fs_err::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777, 0o755);
        assert!(!one(&wanted, b"text", None).unwrap());
        assert_eq!(fs_err::metadata(&path).unwrap().ino(), meta.ino(), "an unchanged file is left alone");
        assert!(one(&wanted, b"tent", None).unwrap());
        assert!(one(&file(&path, None), b"tent", None).unwrap(), "the mode differs");
        assert_eq!(fs_err::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs_err::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn links_are_replaced_and_never_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, victim) = (directory.path().join("config"), directory.path().join("victim"));
        fs_err::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join(".config.ovs-launch")).unwrap();
        assert!(one(&file(&path, None), b"text", None).unwrap());
        assert_eq!(fs_err::read(&victim).unwrap(), b"precious");
        assert!(fs_err::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let directory = tempfile::tempdir().unwrap();
        fs_err::write(directory.path().join("file"), "").unwrap();
        let error = one(&file(&directory.path().join("file/config"), None), b"", None).unwrap_err();
        assert_eq!(error.code(), 73);
        assert!(error.line().contains("file/config"), "{}", error.line());
        let target = directory.path().join("dir");
        fs_err::create_dir(&target).unwrap();
        assert_eq!(one(&file(&target, None), b"", None).unwrap_err().code(), 73);
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 2, "nothing is left behind");
    }
}
