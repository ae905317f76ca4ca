//! Private keys for logging in: read once per run, checked for who else may read them.

use std::{
    collections::HashMap,
    fmt, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use russh::keys::{Error as FormatError, HashAlg, PrivateKey, PublicKey, decode_secret_key, ssh_key};

/// Bits of a mode that let others than the owner at a file.
const OTHERS: u32 = 0o077;

/// Why a private key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no such file.
    #[error("private key `{path}` does not exist")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The public half is there and the private one is not.
    #[error("private key `{path}` is missing, although `{}` exists", public.display())]
    HalfMissing {
        /// The missing file.
        path: PathBuf,
        /// The file that is there.
        public: PathBuf,
    },
    /// Others than the owner may read or write the file.
    #[error("private key `{path}` has mode {mode:04o}: others than its owner may use it")]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key needs a passphrase and the agent does not hold it.
    #[error("private key `{path}` is encrypted and the agent does not hold it")]
    Encrypted {
        /// The file.
        path: PathBuf,
    },
    /// The file is not a private key in a known format.
    #[error("`{path}` is not a private key in a known format")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<FormatError>,
    },
    /// A key could not be made or written down.
    #[error("cannot make key `{path}`")]
    Generate {
        /// The file meant for it.
        path: PathBuf,
        /// Why.
        #[source]
        source: ssh_key::Error,
    },
    /// A file or directory could not be read or written.
    #[error("cannot {action} `{path}`")]
    Io {
        /// `read`, `write`, `create`, `lock`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A name cannot be a file's name.
    #[error("`{name}` cannot name a password: use 1 to 63 letters, digits, `-`, `_` or `.`")]
    Name {
        /// The name.
        name: String,
    },
    /// A file of passwords holds something else.
    #[error("`{path}` does not hold a password: it is empty or has several lines")]
    NotAPassword {
        /// The file.
        path: PathBuf,
    },
}

impl KeyError {
    /// What to do about it, in one line.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TooOpen { path, .. } => Some(format!("chmod 600 {}", path.display())),
            Self::Encrypted { path } => Some(format!("ssh-add {}", path.display())),
            Self::Missing { path } => {
                Some(format!("name an existing private key, or make one: ssh-keygen -t ed25519 -f {}", path.display()))
            }
            Self::HalfMissing { path, .. } => Some(format!(
                "put {} back from a copy; if it is lost, the lab needs new keys: ovs-cuisine keys rotate",
                path.display()
            )),
            _ => None,
        }
    }

    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// A private key in memory. Cheap to clone; prints its fingerprint only.
#[derive(Clone)]
pub struct LoadedKey {
    key: Arc<PrivateKey>,
    label: Arc<str>,
}

impl LoadedKey {
    /// Parses a private key. `path` names it in messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, KeyError> {
        match decode_secret_key(text, None) {
            Ok(key) => Ok(Self { key: Arc::new(key), label: path.display().to_string().into() }),
            Err(FormatError::KeyIsEncrypted | FormatError::SshKey(ssh_key::Error::Encrypted)) => {
                Err(KeyError::Encrypted { path: path.to_owned() })
            }
            Err(source) => Err(KeyError::Format { path: path.to_owned(), source: Box::new(source) }),
        }
    }

    /// `SHA256:...` of the public key.
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }

    /// How people know it: where it came from.
    pub fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn key(&self) -> &Arc<PrivateKey> {
        &self.key
    }
}

impl fmt::Debug for LoadedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoadedKey({} {})", self.label, self.fingerprint())
    }
}

/// What a named key file is good for.
#[derive(Debug, Clone)]
pub(super) enum FoundKey {
    /// The key itself.
    Private(LoadedKey),
    /// Only the public half can be read: the agent has to sign.
    Public {
        key: Box<PublicKey>,
        /// What to say when the agent cannot.
        otherwise: NeedsAgent,
    },
}

/// Why a key file needs the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NeedsAgent {
    Encrypted,
    PrivateHalfMissing,
}

impl NeedsAgent {
    pub(super) fn error(self, path: &Path) -> KeyError {
        match self {
            Self::Encrypted => KeyError::Encrypted { path: path.to_owned() },
            Self::PrivateHalfMissing => KeyError::HalfMissing { path: path.to_owned(), public: public_path(path) },
        }
    }
}

pub(super) fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// Which content of a file a parsed key came from: path, device, inode, size, change time.
type Version = (PathBuf, u64, u64, u64, i64, i64);

/// Keys parsed in this run. Many hosts share one file, and parsing (RSA validation above all) is not free.
static PARSED: LazyLock<Mutex<HashMap<Version, FoundKey>>> = LazyLock::new(Mutex::default);

/// Reads a key file, or takes it from those read before in this run.
pub(super) fn read_key_file(path: &Path) -> Result<FoundKey, KeyError> {
    let metadata = match fs_err::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return read_public_half(path),
        Err(error) => return Err(KeyError::io("read", path, error)),
    };
    refuse_open(path, &metadata)?;
    let version =
        (path.to_owned(), metadata.dev(), metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec());
    let parsed = || PARSED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = parsed().get(&version) {
        return Ok(found.clone());
    }
    let text = fs_err::read_to_string(path).map_err(|error| KeyError::io("read", path, error))?;
    let found = match LoadedKey::parse(&text, path) {
        Ok(key) => FoundKey::Private(key),
        // The OpenSSH format carries the public key in the clear; older formats need the .pub file beside them.
        Err(KeyError::Encrypted { .. }) => {
            let key = match PrivateKey::from_openssh(text.trim()) {
                Ok(key) => Some(key.public_key().clone()),
                Err(_) => russh::keys::load_public_key(public_path(path)).ok(),
            };
            let key = key.ok_or_else(|| KeyError::Encrypted { path: path.to_owned() })?;
            FoundKey::Public { key: Box::new(key), otherwise: NeedsAgent::Encrypted }
        }
        Err(error) => return Err(error),
    };
    parsed().insert(version, found.clone());
    Ok(found)
}

fn read_public_half(path: &Path) -> Result<FoundKey, KeyError> {
    match russh::keys::load_public_key(public_path(path)) {
        Ok(key) => Ok(FoundKey::Public { key: Box::new(key), otherwise: NeedsAgent::PrivateHalfMissing }),
        Err(_) => Err(KeyError::Missing { path: path.to_owned() }),
    }
}

/// Refuses a private file that others than its owner may use.
pub(super) fn refuse_open(path: &Path, metadata: &std::fs::Metadata) -> Result<(), KeyError> {
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS == 0 { Ok(()) } else { Err(KeyError::TooOpen { path: path.to_owned(), mode }) }
}
