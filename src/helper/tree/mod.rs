//! Makes a directory of this host equal to a tree of the near side: compare, then make what is lacking, then switch.

mod draft;
mod fetch;
mod ground;
mod held;
mod memory;
mod names;
mod put;
mod release;
mod salvage;
mod sink;
mod space;
mod stage;
mod state;
mod switch;
mod work;

use std::{collections::HashSet, path::Path};

use rustix::fs::{Gid, Uid, chown};

pub use self::{
    fetch::fetch_blob,
    held::HeldTrees,
    memory::remembered,
    put::{PutChange, compare_put},
    release::{ReleaseChange, compare_release},
};
use self::{
    fetch::{OldFile, fetch_bytes},
    ground::Ground,
    held::Followed,
    memory::Memory,
    stage::Staging,
    state::{Found, TreeState, owner_fits},
    switch::Switching,
    work::{Comparison, Work, wanted},
};
use crate::{
    helper::failure::{bad_input, io_failure},
    plan::{self, Action, Change, Detail, Diff, FailureKind, HostPath, MaxDelete, OpFailure},
    tree::{
        Care, Digest, Entry, EntryKind, IgnoreRules, Larder, MAX_MANIFEST, Manifest, RelPath, Root, Status, Supplier,
        TreeSummary, printable,
    },
};

/// Most paths that a diff names.
const MAX_PATHS: usize = 200;

/// What a sync needs to know besides its op: names resolved, and where the helper keeps what it remembers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place<'a> {
    /// Numeric owner of everything, the directory itself included. None: owners are left alone, and what is new belongs
    /// to the helper's user.
    pub uid: Option<u32>,
    /// Numeric group of everything; likewise.
    pub gid: Option<u32>,
    /// The helper's own directory for indexes and manifests; nothing is remembered when none.
    pub state: Option<&'a Path>,
    /// Whether that directory may be written to; false in check mode.
    pub remember: bool,
    /// What the session keeps of directories; none in check mode.
    pub held: Option<&'a HeldTrees>,
    /// The path under whose name things are remembered, when it is not that of the directory itself.
    pub remembered_as: Option<&'a HostPath>,
}

/// How a directory differs from a tree, and all that is needed to change it.
#[derive(Debug)]
pub struct TreeChange {
    dest: HostPath,
    uid: Option<u32>,
    gid: Option<u32>,
    /// Mode for the directory when it has to be made.
    root_mode: u32,
    root_owner_differs: bool,
    /// Whether extended attributes are part of the tree.
    xattrs: bool,
    wanted: Vec<Entry>,
    state: TreeState,
    work: Work,
    /// How it goes on from what the session keeps, when it was found without looking at everything.
    followed: Option<Followed>,
    /// Another directory, from which what is the same is taken.
    donor: Option<Donor>,
    /// Where runs that were cut off left something, when that is elsewhere than in the directory.
    left: Option<Left>,
}

/// A file that is made new.
#[derive(Debug, Clone, Copy)]
struct New {
    size: u64,
    digest: Digest,
    has_holes: bool,
}

/// What runs that were cut off left.
#[derive(Debug)]
struct Left {
    root: Root,
    paths: Vec<RelPath>,
}

/// A directory of this host that holds much of what is wanted.
#[derive(Debug)]
struct Donor {
    root: Root,
    found: Vec<Found>,
}

