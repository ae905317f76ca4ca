//! What this side can supply: source trees, local files and the launcher, scanned once and shared by all hosts.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use super::{
    ahead::Manifests,
    eye::Touched,
    usual::{TreeKey, Usual},
};
use crate::{
    control::{link::launcher, recipe::Refusal},
    plan::ComponentName,
    tree::{Contents, Demand, Digest, RelPath, ScanError, SourceTree, Supply, TreeSummary, Versions},
};

type Scanned = Arc<Mutex<Option<SourceTree>>>;

/// What this side can supply. Each source tree is scanned once in a run, however many hosts get it.
#[derive(Default)]
pub(super) struct Sources {
    contents: Mutex<Arc<Contents>>,
    trees: Mutex<HashMap<TreeKey, Scanned>>,
    /// Trees that nobody has asked for in this run, but probably will.
    foreseen: Mutex<HashMap<TreeKey, Scanned>>,
    /// What each component has asked for.
    asked: Mutex<BTreeMap<ComponentName, BTreeSet<TreeKey>>>,
    cache: Option<PathBuf>,
    manifests: Manifests,
    roots: Mutex<Roots>,
    /// Every service of a recipe asks for it.
    launcher: OnceLock<(Digest, Arc<[u8]>)>,
}

/// Which directories the trees were when they were looked at last.
#[derive(Debug, Default)]
struct Roots {
    /// Device and inode by path.
    known: HashMap<PathBuf, (u64, u64)>,
    /// Paths at which the last look found another directory than the one before.
    replaced: Vec<PathBuf>,
}

impl Roots {
    /// Takes note of what a look found, if it found anything.
    fn note(&mut self, path: &Path, tree: &SourceTree) {
        let Ok(status) = tree.root().status() else { return };
        let identity = (status.dev, status.ino);
        let before = self.known.insert(path.to_path_buf(), identity);
        if before.is_some_and(|before| before != identity) && !self.replaced.iter().any(|other| other == path) {
            self.replaced.push(path.to_path_buf());
        }
    }
}

/// A source tree that is watched for changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WatchedTree {
    /// Its directory, as the recipe names it.
    pub(super) path: PathBuf,
    /// What its last scan left out, as gitignore lines relative to it.
    pub(super) ignore: Vec<String>,
    /// Regular files in it.
    pub(super) files: u64,
}

impl Sources {
    /// Sources whose scan indexes are kept below `cache`, when there is such a place. `is_shared`: several hosts will
    /// demand the same.
    pub(super) fn new(cache: Option<PathBuf>, is_shared: bool) -> Self {
        let manifests = Manifests::new(cache.as_deref());
        let mut contents = Contents::new();
        if let Some(cache) = &cache {
            contents.use_versions(Versions::new(cache.join("content")));
        }
        if is_shared {
            contents.share();
        }
        let contents = Mutex::new(Arc::new(contents));
        Self { contents, cache, manifests, ..Self::default() }
    }

    /// Scans a source tree, or gives the result of the scan that this run already made.
    pub(super) fn tree(&self, component: &ComponentName, key: &TreeKey) -> Result<TreeSummary, Refusal> {
        lock(&self.asked).entry(component.clone()).or_default().insert(key.clone());
        let foreseen = || lock(&self.foreseen).remove(key).unwrap_or_default();
        let scanned = Arc::clone(lock(&self.trees).entry(key.clone()).or_insert_with(foreseen));
        // Held over the scan: a second host that wants the same tree waits instead of scanning again.
        let mut scanned = lock(&scanned);
        if let Some(tree) = &*scanned {
            return Ok(tree.summary().clone());
        }
        let refusal = |error: ScanError| Refusal { why: super::error::chain(&error), hint: error.hint() };
        let tree = self.scan_first(key).map_err(refusal)?;
        Ok(scanned.insert(tree).summary().clone())
    }

    /// Scans a tree for the first time in this run, and offers it.
    fn scan_first(&self, key: &TreeKey) -> Result<SourceTree, ScanError> {
        let tree = self.scan(key)?;
        lock(&self.roots).note(&key.source, &tree);
        self.offer(&tree);
        Ok(tree)
    }

    /// Scans a tree that will probably be asked for. What goes wrong here is said when it is. Blocks.
    pub(super) fn foresee(&self, key: &TreeKey) {
        let scanned = Arc::clone(lock(&self.foreseen).entry(key.clone()).or_default());
        let mut scanned = lock(&scanned);
        if scanned.is_none() {
            *scanned = self.scan_first(key).ok();
        }
    }

    /// Where the trees are remembered that a component of the lab in this directory asks for.
    pub(super) fn usual(&self, directory: &Path, component: &ComponentName) -> Usual {
        Usual::of(self.cache.as_deref(), directory, component)
    }

    /// What each component has asked for in this run.
    pub(super) fn asked(&self) -> BTreeMap<ComponentName, BTreeSet<TreeKey>> {
        lock(&self.asked).clone()
    }

    /// The tree with this manifest, as it was scanned last.
    pub(super) fn scanned(&self, manifest: Digest) -> Option<SourceTree> {
        self.all_scanned().into_iter().find(|tree| tree.summary().manifest == manifest)
    }

    /// All trees that recipes have asked for, as they were scanned last.
    pub(super) fn all_scanned(&self) -> Vec<SourceTree> {
        self.trees().iter().filter_map(|(_, scanned)| lock(scanned).clone()).collect()
    }

