//! Names that the destination's file system takes for one, or cannot hold: found before anything is written, and after
//! everything once more by reading back.

use std::{
    collections::{HashMap, HashSet},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::fs::{RawDir, fstatfs, fstatvfs, ioctl_getflags};

use super::{
    TreeChange,
    ground::{Ground, temporary_beside},
    state::TreeState,
    work::Work,
};
use crate::{
    helper::failure::{OrFail, bad_input},
    plan::{FailureKind, HostPath, OpFailure},
    tree::{Entry, RelPath, Root, folded, printable, status_at},
};

/// Flag of a directory in which names are folded (`FS_CASEFOLD_FL` of the kernel's `fs.h`).
const CASEFOLD: u32 = 0x4000_0000;
/// File systems that tell all names apart in directories without [`CASEFOLD`], by their magic numbers: ext, btrfs,
/// tmpfs, f2fs.
const TELL_APART: [u64; 4] = [0xef53, 0x9123_683e, 0x0102_1994, 0xf2f5_2010];
/// File systems that never tell names apart by case: vfat, exFAT.
const FOLD: [u64; 2] = [0x4d44, 0x2011_bab0];
/// Most pairs that are asked about: each costs some system calls, and one is enough for a refusal.
const MAX_PAIRS: usize = 256;

/// Two wanted names of one directory, by their indexes, that some file systems take for one. At least one is new.
pub(super) type Alike = (usize, usize);

/// Whether a directory tells two names apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    Apart,
    AsOne,
    /// Only a try can tell.
    Unclear,
}

/// Refuses names that the destination cannot hold side by side, as far as that shows without writing. Gives the pairs
/// that have to be tried.
pub(super) fn look(dest: &HostPath, wanted: &[Entry], state: &TreeState, work: &Work) -> Result<Vec<Alike>, OpFailure> {
    let new: HashSet<usize> =
        work.stages.iter().filter(|stage| stage.replaces.is_none()).map(|stage| stage.entry).collect();
    let mut unclear = Vec::new();
    let mut place = None;
    for (first, second) in alike(wanted, &new) {
        let place = match &mut place {
            Some(place) => place,
            empty => empty.insert(Place::of(dest, state)?),
        };
        let names = [&wanted[first].path, &wanted[second].path];
        match place.sight(names, [new.contains(&first), new.contains(&second)]) {
            Sight::Apart => {}
            Sight::AsOne => return Err(refusal(dest, names)),
            Sight::Unclear => unclear.push((first, second)),
        }
    }
    Ok(unclear)
}

/// Pairs of siblings with one folded name, one of which is new.
fn alike(wanted: &[Entry], new: &HashSet<usize>) -> Vec<Alike> {
    if new.is_empty() {
        return Vec::new();
    }
    let directories: HashSet<&[u8]> = new.iter().map(|index| wanted[*index].path.parent()).collect();
    let mut seen = HashMap::new();
    let mut pairs = Vec::new();
    for (index, entry) in wanted.iter().enumerate() {
        let parent = entry.path.parent();
        if !directories.contains(parent) {
            continue;
        }
        let other = *seen.entry((parent, folded(entry.path.name()))).or_insert(index);
        if other != index && (new.contains(&other) || new.contains(&index)) && pairs.len() < MAX_PAIRS {
            pairs.push((other, index));
        }
    }
    pairs
}

fn refusal(dest: &HostPath, [first, second]: [&RelPath; 2]) -> OpFailure {
    let message = format!("`{first}` and `{second}` would be one name below `{dest}`: its file system folds names");
    bad_input(message).hint("rename or ignore one of the two, or sync to another file system")
}

/// Where names are going to be.
struct Place {
    root: Root,
    /// Whether the root is the destination; else it is the nearest directory above that exists.
    is_dest: bool,
}

