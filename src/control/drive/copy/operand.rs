//! What a path says by its last characters, as cp(1) reads it.

use super::CopyError;
use crate::plan::{Facts, HostPath};

/// What the end of a path says of a source: the name that it gets in a directory. None for `DIR/.`, `..`, `/` and the
/// like: the contents of the directory are meant.
pub(super) fn name_of(path: &[u8]) -> Option<&[u8]> {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let name = path[..end].rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    (!matches!(name, b"" | b"." | b"..")).then_some(name)
}

/// Whether a path can only be meant as a directory: it ends in `/`, `/.` or `/..`, or is nothing else than that.
pub(super) fn means_directory(path: &[u8]) -> bool {
    path.ends_with(b"/") || name_of(path).is_none()
}

/// A path on a host: absolute, or relative to the home directory of the helper's user. `~/` at the beginning means the
/// same; no text at all is the home directory itself.
pub(super) fn host_path(text: &str, facts: &Facts) -> Result<HostPath, CopyError> {
    let absolute = match text.strip_prefix('~') {
        _ if text.starts_with('/') => text.to_owned(),
        Some("") => facts.home.clone(),
        Some(rest) if rest.starts_with('/') => format!("{}{rest}", facts.home),
        _ => format!("{}/{text}", facts.home),
    };
    absolute
        .parse()
        .map_err(|_| CopyError::usage(format!("`{text}` is no path of a host"), "write an absolute path without `..`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_path_says_what_is_meant() {
        for (path, name, directory) in [
            (&b"/etc/hosts"[..], Some(&b"hosts"[..]), false),
            (b"dir/", Some(b"dir"), true),
            (b"dir//", Some(b"dir"), true),
            (b"dir/.", None, true),
            (b".", None, true),
            (b"..", None, true),
            (b"/", None, true),
            (b"", None, true),
            (b"\xff", Some(b"\xff"), false),
        ] {
            assert_eq!((name_of(path), means_directory(path)), (name, directory), "{path:?}");
        }
    }
}
