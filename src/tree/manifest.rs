//! What a tree is: every entry's path, kind, mode, content hash and time, in one ordered list.

use serde::{Deserialize, Serialize};

use super::{
    Digest, RelPath,
    extra::{Extra, Xattr},
    path::{PathError, is_temporary},
};

/// Longest encoded manifest in bytes: some 800,000 entries.
pub const MAX_MANIFEST: usize = 64 * 1024 * 1024;
/// Most entries, and most bytes of all their paths together: short encodings must not unfold without end.
const MAX_ENTRIES: usize = 2_000_000;
const MAX_PATH_BYTES: usize = 128 * 1024 * 1024;
/// First bytes of an encoded manifest; the last one is the version of the format.
const MAGIC: &[u8; 8] = b"OVSTREE\x02";
/// Longest target of a symbolic link in bytes (`PATH_MAX` less the closing zero).
const MAX_TARGET: usize = 4095;

/// A point in time: seconds since 1970 (may be negative) and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub secs: i64,
    /// Nanoseconds after that; below 1,000,000,000.
    pub nanos: u32,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
        /// Hash of the content.
        digest: Digest,
        /// Permission bits, at most `0o7777`.
        mode: u32,
    },
    /// A directory.
    Dir {
        /// Permission bits, at most `0o7777`.
        mode: u32,
    },
    /// A symbolic link.
    Symlink {
        /// What it points to, as written in the link; 1 to 4095 bytes.
        target: Vec<u8>,
    },
    /// Another name of a regular file: both share content, attributes and later changes.
    HardLink {
        /// The first of its names in the order of paths; always that of a `File` of the same tree.
        to: RelPath,
    },
}

/// One file, directory or link of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where, relative to the root.
    pub path: RelPath,
    /// What.
    pub kind: EntryKind,
    /// When it was last modified. Carried along, but no part of equality.
    pub mtime: Time,
    /// What few entries have; none for all others.
    pub extra: Option<Box<Extra>>,
}

impl Entry {
    /// An entry that has nothing but these.
    pub fn plain(path: RelPath, kind: EntryKind, mtime: Time) -> Self {
        Self { path, kind, mtime, extra: None }
    }

    /// Its extended attributes.
    pub fn xattrs(&self) -> &[Xattr] {
        self.extra.as_ref().map_or(&[], |extra| &extra.xattrs)
    }

    /// Whether it is a file with holes.
    pub fn has_holes(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.has_holes)
    }
}

/// All entries of a tree, ordered by path, each directory before what is below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<Entry>,
    root_mode: u32,
}

/// Why bytes or entries are not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Too many bytes, entries or bytes of paths.
    #[error("the manifest is too large ({entries} entries)")]
    TooLarge {
        /// How many entries were seen.
        entries: usize,
    },
    /// Not encoded as a manifest of this version.
    #[error("the bytes are not a manifest of this version")]
    Format,
    /// A path is not one.
    #[error("entry {index} of the manifest has no valid path")]
    Path {
        /// Which entry, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: PathError,
    },
    /// Two entries have one path, or the order is wrong.
    #[error("`{path}` is out of order in the manifest")]
    Order {
        /// The later one.
        path: RelPath,
    },
    /// The directory that should hold an entry is not in the manifest or not a directory.
    #[error("`{path}` has no directory in the manifest")]
    Orphan {
        /// The entry.
        path: RelPath,
    },
    /// A mode, time, link target or extended attribute is out of bounds, a hard link does not lead to a file with an
    /// earlier path, or the name is one of our temporary names.
    #[error("`{path}` has impossible attributes in the manifest")]
    Attributes {
        /// The entry.
        path: RelPath,
    },
}

#[derive(Serialize, Deserialize)]
struct Packed {
    root_mode: u32,
    entries: Vec<PackedEntry>,
}

/// Paths share their beginnings with their neighbours; so a renamed directory changes few bytes of the encoding.
#[derive(Serialize, Deserialize)]
struct PackedEntry {
    /// How many bytes of the previous path this one begins with.
    shared: u16,
    rest: Vec<u8>,
    mtime: Time,
    kind: EntryKind,
    extra: Option<Box<Extra>>,
}

