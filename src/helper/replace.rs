//! Files that are wholly old or wholly new, whatever happens: written under another name, finished, then renamed.

use std::{
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, chmodat, chownat, fchmod, fchown};

use super::failure::{OrFail, bad_input, io_failure};
use crate::plan::OpFailure;

const PREFIX: &str = ".ovs-cuisine.";
const SUFFIX: &str = ".tmp";

/// Permissions and ownership of a file to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Permission bits.
    pub(crate) mode: u32,
    /// User id; the helper's when not given.
    pub(crate) uid: Option<u32>,
    /// Group id; the helper's when not given.
    pub(crate) gid: Option<u32>,
}

impl Attributes {
    /// These permission bits, and the helper's own user and group.
    pub(crate) fn mode(mode: u32) -> Self {
        Self { mode, uid: None, gid: None }
    }
}

/// Puts a file with this content at a path, in one step for whoever looks. `fill` writes the content.
///
/// Permissions and ownership are right before the name is; the content is on disk before the name is.
pub(crate) fn replace_file(
    path: &Path,
    attributes: Attributes,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), OpFailure>,
) -> Result<(), OpFailure> {
    let directory = parent(path)?;
    sweep(directory);
    let temporary = directory.join(temporary_name());
    let written = write_temporary(&temporary, path, attributes, fill).and_then(|()| {
        fs_err::rename(&temporary, path).or_fail("write", path.display())?;
        sync_directory(directory).or_fail("write", path.display())
    });
    if written.is_err() {
        // Renamed or never made: then there is nothing to take away.
        let _ = fs_err::remove_file(&temporary);
    }
    written
}

/// The same for content at hand.
pub(crate) fn replace_with(path: &Path, attributes: Attributes, content: &[u8]) -> Result<(), OpFailure> {
    replace_file(path, attributes, |out| out.write_all(content).or_fail("write", path.display()))
}

fn write_temporary(
    temporary: &Path,
    path: &Path,
    attributes: Attributes,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), OpFailure>,
) -> Result<(), OpFailure> {
    // Errors name the file that is wanted, not the one nobody has heard of.
    let created = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary);
    let mut new = created.or_fail("write", path.display())?;
    fill(&mut new)?;
    if attributes.uid.is_some() || attributes.gid.is_some() {
        let (uid, gid) = (attributes.uid.map(Uid::from_raw), attributes.gid.map(Gid::from_raw));
        fchown(&new, uid, gid).or_fail("set the owner of", path.display())?;
    }
    // After the owner: changing that takes the set-user-id bit away.
    fchmod(&new, Mode::from_raw_mode(attributes.mode)).or_fail("set the mode of", path.display())?;
    new.sync_all().or_fail("write", path.display())
}

/// Puts a symbolic link at a path, in one step for whoever looks.
pub(crate) fn replace_link(path: &Path, target: &str) -> Result<(), OpFailure> {
    let directory = parent(path)?;
    sweep(directory);
    let temporary = directory.join(temporary_name());
    std::os::unix::fs::symlink(target, &temporary).or_fail("create", path.display())?;
    let renamed = fs_err::rename(&temporary, path).and_then(|()| sync_directory(directory));
    if renamed.is_err() {
        // What is left of a failed rename is swept by the next run at the latest.
        let _ = fs_err::remove_file(&temporary);
    }
    renamed.or_fail("create", path.display())
}

/// Sets what is given of the attributes of what is at a path already. Never through a symbolic link.
pub(crate) fn set_attributes(
    path: &Path,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
) -> Result<(), OpFailure> {
    if uid.is_some() || gid.is_some() {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW).or_fail("set the owner of", path.display())?;
    }
    if let Some(mode) = mode {
        chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty()).or_fail("set the mode of", path.display())?;
    }
    Ok(())
}

/// Brings the names in a directory to disk. File systems that cannot do so are left alone.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    match fs_err::File::open(directory)?.sync_all() {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

/// Takes away what an interrupted run left in a directory. The host's lock sees to it that no other run is at work.
fn sweep(directory: &Path) {
    let Ok(entries) = fs_err::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            // It is only rubbish: what cannot be taken away may stay.
            let _ = fs_err::remove_file(entry.path());
        }
    }
}

/// A name that no other process chooses at the same time; `create_new` finds out when it lies.
pub(crate) fn temporary_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&now.to_le_bytes());
    hasher.update(&std::process::id().to_le_bytes());
    hasher.update(&COUNT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    format!("{PREFIX}{}{SUFFIX}", &hasher.finalize().to_hex()[..16])
}

fn parent(path: &Path) -> Result<&Path, OpFailure> {
    path.parent().ok_or_else(|| bad_input(format!("`{}` is not the path of a file", path.display())))
}

/// The file that a path stands for: itself, or the regular file that a link there leads to. Editors do the same: a
/// link such as `/etc/x -> /opt/x` is somebody's decision, and replacing it would leave the real file behind.
pub(crate) fn written_path(path: &Path) -> Result<(PathBuf, Option<std::fs::Metadata>), OpFailure> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((path.to_owned(), None)),
        Err(error) => return Err(io_failure("look at", path.display(), &error)),
    };
    if !found.is_symlink() {
        return Ok((path.to_owned(), Some(found)));
    }
    let real = fs_err::canonicalize(path).map_err(|_| {
        bad_input(format!("`{}` is a symbolic link that leads nowhere", path.display()))
            .hint(format!("remove the link first: file_remove(\"{}\")", path.display()))
    })?;
    let found = fs_err::symlink_metadata(&real).or_fail("look at", real.display())?;
    Ok((real, Some(found)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_rubbish_is_swept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        fs_err::write(directory.path().join(".ovs-cuisine.dead.tmp"), "half").unwrap();
        replace_with(&path, Attributes::mode(0o640), b"one").unwrap();
        replace_with(&path, Attributes::mode(0o600), b"two").unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), b"two");
        assert_eq!(fs_err::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_file_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        fs_err::write(&path, "old").unwrap();
        let failed = replace_file(&path, Attributes::mode(0o644), |out| {
            out.write_all(b"half").or_fail("write", "x")?;
            Err(bad_input("no more"))
        });
        assert_eq!(failed.unwrap_err().message, "no more");
        assert_eq!(fs_err::read(&path).unwrap(), b"old");
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_lead_to_the_file_that_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link, lost) =
            (directory.path().join("real"), directory.path().join("link"), directory.path().join("lost"));
        fs_err::write(&real, "x").unwrap();
        replace_link(&link, "real").unwrap();
        replace_link(&lost, "nowhere").unwrap();
        assert_eq!(written_path(&link).unwrap().0, fs_err::canonicalize(&real).unwrap());
        assert!(written_path(&lost).unwrap_err().message.contains("leads nowhere"));
    }
}
