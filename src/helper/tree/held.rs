//! What a session keeps of directories between plans, so that a following change costs work for what changes only.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::fs::RawDir;

use super::{
    Comparison, Place, TreeChange,
    memory::Memory,
    state::{Found, TreeState},
};
use crate::{
    plan,
    tree::{
        Care, Digest, Entry, EntryKind, Extra, IgnoreRules, Larder, Manifest, ManifestPatch, RelPath, Root, Status,
        status_at,
    },
};

/// Most entries of a directory that is kept: some 60 MB of memory.
const MOST_ENTRIES: usize = 200_000;
/// Most changed entries for which it is not simpler to look at everything.
const MOST_CHANGED: usize = 4096;

/// Directories as this session left them. A cache: whatever does not fit it is looked at as a whole.
#[derive(Debug, Default)]
pub struct HeldTrees(Mutex<HashMap<String, Held>>);

#[derive(Debug)]
struct Held {
    terms: Terms,
    /// Digest of the manifest's encoding.
    digest: Digest,
    manifest: Manifest,
    state: TreeState,
    /// Files that followed changes made, as they were then.
    made: HashMap<RelPath, (Status, Digest)>,
}

/// What must be the same for a directory to be followed.
#[derive(Debug, PartialEq, Eq)]
struct Terms {
    ignore: Vec<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    xattrs: bool,
}

impl Terms {
    fn of(op: &plan::Sync, place: &Place<'_>) -> Self {
        let ignore = op.tree.ignore.iter().chain(&op.ignore).cloned().collect();
        Self { ignore, uid: place.uid, gid: place.gid, xattrs: op.tree.xattrs }
    }
}

/// Something is not as this session left it.
#[derive(Debug)]
struct AnotherHand;

/// A change that was found without looking at everything.
#[derive(Debug)]
pub(super) struct Followed {
    /// The manifest that the directory will have.
    manifest: Manifest,
    /// Paths at which something changes, ordered.
    touched: BTreeSet<RelPath>,
}

impl HeldTrees {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a directory, as before every change: only a change that succeeds leaves something to keep.
    pub(super) fn forget(&self, op: &plan::Sync) {
        self.lock().remove(op.dest.as_str());
    }

    /// What has to be done at a directory that is held, given the patch that came ahead of the plan. None when it has
    /// to be looked at as a whole.
    pub(super) fn follow(&self, op: &plan::Sync, place: &Place<'_>, larder: &Larder) -> Option<TreeChange> {
        if larder.care() != Care::Follow {
            return None;
        }
        let patch = larder.patch(&op.tree.manifest).filter(|patch| patch.len() <= MOST_CHANGED)?;
        let held = self.lock();
        let held = held.get(op.dest.as_str())?;
        if held.digest != patch.base || held.terms != Terms::of(op, place) {
            return None;
        }
        let manifest = patch.apply(&held.manifest).ok().filter(|manifest| manifest.root() == op.tree.root)?;
        // Names of one file depend on each other, wherever they are; and of a tree that becomes empty a comparison of the
        // whole decides whether everything may go.
        let has_links = manifest.hard_links().chain(held.manifest.hard_links()).next().is_some();
        if has_links || manifest.entries().is_empty() {
            return None;
        }
        held.change(op, place, patch, manifest)
    }

    /// The manifest that a patch starts from or leads to, if it is that of a directory that is held.
    pub(super) fn manifest(&self, op: &plan::Sync, digest: Digest) -> Option<Manifest> {
        self.lock().get(op.dest.as_str()).filter(|held| held.digest == digest).map(|held| held.manifest.clone())
    }

    /// Remembers on disk what is held in memory, at the end of a session. `state` is the helper's own directory.
    pub(crate) fn write_down(&self, state: &Path) {
        for (dest, held) in &*self.lock() {
            let Ok(dest) = dest.parse() else { continue };
            let memory = Memory::of(&dest, Some(state), true);
            memory.learn(&held.made.values().copied().collect::<Vec<_>>());
            if Digest::of(&memory.manifest()) != held.digest
                && let Ok(encoded) = held.manifest.encode()
            {
                memory.keep_manifest(&encoded, Digest::of(&encoded));
            }
        }
    }

    /// Keeps what a comparison found when nothing differs, if that is asked for.
    pub(super) fn keep_same(&self, op: &plan::Sync, place: &Place<'_>, state: TreeState, care: Care) {
        if care == Care::Whole || place.state.is_none() {
            return;
        }
        let bytes = Memory::of(&op.dest, place.state, false).manifest();
        if let Ok(manifest) = Manifest::decode(&bytes) {
            self.keep(op, place, state, manifest, Digest::of(&bytes));
        }
    }

