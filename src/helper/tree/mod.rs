//! Makes a directory of this host equal to a tree of the near side: compare, then fetch what is lacking, then switch.

use std::{io::Write, path::Path};

use crate::{
    plan::{self, Diff, FailureKind, OpFailure},
    tree::{Digest, Supplier},
};

/// What a sync needs to know besides its op: names resolved, and where the helper keeps what it remembers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place<'a> {
    /// Numeric owner of everything; nothing is changed owner when none.
    pub uid: Option<u32>,
    /// Numeric group of everything.
    pub gid: Option<u32>,
    /// The helper's own directory for indexes and manifests; nothing is remembered when none.
    pub state: Option<&'a Path>,
    /// Whether the directory may be written to; false in check mode.
    pub remember: bool,
}

/// How a directory differs from a tree, and all that is needed to change it.
#[derive(Debug)]
pub struct TreeChange {}

/// Compares a directory with a tree. None when nothing differs. Writes nothing below the directory; may ask the
/// supplier for the tree's manifest, and only when the root hash differs and the manifest is not remembered.
///
/// Errors: `BadInput` when the destination is no directory, holds ignored entries where the tree has a file, or more
/// would be deleted than the op allows; `Permission` or `Io` when it cannot be read; `Content` when what was supplied
/// is not what was announced.
pub fn compare(
    op: &plan::Sync,
    place: &Place<'_>,
    supplier: &mut dyn Supplier,
) -> Result<Option<TreeChange>, OpFailure> {
    let _ = (op, place, supplier);
    Err(OpFailure::new(FailureKind::Internal, "sync is not built yet"))
}

impl TreeChange {
    /// The difference for people.
    pub fn diff(&self) -> Diff {
        Diff { changes: Vec::new() }
    }

    /// Makes the directory equal to the tree. Until all content is here and verified, the tree stays as it was; then
    /// each file is switched by a rename. What fails leaves every file wholly old or wholly new.
    pub fn apply(self, supplier: &mut dyn Supplier) -> Result<(), OpFailure> {
        let _ = supplier;
        Err(OpFailure::new(FailureKind::Internal, "sync is not built yet"))
    }
}

/// Fetches one content of `size` bytes into `out` and verifies it. What `out` got before an error is not to be used.
pub fn fetch_blob(
    supplier: &mut dyn Supplier,
    digest: Digest,
    size: u64,
    out: &mut dyn Write,
) -> Result<(), OpFailure> {
    let _ = (supplier, digest, size, out);
    Err(OpFailure::new(FailureKind::Internal, "sync is not built yet"))
}
