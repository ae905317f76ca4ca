//! `group_ensure`: a group.

use super::{Finding, Obstacle, Operation, ownership::attribute};
use crate::{
    helper::{failure::bad_input, foreseen::Foreseen, machine::Machine, process::Job},
    plan::{Action, Change, Diff, GroupEnsure, OpFailure},
};

/// How the group differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupChange {
    Create,
    /// It has this number instead.
    Renumber(u32),
    Remove,
}

impl Operation for GroupEnsure {
    type Change = GroupChange;

    fn check(&self, machine: &mut Machine<'_>) -> Result<Finding<GroupChange>, Obstacle> {
        expect_account_name(&self.name, "group")?;
        let found = machine.accounts.group_named(&self.name)?;
        Ok(match (found, self.present) {
            (None, false) => Finding::Same,
            (Some(_), false) => Finding::Differs(GroupChange::Remove),
            (None, true) if machine.foreseen.has_group(&self.name) => {
                return Err(Obstacle::Unclear(format!("an earlier step would make the group `{}`", self.name)));
            }
            (None, true) => Finding::Differs(GroupChange::Create),
            (Some(found), true) => match self.gid {
                Some(gid) if gid != found.gid => Finding::Differs(GroupChange::Renumber(found.gid)),
                _ => Finding::Same,
            },
        })
    }

    fn describe(&self, change: &GroupChange, _: &Machine<'_>) -> Diff {
        let told = |action| Change::new(action, format!("group {}", self.name));
        let gid = |told: Change, before: Option<u32>| match self.gid {
            Some(gid) => told.with(attribute("gid", before.map(|gid| gid.to_string()), gid.to_string())),
            None => told,
        };
        Diff::of(match change {
            GroupChange::Create => gid(told(Action::Create), None),
            GroupChange::Renumber(before) => gid(told(Action::Modify), Some(*before)),
            GroupChange::Remove => told(Action::Remove),
        })
    }

    fn foresee(&self, change: &GroupChange, foreseen: &mut Foreseen) {
        if *change == GroupChange::Create {
            foreseen.group(&self.name);
        }
    }

    fn apply(&self, change: GroupChange, machine: &mut Machine<'_>) -> Result<(), OpFailure> {
        let gid = self.gid.map(|gid| gid.to_string());
        let gid: Vec<&str> = gid.iter().flat_map(|gid| ["--gid", gid]).collect();
        let (program, mut arguments) = match change {
            GroupChange::Create if self.system => ("groupadd", [vec!["--system"], gid].concat()),
            GroupChange::Create => ("groupadd", gid),
            GroupChange::Renumber(_) => ("groupmod", gid),
            GroupChange::Remove => ("groupdel", Vec::new()),
        };
        arguments.push(&self.name);
        let title = format!("{program} {}", arguments.join(" "));
        machine.must_run(&Job::program(program, arguments), &title)
    }
}

/// Names that the account programs would take for options, or that would break the databases.
pub(super) fn expect_account_name(name: &str, what: &str) -> Result<(), OpFailure> {
    let fits = (1..=32).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.' | '$'));
    if fits { Ok(()) } else { Err(bad_input(format!("`{name}` is not the name of a {what}"))) }
}