    fn keep(&self, op: &plan::Sync, place: &Place<'_>, state: TreeState, manifest: Manifest, digest: Digest) {
        let fits = state.found.len() <= MOST_ENTRIES
            && manifest.root() == op.tree.root
            && state.leftovers.is_empty()
            && state.root_hash() == Some(op.tree.root);
        if fits {
            let held = Held { terms: Terms::of(op, place), digest, manifest, state, made: HashMap::new() };
            self.lock().insert(op.dest.as_str().to_owned(), held);
        }
    }

    /// Looks at a directory after a change of the whole, if more plans about it will come.
    pub(super) fn keep_changed(&self, op: &plan::Sync, place: &Place<'_>, care: Care) {
        if care == Care::Whole {
            return;
        }
        let lines = Terms::of(op, place).ignore;
        let Ok(mut rules) = IgnoreRules::new(&lines) else { return };
        let memory = Memory::of(&op.dest, place.state, place.remember);
        if let Ok(state) = TreeState::scan(&op.dest, &mut rules, &memory, op.tree.xattrs) {
            self.keep_same(op, place, state, care);
        }
    }

    /// Takes in what a followed change has made of a directory. What is not as it should be is forgotten.
    pub(super) fn absorb(&self, op: &plan::Sync, followed: Followed) {
        let mut all = self.lock();
        let Some(mut held) = all.remove(op.dest.as_str()) else { return };
        drop(all);
        if held.absorb(&followed) {
            held.manifest = followed.manifest;
            held.digest = op.tree.manifest;
            self.lock().insert(op.dest.as_str().to_owned(), held);
        }
    }
}

impl Held {
    fn change(
        &self,
        op: &plan::Sync,
        place: &Place<'_>,
        patch: &ManifestPatch,
        manifest: Manifest,
    ) -> Option<TreeChange> {
        let (_, status) = self.state.root.as_ref()?;
        let root = Root::open(op.dest.as_path()).ok()?;
        let now = root.status().ok()?;
        if (now.dev, now.ino, now.uid, now.gid) != (status.dev, status.ino, status.uid, status.gid) {
            return None;
        }
        let added: Vec<Entry> = patch.added(&self.manifest).collect::<Result<_, _>>().ok()?;
        let removed = patch.removed(&self.manifest).map(|entry| &entry.path);
        let touched: BTreeSet<RelPath> = removed.chain(added.iter().map(|entry| &entry.path)).cloned().collect();
        // Directories in which names come or go get their times back.
        let parents = touched.iter().filter_map(|path| RelPath::new(path.parent()).ok());
        let parents: BTreeSet<RelPath> = parents.filter(|parent| !touched.contains(parent)).collect();
        let (mut found, mut wanted) = (Vec::new(), added);
        for path in &touched {
            found.extend(self.verified(&root, path, &touched).ok()?);
        }
        for path in &parents {
            let at = manifest.entries().binary_search_by(|entry| entry.path.cmp(path)).ok()?;
            wanted.push(manifest.entries()[at].clone());
            found.push(self.verified(&root, path, &touched).ok()??);
        }
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        wanted.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let holding_ignored: HashSet<RelPath> =
            touched.iter().filter(|path| self.state.holding_ignored.contains(*path)).cloned().collect();
        let state = TreeState { root: Some((root, now)), found, leftovers: Vec::new(), holding_ignored };
        // What is not allowed, a comparison of the whole says best.
        let xattrs = op.tree.xattrs;
        let comparison =
            Comparison { dest: &op.dest, wanted: &wanted, state: &state, place, delete: op.delete, xattrs };
        let work = comparison.work().ok()?;
        let (root_mode, root_owner_differs) = (manifest.root_mode(), false);
        let followed = Some(Followed { manifest, touched });
        Some(TreeChange {
            dest: op.dest.clone(),
            uid: place.uid,
            gid: place.gid,
            root_mode,
            root_owner_differs,
            xattrs,
            wanted,
            state,
            work,
            followed,
            donor: None,
            left: None,
        })
    }

    fn index_of(&self, path: &RelPath) -> Result<usize, usize> {
        self.state.found.binary_search_by(|found| found.path.cmp(path))
    }

