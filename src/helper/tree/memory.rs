//! What the helper remembers of a directory between runs. All of it may be lost or damaged: that costs time only.

use std::path::{Path, PathBuf};

use crate::{
    plan::HostPath,
    tree::{Digest, Index, Remembered, Status, now, place_name, replace_file},
};

/// Most trees that the near side is told of.
const MOST_TOLD: usize = 256;

/// The trees that a helper with this state directory remembers, the latest first.
pub fn remembered(state: &Path) -> Vec<Remembered> {
    let Ok(entries) = fs_err::read_dir(state.join("trees")) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|kind| kind == "last"))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    let told = found.into_iter().take(MOST_TOLD).filter_map(|(_, path)| {
        let digest: [u8; 32] = fs_err::read(&path).ok()?.try_into().ok()?;
        Some(Remembered { place: path.file_stem()?.to_str()?.to_owned(), manifest: digest.into() })
    });
    told.collect()
}

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
        Self { directory, name: place_name(dest.as_str()), is_writable }
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

    /// Remembers digests of files that were just made, besides those that are remembered.
    pub(super) fn learn(&self, made: &[(Status, Digest)]) {
        if made.is_empty() || !self.is_writable {
            return;
        }
        let (mut index, now) = (self.index(), now());
        for (status, digest) in made {
            index.remember_made(status, *digest, now);
        }
        self.keep_index(&index);
    }

    /// The manifest that was applied last, encoded; no bytes when it is not known. Not verified.
    pub(super) fn manifest(&self) -> Vec<u8> {
        self.file("manifest").and_then(|path| fs_err::read(path).ok()).unwrap_or_default()
    }

    /// The file that holds the manifest, as a basis for the next one.
    pub(super) fn manifest_file(&self) -> Option<std::fs::File> {
        fs_err::File::open(self.file("manifest")?).ok().map(|file| file.into_parts().0)
    }

    /// Remembers an encoded manifest, and its digest for [`remembered`].
    pub(super) fn keep_manifest(&self, bytes: &[u8], digest: Digest) {
        self.remember(|memory| {
            let (Some(manifest), Some(last)) = (memory.file("manifest"), memory.file("last")) else { return Ok(()) };
            replace_file(&manifest, bytes)?;
            replace_file(&last, digest.as_bytes())
        });
    }
}
