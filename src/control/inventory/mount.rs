//! Volumes as texts: `name:/path[:ro]`, `/host:/path[:rshared]`, `/host:/path`, `./relative:/path`, `/path`.

use std::path::Path;

use super::{
    model::{Propagation, VolumeMount, VolumeSource},
    path::resolve,
};
use crate::plan::HostPath;

/// Why a text is not a volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum MountError {
    /// Too many or empty parts.
    #[error("`{0}` is not a volume")]
    Shape(String),
    /// No access mode or propagation.
    #[error("`{0}` is not an access mode of a volume")]
    Mode(String),
    /// The path inside is not absolute.
    #[error("`{0}` is not an absolute path inside the container")]
    Target(String),
    /// Not a name that the engine takes.
    #[error("`{0}` is not a volume name")]
    Name(String),
}

impl MountError {
    /// What to write instead.
    pub(super) fn help(&self) -> &'static str {
        match self {
            Self::Mode(_) => {
                "the last part is `ro` or `rw`, or for directories `shared`, `slave` or `private` (with `r` before it, for all \
                 below it, too), or two of them with a comma"
            }
            Self::Name(_) => {
                "a name has letters, digits, `-`, `_` and `.`; a directory beside the inventory begins with `./`"
            }
            Self::Shape(_) | Self::Target(_) => {
                "volumes are written `name:/path`, `/host/path:/path`, `./path:/path` or `/path`, with `:ro` at the end for read-only"
            }
        }
    }
}

/// A volume. Relative directories start at `base`.
pub(super) fn parse(text: &str, base: &Path) -> Result<VolumeMount, MountError> {
    let shape = || MountError::Shape(text.to_owned());
    let mut parts: Vec<&str> = text.split(':').collect();
    if parts.iter().any(|part| part.is_empty()) || parts.len() > 3 {
        return Err(shape());
    }
    // Two parts may be `source:/target` or `/target:ro`.
    let mode = match parts.as_slice() {
        [.., last] if parts.len() == 3 || (parts.len() == 2 && is_mode(last)) => Some(*last),
        _ => None,
    };
    if mode.is_some() {
        parts.pop();
    }
    let (mut read_only, mut propagation) = (false, None);
    for word in mode.into_iter().flat_map(|mode| mode.split(',')) {
        match (word, propagated(word)) {
            ("rw", _) => {}
            ("ro", _) => read_only = true,
            (_, Some(found)) => propagation = Some(found),
            _ => return Err(MountError::Mode(word.to_owned())),
        }
    }
    let (source, target) = match parts.as_slice() {
        [target] => (VolumeSource::Anonymous, *target),
        [source, target] => (origin(source, base)?, *target),
        _ => return Err(shape()),
    };
    // The engine passes mounts on for directories of its machine only.
    if propagation.is_some() && !matches!(source, VolumeSource::Bind(_)) {
        return Err(MountError::Mode(mode.unwrap_or_default().to_owned()));
    }
    let path: HostPath = target.parse().map_err(|_| MountError::Target(target.to_owned()))?;
    if path.as_str() == "/" {
        return Err(MountError::Target(target.to_owned()));
    }
    Ok(VolumeMount { source, target: path.into(), read_only, propagation })
}

fn is_mode(text: &str) -> bool {
    text.split(',').all(|word| matches!(word, "ro" | "rw") || propagated(word).is_some())
}

fn propagated(word: &str) -> Option<Propagation> {
    Some(match word {
        "shared" => Propagation::Shared,
        "rshared" => Propagation::Rshared,
        "slave" => Propagation::Slave,
        "rslave" => Propagation::Rslave,
        "private" => Propagation::Private,
        "rprivate" => Propagation::Rprivate,
        _ => return None,
    })
}

fn origin(source: &str, base: &Path) -> Result<VolumeSource, MountError> {
    if source.starts_with(['/', '.', '~']) {
        return Ok(VolumeSource::Bind(resolve(source, base)));
    }
    // The engine's rule for names (moby `names.RestrictedNamePattern`).
    let fits = source.len() >= 2
        && source.starts_with(|c: char| c.is_ascii_alphanumeric())
        && source.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if fits { Ok(VolumeSource::Named(source.to_owned())) } else { Err(MountError::Name(source.to_owned())) }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn volumes_are_named_bound_or_anonymous() {
        let mount = |text: &str| parse(text, Path::new("/lab/inventory")).unwrap();
        let wanted = |source, target: &str, read_only| VolumeMount {
            source,
            target: target.to_owned(),
            read_only,
            propagation: None,
        };
        let bind = |path: &str| VolumeSource::Bind(PathBuf::from(path));
        assert_eq!(mount("db:/var/lib/db"), wanted(VolumeSource::Named("db".into()), "/var/lib/db", false));
        assert_eq!(mount("db:/x:ro"), wanted(VolumeSource::Named("db".into()), "/x", true));
        assert_eq!(mount("/srv/a:/x:rw"), wanted(bind("/srv/a"), "/x", false));
        assert_eq!(mount("./a:/x"), wanted(bind("/lab/inventory/a"), "/x", false));
        assert_eq!(mount("../a:/x/"), wanted(bind("/lab/a"), "/x", false));
        assert_eq!(mount("/x"), wanted(VolumeSource::Anonymous, "/x", false));
        let shared = mount("/mnt/ovs:/mnt:ro,rshared");
        assert_eq!((shared.read_only, shared.propagation), (true, Some(Propagation::Rshared)));
        assert_eq!(mount("/x:ro"), wanted(VolumeSource::Anonymous, "/x", true));
    }

    #[test]
    fn bad_volumes_are_told_apart() {
        for (text, message) in [
            ("", "`` is not a volume"),
            ("a:", "`a:` is not a volume"),
            ("a:/b:ro:x", "`a:/b:ro:x` is not a volume"),
            ("db:/x:rx", "`rx` is not an access mode of a volume"),
            ("db:/x:shared", "`shared` is not an access mode of a volume"),
            ("/srv:/x:ro,often", "`often` is not an access mode of a volume"),
            ("db:x", "`x` is not an absolute path inside the container"),
            ("db:/", "`/` is not an absolute path inside the container"),
            ("db:/a/../b", "`/a/../b` is not an absolute path inside the container"),
            ("d b:/x", "`d b` is not a volume name"),
        ] {
            assert_eq!(parse(text, Path::new("/")).unwrap_err().to_string(), message, "{text}");
        }
    }
}
