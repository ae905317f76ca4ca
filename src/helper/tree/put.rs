//! Puts a file or directory into place, as cp(1) does: what else is there stays, and is not looked at.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, RawDir, flock},
    io::Errno,
    process::geteuid,
};

use super::{
    MAX_PATHS, Place, TreeChange,
    ground::Ground,
    memory::Memory,
    state::{TreeState, identify, walk_failure},
    work::{Comparison, Work},
};
use crate::{
    helper::failure::{OrFail, bad_input, io_failure},
    plan::{self, Detail, Diff, FailureKind, HostPath, Landing, MaxDelete, OfferKind, OpFailure, Put},
    tree::{
        Entry, EntryKind, Extra, Index, Manifest, RelPath, Root, Status, Supplier, Time, is_temporary, look_at,
        status_at, unix_now,
    },
};

/// Permission bits without set-user-id, set-group-id and sticky.
const PLAIN_BITS: u32 = 0o777;
/// Permission bits of a directory that is only made to hold a copy.
const HOLDER_MODE: u32 = 0o755;

/// How often, and after which pause, a run asks again that another one stops looking for leftovers.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Where a copy goes.
#[derive(Debug)]
struct Spot {
    /// The directory that changes.
    directory: HostPath,
    /// Whether it is there.
    exists: bool,
    /// The name in it; none when a directory's contents go right into it.
    name: Option<RelPath>,
}

/// Compares what is offered with what is in its place. None when nothing differs. Looks at the paths that are offered
/// and at no others, but for what cut runs of this user left beside them; writes nothing.
///
/// Errors: `BadInput` when the directory to hold it is missing, or a directory and something else would have to change
/// places, because nothing is ever removed; `Content` when the manifest is not what was announced, or not of one file;
/// those of the file system.
pub fn compare_put(put: &Put, supplier: &mut dyn Supplier) -> Result<Option<PutChange>, OpFailure> {
    let spot = Spot::of(put)?;
    let sync = plan::Sync {
        dest: spot.directory.clone(),
        tree: put.tree.clone(),
        owner: None,
        group: None,
        delete: MaxDelete::Never,
        ignore: Vec::new(),
        release: None,
    };
    let place = Place::default();
    let manifest = super::manifest(&sync, &place, &Memory::default(), supplier)?;
    refuse_other_counts(put, &manifest)?;
    let wanted = wanted(put, &manifest, spot.name.as_ref())?;
    let mut state = if spot.exists { look(&spot.directory, &wanted)? } else { TreeState::default() };
    state.leftovers = leftovers(&state);
    let comparison = Comparison {
        dest: &spot.directory,
        wanted: &wanted,
        state: &state,
        place: &place,
        delete: sync.delete,
        xattrs: false,
    };
    let work = comparison.work().map_err(without_delete_hint)?;
    let is_all_there = spot.exists && work.is_empty() && state.leftovers.is_empty();
    let times = times(&wanted, &state, &work);
    if is_all_there && times.is_empty() {
        return Ok(None);
    }
    let change = TreeChange {
        dest: spot.directory,
        uid: None,
        gid: None,
        root_mode: HOLDER_MODE,
        root_owner_differs: false,
        xattrs: false,
        wanted,
        state,
        work,
        followed: None,
        donor: None,
        left: None,
    };
    Ok(Some(PutChange { change, is_all_there, times }))
}

/// How what is in the place of a copy differs from it, and all that is needed to change it.
#[derive(Debug)]
pub struct PutChange {
    change: TreeChange,
    /// Whether times are all that differs.
    is_all_there: bool,
    /// What stays as it is but for its time.
    times: Vec<(RelPath, Time)>,
}

impl PutChange {
    /// The difference for people; see [`TreeChange::diff`]. What has another time is modified.
    pub fn diff(&self) -> Diff {
        let mut diff = self.change.diff();
        for detail in diff.changes.iter_mut().flat_map(|change| &mut change.details) {
            if let Detail::Tree { modified, paths, .. } = detail {
                *modified += self.times.len() as u64;
                let room = MAX_PATHS.saturating_sub(paths.len());
                paths.extend(self.times.iter().take(room).map(|(path, _)| format!("~ {path}")));
            }
        }
        diff
    }

    /// Puts the copy into place, and gives what was there already the copy's times. Errors: those of
    /// [`TreeChange::apply`].
    pub fn apply(self, supplier: &mut dyn Supplier) -> Result<(), OpFailure> {
        let dest = self.change.dest.clone();
        if !self.is_all_there {
            self.change.apply(supplier)?;
        }
        let root = Root::open(dest.as_path()).or_fail("open", &dest)?;
        let mut ground = Ground::new(&root);
        for (path, time) in &self.times {
            let set = ground.set_time(path.as_bytes(), *time);
            set.map_err(|error| io_failure("set the time of", format!("{dest}/{path}"), &error))?;
        }
        Ok(())
    }
}

