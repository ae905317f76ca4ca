//! What a directory of this host holds now.

use std::{collections::HashSet, io, path::Path};

use super::memory::Memory;
use crate::{
    helper::failure::{OrFail, bad_input, io_failure},
    plan::{FailureKind, HostPath, OpFailure},
    tree::{
        Digest, EntryKind, Extra, HashError, Hashed, IgnoreRules, Index, Node, NodeKind, RelPath, Root, Status,
        WalkError, Xattr, further_names, hash_files, root_of, shown, unix_now, walk, xattrs_at,
    },
};

/// Everything below a directory of this host, content hashes included.
#[derive(Debug, Default)]
pub(super) struct TreeState {
    /// The directory, held open; none when it does not exist.
    pub(super) root: Option<(Root, Status)>,
    /// Ordered by path.
    pub(super) found: Vec<Found>,
    /// Unfinished entries of a killed run.
    pub(super) leftovers: Vec<RelPath>,
    /// Directories that hold something ignored.
    pub(super) holding_ignored: HashSet<RelPath>,
}

/// One entry.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Where.
    pub(super) path: RelPath,
    /// What stat says.
    pub(super) status: Status,
    /// What it is; none for what no tree can hold, and for files that cannot be read or keep changing.
    pub(super) kind: Option<EntryKind>,
    /// Its extended attributes, when the tree is synced with them.
    pub(super) extra: Option<Box<Extra>>,
}

impl Found {
    /// Its extended attributes, as far as they were looked at.
    pub(super) fn xattrs(&self) -> &[Xattr] {
        self.extra.as_ref().map_or(&[], |extra| &extra.xattrs)
    }

    /// Whether it is a directory.
    pub(super) fn is_directory(&self) -> bool {
        matches!(self.kind, Some(EntryKind::Dir { .. }))
    }
}

impl TreeState {
    /// Scans a directory, extended attributes included when asked for. Reads only files that the index does not know.
    /// A missing directory is an empty state.
    pub(super) fn scan(
        dest: &HostPath,
        rules: &mut IgnoreRules,
        memory: &Memory,
        xattrs: bool,
    ) -> Result<Self, OpFailure> {
        let Some(root) = open(dest)? else {
            return Ok(Self::default());
        };
        let scanned_at = unix_now();
        let walked = walk(&root, rules, false).map_err(|error| walk_failure(&error))?;
        let known = memory.index();
        let mut fresh = Index::default();
        let mut found = identify(&root, walked.nodes, &known, &mut fresh, scanned_at);
        if xattrs {
            add_xattrs(&root, &mut found);
        }
        if fresh != known {
            memory.keep_index(&fresh);
        }
        let status = root.status().or_fail("read", dest)?;
        Ok(Self {
            root: Some((root, status)),
            found,
            leftovers: walked.leftovers,
            holding_ignored: walked.holding_ignored,
        })
    }

    /// The root hash; none when something is there that no tree can hold.
    pub(super) fn root_hash(&self) -> Option<Digest> {
        let entries: Option<Vec<_>> =
            self.found.iter().map(|found| Some((&found.path, found.kind.as_ref()?, found.extra.as_deref()))).collect();
        Some(root_of(entries?.into_iter()))
    }

    /// Digest and size of a file, also of one that has its content from an earlier name.
    pub(super) fn content(&self, found: &Found) -> Option<(Digest, u64)> {
        match found.kind.as_ref()? {
            EntryKind::File { digest, size, .. } => Some((*digest, *size)),
            EntryKind::HardLink { to } => {
                let at = self.found.binary_search_by(|first| first.path.cmp(to)).ok()?;
                match self.found[at].kind.as_ref()? {
                    EntryKind::File { digest, size, .. } => Some((*digest, *size)),
                    _ => None,
                }
            }
            EntryKind::Dir { .. } | EntryKind::Symlink { .. } => None,
        }
    }

    /// Whether everything, the directory itself included, belongs to this owner and group, where given.
    pub(super) fn is_owned_by(&self, uid: Option<u32>, gid: Option<u32>) -> bool {
        let root = self.root.iter().map(|(_, status)| status);
        root.chain(self.found.iter().map(|found| &found.status)).all(|status| owner_fits(status, uid, gid))
    }
}

