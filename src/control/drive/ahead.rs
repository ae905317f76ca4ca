//! Guesses what a host lacks, from what it said that it remembers: sent along with the plan it saves the round trips
//! that asking would cost.

use std::{
    collections::{HashMap, HashSet},
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::sources::Sources;
use crate::{
    plan::{Op, Plan, StepId},
    tree::{
        Ahead, Care, Digest, EntryKind, MAX_AHEAD, MAX_PATCH, Manifest, ManifestPatch, Remembered, SourceTree,
        place_name, replace_file,
    },
    wire::Mode,
};

/// Manifests kept on this side: those of the trees that were pushed last.
const MOST_MANIFESTS: usize = 64;
/// Longest manifest that is kept, in bytes.
const LONGEST_MANIFEST: usize = 16 * 1024 * 1024;

/// What a host remembers, by the names of its directories.
#[derive(Debug, Default)]
pub(super) struct HostMemory(Mutex<HashMap<String, Digest>>);

impl HostMemory {
    /// What the host said in its hello.
    pub(super) fn of(trees: &[Remembered]) -> Self {
        Self(Mutex::new(trees.iter().map(|tree| (tree.place.clone(), tree.manifest)).collect()))
    }

    fn get(&self, place: &str) -> Option<Digest> {
        lock(&self.0).get(place).copied()
    }

    /// Takes note of trees that were just made equal to their sources.
    pub(super) fn learn(&self, made: impl IntoIterator<Item = (String, Digest)>) {
        lock(&self.0).extend(made);
    }
}

/// Where the trees of a plan go: by step, the name of the directory and the digest of its manifest.
pub(super) fn places(plan: &Plan) -> HashMap<StepId, (String, Digest)> {
    let trees = plan.steps.iter().filter_map(|step| match &step.op {
        Op::Sync(sync) if sync.release.is_none_or(|release| !release.rollback) => {
            Some((step.id, (place_name(sync.dest.as_str()), sync.tree.manifest)))
        }
        _ => None,
    });
    trees.collect()
}

/// The manifests of all trees of a plan: lists, which nobody counts as content.
pub(super) fn manifests(plan: &Plan) -> HashSet<Digest> {
    let lists = plan.steps.iter().filter_map(|step| match &step.op {
        Op::Sync(sync) => Some(sync.tree.manifest),
        Op::Put(put) => Some(put.tree.manifest),
        _ => None,
    });
    lists.collect()
}

/// The manifests of the trees that were pushed last, and the guesses already made with them.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    directory: Option<PathBuf>,
    guesses: Mutex<HashMap<Question, Guess>>,
    recent: Mutex<HashMap<Digest, Arc<Manifest>>>,
}

/// The manifest that a host remembers, the one that it should get, and whether contents are of use.
type Question = (Option<Digest>, Digest, Mode);
/// Made once for all hosts: the second one waits for the first.
type Guess = Arc<Mutex<Option<Arc<Ahead>>>>;

impl Manifests {
    /// Manifests that are kept below `cache`, when there is such a place.
    pub(super) fn new(cache: Option<&Path>) -> Self {
        Self { directory: cache.map(|cache| cache.join("manifests")), ..Self::default() }
    }

    /// What a host lacks that remembers `known` and should get `tree`. Blocks.
    fn guess(&self, known: Option<Digest>, tree: &SourceTree, how: Mode) -> Arc<Ahead> {
        let key = (known, tree.summary().manifest, how);
        let guess = Arc::clone(lock(&self.guesses).entry(key).or_default());
        let mut guess = lock(&guess);
        if let Some(made) = &*guess {
            return Arc::clone(made);
        }
        let fresh = Arc::new(self.make(known, tree, how));
        *guess = Some(Arc::clone(&fresh));
        fresh
    }

    fn make(&self, known: Option<Digest>, tree: &SourceTree, mode: Mode) -> Ahead {
        let old = known.and_then(|digest| Some((digest, self.load(digest)?)));
        // Every host knows the empty manifest.
        let (base, old) = old.unwrap_or_else(|| (Digest::of(b""), Arc::default()));
        let patch = ManifestPatch::between(base, &old, tree.manifest());
        if patch.len() > MAX_PATCH {
            return Ahead::default();
        }
        let contents = if mode == Mode::Apply { new_contents(&old, tree).unwrap_or_default() } else { Vec::new() };
        Ahead { contents, patches: vec![(tree.summary().manifest, patch)], ..Ahead::default() }
    }

