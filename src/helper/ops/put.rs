//! `put`: a file or directory that is copied into place. How, is the business of [`crate::helper::tree`].

use super::{Finding, Obstacle, Operation};
use crate::{
    helper::{
        foreseen::Foreseen,
        machine::Machine,
        tree::{self, PutChange},
    },
    plan::{Diff, OpFailure, Put},
};

impl Operation for Put {
    type Change = PutChange;

    fn check(&self, machine: &mut Machine<'_>) -> Result<Finding<PutChange>, Obstacle> {
        let change = tree::compare_put(self, machine.supplier)?;
        Ok(change.map_or(Finding::Same, Finding::Differs))
    }

    fn describe(&self, change: &PutChange, _: &Machine<'_>) -> Diff {
        change.diff()
    }

    fn foresee(&self, _: &PutChange, foreseen: &mut Foreseen) {
        foreseen.tree(self.dest.as_path());
    }

    fn apply(&self, change: PutChange, machine: &mut Machine<'_>) -> Result<(), OpFailure> {
        change.apply(machine.supplier)
    }
}
