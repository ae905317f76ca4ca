//! What a plan carries of a tree.

use serde::{Deserialize, Serialize};

use super::Digest;

/// What a plan carries of a tree: enough to prove that a host has it already, and to ask for the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeSummary {
    /// Where the near side read it, for messages only.
    pub origin: String,
    /// Proves equality of two trees in one comparison; see `Manifest::root`.
    pub root: Digest,
    /// Digest of the encoded manifest, by which the host asks for it.
    pub manifest: Digest,
    /// Length of the encoded manifest in bytes.
    pub manifest_size: u64,
    /// Regular files.
    pub files: u64,
    /// Sum of the sizes of the regular files in bytes.
    pub bytes: u64,
    /// What the scan left out, as gitignore lines relative to the root: first the rules of `.cuisineignore` files, then
    /// those that were given as parameters. A host neither reads nor deletes what they match.
    pub ignore: Vec<String>,
    /// Whether extended attributes are part of the tree; a host leaves its own alone otherwise.
    pub xattrs: bool,
}
