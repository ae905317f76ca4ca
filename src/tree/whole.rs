//! What is copied by hand: one file, or a directory of which no ignore file leaves anything out.

use std::{io, path::Path, sync::Arc};

use super::{
    IgnoreRules, Index, Node, NodeKind, RelPath, Root, ScanError, SourceTree,
    source::{entries, identity, open},
    status_at, unix_now, walk,
};

/// Most entries that [`Skipped`] names.
pub const MAX_NAMED: usize = 20;

/// What no tree can hold and was left out: sockets, pipes and devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How many.
    pub count: u64,
    /// The first [`MAX_NAMED`] of them for people: `` `/run/x`: a socket ``.
    pub first: Vec<String>,
}

impl SourceTree {
    /// Scans everything below `root`, whatever ignore files say: they are files like others. Sockets, pipes and devices
    /// are left out. `index` is that of [`SourceTree::scan`].
    pub fn whole(root: &Path, index: Option<&Path>) -> Result<(Self, Skipped), ScanError> {
        let opened = open(root)?;
        let before = identity(root)?;
        let scanned_at = unix_now();
        let mut rules = IgnoreRules::none();
        let mut nodes = walk(&opened, &mut rules, false)?.nodes;
        let skipped = leave_out_specials(&opened, &mut nodes);
        let known = index.map(Index::load).unwrap_or_default();
        let mut fresh = Index::default();
        let entries = entries(&opened, &nodes, &known, &mut fresh, scanned_at)?;
        if identity(root)? != before {
            return Err(ScanError::Replaced { path: root.to_path_buf() });
        }
        if let Some(path) = index.filter(|_| fresh != known) {
            // Without an index the next scan is slower, nothing else.
            let _ = fresh.save(path);
        }
        let mode = opened.status().map_err(|source| ScanError::Open { path: root.to_path_buf(), source })?.mode;
        let tree = Self::of(Arc::new(opened), entries, mode, Arc::new(rules), false)?;
        Ok((tree, skipped))
    }

    /// A tree that holds one regular file and nothing else. A link is followed.
    pub fn file(path: &Path) -> Result<Self, ScanError> {
        let failed = |source| ScanError::Open { path: path.to_path_buf(), source };
        let real = fs_err::canonicalize(path).map_err(|error| failed(plain(&error)))?;
        let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        };
        let root = open(parent)?;
        let name = RelPath::new(name.as_encoded_bytes()).map_err(|_| failed(io::ErrorKind::InvalidFilename.into()))?;
        let status = status_at(&root, name.as_bytes()).map_err(failed)?;
        let node = Node { path: name, status, kind: NodeKind::File };
        let entries = entries(&root, &[node], &Index::default(), &mut Index::default(), unix_now())?;
        if entries.is_empty() {
            return Err(failed(io::ErrorKind::NotFound.into()));
        }
        Self::of(Arc::new(root), entries, 0o755, Arc::new(IgnoreRules::none()), false)
    }
}

/// The error without the path that `fs_err` adds: ours names it.
fn plain(error: &io::Error) -> io::Error {
    error.kind().into()
}

fn leave_out_specials(root: &Root, nodes: &mut Vec<Node>) -> Skipped {
    let mut skipped = Skipped::default();
    nodes.retain(|node| {
        let NodeKind::Special(what) = node.kind else { return true };
        skipped.count += 1;
        if skipped.first.len() < MAX_NAMED {
            skipped.first.push(format!("`{}`: {what}", root.path_of(node.path.as_bytes()).display()));
        }
        false
    });
    skipped
}
