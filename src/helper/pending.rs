//! Reactions that are still due: a marker is stored before the change that calls for the reaction, and taken away after
//! the reaction. Whatever happens in between, the next run finds the marker and reacts.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use super::replace::sync_directory;
use crate::plan::ComponentName;

/// The markers of one component: files named by the hash of the reacting step's key.
#[derive(Debug)]
pub(crate) struct Pending {
    directory: PathBuf,
    markers: BTreeSet<String>,
}

impl Pending {
    /// Reads which reactions of the component are due. Writes nothing.
    pub(crate) fn read(state_dir: &Path, component: &ComponentName) -> io::Result<Self> {
        let directory = state_dir.join("pending").join(component.as_str());
        let markers = match fs_err::read_dir(&directory) {
            Ok(entries) => entries
                .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<_>>()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { directory, markers })
    }

    /// Whether the step with this key still has to react.
    pub(crate) fn is_due(&self, key: &str) -> bool {
        self.markers.contains(&name_of(key))
    }

    /// Stores that the step with this key has to react. On disk when this returns.
    pub(crate) fn store(&mut self, key: &str) -> io::Result<()> {
        let name = name_of(key);
        if self.markers.contains(&name) {
            return Ok(());
        }
        let is_new = !self.directory.exists();
        fs_err::create_dir_all(&self.directory)?;
        let mut file = fs_err::File::create(self.directory.join(&name))?;
        // For people who look; only the name is read.
        io::Write::write_all(&mut file, key.as_bytes())?;
        file.sync_all()?;
        sync_directory(&self.directory)?;
        if is_new {
            for parent in self.directory.ancestors().skip(1).take(2) {
                sync_directory(parent)?;
            }
        }
        self.markers.insert(name);
        Ok(())
    }

    /// The step with this key has reacted.
    pub(crate) fn clear(&mut self, key: &str) -> io::Result<()> {
        let name = name_of(key);
        if self.markers.remove(&name) {
            fs_err::remove_file(self.directory.join(&name))?;
            sync_directory(&self.directory)?;
        }
        Ok(())
    }
}

fn name_of(key: &str) -> String {
    blake3::hash(key.as_bytes()).to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_lasts_until_it_is_cleared() {
        let state = tempfile::tempdir().unwrap();
        let component: ComponentName = "arakoon".parse().unwrap();
        let mut pending = Pending::read(state.path(), &component).unwrap();
        assert!(!pending.is_due("restart"));
        pending.store("restart").unwrap();
        let mut later = Pending::read(state.path(), &component).unwrap();
        assert!(later.is_due("restart") && !later.is_due("other"));
        assert!(!Pending::read(state.path(), &"etcd".parse().unwrap()).unwrap().is_due("restart"));
        later.clear("restart").unwrap();
        assert!(!Pending::read(state.path(), &component).unwrap().is_due("restart"));
    }
}