    fn load(&self, digest: Digest) -> Option<Arc<Manifest>> {
        if let Some(manifest) = lock(&self.recent).get(&digest) {
            return Some(Arc::clone(manifest));
        }
        let bytes = fs_err::read(self.directory.as_ref()?.join(digest.to_string())).ok()?;
        if Digest::of(&bytes) != digest {
            return None;
        }
        Manifest::decode(&bytes).ok().map(Arc::new)
    }

    /// Keeps a manifest that a host now has.
    fn keep(&self, tree: &SourceTree) {
        let digest = tree.summary().manifest;
        let mut recent = lock(&self.recent);
        if recent.contains_key(&digest) {
            return;
        }
        if recent.len() >= MOST_MANIFESTS {
            recent.clear();
            lock(&self.guesses).clear();
        }
        recent.insert(digest, Arc::clone(tree.manifest()));
    }

    /// Writes down a manifest that hosts have, for the runs to come.
    fn write_down(&self, tree: &SourceTree) -> std::io::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let digest = tree.summary().manifest;
        let path = directory.join(digest.to_string());
        let is_kept = lock(&self.recent).contains_key(&digest);
        if !is_kept || tree.manifest_bytes().len() > LONGEST_MANIFEST || path.exists() {
            return Ok(());
        }
        replace_file(&path, tree.manifest_bytes())?;
        forget_oldest(directory)
    }
}

fn forget_oldest(directory: &Path) -> std::io::Result<()> {
    let mut kept: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        kept.push((entry.metadata()?.modified()?, entry.path()));
    }
    kept.sort_unstable();
    let surplus = kept.len().saturating_sub(MOST_MANIFESTS);
    kept.iter().take(surplus).try_for_each(|(_, path)| fs_err::remove_file(path))
}

/// The contents that a tree has and an older version of it had not; none when they are too much.
fn new_contents(old: &Manifest, tree: &SourceTree) -> Option<Vec<Vec<u8>>> {
    let file = |kind: &EntryKind| match kind {
        EntryKind::File { digest, size, .. } if *size > 0 => Some((*digest, *size)),
        _ => None,
    };
    let mut known: HashSet<Digest> =
        old.entries().iter().filter_map(|entry| file(&entry.kind)).map(|(digest, _)| digest).collect();
    let mut lacking = Vec::new();
    let mut bytes = 0;
    for entry in tree.manifest().entries() {
        if let Some((digest, size)) = file(&entry.kind)
            && known.insert(digest)
        {
            bytes += size;
            if bytes > MAX_AHEAD as u64 {
                return None;
            }
            lacking.push((entry, size));
        }
    }
    // A file that changes meanwhile becomes a content that nobody asks for.
    let read = |(entry, size): &(&crate::tree::Entry, u64)| {
        let file = tree.root().open_file(entry.path.as_bytes()).ok()?;
        let mut content = Vec::new();
        std::fs::File::from(file).take(*size).read_to_end(&mut content).ok()?;
        Some(content)
    };
    Some(lacking.iter().filter_map(read).collect())
}

impl Sources {
    /// What the host that remembers this probably lacks of a plan's trees. Blocks.
    pub(super) fn ahead(&self, plan: &Plan, memory: &HostMemory, mode: Mode, care: Care) -> Ahead {
        let mut ahead = Ahead { care, ..Ahead::default() };
        for (place, manifest) in places(plan).into_values() {
            let known = memory.get(&place);
            let tree = self.scanned(manifest).filter(|_| known != Some(manifest));
            let Some(tree) = tree else { continue };
            let guess = self.manifests().guess(known, &tree, mode);
            let bytes = |ahead: &Ahead| ahead.contents.iter().map(Vec::len).sum::<usize>();
            let entries = |ahead: &Ahead| ahead.patches.iter().map(|(_, patch)| patch.len()).sum::<usize>();
            if bytes(&ahead) + bytes(&guess) <= MAX_AHEAD && entries(&ahead) + entries(&guess) <= MAX_PATCH {
                ahead.extend(&guess);
            }
        }
        ahead
    }

    /// Takes note that hosts now have the tree with this manifest. Blocks.
    pub(super) fn delivered(&self, manifest: Digest) {
        if let Some(tree) = self.scanned(manifest) {
            self.manifests().keep(&tree);
        }
    }

    /// Writes down what hosts have, at the end of a run. Blocks.
    pub(super) fn write_down(&self) {
        for tree in self.all_scanned() {
            // Without it the next push takes a round trip more, nothing else.
            let _ = self.manifests().write_down(&tree);
        }
        self.finish_keeping();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