    /// The trees that recipes have asked for: not held, so that each can be waited for while others are added.
    fn trees(&self) -> Vec<(TreeKey, Scanned)> {
        lock(&self.trees).iter().map(|(key, scanned)| (key.clone(), Arc::clone(scanned))).collect()
    }

    /// What is kept of trees that hosts have.
    pub(super) fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    fn scan(&self, TreeKey { source, ignore, xattrs }: &TreeKey) -> Result<SourceTree, ScanError> {
        let index = self.index(source);
        let index = index.as_deref();
        if *xattrs {
            SourceTree::scan_with_xattrs(source, ignore, index)
        } else {
            SourceTree::scan(source, ignore, index)
        }
    }

    /// The file that remembers what was hashed of a tree, when there is a place for it.
    pub(super) fn index(&self, source: &Path) -> Option<PathBuf> {
        self.cache.as_ref().map(|cache| cache.join("scan").join(SourceTree::index_name(source)))
    }

    /// The sources whose place another directory had taken when they were looked at last: built anew, or not mounted.
    pub(super) fn replaced(&self) -> Vec<PathBuf> {
        lock(&self.roots).replaced.clone()
    }

    /// Whether this is the manifest of such a source.
    pub(super) fn is_replaced(&self, manifest: Digest) -> bool {
        let is_of = |scanned: &Scanned| lock(scanned).as_ref().is_some_and(|tree| tree.summary().manifest == manifest);
        let replaced = self.replaced();
        self.trees().iter().any(|(key, scanned)| replaced.contains(&key.source) && is_of(scanned))
    }

    /// Whether a recipe has asked for a tree.
    pub(super) fn has_trees(&self) -> bool {
        !lock(&self.trees).is_empty()
    }

    /// The trees that recipes have asked for.
    pub(super) fn watched(&self) -> Vec<WatchedTree> {
        let watched =
            self.trees().into_iter().map(|(TreeKey { source: path, ignore, .. }, scanned)| match &*lock(&scanned) {
                Some(tree) => WatchedTree { path, ignore: tree.summary().ignore.clone(), files: tree.summary().files },
                None => WatchedTree { path, ignore, files: 0 },
            });
        watched.collect()
    }

    /// Looks again at what has changed; whether any tree is another than before. Blocks.
    ///
    /// Afterwards the sources offer what the trees hold now. A tree that cannot be read counts as another: the recipe
    /// that asks for it next gets the error.
    pub(super) fn refresh(&self, touched: &Touched) -> bool {
        let (mut is_other, mut offered) = (false, lock(&self.contents).emptied());
        lock(&self.roots).replaced.clear();
        for (key, scanned) in self.trees() {
            let mut scanned = lock(&scanned);
            let tree = match (&*scanned, touched.below(&key.source)) {
                (Some(before), Some(paths)) => self.look_again(before, &paths, &key).ok(),
                _ => self.scan(&key).ok(),
            };
            if let Some(tree) = &tree {
                offered.add_tree(tree);
                lock(&self.roots).note(&key.source, tree);
            }
            // Times alone are no change: they are no part of a tree's equality.
            is_other |= match (scanned.as_ref().map(SourceTree::summary), tree.as_ref().map(SourceTree::summary)) {
                (Some(before), Some(now)) => before.root != now.root || before.ignore != now.ignore,
                _ => true,
            };
            *scanned = tree;
        }
        // What the trees held before is not kept; the recipes offer their single files again when they are evaluated.
        *lock(&self.contents) = Arc::new(offered);
        is_other
    }

    fn look_again(&self, before: &SourceTree, changed: &[RelPath], key: &TreeKey) -> Result<SourceTree, ScanError> {
        if changed.is_empty() {
            return Ok(before.clone());
        }
        match before.look_again(changed) {
            Ok(Some(tree)) => Ok(tree),
            // What is wrong, a scan of the whole says best.
            Ok(None) | Err(_) => self.scan(key),
        }
    }

    /// Offers a tree that was scanned elsewhere.
    pub(super) fn offer(&self, tree: &SourceTree) {
        self.add(|contents| contents.add_tree(tree));
    }

    /// Offers a local file; its digest and length in bytes.
    pub(super) fn file(&self, path: &Path) -> io::Result<(Digest, u64)> {
        self.add(|contents| contents.add_file(path))
    }

    /// Offers the embedded launcher; its digest and length in bytes.
    pub(super) fn launcher(&self) -> io::Result<(Digest, u64)> {
        let (digest, content) = if let Some(known) = self.launcher.get() {
            known
        } else {
            let content = launcher().and_then(|program| program.content()).map_err(io::Error::other)?;
            self.launcher.get_or_init(|| (Digest::of(&content), Arc::from(&content[..])))
        };
        self.add(|contents| contents.add_known(*digest, Arc::clone(content)));
        Ok((*digest, content.len() as u64))
    }

    /// Answers a host's demand; blocks.
    pub(super) fn answer(&self, demand: &Demand, out: &mut dyn FnMut(Supply) -> io::Result<()>) -> io::Result<()> {
        // A snapshot, so that a slow host does not keep another host's recipe from adding sources.
        let contents = Arc::clone(&*lock(&self.contents));
        contents.answer(demand, out)
    }

    /// Waits until what was pushed is kept for the next time; blocks.
    pub(super) fn finish_keeping(&self) {
        let contents = Arc::clone(&*lock(&self.contents));
        contents.finish_keeping();
    }

    fn add<T>(&self, add: impl FnOnce(&mut Contents) -> T) -> T {
        // Copied only while a host is being answered from it.
        add(Arc::make_mut(&mut lock(&self.contents)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
