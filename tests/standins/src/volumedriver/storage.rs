//! The files behind the mount: below the SCO cache directory, and never more than its size.

use std::{
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::Mutex,
};

use fuser::Errno;

use super::errno::errno;
use crate::lines::locked;

/// Bytes of one block in `st_blocks`, stat(2).
const BLOCK: u64 = 512;

/// A directory with a limit.
pub(crate) struct Storage {
    pub(crate) root: PathBuf,
    capacity: u64,
    used: Mutex<u64>,
    pub(crate) suffix: String,
}

impl Storage {
    /// Counts what is there.
    pub(crate) fn open(root: PathBuf, capacity: u64, suffix: &str) -> io::Result<Self> {
        let used = Mutex::new(count(&root)?);
        Ok(Self { root, capacity, used, suffix: suffix.to_owned() })
    }

    /// Bytes in all and in use.
    pub(crate) fn usage(&self) -> (u64, u64) {
        (self.capacity, *locked(&self.used))
    }

    /// Writes all of it or says that the cache is full.
    pub(crate) fn write(&self, file: &std::fs::File, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let mut used = locked(&self.used);
        let before = file.metadata().map_err(|error| errno(&error))?;
        let is_there = before.blocks() * BLOCK >= before.size() && offset + data.len() as u64 <= before.size();
        if !is_there && *used + data.len() as u64 > self.capacity {
            return Err(Errno::ENOSPC);
        }
        let written = file.write_all_at(data, offset);
        let after = file.metadata().map_err(|error| errno(&error))?.blocks();
        *used = (*used + after * BLOCK).saturating_sub(before.blocks() * BLOCK);
        written.map_err(|error| errno(&error))
    }

    /// Reads what is there, at most this much.
    pub(crate) fn read(file: &std::fs::File, offset: u64, most: usize) -> io::Result<Vec<u8>> {
        let mut data = vec![0; most];
        let mut count = 0;
        while count < most {
            match file.read_at(&mut data[count..], offset + count as u64)? {
                0 => break,
                more => count += more,
            }
        }
        data.truncate(count);
        Ok(data)
    }

    /// Gives a file another length; a longer one has a hole.
    pub(crate) fn resize(&self, file: &std::fs::File, length: u64) -> io::Result<()> {
        let mut used = locked(&self.used);
        let before = file.metadata()?.blocks();
        file.set_len(length)?;
        *used = (*used + file.metadata()?.blocks() * BLOCK).saturating_sub(before * BLOCK);
        Ok(())
    }

    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        let mut used = locked(&self.used);
        let blocks = path.symlink_metadata()?.blocks();
        rustix::fs::unlink(path)?;
        *used = used.saturating_sub(blocks * BLOCK);
        Ok(())
    }

    /// A file that replaces another one frees its space.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut used = locked(&self.used);
        let replaced = to.symlink_metadata().map_or(0, |metadata| metadata.blocks());
        rustix::fs::rename(from, to)?;
        *used = used.saturating_sub(replaced * BLOCK);
        Ok(())
    }

    /// The names of the volumes: files with the suffix of raw disks, without it.
    pub(crate) fn volumes(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut ahead = vec![self.root.clone()];
        while let Some(directory) = ahead.pop() {
            for entry in fs_err::read_dir(&directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    ahead.push(path);
                } else if let Ok(name) = path.strip_prefix(&self.root) {
                    found.extend(name.to_string_lossy().strip_suffix(&self.suffix).map(str::to_owned));
                }
            }
        }
        found.sort();
        found
    }
}

fn count(directory: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { count(&entry.path())? } else { metadata.blocks() * BLOCK };
    }
    Ok(sum)
}
