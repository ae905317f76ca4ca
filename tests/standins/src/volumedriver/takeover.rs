//! A volume moves from one node to another: its content is copied, the registry changes, the node that had it forgets it.
//!
//! The real one stops the volume first and starts it elsewhere from the backend. Here what is written meanwhile is lost, and
//! who does not answer takes what it has along: the stand-in has nothing of a disk in its backend.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::volumes::{Volumes, Whereabouts};

/// Bytes of a volume that travel at once.
const PIECE: u64 = 1 << 20;
/// Bytes of a block of a file system.
const BLOCK: usize = 4096;
/// Names of files that are no volumes yet: without the suffix of volumes.
const UNFINISHED: &str = ".moving";

/// Makes a volume this node's.
pub(crate) fn take(volumes: &Volumes, name: &str) -> Result<(), String> {
    let owner = match volumes.find(name)? {
        Whereabouts::Here => return Ok(()),
        Whereabouts::Nowhere => return Err(format!("no volume {name}")),
        Whereabouts::At(owner) => owner,
    };
    let path = volumes.storage.root.join(format!("{name}{UNFINISHED}"));
    copy(volumes, &owner, name, &path).inspect_err(|_| {
        // What is left of an earlier attempt is overwritten by the next.
        let _ = volumes.storage.remove(&path);
    })?;
    volumes.hand_over(name, &owner)?;
    volumes.storage.rename(&path, &volumes.path(name)).map_err(|error| error.to_string())?;
    volumes.ask(&owner, &json!({"op": "give_up", "volume": name})).map(|_| ())
}

fn copy(volumes: &Volumes, owner: &str, name: &str, path: &std::path::Path) -> Result<(), String> {
    let size = volumes.ask(owner, &json!({"op": "size", "volume": name}))?;
    let size = size.as_u64().ok_or("a size that is no number")?;
    let file = fs_err::File::create(path).map_err(|error| error.to_string())?;
    volumes.storage.resize(file.file(), size).map_err(|error| error.to_string())?;
    for offset in (0..size).step_by(usize::try_from(PIECE).unwrap_or(usize::MAX)) {
        let length = PIECE.min(size - offset);
        let piece = volumes.ask(owner, &json!({"op": "read", "volume": name, "offset": offset, "length": length}))?;
        let piece = STANDARD.decode(piece.as_str().unwrap_or_default()).map_err(|error| error.to_string())?;
        // Holes stay holes.
        let blocks = (offset..).step_by(BLOCK).zip(piece.chunks(BLOCK));
        for (at, block) in blocks.filter(|(_, block)| block.iter().any(|byte| *byte != 0)) {
            let written = volumes.storage.write(file.file(), at, block);
            written.map_err(|error| format!("errno {}", i32::from(error)))?;
        }
    }
    file.file().sync_all().map_err(|error| error.to_string())
}

/// Forgets a volume that another node has taken.
pub(crate) fn give_up(volumes: &Volumes, name: &str) -> Result<Value, String> {
    match volumes.owner(name)? {
        Some(owner) if !volumes.is_own(&owner) => {
            volumes.storage.remove(&volumes.path(name)).map_err(|error| error.to_string())?;
            Ok(Value::Null)
        }
        _ => Err(format!("volume {name} is this node's")),
    }
}