impl Manifest {
    /// A manifest of these entries in any order. `root_mode` are the permission bits of the root itself; a host uses
    /// them when it has to make the root, and they are no part of equality.
    pub fn new(mut entries: Vec<Entry>, root_mode: u32) -> Result<Self, ManifestError> {
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let manifest = Self { entries, root_mode: root_mode & 0o7777 };
        manifest.validate()?;
        Ok(manifest)
    }

    /// The entries, ordered by path.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry with this path.
    pub fn get(&self, path: &RelPath) -> Option<&Entry> {
        self.entries.binary_search_by(|entry| entry.path.cmp(path)).ok().map(|at| &self.entries[at])
    }

    /// Whether a directory with this path is in it.
    pub fn has_directory(&self, path: &[u8]) -> bool {
        let Ok(path) = RelPath::new(path) else { return false };
        self.get(&path).is_some_and(|entry| matches!(entry.kind, EntryKind::Dir { .. }))
    }

    /// The files among these that have more than one name, and those further names.
    pub fn hard_links(&self) -> impl Iterator<Item = (&RelPath, &RelPath)> {
        self.entries.iter().filter_map(|entry| match &entry.kind {
            EntryKind::HardLink { to } => Some((to, &entry.path)),
            _ => None,
        })
    }

    /// Permission bits of the root.
    pub fn root_mode(&self) -> u32 {
        self.root_mode
    }

    /// Equal for two trees exactly when paths, kinds, modes, contents, link targets and extended attributes are.
    pub fn root(&self) -> Digest {
        root_of(self.entries.iter().map(|entry| (&entry.path, &entry.kind, entry.extra.as_deref())))
    }

    /// The bytes that travel.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        let mut previous: &[u8] = &[];
        let entries = self.entries.iter().map(|entry| {
            let path = entry.path.as_bytes();
            let shared = shared_with(previous, path);
            previous = path;
            PackedEntry {
                shared,
                rest: path[usize::from(shared)..].to_vec(),
                mtime: entry.mtime,
                kind: entry.kind.clone(),
                extra: entry.extra.clone(),
            }
        });
        let packed = Packed { root_mode: self.root_mode, entries: entries.collect() };
        let bytes = postcard::to_extend(&packed, MAGIC.to_vec()).map_err(|_| ManifestError::Format)?;
        if bytes.len() > MAX_MANIFEST {
            return Err(ManifestError::TooLarge { entries: self.entries.len() });
        }
        Ok(bytes)
    }

    /// The manifest in these bytes; every property that [`Manifest`] promises is checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST {
            return Err(ManifestError::TooLarge { entries: 0 });
        }
        let body = bytes.strip_prefix(MAGIC).ok_or(ManifestError::Format)?;
        // What is said of the number of entries comes before they are unfolded, each to many times its encoding.
        let (_, listed) = postcard::take_from_bytes::<u32>(body).map_err(|_| ManifestError::Format)?;
        let (entries, _) = postcard::take_from_bytes::<usize>(listed).map_err(|_| ManifestError::Format)?;
        if entries > MAX_ENTRIES {
            return Err(ManifestError::TooLarge { entries });
        }
        let (packed, rest) = postcard::take_from_bytes::<Packed>(body).map_err(|_| ManifestError::Format)?;
        if !rest.is_empty() || packed.root_mode > 0o7777 {
            return Err(ManifestError::Format);
        }
        let manifest = Self { entries: unpack(packed.entries)?, root_mode: packed.root_mode };
        manifest.validate()?;
        Ok(manifest)
    }

    fn validate(&self) -> Result<(), ManifestError> {
        if self.entries.len() > MAX_ENTRIES {
            return Err(ManifestError::TooLarge { entries: self.entries.len() });
        }
        // The directories that hold the current entry, outermost first.
        let mut parents: Vec<&RelPath> = Vec::new();
        let mut previous: Option<&RelPath> = None;
        for Entry { path, kind, mtime, extra } in &self.entries {
            if previous.is_some_and(|previous| previous >= path) {
                return Err(ManifestError::Order { path: path.clone() });
            }
            while parents.last().is_some_and(|parent| !path.is_below(parent.as_bytes())) {
                parents.pop();
            }
            if parents.last().map_or(&[][..], |parent| parent.as_bytes()) != path.parent() {
                return Err(ManifestError::Orphan { path: path.clone() });
            }
            let is_linked = match kind {
                EntryKind::HardLink { to } => {
                    to < path && self.get(to).is_some_and(|first| matches!(first.kind, EntryKind::File { .. }))
                }
                _ => true,
            };
            let is_possible = is_linked && is_possible(kind) && extra.as_ref().is_none_or(|extra| extra.fits(kind));
            if !is_possible || mtime.nanos >= 1_000_000_000 || is_temporary(path.name()) {
                return Err(ManifestError::Attributes { path: path.clone() });
            }
            if matches!(kind, EntryKind::Dir { .. }) {
                parents.push(path);
            }
            previous = Some(path);
        }
        Ok(())
    }
}

