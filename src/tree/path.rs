//! Paths of a tree: relative to its root, in bytes, and plain.

use std::{cmp::Ordering, ffi::OsStr, fmt, os::unix::ffi::OsStrExt, path::Path};

use serde::{Deserialize, Serialize};

/// Longest path in bytes, as Linux has it (`PATH_MAX` less the closing zero).
const MAX_PATH: usize = 4095;
/// Longest part of a path in bytes, as Linux has it (`NAME_MAX`).
const MAX_PART: usize = 255;

/// A path below the root of a tree: parts joined by `/`, none of them empty, `.` or `..`, no zero byte, at most 4095
/// bytes and 255 a part. Need not be UTF-8. The root itself has no such path.
///
/// Ordered part by part, so a directory comes right before all that is below it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct RelPath(Vec<u8>);

/// Why bytes are not a path of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No bytes, or `//`, or a `/` at an end.
    #[error("a part of the path is empty")]
    Empty,
    /// A part is `.` or `..`.
    #[error("a part of the path is `.` or `..`")]
    Dots,
    /// A zero byte.
    #[error("the path holds a zero byte")]
    Nul,
    /// More than 4095 bytes, or 255 in one part.
    #[error("the path is longer than {MAX_PATH} bytes, or a part of it than {MAX_PART}")]
    TooLong,
}

impl RelPath {
    /// A path from its bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        if bytes.len() > MAX_PATH {
            return Err(PathError::TooLong);
        }
        if bytes.contains(&0) {
            return Err(PathError::Nul);
        }
        for part in bytes.split(|byte| *byte == b'/') {
            match part {
                b"" => return Err(PathError::Empty),
                b"." | b".." => return Err(PathError::Dots),
                _ if part.len() > MAX_PART => return Err(PathError::TooLong),
                _ => {}
            }
        }
        Ok(Self(bytes))
    }

    /// The path of `name` in the directory `parent`; no bytes stand for the root.
    pub fn join(parent: &[u8], name: &[u8]) -> Result<Self, PathError> {
        if parent.is_empty() {
            return Self::new(name);
        }
        let mut bytes = Vec::with_capacity(parent.len() + 1 + name.len());
        bytes.extend_from_slice(parent);
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        Self::new(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same for use with the standard library; relative.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The bytes of the directory that holds it; none when that is the root.
    pub fn parent(&self) -> &[u8] {
        self.0.iter().rposition(|byte| *byte == b'/').map_or(&[], |slash| &self.0[..slash])
    }

    /// The directories that hold it, the outermost first, without the root.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        let slashes = self.0.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        slashes.map(|(at, _)| Self(self.0[..at].to_vec()))
    }

    /// The last part.
    pub fn name(&self) -> &[u8] {
        self.0.iter().rposition(|byte| *byte == b'/').map_or(&self.0, |slash| &self.0[slash + 1..])
    }

    /// Whether it lies below `directory`, at any depth. Everything lies below the root (no bytes).
    pub fn is_below(&self, directory: &[u8]) -> bool {
        directory.is_empty() || self.0.strip_prefix(directory).is_some_and(|rest| rest.first() == Some(&b'/'))
    }
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> Ordering {
        // With `/` below every other byte the order of bytes becomes the order of parts: zero bytes cannot occur.
        let key = |byte: u8| if byte == b'/' { 0 } else { byte };
        // Eight bytes at once as far as they are equal: trees are sorted by paths that begin alike.
        let words = self.0.chunks_exact(8).zip(other.0.chunks_exact(8)).take_while(|(left, right)| left == right);
        let equal = 8 * words.count();
        match self.0[equal..].iter().zip(&other.0[equal..]).find(|(left, right)| left != right) {
            Some((left, right)) => key(*left).cmp(&key(*right)),
            None => self.0.len().cmp(&other.0.len()),
        }
    }
}

impl TryFrom<Vec<u8>> for RelPath {
    type Error = PathError;

    fn try_from(bytes: Vec<u8>) -> Result<Self, PathError> {
        Self::new(bytes)
    }
}

impl From<RelPath> for Vec<u8> {
    fn from(path: RelPath) -> Self {
        path.0
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Lossy, with control characters escaped: for people.
impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.0))
    }
}

/// Bytes of a path as one line for people: lossy, control characters escaped.
pub fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if text.contains(char::is_control) {
        text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
    } else {
        text.into_owned()
    }
}

/// A path as one line for people, likewise.
pub fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_bytes())
}

/// Whether a name is one that we give to files and directories that are not finished yet:
/// `.ovs-cuisine.<16 hexadecimal digits>.tmp`. No tree contains such a name; what a killed run left behind is swept.
pub fn is_temporary(name: &[u8]) -> bool {
    name.strip_prefix(b".ovs-cuisine.")
        .and_then(|rest| rest.strip_suffix(b".tmp"))
        .is_some_and(|middle| middle.len() == 16 && middle.iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    #[test]
    fn only_plain_relative_paths_are_paths() {
        for (bad, why) in [
            ("", PathError::Empty),
            ("/etc", PathError::Empty),
            ("a//b", PathError::Empty),
            ("a/", PathError::Empty),
            (".", PathError::Dots),
            ("a/../b", PathError::Dots),
            ("a\0", PathError::Nul),
            (&"x".repeat(256), PathError::TooLong),
            (&"x/".repeat(2100), PathError::TooLong),
        ] {
            assert_eq!(RelPath::new(bad), Err(why), "{bad:?}");
        }
        assert_eq!(RelPath::new(vec![0xff, b'/', b'\n']).unwrap().to_string(), "\u{fffd}/\\n");
    }

    #[test]
    fn a_path_knows_its_parts() {
        assert_eq!((path("a/b/c").parent(), path("a/b/c").name()), (&b"a/b"[..], &b"c"[..]));
        assert_eq!((path("a").parent(), path("a").name()), (&b""[..], &b"a"[..]));
        assert!(path("a/b").is_below(b"a") && path("a/b").is_below(b"") && !path("ab").is_below(b"a"));
        assert!(!path("a").is_below(b"a"));
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_the_parts(a in "[a-c.!]{1,2}(/[a-c.!]{1,2}){0,2}", b in "[a-c.!]{1,2}(/[a-c.!]{1,2}){0,2}") {
            if let (Ok(left), Ok(right)) = (RelPath::new(a.as_str()), RelPath::new(b.as_str())) {
                let parts = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
                prop_assert_eq!(left.cmp(&right), parts(&a).cmp(&parts(&b)));
            }
        }
    }
}
