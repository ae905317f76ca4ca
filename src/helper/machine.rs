//! What an op may use of the machine while it is checked or applied.

use std::{
    fs::Metadata,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    accounts::Accounts,
    batch::Batch,
    failure::{NEEDS_ROOT, bad_input, io_failure},
    foreseen::{Fate, Foreseen},
    ops::Obstacle,
    process::{Collected, Ended, Ending, Job, Listener, run},
    stop::Stop,
    tree::HeldTrees,
};
use crate::{
    plan::{ComponentName, Facts, FailureKind, LabName, OpFailure, Principal},
    tree::Supplier,
    wire::{Mode, Stream},
};

/// What an op may use of the machine while it is checked or applied.
pub(crate) struct Machine<'a> {
    /// What the host is.
    pub(crate) facts: &'a Facts,
    /// Whether the plan stops at the diff.
    pub(crate) mode: Mode,
    /// Says when to give up.
    pub(crate) stop: &'a Stop,
    /// Users and groups.
    pub(crate) accounts: &'a Accounts,
    /// What earlier steps of a check would have made.
    pub(crate) foreseen: &'a Foreseen,
    /// Where content comes from.
    pub(crate) supplier: &'a mut dyn Supplier,
    /// What the session keeps of synced directories.
    pub(crate) trees: &'a HeldTrees,
    /// Where output of commands goes.
    pub(crate) batch: &'a Batch,
    /// Neither content nor output of this step is shown.
    pub(crate) sensitive: bool,
    /// Whether earlier steps call for a reaction of this one.
    pub(crate) reaction: Reaction,
    /// Whose plan it is.
    pub(crate) holder: Holder<'a>,
}

/// The component that a plan is for, and its lab.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holder<'a> {
    pub(crate) lab: &'a LabName,
    pub(crate) component: &'a ComponentName,
}

/// Whether earlier steps call for a reaction, such as the restart of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// They do not.
    None,
    /// They do, for this reason.
    Due(String),
    /// Cannot be told, for this reason (check mode only).
    Perhaps(String),
}

/// What stands at a path.
#[derive(Debug)]
pub(crate) enum Found {
    /// This; links are not followed.
    There(Metadata),
    /// Nothing.
    Missing,
    /// An earlier step of this check would put something there.
    Would(Fate),
}

/// A user or group id that an op asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Id {
    /// Known.
    Is(u32),
    /// An earlier step of this check would make it.
    WouldBe,
}

impl Id {
    /// The number, if it is known; always when a plan is applied.
    pub(crate) fn number(&self) -> Option<u32> {
        match self {
            Self::Is(id) => Some(*id),
            Self::WouldBe => None,
        }
    }
}

/// Passes output on to the near side, unless the step is sensitive.
struct Shown<'a> {
    batch: &'a Batch,
    stop: &'a Stop,
    hidden: bool,
}

impl Listener for Shown<'_> {
    fn line(&mut self, stream: Stream, line: &str) {
        if !self.hidden && self.batch.output(stream, line).is_err() {
            // Nobody listens any more.
            self.stop.end_session();
        }
    }

    fn tick(&mut self) {
        if self.batch.tick().is_err() {
            self.stop.end_session();
        }
    }
}

