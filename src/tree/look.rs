//! Looks at some paths below a root and at nothing else.

use std::collections::HashSet;

use super::{IgnoreRules, Node, NodeKind, RelPath, Root, Walk, WalkError};

/// What is at these paths, which are ordered, each directory before what is below it. What is missing, or lies in
/// something that is no directory, is left out. No link is followed.
pub fn look_at<'p>(root: &Root, paths: impl Iterator<Item = &'p RelPath>) -> Result<Vec<Node>, WalkError> {
    let rules = IgnoreRules::none();
    let mut walk = Walk::default();
    let mut directories: HashSet<&[u8]> = HashSet::from([&b""[..]]);
    let mut opened = None;
    for path in paths {
        let parent = path.parent();
        if !directories.contains(parent) {
            continue;
        }
        let read_error = |source| WalkError::Read { path: root.path_of(parent), source };
        let directory = match opened.take() {
            Some((of, fd)) if of == parent => fd,
            _ => root.open_directory(parent).map_err(read_error)?,
        };
        let node = walk.visit(root, &directory, path.clone(), &rules)?;
        if node.is_some_and(|node| node.kind == NodeKind::Dir) {
            directories.insert(path.as_bytes());
        }
        opened = Some((parent, directory));
    }
    Ok(walk.nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_seen_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(dir.path().join("a/b")).unwrap();
        fs_err::write(dir.path().join("a/b/file"), "x").unwrap();
        fs_err::write(dir.path().join("a/other"), "x").unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let paths = ["a", "a/b", "a/b/file", "a/b/file/x", "a/missing", "link", "link/b"];
        let paths = paths.map(|path| RelPath::new(path).unwrap());
        let found = look_at(&Root::open(dir.path()).unwrap(), paths.iter()).unwrap();
        let seen: Vec<String> = found.iter().map(|node| node.path.to_string()).collect();
        assert_eq!(seen, ["a", "a/b", "a/b/file", "link"]);
        assert_eq!(found[3].kind, NodeKind::Symlink(b"a".to_vec()));
    }
}
