//! The trees that components asked for the last time: they are scanned while the hosts are still being reached.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    plan::ComponentName,
    tree::{Digest, replace_file},
};

/// Most trees of one component that are remembered.
const MOST_TREES: usize = 16;

/// How a recipe asks for a tree: all that decides what a scan finds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct TreeKey {
    /// Its directory.
    pub(super) source: PathBuf,
    /// Ignore patterns, in order.
    pub(super) ignore: Vec<String>,
    /// Whether extended attributes belong to it.
    pub(super) xattrs: bool,
}

/// What one component asked for. A cache: what is wrong in it costs a scan that nobody needs.
#[derive(Debug)]
pub(super) struct Usual {
    file: Option<PathBuf>,
}

impl Usual {
    /// What is remembered below `cache` of a component of the lab that is described in `directory`.
    pub(super) fn of(cache: Option<&Path>, directory: &Path, component: &ComponentName) -> Self {
        let name =
            Digest::of(&[directory.as_os_str().as_encoded_bytes(), b"\0", component.as_str().as_bytes()].concat());
        Self { file: cache.map(|cache| cache.join("usual").join(name.short())) }
    }

    /// The trees that it asked for the last time.
    pub(super) fn trees(&self) -> BTreeSet<TreeKey> {
        let bytes = self.file.as_ref().and_then(|file| fs_err::read(file).ok()).unwrap_or_default();
        postcard::from_bytes(&bytes).unwrap_or_default()
    }

    /// Remembers what it asked for now.
    pub(super) fn remember(&self, trees: &BTreeSet<TreeKey>) {
        let Some(file) = &self.file else { return };
        if trees.len() <= MOST_TREES && *trees != self.trees() {
            // Without it the next run is slower, nothing else.
            let _ = postcard::to_stdvec(trees).map(|bytes| replace_file(file, &bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_component_asked_for_is_remembered_and_damage_is_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let (web, other): (ComponentName, ComponentName) = ("web".parse().unwrap(), "other".parse().unwrap());
        let of = |component| Usual::of(Some(cache.path()), Path::new("/lab"), component);
        let key = TreeKey { source: "/src".into(), ignore: vec!["*.o".to_owned()], xattrs: false };
        assert_eq!(of(&web).trees(), BTreeSet::new());
        of(&web).remember(&BTreeSet::from([key.clone()]));
        assert_eq!(of(&web).trees(), BTreeSet::from([key]));
        assert_eq!(of(&other).trees(), BTreeSet::new());
        let file = of(&web).file.unwrap();
        fs_err::write(file, b"\xff\xff\xff\xff\xff\xff").unwrap();
        assert_eq!(of(&web).trees(), BTreeSet::new());
    }
}
