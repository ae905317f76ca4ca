//! The fragments of an ASD: files below its home, within its capacity.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, fallocate};

use super::settings::AsdSettings;
use crate::limits;

/// The directory below an ASD's home.
pub(crate) struct Blobs {
    dir: PathBuf,
    used: u64,
    most: u64,
    use_fallocate: bool,
    sync: bool,
}

impl Blobs {
    /// Makes the directory when it is not there, and counts what it holds.
    pub(crate) fn open(settings: &AsdSettings) -> Result<Self, String> {
        let dir = settings.home.join("blobs");
        fs_err::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let mut used = 0;
        for entry in fs_err::read_dir(&dir).map_err(|error| error.to_string())?.flatten() {
            used += entry.metadata().map_or(0, |metadata| metadata.len());
        }
        let most = most(settings)?;
        Ok(Self { dir, used, most, use_fallocate: settings.use_fallocate, sync: settings.sync })
    }

    /// Takes over a new capacity.
    pub(crate) fn resize(&mut self, settings: &AsdSettings) -> Result<(), String> {
        self.most = most(settings)?;
        Ok(())
    }

    /// The bytes in use and the most that may be.
    pub(crate) fn usage(&self) -> (u64, u64) {
        (self.used, self.most)
    }

    fn path(&self, key: &str) -> Result<PathBuf, String> {
        // The key becomes a file name, so it may not lead out of the directory.
        let is_plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if is_plain && !key.is_empty() { Ok(self.dir.join(key)) } else { Err("Unknown_key".to_owned()) }
    }

    pub(crate) fn put(&mut self, key: &str, data: &[u8]) -> Result<(), String> {
        let path = self.path(key)?;
        let size = data.len() as u64;
        if self.used + size > self.most {
            return Err("Osd_exn: Full".to_owned());
        }
        let before = fs_err::metadata(&path).map_or(0, |metadata| metadata.len());
        self.write(&path, data).map_err(|error| format!("Osd_exn: {error}"))?;
        self.used = self.used + size - before;
        Ok(())
    }

    fn write(&self, path: &Path, data: &[u8]) -> std::io::Result<()> {
        // A fragment is there as a whole or not at all.
        let beside = path.with_extension("new");
        let mut file = fs_err::File::create(&beside)?;
        if self.use_fallocate && !data.is_empty() {
            fallocate(file.file(), FallocateFlags::empty(), 0, data.len() as u64)?;
        }
        file.write_all(data)?;
        if self.sync {
            file.sync_data()?;
        }
        fs_err::rename(&beside, path)
    }

    pub(crate) fn get(&self, key: &str) -> Result<Vec<u8>, String> {
        fs_err::read(self.path(key)?).map_err(|_| "Unknown_key".to_owned())
    }

    pub(crate) fn delete(&mut self, key: &str) -> Result<(), String> {
        let path = self.path(key)?;
        let size = fs_err::metadata(&path).map_err(|_| "Unknown_key".to_owned())?.len();
        fs_err::remove_file(&path).map_err(|error| error.to_string())?;
        self.used -= size;
        Ok(())
    }

    pub(crate) fn count(&self) -> usize {
        fs_err::read_dir(&self.dir).map_or(0, Iterator::count)
    }
}

/// `limit` percent of the capacity; without one, of the file system.
fn most(settings: &AsdSettings) -> Result<u64, String> {
    let capacity = match settings.capacity {
        Some(capacity) => capacity,
        None => limits::space(&settings.home)?.1,
    };
    Ok(capacity / 100 * settings.limit)
}