/// Compares a directory with a tree. None when nothing differs. Writes nothing below the directory; asks the supplier
/// for the tree's manifest only when the root hash differs and that manifest is not remembered.
///
/// Compared are paths, kinds, contents, link targets, which names are one file and permission bits of everything below
/// the directory, owner and group where [`Place`] gives them, and extended attributes when the tree has them; times and
/// holes are not. The mode of the directory itself is left alone.
///
/// Errors: `BadInput` when the destination is no directory, holds ignored entries where the tree has a file, the tree
/// is empty and everything would be deleted without a limit, or more would be deleted than the op allows; `Permission`
/// or `Io` when it cannot be read; `Content` when what was supplied
/// is not what was announced.
pub fn compare(
    op: &plan::Sync,
    place: &Place<'_>,
    supplier: &mut dyn Supplier,
) -> Result<Option<TreeChange>, OpFailure> {
    refuse_to_lose_the_host(op, place)?;
    let care = supplier.larder().map_or(Care::Whole, Larder::care);
    if let Some(change) = place.held.zip(supplier.larder()).and_then(|(held, larder)| held.follow(op, place, larder)) {
        return Ok(Some(change).filter(|change| !change.is_idle()));
    }
    let lines: Vec<String> = op.tree.ignore.iter().chain(&op.ignore).cloned().collect();
    let mut rules = IgnoreRules::new(&lines).map_err(|error| bad_input(error.to_string()))?;
    let memory = Memory::of(place.remembered_as.unwrap_or(&op.dest), place.state, place.remember);
    let state = TreeState::scan(&op.dest, &mut rules, &memory, op.tree.xattrs)?;
    let is_whole = state.root.is_some() && state.leftovers.is_empty();
    if is_whole && state.root_hash() == Some(op.tree.root) && state.is_owned_by(place.uid, place.gid) {
        if let Some(held) = place.held {
            held.keep_same(op, place, state, care);
        }
        return Ok(None);
    }
    let manifest = manifest(op, place, &memory, supplier)?;
    let wanted = wanted(&manifest, &rules);
    if wanted.is_empty() && !state.found.is_empty() && op.delete == MaxDelete::Any {
        return Err(empty_source(op));
    }
    let xattrs = op.tree.xattrs;
    let comparison = Comparison { dest: &op.dest, wanted: &wanted, state: &state, place, delete: op.delete, xattrs };
    let work = comparison.work()?;
    let root_owner_differs = state.root.as_ref().is_some_and(|(_, status)| !owner_fits(status, place.uid, place.gid));
    if is_whole && work.is_empty() && !root_owner_differs {
        return Ok(None);
    }
    Ok(Some(TreeChange {
        dest: op.dest.clone(),
        uid: place.uid,
        gid: place.gid,
        root_mode: manifest.root_mode(),
        root_owner_differs,
        xattrs,
        wanted,
        state,
        work,
        followed: None,
        donor: None,
        left: None,
    }))
}

/// Makes a directory equal to a tree, and keeps in memory what came of it if the near side asked for that. Errors:
/// those of [`TreeChange::apply`].
pub fn apply(
    op: &plan::Sync,
    place: &Place<'_>,
    mut change: TreeChange,
    supplier: &mut dyn Supplier,
) -> Result<(), OpFailure> {
    let followed = change.take_followed();
    if followed.is_none()
        && let Some(held) = place.held
    {
        held.forget(op);
    }
    let made = change.make(supplier);
    if let (Ok(made), None) = (&made, &followed) {
        Memory::of(place.remembered_as.unwrap_or(&op.dest), place.state, place.remember).learn(made);
    }
    let done = made.map(drop);
    let Some(held) = place.held else { return done };
    match (&done, followed) {
        (Ok(()), Some(followed)) => held.absorb(op, followed),
        (Ok(()), None) => held.keep_changed(op, place, supplier.larder().map_or(Care::Whole, Larder::care)),
        (Err(_), _) => held.forget(op),
    }
    done
}

/// With deletions, everything that the tree does not have goes: neither the whole host nor the helper's own files must.
fn refuse_to_lose_the_host(op: &plan::Sync, place: &Place<'_>) -> Result<(), OpFailure> {
    let dest = op.dest.as_path();
    let why = if dest.parent().is_none() {
        "it is the whole host"
    } else if place.state.is_some_and(|state| state.starts_with(dest)) {
        "it holds the helper's own files"
    } else {
        return Ok(());
    };
    if op.delete == MaxDelete::Never {
        return Ok(());
    }
    let message = format!("cannot sync to `{}` with deletions: {why}", op.dest);
    Err(bad_input(message).hint("sync without `delete`, or to a directory further down"))
}

/// A source without anything is more often not built, not mounted or the wrong one than meant: it must not empty a host.
fn empty_source(op: &plan::Sync) -> OpFailure {
    let message = format!(
        "cannot sync to `{}`: source tree `{}` is empty, so everything there would be deleted",
        op.dest, op.tree.origin
    );
    let hint = "build or mount the source; if everything is to go, say how much: `delete = {\"max\": 100}`";
    bad_input(message).hint(hint)
}

