//! A tree of the near side as it is on disk.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::fstat;

use super::{
    Digest, Entry, EntryKind, HashError, IgnoreRules, Index, Manifest, ManifestError, Node, NodeKind, PatternError,
    RelPath, Root, Status, TreeSummary, WalkError, hash_files, index::unix_now, shown, status_at, walk, walk_at,
};

/// A directory of the near side, scanned completely: the only thing a host's directory is ever made equal to.
///
/// Clones share what was found.
#[derive(Debug, Clone)]
pub struct SourceTree {
    root: Arc<Root>,
    manifest: Arc<Manifest>,
    encoded: Arc<[u8]>,
    summary: Arc<TreeSummary>,
    rules: Arc<IgnoreRules>,
}

/// Why a source tree cannot be used. Nothing is sent, and nothing is deleted anywhere, after such an error.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The source is missing or cannot be opened.
    #[error("cannot open source tree `{path}`", path = shown(path))]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The source is not a directory.
    #[error("source tree `{path}` is not a directory", path = shown(path))]
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
    #[error("cannot read `{path}`", path = shown(path))]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: HashError,
    },
    /// A socket, pipe or device.
    #[error("`{path}` is {what}, which cannot be synced", path = shown(path))]
    Special {
        /// Which.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Too many entries, or a combination that is no tree.
    #[error("cannot describe source tree `{path}`", path = shown(path))]
    Manifest {
        /// Root of the tree.
        path: PathBuf,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// Another directory took the source's place during the scan.
    #[error("source tree `{path}` was replaced while it was read", path = shown(path))]
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
            Self::Replaced { .. }
            | Self::Walk(WalkError::Changed { .. })
            | Self::File { source: HashError::Changing, .. } => {
                Some("run again when the build has finished".to_owned())
            }
            Self::Open { source, .. }
            | Self::File { source: HashError::Read(source), .. }
            | Self::Walk(WalkError::Read { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some("run as its owner, make it readable, or leave it out with a pattern in .cuisineignore".to_owned())
            }
            Self::Walk(WalkError::Path { .. }) => {
                Some("shorten the names, or leave it out with a pattern in .cuisineignore".to_owned())
            }
            Self::Pattern(_) | Self::Walk(WalkError::Pattern { .. }) => {
                Some("correct the pattern; a backslash before a sign takes its meaning away".to_owned())
            }
            Self::Walk(WalkError::IgnoreFile { .. }) => {
                Some("save it as UTF-8, in a directory named in UTF-8".to_owned())
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
        let open_error = |source| ScanError::Open { path: root.to_path_buf(), source };
        let status = opened.status().map_err(open_error)?;
        let scanned_at = unix_now();
        let mut rules = IgnoreRules::new(ignore)?;
        let found = walk(&opened, &mut rules, true)?;
        let known = index.map(Index::load).unwrap_or_default();
        let mut fresh = Index::default();
        let entries = entries(&opened, found.nodes, &known, &mut fresh, scanned_at)?;
        if identity(root)? != (status.dev, status.ino) {
            return Err(ScanError::Replaced { path: root.to_path_buf() });
        }
        // Half-written rules would have hosts lose what they are to keep.
        for (path, key) in &found.rule_files {
            let now = opened.open_directory(path.parent()).and_then(|directory| status_at(directory, path.name()));
            if now.map(|status| status.key()).ok() != Some(*key) {
                return Err(WalkError::Changed { path: opened.path_of(path.as_bytes()) }.into());
            }
        }
        if let Some(path) = index.filter(|_| fresh != known) {
            // Without an index the next scan is slower, nothing else.
            let _ = fresh.save(path);
        }
        Self::of(Arc::new(opened), entries, status.mode, Arc::new(rules))
    }

    /// The tree as it is now, given that nothing but these paths, and what is below them, has changed since. Costs
    /// little beyond reading those. None when only a scan of the whole can tell: ignore files changed, another
    /// directory has the root's place, or a path is in a directory that is not known.
    pub fn look_again(&self, changed: &[RelPath]) -> Result<Option<Self>, ScanError> {
        let root = &self.root;
        let open_error = |source| ScanError::Open { path: root.path().to_path_buf(), source };
        let status = root.status().map_err(open_error)?;
        if identity(root.path())? != (status.dev, status.ino) {
            return Ok(None);
        }
        let changed = outermost(changed);
        let mut nodes = Vec::new();
        for path in &changed {
            if !path.parent().is_empty() && !self.manifest.has_directory(path.parent()) {
                return Ok(None);
            }
            match walk_at(root, &self.rules, path)? {
                Some(walk) => nodes.extend(walk.nodes),
                None => return Ok(None),
            }
        }
        let fresh = entries(root, nodes, &Index::default(), &mut Index::default(), unix_now())?;
        // A name that comes or goes changes the time of its directory too, of which nobody tells.
        let parents: BTreeSet<RelPath> = changed.iter().filter_map(|path| RelPath::new(path.parent()).ok()).collect();
        let mut directories = Vec::new();
        for path in &parents {
            let Ok(status) = root.open_directory(path.as_bytes()).and_then(|fd| Ok(Status::from(fstat(fd)?))) else {
                return Ok(None);
            };
            directories.push(Entry {
                path: path.clone(),
                kind: EntryKind::Dir { mode: status.mode },
                mtime: status.mtime,
            });
        }
        let fresh = fresh.into_iter().chain(directories);
        let stays = |entry: &&Entry| !covers(&changed, &entry.path) && !parents.contains(&entry.path);
        let entries = self.manifest.entries().iter().filter(stays).cloned().chain(fresh).collect();
        Self::of(Arc::clone(root), entries, status.mode, Arc::clone(&self.rules)).map(Some)
    }

    fn of(root: Arc<Root>, entries: Vec<Entry>, mode: u32, rules: Arc<IgnoreRules>) -> Result<Self, ScanError> {
        let failed = |source| ScanError::Manifest { path: root.path().to_path_buf(), source };
        let manifest = Manifest::new(entries, mode).map_err(failed)?;
        let encoded = manifest.encode().map_err(failed)?;
        let sizes = manifest.entries().iter().filter_map(|entry| match entry.kind {
            EntryKind::File { size, .. } => Some(size),
            _ => None,
        });
        let summary = TreeSummary {
            origin: shown(root.path()),
            root: manifest.root(),
            manifest: Digest::of(&encoded),
            manifest_size: encoded.len() as u64,
            files: sizes.clone().count() as u64,
            bytes: sizes.sum(),
            ignore: rules.lines(),
        };
        let (manifest, summary) = (Arc::new(manifest), Arc::new(summary));
        Ok(Self { root, manifest, encoded: encoded.into(), summary, rules })
    }

    /// What a plan carries of it.
    pub fn summary(&self) -> &TreeSummary {
        &self.summary
    }

    /// Everything in it.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// The manifest as it travels.
    pub fn manifest_bytes(&self) -> &Arc<[u8]> {
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

/// Paths without those below another one; ordered.
fn outermost(paths: &[RelPath]) -> Vec<RelPath> {
    let mut paths = paths.to_vec();
    paths.sort_unstable();
    paths.dedup_by(|later, kept| later == kept || later.is_below(kept.as_bytes()));
    paths
}

/// Whether a path is one of these, which are ordered, or below one.
fn covers(outermost: &[RelPath], path: &RelPath) -> bool {
    let after = outermost.partition_point(|candidate| candidate <= path);
    let last = after.checked_sub(1).and_then(|at| outermost.get(at));
    last.is_some_and(|candidate| path == candidate || path.is_below(candidate.as_bytes()))
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
