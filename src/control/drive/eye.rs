//! What the system says of changes in watched trees.

use std::{
    collections::{HashMap, HashSet},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use notify::{
    ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind},
};
use tokio::sync::Notify;

use super::sources::WatchedTree;
use crate::tree::{IgnoreRules, RelPath, is_temporary};

/// A file that has been open for writing longer than this is a log: nobody waits for its end.
const WRITING: Duration = Duration::from_secs(1);
/// Most files that are remembered as being written; more count as written.
const MAX_WRITING: usize = 4096;

/// Most changed paths that are told apart; more, and everything may have changed.
const MAX_TOUCHED: usize = 1024;

/// What may have changed in watched trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Touched {
    /// Anything.
    Everything,
    /// These paths, absolute and without links, and what is below them.
    Paths(HashSet<PathBuf>),
}

impl Default for Touched {
    fn default() -> Self {
        Self::Paths(HashSet::new())
    }
}

impl Touched {
    /// Adds a path.
    fn add(&mut self, path: &Path) {
        if let Self::Paths(paths) = self {
            if paths.len() < MAX_TOUCHED {
                paths.insert(path.to_path_buf());
            } else {
                *self = Self::Everything;
            }
        }
    }

    /// Adds all of another one.
    pub(super) fn join(&mut self, other: Self) {
        match other {
            Self::Everything => *self = Self::Everything,
            Self::Paths(paths) => paths.iter().for_each(|path| self.add(path)),
        }
    }

    /// What changed below a tree's directory; none when anything may have.
    pub(super) fn below(&self, tree: &Path) -> Option<Vec<RelPath>> {
        use std::os::unix::ffi::OsStrExt;
        let Self::Paths(paths) = self else { return None };
        let real = fs_err::canonicalize(tree).ok()?;
        let below = paths.iter().filter_map(|path| path.strip_prefix(&real).ok());
        // The directory itself gives no path: something happened to it as a whole.
        below.map(|path| RelPath::new(path.as_os_str().as_bytes()).ok()).collect()
    }
}

/// Watches directories. What it says is a hint to look; what there is, only a scan tells.
pub(super) struct Eye {
    watcher: Option<RecommendedWatcher>,
    followed: HashMap<PathBuf, Followed>,
    seen: Arc<Seen>,
    is_blind: bool,
}

/// A tree that is watched: the inode that it had and the rules that held when the watches were set.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Followed {
    dev: u64,
    ino: u64,
    ignore: Vec<String>,
}

/// What the thread of the watcher and the run share.
#[derive(Default)]
struct Seen {
    change: Notify,
    events: AtomicU64,
    /// Files that were written to and not closed yet, and since when.
    writing: Mutex<HashMap<PathBuf, Instant>>,
    rules: Mutex<Vec<(PathBuf, IgnoreRules)>>,
    touched: Mutex<Touched>,
    /// Directories that came: what was made in them before they were watched gave no event.
    fresh: Mutex<Touched>,
    /// Directories that came and are not watched yet.
    unwatched: Mutex<Touched>,
    warnings: Mutex<Vec<String>>,
}

impl Eye {
    pub(super) fn new() -> Self {
        Self { watcher: None, followed: HashMap::new(), seen: Arc::default(), is_blind: false }
    }

    /// Watches these trees, and no others; a tree whose directory was replaced is watched anew. Gives warnings that
    /// people should see: after each of them the trees have to be looked at as a whole.
    pub(super) fn follow(&mut self, trees: &[WatchedTree]) -> Vec<String> {
        let mut wanted: HashMap<PathBuf, Followed> = HashMap::new();
        let mut rules = Vec::new();
        for tree in trees {
            // A source that is missing at the moment is found again by a look.
            let Ok(real) = fs_err::canonicalize(&tree.path) else { continue };
            let Ok(status) = fs_err::metadata(&real) else { continue };
            // A pattern that is none was refused by the scan.
            if let Ok(ignore) = IgnoreRules::new(&tree.ignore) {
                rules.push((real.clone(), ignore));
            }
            wanted.insert(real, Followed { dev: status.dev(), ino: status.ino(), ignore: tree.ignore.clone() });
        }
        *lock(&self.seen.rules) = rules;
        if wanted != self.followed && !self.is_blind {
            self.watch(&wanted);
        }
        self.followed = wanted;
        self.catch_up();
        std::mem::take(&mut *lock(&self.seen.warnings))
    }

    /// Watches all directories of these trees that are not ignored, and nothing else.
    fn watch(&mut self, wanted: &HashMap<PathBuf, Followed>) {
        let seen = Arc::clone(&self.seen);
        // With the watcher before, all its watches go.
        self.watcher = None;
        match notify::recommended_watcher(move |event| seen.take(event)) {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => return self.go_blind(&error),
        }
        // All of them are watched from here on.
        *lock(&self.seen.unwatched) = Touched::default();
        if wanted.keys().all(|root| self.watch_below(root)) {
            // What happened before the watch was set gave no event.
            self.seen.note_everything();
        }
    }

    /// Watches directories that came since; what was made in them before gave no event, so they count as changed.
    /// Best right before a look, which then sees all that gave no event.
    pub(super) fn catch_up(&mut self) {
        if self.is_blind {
            return;
        }
        let fresh = std::mem::take(&mut *lock(&self.seen.unwatched));
        let directories: Vec<PathBuf> = match &fresh {
            Touched::Everything => self.followed.keys().cloned().collect(),
            Touched::Paths(paths) => paths.iter().filter(|path| path.is_dir()).cloned().collect(),
        };
        if !directories.is_empty() && directories.iter().all(|directory| self.watch_below(directory)) {
            lock(&self.seen.touched).join(fresh);
            self.seen.note();
        }
    }

