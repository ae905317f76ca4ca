//! `dir_ensure`: a directory, with mode and owner. A link that leads to a directory is as good as one.

use std::{
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, CWD, Dir, FileType, Gid, Mode as Bits, OFlags, Uid, chownat, openat, statat},
};

use super::{
    Finding, Obstacle, Operation,
    ownership::{ToSet, Wanted, attribute},
};
use crate::{
    helper::{
        failure::{OrFail, bad_input},
        foreseen::{Fate, Foreseen},
        machine::{Found, Machine},
        replace::{set_attributes, sync_directory},
    },
    plan::{Action, Change, Diff, DirEnsure, OpFailure},
};

const NEW_MODE: u32 = 0o755;

/// How the directory differs.
#[derive(Debug)]
pub(crate) struct DirChange {
    /// Parents to make, outermost first.
    parents: Vec<PathBuf>,
    create: bool,
    set: ToSet,
    /// How many entries below belong to somebody else; only looked at when asked for.
    foreign: u64,
    owner: (Option<u32>, Option<u32>),
}

impl Operation for DirEnsure {
    type Change = DirChange;

    fn check(&self, machine: &mut Machine<'_>) -> Result<Finding<DirChange>, Obstacle> {
        let path = self.path.as_path();
        let wanted = Wanted::resolve(self.mode, self.owner.as_ref(), self.group.as_ref(), machine)?;
        let owner = wanted.ids();
        let found = match machine.look(path)? {
            Found::There(found) if found.is_symlink() => Some(behind_link(path)?),
            Found::There(found) => Some(found),
            Found::Missing => None,
            Found::Would(Fate::Directory) if self.mode.is_none() && !wanted.names_somebody() => {
                return Ok(Finding::Same);
            }
            Found::Would(Fate::Directory | Fate::Unclear) => {
                return Err(Obstacle::Unclear(format!("an earlier step would make `{}`", self.path)));
            }
            Found::Would(_) => return Err(in_the_way(path)),
        };
        let Some(found) = found else {
            let parents = missing_parents(path, machine)?;
            let set = wanted.for_new(NEW_MODE);
            return Ok(Finding::Differs(DirChange { parents, create: true, set, foreign: 0, owner }));
        };
        if !found.is_dir() {
            return Err(in_the_way(path));
        }
        let set = wanted.against(&found, machine);
        let foreign = if self.recursive && wanted.names_somebody() {
            Walk { owner, apply: false, foreign: 0 }.below(path).or_fail("look through", &self.path)?
        } else {
            0
        };
        if set.details.is_empty() && foreign == 0 {
            return Ok(Finding::Same);
        }
        Ok(Finding::Differs(DirChange { parents: Vec::new(), create: false, set, foreign, owner }))
    }

    fn describe(&self, change: &DirChange, _: &Machine<'_>) -> Diff {
        let mut changes: Vec<Change> =
            change.parents.iter().map(|parent| Change::new(Action::Create, slashed(parent))).collect();
        let mut told =
            Change::new(if change.create { Action::Create } else { Action::Modify }, slashed(self.path.as_path()));
        told.details.clone_from(&change.set.details);
        if change.foreign > 0 {
            told.details.push(attribute("owner of entries below", None, change.foreign.to_string()));
        }
        changes.push(told);
        Diff { changes }
    }

    fn foresee(&self, change: &DirChange, foreseen: &mut Foreseen) {
        for parent in &change.parents {
            foreseen.path(parent, Fate::Directory);
        }
        if change.create {
            foreseen.path(self.path.as_path(), Fate::Directory);
        }
    }

    fn apply(&self, change: DirChange, _: &mut Machine<'_>) -> Result<(), OpFailure> {
        let path = self.path.as_path();
        for parent in &change.parents {
            make(parent)?;
            set_attributes(parent, Some(NEW_MODE), None, None)?;
        }
        if change.create {
            make(path)?;
        }
        let real = fs_err::canonicalize(path).or_fail("look at", &self.path)?;
        set_attributes(&real, change.set.mode, change.set.uid, change.set.gid)?;
        if change.foreign > 0 {
            Walk { owner: change.owner, apply: true, foreign: 0 }
                .below(path)
                .or_fail("set the owner below", &self.path)?;
        }
        Ok(())
    }
}

/// Made for its owner only until it has its mode and owner.
fn make(path: &Path) -> Result<(), OpFailure> {
    std::fs::DirBuilder::new().mode(0o700).create(path).or_fail("create", path.display())?;
    path.parent().map_or(Ok(()), sync_directory).or_fail("create", path.display())
}

fn slashed(path: &Path) -> String {
    format!("{}/", path.display())
}

fn in_the_way(path: &Path) -> Obstacle {
    bad_input(format!("cannot make the directory `{}`: a file is in its place", path.display())).into()
}

fn behind_link(path: &Path) -> Result<std::fs::Metadata, Obstacle> {
    fs_err::metadata(path).map_err(|_| {
        bad_input(format!("`{}` is a symbolic link that leads nowhere", path.display()))
            .hint(format!("remove the link first: file_remove(\"{}\")", path.display()))
            .into()
    })
}

fn missing_parents(path: &Path, machine: &Machine<'_>) -> Result<Vec<PathBuf>, Obstacle> {
    let mut missing = Vec::new();
    for parent in path.ancestors().skip(1) {
        match machine.look(parent)? {
            Found::Missing => missing.push(parent.to_owned()),
            Found::There(_) if parent.is_dir() => break,
            Found::Would(Fate::Directory | Fate::Unclear) => break,
            Found::There(_) | Found::Would(_) => return Err(in_the_way(parent)),
        }
    }
    missing.reverse();
    Ok(missing)
}

/// Looks at, or sets, the owner of all that is below a directory. Goes from open directory to open directory and never
/// through a link, so that nobody who may write there can lead it astray.
struct Walk {
    owner: (Option<u32>, Option<u32>),
    apply: bool,
    foreign: u64,
}

impl Walk {
    fn below(mut self, path: &Path) -> rustix::io::Result<u64> {
        let root = openat(CWD, path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Bits::empty())?;
        self.walk(&root)?;
        Ok(self.foreign)
    }

    fn walk(&mut self, directory: &OwnedFd) -> rustix::io::Result<()> {
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let found = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) => found,
                // It went while we looked.
                Err(rustix::io::Errno::NOENT) => continue,
                Err(error) => return Err(error),
            };
            let (uid, gid) = self.owner;
            if uid.is_some_and(|uid| uid != found.st_uid) || gid.is_some_and(|gid| gid != found.st_gid) {
                self.foreign += 1;
                if self.apply {
                    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                    chownat(directory.as_fd(), name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
                }
            }
            if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
                self.walk(&openat(directory, name, flags, Bits::empty())?)?;
            }
        }
        Ok(())
    }
}
