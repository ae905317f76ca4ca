//! Puts what was made in its place: renames first, then deletions, attributes of directories last.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use rustix::{
    fs::{Gid, Uid, fchown},
    process::geteuid,
};

use super::{TreeChange, ground::Ground, work::Switch};
use crate::{
    helper::failure::io_failure,
    plan::{FailureKind, OpFailure},
    tree::{Entry, EntryKind, RelPath},
};

/// So many bytes of contents are worth being found by the next run.
const KEPT_FROM: u64 = 1024 * 1024;

/// Switches a directory over to what was staged.
pub(super) struct Switching<'a> {
    change: &'a TreeChange,
    ground: Ground<'a>,
    /// How many stages have been dealt with; what comes after them is still under its own name.
    switched: usize,
    /// Directories that had to be made writable, with the mode they had.
    opened: BTreeMap<Vec<u8>, u32>,
}

impl<'a> Switching<'a> {
    pub(super) fn new(change: &'a TreeChange, ground: Ground<'a>) -> Self {
        Self { change, ground, switched: 0, opened: BTreeMap::new() }
    }

    /// Makes directories writable in which something has to be changed. Only their owner can do that and only an ordinary
    /// user needs it.
    pub(super) fn prepare(&mut self) -> Result<(), OpFailure> {
        let change = self.change;
        let euid = geteuid();
        for found in change.state.found.iter().filter(|found| found.is_directory() && !euid.is_root()) {
            let (path, status) = (found.path.as_bytes(), &found.status);
            let is_needed = status.uid == euid.as_raw() && status.mode & 0o300 != 0o300;
            if is_needed && self.touched().contains(path) {
                let opened = self.ground.set_mode(path, status.mode | 0o700);
                opened.map_err(|error| self.failure("make writable", path, &error))?;
                self.opened.insert(path.to_vec(), status.mode);
            }
        }
        Ok(())
    }

    /// Removes what runs that were cut off left: whatever was of use in it has another name now.
    pub(super) fn sweep(&mut self) -> Result<(), OpFailure> {
        for leftover in &self.change.state.leftovers {
            let removed = self.ground.remove_tree(leftover.as_bytes());
            removed.map_err(|error| self.failure("remove", leftover.as_bytes(), &error))?;
        }
        Ok(())
    }

