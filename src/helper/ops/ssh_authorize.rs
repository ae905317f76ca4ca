//! `ssh_authorize`: a public key in a user's `authorized_keys`.
//!
//! The files belong to the user, and the helper mostly is root: everything happens relative to open directories and
//! never through a link that the user may have planted.

use std::{
    io::{self, Read, Write},
    path::Path,
};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid, fchmod, fchown, fsync, mkdirat, openat, renameat, statat,
        unlinkat,
    },
    io::Errno,
};

use super::{Finding, Obstacle, Operation, ownership::attribute};
use crate::{
    helper::{
        accounts::User,
        failure::{OrFail, bad_input, io_failure},
        foreseen::Foreseen,
        machine::Machine,
        replace::temporary_name,
    },
    plan::{Action, Change, Diff, OpFailure, Principal, SshAuthorize},
};

const FOLDER: &str = ".ssh";
const FILE: &str = "authorized_keys";
/// Longest file that is read in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What has to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyChange {
    /// None when the user is still to be made.
    target: String,
    /// The file's new content; None when it is right.
    content: Option<Vec<u8>>,
    /// What of mode and owner is wrong: name, before, after.
    attributes: Vec<(String, String, String)>,
}

/// What is there.
struct Home {
    user: User,
    path: String,
    folder: Option<(OwnedFd, Stat)>,
    file: Option<(Vec<u8>, Stat)>,
}

impl Operation for SshAuthorize {
    type Change = KeyChange;

    fn check(&self, machine: &mut Machine<'_>) -> Result<Finding<KeyChange>, Obstacle> {
        let key = parts(&self.key).ok_or_else(|| not_a_key(&self.key))?;
        let Some(user) = machine.accounts.user_named(&self.user)? else {
            // Without the user there is no key either.
            if !self.present {
                return Ok(Finding::Same);
            }
            machine.user_id(&Principal::Name(self.user.clone()))?;
            let target = format!("authorized_keys of {}", self.user);
            return Ok(Finding::Differs(KeyChange { target, content: None, attributes: Vec::new() }));
        };
        let home = match Home::open(user) {
            Ok(Some(home)) => home,
            Ok(None) if !self.present => return Ok(Finding::Same),
            Ok(None) => {
                return machine
                    .missing(&format!("the home of `{}`", self.user), "make it: user_ensure(..., home = ...)");
            }
            Err(failure) => return Err(failure.into()),
        };
        let old = home.file.as_ref().map(|(content, _)| content.as_slice());
        let new = edited(old.unwrap_or_default(), &self.key, &key, self.present);
        let content = Some(new).filter(|new| *new != old.unwrap_or_default());
        if !self.present && content.is_none() {
            return Ok(Finding::Same);
        }
        let attributes = home.wrong_attributes();
        if content.is_none() && attributes.is_empty() {
            return Ok(Finding::Same);
        }
        Ok(Finding::Differs(KeyChange { target: home.path, content, attributes }))
    }

    fn describe(&self, change: &KeyChange, _: &Machine<'_>) -> Diff {
        let action = match (self.present, change.content.is_some()) {
            (false, _) => Action::Remove,
            (true, true) => Action::Create,
            (true, false) => Action::Modify,
        };
        let label = label(&self.key);
        let mut told = Change::new(action, change.target.clone()).with(match action {
            Action::Remove => {
                crate::plan::Detail::Attribute { name: "key".to_owned(), before: Some(label), after: None }
            }
            _ => attribute("key", None, label),
        });
        if action == Action::Modify {
            told.details.clear();
        }
        told.details
            .extend(change.attributes.iter().map(|(name, before, after)| attribute(name, Some(before.clone()), after)));
        Diff::of(told)
    }

    fn foresee(&self, _: &KeyChange, _: &mut Foreseen) {}

    fn apply(&self, change: KeyChange, machine: &mut Machine<'_>) -> Result<(), OpFailure> {
        let user = machine
            .accounts
            .user_named(&self.user)?
            .ok_or_else(|| bad_input(format!("user `{}` does not exist", self.user)))?;
        let target = change.target.clone();
        let home = Home::open(user)?.ok_or_else(|| bad_input(format!("the home of `{}` does not exist", self.user)))?;
        home.write(change.content.as_deref()).or_fail("write", target)
    }
}

