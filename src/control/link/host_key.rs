//! Decides whether the key that a server shows is the host's. There is no way to skip it.

use std::path::PathBuf;

use russh::keys::{
    Algorithm, Certificate, EcdsaCurve, HashAlg, PublicKey, PublicKeyOrCertificate, ssh_key::certificate::CertType,
};

use super::{
    known_hosts::{self, Known, KnownHostsError, Meaning},
    target::{HostKeys, SSH_PORT, Target},
};

/// Why a server's key is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyProblem {
    /// No file lists the host.
    #[error("the host key of `{name}` is not known: the server shows {offered}")]
    Unknown {
        /// As `known_hosts` files would list it.
        name: String,
        /// Type and fingerprint that the server showed.
        offered: String,
        /// The line to add when the key is right.
        line: String,
        /// A file to add it to.
        file: Option<PathBuf>,
    },
    /// The host is known by keys of other types only, and the server shows none of them.
    #[error("`{name}` is known by {expected}, but the server shows {offered}")]
    OtherType {
        /// As `known_hosts` files list it.
        name: String,
        /// Type and fingerprint that the server showed.
        offered: String,
        /// Types and fingerprints that are known, and where.
        expected: String,
        /// The line to add when the key is right.
        line: String,
        /// A file to add it to.
        file: Option<PathBuf>,
    },
    /// Another key of the same type is known.
    #[error(
        "the host key of `{name}` has changed: expected {expected}, the server shows {offered}; \
         somebody may be listening in"
    )]
    Changed {
        /// As `known_hosts` files list it.
        name: String,
        /// Type and fingerprint that the server showed.
        offered: String,
        /// Types and fingerprints that are known, and where.
        expected: String,
        /// The file that has the expected key.
        file: PathBuf,
    },
    /// The key differs from the pinned one.
    #[error("the host key of `{name}` is not the pinned one: expected {expected}, the server shows {offered}")]
    NotPinned {
        /// As `known_hosts` files would list it.
        name: String,
        /// Type and fingerprint that the server showed.
        offered: String,
        /// Types and fingerprints that are pinned.
        expected: String,
    },
    /// The key, or the authority behind it, is marked `@revoked`.
    #[error("the host key of `{name}` is revoked: {offered} ({})", place(file, *line))]
    Revoked {
        /// As `known_hosts` files list it.
        name: String,
        /// Type and fingerprint that the server showed.
        offered: String,
        /// The file that says so.
        file: PathBuf,
        /// Its line, counted from 1.
        line: usize,
    },
    /// The certificate is not good for this host.
    #[error("the host certificate of `{name}` is not good: {why}")]
    Certificate {
        /// As `known_hosts` files would list it.
        name: String,
        /// What is wrong.
        why: String,
    },
}

impl HostKeyProblem {
    /// What to do about it, in one line.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { line, file, .. } | Self::OtherType { line, file, .. } => {
                let file = file.as_ref().map_or_else(|| "~/.ssh/known_hosts".to_owned(), |file| shown(file));
                Some(format!("if `ssh-keygen -lf` on the host shows the same: echo '{line}' >> {file}"))
            }
            Self::Changed { name, file, .. } => {
                Some(format!("only if the host was rebuilt on purpose: ssh-keygen -R '{name}' -f {}", shown(file)))
            }
            Self::NotPinned { .. } => {
                Some("only if the host was rebuilt on purpose: recreate the container, or pin its new key".to_owned())
            }
            Self::Revoked { .. } => Some("give the host a new host key".to_owned()),
            Self::Certificate { .. } => None,
        }
    }
}

fn shown(path: &std::path::Path) -> String {
    path.display().to_string()
}

fn place(file: &std::path::Path, line: usize) -> String {
    format!("{}:{line}", file.display())
}

/// All that is known about a host's keys, read before the connection is made.
#[derive(Debug)]
pub(super) struct Expectation {
    name: String,
    address: String,
    known: Vec<Known>,
    pinned: Option<Vec<PublicKey>>,
    /// Takes the key of an unknown host and writes it here.
    accept_new_into: Option<PathBuf>,
    /// Named in the hint for an unknown host.
    first_file: Option<PathBuf>,
}

