//! What a directory of this host holds now.

use std::{collections::HashSet, io, path::Path};

use super::memory::Memory;
use crate::{
    helper::failure::{OrFail, bad_input, io_failure},
    plan::{FailureKind, HostPath, OpFailure},
    tree::{
        Digest, EntryKind, HashError, IgnoreRules, Index, Node, NodeKind, RelPath, Root, Status, WalkError, hash_files,
        root_of, shown, unix_now, walk,
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
}

impl Found {
    /// Whether it is a directory.
    pub(super) fn is_directory(&self) -> bool {
        matches!(self.kind, Some(EntryKind::Dir { .. }))
    }
}

impl TreeState {
    /// Scans a directory. Reads only files that the index does not know. A missing directory is an empty state.
    pub(super) fn scan(dest: &HostPath, rules: &mut IgnoreRules, memory: &Memory) -> Result<Self, OpFailure> {
        let Some(root) = open(dest)? else {
            return Ok(Self::default());
        };
        let scanned_at = unix_now();
        let walked = walk(&root, rules, false).map_err(|error| walk_failure(&error))?;
        let known = memory.index();
        let mut fresh = Index::default();
        let found = identify(&root, walked.nodes, &known, &mut fresh, scanned_at);
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
            self.found.iter().map(|found| Some((&found.path, found.kind.as_ref()?))).collect();
        Some(root_of(entries?.into_iter()))
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

fn walk_failure(error: &WalkError) -> OpFailure {
    match error {
        WalkError::Read { path, source } => io_failure("read", shown(path), source),
        other => OpFailure::new(FailureKind::Io, other.to_string()),
    }
}

fn identify(root: &Root, nodes: Vec<Node>, known: &Index, fresh: &mut Index, scanned_at: i64) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::with_capacity(nodes.len());
    let (mut unread, mut bytes) = (Vec::new(), 0);
    for Node { path, status, kind } in nodes {
        let kind = match kind {
            NodeKind::Dir => Some(EntryKind::Dir { mode: status.mode }),
            NodeKind::Symlink(target) => Some(EntryKind::Symlink { target }),
            NodeKind::Special(_) => None,
            NodeKind::File => {
                let digest = known.digest(&status.key());
                if let Some(digest) = digest {
                    fresh.remember(&status, digest, scanned_at);
                } else {
                    unread.push(found.len());
                    bytes += status.size;
                }
                digest.map(|digest| EntryKind::File { size: status.size, digest, mode: status.mode })
            }
        };
        found.push(Found { path, status, kind });
    }
    let results = {
        let paths: Vec<&RelPath> = unread.iter().map(|at| &found[*at].path).collect();
        hash_files(root, &paths, bytes)
    };
    let mut gone = HashSet::new();
    for (at, result) in unread.into_iter().zip(results) {
        match result {
            Ok(hashed) => {
                let status = hashed.status;
                fresh.remember(&status, hashed.digest, scanned_at);
                found[at].status = status;
                found[at].kind = Some(EntryKind::File { size: status.size, digest: hashed.digest, mode: status.mode });
            }
            Err(HashError::Vanished) => drop(gone.insert(at)),
            // Unreadable or busy: whatever its content is, it is not known to be the wanted one.
            Err(HashError::Read(_) | HashError::Changing) => {}
        }
    }
    let mut at = 0;
    found.retain(|_| {
        at += 1;
        !gone.contains(&(at - 1))
    });
    found
}
