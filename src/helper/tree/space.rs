//! Whether there is room for what is new, before anything is written.

use std::{collections::HashSet, path::Path};

use rustix::{
    fs::{StatVfs, fstatvfs, statvfs},
    process::geteuid,
};

use super::TreeChange;
use crate::{
    plan::{FailureKind, OpFailure},
    tree::{Digest, EntryKind},
};

/// Fails when the file system has not enough free bytes or inodes for all new files together: old versions are only
/// given up when all new ones are there.
pub(super) fn check(change: &TreeChange) -> Result<(), OpFailure> {
    let Some(free) = free(change) else {
        // Not every file system can tell; then the first write that fails does.
        return Ok(());
    };
    if free.f_blocks == 0 {
        // Nor can one that says it has no blocks at all.
        return Ok(());
    }
    let blocks = if geteuid().is_root() { free.f_bfree } else { free.f_bavail };
    let available = blocks.saturating_mul(free.f_frsize);
    let needed = needed(change, free.f_frsize.max(1));
    let entries = change.work.stages.len() as u64;
    let short = if needed > available {
        format!("{needed} bytes are needed and {available} are available")
    } else if free.f_files > 0 && entries > free.f_ffree {
        format!("{entries} inodes are needed and {} are available", free.f_ffree)
    } else {
        return Ok(());
    };
    let message = format!("not enough space to sync to `{}`: {short}", change.dest);
    let hint = format!("free some space on the file system of `{}`; `df -h` on the host shows it", change.dest);
    Err(OpFailure::new(FailureKind::NoSpace, message).hint(hint))
}

/// Bytes of new files in whole blocks. Content that only gets another name is left out, even where it turns out that a
/// copy is needed: better to try than to refuse a rename on a full disk. So are files with holes, of which nobody knows
/// how many blocks they will have.
fn needed(change: &TreeChange, block: u64) -> u64 {
    let going = change.going();
    let renamed: HashSet<Digest> = (change.state.found.iter())
        .filter(|found| going.contains(&found.path))
        .filter_map(|found| match &found.kind {
            Some(EntryKind::File { digest, .. }) => Some(*digest),
            _ => None,
        })
        .collect();
    let sizes = change.new_files().filter(|new| !new.has_holes && !renamed.contains(&new.digest)).map(|new| new.size);
    sizes.map(|size| size.div_ceil(block).saturating_mul(block)).fold(0, u64::saturating_add)
}

fn free(change: &TreeChange) -> Option<StatVfs> {
    match &change.state.root {
        Some((root, _)) => fstatvfs(root).ok(),
        None => change.dest.as_path().ancestors().skip(1).find_map(|path: &Path| statvfs(path).ok()),
    }
}
