//! Release trees: every version is a directory of its own, and one link says which of them is current.
//!
//! ```text
//! DEST/current -> releases/3f9a0c1b22d4e5f6
//! DEST/releases/3f9a0c1b22d4e5f6/...
//! DEST/releases/.order                      in which order they became current, the last line last
//! ```
//!
//! A release is complete and on disk before the link is replaced by a rename, so that whatever is killed when, `current`
//! leads to a whole release. Files that are the same as in the current one, attributes and time included, are second
//! names of the same file: a release is not to be written to by what runs from it.

use std::{io, str};

use rustix::fs::{Mode, OFlags, RawDir, RenameFlags, fsync, openat, readlinkat, renameat, renameat_with};

use super::{
    Comparison, Donor, Left, Place, TreeChange, compare,
    ground::{Ground, temporary_beside},
    memory::Memory,
    state::TreeState,
};
use crate::{
    helper::failure::{OrFail, bad_input, io_failure},
    plan::{self, Action, Change, Detail, Diff, FailureKind, HostPath, MaxDelete, OpFailure, Release},
    tree::{RelPath, Root, Supplier, is_temporary, status_at},
};

const RELEASES: &str = "releases";
const CURRENT: &str = "current";
const ORDER: &str = "releases/.order";
/// Length of a release's name: so many digits of its root hash.
const NAME: usize = 16;
/// Longest record of the order in bytes.
const MOST_ORDER: u64 = 1024 * 1024;

/// How a release tree differs from what is wanted.
#[derive(Debug)]
pub struct ReleaseChange {
    dest: HostPath,
    current: Option<String>,
    wanted: String,
    keep: u32,
    rollback: bool,
    /// How the wanted release differs from the current one; none when it only has to be made current again.
    tree: Option<TreeChange>,
}

/// Compares a release tree with what is wanted of it. None when the current release is the wanted one and whole.
///
/// Errors: those of [`compare`]; `BadInput` when `current` is something that no release made, or when there is nothing
/// to go back to.
pub fn compare_release(
    op: &plan::Sync,
    release: Release,
    place: &Place<'_>,
    supplier: &mut dyn Supplier,
) -> Result<Option<ReleaseChange>, OpFailure> {
    let site = Site::open(&op.dest)?;
    let current = site.as_ref().map_or(Ok(None), Site::current)?;
    if release.rollback {
        return back(op, release, site.as_ref(), current).map(Some);
    }
    let wanted = op.tree.root.to_string()[..NAME].to_owned();
    let base = current.as_ref().unwrap_or(&wanted);
    let inner = inner(op, &directory(&op.dest, base)?);
    let place = Place { held: None, remembered_as: Some(&op.dest), ..*place };
    let tree = compare(&inner, &place, supplier)?;
    if tree.is_none() && current.as_ref() == Some(&wanted) {
        return Ok(None);
    }
    Ok(Some(ReleaseChange { dest: op.dest.clone(), current, wanted, keep: release.keep, rollback: false, tree }))
}

/// The release before the current one.
fn back(
    op: &plan::Sync,
    release: Release,
    site: Option<&Site>,
    current: Option<String>,
) -> Result<ReleaseChange, OpFailure> {
    let nothing = || {
        let message = format!("there is no release of `{}` to go back to", op.dest);
        bad_input(message).hint("push a release first; as many as `keep` says stay on the host")
    };
    let (Some(site), Some(now)) = (site, &current) else { return Err(nothing()) };
    let order = site.order()?;
    let before = order.iter().rev().skip_while(|name| *name != now).skip(1);
    let mut whole = before.filter(|name| site.has(name));
    let wanted = whole.next().cloned().ok_or_else(nothing)?;
    Ok(ReleaseChange { dest: op.dest.clone(), current, wanted, keep: release.keep, rollback: true, tree: None })
}

/// The sync of one release's directory.
fn inner(op: &plan::Sync, dest: &HostPath) -> plan::Sync {
    plan::Sync { dest: dest.clone(), delete: MaxDelete::Any, release: None, ..op.clone() }
}

