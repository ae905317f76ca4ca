//! What a component no longer has on this host: its services are stopped and go, with their definitions, links, rendered
//! files and notes. Data, logs and trees stay.
//!
//! Only what is on record as the component's is touched, and of that only definitions that are still ours: a name alone
//! proves nothing.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    Finding, Obstacle, Operation,
    service_ensure::{expect_service_name, manager},
};
use crate::{
    helper::{
        failure::{OrFail as _, bad_input},
        foreseen::{Fate, Foreseen},
        holdings::{Records, Thing},
        machine::Machine,
        started::Started,
    },
    plan::{Action, Change, Diff, InitSystem, LINKS, Leftovers, NOTES, OpFailure, RUNTIME},
};

/// What goes.
#[derive(Debug, Default)]
pub(crate) struct LeftoversChange {
    services: Vec<Leaving>,
    notes: Vec<PathBuf>,
    /// What is taken off the record.
    things: Vec<Thing>,
}

/// A service that goes.
#[derive(Debug)]
struct Leaving {
    name: String,
    /// What says how it is run; none when there is none that is ours.
    definition: Option<PathBuf>,
    is_running: bool,
    /// Its link and its directory of rendered files, as far as they are there.
    files: Vec<PathBuf>,
}

impl Operation for Leftovers {
    type Change = LeftoversChange;

    fn check(&self, machine: &mut Machine<'_>) -> Result<Finding<LeftoversChange>, Obstacle> {
        let records = Records::below(&machine.state_dir());
        let (lab, component) = (machine.holder.lab, machine.holder.component);
        let own = records.of(lab, component)?;
        let mut change = LeftoversChange::default();
        for name in &self.services {
            expect_service_name(name)?;
            let thing = Thing::Service(name.clone());
            let vouched = self.vouched.contains(name) && records.other_holders(lab, component, &thing)?.is_empty();
            if own.contains(&thing) || vouched {
                change.services.push(leaving(name, machine)?);
                change.things.push(thing);
            }
        }
        for path in &self.notes {
            let thing = Thing::Note(path.clone());
            if path.as_path().parent() != Some(Path::new(NOTES)) {
                return Err(bad_input(format!("`{path}` is no note: those lie in {NOTES}")).into());
            }
            if own.contains(&thing) {
                change.notes.push(path.as_path().to_path_buf());
                change.things.push(thing);
            }
        }
        Ok(if change.things.is_empty() { Finding::Same } else { Finding::Differs(change) })
    }

    fn describe(&self, change: &LeftoversChange, _: &Machine<'_>) -> Diff {
        let removed = |target: String| Change::new(Action::Remove, target);
        let mut changes = Vec::new();
        for service in &change.services {
            let name = format!("service {}", service.name);
            if service.is_running {
                changes.push(Change::new(Action::Stop, &name));
            }
            changes.push(removed(name));
            let files = service.definition.iter().chain(&service.files);
            changes.extend(files.map(|path| removed(path.display().to_string())));
        }
        changes.extend(change.notes.iter().map(|path| removed(path.display().to_string())));
        Diff { changes }
    }

    fn foresee(&self, change: &LeftoversChange, foreseen: &mut Foreseen) {
        let files = change.services.iter().flat_map(|service| service.definition.iter().chain(&service.files));
        for path in files.chain(&change.notes) {
            foreseen.path(path, Fate::Gone);
        }
    }

    fn apply(&self, change: LeftoversChange, machine: &mut Machine<'_>) -> Result<(), OpFailure> {
        for service in &change.services {
            if service.definition.is_some() {
                manager(machine)?.remove(&service.name, machine)?;
            }
            for path in &service.files {
                let gone = if path.is_dir() { fs_err::remove_dir_all(path) } else { fs_err::remove_file(path) };
                unless_missing(gone).or_fail("remove", path.display())?;
            }
            Started::read(&machine.state_dir(), &service.name)?.forget()?;
        }
        for path in &change.notes {
            unless_missing(fs_err::remove_file(path)).or_fail("remove", path.display())?;
        }
        // Last: what is left of an interrupted run is still on record.
        let records = Records::below(&machine.state_dir());
        records.forget(machine.holder.lab, machine.holder.component, &change.things)
    }
}

/// What there is of a service.
fn leaving(name: &str, machine: &Machine<'_>) -> Result<Leaving, OpFailure> {
    let (definition, is_running) = match machine.facts.init {
        InitSystem::None => (None, false),
        InitSystem::Runit | InitSystem::Systemd => {
            let manager = manager(machine)?;
            let definition = manager.own_definition(name);
            let is_running = definition.is_some() && manager.status(name, machine)?.running;
            (definition, is_running)
        }
    };
    let files = [format!("{LINKS}/{name}.link"), format!("{RUNTIME}/{name}")].map(PathBuf::from);
    let files = files.into_iter().filter(|path| std::fs::symlink_metadata(path).is_ok()).collect();
    Ok(Leaving { name: name.to_owned(), definition, is_running, files })
}

fn unless_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