fn unpack(packed: Vec<PackedEntry>) -> Result<Vec<Entry>, ManifestError> {
    if packed.len() > MAX_ENTRIES {
        return Err(ManifestError::TooLarge { entries: packed.len() });
    }
    let mut joiner = PathJoiner::default();
    let entries = packed.into_iter().map(|PackedEntry { shared, rest, mtime, kind, extra }| {
        let path = joiner.join(shared, &rest)?;
        Ok(Entry { path, kind, mtime, extra })
    });
    entries.collect()
}

/// How many bytes two neighbouring paths begin with in common.
pub(super) fn shared_with(previous: &[u8], path: &[u8]) -> u16 {
    let shared = previous.iter().zip(path).take_while(|(a, b)| a == b).count();
    // A path is shorter than 64 KiB.
    u16::try_from(shared).unwrap_or_default()
}

/// Puts paths together that were sent without what they share with the one before.
#[derive(Debug, Default)]
pub(super) struct PathJoiner {
    previous: Vec<u8>,
    index: usize,
    bytes: usize,
}

impl PathJoiner {
    /// The next path.
    pub(super) fn join(&mut self, shared: u16, rest: &[u8]) -> Result<RelPath, ManifestError> {
        if usize::from(shared) > self.previous.len() {
            return Err(ManifestError::Format);
        }
        self.previous.truncate(usize::from(shared));
        self.previous.extend_from_slice(rest);
        self.bytes += self.previous.len();
        if self.bytes > MAX_PATH_BYTES {
            return Err(ManifestError::TooLarge { entries: self.index });
        }
        let index = self.index;
        self.index += 1;
        RelPath::new(self.previous.clone()).map_err(|source| ManifestError::Path { index, source })
    }
}

fn is_possible(kind: &EntryKind) -> bool {
    match kind {
        EntryKind::File { mode, .. } | EntryKind::Dir { mode } => *mode <= 0o7777,
        EntryKind::Symlink { target } => (1..=MAX_TARGET).contains(&target.len()) && !target.contains(&0),
        EntryKind::HardLink { .. } => true,
    }
}