fn directory(dest: &HostPath, name: &str) -> Result<HostPath, OpFailure> {
    let path = format!("{}/{RELEASES}/{name}", dest.as_str().trim_end_matches('/'));
    path.parse().map_err(|error| bad_input(format!("cannot make a release below `{dest}`: {error}")))
}

/// The directory that holds the releases, opened.
struct Site {
    root: Root,
    dest: HostPath,
}

impl Site {
    /// None when the directory does not exist.
    fn open(dest: &HostPath) -> Result<Option<Self>, OpFailure> {
        match Root::open(dest.as_path()) {
            Ok(root) => Ok(Some(Self { root, dest: dest.clone() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_failure("open", dest, &error)),
        }
    }

    /// The name of the current release; none when there is none yet.
    fn current(&self) -> Result<Option<String>, OpFailure> {
        let path = || format!("{}/{CURRENT}", self.dest);
        let foreign = || {
            let message = format!("`{}` is not a link that a release made", path());
            bad_input(message).hint("remove it, or sync to another directory")
        };
        match readlinkat(&self.root, CURRENT, Vec::new()) {
            Ok(target) => {
                let target = target.to_bytes();
                let name = target.strip_prefix(b"releases/").and_then(|name| str::from_utf8(name).ok());
                name.filter(|name| is_release(name)).map(|name| Some(name.to_owned())).ok_or_else(foreign)
            }
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(rustix::io::Errno::INVAL) => Err(foreign()),
            Err(error) => Err(io_failure("read", path(), &error.into())),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.root.open_directory(format!("{RELEASES}/{name}").as_bytes()).is_ok()
    }

    /// Names in the order in which they became current. What the record lacks comes first.
    fn order(&self) -> Result<Vec<String>, OpFailure> {
        let (mut order, recorded) = (self.found()?, self.recorded());
        order.sort_unstable();
        order.retain(|name| !recorded.contains(name));
        order.extend(recorded);
        Ok(order)
    }

    fn recorded(&self) -> Vec<String> {
        use std::io::Read;
        let mut text = String::new();
        let read = self.root.open_file(ORDER.as_bytes()).map(std::fs::File::from);
        // Without the record the order is that of the names: nothing is lost but what was before what.
        let _ = read.and_then(|file| file.take(MOST_ORDER).read_to_string(&mut text));
        text.lines().filter(|name| is_release(name)).map(str::to_owned).collect()
    }

    /// The releases that are there.
    fn found(&self) -> Result<Vec<String>, OpFailure> {
        Ok(self
            .names()?
            .into_iter()
            .filter_map(|name| String::from_utf8(name).ok())
            .filter(|n| is_release(n))
            .collect())
    }

    fn names(&self) -> Result<Vec<Vec<u8>>, OpFailure> {
        let failed = |error: io::Error| io_failure("list", format!("{}/{RELEASES}", self.dest), &error);
        let fd = match self.root.open_directory(RELEASES.as_bytes()) {
            Ok(fd) => fd,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut buffer = Vec::with_capacity(8192);
        let mut entries = RawDir::new(fd, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            names.push(entry.map_err(|error| failed(error.into()))?.file_name().to_bytes().to_vec());
        }
        Ok(names)
    }

    /// What runs that were cut off left.
    fn leftovers(&self) -> Result<Vec<RelPath>, OpFailure> {
        let names = self.names()?;
        let names = names.iter().filter(|name| is_temporary(name));
        Ok(names.filter_map(|name| RelPath::join(RELEASES.as_bytes(), name).ok()).collect())
    }

    fn sweep(&self, leftovers: &[RelPath]) -> Result<(), OpFailure> {
        let mut ground = Ground::new(&self.root);
        for path in leftovers {
            let path = path.as_bytes();
            ground.remove_tree(path).or_fail("remove", self.root.path_of(path).display())?;
        }
        Ok(())
    }

    /// Records that a release becomes current after the one that is: before the link is replaced, so that a run that
    /// is killed in between looks like one that went back. Gives the order.
    fn append(&self, name: &str, current: Option<&str>) -> Result<Vec<String>, OpFailure> {
        let mut order = self.order()?;
        order.retain(|other| other != name);
        // From what comes after the current one somebody went back: it is no longer before what comes now.
        let after = order.iter().position(|other| Some(other.as_str()) == current).map_or(0, |at| at + 1);
        if after > 0 {
            order.rotate_left(after);
        }
        order.push(name.to_owned());
        self.record(&order).or_fail("write", format!("{}/{ORDER}", self.dest))?;
        Ok(order)
    }

    /// Makes a release current: the link is replaced at once.
    fn switch(&self, name: &str) -> Result<(), OpFailure> {
        let mut ground = Ground::new(&self.root);
        let link = temporary_beside(CURRENT.as_bytes());
        let target = format!("{RELEASES}/{name}");
        let switched = ground
            .create_symlink(&link, target.as_bytes())
            .and_then(|()| ground.rename(&link, CURRENT.as_bytes()))
            .and_then(|()| Ok(fsync(&self.root)?));
        switched.or_fail("switch", format!("{}/{CURRENT}", self.dest))
    }

    fn record(&self, order: &[String]) -> io::Result<()> {
        use std::io::Write;
        let releases = self.root.open_directory(RELEASES.as_bytes())?;
        let temporary = temporary_beside(b"order");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&releases, temporary.as_slice(), flags, Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH)?;
        let mut file = std::fs::File::from(fd);
        file.write_all((order.join("\n") + "\n").as_bytes())?;
        file.sync_all()?;
        Ok(renameat(&releases, temporary.as_slice(), &releases, ".order")?)
    }

    /// Removes the oldest releases; never the current one nor the one before it.
    fn prune(&self, order: &[String], keep: u32) -> Result<(), OpFailure> {
        let keep = usize::try_from(keep).unwrap_or(usize::MAX).max(2);
        let surplus = order.len().saturating_sub(keep);
        let mut ground = Ground::new(&self.root);
        for name in &order[..surplus] {
            let path = format!("{RELEASES}/{name}");
            ground.remove_tree(path.as_bytes()).or_fail("remove", format!("{}/{path}", self.dest))?;
        }
        if surplus > 0 {
            self.record(&order[surplus..]).or_fail("write", format!("{}/{ORDER}", self.dest))?;
        }
        Ok(())
    }
}

fn is_release(name: &str) -> bool {
    name.len() == NAME && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl ReleaseChange {
    /// Numeric owner and group of everything, where they are asked for.
    pub fn owner(&self) -> (Option<u32>, Option<u32>) {
        self.tree.as_ref().map_or((None, None), TreeChange::owner)
    }

    /// The difference for people: that of the current release, and which one becomes current.
    pub fn diff(&self) -> Diff {
        let name = |name: &String| Some(format!("{RELEASES}/{name}"));
        let link = Detail::Attribute {
            name: CURRENT.to_owned(),
            before: self.current.as_ref().and_then(name),
            after: name(&self.wanted),
        };
        let action = if self.current.is_some() { Action::Modify } else { Action::Create };
        let mut change = Change::new(action, self.dest.as_str());
        for inner in self.tree.iter().flat_map(|tree| tree.diff().changes) {
            for detail in inner.details {
                change = change.with(detail);
            }
        }
        if self.current.as_ref() != Some(&self.wanted) {
            change = change.with(link);
        }
        Diff::of(change)
    }

    /// Makes the wanted release, when it is not there whole, and then current.
    ///
    /// Errors: those of [`TreeChange::apply`]. After an error the release that was current still is.
    pub fn apply(self, op: &plan::Sync, place: &Place<'_>, supplier: &mut dyn Supplier) -> Result<(), OpFailure> {
        let Self { dest, wanted, keep, rollback, tree, .. } = self;
        let releases = dest.as_path().join(RELEASES);
        fs_err::create_dir_all(&releases).or_fail("create", releases.display())?;
        let Some(site) = Site::open(&dest)? else {
            return Err(bad_input(format!("`{dest}` was removed meanwhile")));
        };
        let leftovers = site.leftovers()?;
        if let Some(tree) = tree {
            let place = Place { held: None, remembered_as: Some(&dest), ..*place };
            let is_there =
                site.has(&wanted) && compare(&inner(op, &directory(&dest, &wanted)?), &place, supplier)?.is_none();
            if !is_there {
                site.make(&wanted, tree, &leftovers, &place, supplier)?;
            }
        }
        site.sweep(&leftovers)?;
        let current = site.current()?;
        if current.as_ref() == Some(&wanted) {
            return Ok(());
        }
        if rollback {
            return site.switch(&wanted);
        }
        let order = site.append(&wanted, current.as_deref())?;
        site.switch(&wanted)?;
        site.prune(&order, keep)
    }
}

impl Site {
    /// Makes a release under another name and then gives it its own.
    fn make(
        &self,
        name: &str,
        tree: TreeChange,
        leftovers: &[RelPath],
        place: &Place<'_>,
        supplier: &mut dyn Supplier,
    ) -> Result<(), OpFailure> {
        let path = format!("{RELEASES}/{name}");
        let temporary = temporary_beside(path.as_bytes());
        let shown = self.root.path_of(&temporary);
        Ground::new(&self.root).create_directory(&temporary).or_fail("create", shown.display())?;
        let made = self.root.below(&temporary).or_fail("open", shown.display())?;
        let dest = shown.to_str().and_then(|path| path.parse().ok());
        let dest: HostPath = dest.ok_or_else(|| bad_input(format!("`{}` is not UTF-8", shown.display())))?;
        let status = made.status().or_fail("read", &dest)?;
        let TreeChange { uid, gid, root_mode, wanted, xattrs, state: donor, .. } = tree;
        let state = TreeState { root: Some((made, status)), ..TreeState::default() };
        let comparison =
            Comparison { dest: &dest, wanted: &wanted, state: &state, place, delete: MaxDelete::Any, xattrs };
        let work = comparison.work()?;
        let donor = donor.root.map(|(root, _)| Donor { root, found: donor.found });
        let left = self.root.below(b"").or_fail("open", &self.dest)?;
        let left = Left { root: left, paths: leftovers.to_vec() };
        let root_owner_differs = uid.is_some() || gid.is_some();
        let change = TreeChange {
            dest: dest.clone(),
            uid,
            gid,
            root_mode,
            root_owner_differs,
            xattrs,
            wanted,
            state,
            work,
            followed: None,
            donor,
            left: Some(left),
        };
        let finish = || -> io::Result<()> {
            let mut ground = Ground::new(&self.root);
            ground.set_mode(&temporary, root_mode)?;
            let releases = self.root.open_directory(RELEASES.as_bytes())?;
            let from = temporary.strip_prefix(b"releases/").unwrap_or(&temporary);
            if status_at(&releases, name.as_bytes()).is_ok() {
                renameat_with(&releases, from, &releases, name, RenameFlags::EXCHANGE)?;
                ground.remove_tree(&temporary)?;
            } else {
                renameat(&releases, from, &releases, name)?;
            }
            Ok(fsync(&releases)?)
        };
        let made = change.make(supplier);
        if let Ok(made) = &made {
            Memory::of(&self.dest, place.state, place.remember).learn(made);
        }
        let done = made.and_then(|_| finish().or_fail("make", format!("{}/{path}", self.dest)));
        if let Err(failure) = &done {
            let mut ground = Ground::new(&self.root);
            // The first error is the one to tell. After a cut, what stayed in it is there for the next run.
            let _ = match failure.kind {
                FailureKind::Cancelled | FailureKind::Timeout => ground.remove(&temporary, true),
                _ => ground.remove_tree(&temporary),
            };
        }
        done
    }
}
