//! Paths of an inventory: relative ones start at its directory, `~` is the user's home.

use std::path::{Component, Path, PathBuf};

/// The absolute form of a path in an inventory.
pub(super) fn resolve(text: &str, base: &Path) -> PathBuf {
    let home = text.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    match (home, std::env::home_dir()) {
        (Some(rest), Some(home)) => clean(&home.join(rest.trim_start_matches('/'))),
        _ => clean(&base.join(text)),
    }
}

/// The path without `.` and `..`, taken by their letters as Docker Compose does: `inventory/../recipes` is `recipes`.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                cleaned.pop();
            }
            other => cleaned.push(other),
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_start_at_the_inventory() {
        let base = Path::new("/lab/inventory");
        for (text, path) in
            [("../recipes", "/lab/recipes"), ("/x/./y", "/x/y"), (".", "/lab/inventory"), ("../../../..", "/")]
        {
            assert_eq!(resolve(text, base), Path::new(path), "{text}");
        }
        let home = std::env::home_dir().unwrap();
        assert_eq!(resolve("~/.ssh/lab", base), clean(&home.join(".ssh/lab")));
        assert_eq!(resolve("~other", base), Path::new("/lab/inventory/~other"));
    }
}
