//! `service_ensure`: a service, with runit or systemd, whichever is process 1.
//!
//! Before a service is touched its ports are looked at: one that another process has is an error. A service that leaves its
//! port to this one in the same run is stopped for it.
//!
//! A running service is restarted when its definition changes or when a step that it depends on changed something. A
//! service that does not run is only started: it reads everything afresh anyway.

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{Finding, Obstacle, Operation, limits, ownership::attribute, runit::Runit, systemd::Systemd};
use crate::{
    helper::{
        failure::{OrFail, bad_input, io_failure},
        foreseen::Foreseen,
        machine::{Machine, Reaction},
        ports::{ON_ITS_WAY, Ports, Wanted},
        replace::{Attributes, replace_with},
    },
    plan::{
        Action, Change, Detail, Diff, FailureKind, InitSystem, OpFailure, Principal, ServiceDefinition, ServiceEnsure,
    },
};

/// What a definition of ours says of itself.
pub(super) const MARK: &str = "Written by ovs-cuisine; changes made by hand are overwritten.";
/// A service that dies this soon after its start has failed.
pub(super) const SETTLE: Duration = Duration::from_secs(1);
/// One that listens has done with its beginning, and is watched for so much longer.
const STEADY: Duration = Duration::from_millis(200);
/// How long a started service may take until it runs.
const START_TIME: Duration = Duration::from_secs(15);
pub(super) const PAUSE: Duration = Duration::from_millis(20);
/// Seconds that a service whose definition does not say it may take to stop.
pub(super) const STOP_TIME: u64 = 10;

/// A service manager.
pub(super) trait Manager {
    /// The files that define a service.
    fn files(&self, name: &str, definition: &ServiceDefinition) -> Vec<ServiceFile>;

