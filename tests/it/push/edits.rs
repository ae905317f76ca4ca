//! Random edits of a source tree, as a developer and her tools make them.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Files of a burst.
const BURST: usize = 3000;

/// Makes edits, the same for the same seed.
pub(super) struct Edits {
    root: PathBuf,
    state: u64,
    number: u64,
}

/// An edit, and what must be seen when it has arrived.
#[derive(Debug)]
pub(super) enum Edit {
    /// A file has this content.
    File(PathBuf, String),
    /// Nothing is at this path.
    Gone(PathBuf),
    /// A file has these permission bits.
    Mode(PathBuf, u32),
    /// A directory holds so many entries.
    Entries(PathBuf, usize),
}

impl Edit {
    pub(super) fn is_visible(&self, target: &Path) -> bool {
        match self {
            Self::File(path, text) => fs_err::read_to_string(target.join(path)).is_ok_and(|now| now == *text),
            Self::Gone(path) => fs_err::symlink_metadata(target.join(path)).is_err(),
            Self::Mode(path, mode) => {
                fs_err::metadata(target.join(path)).is_ok_and(|now| now.permissions().mode() & 0o7777 == *mode)
            }
            Self::Entries(path, count) => fs_err::read_dir(target.join(path)).is_ok_and(|list| list.count() == *count),
        }
    }
}

impl Edits {
    /// A git repository with two branches in `root`, and directories to edit in.
    pub(super) fn begin(root: &Path, seed: u64) -> Self {
        let edits = Self { root: root.to_path_buf(), state: seed, number: 0 };
        edits.write(".cuisineignore", ".git/\n");
        for number in 0..40 {
            edits.write(&format!("code/{}/{number}.rs", number % 5), &format!("first {number}\n"));
        }
        edits.git(&["init", "-q", "-b", "main"]);
        edits.git(&["add", "."]);
        edits.git(&["commit", "-q", "-m", "first"]);
        edits.git(&["checkout", "-q", "-b", "other"]);
        for number in 0..20 {
            edits.write(&format!("code/{}/{number}.rs", number % 5), &format!("other {number}\n"));
            edits.write(&format!("code/other/{number}.rs"), "only here\n");
        }
        edits.git(&["add", "."]);
        edits.git(&["commit", "-q", "-m", "other"]);
        edits.git(&["checkout", "-q", "main"]);
        edits
    }

    /// Makes the next edit.
    pub(super) fn next(&mut self) -> Edit {
        self.number += 1;
        let number = self.number;
        let place = self.random(5);
        match number {
            60 | 120 | 180 => return self.burst(),
            50 | 100 | 150 | 200 => return self.checkout(),
            _ => {}
        }
        match self.random(6) {
            0 | 1 => {
                let path = format!("work/{place}/edited");
                self.file(&path, &format!("edit {number}\n"))
            }
            2 => self.file(&format!("work/new-{number}/a/b"), "in new directories\n"),
            3 => {
                let path = format!("work/{place}/doomed-{number}");
                self.write(&path, "shortly\n");
                fs_err::remove_file(self.root.join(&path)).unwrap();
                // Made and removed at once: what must be seen is that it is not there, and a mark after it.
                self.file(&format!("work/{place}/mark"), &format!("{number}\n"))
            }
            4 => {
                let (old, new) = (format!("work/moving-{number}"), format!("work/moved-{number}"));
                self.write(&format!("{old}/x/y"), &format!("moved {number}\n"));
                fs_err::rename(self.root.join(old), self.root.join(&new)).unwrap();
                Edit::File(format!("{new}/x/y").into(), format!("moved {number}\n"))
            }
            _ => {
                let path = format!("work/{place}/program");
                self.write(&path, "#!/bin/sh\n");
                let now = fs_err::metadata(self.root.join(&path)).unwrap().permissions().mode() & 0o7777;
                let mode = if now == 0o755 { 0o640 } else { 0o755 };
                fs_err::set_permissions(self.root.join(&path), PermissionsExt::from_mode(mode)).unwrap();
                Edit::Mode(path.into(), mode)
            }
        }
    }

    /// Many files at once, or all of them gone again.
    fn burst(&self) -> Edit {
        let directory = self.root.join("burst");
        if directory.exists() {
            fs_err::remove_dir_all(directory).unwrap();
            return Edit::Gone("burst".into());
        }
        for number in 0..BURST {
            self.write(&format!("burst/{number}"), &format!("{number}\n"));
        }
        Edit::Entries("burst".into(), BURST)
    }

    /// The other branch.
    fn checkout(&self) -> Edit {
        let is_other = self.root.join("code/other").exists();
        self.git(&["checkout", "-q", if is_other { "main" } else { "other" }]);
        if is_other { Edit::Gone("code/other".into()) } else { Edit::Entries("code/other".into(), 20) }
    }

    fn file(&self, path: &str, text: &str) -> Edit {
        self.write(path, text);
        Edit::File(path.into(), text.to_owned())
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }

    fn git(&self, words: &[&str]) {
        let identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "core.hooksPath=/dev/null"];
        let output = Command::new("git").args(identity).args(words).current_dir(&self.root).output().unwrap();
        assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A number below `below`.
    fn random(&mut self, below: u64) -> u64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % below
    }
}
