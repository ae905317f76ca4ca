//! The etcd link as given: in the argument itself or in a file that only its owner can read.

use std::{
    ffi::OsStr,
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
};

use super::failure::Failure;
use crate::plan::{Authority, EtcdLink};

/// A link file is one line; this is ample even with a CA inside.
const LARGEST: u64 = 64 * 1024;

/// The link named by an argument: `etcd://...` or `@FILE`.
pub(super) fn read(argument: &OsStr) -> Result<EtcdLink, Failure> {
    if let Some(path) = argument.as_bytes().strip_prefix(b"@") {
        return from_file(Path::new(OsStr::from_bytes(path)));
    }
    Ok(argument.to_str().unwrap_or_default().parse()?)
}

fn from_file(path: &Path) -> Result<EtcdLink, Failure> {
    let unreadable = |source| Failure::LinkFile { path: path.to_owned(), source };
    // What is opened is what is looked at: a file exchanged in between changes nothing.
    let file = fs_err::File::open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    let me = rustix::process::geteuid().as_raw();
    let open = |why| Failure::LinkFileOpen { path: path.to_owned(), why };
    if !meta.is_file() {
        return Err(open("is not a regular file".to_owned()));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(open(format!(
            "has mode {:04o}: others can get at the password in it; 0600 is needed",
            meta.mode() & 0o7777
        )));
    }
    if meta.uid() != me && meta.uid() != 0 {
        return Err(open(format!("belongs to user id {}, not to root or to us ({me})", meta.uid())));
    }
    let mut text = String::new();
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text.trim_end_matches(['\n', '\r']).parse()?)
}

/// The CA's PEM text, read from the machine when the link only names it.
pub(super) fn authority(link: &EtcdLink) -> Result<Option<String>, Failure> {
    match link.authority() {
        None => Ok(None),
        Some(Authority::Pem(pem)) => Ok(Some(pem.clone())),
        Some(Authority::File(path)) => match fs_err::read_to_string(path.as_path()) {
            Ok(pem) => Ok(Some(pem)),
            Err(source) => Err(Failure::Authority { path: path.clone(), source }),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_link_file_must_be_closed_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("link");
        fs_err::write(&path, "etcd://user:canary@h:1/n\n").unwrap();
        let argument = std::ffi::OsString::from(format!("@{}", path.display()));
        for (mode, code) in [(0o644, Some(78)), (0o640, Some(78)), (0o602, Some(78)), (0o600, None), (0o400, None)] {
            fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let result = read(&argument);
            assert_eq!(result.as_ref().err().map(Failure::code), code, "{mode:o}");
            if let Err(error) = result {
                assert!(error.line().contains(&path.display().to_string()) && !error.line().contains("canary"));
            }
        }
    }

    #[test]
    fn other_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let of = |path: &std::path::Path| std::ffi::OsString::from(format!("@{}", path.display()));
        assert_eq!(read(&of(&directory.path().join("none"))).unwrap_err().code(), 66);
        assert_eq!(read(&of(directory.path())).unwrap_err().code(), 78);
    }
}