/// The tree's manifest: remembered, or else fetched and remembered.
fn manifest(
    op: &plan::Sync,
    place: &Place<'_>,
    memory: &Memory,
    supplier: &mut dyn Supplier,
) -> Result<Manifest, OpFailure> {
    let TreeSummary { origin, root, manifest: digest, manifest_size: size, .. } = &op.tree;
    let name = format!("{origin} (manifest)");
    let refuse = |why: &dyn std::fmt::Display| {
        OpFailure::new(FailureKind::Content, format!("cannot use the manifest of `{origin}`: {why}"))
    };
    let mut bytes = memory.manifest();
    if Digest::of(&bytes) != *digest {
        if let Some((manifest, encoded)) = patched(op, place, &bytes, supplier) {
            memory.keep_manifest(&encoded, *digest);
            return Ok(manifest);
        }
        if *size > MAX_MANIFEST as u64 {
            return Err(refuse(&"it is too large"));
        }
        // Most of a tree stays as it was, and so does most of its manifest.
        let old = memory.manifest_file().map(OldFile::new);
        bytes = fetch_bytes(supplier, *digest, *size, old.as_ref(), &name)?;
        memory.keep_manifest(&bytes, *digest);
    }
    let manifest = Manifest::decode(&bytes).map_err(|error| refuse(&error))?;
    if manifest.root() == *root { Ok(manifest) } else { Err(refuse(&"it is that of another tree")) }
}

/// The tree's manifest by the patch that came ahead of the plan, with its encoding. None when there is no patch, or it
/// starts from another manifest than the one remembered here.
fn patched(
    op: &plan::Sync,
    place: &Place<'_>,
    remembered: &[u8],
    supplier: &dyn Supplier,
) -> Option<(Manifest, Vec<u8>)> {
    let tree = &op.tree;
    let patch = supplier.larder()?.patch(&tree.manifest)?;
    let old = if let Some(held) = place.held.and_then(|held| held.manifest(op, patch.base)) {
        held
    } else if patch.base == Digest::of(b"") {
        Manifest::default()
    } else if patch.base == Digest::of(remembered) {
        Manifest::decode(remembered).ok()?
    } else {
        return None;
    };
    let manifest = patch.apply(&old).ok()?;
    let encoded = manifest.encode().ok()?;
    (manifest.root() == tree.root && Digest::of(&encoded) == tree.manifest).then_some((manifest, encoded))
}

impl TreeChange {
    /// Numeric owner and group of everything, where they are asked for.
    pub fn owner(&self) -> (Option<u32>, Option<u32>) {
        (self.uid, self.gid)
    }

    /// The difference for people: one change of the directory with counts and the first paths.
    pub fn diff(&self) -> Diff {
        let Work { stages, attributes, removals, .. } = &self.work;
        let mut paths: Vec<(&RelPath, char)> = Vec::new();
        let mark = |is_there: bool| if is_there { '~' } else { '+' };
        paths.extend(stages.iter().map(|stage| (&self.wanted[stage.entry].path, mark(stage.replaces.is_some()))));
        paths.extend(attributes.iter().map(|index| (&self.wanted[*index].path, '~')));
        let removed = removals.iter().filter(|removal| !removal.is_replaced).map(|removal| &removal.path);
        paths.extend(removed.chain(&self.state.leftovers).map(|path| (path, '-')));
        paths.sort_unstable();
        let count = |wanted: char| paths.iter().filter(|(_, mark)| *mark == wanted).count() as u64;
        let detail = Detail::Tree {
            created: count('+'),
            modified: count('~'),
            removed: count('-'),
            bytes: self.new_files().map(|new| new.size).sum(),
            paths: paths.iter().take(MAX_PATHS).map(|(path, mark)| format!("{mark} {path}")).collect(),
        };
        let action = if self.state.root.is_some() { Action::Modify } else { Action::Create };
        let mut change = Change::new(action, self.dest.as_str()).with(detail);
        if let Some((_, status)) = self.state.root.as_ref().filter(|_| self.root_owner_differs) {
            for (name, before, after) in [("uid", status.uid, self.uid), ("gid", status.gid, self.gid)] {
                if let Some(after) = after.filter(|after| *after != before) {
                    let (before, after) = (Some(before.to_string()), Some(after.to_string()));
                    change = change.with(Detail::Attribute { name: name.to_owned(), before, after });
                }
            }
        }
        Diff::of(change)
    }

    /// Files that are made new.
    fn new_files(&self) -> impl Iterator<Item = New> {
        self.work.stages.iter().filter_map(|stage| {
            let entry = &self.wanted[stage.entry];
            match entry.kind {
                EntryKind::File { size, digest, .. } => Some(New { size, digest, has_holes: entry.has_holes() }),
                _ => None,
            }
        })
    }