/// The root hash of entries that come ordered by path: BLAKE3 over an unambiguous encoding of path, kind, mode,
/// content hash or link target, and extended attributes.
pub fn root_of<'a>(entries: impl Iterator<Item = (&'a RelPath, &'a EntryKind, Option<&'a Extra>)>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"ovs-cuisine tree 1\n");
    let field = |hasher: &mut blake3::Hasher, bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    for (path, kind, extra) in entries {
        field(&mut hasher, path.as_bytes());
        match kind {
            EntryKind::File { size, digest, mode } => {
                hasher.update(b"f").update(&mode.to_le_bytes()).update(&size.to_le_bytes()).update(digest.as_bytes());
            }
            EntryKind::Dir { mode } => {
                hasher.update(b"d").update(&mode.to_le_bytes());
            }
            EntryKind::Symlink { target } => {
                hasher.update(b"l");
                field(&mut hasher, target);
            }
            EntryKind::HardLink { to } => {
                hasher.update(b"h");
                field(&mut hasher, to.as_bytes());
            }
        }
        // Paths are never longer than 4095 bytes, so this cannot be taken for one.
        for Xattr { name, value } in extra.into_iter().flat_map(|extra| &extra.xattrs) {
            hasher.update(&u64::MAX.to_le_bytes());
            field(&mut hasher, name);
            field(&mut hasher, value);
        }
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(path: &str, kind: EntryKind) -> Entry {
        Entry::plain(RelPath::new(path).unwrap(), kind, Time { secs: -5, nanos: 999_999_999 })
    }

    fn file(path: &str, content: &str) -> Entry {
        let kind = EntryKind::File { size: content.len() as u64, digest: Digest::of(content.as_bytes()), mode: 0o644 };
        entry(path, kind)
    }

    fn dir(path: &str) -> Entry {
        entry(path, EntryKind::Dir { mode: 0o755 })
    }

    fn link(path: &str, target: &str) -> Entry {
        entry(path, EntryKind::Symlink { target: target.into() })
    }

    fn sample() -> Manifest {
        let entries = vec![file("a/b/c", "1"), dir("a"), file("a.txt", "2"), dir("a/b"), link("z", "/etc/passwd")];
        Manifest::new(entries, 0o750).unwrap()
    }

    #[test]
    fn a_manifest_survives_encoding() {
        let manifest = sample();
        let back = Manifest::decode(&manifest.encode().unwrap()).unwrap();
        assert_eq!(back, manifest);
        assert_eq!(back.root(), manifest.root());
        let paths: Vec<String> = manifest.entries().iter().map(|entry| entry.path.to_string()).collect();
        assert_eq!(paths, ["a", "a/b", "a/b/c", "a.txt", "z"]);
    }

    #[test]
    fn the_root_hash_sees_everything_but_time() {
        let base = sample();
        let with = |change: &dyn Fn(&mut Vec<Entry>)| {
            let mut entries = base.entries().to_vec();
            change(&mut entries);
            Manifest::new(entries, 0o700).unwrap().root()
        };
        assert_eq!(with(&|entries| entries[2].mtime.secs = 7), base.root());
        assert_ne!(with(&|entries| entries[2] = file("a/b/c", "x")), base.root());
        assert_ne!(with(&|entries| entries[1].kind = EntryKind::Dir { mode: 0o700 }), base.root());
        assert_ne!(with(&|entries| entries[4] = link("z", "/etc/group")), base.root());
        assert_ne!(with(&|entries| entries[4] = file("z", "/etc/passwd")), base.root());
        assert_ne!(with(&|entries| drop(entries.pop())), base.root());
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        let refused = |entries| Manifest::new(entries, 0o755).unwrap_err();
        assert!(matches!(refused(vec![file("a", "1"), file("a", "2")]), ManifestError::Order { .. }));
        assert!(matches!(refused(vec![file("a/b", "1")]), ManifestError::Orphan { .. }));
        assert!(matches!(refused(vec![file("a", "1"), file("a/b", "1")]), ManifestError::Orphan { .. }));
        assert!(matches!(refused(vec![link("l", ".."), file("l/x", "1")]), ManifestError::Orphan { .. }));
        assert!(matches!(refused(vec![link("a", "")]), ManifestError::Attributes { .. }));
        assert!(matches!(refused(vec![link("a", "x\0")]), ManifestError::Attributes { .. }));
        let wild = entry("a", EntryKind::Dir { mode: 0o10755 });
        assert!(matches!(refused(vec![wild]), ManifestError::Attributes { .. }));
        let ours = file(".ovs-cuisine.0123456789abcdef.tmp", "x");
        assert!(matches!(refused(vec![ours]), ManifestError::Attributes { .. }));
    }

    #[test]
    fn a_hard_link_leads_to_a_file_that_comes_before() {
        let hard = |path: &str, to: &str| entry(path, EntryKind::HardLink { to: RelPath::new(to).unwrap() });
        let good = Manifest::new(vec![file("a", "1"), hard("b", "a"), hard("c", "a")], 0o755).unwrap();
        assert_eq!(Manifest::decode(&good.encode().unwrap()).unwrap(), good);
        assert_ne!(
            good.root(),
            Manifest::new(vec![file("a", "1"), hard("b", "a"), file("c", "1")], 0o755).unwrap().root()
        );
        for bad in [
            vec![hard("a", "b"), file("b", "1")],
            vec![hard("a", "a")],
            vec![file("a", "1"), hard("b", "a"), hard("c", "b")],
            vec![dir("a"), hard("b", "a")],
            vec![link("a", "x"), hard("b", "a")],
            vec![hard("b", "missing")],
        ] {
            assert!(matches!(Manifest::new(bad, 0o755).unwrap_err(), ManifestError::Attributes { .. }));
        }
        let mut bytes = postcard::to_stdvec(&EntryKind::HardLink { to: RelPath::new("aa").unwrap() }).unwrap();
        let at = bytes.len() - 2;
        bytes[at..].copy_from_slice(b"..");
        assert!(postcard::from_bytes::<EntryKind>(&bytes).is_err(), "a target that leads out is no target");
    }

    #[test]
    fn extended_attributes_make_another_tree_and_holes_do_not() {
        let with = |extra: Option<Box<Extra>>| {
            let entries = vec![Entry { extra, ..file("a", "1") }];
            let manifest = Manifest::new(entries, 0o755).unwrap();
            assert_eq!(Manifest::decode(&manifest.encode().unwrap()).unwrap(), manifest);
            manifest.root()
        };
        let xattr = |value: &str| vec![Xattr { name: b"user.a".to_vec(), value: value.into() }];
        assert_eq!(with(None), with(Extra::of(true, Vec::new())));
        assert_ne!(with(None), with(Extra::of(false, xattr("1"))));
        assert_ne!(with(Extra::of(false, xattr("2"))), with(Extra::of(true, xattr("1"))));
    }

    #[test]
    fn paths_that_lead_out_are_refused_when_decoded() {
        for path in ["../x", "/etc/passwd", "a//b", "a/./b"] {
            let packed = Packed {
                root_mode: 0o755,
                entries: vec![PackedEntry {
                    shared: 0,
                    rest: path.into(),
                    mtime: Time { secs: 0, nanos: 0 },
                    kind: EntryKind::Dir { mode: 0o755 },
                    extra: None,
                }],
            };
            let bytes = postcard::to_extend(&packed, MAGIC.to_vec()).unwrap();
            assert!(matches!(Manifest::decode(&bytes), Err(ManifestError::Path { .. })), "{path}");
        }
    }

    #[test]
    fn short_bytes_cannot_unfold_into_much_memory() {
        let mut entries = vec![PackedEntry {
            shared: 0,
            rest: "x/".repeat(2047).into_bytes(),
            mtime: Time { secs: 0, nanos: 0 },
            kind: EntryKind::Dir { mode: 0 },
            extra: None,
        }];
        entries[0].rest.push(b'x');
        for _ in 0..100_000 {
            entries.push(PackedEntry {
                shared: 4095,
                rest: vec![],
                mtime: Time { secs: 0, nanos: 0 },
                kind: EntryKind::Dir { mode: 0 },
                extra: None,
            });
        }
        let bytes = postcard::to_extend(&Packed { root_mode: 0, entries }, MAGIC.to_vec()).unwrap();
        assert!(matches!(Manifest::decode(&bytes), Err(ManifestError::TooLarge { .. })));
    }

    #[test]
    fn more_entries_than_can_be_are_refused_before_they_are_unfolded() {
        let mut bytes = postcard::to_extend(&0u32, MAGIC.to_vec()).unwrap();
        bytes = postcard::to_extend(&(MAX_ENTRIES + 1), bytes).unwrap();
        assert_eq!(Manifest::decode(&bytes), Err(ManifestError::TooLarge { entries: MAX_ENTRIES + 1 }));
        assert_eq!(Manifest::decode(MAGIC), Err(ManifestError::Format));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut marked = MAGIC.to_vec();
            marked.extend_from_slice(&bytes);
            prop_assert!(Manifest::decode(&bytes).is_err() || bytes.starts_with(MAGIC));
            let _ = Manifest::decode(&marked);
        }

        #[test]
        fn a_damaged_manifest_never_panics_and_is_valid_or_refused(at in 0usize..200, value in any::<u8>()) {
            let mut bytes = sample().encode().unwrap();
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(manifest) = Manifest::decode(&bytes) {
                prop_assert!(manifest.validate().is_ok());
            }
        }
    }
}
