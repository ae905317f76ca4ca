//! What earlier steps of a check would have made: a check writes nothing, so later steps cannot find it on the machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// What would stand at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// A directory.
    Directory,
    /// A file or link; what is in it cannot be told.
    File,
    /// Nothing.
    Gone,
    /// Cannot be told: it lies in a tree that would be synced.
    Unclear,
}

/// What earlier steps would have made. Stays empty when a plan is applied.
#[derive(Debug, Clone, Default)]
pub(crate) struct Foreseen {
    users: BTreeSet<String>,
    groups: BTreeSet<String>,
    paths: BTreeMap<PathBuf, Fate>,
    trees: BTreeSet<PathBuf>,
    /// Where everything would be gone, whatever was made there afterwards.
    emptied: BTreeSet<PathBuf>,
    anything: Option<String>,
}

impl Foreseen {
    /// A user, with a group of the same name, would be made.
    pub(crate) fn user(&mut self, name: &str) {
        self.users.insert(name.to_owned());
    }

    /// A group would be made.
    pub(crate) fn group(&mut self, name: &str) {
        self.groups.insert(name.to_owned());
    }

    /// Something would stand at a path, or no longer.
    pub(crate) fn path(&mut self, path: &Path, fate: Fate) {
        if fate == Fate::Gone {
            self.paths.retain(|known, _| !known.starts_with(path));
            self.trees.retain(|tree| !tree.starts_with(path));
            self.emptied.insert(path.to_owned());
        }
        self.paths.insert(path.to_owned(), fate);
    }

    /// A directory would get the content of a tree.
    pub(crate) fn tree(&mut self, path: &Path) {
        self.path(path, Fate::Directory);
        self.trees.insert(path.to_owned());
    }

    /// A step, named by its title, would do what cannot be told before: install packages, run a command.
    pub(crate) fn anything(&mut self, by: &str) {
        self.anything.get_or_insert_with(|| by.to_owned());
    }

    /// Whether a user would be made.
    pub(crate) fn has_user(&self, name: &str) -> bool {
        self.users.contains(name)
    }

    /// Whether a group would be made.
    pub(crate) fn has_group(&self, name: &str) -> bool {
        self.groups.contains(name) || self.users.contains(name)
    }

    /// The first step that might make whatever is missing.
    pub(crate) fn maker_of_anything(&self) -> Option<&str> {
        self.anything.as_deref()
    }

    /// What would stand at a path instead of what stands there now. None when no earlier step touches it.
    pub(crate) fn fate(&self, path: &Path) -> Option<Fate> {
        if let Some(fate) = self.paths.get(path) {
            return Some(*fate);
        }
        for ancestor in path.ancestors().skip(1) {
            if self.trees.contains(ancestor) {
                return Some(Fate::Unclear);
            }
            if self.emptied.contains(ancestor) {
                return Some(Fate::Gone);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_removed_directory_is_gone() {
        let mut foreseen = Foreseen::default();
        foreseen.path(Path::new("/a/b"), Fate::File);
        foreseen.path(Path::new("/a"), Fate::Gone);
        assert_eq!(foreseen.fate(Path::new("/a/b")), Some(Fate::Gone));
        foreseen.path(Path::new("/a/b"), Fate::Directory);
        assert_eq!(foreseen.fate(Path::new("/a/b")), Some(Fate::Directory));
        assert_eq!(foreseen.fate(Path::new("/a/c")), Some(Fate::Gone));
        assert_eq!(foreseen.fate(Path::new("/other")), None);
    }

    #[test]
    fn a_synced_tree_is_unclear_inside() {
        let mut foreseen = Foreseen::default();
        foreseen.tree(Path::new("/opt/x"));
        assert_eq!(foreseen.fate(Path::new("/opt/x")), Some(Fate::Directory));
        assert_eq!(foreseen.fate(Path::new("/opt/x/bin/y")), Some(Fate::Unclear));
    }
}
