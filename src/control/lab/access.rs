//! The keys that a container gets before it starts, so that the very first connection is already verified.

use std::{
    io::Read as _,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tar::{EntryType, Header};

use super::LabError;
use crate::{
    control::link::Keyring,
    plan::{HostName, Secret},
};

/// Who may log in, and how the container proves that it is the one.
pub(super) struct AccessKeys {
    authorized: String,
    host_private: Secret<String>,
    host_public: String,
}

impl AccessKeys {
    /// The lab's login key and the host's own key; both are made when they do not exist.
    pub(super) fn of(keyring: &Keyring, host: &HostName) -> Result<Self, LabError> {
        let failed = |source| LabError::Keys { host: host.clone(), source };
        let login = keyring.lab_key().map_err(failed)?;
        let own = keyring.host_key(host).map_err(failed)?;
        Ok(Self { authorized: line(&login.public), host_private: own.private, host_public: line(&own.public) })
    }

    /// The line of `authorized_keys`.
    pub(super) fn authorized(&self) -> &str {
        &self.authorized
    }

    /// The host's public key line.
    pub(super) fn host_public(&self) -> &str {
        &self.host_public
    }

    /// A tar archive, to be unpacked at `/`. Directories are explicit: sshd refuses keys below one that others may write.
    pub(super) fn archive(&self, account: &Account) -> std::io::Result<Bytes> {
        let mut tar = tar::Builder::new(Vec::new());
        let home = account.home.trim_matches('/');
        let ssh = if home.is_empty() { ".ssh".to_owned() } else { format!("{home}/.ssh") };
        let owner = (account.uid, account.gid);
        let mut add = |path: &str, mode: u32, (uid, gid): (u64, u64), content: Option<&str>| {
            let content = content.map(str::as_bytes);
            let mut header = Header::new_gnu();
            header.set_entry_type(if content.is_some() { EntryType::Regular } else { EntryType::Directory });
            header.set_mode(mode);
            header.set_uid(uid);
            header.set_gid(gid);
            header.set_size(content.map_or(0, |content| content.len() as u64));
            header.set_mtime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs()));
            tar.append_data(&mut header, path, content.unwrap_or_default())
        };
        add(&format!("{ssh}/"), 0o700, owner, None)?;
        add(&format!("{ssh}/authorized_keys"), 0o600, owner, Some(&self.authorized))?;
        add("etc/ssh/", 0o755, (0, 0), None)?;
        add("etc/ssh/ssh_host_ed25519_key", 0o600, (0, 0), Some(self.host_private.expose()))?;
        add("etc/ssh/ssh_host_ed25519_key.pub", 0o644, (0, 0), Some(&self.host_public))?;
        tar.into_inner().map(Bytes::from)
    }

    #[cfg(test)]
    pub(super) fn example(key: &str) -> Self {
        Self {
            authorized: line(key),
            host_private: Secret::new("private".to_owned()),
            host_public: line("ssh-ed25519 AAAA"),
        }
    }
}

fn line(text: &str) -> String {
    format!("{}\n", text.trim_end())
}

/// The account that is logged in to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    uid: u64,
    gid: u64,
    home: String,
}

impl Account {
    pub(super) fn root() -> Self {
        Self { uid: 0, gid: 0, home: "/root".to_owned() }
    }

    /// The account of this name in the text of a `passwd` file (passwd(5)).
    pub(super) fn find(user: &str, passwd: &str) -> Option<Self> {
        passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
            let home_is_plain = home.starts_with('/') && !home.split('/').any(|part| part == "..");
            if name != user || !home_is_plain {
                return None;
            }
            Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.to_owned() })
        })
    }
}

/// The content of the first plain file in a tar archive; at most a mebibyte of it.
pub(super) fn first_file(archive: &[u8]) -> Option<String> {
    const ENOUGH: u64 = 1 << 20;
    let mut tar = tar::Archive::new(archive);
    let file = tar.entries().ok()?.filter_map(Result::ok).find(|entry| entry.header().entry_type().is_file())?;
    let mut text = Vec::new();
    file.take(ENOUGH).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_has_directories_owners_and_modes() {
        let keys = AccessKeys::example("ssh-ed25519 LOGIN");
        let account =
            Account::find("lab", "root:x:0:0::/root:/bin/sh\nlab:x:1000:1001:Lab:/home/lab:/bin/sh\n").unwrap();
        let archive = keys.archive(&account).unwrap();
        let mut tar = tar::Archive::new(&archive[..]);
        let found: Vec<_> = tar
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                let path = entry.path().unwrap().display().to_string();
                (path, header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap())
            })
            .collect();
        let expected = [
            ("home/lab/.ssh/", 0o700, 1000, 1001),
            ("home/lab/.ssh/authorized_keys", 0o600, 1000, 1001),
            ("etc/ssh/", 0o755, 0, 0),
            ("etc/ssh/ssh_host_ed25519_key", 0o600, 0, 0),
            ("etc/ssh/ssh_host_ed25519_key.pub", 0o644, 0, 0),
        ];
        assert_eq!(found, expected.map(|(path, mode, uid, gid)| (path.to_owned(), mode, uid, gid)));
        assert_eq!(first_file(&archive).unwrap(), "ssh-ed25519 LOGIN\n");
    }

    #[test]
    fn accounts_come_from_passwd_and_odd_lines_are_passed_over() {
        let passwd = "broken\nlab:x:no:1::/home/lab:\nup:x:1:1::/home/../etc:/bin/sh\nok:x:7:8::/srv/ok:/bin/sh";
        assert_eq!(Account::find("ok", passwd), Some(Account { uid: 7, gid: 8, home: "/srv/ok".into() }));
        for missing in ["lab", "up", "broken", "none"] {
            assert_eq!(Account::find(missing, passwd), None);
        }
    }
}
