//! What the helper remembers of a directory between runs. All of it may be lost or damaged: that costs time only.

use std::path::{Path, PathBuf};

use crate::{
    plan::HostPath,
    tree::{Digest, Index, replace_file},
};

/// Where the index and the last manifest of one directory are kept.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    directory: Option<PathBuf>,
    name: String,
    is_writable: bool,
}

impl Memory {
    /// What is remembered of `dest` in the helper's directory; nothing when there is none.
    pub(super) fn of(dest: &HostPath, state: Option<&Path>, is_writable: bool) -> Self {
        let directory = state.map(|state| state.join("trees"));
        Self { directory, name: Digest::of(dest.as_str().as_bytes()).short(), is_writable }
    }

    fn file(&self, kind: &str) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join(format!("{}.{kind}", self.name)))
    }

    fn remember(&self, write: impl FnOnce(Self) -> std::io::Result<()>) {
        if self.is_writable {
            // Without it the next run is slower, nothing else.
            let _ = write(self.clone());
        }
    }

    /// Digests by stat.
    pub(super) fn index(&self) -> Index {
        self.file("index").map(|path| Index::load(&path)).unwrap_or_default()
    }

    /// Remembers digests.
    pub(super) fn keep_index(&self, index: &Index) {
        self.remember(|memory| memory.file("index").map_or(Ok(()), |path| index.save(&path)));
    }

    /// The manifest that was applied last, encoded; no bytes when it is not known. Not verified.
    pub(super) fn manifest(&self) -> Vec<u8> {
        self.file("manifest").and_then(|path| fs_err::read(path).ok()).unwrap_or_default()
    }

    /// The file that holds the manifest, as a basis for the next one.
    pub(super) fn manifest_file(&self) -> Option<std::fs::File> {
        fs_err::File::open(self.file("manifest")?).ok().map(|file| file.into_parts().0)
    }

    /// Remembers an encoded manifest.
    pub(super) fn keep_manifest(&self, bytes: &[u8]) {
        self.remember(|memory| memory.file("manifest").map_or(Ok(()), |path| replace_file(&path, bytes)));
    }
}
