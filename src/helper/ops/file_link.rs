//! `file_link`: a symbolic link.

use super::{Finding, Obstacle, Operation, ownership::attribute};
use crate::{
    helper::{
        failure::{OrFail, bad_input},
        foreseen::{Fate, Foreseen},
        machine::{Found, Machine},
        replace::replace_link,
    },
    plan::{Action, Change, Detail, Diff, FileLink, OpFailure},
};

/// What stands in the link's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LinkChange {
    /// Nothing.
    Missing,
    /// A link to this.
    OtherLink(String),
    /// A regular file, which the op allows to replace.
    File,
}

impl Operation for FileLink {
    type Change = LinkChange;

    fn check(&self, machine: &mut Machine<'_>) -> Result<Finding<LinkChange>, Obstacle> {
        let path = self.path.as_path();
        let found = match machine.look(path)? {
            Found::There(found) => found,
            Found::Missing => {
                machine.expect_parent(path)?;
                return Ok(Finding::Differs(LinkChange::Missing));
            }
            Found::Would(Fate::Directory) => {
                return Err(bad_input(format!("`{}` would be a directory", self.path)).into());
            }
            Found::Would(_) => return Err(Obstacle::Unclear(format!("an earlier step writes `{}` too", self.path))),
        };
        if found.is_symlink() {
            let target = fs_err::read_link(path).or_fail("read", &self.path)?.to_string_lossy().into_owned();
            let same = target == self.target;
            return Ok(if same { Finding::Same } else { Finding::Differs(LinkChange::OtherLink(target)) });
        }
        if found.is_dir() {
            return Err(bad_input(format!("cannot make the link `{}`: a directory is in its place", self.path)).into());
        }
        if self.force {
            return Ok(Finding::Differs(LinkChange::File));
        }
        Err(bad_input(format!("cannot make the link `{}`: a file is in its place", self.path))
            .hint("say `force = True` to replace the file")
            .into())
    }

    fn describe(&self, change: &LinkChange, _: &Machine<'_>) -> Diff {
        let (action, before) = match change {
            LinkChange::Missing => (Action::Create, None),
            LinkChange::OtherLink(target) => (Action::Modify, Some(target.clone())),
            LinkChange::File => (Action::Modify, None),
        };
        let mut told = Change::new(action, self.path.to_string()).with(attribute("target", before, &self.target));
        if *change == LinkChange::File {
            told = told.with(Detail::Reason { text: "replaces a regular file".to_owned() });
        }
        Diff::of(told)
    }

    fn foresee(&self, _: &LinkChange, foreseen: &mut Foreseen) {
        foreseen.path(self.path.as_path(), Fate::File);
    }

    fn apply(&self, _: LinkChange, _: &mut Machine<'_>) -> Result<(), OpFailure> {
        replace_link(self.path.as_path(), &self.target)
    }
}
