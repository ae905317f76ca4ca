//! Copies by hand: what one side offers, and how the other one puts it into place.

use serde::{Deserialize, Serialize};

use super::HostPath;
use crate::tree::{Time, TreeSummary};

/// A file or directory that one side offers to the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// What it is.
    pub kind: OfferKind,
    /// Of a directory, all that is in it; of a file, a tree that holds nothing else.
    pub tree: TreeSummary,
    /// Sockets, pipes and devices that are left out: the first ones, for people.
    pub skipped: Vec<String>,
    /// How many are left out.
    pub skipped_count: u64,
}

/// What is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OfferKind {
    /// A regular file. Its name in the tree means nothing.
    File,
    /// A directory; the tree's manifest says its permission bits.
    Directory {
        /// When it was last modified.
        mtime: Time,
    },
}

/// A file or directory that is put into place, as cp(1) does with `-a`. What else is there stays and is not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// Where, in the sense of `landing`.
    pub dest: HostPath,
    /// How `dest` is understood.
    pub landing: Landing,
    /// The name that it gets in a directory, one part of a path; none when the contents of a directory are meant, as with
    /// `cp -a DIR/. DEST`.
    pub name: Option<Vec<u8>>,
    /// What it is.
    pub kind: OfferKind,
    /// Its content.
    pub tree: TreeSummary,
    /// Whether set-user-id, set-group-id and sticky bits are kept. Not so for what a host says: it would choose what runs
    /// as the operator.
    pub special_bits: bool,
}

/// How the destination of a [`Put`] is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Landing {
    /// Into it when it is a directory, else under its name.
    Either,
    /// Into it; a directory that is put there may make it, nothing else may.
    Inside,
    /// Into it; it is made, with parents, when it is missing.
    InsideNew,
}
