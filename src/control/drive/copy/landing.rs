//! Where a copy from hosts lands on this machine.

use std::{
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::{CopyError, operand::means_directory};
use crate::plan::{HostName, HostPath, Landing};

/// Where a copy from hosts lands on this machine.
#[derive(Debug)]
pub(super) struct Destination {
    path: PathBuf,
    landing: Landing,
    /// Whether each host gets a directory of its own.
    per_host: bool,
}

impl Destination {
    /// Looks at the destination before any host is asked.
    ///
    /// A link at the end of the path is not followed unless a `/` says so: an earlier copy may have put it there.
    pub(super) fn prepare(dest: &Path, per_host: bool) -> Result<Self, CopyError> {
        let means_directory = means_directory(dest.as_os_str().as_bytes());
        let shown = dest.display();
        let is_link = !means_directory && fs_err::symlink_metadata(dest).is_ok_and(|found| found.is_symlink());
        let found = match fs_err::metadata(dest) {
            Ok(found) => Some(found.is_dir()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(CopyError::Look { path: dest.to_path_buf(), source: error.kind().into() }),
        };
        if is_link && found == Some(true) {
            return Err(CopyError::usage(
                format!("`{shown}` is a link to a directory"),
                format!("write `{shown}/` to copy into the directory that it leads to"),
            ));
        }
        if found == Some(false) && (means_directory || per_host) {
            let hint = if per_host { "several hosts need a directory" } else { "leave out the `/` at the end" };
            return Err(CopyError::usage(format!("`{shown}` is not a directory"), hint));
        }
        let path = if found == Some(true) { real(dest)? } else { beside_real(dest)? };
        let landing = if means_directory { Landing::Inside } else { Landing::Either };
        Ok(Self { path, landing, per_host })
    }

    /// Where it lands from this host.
    pub(super) fn of(&self, host: &HostName) -> Result<(HostPath, Landing), CopyError> {
        if !self.per_host {
            return Ok((host_path(&self.path)?, self.landing));
        }
        let path = self.path.join(host.as_str());
        match fs_err::symlink_metadata(&path) {
            Ok(found) if !found.is_dir() => {
                let message = format!("`{}` is in the way: it is not a directory", path.display());
                return Err(CopyError::usage(message, "remove it, or copy to another directory"));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(CopyError::Look { path, source: error.kind().into() }),
        }
        Ok((host_path(&path)?, Landing::InsideNew))
    }
}

fn real(path: &Path) -> Result<PathBuf, CopyError> {
    fs_err::canonicalize(path)
        .map_err(|error| CopyError::Look { path: path.to_path_buf(), source: error.kind().into() })
}

/// The path of what is not there, or not a directory, with all links above it resolved.
fn beside_real(path: &Path) -> Result<PathBuf, CopyError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(CopyError::usage(format!("`{}` is no destination", path.display()), "name a file or directory"));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    if !parent.is_dir() {
        return Err(CopyError::usage(
            format!("directory `{}` does not exist", parent.display()),
            format!("make it first: mkdir -p {}", parent.display()),
        ));
    }
    Ok(real(parent)?.join(name))
}

fn host_path(path: &Path) -> Result<HostPath, CopyError> {
    path.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
        CopyError::usage(format!("`{}` is not UTF-8", path.display()), "copy to a directory with another name")
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_at_the_end_is_followed_only_when_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        let refused = Destination::prepare(&dir.path().join("link"), false).unwrap_err();
        assert!(refused.hint().unwrap().contains("link/"), "{refused}");
        let mut followed = dir.path().join("link").into_os_string();
        followed.push("/");
        let followed = Destination::prepare(Path::new(&followed), false).unwrap();
        assert_eq!(followed.path, fs_err::canonicalize(dir.path()).unwrap().join("real"));
        assert_eq!(followed.landing, Landing::Inside);
    }

    #[test]
    fn the_directory_of_a_host_is_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let host: HostName = "node-1".parse().unwrap();
        let destination = Destination::prepare(dir.path(), true).unwrap();
        assert_eq!(destination.of(&host).unwrap().1, Landing::InsideNew);
        symlink("/", dir.path().join("node-1")).unwrap();
        assert!(matches!(destination.of(&host), Err(CopyError::Usage { .. })));
    }
}
