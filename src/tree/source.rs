//! A tree of the near side as it is on disk.

use std::{
    collections::{BTreeSet, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::fstat;

use super::{
    Digest, Entry, EntryKind, Extra, HashError, Hashed, IgnoreRules, Index, Manifest, ManifestError, Node, NodeKind,
    PatternError, RelPath, Root, Status, TreeSummary, WalkError, further_names, hash::in_parallel, hash_files,
    index::unix_now, shown, status_at, walk, walk_at, xattrs_at,
};

/// More threads than this gain nothing when attributes are read.
const MAX_THREADS: usize = 8;

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
    /// A file or its attributes cannot be read, or it changes all the time.
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
    /// way leave out. Links are taken as links, extended attributes are left alone.
    ///
    /// `index` names a file, one for each root, that remembers what was hashed: with it an unchanged tree is proven
    /// without reading. It is only a cache; what goes wrong with it is no error.
    pub fn scan(root: &Path, ignore: &[String], index: Option<&Path>) -> Result<Self, ScanError> {
        Self::scan_all(root, ignore, index, false)
    }

    /// The same with the extended attributes, access control lists among them, of files and directories.
    pub fn scan_with_xattrs(root: &Path, ignore: &[String], index: Option<&Path>) -> Result<Self, ScanError> {
        Self::scan_all(root, ignore, index, true)
    }

    fn scan_all(root: &Path, ignore: &[String], index: Option<&Path>, xattrs: bool) -> Result<Self, ScanError> {
        let opened = open(root)?;
        let open_error = |source| ScanError::Open { path: root.to_path_buf(), source };
        let status = opened.status().map_err(open_error)?;
        let scanned_at = unix_now();
        let mut rules = IgnoreRules::new(ignore)?;
        let found = walk(&opened, &mut rules, true)?;
        let known = index.map(Index::load).unwrap_or_default();
        let mut fresh = Index::default();
        let mut entries = entries(&opened, &found.nodes, &known, &mut fresh, scanned_at)?;
        if xattrs {
            add_xattrs(&opened, &mut entries)?;
        }
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
        Self::of(Arc::new(opened), entries, status.mode, Arc::new(rules), xattrs)
    }

    /// The tree as it is now, given that nothing but these paths, and what is below them, has changed since. Costs
    /// little beyond reading those. None when only a scan of the whole can tell: ignore files changed, another
    /// directory has the root's place, a file has further names, or a path is in a directory that is not known.
    pub fn look_again(&self, changed: &[RelPath]) -> Result<Option<Self>, ScanError> {
        let root = &self.root;
        let open_error = |source| ScanError::Open { path: root.path().to_path_buf(), source };
        let status = root.status().map_err(open_error)?;
        if identity(root.path())? != (status.dev, status.ino) {
            return Ok(None);
        }
        let changed = outermost(changed);
        if self.manifest.hard_links().any(|(first, path)| covers(&changed, first) || covers(&changed, path)) {
            return Ok(None);
        }
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
        if nodes.iter().any(|node| node.kind == NodeKind::File && !node.status.is_only_name) {
            return Ok(None);
        }
        let mut fresh = entries(root, &nodes, &Index::default(), &mut Index::default(), unix_now())?;
        // A name that comes or goes changes the time of its directory too, of which nobody tells.
        let parents: BTreeSet<RelPath> = changed.iter().filter_map(|path| RelPath::new(path.parent()).ok()).collect();
        for path in &parents {
            let Ok(status) = root.open_directory(path.as_bytes()).and_then(|fd| Ok(Status::from(fstat(fd)?))) else {
                return Ok(None);
            };
            fresh.push(Entry::plain(path.clone(), EntryKind::Dir { mode: status.mode }, status.mtime));
        }
        if self.summary.xattrs {
            add_xattrs(root, &mut fresh)?;
        }
        let stays = |entry: &&Entry| !covers(&changed, &entry.path) && !parents.contains(&entry.path);
        let entries = self.manifest.entries().iter().filter(stays).cloned().chain(fresh).collect();
        let xattrs = self.summary.xattrs;
        Self::of(Arc::clone(root), entries, status.mode, Arc::clone(&self.rules), xattrs).map(Some)
    }

    pub(super) fn of(
        root: Arc<Root>,
        entries: Vec<Entry>,
        mode: u32,
        rules: Arc<IgnoreRules>,
        xattrs: bool,
    ) -> Result<Self, ScanError> {
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
            xattrs,
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

pub(super) fn open(path: &Path) -> Result<Root, ScanError> {
    Root::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotADirectory => ScanError::NotADirectory { path: path.to_path_buf() },
        _ => ScanError::Open { path: path.to_path_buf(), source },
    })
}

/// What a path leads to now.
pub(super) fn identity(path: &Path) -> Result<(u64, u64), ScanError> {
    let failed = |source| ScanError::Open { path: path.to_path_buf(), source };
    let status = open(path)?.status().map_err(failed)?;
    Ok((status.dev, status.ino))
}

pub(super) fn entries(
    root: &Root,
    nodes: &[Node],
    known: &Index,
    fresh: &mut Index,
    scanned_at: i64,
) -> Result<Vec<Entry>, ScanError> {
    let further = further_names(nodes);
    let firsts: HashSet<usize> = further.values().copied().collect();
    let mut entries = Vec::with_capacity(nodes.len());
    let (mut unknown, mut names) = (Vec::new(), Vec::new());
    for (index, node) in nodes.iter().enumerate() {
        let Node { path, status, kind } = node;
        let kind = match kind {
            NodeKind::Dir => EntryKind::Dir { mode: status.mode },
            NodeKind::Symlink(target) => EntryKind::Symlink { target: target.clone() },
            NodeKind::Special(what) => {
                return Err(ScanError::Special { path: root.path_of(path.as_bytes()), what });
            }
            NodeKind::File => {
                if let Some(first) = further.get(&index) {
                    names.push((*first, node));
                    continue;
                }
                let Some(digest) = known.digest(&status.key()) else {
                    unknown.push(index);
                    continue;
                };
                fresh.remember(status, digest, scanned_at);
                EntryKind::File { size: status.size, digest, mode: status.mode }
            }
        };
        let extra = Extra::of(status.has_holes, Vec::new());
        entries.push(Entry { path: path.clone(), kind, mtime: status.mtime, extra });
    }
    // Files with further names that another file has replaced, or that are gone, since they were listed.
    let mut replaced = HashSet::new();
    let hashed = hash(root, &unknown.iter().map(|index| &nodes[*index]).collect::<Vec<_>>())?;
    for (index, hashed) in unknown.into_iter().zip(hashed) {
        let Node { path, status, .. } = &nodes[index];
        let is_same = |hashed: &Hashed| (hashed.status.dev, hashed.status.ino) == (status.dev, status.ino);
        if firsts.contains(&index) && !hashed.as_ref().is_some_and(is_same) {
            replaced.insert(index);
        }
        if let Some(hashed) = hashed {
            fresh.remember(&hashed.status, hashed.digest, scanned_at);
            entries.push(file(path, &hashed));
        }
    }
    let (lost, names): (Vec<_>, Vec<_>) = names.into_iter().partition(|(first, _)| replaced.contains(first));
    entries.extend(names.into_iter().map(|(first, Node { path, status, .. })| {
        Entry::plain(path.clone(), EntryKind::HardLink { to: nodes[first].path.clone() }, status.mtime)
    }));
    let lost: Vec<&Node> = lost.into_iter().map(|(_, node)| node).collect();
    let hashed = hash(root, &lost)?;
    entries.extend(lost.iter().zip(hashed).filter_map(|(node, hashed)| Some(file(&node.path, &hashed?))));
    Ok(entries)
}

/// Hashes files; none for one that has vanished.
fn hash(root: &Root, nodes: &[&Node]) -> Result<Vec<Option<Hashed>>, ScanError> {
    let paths: Vec<&RelPath> = nodes.iter().map(|node| &node.path).collect();
    let bytes = nodes.iter().map(|node| node.status.size).sum();
    let results = hash_files(root, &paths, bytes).into_iter().zip(paths).map(|(result, path)| match result {
        Ok(hashed) => Ok(Some(hashed)),
        Err(HashError::Vanished) => Ok(None),
        Err(source) => Err(ScanError::File { path: root.path_of(path.as_bytes()), source }),
    });
    results.collect()
}

fn file(path: &RelPath, Hashed { digest, status }: &Hashed) -> Entry {
    let kind = EntryKind::File { size: status.size, digest: *digest, mode: status.mode };
    Entry { path: path.clone(), kind, mtime: status.mtime, extra: Extra::of(status.has_holes, Vec::new()) }
}

/// Reads the extended attributes of entries, where there are any.
fn add_xattrs(root: &Root, entries: &mut [Entry]) -> Result<(), ScanError> {
    let found = in_parallel(entries, MAX_THREADS, || |entry: &Entry| xattrs_at(root, &entry.path, &entry.kind));
    for (entry, xattrs) in entries.iter_mut().zip(found) {
        let xattrs = xattrs.map_err(|error| ScanError::File {
            path: root.path_of(entry.path.as_bytes()),
            source: HashError::Read(error),
        })?;
        let has_holes = entry.extra.as_ref().is_some_and(|extra| extra.has_holes);
        entry.extra = Extra::of(has_holes, xattrs);
    }
    Ok(())
}
