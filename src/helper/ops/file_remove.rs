//! `file_remove`: no file at this path.

use super::{Finding, Obstacle, Operation};
use crate::{
    helper::{
        failure::{OrFail, bad_input},
        foreseen::{Fate, Foreseen},
        machine::{Found, Machine},
        replace::sync_directory,
    },
    plan::{Action, Change, Diff, FileRemove, OpFailure},
};

/// There is a file to remove.
#[derive(Debug)]
pub(crate) struct ToRemove;

impl Operation for FileRemove {
    type Change = ToRemove;

    fn check(&self, machine: &mut Machine<'_>) -> Result<Finding<ToRemove>, Obstacle> {
        match machine.look(self.path.as_path()) {
            Ok(Found::Missing) => Ok(Finding::Same),
            Ok(Found::There(found)) if found.is_dir() => Err(is_directory(self)),
            Ok(Found::Would(Fate::Directory)) => Err(is_directory(self)),
            Ok(Found::Would(Fate::Unclear)) => {
                Err(Obstacle::Unclear(format!("an earlier step may write `{}`", self.path)))
            }
            Ok(Found::There(_) | Found::Would(_)) => Ok(Finding::Differs(ToRemove)),
            // Below a file there is nothing either.
            Err(_) if below_a_file(self.path.as_path()) => Ok(Finding::Same),
            Err(failure) => Err(failure.into()),
        }
    }

    fn describe(&self, _: &ToRemove, _: &Machine<'_>) -> Diff {
        Diff::of(Change::new(Action::Remove, self.path.to_string()))
    }

    fn foresee(&self, _: &ToRemove, foreseen: &mut Foreseen) {
        foreseen.path(self.path.as_path(), Fate::Gone);
    }

    fn apply(&self, _: ToRemove, _: &mut Machine<'_>) -> Result<(), OpFailure> {
        let path = self.path.as_path();
        fs_err::remove_file(path).or_fail("remove", &self.path)?;
        path.parent().map_or(Ok(()), sync_directory).or_fail("remove", &self.path)
    }
}

fn is_directory(op: &FileRemove) -> Obstacle {
    bad_input(format!("cannot remove `{}`: it is a directory", op.path))
        .hint(format!("use dir_remove(\"{}\")", op.path))
        .into()
}

fn below_a_file(path: &std::path::Path) -> bool {
    path.ancestors().skip(1).any(|above| fs_err::metadata(above).is_ok_and(|found| !found.is_dir()))
}