    /// What is held of a path, if that is what is there; nothing when nothing is and should be.
    fn verified(&self, root: &Root, path: &RelPath, touched: &BTreeSet<RelPath>) -> Result<Option<Found>, AnotherHand> {
        let now = status_of(root, path).map_err(|_| AnotherHand)?;
        let held = self.index_of(path).ok().map(|at| &self.state.found[at]);
        match (now, held) {
            (None, None) => Ok(None),
            (Some(now), Some(held)) if held.is_directory() => {
                let same = |of: &Status| (of.file_type, of.dev, of.ino, of.mode, of.uid, of.gid);
                let is_same = same(&now) == same(&held.status);
                // A directory that may go must hold nothing else.
                let is_known = is_same && self.knows_all_in(root, path, touched);
                if is_known { Ok(Some(held.clone())) } else { Err(AnotherHand) }
            }
            (Some(now), Some(held)) if now == held.status => Ok(Some(held.clone())),
            _ => Err(AnotherHand),
        }
    }

    /// Whether nothing is in a directory but what is held of it.
    fn knows_all_in(&self, root: &Root, path: &RelPath, touched: &BTreeSet<RelPath>) -> bool {
        let start = self.index_of(path).map_or(0, |at| at + 1);
        let below = self.state.found[start..].iter().take_while(|found| found.path.is_below(path.as_bytes()));
        let children: Vec<&RelPath> =
            below.map(|found| &found.path).filter(|below| below.parent() == path.as_bytes()).collect();
        if children.iter().any(|child| !touched.contains(*child)) {
            // It stays: something in it does.
            return true;
        }
        let Ok(fd) = root.open_directory(path.as_bytes()) else { return false };
        let mut buffer = Vec::with_capacity(32 * 1024);
        let mut entries = RawDir::new(fd, buffer.spare_capacity_mut());
        let mut count = 0;
        while let Some(entry) = entries.next() {
            match entry {
                Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Ok(_) => count += 1,
                Err(_) => return false,
            }
        }
        count == children.len()
    }

    /// Whether everything that was touched is now as the manifest wants it.
    fn absorb(&mut self, followed: &Followed) -> bool {
        let Some((root, _)) = &self.state.root else { return false };
        let mut fresh = Vec::new();
        for path in &followed.touched {
            let entries = followed.manifest.entries();
            let wanted = entries.binary_search_by(|entry| entry.path.cmp(path)).ok().map(|at| &entries[at]);
            match (wanted, status_of(root, path)) {
                (None, Ok(None)) => {}
                (Some(entry), Ok(Some(status))) if fits(&entry.kind, &status) => {
                    if let EntryKind::File { digest, .. } = entry.kind {
                        self.made.insert(path.clone(), (status, digest));
                    }
                    let extra = Extra::of(false, entry.xattrs().to_vec());
                    fresh.push(Found { path: path.clone(), status, kind: Some(entry.kind.clone()), extra });
                }
                _ => return false,
            }
        }
        let found = std::mem::take(&mut self.state.found);
        let mut fresh = fresh.into_iter().peekable();
        for kept in found.into_iter().filter(|found| !followed.touched.contains(&found.path)) {
            while let Some(before) = fresh.next_if(|next| next.path < kept.path) {
                self.state.found.push(before);
            }
            self.state.found.push(kept);
        }
        self.state.found.extend(fresh);
        true
    }
}

/// Whether what stat tells is what a manifest says.
fn fits(kind: &EntryKind, status: &Status) -> bool {
    use rustix::fs::FileType;
    match kind {
        EntryKind::File { size, mode, .. } => {
            status.file_type == FileType::RegularFile && status.size == *size && status.mode == *mode
        }
        EntryKind::Dir { mode } => status.file_type == FileType::Directory && status.mode == *mode,
        EntryKind::Symlink { .. } => status.file_type == FileType::Symlink,
        EntryKind::HardLink { .. } => false,
    }
}

/// Stat of what is at a path; nothing when nothing is there.
fn status_of(root: &Root, path: &RelPath) -> std::io::Result<Option<Status>> {
    let status = root.open_directory(path.parent()).and_then(|directory| status_at(directory, path.name()));
    match status {
        Ok(status) => Ok(Some(status)),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl TreeChange {
    /// Whether there is anything to do but to take note of times.
    pub(super) fn is_idle(&self) -> bool {
        self.work.is_empty() && !self.root_owner_differs
    }

    /// What was found without looking at everything; taken.
    pub(super) fn take_followed(&mut self) -> Option<Followed> {
        self.followed.take()
    }
}
