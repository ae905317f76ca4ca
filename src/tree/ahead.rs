//! Content that is sent before it is asked for, because the host probably lacks it: a right guess saves round trips, a
//! wrong one costs bytes.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Digest, ManifestPatch};

/// Most bytes of contents that are sent ahead of one plan: what arrives within a few round trips anyway.
pub const MAX_AHEAD: usize = 1024 * 1024;
/// Most entries that a manifest patch sent ahead names.
pub const MAX_PATCH: usize = 200_000;

/// What is sent ahead of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ahead {
    /// Whole contents; a host hashes what it uses.
    pub contents: Vec<Vec<u8>>,
    /// Manifests of the plan's trees, by the digest of their encoding.
    pub patches: Vec<(Digest, ManifestPatch)>,
    /// How closely the host has to look.
    pub care: Care,
}

/// How closely a host looks at its directories before it changes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Care {
    /// At everything, and forgets it again.
    #[default]
    Whole,
    /// At everything, and keeps in memory what it found: more plans about the same trees will come.
    Keep,
    /// Only at what changes, where it has kept the rest since an earlier plan. What others changed elsewhere meanwhile
    /// is found at the next look at everything.
    Follow,
}

impl Ahead {
    /// Whether there is anything to send.
    pub fn is_empty(&self) -> bool {
        self.contents.is_empty() && self.patches.is_empty() && self.care == Care::Whole
    }

    /// Adds another one's contents and patches.
    pub fn extend(&mut self, other: &Self) {
        self.contents.extend_from_slice(&other.contents);
        self.patches.extend_from_slice(&other.patches);
    }
}

/// A tree that a host remembers: near sides send what is new since then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The directory's [`place_name`].
    pub place: String,
    /// Digest of the encoded manifest that was applied to it last.
    pub manifest: Digest,
}

/// The name under which both sides remember things of a directory of a host.
pub fn place_name(dest: &str) -> String {
    Digest::of(dest.as_bytes()).short()
}

/// What came ahead of a plan, on the host.
#[derive(Debug, Default)]
pub struct Larder {
    contents: HashMap<Digest, Vec<u8>>,
    patches: HashMap<Digest, ManifestPatch>,
    care: Care,
}

impl Larder {
    /// Takes in what came; none when it is more than is allowed.
    pub fn of(ahead: Ahead) -> Option<Self> {
        let bytes = ahead.contents.iter().map(Vec::len).fold(0usize, usize::saturating_add);
        let entries = ahead.patches.iter().map(|(_, patch)| patch.len()).fold(0usize, usize::saturating_add);
        if bytes > MAX_AHEAD || entries > MAX_PATCH {
            return None;
        }
        let contents = ahead.contents.into_iter().map(|content| (Digest::of(&content), content)).collect();
        Some(Self { contents, patches: ahead.patches.into_iter().collect(), care: ahead.care })
    }

    /// A content with this digest.
    pub fn content(&self, digest: &Digest) -> Option<&[u8]> {
        self.contents.get(digest).map(Vec::as_slice)
    }

    /// How closely to look.
    pub fn care(&self) -> Care {
        self.care
    }

    /// How the manifest with this digest came about.
    pub fn patch(&self, manifest: &Digest) -> Option<&ManifestPatch> {
        self.patches.get(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_found_by_what_it_really_is() {
        let ahead = Ahead { contents: vec![b"one".to_vec(), b"two".to_vec()], patches: Vec::new(), care: Care::Whole };
        let larder = Larder::of(ahead).unwrap();
        assert_eq!(larder.content(&Digest::of(b"one")), Some(&b"one"[..]));
        assert_eq!(larder.content(&Digest::of(b"three")), None);
    }

    #[test]
    fn too_much_is_refused() {
        assert!(
            Larder::of(Ahead { contents: vec![vec![0; MAX_AHEAD]], patches: Vec::new(), care: Care::Whole }).is_some()
        );
        let ahead = Ahead { contents: vec![vec![0; MAX_AHEAD], vec![1]], patches: Vec::new(), care: Care::Whole };
        assert!(Larder::of(ahead).is_none());
    }
}