    /// Existing directories in which names come or go.
    fn touched(&self) -> BTreeSet<&'a [u8]> {
        let (change, work) = (self.change, &self.change.work);
        let stages = work.stages.iter().filter(|stage| stage.switch != Switch::WithDirectory);
        let stages = stages.map(|stage| change.wanted[stage.entry].path.parent());
        let removals = work.removals.iter().map(|removal| removal.path.parent());
        let leftovers = change.state.leftovers.iter().map(RelPath::parent);
        stages.chain(removals).chain(leftovers).filter(|path| !path.is_empty()).collect()
    }

    fn failure(&self, doing: &str, path: &[u8], error: &io::Error) -> OpFailure {
        io_failure(doing, self.change.path_of(path), error)
    }

    /// Switches. After an error every file is still wholly old or wholly new.
    pub(super) fn run(&mut self) -> Result<(), OpFailure> {
        let change = self.change;
        self.prepare_linked()?;
        for stage in &change.work.stages {
            let path = change.wanted[stage.entry].path.as_bytes();
            let switched = match stage.switch {
                Switch::WithDirectory => Ok(()),
                Switch::Rename if matches!(change.wanted[stage.entry].kind, EntryKind::HardLink { .. }) => {
                    self.rename_link(&stage.at, path)
                }
                Switch::Rename => self.ground.rename(&stage.at, path),
                Switch::Exchange => self.ground.exchange(&stage.at, path),
            };
            switched.map_err(|error| self.failure("replace", path, &error))?;
            self.switched += 1;
        }
        self.delete()?;
        self.set_attributes()
    }

    /// A file that gets more names is given their attributes first, so that no new name ever shows others. One that has
    /// other names already keeps what goes with those until they are dealt with.
    fn prepare_linked(&mut self) -> Result<(), OpFailure> {
        let change = self.change;
        let stages = change.work.stages.iter().map(|stage| &change.wanted[stage.entry].kind);
        let linked = |kind: &'a EntryKind| if let EntryKind::HardLink { to } = kind { Some(to) } else { None };
        let linked: BTreeSet<&RelPath> = stages.filter_map(linked).collect();
        for entry in change.work.attributes.iter().map(|index| &change.wanted[*index]) {
            let found = &change.state.found;
            let at = found.binary_search_by(|found| found.path.cmp(&entry.path));
            if linked.contains(&entry.path) && at.is_ok_and(|at| found[at].status.is_only_name) {
                let given = self.give_attributes(entry);
                given.map_err(|error| self.failure("set the attributes of", entry.path.as_bytes(), &error))?;
            }
        }
        Ok(())
    }

    /// Owner, extended attributes and mode of what is there with others.
    fn give_attributes(&mut self, entry: &Entry) -> io::Result<()> {
        let (change, path) = (self.change, entry.path.as_bytes());
        if change.uid.is_some() || change.gid.is_some() {
            self.ground.set_owner(path, change.uid, change.gid)?;
        }
        if let EntryKind::File { mode, .. } | EntryKind::Dir { mode } = entry.kind {
            if change.xattrs {
                self.ground.set_xattrs(path, mode, entry.xattrs())?;
            }
            self.ground.set_mode(path, mode)?;
        }
        Ok(())
    }

    /// Renames. Two names of one file stay both when one is renamed to the other, so the unfinished one has to be removed.
    fn rename_link(&mut self, at: &[u8], path: &[u8]) -> io::Result<()> {
        self.ground.rename(at, path)?;
        match self.ground.status(at) {
            Ok(_) => self.ground.remove(at, false),
            Err(_) => Ok(()),
        }
    }

    fn delete(&mut self) -> Result<(), OpFailure> {
        for removal in &self.change.work.removals {
            match self.ground.remove(&removal.at, removal.is_directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.failure("remove", removal.path.as_bytes(), &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn set_attributes(&mut self) -> Result<(), OpFailure> {
        let change = self.change;
        let other: BTreeSet<usize> = change.work.attributes.iter().copied().collect();
        let touched = self.touched();
        // From the innermost outwards: a directory may lose the rights that its entries need to be changed.
        for (index, entry) in change.wanted.iter().enumerate().rev() {
            let path = entry.path.as_bytes();
            let is_touched = touched.contains(path);
            let was_opened = self.opened.remove(path).is_some();
            if !is_touched && !was_opened && !other.contains(&index) {
                continue;
            }
            let mut done = if other.contains(&index) { self.give_attributes(entry) } else { Ok(()) };
            if let (EntryKind::Dir { mode }, true) = (&entry.kind, was_opened) {
                done = done.and_then(|()| self.ground.set_mode(path, *mode));
            }
            if is_touched {
                done = done.and_then(|()| self.ground.set_time(path, entry.mtime));
            }
            done.map_err(|error| self.failure("set the attributes of", path, &error))?;
        }
        self.close();
        if change.root_owner_differs {
            let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
            let owned = fchown(self.ground.root(), uid, gid);
            owned.map_err(|error| io_failure("set the owner of", &change.dest, &error.into()))?;
        }
        Ok(())
    }

    /// Gives directories that were made writable and are not wanted their mode back; most of them are gone.
    fn close(&mut self) {
        for (path, mode) in std::mem::take(&mut self.opened).iter().rev() {
            let _ = self.ground.set_mode(path, *mode);
        }
    }

    /// Bytes of files that were made and not switched.
    fn staged(&mut self) -> u64 {
        let change = self.change;
        let stages = change.work.stages.iter().skip(self.switched);
        let files = stages.filter(|stage| matches!(change.wanted[stage.entry].kind, EntryKind::File { .. }));
        files.filter_map(|stage| self.ground.status(&stage.at).ok()).map(|status| status.size).sum()
    }

    /// After a failure: removes what was made and not switched, as far as that can be done; the next run sweeps the
    /// rest. After a cut, contents that cost time to transfer stay for the next run.
    pub(super) fn clean_up(&mut self, failure: &OpFailure) {
        let is_cut = matches!(failure.kind, FailureKind::Cancelled | FailureKind::Timeout);
        if is_cut && self.staged() >= KEPT_FROM {
            self.close();
            return;
        }
        for stage in self.change.work.stages.iter().skip(self.switched) {
            if stage.switch != Switch::WithDirectory {
                let _ = self.ground.remove_tree(&stage.at);
            }
        }
        self.close();
    }
}
