//! `dir_remove`: no directory at this path.

use std::path::Path;

use super::{Finding, Obstacle, Operation};
use crate::{
    helper::{
        failure::{OrFail, bad_input},
        foreseen::{Fate, Foreseen},
        machine::{Found, Machine},
        replace::sync_directory,
    },
    plan::{Action, Change, Detail, Diff, DirRemove, OpFailure},
};

/// How many paths a diff lists.
const MAX_PATHS: usize = 200;

/// What would go.
#[derive(Debug, Default)]
pub(crate) struct Doomed {
    entries: u64,
    bytes: u64,
    paths: Vec<String>,
}

impl Operation for DirRemove {
    type Change = Doomed;

    fn check(&self, machine: &mut Machine<'_>) -> Result<Finding<Doomed>, Obstacle> {
        let path = self.path.as_path();
        if path.components().count() <= 2 {
            let message = format!("`{}` is never removed: it is the root or directly below it", self.path);
            return Err(bad_input(message).into());
        }
        let found = match machine.look(path)? {
            Found::Missing => return Ok(Finding::Same),
            Found::Would(Fate::Directory | Fate::Unclear) => {
                return Err(Obstacle::Unclear(format!("an earlier step would make `{}`", self.path)));
            }
            Found::Would(_) => return Err(not_a_directory(self)),
            Found::There(found) => found,
        };
        if !found.is_dir() {
            return Err(not_a_directory(self));
        }
        let mut doomed = Doomed::default();
        doomed.count(path).or_fail("look through", &self.path)?;
        if doomed.entries > 0 && !self.recursive {
            return Err(bad_input(format!("cannot remove `{}`: it holds {} entries", self.path, doomed.entries))
                .hint("say `recursive = True` to remove it with all that is in it")
                .into());
        }
        let mounts = fs_err::read_to_string("/proc/self/mountinfo").or_fail("read", "/proc/self/mountinfo")?;
        let real = fs_err::canonicalize(path).or_fail("look at", &self.path)?;
        if let Some(mount) = mount_within(&mounts, &real) {
            return Err(bad_input(format!("cannot remove `{}`: `{mount}` is a mount point", self.path))
                .hint("unmount it first; what is mounted there may be somebody's data")
                .into());
        }
        Ok(Finding::Differs(doomed))
    }

    fn describe(&self, change: &Doomed, _: &Machine<'_>) -> Diff {
        let told = Change::new(Action::Remove, format!("{}/", self.path));
        if change.entries == 0 {
            return Diff::of(told);
        }
        let Doomed { entries, bytes, paths } = change;
        let tree = Detail::Tree { created: 0, modified: 0, removed: *entries, bytes: *bytes, paths: paths.clone() };
        Diff::of(told.with(tree))
    }

    fn foresee(&self, _: &Doomed, foreseen: &mut Foreseen) {
        foreseen.path(self.path.as_path(), Fate::Gone);
    }

    fn apply(&self, change: Doomed, _: &mut Machine<'_>) -> Result<(), OpFailure> {
        let path = self.path.as_path();
        let removed = if change.entries > 0 { fs_err::remove_dir_all(path) } else { fs_err::remove_dir(path) };
        removed.or_fail("remove", &self.path)?;
        path.parent().map_or(Ok(()), sync_directory).or_fail("remove", &self.path)
    }
}

impl Doomed {
    /// Counts what is below a directory; never through links.
    fn count(&mut self, directory: &Path) -> std::io::Result<()> {
        for entry in fs_err::read_dir(directory)? {
            let entry = entry?;
            let found = fs_err::symlink_metadata(entry.path())?;
            self.entries += 1;
            if self.paths.len() < MAX_PATHS {
                self.paths.push(format!("-{}", entry.path().display()));
            }
            if found.is_dir() {
                self.count(&entry.path())?;
            } else if found.is_file() {
                self.bytes += found.len();
            }
        }
        Ok(())
    }
}

fn not_a_directory(op: &DirRemove) -> Obstacle {
    bad_input(format!("cannot remove `{}`: it is not a directory", op.path))
        .hint(format!("use file_remove(\"{}\")", op.path))
        .into()
}

/// A mount point at or below a path, from `/proc/self/mountinfo` (fifth column, octal escapes; `proc(5)`).
fn mount_within(mounts: &str, path: &Path) -> Option<String> {
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .find(|mount| Path::new(mount).starts_with(path))
}

fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_are_found() {
        let mounts = "1 0 0:1 / / rw - ext4 /dev/x rw\n2 1 0:2 / /srv/my\\040data rw - tmpfs t rw\n";
        assert_eq!(mount_within(mounts, Path::new("/srv")).as_deref(), Some("/srv/my data"));
        assert_eq!(mount_within(mounts, Path::new("/srv/my")), None);
    }
}
