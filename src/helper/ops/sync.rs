//! `sync`: a directory that equals a tree of the near side. How, is the business of [`crate::helper::tree`].

use std::path::Path;

use super::{Finding, Obstacle, Operation, ownership::Wanted};
use crate::{
    helper::{
        foreseen::{Fate, Foreseen},
        machine::{Found, Machine},
        tree::{self, Place, TreeChange},
    },
    plan::{Diff, OpFailure, Sync},
};

impl Operation for Sync {
    type Change = TreeChange;

    fn check(&self, machine: &mut Machine<'_>) -> Result<Finding<TreeChange>, Obstacle> {
        let wanted = Wanted::resolve(None, self.owner.as_ref(), self.group.as_ref(), machine)?;
        match machine.look(self.dest.as_path())? {
            Found::Would(Fate::File | Fate::Unclear) => {
                return Err(Obstacle::Unclear(format!("an earlier step writes `{}` too", self.dest)));
            }
            Found::Missing if self.dest.as_path().exists() => {
                return Err(Obstacle::Unclear(format!("an earlier step would remove `{}`", self.dest)));
            }
            _ => {}
        }
        let state = machine.state_dir();
        let place = place(wanted.ids(), &state, machine);
        match (tree::compare(self, &place, machine.supplier)?, wanted.to_be_made()) {
            (Some(change), _) => Ok(Finding::Differs(change)),
            (None, Some(who)) => Err(Obstacle::Unclear(format!("an earlier step would make `{who}`"))),
            (None, None) => Ok(Finding::Same),
        }
    }

    fn describe(&self, change: &TreeChange, _: &Machine<'_>) -> Diff {
        change.diff()
    }

    fn foresee(&self, _: &TreeChange, foreseen: &mut Foreseen) {
        foreseen.tree(self.dest.as_path());
    }

    fn apply(&self, change: TreeChange, machine: &mut Machine<'_>) -> Result<(), OpFailure> {
        let state = machine.state_dir();
        let place = place(change.owner(), &state, machine);
        tree::apply(self, &place, change, machine.supplier)
    }
}

fn place<'b, 'a: 'b>((uid, gid): (Option<u32>, Option<u32>), state: &'b Path, machine: &Machine<'a>) -> Place<'b> {
    let is_check = machine.is_check();
    Place { uid, gid, state: Some(state), remember: !is_check, held: (!is_check).then_some(machine.trees) }
}
