//! What components of labs have on this host, on record: one file for each component, written before the thing itself, so
//! that whatever happens in between the record names too much rather than too little.
//!
//! A thing belongs to the component that made it last: who defines a service takes it over from whom it was recorded of.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use super::{
    failure::OrFail as _,
    replace::{Attributes, replace_with, sync_directory},
};
use crate::plan::{ComponentName, Holding, HostPath, LabName, OpFailure};

/// Longest record that is read, in bytes: none of ours is longer.
const LONGEST: u64 = 1024 * 1024;

/// One thing on record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Thing {
    /// A service that was defined here.
    Service(String),
    /// A note about one.
    Note(HostPath),
}

/// The records of a host.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    directory: PathBuf,
}

impl Records {
    /// Those below the helper's folder.
    pub(crate) fn below(state_dir: &Path) -> Self {
        Self { directory: state_dir.join("holdings") }
    }

    /// Everything on record. What cannot be read is passed over: the host tells what it knows.
    pub(crate) fn all(&self) -> Vec<Holding> {
        let mut found = Vec::new();
        for (lab, component) in self.names() {
            let Ok(things) = self.of(&lab, &component) else { continue };
            let mut holding = Holding { lab, component, services: Vec::new(), notes: Vec::new() };
            for thing in things {
                match thing {
                    Thing::Service(name) => holding.services.push(name),
                    Thing::Note(path) => holding.notes.push(path),
                }
            }
            found.push(holding);
        }
        found.sort_by(|one, other| (&one.lab, &one.component).cmp(&(&other.lab, &other.component)));
        found.truncate(Holding::MOST);
        found
    }

    /// What is on record for a component.
    pub(crate) fn of(&self, lab: &LabName, component: &ComponentName) -> Result<BTreeSet<Thing>, OpFailure> {
        let path = self.path(lab, component);
        let text = match fs_err::metadata(&path).and_then(|found| {
            if found.len() > LONGEST { Err(io::ErrorKind::InvalidData.into()) } else { fs_err::read_to_string(&path) }
        }) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(error).or_fail("read", path.display()),
        };
        Ok(text.lines().filter_map(parsed).collect())
    }

    /// Who else has a thing on record.
    pub(crate) fn other_holders(
        &self,
        lab: &LabName,
        component: &ComponentName,
        thing: &Thing,
    ) -> Result<Vec<(LabName, ComponentName)>, OpFailure> {
        let mut found = Vec::new();
        for (other_lab, other) in self.names() {
            if (&other_lab, &other) != (lab, component) && self.of(&other_lab, &other)?.contains(thing) {
                found.push((other_lab, other));
            }
        }
        Ok(found)
    }

    /// Puts a thing on record; it is on disk when this returns.
    pub(crate) fn note(&self, lab: &LabName, component: &ComponentName, thing: &Thing) -> Result<(), OpFailure> {
        let mut things = self.of(lab, component)?;
        if things.insert(thing.clone()) {
            self.write(lab, component, &things)?;
        }
        for (other_lab, other) in self.other_holders(lab, component, thing)? {
            self.forget(&other_lab, &other, [thing])?;
        }
        Ok(())
    }

    /// Takes things off the record.
    pub(crate) fn forget<'t>(
        &self,
        lab: &LabName,
        component: &ComponentName,
        gone: impl IntoIterator<Item = &'t Thing>,
    ) -> Result<(), OpFailure> {
        let before = self.of(lab, component)?;
        let mut things = before.clone();
        for thing in gone {
            things.remove(thing);
        }
        if things == before { Ok(()) } else { self.write(lab, component, &things) }
    }

    fn write(&self, lab: &LabName, component: &ComponentName, things: &BTreeSet<Thing>) -> Result<(), OpFailure> {
        let path = self.path(lab, component);
        let directory = path.parent().unwrap_or(&self.directory);
        if things.is_empty() {
            fs_err::remove_file(&path).or_fail("remove", path.display())?;
            return sync_directory(directory).or_fail("write", directory.display());
        }
        fs_err::create_dir_all(directory).or_fail("create", directory.display())?;
        let text: String = things.iter().map(line).collect();
        replace_with(&path, Attributes::mode(0o600), text.as_bytes())
    }

    fn path(&self, lab: &LabName, component: &ComponentName) -> PathBuf {
        self.directory.join(lab.as_str()).join(component.as_str())
    }

    /// Labs and components that have a record.
    fn names(&self) -> Vec<(LabName, ComponentName)> {
        let entries = |path: &Path| -> Vec<String> {
            let found = fs_err::read_dir(path).into_iter().flatten().flatten();
            found.filter_map(|entry| entry.file_name().into_string().ok()).collect()
        };
        let labs = entries(&self.directory).into_iter().filter_map(|lab| lab.parse::<LabName>().ok());
        labs.flat_map(|lab| {
            let components = entries(&self.directory.join(lab.as_str())).into_iter();
            // A file that is being written has a name that is no component's.
            components.filter_map(move |name| Some((lab.clone(), name.parse().ok()?))).collect::<Vec<_>>()
        })
        .collect()
    }
}

fn line(thing: &Thing) -> String {
    match thing {
        Thing::Service(name) => format!("service {}\n", name.escape_debug()),
        Thing::Note(path) => format!("note {}\n", path.as_str().escape_debug()),
    }
}

/// Names and paths with characters that need escaping are none that recipes make; such a line is passed over.
fn parsed(line: &str) -> Option<Thing> {
    match line.split_once(' ')? {
        ("service", name) => Some(Thing::Service(name.to_owned())),
        ("note", path) => Some(Thing::Note(path.parse().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> Thing {
        Thing::Service(name.to_owned())
    }

    #[test]
    fn a_thing_belongs_to_who_made_it_last() {
        let state = tempfile::tempdir().unwrap();
        let records = Records::below(state.path());
        let (lab, one, other): (LabName, ComponentName, ComponentName) =
            ("lab".parse().unwrap(), "one".parse().unwrap(), "other".parse().unwrap());
        assert!(records.all().is_empty());
        records.note(&lab, &one, &service("a")).unwrap();
        records.note(&lab, &one, &service("b")).unwrap();
        records.note(&lab, &one, &Thing::Note("/opt/x".parse().unwrap())).unwrap();
        records.note(&"elsewhere".parse().unwrap(), &other, &service("b")).unwrap();
        let all = records.all();
        let told: Vec<_> =
            all.iter().map(|held| (held.lab.as_str(), held.component.as_str(), held.services.len())).collect();
        assert_eq!(told, [("elsewhere", "other", 1), ("lab", "one", 1)]);
        assert_eq!(all[1].notes.len(), 1);
        records.forget(&lab, &one, records.of(&lab, &one).unwrap().iter()).unwrap();
        assert_eq!(records.all().len(), 1, "an empty record is no file");
        assert!(records.of(&lab, &one).unwrap().is_empty());
    }
}
