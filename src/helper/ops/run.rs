//! `run`: a shell command, guarded.
//!
//! Guards change nothing, so a check runs them too. A command that is declared to change nothing is itself run by a
//! check: there is no other way to tell whether it would succeed.

use std::time::Duration;

use super::{Finding, Obstacle, Operation};
use crate::{
    helper::{
        accounts::identity_of,
        failure::{NEEDS_ROOT, OrFail},
        foreseen::Foreseen,
        machine::{Found, Machine, cancelled},
        process::{Ended, Ending, Job},
    },
    plan::{Action, Change, Detail, Diff, FailureKind, OpFailure, Principal, Run, RunGuard, Secret},
};

/// How long a guard may take when its command may take longer; seconds.
const GUARD_TIME: Duration = Duration::from_secs(60);
/// What a shell says when it does not find a command (POSIX, 2.8.2).
const NOT_FOUND: i32 = 127;

/// Why the command runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ToRun {
    reason: String,
}

/// What a guard says.
enum Says {
    Run(String),
    NoNeed,
    NotNow(String),
    Unclear(String),
}

impl Operation for Run {
    type Change = ToRun;

    fn check(&self, machine: &mut Machine<'_>) -> Result<Finding<ToRun>, Obstacle> {
        let mut reasons = Vec::new();
        let mut unclear = None;
        for guard in &self.guards {
            match self.ask(guard, machine)? {
                Says::Run(reason) => reasons.push(reason),
                Says::NoNeed => return Ok(Finding::Same),
                Says::NotNow(why) => return Ok(Finding::Skipped { why }),
                Says::Unclear(why) => unclear = unclear.or(Some(why)),
            }
        }
        let reason = if reasons.is_empty() { "runs every time".to_owned() } else { reasons.join(" and ") };
        let change = ToRun { reason };
        if !machine.is_check() {
            return Ok(Finding::Differs(change));
        }
        if let Some(why) = unclear {
            return Ok(Finding::Unknown { why, change });
        }
        if self.changes {
            // That it could run at all is part of the verdict; what is still to be made may be missing.
            if let Err(Obstacle::Failure(failure)) = self.prepare(machine) {
                return Err(failure.into());
            }
            return Ok(Finding::Differs(change));
        }
        self.try_in_check(change, machine)
    }

    fn describe(&self, change: &ToRun, _: &Machine<'_>) -> Diff {
        Diff::of(Change::new(Action::Run, self.title()).with(Detail::Reason { text: change.reason.clone() }))
    }

    fn foresee(&self, _: &ToRun, _: &mut Foreseen) {}

    fn apply(&self, _: ToRun, machine: &mut Machine<'_>) -> Result<(), OpFailure> {
        let job = self.prepare(machine).map_err(|obstacle| match obstacle {
            Obstacle::Failure(failure) => failure,
            Obstacle::Unclear(why) => OpFailure::new(FailureKind::BadInput, why),
        })?;
        let hidden = machine.sensitive;
        machine.sensitive |= self.sensitive;
        let ended = machine.run(&job, &self.title());
        let judged = ended.and_then(|ended| self.judge(&ended, machine));
        machine.sensitive = hidden;
        judged
    }

    fn is_change(&self) -> bool {
        self.changes
    }
}

impl Run {
    fn judge(&self, ended: &Ended, machine: &Machine<'_>) -> Result<(), OpFailure> {
        match ended.ending {
            Ending::Exited(status) if self.success.contains(&status) => Ok(()),
            Ending::Exited(0) if self.success.is_empty() => Ok(()),
            _ => Err(machine.command_failure(&self.title(), ended)),
        }
    }

    /// A command that changes nothing tells by running.
    fn try_in_check(&self, change: ToRun, machine: &mut Machine<'_>) -> Result<Finding<ToRun>, Obstacle> {
        let job = self.prepare(machine)?;
        let (ended, _) = match machine.collect(&job, &self.title()) {
            Ok(ended) => ended,
            Err(failure) if failure.kind == FailureKind::Cancelled => return Err(failure.into()),
            Err(failure) => return Ok(Finding::Unknown { why: failure.message, change }),
        };
        Ok(match self.judge(&ended, machine) {
            Ok(()) => Finding::Same,
            Err(failure) => Finding::Unknown { why: format!("{} now", failure.message), change },
        })
    }

