//! How one manifest becomes another: what travels when a host is known to have the older one.

use std::{collections::HashMap, iter::Peekable};

use serde::{Deserialize, Serialize};

use super::{
    Digest, Entry, EntryKind, Manifest, ManifestError, RelPath, Time,
    extra::Extra,
    manifest::{PathJoiner, shared_with},
};

/// The way from one manifest to another. What it leads to is only trusted when its root hash is the announced one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestPatch {
    /// Digest of the encoded manifest that it starts from.
    pub base: Digest,
    root_mode: u32,
    /// Entries of the base that are gone or replaced, as runs: how many stay before it, how many go.
    removed: Vec<(u32, u32)>,
    added: Vec<Added>,
}

/// An entry that the base does not have like this. Paths share their beginnings with the added path before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Added {
    shared: u16,
    rest: Vec<u8>,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum What {
    /// Kind and time of the entry of the base with this index: it got another name.
    Moved(u32),
    New {
        mtime: Time,
        kind: EntryKind,
        extra: Option<Box<Extra>>,
    },
}

impl ManifestPatch {
    /// The way from `old`, whose encoding has the digest `base`, to `new`.
    pub fn between(base: Digest, old: &Manifest, new: &Manifest) -> Self {
        let (mut gone, mut fresh) = (Vec::new(), Vec::new());
        let mut after = new.entries().iter().peekable();
        for (index, entry) in (0u32..).zip(old.entries()) {
            take_before(&mut after, &entry.path, &mut fresh);
            match after.next_if(|next| next.path == entry.path) {
                Some(same) if same == entry => {}
                Some(changed) => {
                    gone.push(index);
                    fresh.push(changed);
                }
                None => gone.push(index),
            }
        }
        fresh.extend(after);
        let moved: HashMap<(&EntryKind, Time, &Option<Box<Extra>>), u32> = gone
            .iter()
            .filter_map(|index| {
                let Entry { kind, mtime, extra, .. } = old.entries().get(*index as usize)?;
                Some(((kind, *mtime, extra), *index))
            })
            .collect();
        let mut previous: &[u8] = &[];
        let added = fresh.into_iter().map(|Entry { path, kind, mtime, extra }| {
            let shared = shared_with(previous, path.as_bytes());
            previous = path.as_bytes();
            let what = match moved.get(&(kind, *mtime, extra)) {
                Some(index) => What::Moved(*index),
                None => What::New { mtime: *mtime, kind: kind.clone(), extra: extra.clone() },
            };
            Added { shared, rest: path.as_bytes()[usize::from(shared)..].to_vec(), what }
        });
        Self { base, root_mode: new.root_mode(), removed: runs(&gone), added: added.collect() }
    }

    /// How many entries it names: those that go, and those that come.
    pub fn len(&self) -> usize {
        self.removed.iter().map(|(_, count)| *count as usize).sum::<usize>() + self.added.len()
    }

    /// Whether both manifests have the same entries.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }

    /// The manifest that it leads to from `old`. Everything is validated but that `old` is the right base.
    pub fn apply(&self, old: &Manifest) -> Result<Manifest, ManifestError> {
        let mut entries = Vec::with_capacity(old.entries().len() + self.added.len());
        let mut rest = old.entries();
        for (stay, go) in &self.removed {
            let (kept, after) = rest.split_at_checked(*stay as usize).ok_or(ManifestError::Format)?;
            entries.extend_from_slice(kept);
            rest = after.get(*go as usize..).ok_or(ManifestError::Format)?;
        }
        entries.extend_from_slice(rest);
        for added in self.added(old) {
            entries.push(added?);
        }
        Manifest::new(entries, self.root_mode)
    }

    /// The entries that come.
    pub fn added<'a>(&'a self, old: &'a Manifest) -> impl Iterator<Item = Result<Entry, ManifestError>> + 'a {
        let mut joiner = PathJoiner::default();
        self.added.iter().map(move |Added { shared, rest, what }| {
            let path = joiner.join(*shared, rest)?;
            let (kind, mtime, extra) = match what {
                What::New { mtime, kind, extra } => (kind.clone(), *mtime, extra.clone()),
                What::Moved(index) => {
                    let moved = old.entries().get(*index as usize).ok_or(ManifestError::Format)?;
                    (moved.kind.clone(), moved.mtime, moved.extra.clone())
                }
            };
            Ok(Entry { path, kind, mtime, extra })
        })
    }

    /// The entries of `old` that go, those among them that are replaced included.
    pub fn removed<'a>(&'a self, old: &'a Manifest) -> impl Iterator<Item = &'a Entry> + 'a {
        let mut at = 0usize;
        self.removed.iter().flat_map(move |(stay, go)| {
            let from = at.saturating_add(*stay as usize);
            at = from.saturating_add(*go as usize);
            old.entries().get(from..at).unwrap_or_default()
        })
    }
}

