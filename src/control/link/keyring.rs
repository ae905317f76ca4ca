//! The lab's keys, made at first use: our key pair, a host key for each container, generated passwords.
//!
//! ```text
//! keys/<lab>/            0700
//! ├── .gitignore         refuses private files
//! ├── .lock              held while something is made
//! ├── id_ed25519         0600, and .pub: what we log in with
//! ├── `known_hosts`        keys of machines that are not our containers
//! ├── hosts/<host>       0600, and .pub: a container's host key
//! └── passwords/<name>   0600: one generated password and a newline
//! ```

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rand::distr::{Alphanumeric, SampleString as _};
use russh::keys::{
    Algorithm, PrivateKey, PublicKey,
    ssh_key::{self, LineEnding},
};
use rustix::fs::{FlockOperation, flock};

use super::{
    HostKeys, Identity, LoadedKey,
    private_key::{KeyError, public_path, refuse_open},
};
use crate::plan::{HostName, Secret};

/// Letters and digits of a generated password: 190 bits.
const PASSWORD_LENGTH: usize = 32;

const GITIGNORE: &str = "# Made by ovs-cuisine: nothing private can be committed.\n*\n!.gitignore\n!*.pub\n";

/// The lab's keys in one directory. Nothing is touched before something is needed.
#[derive(Debug, Clone)]
pub struct Keyring {
    directory: PathBuf,
}

/// An Ed25519 key pair.
#[derive(Debug, Clone)]
pub struct KeyPair {
    /// The private key in OpenSSH format.
    pub private: Secret<String>,
    /// The public key as one line without newline: `ssh-ed25519 AAAA... comment`.
    pub public: String,
    loaded: LoadedKey,
}

impl KeyPair {
    /// The pair as something to log in with.
    pub fn identity(&self) -> Identity {
        Identity::Loaded(self.loaded.clone())
    }

    /// `SHA256:...` of the public key.
    pub fn fingerprint(&self) -> String {
        self.loaded.fingerprint()
    }
}

impl Keyring {
    /// The keys in this directory. It is made, with mode 0700, when the first key is.
    pub fn open(directory: &Path) -> Result<Self, KeyError> {
        match fs_err::metadata(directory) {
            Ok(metadata) if !metadata.is_dir() => {
                Err(KeyError::io("open", directory, io::ErrorKind::NotADirectory.into()))
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(KeyError::io("open", directory, error)),
            _ => Ok(Self { directory: directory.to_owned() }),
        }
    }

    /// Where the keys are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The key pair that we log in with.
    pub fn lab_key(&self) -> Result<KeyPair, KeyError> {
        self.pair(&self.directory.join("id_ed25519"), "ovs-cuisine")
    }

    /// The host key of a container.
    pub fn host_key(&self, host: &HostName) -> Result<KeyPair, KeyError> {
        self.pair(&self.directory.join("hosts").join(host.as_str()), host.as_str())
    }

    /// The one host key that is good for a container.
    pub fn pin(&self, host: &HostName) -> Result<HostKeys, KeyError> {
        Ok(HostKeys::Pinned(vec![self.host_key(host)?.public]))
    }

    /// The file with keys of machines that are not our containers. It may not exist.
    pub fn known_hosts(&self) -> PathBuf {
        self.directory.join("known_hosts")
    }

    /// A password, generated when it is first asked for: 32 letters and digits. `name` has a host name's alphabet.
    pub fn password(&self, name: &str) -> Result<Secret<String>, KeyError> {
        let path = self.password_path(name)?;
        if let Some(password) = read_password(&path)? {
            return Ok(password);
        }
        let _lock = self.lock()?;
        if let Some(password) = read_password(&path)? {
            return Ok(password);
        }
        let password = Alphanumeric.sample_string(&mut rand::rng(), PASSWORD_LENGTH);
        write_whole(&path, &format!("{password}\n"), 0o600)?;
        Ok(Secret::new(password))
    }

    /// The password of this name, if there is one already.
    pub fn existing_password(&self, name: &str) -> Result<Option<Secret<String>>, KeyError> {
        read_password(&self.password_path(name)?)
    }

    fn password_path(&self, name: &str) -> Result<PathBuf, KeyError> {
        // The alphabet has no slash and no leading dot, so the path stays inside.
        let name: HostName = name.parse().map_err(|_| KeyError::Name { name: name.to_owned() })?;
        Ok(self.directory.join("passwords").join(name.as_str()))
    }

    fn pair(&self, path: &Path, comment: &str) -> Result<KeyPair, KeyError> {
        if let Some(pair) = read_pair(path)? {
            return Ok(pair);
        }
        let _lock = self.lock()?;
        match read_pair(path)? {
            Some(pair) => Ok(pair),
            None => make_pair(path, comment),
        }
    }

    /// Held by whoever makes something, so that two runs never make it twice.
    fn lock(&self) -> Result<File, KeyError> {
        make_private_directory(&self.directory)?;
        let ignore = self.directory.join(".gitignore");
        if !ignore.exists() {
            write_whole(&ignore, GITIGNORE, 0o644)?;
        }
        let path = self.directory.join(".lock");
        let failed = |error| KeyError::io("lock", &path, error);
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(failed)?;
        // Held for milliseconds by whoever has it, and freed by the kernel when that process dies.
        flock(&file, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        Ok(file)
    }
}

fn make_private_directory(path: &Path) -> Result<(), KeyError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| KeyError::io("create", path, error))
}

