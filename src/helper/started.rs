//! Which trees a service was started with. Several components may push the same path: only the first of them to run
//! after a change sees its sync change anything, but the services of all were started with the tree of before.
//!
//! [`super::pending`] remembers a reaction that this plan owes; this remembers the state that a service runs with, so
//! that nobody need owe anything to plans that are not there.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use super::{
    failure::OrFail as _,
    replace::{Attributes, replace_with},
};
use crate::{
    plan::{HostPath, OpFailure},
    tree::Digest,
};

/// Trees by the directory that they are synced to; [`crate::tree::TreeSummary::root`] tells them apart.
pub(super) type Trees = BTreeMap<HostPath, Digest>;

/// The record of one service.
#[derive(Debug)]
pub(super) struct Started {
    path: PathBuf,
    /// None when there is no record.
    text: Option<String>,
}

impl Started {
    /// Reads the record of a service. Writes nothing.
    pub(super) fn read(state_dir: &Path, service: &str) -> Result<Self, OpFailure> {
        // A hash, because the name has not been checked yet and becomes part of a path.
        let name = &blake3::hash(service.as_bytes()).to_hex()[..32];
        let path = state_dir.join("started").join(name);
        let text = match fs_err::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).or_fail("read", path.display()),
        };
        Ok(Self { path, text })
    }

    /// The first directory of which the service was started with another tree than this. A directory that it has no
    /// record of counts as right: somebody else started the service.
    pub(super) fn differs<'t>(&self, trees: &'t Trees) -> Option<&'t HostPath> {
        let known = |directory: &HostPath| {
            let lines = self.text.iter().flat_map(|text| text.lines());
            let name = shown(directory);
            lines.filter_map(|line| line.split_once(' ')).find(|(_, path)| *path == name).map(|(digest, _)| digest)
        };
        let other = |(directory, digest): &(&HostPath, &Digest)| {
            known(directory).is_some_and(|known| known != digest.to_string())
        };
        trees.iter().find(other).map(|(directory, _)| directory)
    }

    /// The service runs with these trees now.
    pub(super) fn store(&self, trees: &Trees) -> Result<(), OpFailure> {
        let line = |(directory, digest): (&HostPath, &Digest)| format!("{digest} {}\n", shown(directory));
        let text: String = trees.iter().map(line).collect();
        if text.is_empty() {
            return self.forget();
        }
        if self.text.as_ref() == Some(&text) {
            return Ok(());
        }
        let directory = self.path.parent().unwrap_or(&self.path);
        fs_err::create_dir_all(directory).or_fail("create", directory.display())?;
        replace_with(&self.path, Attributes::mode(0o600), text.as_bytes())
    }

    /// The service does not run any more, or with trees that nobody knows.
    pub(super) fn forget(&self) -> Result<(), OpFailure> {
        match self.text {
            Some(_) => fs_err::remove_file(&self.path).or_fail("remove", self.path.display()),
            None => Ok(()),
        }
    }
}

/// A path without line breaks, for the record.
fn shown(path: &HostPath) -> String {
    path.as_str().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_tells_what_a_service_was_started_with() {
        let state = tempfile::tempdir().unwrap();
        let read = || Started::read(state.path(), "../arakoon").unwrap();
        let trees = |content: &str| -> Trees {
            [("/opt/a\nb", "same"), ("/opt/x", content)]
                .map(|(path, content)| (path.parse().unwrap(), Digest::of(content.as_bytes())))
                .into()
        };
        assert_eq!(read().differs(&trees("1")), None, "no record, nothing to say");
        read().store(&trees("1")).unwrap();
        assert_eq!(read().differs(&trees("1")), None);
        assert_eq!(read().differs(&trees("2")).map(HostPath::as_str), Some("/opt/x"));
        let more: Trees = [("/opt/new".parse().unwrap(), Digest::of(b"x"))].into();
        assert_eq!(read().differs(&more), None, "a directory without record");
        read().store(&Trees::new()).unwrap();
        assert_eq!(read().differs(&trees("2")), None);
        read().forget().unwrap();
    }
}
