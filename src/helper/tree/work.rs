//! What has to be done to make a directory equal to a manifest.

use std::collections::{HashMap, HashSet};

use super::{
    Place,
    ground::{temporary_beside, temporary_for},
    names::{self, Alike},
    state::{Found, TreeState, owner_fits},
};
use crate::{
    helper::failure::bad_input,
    plan::{HostPath, MaxDelete, OpFailure},
    tree::{Entry, EntryKind, IgnoreRules, Manifest, RelPath, shown},
};

/// How a directory differs from what is wanted. Indexes refer to the wanted entries and to what was found.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// What is made new, in the order of paths.
    pub(super) stages: Vec<Stage>,
    /// Wanted entries that are there with other attributes.
    pub(super) attributes: Vec<usize>,
    /// What goes, deepest first.
    pub(super) removals: Vec<Removal>,
    /// Pairs of wanted names that the file system may take for one: to be tried out before anything is made.
    pub(super) alike: Vec<Alike>,
}

/// An entry that is made under another name and then takes its place.
#[derive(Debug)]
pub(super) struct Stage {
    /// Which wanted entry.
    pub(super) entry: usize,
    /// Where it is made.
    pub(super) at: Vec<u8>,
    /// How it takes its place.
    pub(super) switch: Switch,
    /// What is there now.
    pub(super) replaces: Option<usize>,
}

/// How a staged entry takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Switch {
    /// With the new directory that it is made in.
    WithDirectory,
    /// By a rename over nothing, a file or a link.
    Rename,
    /// By swapping names with what is there, because one of the two is a directory.
    Exchange,
}

/// An entry that goes.
#[derive(Debug)]
pub(super) struct Removal {
    /// Where it was found.
    pub(super) path: RelPath,
    /// Where it is when it is removed.
    pub(super) at: Vec<u8>,
    /// Whether it is a directory.
    pub(super) is_directory: bool,
    /// Whether a wanted entry takes its place.
    pub(super) is_replaced: bool,
}

impl Work {
    /// Whether nothing has to be done.
    pub(super) fn is_empty(&self) -> bool {
        self.stages.is_empty() && self.attributes.is_empty() && self.removals.is_empty()
    }
}

/// The wanted entries: all of the manifest but what is ignored on this host.
pub(super) fn wanted(manifest: &Manifest, rules: &IgnoreRules) -> Vec<Entry> {
    let mut ignored: Option<&RelPath> = None;
    let mut wanted = Vec::with_capacity(manifest.entries().len());
    for entry in manifest.entries() {
        if ignored.is_some_and(|directory| entry.path.is_below(directory.as_bytes())) {
            continue;
        }
        if rules.ignores(&entry.path, matches!(entry.kind, EntryKind::Dir { .. })) {
            ignored = Some(&entry.path);
        } else {
            wanted.push(entry.clone());
        }
    }
    if wanted.len() < manifest.entries().len() {
        give_names_files(manifest, &mut wanted);
    }
    wanted
}

/// The first of a file's names that stay becomes the file when its first name of all does not.
fn give_names_files(manifest: &Manifest, wanted: &mut [Entry]) {
    let stays: HashSet<RelPath> = wanted.iter().map(|entry| entry.path.clone()).collect();
    let mut instead: HashMap<RelPath, RelPath> = HashMap::new();
    for entry in wanted {
        let EntryKind::HardLink { to } = &entry.kind else { continue };
        if stays.contains(to) {
            continue;
        }
        if let Some(first) = instead.get(to) {
            entry.kind = EntryKind::HardLink { to: first.clone() };
        } else if let Some(file) = manifest.get(to) {
            instead.insert(to.clone(), entry.path.clone());
            (entry.kind, entry.extra) = (file.kind.clone(), file.extra.clone());
        }
    }
}

/// Compares what was found with what is wanted.
pub(super) struct Comparison<'a> {
    pub(super) dest: &'a HostPath,
    pub(super) wanted: &'a [Entry],
    pub(super) state: &'a TreeState,
    pub(super) place: &'a Place<'a>,
    pub(super) delete: MaxDelete,
    /// Whether extended attributes are compared.
    pub(super) xattrs: bool,
}

