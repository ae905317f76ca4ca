//! `user_ensure`: a user account.

use std::path::Path;

use super::{Finding, Obstacle, Operation, group_ensure::expect_account_name, ownership::attribute};
use crate::{
    helper::{
        accounts::{User, local_groups},
        failure::bad_input,
        foreseen::{Fate, Foreseen},
        machine::{Id, Machine},
        process::Job,
    },
    plan::{Action, Change, Detail, Diff, OpFailure, Principal, UserEnsure},
};

/// How the account differs.
#[derive(Debug)]
pub(crate) enum UserChange {
    Create {
        /// A group of the user's name exists already and becomes the primary one.
        group_exists: bool,
    },
    Modify(Vec<Field>),
    Remove,
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    name: &'static str,
    before: String,
    after: String,
    /// The option of `usermod(8)` and its value.
    option: [String; 2],
}

impl Operation for UserEnsure {
    type Change = UserChange;

    fn check(&self, machine: &mut Machine<'_>) -> Result<Finding<UserChange>, Obstacle> {
        expect_account_name(&self.name, "user")?;
        let found = machine.accounts.user_named(&self.name)?;
        if !self.present {
            return Ok(if found.is_some() { Finding::Differs(UserChange::Remove) } else { Finding::Same });
        }
        self.expect_plain_fields()?;
        let primary = self.group.as_ref().map(|group| machine.group_id(group)).transpose()?;
        for group in &self.groups {
            expect_account_name(group, "group")?;
            machine.group_id(&Principal::Name(group.clone()))?;
        }
        let Some(found) = found else {
            if machine.foreseen.has_user(&self.name) {
                return Err(Obstacle::Unclear(format!("an earlier step would make the user `{}`", self.name)));
            }
            let group_exists =
                machine.foreseen.has_group(&self.name) || machine.accounts.group_named(&self.name)?.is_some();
            return Ok(Finding::Differs(UserChange::Create { group_exists }));
        };
        let fields = self.differing(&found, primary.as_ref(), machine)?;
        Ok(if fields.is_empty() { Finding::Same } else { Finding::Differs(UserChange::Modify(fields)) })
    }

    fn describe(&self, change: &UserChange, _: &Machine<'_>) -> Diff {
        let told = |action| Change::new(action, format!("user {}", self.name));
        Diff::of(match change {
            UserChange::Create { .. } => {
                let mut told = told(Action::Create);
                told.details = self.asked().into_iter().map(|(name, value)| attribute(name, None, value)).collect();
                told
            }
            UserChange::Modify(fields) => {
                let mut told = told(Action::Modify);
                let detail = |field: &Field| Detail::Attribute {
                    name: field.name.to_owned(),
                    before: Some(field.before.clone()),
                    after: Some(field.after.clone()),
                };
                told.details = fields.iter().map(detail).collect();
                told
            }
            UserChange::Remove => told(Action::Remove),
        })
    }

    fn foresee(&self, change: &UserChange, foreseen: &mut Foreseen) {
        if let UserChange::Create { .. } = change {
            foreseen.user(&self.name);
            match &self.home {
                Some(home) => foreseen.path(home.as_path(), Fate::Directory),
                None if !self.system => foreseen.path(&Path::new("/home").join(&self.name), Fate::Directory),
                None => {}
            }
        }
    }

    fn apply(&self, change: UserChange, machine: &mut Machine<'_>) -> Result<(), OpFailure> {
        let (program, arguments) = match change {
            UserChange::Create { group_exists } => ("useradd", self.creation(group_exists)),
            UserChange::Modify(fields) => ("usermod", fields.into_iter().flat_map(|field| field.option).collect()),
            UserChange::Remove => ("userdel", Vec::new()),
        };
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        arguments.push(&self.name);
        let title = format!("{program} {}", self.name);
        machine.must_run(&Job::program(program, arguments), &title)
    }
}

