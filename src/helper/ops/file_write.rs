//! `file_write`: a regular file with this content.
//!
//! A symbolic link at the path is followed when it leads to a regular file, and that file is written, as editors do;
//! any other link is an error.

use std::{
    fs::Metadata,
    io::{self, Read},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{
    Finding, Obstacle, Operation,
    ownership::{ToSet, Wanted},
};
use crate::{
    helper::{
        failure::{OrFail, bad_input},
        foreseen::{Fate, Foreseen},
        machine::{Found, Machine},
        replace::{Attributes, replace_file, set_attributes, written_path},
        tree::fetch_blob,
    },
    plan::{Action, Change, Content, Detail, Diff, FileWrite, OpFailure},
    tree::Digest,
};

/// Longest text that a diff carries, in bytes a side.
const MAX_TEXT: u64 = 256 * 1024;
/// Mode of a new file for which none is asked.
const NEW_MODE: u32 = 0o644;

/// How the file differs.
#[derive(Debug)]
pub(crate) struct FileChange {
    /// The file itself; other than the op's path when that is a link.
    path: PathBuf,
    action: Action,
    /// What is known of the content before and after; None when the content is right.
    content: Option<ContentChange>,
    set: ToSet,
    /// What a new file of this name keeps of the old one.
    keep: Option<Attributes>,
}

#[derive(Debug)]
struct ContentChange {
    before: Side,
    after: Side,
    /// Content that was fetched already, for the diff.
    fetched: Option<Vec<u8>>,
}

/// Content before or after, as far as a diff shows it.
#[derive(Debug)]
enum Side {
    Nothing,
    Text(String),
    Opaque(u64, Digest),
    Hidden,
}

impl Operation for FileWrite {
    type Change = FileChange;

    fn check(&self, machine: &mut Machine<'_>) -> Result<Finding<FileChange>, Obstacle> {
        let wanted = Wanted::resolve(self.mode, self.owner.as_ref(), self.group.as_ref(), machine)?;
        let (path, found) = match machine.look(self.path.as_path())? {
            Found::There(_) => written_path(self.path.as_path())?,
            Found::Missing => (self.path.as_path().to_owned(), None),
            Found::Would(Fate::Directory) => {
                return Err(bad_input(format!("`{}` would be a directory", self.path)).into());
            }
            Found::Would(_) => {
                return Err(Obstacle::Unclear(format!("an earlier step writes `{}` too", self.path)));
            }
        };
        let change = match found {
            None => {
                machine.expect_parent(&path)?;
                let content = self.compare_content(&path, None, machine)?;
                FileChange { path, action: Action::Create, content, set: wanted.for_new(NEW_MODE), keep: None }
            }
            Some(found) => {
                expect_regular(&path, &found)?;
                let content = self.compare_content(&path, Some(&found), machine)?;
                let set = wanted.against(&found, machine);
                if content.is_none() && set.details.is_empty() {
                    return Ok(Finding::Same);
                }
                let keep = Attributes {
                    mode: found.permissions().mode() & 0o7777,
                    uid: Some(found.uid()),
                    gid: Some(found.gid()),
                };
                FileChange { path, action: Action::Modify, content, set, keep: Some(keep) }
            }
        };
        Ok(Finding::Differs(change))
    }

    fn describe(&self, change: &FileChange, _: &Machine<'_>) -> Diff {
        let mut told = Change::new(change.action, change.path.display().to_string());
        if let Some(content) = &change.content {
            told.details.push(content.describe());
        }
        told.details.extend(change.set.details.iter().cloned());
        Diff::of(told)
    }

    fn foresee(&self, change: &FileChange, foreseen: &mut Foreseen) {
        if change.action == Action::Create {
            foreseen.path(&change.path, Fate::File);
        }
    }

    fn apply(&self, change: FileChange, machine: &mut Machine<'_>) -> Result<(), OpFailure> {
        let FileChange { path, content, set, keep, .. } = change;
        let Some(content) = content else {
            return set_attributes(&path, set.mode, set.uid, set.gid);
        };
        let attributes = Attributes {
            mode: set.mode.or(keep.map(|keep| keep.mode)).unwrap_or(NEW_MODE),
            uid: set.uid.or(keep.and_then(|keep| keep.uid)),
            gid: set.gid.or(keep.and_then(|keep| keep.gid)),
        };
        replace_file(&path, attributes, |out| {
            let bytes: &[u8] = match (&self.content, &content.fetched) {
                (Content::Inline(bytes), _) | (Content::Blob { .. }, Some(bytes)) => bytes,
                (Content::Secret(bytes), _) => bytes.expose(),
                (Content::Blob { digest, size }, None) => return fetch_blob(machine.supplier, *digest, *size, out),
            };
            out.write_all(bytes).or_fail("write", path.display())
        })
    }
}

impl FileWrite {
    /// None when the file has the wanted content.
    fn compare_content(
        &self,
        path: &Path,
        found: Option<&Metadata>,
        machine: &mut Machine<'_>,
    ) -> Result<Option<ContentChange>, OpFailure> {
        let size = self.content_size();
        let before = match found {
            None => None,
            Some(found) if found.len() == size && self.equals(path).or_fail("read", path.display())? => {
                return Ok(None);
            }
            Some(found) => Some(found.len()),
        };
        if machine.sensitive || matches!(self.content, Content::Secret(_)) {
            return Ok(Some(ContentChange { before: Side::Hidden, after: Side::Hidden, fetched: None }));
        }
        let fetched = self.fetch_for_diff(size, machine)?;
        let after = match (&self.content, &fetched) {
            (Content::Inline(bytes), _) | (_, Some(bytes)) => side(bytes),
            (Content::Blob { digest, size }, None) => Side::Opaque(*size, *digest),
            (Content::Secret(_), None) => Side::Hidden,
        };
        let before = match before {
            None => Side::Nothing,
            Some(length) => read_side(path, length).or_fail("read", path.display())?,
        };
        Ok(Some(ContentChange { before, after, fetched }.alike()))
    }

    /// Text that is short enough to be shown is fetched before it is needed.
    fn fetch_for_diff(&self, size: u64, machine: &mut Machine<'_>) -> Result<Option<Vec<u8>>, OpFailure> {
        match &self.content {
            Content::Blob { digest, size: announced } if size <= MAX_TEXT => {
                let mut bytes = Vec::new();
                fetch_blob(machine.supplier, *digest, *announced, &mut bytes)?;
                Ok(Some(bytes))
            }
            _ => Ok(None),
        }
    }

    fn content_size(&self) -> u64 {
        match &self.content {
            Content::Inline(bytes) => bytes.len() as u64,
            Content::Secret(bytes) => bytes.expose().len() as u64,
            Content::Blob { size, .. } => *size,
        }
    }

    /// Whether a file of the right size has the wanted content.
    fn equals(&self, path: &Path) -> io::Result<bool> {
        let bytes: &[u8] = match &self.content {
            Content::Inline(bytes) => bytes,
            Content::Secret(bytes) => bytes.expose(),
            Content::Blob { digest, .. } => return Ok(digest_of(path)? == *digest),
        };
        let mut file = fs_err::File::open(path)?;
        let mut buffer = vec![0; 64 * 1024];
        for piece in bytes.chunks(buffer.len()) {
            file.read_exact(&mut buffer[..piece.len()])?;
            if buffer[..piece.len()] != *piece {
                return Ok(false);
            }
        }
        Ok(file.read(&mut buffer[..1])? == 0)
    }
}

impl ContentChange {
    /// Text is shown against text only: where one side is not, both are sizes and digests.
    fn alike(mut self) -> Self {
        let opaque = |side: &Side| matches!(side, Side::Opaque(..));
        if opaque(&self.before) || opaque(&self.after) {
            for side in [&mut self.before, &mut self.after] {
                if let Side::Text(text) = side {
                    *side = Side::Opaque(text.len() as u64, Digest::of(text.as_bytes()));
                }
            }
        }
        self
    }

    fn describe(&self) -> Detail {
        let text = |side: &Side| match side {
            Side::Text(text) => text.clone(),
            _ => String::new(),
        };
        let numbers = |side: &Side| match side {
            Side::Opaque(size, digest) => Some((*size, *digest)),
            _ => None,
        };
        match &self.after {
            Side::Hidden => Detail::SecretContent,
            Side::Opaque(..) => Detail::Opaque { before: numbers(&self.before), after: numbers(&self.after) },
            Side::Text(_) | Side::Nothing => Detail::Text { before: text(&self.before), after: text(&self.after) },
        }
    }
}

fn side(bytes: &[u8]) -> Side {
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() as u64 <= MAX_TEXT && !bytes.contains(&0) => Side::Text(text.to_owned()),
        _ => Side::Opaque(bytes.len() as u64, Digest::of(bytes)),
    }
}

fn read_side(path: &Path, length: u64) -> io::Result<Side> {
    if length <= MAX_TEXT { Ok(side(&fs_err::read(path)?)) } else { Ok(Side::Opaque(length, digest_of(path)?)) }
}

fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut fs_err::File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().into())
}

fn expect_regular(path: &Path, found: &Metadata) -> Result<(), OpFailure> {
    if found.is_file() {
        return Ok(());
    }
    let what = if found.is_dir() { "a directory" } else { "a device, socket or pipe" };
    Err(bad_input(format!("cannot write `{}`: it is {what}", path.display())))
}
