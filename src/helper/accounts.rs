//! Users and groups, read from `/etc/passwd` and `/etc/group`, then from `getent` (LDAP, SSSD).
//!
//! The C library's functions are not used: in a static program they load plugins of another C library and crash.

use std::io;

use super::{
    become_user::Identity,
    failure::OrFail,
    process::{Collected, Job, run},
    stop::Stop,
};
use crate::plan::{OpFailure, Principal};

/// A user account, one line of `passwd(5)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) comment: String,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// A group, one line of `group(5)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) gid: u32,
    pub(crate) members: Vec<String>,
}

/// Looks up users and groups. Reads anew each time: earlier steps may have changed them.
#[derive(Debug, Clone)]
pub(crate) struct Accounts {
    stop: Stop,
}

impl Accounts {
    /// Look-ups that end when `stop` says so.
    pub(crate) fn new(stop: Stop) -> Self {
        Self { stop }
    }

    /// The user with this name or number.
    pub(crate) fn user(&self, who: &Principal) -> Result<Option<User>, OpFailure> {
        self.find("passwd", &who.to_string(), |line| {
            user_of(line).filter(|user| match who {
                Principal::Name(name) => user.name == *name,
                Principal::Id(id) => user.uid == *id,
            })
        })
    }

    /// The user with this name.
    pub(crate) fn user_named(&self, name: &str) -> Result<Option<User>, OpFailure> {
        self.user(&Principal::Name(name.to_owned()))
    }

    /// The group with this name or number.
    pub(crate) fn group(&self, who: &Principal) -> Result<Option<Group>, OpFailure> {
        self.find("group", &who.to_string(), |line| {
            group_of(line).filter(|group| match who {
                Principal::Name(name) => group.name == *name,
                Principal::Id(id) => group.gid == *id,
            })
        })
    }

    /// The group with this name.
    pub(crate) fn group_named(&self, name: &str) -> Result<Option<Group>, OpFailure> {
        self.group(&Principal::Name(name.to_owned()))
    }

    /// The user's name, or the number when there is none.
    pub(crate) fn user_name(&self, uid: u32) -> String {
        self.user(&Principal::Id(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
    }

    /// The group's name, or the number when there is none.
    pub(crate) fn group_name(&self, gid: u32) -> String {
        self.group(&Principal::Id(gid)).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name)
    }

    fn find<T>(&self, database: &str, key: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, OpFailure> {
        let path = format!("/etc/{database}");
        let local = read_lines(&path).or_fail("read", &path)?;
        if let Some(found) = local.lines().find_map(&parse) {
            return Ok(Some(found));
        }
        if only_files(database) {
            return Ok(None);
        }
        let mut output = Collected::default();
        // Without getent there is nothing beyond the files.
        match run(&Job::program("getent", [database, key]), &self.stop, &mut output) {
            Ok(ended) if ended.succeeded() => Ok(output.0.lines().find_map(parse)),
            _ => Ok(None),
        }
    }
}

/// Who a command of this user runs as, with the supplementary groups.
pub(crate) fn identity_of(user: &User) -> Result<Identity, OpFailure> {
    let groups = local_groups()?;
    let mut gids: Vec<u32> =
        groups.iter().filter(|group| group.members.contains(&user.name)).map(|group| group.gid).collect();
    gids.push(user.gid);
    gids.sort_unstable();
    gids.dedup();
    Ok(Identity { uid: user.uid, gid: user.gid, groups: gids })
}

/// All groups of `/etc/group`.
pub(crate) fn local_groups() -> Result<Vec<Group>, OpFailure> {
    Ok(read_lines("/etc/group").or_fail("read", "/etc/group")?.lines().filter_map(group_of).collect())
}

/// A missing database is an empty one: a container may do without.
fn read_lines(path: &str) -> io::Result<String> {
    match fs_err::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// Whether `nsswitch.conf(5)` names no source besides the files, so that nobody else need be asked.
fn only_files(database: &str) -> bool {
    let Ok(config) = fs_err::read_to_string("/etc/nsswitch.conf") else {
        return false;
    };
    config.lines().find_map(|line| line.strip_prefix(database)?.trim_start().strip_prefix(':')).is_some_and(|sources| {
        sources
            .split('#')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .all(|source| matches!(source, "files" | "compat"))
    })
}

fn user_of(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let (comment, home, shell) = (fields.next()?, fields.next()?, fields.next()?);
    Some(User {
        name: name.to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        comment: comment.to_owned(),
        home: home.to_owned(),
        shell: shell.to_owned(),
    })
}

fn group_of(line: &str) -> Option<Group> {
    let mut fields = line.split(':');
    let (name, _, gid, members) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    Some(Group {
        name: name.to_owned(),
        gid: gid.parse().ok()?,
        members: members.split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_databases_are_understood() {
        let user = user_of("ovs:x:990:991:Open vStorage,,,:/opt/OpenvStorage:/bin/sh").unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (990, 991, "/opt/OpenvStorage"));
        assert_eq!(group_of("adm:x:4:syslog,ovs").unwrap().members, ["syslog", "ovs"]);
        for bad in ["", "# comment", "a:b", "a:x:no:1:::"] {
            assert_eq!(user_of(bad), None);
        }
    }

    #[test]
    fn root_is_found_by_name_and_number_and_nobody_else_is_made_up() {
        let accounts = Accounts::new(Stop::default());
        assert_eq!(accounts.user_named("root").unwrap().unwrap().uid, 0);
        assert_eq!(accounts.user_name(0), "root");
        assert_eq!(accounts.group(&Principal::Id(0)).unwrap().unwrap().name, "root");
        assert_eq!(accounts.user_named("no-such-user").unwrap(), None);
        assert_eq!(accounts.user_name(4_000_000_000), "4000000000");
    }
}