impl Home {
    /// Opens what is there. None when the home directory is missing.
    fn open(user: User) -> Result<Option<Self>, OpFailure> {
        let shown = format!("{}/{FOLDER}", user.home.trim_end_matches('/'));
        if !Path::new(&user.home).is_absolute() {
            return Ok(None);
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let home = match openat(CWD, &*user.home, flags, Mode::empty()) {
            Ok(home) => home,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(io_failure("open", &user.home, &error.into())),
        };
        let path = format!("{shown}/{FILE}");
        let folder = match openat(&home, FOLDER, flags | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(folder) => {
                let found = rustix::fs::fstat(&folder).or_fail("look at", &shown)?;
                (folder, found)
            }
            Err(Errno::NOENT) => return Ok(Some(Self { user, path, folder: None, file: None })),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(bad_input(format!("`{shown}` is a link or a file; keys are not written through it")));
            }
            Err(error) => return Err(io_failure("open", shown, &error.into())),
        };
        let file = read_file(folder.0.as_fd(), &path)?;
        Ok(Some(Self { user, path, folder: Some(folder), file }))
    }

    /// sshd ignores keys in files that others may write to; see `StrictModes` in `sshd_config(5)`.
    fn wrong_attributes(&self) -> Vec<(String, String, String)> {
        let mut wrong = Vec::new();
        let wanted = [
            ("folder", self.folder.as_ref().map(|(_, found)| found), 0o700),
            ("file", self.file.as_ref().map(|(_, found)| found), 0o600),
        ];
        for (what, found, mode) in wanted.into_iter().filter_map(|(what, found, mode)| Some((what, found?, mode))) {
            let before = found.st_mode & 0o7777;
            if before != mode {
                wrong.push((format!("mode of the {what}"), format!("{before:04o}"), format!("{mode:04o}")));
            }
            if (found.st_uid, found.st_gid) != (self.user.uid, self.user.gid) {
                let before = format!("{}:{}", found.st_uid, found.st_gid);
                wrong.push((format!("owner of the {what}"), before, format!("{}:{}", self.user.uid, self.user.gid)));
            }
        }
        wrong
    }

    /// Sets folder and file right, and the file's content when it is given.
    fn write(self, content: Option<&[u8]>) -> io::Result<()> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = if let Some((folder, _)) = self.folder {
            folder
        } else {
            let home = openat(CWD, &*self.user.home, flags.difference(OFlags::NOFOLLOW), Mode::empty())?;
            mkdirat(&home, FOLDER, Mode::from_raw_mode(0o700))?;
            openat(&home, FOLDER, flags, Mode::empty())?
        };
        let own = |file: &OwnedFd, mode| {
            let found = rustix::fs::fstat(file)?;
            if (found.st_uid, found.st_gid) != (self.user.uid, self.user.gid) {
                fchown(file, Some(Uid::from_raw(self.user.uid)), Some(Gid::from_raw(self.user.gid)))?;
            }
            fchmod(file, Mode::from_raw_mode(mode))
        };
        own(&folder, 0o700)?;
        let Some(content) = content else {
            if self.file.is_some() {
                let file = openat(&folder, FILE, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
                own(&file, 0o600)?;
            }
            return Ok(());
        };
        let temporary = temporary_name();
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&folder, &temporary, create, Mode::from_raw_mode(0o600))?;
        let written = std::fs::File::from(file.try_clone()?).write_all(content).and_then(|()| {
            own(&file, 0o600)?;
            fsync(&file)?;
            renameat(&folder, &temporary, &folder, FILE)?;
            Ok(fsync(&folder)?)
        });
        if written.is_err() {
            // Renamed already: then there is nothing to take away.
            let _ = unlinkat(&folder, &temporary, AtFlags::empty());
        }
        written
    }
}

fn read_file(folder: impl AsFd, path: &str) -> Result<Option<(Vec<u8>, Stat)>, OpFailure> {
    let found = match statat(&folder, FILE, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(io_failure("look at", path, &error.into())),
    };
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(bad_input(format!("`{path}` is not a regular file; keys are not written through it")));
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(&folder, FILE, flags, Mode::empty()).or_fail("read", path)?;
    let mut content = Vec::new();
    std::fs::File::from(file).take(MAX_FILE + 1).read_to_end(&mut content).or_fail("read", path)?;
    if content.len() as u64 > MAX_FILE {
        return Err(bad_input(format!("`{path}` is longer than {MAX_FILE} bytes")));
    }
    Ok(Some((content, found)))
}

