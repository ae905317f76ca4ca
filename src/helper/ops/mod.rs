//! How each op is reached on this machine: check makes a change, apply eats it.

mod dir_ensure;
mod dir_remove;
mod file_link;
mod file_remove;
mod file_write;
mod group_ensure;
mod leftovers;
mod limits;
mod ownership;
mod package_ensure;
mod put;
mod quiet_install;
mod run;
mod runit;
mod service_ensure;
mod ssh_authorize;
mod supervised;
mod sync;
mod systemd;
mod user_ensure;
mod wait_port;

pub(crate) use package_ensure::package_is_installed;

use super::{foreseen::Foreseen, machine::Machine};
use crate::plan::{Diff, OpFailure};

/// One kind of desired state. A check writes nothing; what it finds is all that apply gets.
pub(crate) trait Operation {
    /// What differs, in the form that [`Self::apply`] needs.
    type Change;

    /// Compares the machine with the wanted state.
    fn check(&self, machine: &mut Machine<'_>) -> Result<Finding<Self::Change>, Obstacle>;

    /// The change for people. Never shows what a sensitive step holds.
    fn describe(&self, change: &Self::Change, machine: &Machine<'_>) -> Diff;

    /// Notes, in a check, what later steps would find had the change been applied.
    fn foresee(&self, change: &Self::Change, foreseen: &mut Foreseen);

    /// Brings the machine to the wanted state.
    fn apply(&self, change: Self::Change, machine: &mut Machine<'_>) -> Result<(), OpFailure>;

    /// Whether applying it changes the machine. Not so for an op that only looks or waits.
    fn is_change(&self) -> bool {
        true
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding<C> {
    /// The machine is as wanted.
    Same,
    /// It differs in this way.
    Differs(C),
    /// Cannot be told without doing it; this is what doing it needs.
    Unknown {
        /// What stands in the way of telling.
        why: String,
        /// What to do when the plan is applied.
        change: C,
    },
    /// The op's own condition does not hold.
    Skipped {
        /// The condition, in words.
        why: String,
    },
}

/// Why a check found nothing out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The op cannot be done on this machine.
    Failure(OpFailure),
    /// It depends on what an earlier step of this check might make.
    Unclear(String),
}

impl From<OpFailure> for Obstacle {
    fn from(failure: OpFailure) -> Self {
        Self::Failure(failure)
    }
}