    /// What is known of a service.
    fn status(&self, name: &str, machine: &Machine<'_>) -> Result<Status, OpFailure>;

    /// Takes changed files to notice; called after they were written, before anything else is done.
    fn reload(&self, machine: &Machine<'_>) -> Result<(), OpFailure>;

    /// Sees to it that the service is known and starts at boot, or does not.
    fn set_enabled(&self, name: &str, enabled: bool, machine: &Machine<'_>) -> Result<(), OpFailure>;

    /// Starts, stops or restarts; comes back when that is under way at least.
    /// A service may take so many seconds to stop.
    fn act(&self, name: &str, action: Action, patience: u64, machine: &Machine<'_>) -> Result<(), OpFailure>;

    /// Seconds that a service which is there may take to stop, by its own definition.
    fn patience(&self, name: &str) -> u64;

    /// What says how a service is run, a file or a directory, when it is ours.
    fn own_definition(&self, name: &str) -> Option<PathBuf>;

    /// Stops a service that we defined, and takes away all that makes it one. Its log stays.
    fn remove(&self, name: &str, machine: &Machine<'_>) -> Result<(), OpFailure>;

    /// A mark in the service's log, to be taken before a start.
    fn log_mark(&self, name: &str) -> u64;

    /// The last lines of the service's log after the mark.
    fn log_tail(&self, name: &str, mark: u64, machine: &Machine<'_>) -> Vec<String>;
}

/// A file of a service's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceFile {
    pub(super) path: PathBuf,
    pub(super) mode: u32,
    pub(super) content: String,
    /// Whether a running service takes a change of it by a restart only.
    pub(super) restarts: bool,
    /// Whether people want to see what is in it.
    pub(super) is_told: bool,
}

/// What is known of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Status {
    /// It is defined somewhere.
    pub(super) known: bool,
    /// It runs.
    pub(super) running: bool,
    /// It starts at boot; None when the manager has no say in it.
    pub(super) enabled: Option<bool>,
    /// Tells one life of the service from the next.
    pub(super) life: String,
    /// Its manager holds definitions that are older than the files; they are to be read again first.
    pub(super) stale: bool,
    /// For how long it must run to be believed. Zero when it has said itself that it runs, or its start has ended well.
    pub(super) trial: Duration,
}

/// What has to be done.
#[derive(Debug)]
pub(crate) struct ServiceChange {
    files: Vec<(ServiceFile, Option<String>)>,
    stale: bool,
    enable: bool,
    /// Services that are stopped first: they leave a port to this one.
    makes_way: Vec<String>,
    action: Option<(Action, Option<String>)>,
}

impl Operation for ServiceEnsure {
    type Change = ServiceChange;

    fn check(&self, machine: &mut Machine<'_>) -> Result<Finding<ServiceChange>, Obstacle> {
        expect_service_name(&self.name)?;
        let manager = manager(machine)?;
        let files = self.differing_files(manager.as_ref(), machine)?;
        let status = manager.status(&self.name, machine)?;
        if self.definition.is_none() && !status.known {
            if !self.running && !self.enabled {
                return Ok(Finding::Same);
            }
            return machine.missing(
                &format!("service `{}`", self.name),
                "install the package that brings it, or say how it is run: service_ensure(..., argv = [...])",
            );
        }
        let makes_way = self.expect_ports(&status, machine)?;
        let redefined = files.iter().any(|(file, _)| file.restarts);
        let action = match self.wanted_action(&status, redefined, &machine.reaction) {
            None if !makes_way.is_empty() => {
                Some((Action::Restart, Some("it gets a port that another service had".to_owned())))
            }
            action => action,
        };
        let enable = status.enabled.is_some_and(|enabled| enabled != self.enabled);
        let perhaps = match (&machine.reaction, &action) {
            (Reaction::Perhaps(why), None) if status.running && self.running => Some(why.clone()),
            _ => None,
        };
        if let Some(why) = perhaps.filter(|_| files.is_empty() && !enable) {
            let change = ServiceChange { files, stale: status.stale, enable, makes_way, action };
            return Ok(Finding::Unknown { why, change });
        }
        if files.is_empty() && !enable && action.is_none() {
            return Ok(Finding::Same);
        }
        Ok(Finding::Differs(ServiceChange { files, stale: status.stale, enable, makes_way, action }))
    }

    fn describe(&self, change: &ServiceChange, machine: &Machine<'_>) -> Diff {
        let mut changes = Vec::new();
        for (file, before) in &change.files {
            let action = if before.is_some() { Action::Modify } else { Action::Create };
            let text = Detail::Text { before: before.clone().unwrap_or_default(), after: file.content.clone() };
            let told = Change::new(action, file.path.display().to_string());
            // Who reads a diff looks for how it is run; the rest follows from its name.
            changes.push(match file.is_told {
                _ if machine.sensitive => told.with(Detail::SecretContent),
                true => told.with(text),
                false => told,
            });
        }
        let target = format!("service {}", self.name);
        if change.enable {
            let before = Some((!self.enabled).to_string());
            changes.push(Change::new(Action::Modify, &target).with(attribute(
                "enabled",
                before,
                self.enabled.to_string(),
            )));
        }
        for name in &change.makes_way {
            let text = format!("it leaves a port to {}", self.name);
            changes.push(Change::new(Action::Stop, format!("service {name}")).with(Detail::Reason { text }));
        }
        if let Some((action, reason)) = &change.action {
            let mut told = Change::new(*action, target);
            told.details.extend(reason.iter().map(|text| Detail::Reason { text: text.clone() }));
            changes.push(told);
        }
        Diff { changes }
    }

    fn foresee(&self, _: &ServiceChange, _: &mut Foreseen) {}

    fn apply(&self, change: ServiceChange, machine: &mut Machine<'_>) -> Result<(), OpFailure> {
        let manager = manager(machine)?;
        for name in &change.makes_way {
            manager.act(name, Action::Stop, manager.patience(name), machine)?;
        }
        for (file, _) in &change.files {
            let directory = file.path.parent().unwrap_or(&file.path);
            fs_err::create_dir_all(directory).or_fail("create", directory.display())?;
            replace_with(&file.path, Attributes::mode(file.mode), file.content.as_bytes())?;
        }
        if change.stale || !change.files.is_empty() {
            manager.reload(machine)?;
        }
        let mark = manager.log_mark(&self.name);
        if change.enable || !change.files.is_empty() {
            manager.set_enabled(&self.name, self.enabled, machine)?;
        }
        let Some((action, _)) = change.action else { return Ok(()) };
        // One that ended by itself comes back by itself, perhaps too early: as long as another still had its port.
        let came_back = action == Action::Start && manager.status(&self.name, machine)?.running;
        let action = if came_back { Action::Restart } else { action };
        manager
            .act(&self.name, action, self.patience(), machine)
            .map_err(|failure| self.with_log(failure, manager.as_ref(), mark, machine))?;
        if action == Action::Stop {
            return Ok(());
        }
        self.settle(manager.as_ref(), machine)
            .map_err(|failure| self.with_log(failure, manager.as_ref(), mark, machine))
    }
}

impl ServiceEnsure {
    /// Files of the definition that are not as wanted, with what is there.
    fn differing_files(
        &self,
        manager: &dyn Manager,
        machine: &Machine<'_>,
    ) -> Result<Vec<(ServiceFile, Option<String>)>, Obstacle> {
        let Some(definition) = &self.definition else { return Ok(Vec::new()) };
        expect_definition(definition)?;
        limits::expect(definition)?;
        if let Some(user) = &definition.user
            && let Err(Obstacle::Failure(failure)) = machine.user_id(&Principal::Name(user.clone()))
        {
            return Err(failure.into());
        }
        let mut differing = Vec::new();
        for file in manager.files(&self.name, definition) {
            let before = match fs_err::read(&file.path) {
                Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(io_failure("read", file.path.display(), &error).into()),
            };
            let mode = fs_err::metadata(&file.path)
                .map(|found| std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o7777);
            if before.as_ref() != Some(&file.content) || mode.ok() != Some(file.mode) {
                differing.push((file, before));
            }
        }
        Ok(differing)
    }

    /// That nobody else has its ports, once it runs; gives the services that leave theirs to it.
    fn expect_ports(&self, status: &Status, machine: &Machine<'_>) -> Result<Vec<String>, Obstacle> {
        if !self.running || self.ports.is_empty() {
            return Ok(Vec::new());
        }
        let wanted =
            Wanted { service: &self.name, ports: &self.ports, yields: &self.yields, is_running: status.running };
        let patience = if machine.is_check() { Duration::ZERO } else { ON_ITS_WAY };
        match Ports::of_machine(machine.facts.init).expect(&wanted, patience, machine.stop) {
            Ok(names) => Ok(names),
            Err(failure) => match machine.foreseen.maker_of_anything() {
                // An earlier step may end who has it.
                Some(maker) => Err(Obstacle::Unclear(format!("{}; `{maker}` may end that", failure.message))),
                None => Err(failure.into()),
            },
        }
    }

    fn patience(&self) -> u64 {
        self.definition.as_ref().and_then(|definition| definition.stop_timeout).unwrap_or(STOP_TIME)
    }

    fn wanted_action(&self, status: &Status, redefined: bool, reaction: &Reaction) -> Option<(Action, Option<String>)> {
        match (self.running, status.running) {
            (true, false) => Some((Action::Start, None)),
            (false, true) => Some((Action::Stop, None)),
            (false, false) => None,
            (true, true) if redefined => Some((Action::Restart, Some("its definition changes".to_owned()))),
            (true, true) => match reaction {
                Reaction::Due(why) => Some((Action::Restart, Some(why.clone()))),
                Reaction::None | Reaction::Perhaps(_) => None,
            },
        }
    }

    /// Waits until the service runs, and then a little, to see that it goes on running.
    fn settle(&self, manager: &dyn Manager, machine: &Machine<'_>) -> Result<(), OpFailure> {
        let started = Instant::now();
        let mut status = manager.status(&self.name, machine)?;
        while !status.running {
            if started.elapsed() >= START_TIME {
                let message = format!("service `{}` did not start within {} s", self.name, START_TIME.as_secs());
                return Err(OpFailure::new(FailureKind::Timeout, message));
            }
            machine.pause(PAUSE)?;
            status = manager.status(&self.name, machine)?;
        }
        let Status { life, trial, .. } = status;
        let mut end = Instant::now() + trial;
        let mut listens = self.ports.is_empty();
        while Instant::now() < end {
            machine.pause(PAUSE)?;
            if !listens && Ports::of_machine(machine.facts.init).are_of(&self.name, &self.ports) {
                listens = true;
                end = end.min(Instant::now() + STEADY);
            }
            let status = manager.status(&self.name, machine)?;
            if !status.running || status.life != life {
                let message = format!("service `{}` ended within a second of its start", self.name);
                return Err(OpFailure::new(FailureKind::Command, message)
                    .hint("the last lines of its log are above; running its command by hand may tell more"));
            }
        }
        Ok(())
    }

    fn with_log(&self, failure: OpFailure, manager: &dyn Manager, mark: u64, machine: &Machine<'_>) -> OpFailure {
        let tail = if machine.sensitive { Vec::new() } else { manager.log_tail(&self.name, mark, machine) };
        if tail.is_empty() { failure } else { failure.output(tail) }
    }
}

/// The service manager of this machine.
pub(super) fn manager(machine: &Machine<'_>) -> Result<Box<dyn Manager>, OpFailure> {
    match machine.facts.init {
        InitSystem::Runit => Ok(Box::new(Runit::find()?)),
        InitSystem::Systemd => Ok(Box::new(Systemd)),
        InitSystem::None => Err(OpFailure::new(
            FailureKind::Unsupported,
            "the host has no service manager: process 1 is neither runit nor systemd",
        )
        .hint("use an image with runit or systemd as process 1, such as `ovs-cuisine image build` makes")),
    }
}

pub(super) fn expect_service_name(name: &str) -> Result<(), OpFailure> {
    let fits = (1..=128).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.' | '@' | ':'));
    if fits { Ok(()) } else { Err(bad_input(format!("`{name}` is not the name of a service"))) }
}

fn expect_definition(definition: &ServiceDefinition) -> Result<(), OpFailure> {
    if !definition.argv.first().is_some_and(|program| program.starts_with('/')) {
        return Err(bad_input("the program of a service must be an absolute path"));
    }
    for (name, _) in &definition.environment {
        let fits = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
        if !fits {
            return Err(bad_input(format!("`{name}` is not the name of a variable")));
        }
    }
    let values = definition.environment.iter().map(|(_, value)| value).chain(&definition.argv);
    if values.into_iter().any(|value| value.contains('\0')) {
        return Err(bad_input("a service's arguments and variables cannot hold a zero byte"));
    }
    for name in definition.binds_to.iter().chain(&definition.after) {
        expect_service_name(name)?;
    }
    if definition.user.as_deref().is_some_and(|user| super::group_ensure::expect_account_name(user, "user").is_err()) {
        return Err(bad_input("a service's user must be the name of an account"));
    }
    Ok(())
}