fn take_before<'a>(after: &mut Peekable<impl Iterator<Item = &'a Entry>>, path: &RelPath, fresh: &mut Vec<&'a Entry>) {
    while let Some(entry) = after.next_if(|next| next.path < *path) {
        fresh.push(entry);
    }
}

/// Rising indexes as runs.
fn runs(indexes: &[u32]) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    let mut end = 0;
    for index in indexes {
        match runs.last_mut() {
            Some((_, count)) if end == *index => *count += 1,
            _ => runs.push((index - end, 1)),
        }
        end = index + 1;
    }
    runs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest(files: &[(u8, u8, u8)]) -> Manifest {
        let mut entries = std::collections::BTreeMap::new();
        for (directory, name, content) in files {
            let (directory, time) = (format!("d{directory}"), Time { secs: i64::from(*content), nanos: 0 });
            let path = RelPath::new(directory.clone()).unwrap();
            let dir = Entry::plain(path, EntryKind::Dir { mode: 0o755 }, Time { secs: 0, nanos: 0 });
            entries.insert(dir.path.clone(), dir);
            let kind = EntryKind::File { size: 1, digest: Digest::of(&[*content]), mode: 0o644 };
            let path = RelPath::new(format!("{directory}/f{name}")).unwrap();
            entries.insert(path.clone(), Entry::plain(path, kind, time));
        }
        Manifest::new(entries.into_values().collect(), 0o755).unwrap()
    }

    fn between(old: &Manifest, new: &Manifest) -> ManifestPatch {
        ManifestPatch::between(Digest::of(b"base"), old, new)
    }

    #[test]
    fn a_renamed_directory_is_named_without_its_contents() {
        let files: Vec<_> = (0..200).map(|name| (1, name, name)).collect();
        let renamed: Vec<_> = files.iter().map(|(_, name, content)| (2, *name, *content)).collect();
        let (old, new) = (manifest(&files), manifest(&renamed));
        let patch = between(&old, &new);
        assert_eq!(patch.len(), 402);
        assert!(patch.added.iter().all(|added| matches!(added.what, What::Moved(_))));
        assert_eq!(patch.removed, [(0, 201)]);
        assert_eq!(patch.apply(&old).unwrap(), new);
        assert!(postcard::to_stdvec(&patch).unwrap().len() < 200 * 12);
    }

    #[test]
    fn nothing_changed_is_an_empty_patch() {
        let old = manifest(&[(1, 1, 1), (2, 2, 2)]);
        let patch = between(&old, &old);
        assert!(patch.is_empty());
        assert_eq!(patch.apply(&old).unwrap(), old);
    }

    #[test]
    fn a_patch_that_fits_no_manifest_is_refused() {
        let (old, new) = (manifest(&[(1, 1, 1), (2, 2, 2)]), manifest(&[(3, 1, 1)]));
        let good = between(&old, &new);
        for removed in [vec![(9, 1)], vec![(0, 9)], vec![(u32::MAX, u32::MAX), (u32::MAX, u32::MAX)]] {
            let bad = ManifestPatch { removed, ..good.clone() };
            assert!(matches!(bad.apply(&old), Err(ManifestError::Format)));
            assert!(bad.removed(&old).count() <= old.entries().len());
        }
        let mut bad = good.clone();
        bad.added[0].what = What::Moved(99);
        assert!(matches!(bad.apply(&old), Err(ManifestError::Format)));
        let mut bad = good.clone();
        bad.added[0].rest = b"../../etc".to_vec();
        assert!(matches!(bad.apply(&old), Err(ManifestError::Path { .. })));
        let mut bad = good;
        bad.removed.clear();
        bad.added[0].rest = b"d1".to_vec();
        assert!(matches!(bad.apply(&old), Err(ManifestError::Order { .. })));
    }

    proptest! {
        #[test]
        fn a_patch_leads_from_any_manifest_to_any_other(
            old in proptest::collection::vec((0u8..4, 0u8..6, 0u8..8), 0..30),
            new in proptest::collection::vec((0u8..4, 0u8..6, 0u8..8), 0..30),
        ) {
            let (old, new) = (manifest(&old), manifest(&new));
            let patch = between(&old, &new);
            let bytes = postcard::to_stdvec(&patch).unwrap();
            let patch: ManifestPatch = postcard::from_bytes(&bytes).unwrap();
            prop_assert_eq!(patch.apply(&old).unwrap(), new.clone());
            prop_assert_eq!(patch.len(), patch.removed(&old).count() + patch.added(&old).count());
            for entry in patch.removed(&old) {
                prop_assert!(!new.entries().contains(entry));
            }
        }
    }
}