    /// Watches a directory and all below it that is not ignored; false when the system has no more watches.
    fn watch_below(&mut self, start: &Path) -> bool {
        let mut waiting = vec![start.to_path_buf()];
        while let Some(directory) = waiting.pop() {
            let Some(watcher) = &mut self.watcher else { return false };
            match watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => {}
                // It vanished meanwhile; a look finds it again.
                Err(error) if is_vanished(&error) => continue,
                Err(error) => {
                    self.go_blind(&error);
                    return false;
                }
            }
            // Listed after it is watched: what comes later gives an event. What cannot be listed, the scan refuses.
            let entries = fs_err::read_dir(&directory).into_iter().flatten().flatten();
            let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            waiting.extend(directories.map(|entry| entry.path()).filter(|path| !self.seen.is_ignored(path)));
        }
        true
    }

    fn go_blind(&mut self, error: &notify::Error) {
        self.is_blind = true;
        self.watcher = None;
        lock(&self.seen.warnings).push(format!("{}; looking every second instead", explained(error)));
        self.seen.change.notify_one();
    }

    /// Whether the system gives no events, so that one has to look again and again.
    pub(super) fn is_blind(&self) -> bool {
        self.is_blind
    }

    /// Comes back when something has happened since it last came back.
    pub(super) async fn change(&self) {
        self.seen.change.notified().await;
    }

    /// What has changed since this was asked last.
    pub(super) fn touched(&self) -> Touched {
        std::mem::take(&mut *lock(&self.seen.touched))
    }

    /// Directories that came since this was asked last, to be looked at again when they are surely watched.
    pub(super) fn fresh(&self) -> Touched {
        std::mem::take(&mut *lock(&self.seen.fresh))
    }

    /// How many events there were so far.
    pub(super) fn seen(&self) -> u64 {
        self.seen.events.load(Ordering::Relaxed)
    }

    /// Whether a file was begun shortly ago and not closed yet.
    pub(super) fn is_being_written(&self) -> bool {
        lock(&self.seen.writing).values().any(|since| since.elapsed() < WRITING)
    }
}

impl Seen {
    fn note_everything(&self) {
        *lock(&self.touched) = Touched::Everything;
        self.note();
    }

    fn note(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
        self.change.notify_one();
    }

    /// Takes an event, on the watcher's own thread.
    fn take(&self, event: notify::Result<Event>) {
        let event = match event {
            Ok(event) if event.need_rescan() => {
                let text = "more changed at once than the system can report (sysctl fs.inotify.max_queued_events): \
                            everything is compared again";
                lock(&self.warnings).push(text.to_owned());
                lock(&self.writing).clear();
                // Directories may have come of which nothing was said.
                *lock(&self.unwatched) = Touched::Everything;
                return self.note_everything();
            }
            Ok(event) => event,
            Err(error) => {
                lock(&self.warnings).push(format!("{}: changes may be noticed late", explained(&error)));
                return self.note_everything();
            }
        };
        let is_closed = event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write));
        // Reading is no change, and scans of our own read.
        if matches!(event.kind, EventKind::Access(_)) && !is_closed {
            return;
        }
        let mut paths = event.paths.iter().filter(|path| !self.is_ignored(path)).peekable();
        if paths.peek().is_none() {
            return;
        }
        let comes = matches!(event.kind, EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(_)));
        let mut writing = lock(&self.writing);
        for path in paths {
            lock(&self.touched).add(path);
            if comes && path.is_dir() {
                lock(&self.fresh).add(path);
                lock(&self.unwatched).add(path);
            }
            match event.kind {
                EventKind::Modify(ModifyKind::Data(_)) => remember(&mut writing, path),
                // A name made by a link is complete from the beginning.
                EventKind::Create(CreateKind::File) if names_of(path) == 1 => remember(&mut writing, path),
                _ => {
                    writing.remove(path);
                }
            }
        }
        drop(writing);
        self.note();
    }

    /// Whether no look is needed for a change of this path: every tree that it is in ignores it.
    fn is_ignored(&self, path: &Path) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let rules = lock(&self.rules);
        let mut trees =
            rules.iter().filter_map(|(root, rules)| Some((path.strip_prefix(root).ok()?, rules))).peekable();
        trees.peek().is_some()
            && trees.all(|(relative, rules)| match RelPath::new(relative.as_os_str().as_bytes()) {
                Ok(relative) => {
                    is_temporary(relative.name())
                        || rules.decision(&relative, path.is_dir()).is_some_and(|d| d.is_ignored)
                }
                Err(_) => false,
            })
    }
}

fn remember(writing: &mut HashMap<PathBuf, Instant>, path: &Path) {
    if writing.len() < MAX_WRITING && !writing.contains_key(path) {
        writing.insert(path.to_path_buf(), Instant::now());
    }
}

fn names_of(path: &Path) -> u64 {
    fs_err::symlink_metadata(path).map_or(0, |status| status.nlink())
}

fn is_vanished(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::PathNotFound | ErrorKind::WatchNotFound => true,
        ErrorKind::Io(error) => error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

fn explained(error: &notify::Error) -> String {
    match error.kind {
        ErrorKind::MaxFilesWatch => {
            "the system's limit of watched directories is reached (sysctl fs.inotify.max_user_watches)".to_owned()
        }
        _ => format!("changes cannot be watched: {error}"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
