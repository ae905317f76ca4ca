//! Volumes as texts: `name:/path[:ro]`, `/host:/path`, `./relative:/path`, `/path`.

use std::path::Path;

use super::{
    model::{VolumeMount, VolumeSource},
    path::resolve,
};
use crate::plan::HostPath;

/// Why a text is not a volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum MountError {
    /// Too many or empty parts.
    #[error("`{0}` is not a volume")]
    Shape(String),
    /// Neither `ro` nor `rw`.
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
            Self::Mode(_) => "the last part is `ro` or `rw`",
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
        [.., last] if parts.len() == 3 || (parts.len() == 2 && matches!(*last, "ro" | "rw")) => Some(*last),
        _ => None,
    };
    if mode.is_some() {
        parts.pop();
    }
    let read_only = match mode {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(other) => return Err(MountError::Mode(other.to_owned())),
    };
    let (source, target) = match parts.as_slice() {
        [target] => (VolumeSource::Anonymous, *target),
        [source, target] => (origin(source, base)?, *target),
        _ => return Err(shape()),
    };
    let path: HostPath = target.parse().map_err(|_| MountError::Target(target.to_owned()))?;
    if path.as_str() == "/" {
        return Err(MountError::Target(target.to_owned()));
    }
    Ok(VolumeMount { source, target: path.into(), read_only })
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
        let wanted = |source, target: &str, read_only| VolumeMount { source, target: target.to_owned(), read_only };
        let bind = |path: &str| VolumeSource::Bind(PathBuf::from(path));
        assert_eq!(mount("db:/var/lib/db"), wanted(VolumeSource::Named("db".into()), "/var/lib/db", false));
        assert_eq!(mount("db:/x:ro"), wanted(VolumeSource::Named("db".into()), "/x", true));
        assert_eq!(mount("/srv/a:/x:rw"), wanted(bind("/srv/a"), "/x", false));
        assert_eq!(mount("./a:/x"), wanted(bind("/lab/inventory/a"), "/x", false));
        assert_eq!(mount("../a:/x/"), wanted(bind("/lab/a"), "/x", false));
        assert_eq!(mount("/x"), wanted(VolumeSource::Anonymous, "/x", false));
        assert_eq!(mount("/x:ro"), wanted(VolumeSource::Anonymous, "/x", true));
    }

    #[test]
    fn bad_volumes_are_told_apart() {
        for (text, message) in [
            ("", "`` is not a volume"),
            ("a:", "`a:` is not a volume"),
            ("a:/b:ro:x", "`a:/b:ro:x` is not a volume"),
            ("db:/x:rx", "`rx` is not an access mode of a volume"),
            ("db:x", "`x` is not an absolute path inside the container"),
            ("db:/", "`/` is not an absolute path inside the container"),
            ("db:/a/../b", "`/a/../b` is not an absolute path inside the container"),
            ("d b:/x", "`d b` is not a volume name"),
        ] {
            assert_eq!(parse(text, Path::new("/")).unwrap_err().to_string(), message, "{text}");
        }
    }
}