impl Machine<'_> {
    /// The helper's own folder.
    pub(crate) fn state_dir(&self) -> PathBuf {
        PathBuf::from(&self.facts.state_dir)
    }

    /// Whether the plan stops at the diff.
    pub(crate) fn is_check(&self) -> bool {
        self.mode == Mode::Check
    }

    /// What stands at a path, with what earlier steps of this check would have done to it.
    pub(crate) fn look(&self, path: &Path) -> Result<Found, OpFailure> {
        match self.foreseen.fate(path) {
            Some(Fate::Gone) => return Ok(Found::Missing),
            Some(fate) => {
                // A directory that is there and would only be altered is still what it is.
                let same = fate == Fate::Directory && std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
                if !same {
                    return Ok(Found::Would(fate));
                }
            }
            None => {}
        }
        match std::fs::symlink_metadata(path) {
            Ok(found) => Ok(Found::There(found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Missing),
            Err(error) => Err(io_failure("look at", path.display(), &error)),
        }
    }

    /// That the directory in which something is to be made exists, or would.
    pub(crate) fn expect_parent(&self, path: &Path) -> Result<(), Obstacle> {
        let Some(parent) = path.parent() else { return Ok(()) };
        match self.look(parent)? {
            Found::There(found) if found.is_dir() => Ok(()),
            Found::There(found) if found.is_symlink() && parent.is_dir() => Ok(()),
            Found::There(_) => Err(bad_input(format!("`{}` is not a directory", parent.display())).into()),
            Found::Would(Fate::Directory | Fate::Unclear) => Ok(()),
            Found::Would(_) | Found::Missing => self.missing(
                &format!("directory `{}`", parent.display()),
                &format!("make it in an earlier step: dir_ensure(\"{}\")", parent.display()),
            ),
        }
    }

    /// The number of a user that an op names.
    pub(crate) fn user_id(&self, who: &Principal) -> Result<Id, Obstacle> {
        let name = match who {
            Principal::Id(id) => return Ok(Id::Is(*id)),
            Principal::Name(name) => name,
        };
        match self.accounts.user(who)? {
            Some(user) => Ok(Id::Is(user.uid)),
            None if self.foreseen.has_user(name) => Ok(Id::WouldBe),
            None => {
                self.missing(&format!("user `{name}`"), &format!("make it in an earlier step: user_ensure(\"{name}\")"))
            }
        }
    }

    /// The number of a group that an op names.
    pub(crate) fn group_id(&self, who: &Principal) -> Result<Id, Obstacle> {
        let name = match who {
            Principal::Id(id) => return Ok(Id::Is(*id)),
            Principal::Name(name) => name,
        };
        match self.accounts.group(who)? {
            Some(group) => Ok(Id::Is(group.gid)),
            None if self.foreseen.has_group(name) => Ok(Id::WouldBe),
            None => self
                .missing(&format!("group `{name}`"), &format!("make it in an earlier step: group_ensure(\"{name}\")")),
        }
    }

    /// Something is missing. When an earlier step of this check might make it, that cannot be told; else it is a
    /// failure with this hint.
    pub(crate) fn missing<T>(&self, what: &str, hint: &str) -> Result<T, Obstacle> {
        match self.foreseen.maker_of_anything() {
            Some(maker) => Err(Obstacle::Unclear(format!("{what} does not exist yet; `{maker}` may make it"))),
            None => Err(bad_input(format!("{what} does not exist")).hint(hint).into()),
        }
    }

    /// Runs a command whose output people should see.
    pub(crate) fn run(&self, job: &Job, title: &str) -> Result<Ended, OpFailure> {
        let mut shown = Shown { batch: self.batch, stop: self.stop, hidden: self.sensitive };
        let ended = run(job, self.stop, &mut shown).map_err(|error| not_started(title, &error))?;
        self.ended_by_itself(ended, title)
    }

    /// Runs a command that must succeed and whose output people should see.
    pub(crate) fn must_run(&self, job: &Job, title: &str) -> Result<(), OpFailure> {
        let ended = self.run(job, title)?;
        if ended.succeeded() { Ok(()) } else { Err(self.command_failure(title, &ended)) }
    }

    /// Runs a command for its standard output; nobody sees it.
    pub(crate) fn collect(&self, job: &Job, title: &str) -> Result<(Ended, String), OpFailure> {
        let mut output = Collected::default();
        let ended = run(job, self.stop, &mut output).map_err(|error| not_started(title, &error))?;
        Ok((self.ended_by_itself(ended, title)?, output.0))
    }

    fn ended_by_itself(&self, ended: Ended, title: &str) -> Result<Ended, OpFailure> {
        match ended.ending {
            Ending::TimedOut | Ending::Cancelled => Err(self.command_failure(title, &ended)),
            Ending::Exited(_) | Ending::Signalled(_) => Ok(ended),
        }
    }

    /// The failure that a command which did not succeed stands for.
    pub(crate) fn command_failure(&self, title: &str, ended: &Ended) -> OpFailure {
        let tail = if self.sensitive { Vec::new() } else { ended.tail.clone() };
        let (kind, message) = match ended.ending {
            Ending::Exited(status) => (FailureKind::Command, format!("`{title}` ended with status {status}")),
            Ending::Signalled(signal) => (FailureKind::Command, format!("`{title}` was ended by signal {signal}")),
            Ending::TimedOut => (FailureKind::Timeout, format!("`{title}` did not end in time and was stopped")),
            Ending::Cancelled => {
                (FailureKind::Cancelled, format!("`{title}` was stopped because the run was cancelled"))
            }
        };
        let hint = hint_of_output(&ended.tail, ended.ending, self.facts.uid);
        let failure = OpFailure::new(kind, message).output(tail);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// Waits a little, unless the work should end.
    pub(crate) fn pause(&self, time: Duration) -> Result<(), OpFailure> {
        if self.stop.is_set() {
            return Err(cancelled());
        }
        std::thread::sleep(time);
        Ok(())
    }
}

/// The failure of whatever was at work when the run was cancelled.
pub(crate) fn cancelled() -> OpFailure {
    OpFailure::new(FailureKind::Cancelled, "the run was cancelled")
}

fn not_started(title: &str, error: &io::Error) -> OpFailure {
    if error.kind() == io::ErrorKind::NotFound {
        let program = title.split_whitespace().next().unwrap_or(title);
        return OpFailure::new(FailureKind::Unsupported, format!("cannot run `{title}`: no such program or directory"))
            .hint(format!("install the package that brings `{program}`, in an earlier step"));
    }
    io_failure("run", title, error)
}

/// Common causes that commands print and do not explain.
fn hint_of_output(tail: &[String], ending: Ending, uid: u32) -> Option<String> {
    let says = |words: &str| tail.iter().any(|line| line.to_lowercase().contains(words));
    if says("no space left on device") {
        Some("free some space on the host; `df -h` and `df -i` show where it went".to_owned())
    } else if says("read-only file system") {
        Some("the file system is mounted read-only; `dmesg` on the host may say why".to_owned())
    } else if uid != 0 && (says("permission denied") || says("operation not permitted") || says("are you root")) {
        Some(NEEDS_ROOT.to_owned())
    } else if ending == Ending::Exited(127) {
        Some("status 127 of a shell means that a command was not found; is its package installed?".to_owned())
    } else if ending == Ending::Exited(126) {
        Some("status 126 of a shell means that a command was found but may not be run".to_owned())
    } else {
        None
    }
}