    /// What loses its name when everything is switched: the content of files among it can be taken over without a copy.
    fn going(&self) -> HashSet<&RelPath> {
        let replaced = self.work.stages.iter().filter_map(|stage| stage.replaces);
        let replaced = replaced.map(|at| &self.state.found[at].path);
        replaced.chain(self.work.removals.iter().map(|removal| &removal.path)).collect()
    }

    /// Where an entry is, for messages.
    fn path_of(&self, path: &[u8]) -> String {
        format!("{}/{}", self.dest.as_str().trim_end_matches('/'), printable(path))
    }

    /// Makes the directory equal to the tree. Until all content is here and verified, the directory stays as it was;
    /// then each file is switched by a rename, and what is not wanted is deleted. What fails or is killed leaves every
    /// file wholly old or wholly new; the next run makes use of what is left, and sweeps it.
    ///
    /// Errors: `NoSpace` before anything is written when the file system is too full, and later when others fill it;
    /// `ReadOnly`, `Permission` and `Io` naming the path; `Content` when a content is not what was announced;
    /// `BadInput` when another directory has taken the destination's place since the comparison.
    pub fn apply(self, supplier: &mut dyn Supplier) -> Result<(), OpFailure> {
        self.make(supplier).map(drop)
    }

    /// The same; gives what the new files are now.
    fn make(mut self, supplier: &mut dyn Supplier) -> Result<Vec<(Status, Digest)>, OpFailure> {
        self.make_room()?;
        names::try_out(&self)?;
        if self.state.root.is_none() {
            let root = self.create_root()?;
            let status = root.status().map_err(|error| io_failure("read", &self.dest, &error))?;
            self.state.root = Some((root, status));
        }
        let Some((root, status)) = &self.state.root else {
            return Err(OpFailure::new(FailureKind::Internal, format!("`{}` is not open", self.dest)));
        };
        let now = Root::open(self.dest.as_path()).and_then(|root| root.status());
        let now = now.map_err(|error| io_failure("open", &self.dest, &error))?;
        if (now.dev, now.ino) != (status.dev, status.ino) {
            let message = format!("`{}` was replaced by another directory meanwhile", self.dest);
            return Err(bad_input(message).hint("run again when nothing else changes it"));
        }
        let mut switching = Switching::new(&self, Ground::new(root));
        let done = switching
            .prepare()
            .and_then(|()| Staging::new(&self, Ground::new(root)).run(supplier))
            .and_then(|()| switching.sweep())
            .and_then(|()| switching.run())
            .and_then(|()| names::read_back(&self));
        if let Err(failure) = &done {
            switching.clean_up(failure);
        }
        done?;
        Ok(self.made())
    }

    /// New files as they are now. What somebody else has changed or removed meanwhile is left out.
    fn made(&self) -> Vec<(Status, Digest)> {
        let Some((root, _)) = &self.state.root else { return Vec::new() };
        let mut ground = Ground::new(root);
        let files = self.work.stages.iter().filter_map(|stage| {
            let Entry { path, kind: EntryKind::File { size, digest, .. }, mtime, .. } = &self.wanted[stage.entry]
            else {
                return None;
            };
            let status = ground.status(path.as_bytes()).ok()?;
            (status.size == *size && status.mtime == *mtime).then_some((status, *digest))
        });
        files.collect()
    }

    /// Fails when the file system is too full, even without what runs that were cut off left.
    fn make_room(&mut self) -> Result<(), OpFailure> {
        let checked = space::check(self);
        let Some((root, _)) = self.state.root.as_ref().filter(|_| checked.is_err() && !self.state.leftovers.is_empty())
        else {
            return checked;
        };
        let mut ground = Ground::new(root);
        for leftover in std::mem::take(&mut self.state.leftovers) {
            let removed = ground.remove_tree(leftover.as_bytes());
            removed.map_err(|error| io_failure("remove", self.path_of(leftover.as_bytes()), &error))?;
        }
        space::check(self)
    }

    /// Makes the directory, with missing parents.
    fn create_root(&self) -> Result<Root, OpFailure> {
        let path = self.dest.as_path();
        let create = || {
            fs_err::create_dir_all(path)?;
            let (uid, gid) = (self.uid.map(Uid::from_raw), self.gid.map(Gid::from_raw));
            if uid.is_some() || gid.is_some() {
                chown(path, uid, gid)?;
            }
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(self.root_mode);
            fs_err::set_permissions(path, permissions)?;
            Root::open(path)
        };
        create().map_err(|error| io_failure("create", &self.dest, &error))
    }
}