impl Place {
    fn of(dest: &HostPath, state: &TreeState) -> Result<Self, OpFailure> {
        let path = dest.as_path();
        let is_dest = state.root.is_some();
        let above = if is_dest { path } else { path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")) };
        Ok(Self { root: Root::open(above).or_fail("open", above.display())?, is_dest })
    }

    /// The directory of a name, or the nearest one above it that exists: new directories take after those they are in.
    fn nearest(&self, path: &RelPath) -> (&Root, Vec<u8>, bool) {
        let mut parent = path.parent();
        while self.is_dest && !parent.is_empty() {
            if self.root.open_directory(parent).is_ok() {
                return (&self.root, parent.to_vec(), parent == path.parent());
            }
            parent = parent.iter().rposition(|byte| *byte == b'/').map_or(&[], |slash| &parent[..slash]);
        }
        (&self.root, Vec::new(), self.is_dest && path.parent().is_empty())
    }

    fn sight(&self, names: [&RelPath; 2], is_new: [bool; 2]) -> Sight {
        let (root, directory, is_there) = self.nearest(names[0]);
        let Ok(fd) = root.open_directory(&directory) else { return Sight::Unclear };
        if is_there && is_new != [true, true] {
            // A new name was not listed; when something answers to it all the same, it is the other one.
            let new = if is_new[0] { names[0] } else { names[1] };
            return if status_at(&fd, new.name()).is_ok() { Sight::AsOne } else { Sight::Apart };
        }
        by_kind(&fd)
    }

    /// Tries two names in a directory of their own, which goes again.
    fn probe(&self, names: [&RelPath; 2]) -> Result<Sight, OpFailure> {
        let (root, directory, _) = self.nearest(names[0]);
        let scratch = temporary_beside(&[directory.as_slice(), b"/x"].concat());
        let scratch = scratch.strip_prefix(b"/").unwrap_or(&scratch);
        let mut ground = Ground::new(root);
        let mut tried = || {
            ground.create_directory(scratch)?;
            let [first, second] = names.map(|name| [scratch, b"/", name.name()].concat());
            ground.create_directory(&first)?;
            match ground.status(&second) {
                Ok(_) => Ok(Sight::AsOne),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Sight::Apart),
                Err(error) => Err(error),
            }
        };
        let sight = tried();
        let swept = ground.remove_tree(scratch);
        let shown = || printable(root.path_of(&directory).as_os_str().as_encoded_bytes());
        swept.and(sight).or_fail("try names in", shown())
    }
}

fn by_kind(directory: &OwnedFd) -> Sight {
    if ioctl_getflags(directory).is_ok_and(|flags| flags.bits() & CASEFOLD != 0) {
        return Sight::AsOne;
    }
    match fstatfs(directory).map(|stat| u64::try_from(stat.f_type).unwrap_or_default()) {
        Ok(kind) if TELL_APART.contains(&kind) => Sight::Apart,
        Ok(kind) if FOLD.contains(&kind) => Sight::AsOne,
        _ => Sight::Unclear,
    }
}

/// Tries the pairs of names about which looking did not tell. Errors: `BadInput` naming both when they are one;
/// `BadInput` as well when a name is longer than the file system allows.
pub(super) fn try_out(change: &TreeChange) -> Result<(), OpFailure> {
    refuse_long_names(change)?;
    if change.work.alike.is_empty() {
        return Ok(());
    }
    let place = Place::of(&change.dest, &change.state)?;
    for (first, second) in &change.work.alike {
        let names = [&change.wanted[*first].path, &change.wanted[*second].path];
        if place.probe(names)? == Sight::AsOne {
            return Err(refusal(&change.dest, names));
        }
    }
    Ok(())
}

fn refuse_long_names(change: &TreeChange) -> Result<(), OpFailure> {
    let place = Place::of(&change.dest, &change.state)?;
    // What cannot tell says 0.
    let longest = fstatvfs(&place.root).map_or(0, |stat| usize::try_from(stat.f_namemax).unwrap_or(usize::MAX));
    let new = change.work.stages.iter().map(|stage| &change.wanted[stage.entry].path);
    match new.filter(|_| longest > 0).find(|path| path.name().len() > longest) {
        Some(path) => {
            let path = change.path_of(path.as_bytes());
            let message = format!("cannot create `{path}`: names on its file system have at most {longest} bytes");
            Err(bad_input(message).hint("shorten or ignore the name, or sync to another file system"))
        }
        None => Ok(()),
    }
}