/// Whether owner and group are as asked for, where asked.
pub(super) fn owner_fits(status: &Status, uid: Option<u32>, gid: Option<u32>) -> bool {
    uid.is_none_or(|uid| uid == status.uid) && gid.is_none_or(|gid| gid == status.gid)
}

fn open(dest: &HostPath) -> Result<Option<Root>, OpFailure> {
    match Root::open(dest.as_path()) {
        Ok(root) => Ok(Some(root)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if leads_nowhere(dest.as_path()) {
                let failure = bad_input(format!("cannot sync to `{dest}`: it is a link that leads nowhere"));
                return Err(failure.hint("make the directory that it leads to, or remove the link"));
            }
            Ok(None)
        }
        Err(error)
            if error.kind() == io::ErrorKind::NotADirectory && fs_err::symlink_metadata(dest.as_path()).is_ok() =>
        {
            let failure = bad_input(format!("cannot sync to `{dest}`: it is not a directory"));
            Err(failure.hint("remove what is there by hand, or name another `dest`"))
        }
        Err(error) => Err(io_failure("open", dest, &error)),
    }
}

/// Whether a path that does not lead to anything is itself something: a broken link.
fn leads_nowhere(path: &Path) -> bool {
    fs_err::symlink_metadata(path).is_ok()
}

pub(super) fn walk_failure(error: &WalkError) -> OpFailure {
    match error {
        WalkError::Read { path, source } => io_failure("read", shown(path), source),
        other => OpFailure::new(FailureKind::Io, other.to_string()),
    }
}

pub(super) fn identify(root: &Root, nodes: Vec<Node>, known: &Index, fresh: &mut Index, scanned_at: i64) -> Vec<Found> {
    let further = further_names(&nodes);
    let mut found: Vec<Found> = Vec::with_capacity(nodes.len());
    let (mut unread, mut bytes) = (Vec::new(), 0);
    for (index, Node { path, status, kind }) in nodes.into_iter().enumerate() {
        let kind = match kind {
            NodeKind::Dir => Some(EntryKind::Dir { mode: status.mode }),
            NodeKind::Symlink(target) => Some(EntryKind::Symlink { target }),
            NodeKind::Special(_) => None,
            NodeKind::File => match (further.get(&index), known.digest(&status.key())) {
                (Some(first), _) => Some(EntryKind::HardLink { to: found[*first].path.clone() }),
                (None, Some(digest)) => {
                    fresh.keep(&status, digest);
                    Some(EntryKind::File { size: status.size, digest, mode: status.mode })
                }
                (None, None) => {
                    unread.push(index);
                    bytes += status.size;
                    None
                }
            },
        };
        found.push(Found { path, status, kind, extra: None });
    }
    let results = {
        let paths: Vec<&RelPath> = unread.iter().map(|at| &found[*at].path).collect();
        hash_files(root, &paths, bytes)
    };
    let (mut gone, mut other) = (HashSet::new(), HashSet::new());
    for (at, result) in unread.into_iter().zip(results) {
        match result {
            Ok(Hashed { digest, status }) => {
                fresh.remember(&status, digest, scanned_at);
                let inode = |status: &Status| (status.dev, status.ino);
                if inode(&found[at].status) != inode(&status) {
                    other.insert(at);
                }
                found[at].status = status;
                found[at].kind = Some(EntryKind::File { size: status.size, digest, mode: status.mode });
            }
            Err(HashError::Vanished) => drop((gone.insert(at), other.insert(at))),
            // Unreadable or busy: whatever its content is, it is not known to be the wanted one.
            Err(HashError::Read(_) | HashError::Changing) => drop(other.insert(at)),
        }
    }
    // What is another name of a file that is no longer what was listed is not known either.
    for (index, _) in further.iter().filter(|(_, first)| other.contains(*first)) {
        found[*index].kind = None;
    }
    let mut at = 0;
    found.retain(|_| {
        at += 1;
        !gone.contains(&(at - 1))
    });
    found
}

/// Reads the extended attributes of what was found. A file whose attributes cannot be read is not known to be the wanted
/// one; those of a directory count as none.
fn add_xattrs(root: &Root, found: &mut [Found]) {
    for found in found {
        let Some(kind) = &found.kind else { continue };
        match xattrs_at(root, &found.path, kind) {
            Ok(xattrs) => found.extra = Extra::of(false, xattrs),
            Err(_) if found.is_directory() => {}
            Err(_) => found.kind = None,
        }
    }
}
