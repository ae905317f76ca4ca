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

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, process::Command};

    use super::*;

    fn key(directory: &Path, name: &str, kind: &str) -> String {
        let path = directory.join(name);
        let arguments = ["-q", "-t", kind, "-N", "", "-C", "", "-f"];
        assert!(Command::new("ssh-keygen").args(arguments).arg(&path).status().unwrap().success());
        fs_err::read_to_string(path.with_extension("pub")).unwrap().trim().to_owned()
    }

    /// Lines that `ssh-keygen -F` finds for a name.
    fn found_by_openssh(path: &Path, name: &str) -> Vec<usize> {
        let output = Command::new("ssh-keygen").args(["-F", name, "-f"]).arg(path).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        // `# Host NAME found: line N` and a marker's name behind it.
        let headers = text.lines().filter_map(|line| line.split_once(" found: line "));
        headers.map(|(_, rest)| rest.split(' ').next().unwrap().parse().unwrap()).collect()
    }

    /// Lines of patterns, each put before a key.
    const CORPUS: [&str; 32] = [
        "plain",
        "PLAIN2",
        "one,two,three",
        "*",
        "*.example.com",
        "*.example.com,!secret.example.com",
        "!secret.example.com,*.example.com",
        "!*.example.com,*",
        "host?",
        "host??",
        "h*t*1",
        "**a**",
        "a*b*c",
        "[plain]:2222",
        "[*]:2222",
        "[*.example.com]:*",
        "[one]:22",
        "[10.0.0.1]:22",
        "10.0.0.*",
        "10.0.0.1,alias",
        "::1",
        "[::1]:2222",
        "fe80::*",
        "plain,plain",
        "!plain",
        "!plain,plain",
        "@cert-authority *.example.com",
        "@cert-authority [*.example.com]:2222,plain",
        "@revoked *",
        "@revoked plain",
        "?",
        "ho[s]t1",
    ];
    const NAMES: [&str; 24] = [
        "plain",
        "PLAIN",
        "plain2",
        "one",
        "two",
        "three",
        "four",
        "a.example.com",
        "secret.example.com",
        "example.com",
        "host1",
        "host12",
        "host",
        "abc",
        "axbyc",
        "acb",
        "[plain]:2222",
        "[a.example.com]:2222",
        "[one]:22",
        "10.0.0.1",
        "10.0.0.12",
        "::1",
        "[::1]:2222",
        "x",
    ];

    #[test]
    fn names_match_as_openssh_matches_them() {
        let directory = tempfile::tempdir().unwrap();
        let key = key(directory.path(), "key", "ed25519");
        let path = directory.path().join("known_hosts");
        let lines: Vec<String> = CORPUS.iter().map(|patterns| format!("{patterns} {key}")).collect();
        fs_err::write(&path, lines.join("\n") + "\n").unwrap();
        let hashed = directory.path().join("hashed");
        let names: Vec<String> = NAMES.iter().map(|name| format!("{} {key}", name.to_lowercase())).collect();
        fs_err::write(&hashed, names.join("\n") + "\n").unwrap();
        assert!(Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&hashed).output().unwrap().status.success());
        assert!(fs_err::read_to_string(&hashed).unwrap().starts_with("|1|"));
        let mut matched = 0;
        for name in NAMES {
            for path in [&path, &hashed] {
                let ours = look_up(std::slice::from_ref(path), &name.to_lowercase()).unwrap();
                let ours: Vec<usize> = ours.iter().map(|known| known.line).collect();
                // ssh(1) looks hashed names up in lower case; ssh-keygen(1) leaves that to its user.
                let asked = if path == &hashed { name.to_lowercase() } else { name.to_owned() };
                assert_eq!(ours, found_by_openssh(path, &asked), "{name} in {}", path.display());
                matched += ours.len();
            }
        }
        assert!(matched > 100, "only {matched} matches were compared");
    }

    #[test]
    fn lines_are_read_whatever_their_blanks_and_the_bad_ones_skipped() {
        let directory = tempfile::tempdir().unwrap();
        let key = key(directory.path(), "key", "ed25519");
        let tabs = key.replace(' ', "\t");
        let text = format!(
            "# plain {key}\n\n  plain   {key}\nplain\t{tabs}\t a comment # with more\nplain\nplain ssh-ed25519\n\
             plain ssh-ed25519 AAAA\n@unknown plain {key}\nplain 1024 37 159\n@revoked\tplain\t{tabs}\nplain {key}\r\n\
             |1|bad|hash {key}\n\u{e4} {key}"
        );
        let path = directory.path().join("known_hosts");
        fs_err::write(&path, text).unwrap();
        let found = look_up(&[path], "plain").unwrap();
        let found: Vec<(usize, Meaning)> = found.iter().map(|known| (known.line, known.meaning)).collect();
        assert_eq!(found, [(3, Meaning::Host), (4, Meaning::Host), (10, Meaning::Revoked), (11, Meaning::Host)]);
    }

    #[test]
    fn a_missing_file_is_empty_and_one_in_another_encoding_is_read() {
        let directory = tempfile::tempdir().unwrap();
        assert!(look_up(&[directory.path().join("none")], "plain").unwrap().is_empty());
        let key = key(directory.path(), "key", "ed25519");
        let path = directory.path().join("latin");
        fs_err::write(&path, [b"# gr\xfc\xdfe\n".as_slice(), format!("plain {key}\n").as_bytes()].concat()).unwrap();
        assert_eq!(look_up(&[path], "plain").unwrap().len(), 1);
        let error = look_up(&[directory.path().to_owned()], "plain").unwrap_err();
        assert!(matches!(error, KnownHostsError::Read { .. }) && error.hint().is_some());
    }

    #[test]
    fn added_keys_are_found_by_openssh() {
        let directory = tempfile::tempdir().unwrap();
        let public = PublicKey::from_openssh(&key(directory.path(), "key", "ed25519")).unwrap();
        let path = directory.path().join("new/known_hosts");
        add(&path, "plain", &public).unwrap();
        fs_err::write(&path, fs_err::read_to_string(&path).unwrap().trim_end()).unwrap();
        add(&path, "[plain]:2222", &public).unwrap();
        assert_eq!(found_by_openssh(&path, "plain"), [1]);
        assert_eq!(found_by_openssh(&path, "[plain]:2222"), [2]);
        assert_eq!(fs_err::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_port_is_named_unless_it_is_the_usual_one() {
        assert_eq!(host_pattern("Node-1", 22), "node-1");
        assert_eq!(host_pattern("Node-1", 2222), "[node-1]:2222");
    }
}
