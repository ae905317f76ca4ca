//! What the mount does with volumes of other nodes: asked of the node that has them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fuser::Errno;
use serde_json::json;

use super::volumes::Volumes;

/// Numbers of volumes of other nodes are from here on; those of files are lower.
const FIRST_NUMBER: u64 = 1 << 63;

/// What a node tells of a volume.
pub(crate) struct Told {
    pub(crate) size: u64,
    pub(crate) blocks: u64,
    pub(crate) mode: u32,
    /// Seconds since 1970.
    pub(crate) mtime: u64,
}

/// The inode number of a volume of another node: FNV-1a of its name.
pub(crate) fn number(name: &str) -> u64 {
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, hash) | FIRST_NUMBER
}

/// Looks at a volume of another node; `ENOENT` when nobody has it.
pub(crate) fn stat(volumes: &Volumes, name: &str) -> Result<Told, Errno> {
    let told = volumes.ask_for(name, &json!({"op": "stat", "volume": name}))?;
    let number = |member: &str| told[member].as_u64().ok_or(Errno::EIO);
    let mode = u32::try_from(number("mode")?).map_err(|_| Errno::EIO)?;
    Ok(Told { size: number("size")?, blocks: number("blocks")?, mode, mtime: number("mtime")? })
}

pub(crate) fn read(volumes: &Volumes, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let request = json!({"op": "read", "volume": name, "offset": offset, "length": length});
    let data = volumes.ask_for(name, &request)?;
    STANDARD.decode(data.as_str().unwrap_or("")).map_err(|_| Errno::EIO)
}

pub(crate) fn write(volumes: &Volumes, name: &str, offset: u64, data: &[u8]) -> Result<(), Errno> {
    let request = json!({"op": "write", "volume": name, "offset": offset, "data": STANDARD.encode(data)});
    volumes.ask_for(name, &request).map(|_| ())
}

pub(crate) fn resize(volumes: &Volumes, name: &str, size: u64) -> Result<(), Errno> {
    volumes.ask_for(name, &json!({"op": "resize", "volume": name, "size": size})).map(|_| ())
}

pub(crate) fn remove(volumes: &Volumes, name: &str) -> Result<(), Errno> {
    volumes.ask_for(name, &json!({"op": "remove", "volume": name})).map(|_| ())
}