impl Expectation {
    pub(super) fn of(target: &Target) -> Result<Self, KnownHostsError> {
        let name = target.known_as();
        let address = target.address.to_lowercase();
        let mut expectation =
            Self { known: Vec::new(), pinned: None, accept_new_into: None, first_file: None, name, address };
        match &target.host_keys {
            HostKeys::Pinned(texts) => {
                let parse = |text: &String| {
                    PublicKey::from_openssh(text).map_err(|_| KnownHostsError::Pin { text: text.clone() })
                };
                expectation.pinned = Some(texts.iter().map(parse).collect::<Result<_, _>>()?);
            }
            HostKeys::KnownHosts { files, accept_new_into } => {
                let mut files = files.clone();
                files.extend(accept_new_into.iter().filter(|new| !files.contains(new)).cloned().collect::<Vec<_>>());
                expectation.known = known_hosts::look_up(&files, &expectation.name)?;
                if target.port != SSH_PORT {
                    expectation.add_without_port(&files)?;
                }
                expectation.accept_new_into.clone_from(accept_new_into);
                expectation.first_file = accept_new_into.clone().or_else(|| files.first().cloned());
            }
        }
        Ok(expectation)
    }

    /// As OpenSSH does: an entry without port is good for all ports of the host as long as none names the port.
    /// Revoked keys count in any case.
    fn add_without_port(&mut self, files: &[PathBuf]) -> Result<(), KnownHostsError> {
        let named = self.known.iter().any(|known| known.meaning == Meaning::Host);
        let without = known_hosts::look_up(files, &self.address)?;
        self.known.extend(without.into_iter().filter(|known| !named || known.meaning != Meaning::Host));
        Ok(())
    }

    /// Host key algorithms to ask for: those of the known keys first, so that a server with several keys shows one
    /// that can be compared.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        let known: Vec<Algorithm> = match &self.pinned {
            Some(pinned) => pinned.iter().map(PublicKey::algorithm).collect(),
            None => self.keys(Meaning::Host).map(|known| known.key.algorithm()).collect(),
        };
        let is_known = |algorithm: &Algorithm| {
            known.iter().any(|known| match (known, algorithm) {
                (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
                (known, algorithm) => known == algorithm,
            })
        };
        let (mut first, rest): (Vec<_>, Vec<_>) = usual_algorithms().into_iter().partition(is_known);
        first.extend(rest);
        first
    }

    /// Certificates are asked for only when an authority is known for this host: a server that has one would show it
    /// instead of its key.
    pub(super) fn certificate_algorithms(&self) -> Vec<Algorithm> {
        if self.keys(Meaning::Authority).next().is_some() { usual_algorithms() } else { Vec::new() }
    }

    fn keys(&self, meaning: Meaning) -> impl Iterator<Item = &Known> {
        self.known.iter().filter(move |known| known.meaning == meaning)
    }

    /// Checks what the server shows. A new key is written down when that is allowed.
    pub(super) fn check(&self, offered: &PublicKeyOrCertificate) -> Result<(), CheckError> {
        match offered {
            PublicKeyOrCertificate::PublicKey { key, .. } => self.check_key(key),
            PublicKeyOrCertificate::Certificate(certificate) => {
                self.check_certificate(certificate).map_err(CheckError::from)
            }
        }
    }

    fn check_key(&self, offered: &PublicKey) -> Result<(), CheckError> {
        self.refuse_revoked(offered)?;
        let is_offered = |key: &PublicKey| key.key_data() == offered.key_data();
        if let Some(pinned) = &self.pinned {
            return if pinned.iter().any(is_offered) { Ok(()) } else { Err(self.not_pinned(offered, pinned).into()) };
        }
        let known: Vec<&Known> = self.keys(Meaning::Host).collect();
        if known.iter().any(|known| is_offered(&known.key)) {
            return Ok(());
        }
        if let Some(same_type) = known.iter().find(|known| known.key.algorithm() == offered.algorithm()) {
            return Err(HostKeyProblem::Changed {
                name: self.name.clone(),
                offered: describe(offered),
                expected: describe_all(known.iter().filter(|known| known.key.algorithm() == offered.algorithm())),
                file: same_type.path.clone(),
            }
            .into());
        }
        let line = format!("{} {}", self.name, key_text(offered));
        let (name, file, shown) = (self.name.clone(), self.first_file.clone(), describe(offered));
        if !known.is_empty() {
            let expected = describe_all(known.iter());
            return Err(HostKeyProblem::OtherType { name, offered: shown, expected, line, file }.into());
        }
        match &self.accept_new_into {
            Some(path) => Ok(known_hosts::add(path, &self.name, offered)?),
            None => Err(HostKeyProblem::Unknown { name, offered: shown, line, file }.into()),
        }
    }

    fn refuse_revoked(&self, offered: &PublicKey) -> Result<(), HostKeyProblem> {
        match self.keys(Meaning::Revoked).find(|known| known.key.key_data() == offered.key_data()) {
            None => Ok(()),
            Some(known) => Err(HostKeyProblem::Revoked {
                name: self.name.clone(),
                offered: describe(offered),
                file: known.path.clone(),
                line: known.line,
            }),
        }
    }

    fn not_pinned(&self, offered: &PublicKey, pinned: &[PublicKey]) -> HostKeyProblem {
        HostKeyProblem::NotPinned {
            name: self.name.clone(),
            offered: describe(offered),
            expected: pinned.iter().map(describe).collect::<Vec<_>>().join(" or "),
        }
    }

    /// Checks a host certificate as PROTOCOL.certkeys of OpenSSH asks for: authority, signature, time, type,
    /// principal, and no critical option (none is defined for hosts).
    fn check_certificate(&self, certificate: &Certificate) -> Result<(), HostKeyProblem> {
        let bad = |why: String| HostKeyProblem::Certificate { name: self.name.clone(), why };
        let authority = PublicKey::new(certificate.signature_key().clone(), "");
        self.refuse_revoked(&authority)?;
        self.refuse_revoked(&PublicKey::new(certificate.public_key().clone(), ""))?;
        if certificate.cert_type() != CertType::Host {
            return Err(bad("it is a user's".to_owned()));
        }
        let trusted: Vec<_> =
            self.keys(Meaning::Authority).map(|known| known.key.fingerprint(HashAlg::Sha256)).collect();
        if !trusted.contains(&authority.fingerprint(HashAlg::Sha256)) {
            return Err(bad(format!("its authority {} is not known", describe(&authority))));
        }
        certificate
            .validate(&trusted)
            .map_err(|_| bad("its signature is wrong, or it has expired or does not hold yet".to_owned()))?;
        let principals = certificate.valid_principals();
        let is_for_us =
            principals.iter().any(|principal| known_hosts::glob_matches(&principal.to_lowercase(), &self.address));
        if !principals.is_empty() && !is_for_us {
            return Err(bad(format!("it is for {}", principals.join(", "))));
        }
        match certificate.critical_options().iter().next() {
            Some((option, _)) => Err(bad(format!("it has the unknown critical option `{option}`"))),
            None => Ok(()),
        }
    }
}