impl Comparison<'_> {
    /// What has to be done. An error when that is not allowed: more would be deleted than `delete` says, or something
    /// ignored is in the way.
    pub(super) fn work(&self) -> Result<Work, OpFailure> {
        let mut work = Work::default();
        let at_path: HashMap<&RelPath, usize> =
            self.state.found.iter().enumerate().map(|(at, found)| (&found.path, at)).collect();
        let mut new_directory: Option<(&RelPath, Vec<u8>)> = None;
        // Files that are made new: their further names have to follow.
        let mut new_files: HashSet<&RelPath> = HashSet::new();
        for (index, entry) in self.wanted.iter().enumerate() {
            if let Some((directory, at)) = &new_directory
                && entry.path.is_below(directory.as_bytes())
            {
                let below = &entry.path.as_bytes()[directory.as_bytes().len()..];
                let at = [at.as_slice(), below].concat();
                new_files.insert(&entry.path);
                work.stages.push(Stage { entry: index, at, switch: Switch::WithDirectory, replaces: None });
                continue;
            }
            let replaces = at_path.get(&entry.path).copied();
            let found = replaces.map(|at| &self.state.found[at]);
            let leads_to_new = matches!(&entry.kind, EntryKind::HardLink { to } if new_files.contains(to));
            if let Some(found) = found.filter(|found| !leads_to_new && is_same_content(entry, found)) {
                if !self.attributes_fit(entry, found) {
                    work.attributes.push(index);
                }
                continue;
            }
            let is_directory = matches!(entry.kind, EntryKind::Dir { .. });
            let swaps = found.is_some_and(|found| is_directory || found.is_directory());
            let switch = if swaps { Switch::Exchange } else { Switch::Rename };
            let at = match &entry.kind {
                EntryKind::File { digest, .. } => temporary_for(entry.path.as_bytes(), digest),
                _ => temporary_beside(entry.path.as_bytes()),
            };
            if let Some(found) = found.filter(|_| swaps) {
                self.replace(found, &at, &mut work)?;
            }
            if is_directory {
                new_directory = Some((&entry.path, at.clone()));
            } else {
                new_files.insert(&entry.path);
            }
            work.stages.push(Stage { entry: index, at, switch, replaces });
        }
        if self.delete != MaxDelete::Never {
            self.remove_the_rest(&mut work);
        }
        self.check_deletes(&work)?;
        // A directory comes before what is below it, so the other way round everything is empty when its turn comes.
        work.removals.sort_by(|a, b| b.path.cmp(&a.path));
        work.alike = names::look(self.dest, self.wanted, self.state, &work)?;
        Ok(work)
    }

    fn attributes_fit(&self, entry: &Entry, found: &Found) -> bool {
        let mode_fits = match &entry.kind {
            EntryKind::File { mode, .. } | EntryKind::Dir { mode } => *mode == found.status.mode,
            EntryKind::Symlink { .. } => true,
            // Those of its file.
            EntryKind::HardLink { .. } => return true,
        };
        let xattrs_fit = !self.xattrs || entry.xattrs() == found.xattrs();
        mode_fits && xattrs_fit && owner_fits(&found.status, self.place.uid, self.place.gid)
    }

    /// Takes note of what goes when a directory and something else swap places.
    fn replace(&self, found: &Found, at: &[u8], work: &mut Work) -> Result<(), OpFailure> {
        let path = self.dest.as_path().join(found.path.as_path());
        let path = shown(&path);
        if self.delete == MaxDelete::Never {
            let (old, new) =
                if found.is_directory() { ("directory", "file or link") } else { ("file or link", "directory") };
            let message = format!("`{path}` is a {old} and should become a {new}, but nothing may be deleted");
            return Err(bad_input(message).hint("allow it with `delete = True`, or remove it by hand"));
        }
        if self.state.holding_ignored.contains(&found.path) {
            let message = format!("`{path}` should no longer be a directory, but it holds something that is ignored");
            return Err(bad_input(message).hint("remove it by hand, or change the ignore patterns"));
        }
        let old = found.path.as_bytes();
        work.removals.push(Removal {
            path: found.path.clone(),
            at: at.to_vec(),
            is_directory: found.is_directory(),
            is_replaced: true,
        });
        let below = self.state.found.iter().filter(|other| other.path.is_below(old));
        work.removals.extend(below.map(|other| Removal {
            path: other.path.clone(),
            at: [at, &other.path.as_bytes()[old.len()..]].concat(),
            is_directory: other.is_directory(),
            is_replaced: false,
        }));
        Ok(())
    }

    fn remove_the_rest(&self, work: &mut Work) {
        let mut stays: HashSet<&RelPath> = self.wanted.iter().map(|entry| &entry.path).collect();
        let replaced: Vec<RelPath> = work.removals.iter().map(|removal| removal.path.clone()).collect();
        stays.extend(&replaced);
        for found in &self.state.found {
            let holds_ignored = found.is_directory() && self.state.holding_ignored.contains(&found.path);
            if !stays.contains(&found.path) && !holds_ignored {
                work.removals.push(Removal {
                    path: found.path.clone(),
                    at: found.path.as_bytes().to_vec(),
                    is_directory: found.is_directory(),
                    is_replaced: false,
                });
            }
        }
    }

    fn check_deletes(&self, work: &Work) -> Result<(), OpFailure> {
        let count = work.removals.len() as u64;
        match self.delete {
            MaxDelete::AtMost(limit) if count > limit => {
                let first = work.removals.iter().take(3).map(|removal| format!("`{}`", removal.path));
                let first = first.collect::<Vec<_>>().join(", ");
                let message = format!(
                    "would delete {count} entries below `{}` ({first} ...), but at most {limit} may go",
                    self.dest
                );
                Err(bad_input(message).hint("check the source, then raise the limit or pass `delete = True`"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether kind and content are as wanted; attributes may differ.
fn is_same_content(entry: &Entry, found: &Found) -> bool {
    match (&entry.kind, &found.kind) {
        (EntryKind::Dir { .. }, Some(EntryKind::Dir { .. })) => true,
        (EntryKind::Symlink { target }, Some(EntryKind::Symlink { target: old })) => target == old,
        (EntryKind::File { size, digest, .. }, Some(EntryKind::File { size: old_size, digest: old, .. })) => {
            size == old_size && digest == old
        }
        (EntryKind::HardLink { to }, Some(EntryKind::HardLink { to: old })) => to == old,
        _ => false,
    }
}
