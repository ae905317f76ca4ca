//! Known hosts files as OpenSSH reads them: which keys are known, revoked or certify for a name.
//!
//! The format is sshd(8)'s `SSH_KNOWN_HOSTS` FILE FORMAT. Entries are parsed by `ssh_key`; matching of names (globs,
//! negation, `[host]:port`, hashes) is ours and follows OpenSSH's `match.c` and `hostfile.c`.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use hmac::{Hmac, Mac as _};
use russh::keys::{
    PublicKey,
    ssh_key::known_hosts::{Entry, HostPatterns, Marker},
};
use sha1::Sha1;

use super::target::SSH_PORT;

/// Larger files are not `known_hosts` files.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// Why a file of known hosts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KnownHostsError {
    /// It exists and cannot be read. Taking it for empty would turn a known host into an unknown one.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A new key cannot be written down.
    #[error("cannot add a host key to `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A pinned key is not a public key.
    #[error("`{text}` is not a public key such as `ssh-ed25519 AAAA...`")]
    Pin {
        /// As written.
        text: String,
    },
}

impl KnownHostsError {
    /// What to do about it, in one line.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { path, .. } | Self::Write { path, .. } => Some(format!("ls -l {}", path.display())),
            Self::Pin { .. } => None,
        }
    }
}

/// A key that a file lists for a name.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) key: PublicKey,
    pub(super) meaning: Meaning,
    pub(super) path: PathBuf,
    /// Counted from 1.
    pub(super) line: usize,
}

/// What a listed key is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The host's own.
    Host,
    /// Signs host certificates (`@cert-authority`).
    Authority,
    /// Must never be accepted (`@revoked`).
    Revoked,
}

/// The name under which a host is listed: lower case, `[address]:port` unless the port is 22.
pub(super) fn host_pattern(address: &str, port: u16) -> String {
    let address = address.to_lowercase();
    if port == SSH_PORT { address } else { format!("[{address}]:{port}") }
}

/// All that the files list for a name, in order.
pub(super) fn look_up(files: &[PathBuf], name: &str) -> Result<Vec<Known>, KnownHostsError> {
    let mut known = Vec::new();
    for path in files {
        if let Some(text) = read(path)? {
            known.extend(look_up_in(&text, path, name));
        }
    }
    Ok(known)
}

fn read(path: &Path) -> Result<Option<String>, KnownHostsError> {
    let failed = |source| KnownHostsError::Read { path: path.to_owned(), source };
    match fs_err::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if metadata.len() > MAX_FILE => return Err(failed(io::ErrorKind::FileTooLarge.into())),
        Ok(_) => {}
    }
    let bytes = fs_err::read(path).map_err(failed)?;
    // A comment in another encoding must not make the file unreadable.
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn look_up_in(text: &str, path: &Path, name: &str) -> Vec<Known> {
    let mut known = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        match parse_line(line) {
            Ok(Some(entry)) if matches(entry.host_patterns(), name) => known.push(Known {
                key: entry.public_key().clone(),
                meaning: match entry.marker() {
                    None => Meaning::Host,
                    Some(Marker::CertAuthority) => Meaning::Authority,
                    Some(Marker::Revoked) => Meaning::Revoked,
                },
                path: path.to_owned(),
                line: line_number,
            }),
            Ok(_) => {}
            Err(()) => tracing::warn!("{}:{line_number} is not a known_hosts line, skipped", path.display()),
        }
    }
    known
}

/// One line's entry; none for a blank line or comment.
fn parse_line(line: &str) -> Result<Option<Entry>, ()> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    // The parser splits at single spaces and cuts at `#`; files may use tabs and runs of blanks, and a comment after
    // the key decides nothing.
    let fields = if line.starts_with('@') { 4 } else { 3 };
    let plain = line.split_whitespace().take(fields).collect::<Vec<_>>().join(" ");
    plain.parse().map(Some).map_err(|_| ())
}

/// Whether an entry is about this name. A matching negated pattern overrules all others.
fn matches(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => {
            let Ok(mut hmac) = Hmac::<Sha1>::new_from_slice(salt) else {
                return false;
            };
            hmac.update(name.as_bytes());
            hmac.verify_slice(hash).is_ok()
        }
        HostPatterns::Patterns(patterns) => {
            let mut found = false;
            for pattern in patterns {
                let pattern = pattern.to_lowercase();
                match pattern.strip_prefix('!') {
                    Some(negated) if glob_matches(negated, name) => return false,
                    Some(_) => {}
                    None => found |= glob_matches(&pattern, name),
                }
            }
            found
        }
    }
}

/// `*` is any run of characters, `?` is one; nothing else is special.
pub(super) fn glob_matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut from) = (0, 0);
    // Where to go on when the rest does not match: the last star takes one character more.
    let mut star: Option<(usize, usize)> = None;
    while from < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(&wanted) if wanted == '?' || wanted == text[from] => {
                at += 1;
                from += 1;
            }
            _ => match &mut star {
                Some((star_at, star_from)) => {
                    *star_from += 1;
                    at = *star_at + 1;
                    from = *star_from;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

/// Adds a key for a name at the end of a file, in one write.
pub(super) fn add(path: &Path, name: &str, key: &PublicKey) -> Result<(), KnownHostsError> {
    let failed = |source| KnownHostsError::Write { path: path.to_owned(), source };
    let text = key.to_openssh().map_err(|error| failed(io::Error::other(error)))?;
    // Without the comment: it came from the far side.
    let text = text.split(' ').take(2).collect::<Vec<_>>().join(" ");
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(failed)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    let before = fs_err::read(path).map_err(failed)?;
    // A file without a last newline must not glue two entries together.
    let gap = if before.last().is_some_and(|last| *last != b'\n') { "\n" } else { "" };
    file.write_all(format!("{gap}{name} {text}\n").as_bytes()).map_err(failed)
}