    fn prepare(&self, machine: &Machine<'_>) -> Result<Job, Obstacle> {
        let command = if self.sensitive || machine.sensitive {
            Job::hidden_shell(&self.command)
        } else {
            Job::shell(self.command.expose())
        };
        let mut job = self.surround(command.timeout(Duration::from_millis(self.timeout_ms)), machine)?;
        if let Some(stdin) = &self.stdin {
            job = job.stdin(Secret::new(stdin.expose().clone().into_bytes()));
        }
        Ok(job)
    }

    /// Directory, environment and user: the same for the command and its guards.
    fn surround(&self, mut job: Job, machine: &Machine<'_>) -> Result<Job, Obstacle> {
        let own = Principal::Id(machine.facts.uid);
        let who = self.user.as_ref().map_or(own, |name| Principal::Name(name.clone()));
        if let Some(user) = machine.accounts.user(&who)? {
            job = job.variable("HOME", &user.home).variable("USER", &user.name).variable("LOGNAME", &user.name);
            if user.uid != machine.facts.uid {
                if machine.facts.uid != 0 {
                    let message = format!("`{}` may not run commands as `{}`", machine.facts.user, user.name);
                    return Err(OpFailure::new(FailureKind::Permission, message).hint(NEEDS_ROOT).into());
                }
                job = job.identity(identity_of(&user)?);
            }
        } else if self.user.is_some() {
            machine.user_id(&who)?;
            return Err(Obstacle::Unclear(format!("an earlier step would make the user `{who}`")));
        }
        if let Some(directory) = &self.directory {
            match machine.look(directory.as_path())? {
                Found::Missing => machine.missing(
                    &format!("directory `{directory}`"),
                    &format!("make it in an earlier step: dir_ensure(\"{directory}\")"),
                )?,
                Found::There(_) | Found::Would(_) => job = job.directory(directory.as_path()),
            }
        }
        for (name, value) in &self.environment {
            job = job.secret_variable(name, value);
        }
        Ok(job)
    }

    fn ask(&self, guard: &RunGuard, machine: &Machine<'_>) -> Result<Says, Obstacle> {
        let (command, wanted) = match guard {
            RunGuard::Creates(path) => {
                let exists = match machine.look(path.as_path())? {
                    Found::Missing => false,
                    Found::Would(_) => true,
                    Found::There(_) => path.as_path().try_exists().or_fail("look at", path)?,
                };
                return Ok(if exists { Says::NoNeed } else { Says::Run(format!("`{path}` does not exist")) });
            }
            RunGuard::Unless(command) => (command, false),
            RunGuard::OnlyIf(command) => (command, true),
        };
        // A guard is as visible as its command.
        let hidden = self.sensitive || machine.sensitive;
        let job = if hidden { Job::hidden_shell(&Secret::new(command.clone())) } else { Job::shell(command) };
        let time = GUARD_TIME.min(Duration::from_millis(self.timeout_ms));
        let shown = if hidden { "the guard".to_owned() } else { format!("`{command}`") };
        let job = match self.surround(job.timeout(time), machine) {
            Ok(job) => job,
            Err(Obstacle::Unclear(why)) => return Ok(Says::Unclear(why)),
            Err(failure) => return Err(failure),
        };
        let (ended, _) = match machine.collect(&job, "guard") {
            Ok(ended) => ended,
            Err(_) if machine.stop.is_set() => return Err(cancelled().into()),
            Err(failure) if machine.is_check() && failure.kind != FailureKind::Timeout => {
                return Ok(Says::Unclear(format!("{shown} cannot be run yet")));
            }
            Err(failure) => {
                return Err(
                    OpFailure { message: format!("guard {shown} failed: {}", failure.message), ..failure }.into()
                );
            }
        };
        if machine.is_check() && ended.ending == Ending::Exited(NOT_FOUND) {
            return Ok(Says::Unclear(format!("{shown} needs a program that does not exist")));
        }
        Ok(match (ended.succeeded(), wanted) {
            (true, false) => Says::NoNeed,
            (false, false) => Says::Run(format!("{shown} does not succeed")),
            (true, true) => Says::Run(format!("{shown} succeeds")),
            (false, true) => Says::NotNow(format!("{shown} does not succeed")),
        })
    }
}