/// The content with the key, or without it. Every other line stays as it is, byte for byte.
fn edited(old: &[u8], line: &str, key: &(String, String), present: bool) -> Vec<u8> {
    let is_key = |line: &[u8]| std::str::from_utf8(line).ok().and_then(parts).as_ref() == Some(key);
    let lines = old.split_inclusive(|byte| *byte == b'\n');
    if !present {
        return lines.filter(|line| !is_key(line)).flatten().copied().collect();
    }
    if old.split(|byte| *byte == b'\n').any(is_key) {
        return old.to_vec();
    }
    let mut new = old.to_vec();
    if !new.is_empty() && !new.ends_with(b"\n") {
        new.push(b'\n');
    }
    new.extend_from_slice(line.trim().as_bytes());
    new.push(b'\n');
    new
}

/// Type and base64 of a key line, `AUTHORIZED_KEYS FILE FORMAT` in sshd(8). Options before the type may hold blanks in
/// double quotes.
fn parts(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') || line.contains(['\n', '\0']) {
        return None;
    }
    let mut words = Vec::new();
    let (mut word, mut quoted, mut escaped) = (String::new(), false, false);
    for letter in line.chars() {
        match letter {
            '"' if !escaped => quoted = !quoted,
            ' ' | '\t' if !quoted => {
                words.push(std::mem::take(&mut word));
                continue;
            }
            _ => {}
        }
        escaped = letter == '\\' && !escaped;
        word.push(letter);
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    let at = words.iter().take(2).position(|word| is_key_type(word))?;
    let base64 = words.get(at + 1)?;
    let fits = base64.len() >= 16 && base64.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '='));
    fits.then(|| (words[at].clone(), base64.clone()))
}

fn is_key_type(word: &str) -> bool {
    let known = ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"].iter().any(|prefix| word.starts_with(prefix));
    known && word.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '@'))
}

/// Type, end of the key and comment: enough to know it by.
fn label(line: &str) -> String {
    let Some((kind, base64)) = parts(line) else { return String::new() };
    let comment = line.trim().split_once(&base64).map(|(_, rest)| rest.trim()).unwrap_or_default();
    let end: String = base64.chars().skip(base64.chars().count().saturating_sub(8)).collect();
    format!("{kind} …{end} {comment}").trim_end().to_owned()
}

fn not_a_key(line: &str) -> OpFailure {
    let start: String = line.chars().take(20).collect();
    if line.contains("PRIVATE KEY") {
        return bad_input("ssh_authorize was given a private key")
            .hint("give the public key, the file that ends in .pub");
    }
    bad_input(format!("`{start}...` is not a line of a public key"))
        .hint("give the one line of a file that ends in .pub")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ alice@laptop";

    fn with(old: &str, present: bool) -> String {
        String::from_utf8(edited(old.as_bytes(), KEY, &parts(KEY).unwrap(), present)).unwrap()
    }

    #[test]
    fn a_key_is_known_by_type_and_body() {
        let key = parts(KEY).unwrap();
        assert_eq!(
            parts("no-pty,command=\"echo \\\"a b\\\"\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ other").unwrap(),
            key
        );
        for bad in ["", "# ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ", "ssh-ed25519", "nonsense AAAA", "ssh-ed25519 ###"] {
            assert_eq!(parts(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn other_lines_stay_as_they_are() {
        assert_eq!(with("", true), format!("{KEY}\n"));
        assert_eq!(with("# mine\n\n  odd line", true), format!("# mine\n\n  odd line\n{KEY}\n"));
        let present = "a\r\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ bob\nz";
        assert_eq!(with(present, true), present);
        assert_eq!(with(present, false), "a\r\nz");
    }

    #[test]
    fn a_label_shows_enough_to_know_a_key_by() {
        assert_eq!(label(KEY), "ssh-ed25519 …E5AAAAIJ alice@laptop");
    }
}
