//! Users, as `/etc/passwd` and `/etc/group` name them, then as `getent` does.
//!
//! The C library's own look-up loads plug-ins, which a static program cannot; it would crash.

use std::{io, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use super::failure::Failure;

/// How long a directory service (LDAP, SSSD) may take.
const GETENT: Duration = Duration::from_secs(10);

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: String,
    /// All groups, the primary one first.
    pub(super) groups: Vec<u32>,
}

impl Account {
    /// Finds a user by name or number.
    pub(super) async fn find(user: &str) -> Result<Self, Failure> {
        let read = |path: &str| match fs_err::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => String::new(),
        };
        let groups = read("/etc/group");
        if let Some(account) = parse(&read("/etc/passwd"), &groups, user) {
            return Ok(account);
        }
        let Some(line) = getent("passwd", user).await else {
            return Err(Failure::NoUser(user.to_owned()));
        };
        let mut account = parse(&line, &groups, user).ok_or_else(|| Failure::NoUser(user.to_owned()))?;
        // `name gid gid ...`
        if let Some(line) = getent("initgroups", &account.name).await {
            account.groups.extend(line.split_whitespace().skip(1).filter_map(|gid| gid.parse::<u32>().ok()));
            dedup(&mut account.groups);
        }
        Ok(account)
    }
}

/// The account in passwd(5) and group(5) texts.
fn parse(passwd: &str, group: &str, user: &str) -> Option<Account> {
    let number: Option<u32> = user.parse().ok();
    let fields = |line: &str| -> Option<Account> {
        let mut fields = line.split(':');
        let (name, _) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let home = fields.nth(1)?;
        let home = if home.is_empty() { "/" } else { home };
        Some(Account { name: name.to_owned(), uid, gid, home: home.to_owned(), groups: vec![gid] })
    };
    let accounts: Vec<Account> = passwd.lines().filter_map(fields).collect();
    let found = accounts.iter().find(|account| account.name == user);
    let mut account = found.or_else(|| accounts.iter().find(|account| Some(account.uid) == number))?.clone();
    for line in group.lines() {
        let mut fields = line.split(':').skip(2);
        if let (Some(Ok(gid)), Some(members)) = (fields.next().map(str::parse::<u32>), fields.next())
            && members.split(',').any(|member| member.trim() == account.name)
        {
            account.groups.push(gid);
        }
    }
    dedup(&mut account.groups);
    Some(account)
}

fn dedup(groups: &mut Vec<u32>) {
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|gid| seen.insert(*gid));
}

async fn getent(database: &str, key: &str) -> Option<String> {
    if key.starts_with('-') {
        return None;
    }
    let mut command = Command::new("getent");
    command.args([database, key]).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output: io::Result<_> = timeout(GETENT, command.output()).await.ok()?;
    let output = output.ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()?.lines().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\n\
        ovs:x:1001:1001::/home/ovs:/bin/sh\nnohome:x:1002:5:::\n";
    const GROUP: &str = "root:x:0:\novs:x:1001:\nadm:x:4:syslog,ovs\ndisk:x:6:ovs\nbroken\nkvm:x:7:novs\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        let ovs = parse(PASSWD, GROUP, "ovs").unwrap();
        assert_eq!((ovs.uid, ovs.gid, ovs.home.as_str()), (1001, 1001, "/home/ovs"));
        assert_eq!(ovs.groups, [1001, 4, 6]);
        assert_eq!(parse(PASSWD, GROUP, "1001").unwrap(), ovs);
        assert_eq!(parse(PASSWD, GROUP, "nohome").unwrap().home, "/");
        assert_eq!(parse(PASSWD, GROUP, "nobody"), None);
    }

    #[tokio::test]
    async fn an_unknown_user_is_named() {
        let error = Account::find("no-such-user-here").await.unwrap_err();
        assert_eq!(error.code(), 67);
        assert!(error.line().contains("no-such-user-here"));
    }
}