/// Writes a file so that it is there wholly or not at all, on disk before it has its name.
fn write_whole(path: &Path, text: &str, mode: u32) -> Result<(), KeyError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let failed = |error| KeyError::io("write", path, error);
    let directory = path.parent().unwrap_or(Path::new("."));
    make_private_directory(directory)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = directory.join(format!(".{name}.{}.{number}.tmp", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs_err::rename(&temporary, path)
    };
    write().map_err(|error| {
        // Best effort: the first error is the one to tell.
        let _ = fs_err::remove_file(&temporary);
        failed(error)
    })
}

/// A private file's text, after the check that nobody else can use it; none when it does not exist.
fn read_private(path: &Path) -> Result<Option<String>, KeyError> {
    let metadata = match fs_err::symlink_metadata(path) {
        Ok(_) => fs_err::metadata(path).map_err(|error| KeyError::io("read", path, error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(KeyError::io("read", path, error)),
    };
    refuse_open(path, &metadata)?;
    fs_err::read_to_string(path).map(Some).map_err(|error| KeyError::io("read", path, error))
}

fn read_password(path: &Path) -> Result<Option<Secret<String>>, KeyError> {
    let Some(text) = read_private(path)? else {
        return Ok(None);
    };
    let password = text.strip_suffix('\n').unwrap_or(&text);
    if password.is_empty() || password.contains('\n') {
        return Err(KeyError::NotAPassword { path: path.to_owned() });
    }
    Ok(Some(Secret::new(password.to_owned())))
}

fn read_pair(path: &Path) -> Result<Option<KeyPair>, KeyError> {
    let Some(text) = read_private(path)? else {
        let public = public_path(path);
        return if public.exists() { Err(KeyError::HalfMissing { path: path.to_owned(), public }) } else { Ok(None) };
    };
    let loaded = LoadedKey::parse(&text, path)?;
    // Taken from the private key: a .pub file that somebody swapped must not decide whom we let in.
    let public = public_line(loaded.key().public_key(), path)?;
    Ok(Some(KeyPair { private: Secret::new(text), public, loaded }))
}

fn make_pair(path: &Path, comment: &str) -> Result<KeyPair, KeyError> {
    let failed = |source: ssh_key::Error| KeyError::Generate { path: path.to_owned(), source };
    let mut key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).map_err(failed)?;
    key.set_comment(comment);
    let text = key.to_openssh(LineEnding::LF).map_err(failed)?;
    let public = public_line(key.public_key(), path)?;
    // Private first: a run that dies in between leaves a key without .pub, which still works.
    write_whole(path, &text, 0o600)?;
    write_whole(&public_path(path), &format!("{public}\n"), 0o644)?;
    let loaded = LoadedKey::parse(&text, path)?;
    Ok(KeyPair { private: Secret::new(text.to_string()), public, loaded })
}

fn public_line(key: &PublicKey, path: &Path) -> Result<String, KeyError> {
    key.to_openssh().map_err(|source| KeyError::Generate { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, process::Command, thread};

    use super::*;

    fn keyring() -> (tempfile::TempDir, Keyring) {
        let directory = tempfile::tempdir().unwrap();
        let keyring = Keyring::open(&directory.path().join("keys/demo")).unwrap();
        (directory, keyring)
    }

    fn mode(path: &Path) -> u32 {
        fs_err::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn keys_are_made_once_and_kept_to_ourselves() {
        let (_directory, keyring) = keyring();
        assert!(!keyring.directory().exists(), "opening makes nothing");
        let first = keyring.lab_key().unwrap();
        assert_eq!(first.public, keyring.lab_key().unwrap().public);
        assert_eq!(mode(keyring.directory()), 0o700);
        let private = keyring.directory().join("id_ed25519");
        assert_eq!(mode(&private), 0o600);
        assert_eq!(fs_err::read_to_string(public_path(&private)).unwrap(), format!("{}\n", first.public));
        assert!(!format!("{first:?}").contains("PRIVATE"));
        let derived = Command::new("ssh-keygen").arg("-yf").arg(&private).output().unwrap();
        assert_eq!(String::from_utf8(derived.stdout).unwrap().trim(), first.public, "OpenSSH reads the same key");
    }

    #[test]
    fn every_host_has_its_own_key() {
        let (_directory, keyring) = keyring();
        let (one, two) = ("node-1".parse().unwrap(), "node-2".parse().unwrap());
        assert_ne!(keyring.host_key(&one).unwrap().public, keyring.host_key(&two).unwrap().public);
        let HostKeys::Pinned(keys) = keyring.pin(&one).unwrap() else { panic!("containers are pinned") };
        assert_eq!(keys, [keyring.host_key(&one).unwrap().public]);
        assert_eq!(mode(&keyring.directory().join("hosts/node-1")), 0o600);
    }

    #[test]
    fn files_that_others_may_use_are_refused() {
        let (_directory, keyring) = keyring();
        keyring.lab_key().unwrap();
        keyring.password("etcd-root").unwrap();
        for (file, wrong) in [("id_ed25519", 0o640), ("passwords/etcd-root", 0o604)] {
            set_mode(&keyring.directory().join(file), wrong);
        }
        let error = keyring.lab_key().unwrap_err();
        assert!(matches!(error, KeyError::TooOpen { mode: 0o640, .. }), "{error}");
        assert!(error.hint().unwrap().starts_with("chmod 600 "), "{error}");
        assert!(matches!(keyring.password("etcd-root").unwrap_err(), KeyError::TooOpen { mode: 0o604, .. }));
    }

    #[test]
    fn a_lost_private_half_is_not_replaced_silently() {
        let (_directory, keyring) = keyring();
        keyring.lab_key().unwrap();
        fs_err::remove_file(keyring.directory().join("id_ed25519")).unwrap();
        assert!(matches!(keyring.lab_key().unwrap_err(), KeyError::HalfMissing { .. }));
        assert!(!keyring.directory().join("id_ed25519").exists());
    }

    #[test]
    fn garbage_is_named() {
        let (_directory, keyring) = keyring();
        keyring.lab_key().unwrap();
        fs_err::write(keyring.directory().join("id_ed25519"), "not a key\n").unwrap();
        let error = keyring.lab_key().unwrap_err();
        assert!(matches!(error, KeyError::Format { .. }), "{error}");
        assert!(error.to_string().contains("id_ed25519"));
    }

    #[test]
    fn passwords_are_long_plain_and_stable() {
        let (_directory, keyring) = keyring();
        assert!(keyring.existing_password("etcd-root").unwrap().is_none());
        let password = keyring.password("etcd-root").unwrap();
        assert_eq!(password.expose().len(), 32);
        assert!(password.expose().bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_eq!(keyring.password("etcd-root").unwrap(), password);
        assert_eq!(keyring.existing_password("etcd-root").unwrap(), Some(password.clone()));
        assert_ne!(keyring.password("ovsdb").unwrap(), password);
        assert_eq!(mode(&keyring.directory().join("passwords/etcd-root")), 0o600);
        for name in ["../x", "", ".hidden", "a/b"] {
            assert!(matches!(keyring.password(name).unwrap_err(), KeyError::Name { .. }), "{name:?}");
        }
    }

    #[test]
    fn many_at_once_agree() {
        let (_directory, keyring) = keyring();
        let host: HostName = "node-1".parse().unwrap();
        let made: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|_| {
                    scope.spawn(|| {
                        let key = keyring.lab_key().unwrap().public;
                        (key, keyring.host_key(&host).unwrap().public, keyring.password("p").unwrap())
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(made.iter().all(|one| *one == made[0]));
        let left: Vec<_> = fs_err::read_dir(keyring.directory())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains(".tmp"))
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    #[test]
    fn git_never_sees_a_private_file() {
        let (directory, keyring) = keyring();
        keyring.lab_key().unwrap();
        keyring.host_key(&"node-1".parse().unwrap()).unwrap();
        keyring.password("etcd-root").unwrap();
        let git = |arguments: &[&str]| {
            let output = Command::new("git").arg("-C").arg(directory.path()).args(arguments).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        git(&["init", "--quiet"]);
        git(&["add", "--all"]);
        let listed = git(&["ls-files"]);
        assert!(listed.contains("keys/demo/id_ed25519.pub"), "{listed}");
        for line in listed.lines() {
            let ending = Path::new(line).extension().and_then(std::ffi::OsStr::to_str);
            assert!(ending == Some("pub") || line.ends_with("/.gitignore"), "`{line}` can be committed");
        }
    }
}