/// Reads back the directories in which names came: every wanted name must be there as it is written. Errors: `Io` with
/// the count and the first name that did not land.
pub(super) fn read_back(change: &TreeChange) -> Result<(), OpFailure> {
    let Some((root, _)) = &change.state.root else { return Ok(()) };
    let new = change.work.stages.iter().filter(|stage| stage.replaces.is_none());
    let directories: HashSet<&[u8]> = new.map(|stage| change.wanted[stage.entry].path.parent()).collect();
    let mut wanted: HashMap<&[u8], HashSet<&[u8]>> = HashMap::new();
    for entry in &change.wanted {
        let parent = entry.path.parent();
        if directories.contains(parent) {
            wanted.entry(parent).or_default().insert(entry.path.name());
        }
    }
    let count: usize = wanted.values().map(HashSet::len).sum();
    let mut buffer = Vec::with_capacity(32 * 1024);
    for (directory, names) in &mut wanted {
        let shown = || printable(root.path_of(directory).as_os_str().as_encoded_bytes());
        let fd = root.open_directory(directory).or_fail("read back", shown())?;
        let mut entries = RawDir::new(fd, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            names.remove(entry.or_fail("read back", shown())?.file_name().to_bytes());
        }
    }
    let lost: usize = wanted.values().map(HashSet::len).sum();
    let first =
        wanted.iter().flat_map(|(parent, names)| names.iter().filter_map(|name| RelPath::join(parent, name).ok()));
    match first.min() {
        Some(first) => {
            let (dest, landed) = (&change.dest, count - lost);
            let message = format!("{landed} of {count} names landed below `{dest}`; `{first}` did not");
            let hint = "something else changes the directory, or its file system changes names";
            Err(OpFailure::new(FailureKind::Io, message).hint(hint))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{EntryKind, Time};

    fn entries(paths: &[&str]) -> Vec<Entry> {
        let entry = |path: &&str| {
            Entry::plain(RelPath::new(*path).unwrap(), EntryKind::Dir { mode: 0o755 }, Time { secs: 0, nanos: 0 })
        };
        paths.iter().map(entry).collect()
    }

    #[test]
    fn only_siblings_one_of_which_is_new_are_alike() {
        let wanted = entries(&["A", "A/x", "A/y", "a", "a/X", "b"]);
        let new = |indexes: &[usize]| alike(&wanted, &indexes.iter().copied().collect());
        assert_eq!(new(&[0]), [(0, 3)]);
        assert_eq!(new(&[3, 4]), [(0, 3)], "x and X are in different directories");
        assert_eq!(new(&[5]), []);
        assert_eq!(new(&[]), []);
    }

    #[test]
    fn a_try_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { root: Root::open(dir.path()).unwrap(), is_dest: true };
        let [upper, lower] = ["sub/Name", "sub/name"].map(|path| RelPath::new(path).unwrap());
        assert_eq!(place.probe([&upper, &lower]).unwrap(), Sight::Apart);
        assert_eq!(place.probe([&upper, &upper]).unwrap(), Sight::AsOne);
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// A directory in which a second name for one entry stands for a file system that folds case: this fake answers to
    /// both names and lists one, as [`TreeState`] would have found it.
    #[test]
    fn a_new_name_that_something_answers_to_is_refused_by_both_names() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("README"), "x").unwrap();
        fs_err::write(dir.path().join("readme"), "x").unwrap();
        let place = Place { root: Root::open(dir.path()).unwrap(), is_dest: true };
        let [upper, lower] = ["README", "readme"].map(|path| RelPath::new(path).unwrap());
        assert_eq!(place.sight([&upper, &lower], [false, true]), Sight::AsOne);
        fs_err::remove_file(dir.path().join("readme")).unwrap();
        assert_eq!(place.sight([&upper, &lower], [false, true]), Sight::Apart);
        assert_eq!(place.sight([&upper, &lower], [true, true]), by_kind(&place.root.open_directory(b"").unwrap()));
        let text = refusal(&"/opt/x".parse().unwrap(), [&upper, &lower]).to_string();
        assert!(text.contains("`README` and `readme` would be one name below `/opt/x`"), "{text}");
    }
}
