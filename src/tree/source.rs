//! A tree of the near side as it is on disk.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Digest, Entry, EntryKind, HashError, IgnoreRules, Index, Manifest, ManifestError, Node, NodeKind, PatternError,
    RelPath, Root, TreeSummary, WalkError, hash_files, index::unix_now, walk,
};

/// A directory of the near side, scanned completely: the only thing a host's directory is ever made equal to.
#[derive(Debug, Clone)]
pub struct SourceTree {
    root: Arc<Root>,
    manifest: Manifest,
    encoded: Vec<u8>,
    summary: TreeSummary,
}

/// Why a source tree cannot be used. Nothing is sent, and nothing is deleted anywhere, after such an error.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The source is missing or cannot be opened.
    #[error("cannot open source tree `{path}`", path = path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The source is not a directory.
    #[error("source tree `{path}` is not a directory", path = path.display())]
    NotADirectory {
        /// Which.
        path: PathBuf,
    },
    /// A parameter is no pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A directory cannot be listed, or an ignore file cannot be used.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// A file cannot be read, or changes all the time.
    #[error("cannot read `{path}`", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: HashError,
    },
    /// A socket, pipe or device.
    #[error("`{path}` is {what}, which cannot be synced", path = path.display())]
    Special {
        /// Which.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Too many entries, or a combination that is no tree.
    #[error("cannot describe source tree `{path}`", path = path.display())]
    Manifest {
        /// Root of the tree.
        path: PathBuf,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// Another directory took the source's place during the scan.
    #[error("source tree `{path}` was replaced while it was read", path = path.display())]
    Replaced {
        /// Which.
        path: PathBuf,
    },
}

impl ScanError {
    /// One line that says what to do, when that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("build it first, or correct the path".to_owned())
            }
            Self::NotADirectory { .. } => Some("name the directory that holds the file".to_owned()),
            Self::Special { path, .. } => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                Some(format!("leave it out with a pattern in .cuisineignore: {name}"))
            }
            Self::Replaced { .. } | Self::File { source: HashError::Changing, .. } => {
                Some("run again when the build has finished".to_owned())
            }
            _ => None,
        }
    }
}

impl SourceTree {
    /// Scans everything below `root` but what `ignore` (gitignore patterns) and the `.cuisineignore` files found on the
    /// way leave out. Links are taken as links.
    ///
    /// `index` names a file, one for each root, that remembers what was hashed: with it an unchanged tree is proven
    /// without reading. It is only a cache; what goes wrong with it is no error.
    pub fn scan(root: &Path, ignore: &[String], index: Option<&Path>) -> Result<Self, ScanError> {
        let opened = open(root)?;
        let before = identity(root)?;
        let scanned_at = unix_now();
        let mut rules = IgnoreRules::new(ignore)?;
        let found = walk(&opened, &mut rules, true)?;
        let known = index.map(Index::load).unwrap_or_default();
        let mut fresh = Index::default();
        let entries = entries(&opened, found.nodes, &known, &mut fresh, scanned_at)?;
        if identity(root)? != before {
            return Err(ScanError::Replaced { path: root.to_path_buf() });
        }
        if let Some(path) = index.filter(|_| fresh != known) {
            // Without an index the next scan is slower, nothing else.
            let _ = fresh.save(path);
        }
        let open_error = |source| ScanError::Open { path: root.to_path_buf(), source };
        let mode = opened.status().map_err(open_error)?.mode;
        Self::of(opened, entries, mode, &rules)
    }

    fn of(root: Root, entries: Vec<Entry>, mode: u32, rules: &IgnoreRules) -> Result<Self, ScanError> {
        let failed = |source| ScanError::Manifest { path: root.path().to_path_buf(), source };
        let manifest = Manifest::new(entries, mode).map_err(failed)?;
        let encoded = manifest.encode().map_err(failed)?;
        let sizes = manifest.entries().iter().filter_map(|entry| match entry.kind {
            EntryKind::File { size, .. } => Some(size),
            _ => None,
        });
        let summary = TreeSummary {
            origin: root.path().display().to_string(),
            root: manifest.root(),
            manifest: Digest::of(&encoded),
            manifest_size: encoded.len() as u64,
            files: sizes.clone().count() as u64,
            bytes: sizes.sum(),
            ignore: rules.lines(),
        };
        Ok(Self { root: Arc::new(root), manifest, encoded, summary })
    }

    /// What a plan carries of it.
    pub fn summary(&self) -> &TreeSummary {
        &self.summary
    }

    /// Everything in it.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The manifest as it travels.
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.encoded
    }

    /// Where it is.
    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// A file name for the index of this root: the same for every path that leads there.
    pub fn index_name(root: &Path) -> String {
        let real = fs_err::canonicalize(root).unwrap_or_else(|_| root.to_path_buf());
        format!("{}.index", Digest::of(real.as_os_str().as_encoded_bytes()).short())
    }
}

fn open(path: &Path) -> Result<Root, ScanError> {
    Root::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotADirectory => ScanError::NotADirectory { path: path.to_path_buf() },
        _ => ScanError::Open { path: path.to_path_buf(), source },
    })
}

/// What a path leads to now.
fn identity(path: &Path) -> Result<(u64, u64), ScanError> {
    let failed = |source| ScanError::Open { path: path.to_path_buf(), source };
    let status = open(path)?.status().map_err(failed)?;
    Ok((status.dev, status.ino))
}

fn entries(
    root: &Root,
    nodes: Vec<Node>,
    known: &Index,
    fresh: &mut Index,
    scanned_at: i64,
) -> Result<Vec<Entry>, ScanError> {
    let mut entries = Vec::with_capacity(nodes.len());
    let mut unknown = Vec::new();
    for Node { path, status, kind } in nodes {
        let kind = match kind {
            NodeKind::Dir => EntryKind::Dir { mode: status.mode },
            NodeKind::Symlink(target) => EntryKind::Symlink { target },
            NodeKind::Special(what) => {
                return Err(ScanError::Special { path: root.path_of(path.as_bytes()), what });
            }
            NodeKind::File => {
                let Some(digest) = known.digest(&status.key()) else {
                    unknown.push((path, status.size));
                    continue;
                };
                fresh.remember(&status, digest, scanned_at);
                EntryKind::File { size: status.size, digest, mode: status.mode }
            }
        };
        entries.push(Entry { path, kind, mtime: status.mtime });
    }
    let paths: Vec<&RelPath> = unknown.iter().map(|(path, _)| path).collect();
    let bytes = unknown.iter().map(|(_, size)| size).sum();
    for (path, result) in paths.iter().zip(hash_files(root, &paths, bytes)) {
        match result {
            Ok(hashed) => {
                let status = hashed.status;
                fresh.remember(&status, hashed.digest, scanned_at);
                let kind = EntryKind::File { size: status.size, digest: hashed.digest, mode: status.mode };
                entries.push(Entry { path: (*path).clone(), kind, mtime: status.mtime });
            }
            Err(HashError::Vanished) => {}
            Err(source) => return Err(ScanError::File { path: root.path_of(path.as_bytes()), source }),
        }
    }
    Ok(entries)
}