/// Why a check did not pass.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error(transparent)]
    Problem(#[from] HostKeyProblem),
    #[error(transparent)]
    File(#[from] KnownHostsError),
}

/// In OpenSSH's order, without SHA-1.
fn usual_algorithms() -> Vec<Algorithm> {
    let ecdsa = |curve| Algorithm::Ecdsa { curve };
    let rsa = |hash| Algorithm::Rsa { hash: Some(hash) };
    vec![
        Algorithm::Ed25519,
        ecdsa(EcdsaCurve::NistP256),
        ecdsa(EcdsaCurve::NistP384),
        ecdsa(EcdsaCurve::NistP521),
        rsa(HashAlg::Sha512),
        rsa(HashAlg::Sha256),
    ]
}

/// Type and fingerprint: `ED25519 SHA256:...`.
pub(super) fn describe(key: &PublicKey) -> String {
    let kind = match key.algorithm() {
        Algorithm::Ed25519 => "ED25519".to_owned(),
        Algorithm::Ecdsa { .. } => "ECDSA".to_owned(),
        Algorithm::Rsa { .. } => "RSA".to_owned(),
        Algorithm::Dsa => "DSA".to_owned(),
        other => other.to_string(),
    };
    format!("{kind} {}", key.fingerprint(HashAlg::Sha256))
}

fn describe_all<'a>(known: impl Iterator<Item = &'a &'a Known>) -> String {
    let each: Vec<String> =
        known.map(|known| format!("{} ({})", describe(&known.key), place(&known.path, known.line))).collect();
    each.join(" or ")
}

/// `type base64`, without the comment.
fn key_text(key: &PublicKey) -> String {
    key.to_openssh().unwrap_or_default().split(' ').take(2).collect::<Vec<_>>().join(" ")
}