/// What is in place, has another time, and is this user's, who alone may change that.
fn times(wanted: &[Entry], state: &TreeState, work: &Work) -> Vec<(RelPath, Time)> {
    let made: HashSet<usize> = work.stages.iter().map(|stage| stage.entry).collect();
    let found: HashMap<&RelPath, &Status> = state.found.iter().map(|found| (&found.path, &found.status)).collect();
    let user = geteuid();
    let differs = |(index, entry): (usize, &Entry)| {
        let status = found.get(&entry.path).filter(|_| !made.contains(&index))?;
        let (then, now) = (entry.mtime, status.mtime);
        // Some file systems keep whole seconds only.
        let is_same = then.secs == now.secs && (then.nanos == now.nanos || now.nanos == 0);
        let may = user.is_root() || status.uid == user.as_raw();
        (!is_same && may).then(|| (entry.path.clone(), then))
    };
    wanted.iter().enumerate().filter_map(differs).collect()
}

impl Spot {
    fn of(put: &Put) -> Result<Self, OpFailure> {
        let dest = put.dest.as_path();
        let is_directory = match fs_err::metadata(dest) {
            Ok(found) => Some(found.is_dir()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => None,
            Err(error) => return Err(io_failure("look at", &put.dest, &error)),
        };
        let is_made = matches!(put.kind, OfferKind::Directory { .. });
        match (is_directory, put.landing) {
            (Some(true), _) => Self::inside(put, true),
            (None, Landing::InsideNew) => Self::inside(put, false),
            (Some(false), Landing::Inside | Landing::InsideNew) => {
                Err(bad_input(format!("`{}` is not a directory", put.dest)).hint("name the directory to copy into"))
            }
            (None, Landing::Inside) if !is_made => Err(bad_input(format!("directory `{}` does not exist", put.dest))
                .hint("make it first with `mkdir -p`, or leave out the `/` at the end")),
            (Some(false) | None, _) => Self::under_its_own_name(dest),
        }
    }

    fn inside(put: &Put, exists: bool) -> Result<Self, OpFailure> {
        let name = match &put.name {
            None if put.kind == OfferKind::File => {
                return Err(bad_input("a file without a name cannot be copied into a directory"));
            }
            None => None,
            Some(name) => {
                Some(RelPath::new(name.clone()).ok().filter(|name| name.parent().is_empty()).ok_or_else(|| {
                    bad_input("the name of the copy is not a plain name").hint("name the destination in full")
                })?)
            }
        };
        Ok(Self { directory: put.dest.clone(), exists, name })
    }

    fn under_its_own_name(dest: &Path) -> Result<Self, OpFailure> {
        let refuse = || bad_input(format!("`{}` cannot be replaced", dest.display())).hint("name something in it");
        let (Some(parent), Some(name)) = (dest.parent(), dest.file_name()) else { return Err(refuse()) };
        match fs_err::metadata(parent) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                return Err(bad_input(format!("`{}` is not a directory", parent.display()))
                    .hint("name another place to copy to"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(bad_input(format!("directory `{}` does not exist", parent.display()))
                    .hint(format!("make it first: mkdir -p {}", parent.display())));
            }
            Err(error) => return Err(io_failure("look at", parent.display(), &error)),
        }
        let directory = parent.to_str().and_then(|parent| parent.parse().ok()).ok_or_else(refuse)?;
        let name = RelPath::new(name.as_encoded_bytes()).map_err(|_| refuse())?;
        Ok(Self { directory, exists: true, name: Some(name) })
    }
}

/// People are told the counts before anything is fetched; they must not be told anything else than what comes.
fn refuse_other_counts(put: &Put, manifest: &Manifest) -> Result<(), OpFailure> {
    let sizes = manifest.entries().iter().filter_map(|entry| match entry.kind {
        EntryKind::File { size, .. } => Some(size),
        _ => None,
    });
    let (files, bytes) = sizes.fold((0, 0_u64), |(files, bytes), size| (files + 1, bytes.saturating_add(size)));
    if (files, bytes) == (put.tree.files, put.tree.bytes) {
        return Ok(());
    }
    Err(refusal(put, "it holds other counts than were announced"))
}

fn refusal(put: &Put, why: &str) -> OpFailure {
    let message = format!("cannot use the manifest of `{}`: {why}", put.tree.origin);
    OpFailure::new(FailureKind::Content, message).hint("do not trust that host")
}

/// The entries as they will be below the directory that changes.
fn wanted(put: &Put, manifest: &Manifest, name: Option<&RelPath>) -> Result<Vec<Entry>, OpFailure> {
    let bits = if put.special_bits { 0o7777 } else { PLAIN_BITS };
    let mut wanted = Vec::with_capacity(manifest.entries().len() + 1);
    match (put.kind, name) {
        (OfferKind::File, Some(name)) => match manifest.entries() {
            [entry] if matches!(entry.kind, EntryKind::File { .. }) => {
                wanted.push(Entry { path: name.clone(), ..entry.clone() });
            }
            _ => return Err(refusal(put, "it is not that of one file")),
        },
        (OfferKind::File, None) => return Err(refusal(put, "the file has no name")),
        (OfferKind::Directory { .. }, None) => wanted.extend(manifest.entries().iter().cloned()),
        (OfferKind::Directory { mtime }, Some(name)) => {
            if mtime.nanos >= 1_000_000_000 {
                return Err(refusal(put, "its time is impossible"));
            }
            let prefixed = |path: &RelPath| {
                RelPath::join(name.as_bytes(), path.as_bytes()).map_err(|error| {
                    bad_input(format!("cannot copy `{path}` to `{}/{name}`: {error}", put.dest))
                        .hint("copy to a shorter path")
                })
            };
            wanted.push(Entry::plain(name.clone(), EntryKind::Dir { mode: manifest.root_mode() }, mtime));
            for entry in manifest.entries() {
                let mut entry = Entry { path: prefixed(&entry.path)?, ..entry.clone() };
                if let EntryKind::HardLink { to } = &mut entry.kind {
                    *to = prefixed(to)?;
                }
                wanted.push(entry);
            }
        }
    }
    for entry in &mut wanted {
        if let EntryKind::File { mode, .. } | EntryKind::Dir { mode } = &mut entry.kind {
            *mode &= bits;
        }
        entry.extra = Extra::of(entry.has_holes(), Vec::new());
    }
    Ok(wanted)
}

/// What is at the wanted paths now.
fn look(directory: &HostPath, wanted: &[Entry]) -> Result<TreeState, OpFailure> {
    let root = Root::open(directory.as_path()).or_fail("open", directory)?;
    let nodes = look_at(&root, wanted.iter().map(|entry| &entry.path)).map_err(|error| walk_failure(&error))?;
    let found = identify(&root, nodes, &Index::default(), &mut Index::default(), unix_now());
    let status = root.status().or_fail("read", directory)?;
    Ok(TreeState { root: Some((root, status)), found, ..TreeState::default() })
}

/// What cut runs of this user left in the directories that a copy goes to: to be made use of, and swept. What cannot be
/// listed is not swept.
///
/// What is unfinished may also be that of a run which is at work now. Each keeps a shared lock on the directory that it
/// changes, and only who could have it alone looks for leftovers.
fn leftovers(state: &TreeState) -> Vec<RelPath> {
    let Some((root, _)) = &state.root else { return Vec::new() };
    let is_alone = flock(root, FlockOperation::NonBlockingLockExclusive).is_ok();
    let leftovers = if is_alone { list_leftovers(root, state) } else { Vec::new() };
    for _ in 0..LOCK_TRIES {
        match flock(root, FlockOperation::NonBlockingLockShared) {
            // Another run looks for leftovers this moment.
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            // A file system without locks leaves nothing to wait for.
            Ok(()) | Err(_) => break,
        }
    }
    leftovers
}

fn list_leftovers(root: &Root, state: &TreeState) -> Vec<RelPath> {
    let below = state.found.iter().filter(|found| found.is_directory()).map(|found| found.path.as_bytes());
    let mut leftovers = Vec::new();
    let mut buffer = Vec::with_capacity(32 * 1024);
    for directory in std::iter::once(&b""[..]).chain(below) {
        let Ok(fd) = root.open_directory(directory) else { continue };
        let mut entries = RawDir::new(&fd, buffer.spare_capacity_mut());
        while let Some(Ok(entry)) = entries.next() {
            let name = entry.file_name().to_bytes();
            let is_ours = || status_at(&fd, name).is_ok_and(|status| status.uid == geteuid().as_raw());
            if is_temporary(name)
                && is_ours()
                && let Ok(path) = RelPath::join(directory, name)
            {
                leftovers.push(path);
            }
        }
    }
    leftovers
}

/// A copy never deletes, so what is in the way is a matter for people.
fn without_delete_hint(failure: OpFailure) -> OpFailure {
    if failure.hint.as_ref().is_some_and(|hint| hint.contains("delete")) {
        failure.hint("remove what is in the way by hand, or copy to another place")
    } else {
        failure
    }
}
