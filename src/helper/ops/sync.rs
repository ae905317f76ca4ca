//! `sync`: a directory that equals a tree of the near side. How, is the business of [`crate::helper::tree`].

use std::path::Path;

use super::{Finding, Obstacle, Operation, ownership::Wanted};
use crate::{
    helper::{
        foreseen::{Fate, Foreseen},
        machine::{Found, Machine},
        tree::{self, Place, ReleaseChange, TreeChange},
    },
    plan::{Diff, OpFailure, Sync},
};

/// What a sync has to do.
#[derive(Debug)]
pub(crate) enum SyncChange {
    /// To a directory.
    Tree(TreeChange),
    /// To a directory of releases.
    Release(ReleaseChange),
}

impl Operation for Sync {
    type Change = SyncChange;

    fn check(&self, machine: &mut Machine<'_>) -> Result<Finding<SyncChange>, Obstacle> {
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
        let change = match self.release {
            None => tree::compare(self, &place, machine.supplier)?.map(SyncChange::Tree),
            Some(release) => tree::compare_release(self, release, &place, machine.supplier)?.map(SyncChange::Release),
        };
        match (change, wanted.to_be_made()) {
            (Some(change), _) => Ok(Finding::Differs(change)),
            (None, Some(who)) => Err(Obstacle::Unclear(format!("an earlier step would make `{who}`"))),
            (None, None) => Ok(Finding::Same),
        }
    }

    fn describe(&self, change: &SyncChange, _: &Machine<'_>) -> Diff {
        match change {
            SyncChange::Tree(change) => change.diff(),
            SyncChange::Release(change) => change.diff(),
        }
    }

    fn foresee(&self, _: &SyncChange, foreseen: &mut Foreseen) {
        foreseen.tree(self.dest.as_path());
    }

    fn apply(&self, change: SyncChange, machine: &mut Machine<'_>) -> Result<(), OpFailure> {
        let state = machine.state_dir();
        match change {
            SyncChange::Tree(change) => {
                let place = place(change.owner(), &state, machine);
                tree::apply(self, &place, change, machine.supplier)
            }
            SyncChange::Release(change) => {
                let place = place(change.owner(), &state, machine);
                change.apply(self, &place, machine.supplier)
            }
        }
    }
}

fn place<'b, 'a: 'b>((uid, gid): (Option<u32>, Option<u32>), state: &'b Path, machine: &Machine<'a>) -> Place<'b> {
    let is_check = machine.is_check();
    Place {
        uid,
        gid,
        state: Some(state),
        remember: !is_check,
        held: (!is_check).then_some(machine.trees),
        remembered_as: None,
    }
}