impl UserEnsure {
    /// Fields that would break the line of `passwd(5)` they end up in.
    fn expect_plain_fields(&self) -> Result<(), OpFailure> {
        let plain = |text: &str| !text.contains([':', '\n', '\0']);
        let home = self.home.as_ref().map(crate::plan::HostPath::as_str);
        for field in [self.shell.as_deref(), self.comment.as_deref(), home].into_iter().flatten() {
            if !plain(field) {
                return Err(bad_input(format!("`{field}` cannot stand in an account: it holds a colon or newline")));
            }
        }
        Ok(())
    }

    /// What the op asks for, by name.
    fn asked(&self) -> Vec<(&'static str, String)> {
        let groups = (!self.groups.is_empty()).then(|| self.groups.join(","));
        [
            ("uid", self.uid.map(|uid| uid.to_string())),
            ("group", self.group.as_ref().map(Principal::to_string)),
            ("groups", groups),
            ("home", self.home.as_ref().map(ToString::to_string)),
            ("shell", self.shell.clone()),
            ("comment", self.comment.clone()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }

    /// Arguments for `useradd(8)`.
    fn creation(&self, group_exists: bool) -> Vec<String> {
        let mut arguments: Vec<String> = Vec::new();
        for (name, value) in self.asked() {
            let option = if name == "home" { "--home-dir" } else { &format!("--{name}")[..] };
            if name == "group" {
                arguments.extend(["--gid".to_owned(), value]);
            } else {
                arguments.extend([option.to_owned(), value]);
            }
        }
        if self.group.is_none() {
            let own = if group_exists {
                ["--gid", &self.name].map(str::to_owned).to_vec()
            } else {
                vec!["--user-group".to_owned()]
            };
            arguments.extend(own);
        }
        if self.system {
            arguments.push("--system".to_owned());
        }
        // People get a home in any case, system accounts only when one is named.
        let home = self.home.is_some() || !self.system;
        arguments.push(if home { "--create-home" } else { "--no-create-home" }.to_owned());
        arguments
    }

    fn differing(&self, found: &User, primary: Option<&Id>, machine: &Machine<'_>) -> Result<Vec<Field>, OpFailure> {
        let mut fields = Vec::new();
        let mut compare = |name, option: &str, before: &str, after: Option<String>| {
            if let Some(after) = after.filter(|after| after != before) {
                let option = [option.to_owned(), after.clone()];
                fields.push(Field { name, before: before.to_owned(), after, option });
            }
        };
        compare("uid", "--uid", &found.uid.to_string(), self.uid.map(|uid| uid.to_string()));
        compare("home", "--home", &found.home, self.home.as_ref().map(ToString::to_string));
        compare("shell", "--shell", &found.shell, self.shell.clone());
        compare("comment", "--comment", &found.comment, self.comment.clone());
        if let (Some(group), Some(id)) = (&self.group, primary)
            && id.number() != Some(found.gid)
        {
            let option = ["--gid".to_owned(), group.to_string()];
            let before = machine.accounts.group_name(found.gid);
            fields.push(Field { name: "group", before, after: group.to_string(), option });
        }
        if let Some(field) = self.missing_groups(found)? {
            fields.push(field);
        }
        Ok(fields)
    }

    fn missing_groups(&self, found: &User) -> Result<Option<Field>, OpFailure> {
        if self.groups.is_empty() {
            return Ok(None);
        }
        let all = local_groups()?;
        let mut member: Vec<String> = all
            .iter()
            .filter(|group| group.gid == found.gid || group.members.contains(&self.name))
            .map(|group| group.name.clone())
            .collect();
        let missing: Vec<String> = self.groups.iter().filter(|group| !member.contains(group)).cloned().collect();
        if missing.is_empty() {
            return Ok(None);
        }
        let before = member.join(",");
        member.extend_from_slice(&missing);
        // `--append` belongs to `--groups`; one word with the list, so that the two stay together.
        let option = ["--append".to_owned(), format!("--groups={}", missing.join(","))];
        Ok(Some(Field { name: "groups", before, after: member.join(","), option }))
    }
}
