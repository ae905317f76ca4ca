//! What a run that was cut off had made already, and what of it spares the next one a transfer.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
};

use rustix::{fs::FileType, process::geteuid};

use super::ground::Ground;
use crate::tree::{
    Digest, IgnoreRules, NodeKind, RelPath, Root, Status, WHOLE_UP_TO, hash_files, is_temporary, status_at, walk,
};

/// Most unfinished files that are looked at.
const MAX_FILES: usize = 200_000;
/// How deep unfinished directories are looked for in others.
const MAX_DEPTH: u32 = 4;

/// What is wanted: where it will be made, digest and size in bytes.
pub(super) type Wanted<'a> = (&'a [u8], Digest, u64);

/// Files that a run which was cut off left below a root.
#[derive(Debug)]
pub(super) struct Salvage<'a> {
    root: &'a Root,
    /// Whole contents, verified.
    whole: HashMap<Digest, Piece>,
    /// Beginnings of large files, by the name under which they were made.
    parts: HashMap<Vec<u8>, Piece>,
}

#[derive(Debug, Clone)]
struct Piece {
    path: RelPath,
    status: Status,
}

impl<'a> Salvage<'a> {
    /// Looks through what was left for contents that are wanted, and removes what is of no use. Only files of the
    /// helper's user and of this owner count.
    pub(super) fn look(root: &'a Root, leftovers: &[RelPath], wanted: &[Wanted<'_>], owner: Option<u32>) -> Self {
        let mut salvage = Self { root, whole: HashMap::new(), parts: HashMap::new() };
        if leftovers.is_empty() {
            return salvage;
        }
        let mut pieces = Vec::new();
        for path in leftovers {
            list(root, path, MAX_DEPTH, &mut pieces);
        }
        // A file that somebody else put there could be changed by them later, or have another name elsewhere.
        let owners = [Some(geteuid().as_raw()), owner];
        pieces.retain(|piece| piece.status.is_only_name && owners.contains(&Some(piece.status.uid)));
        let digests: HashSet<Digest> = wanted.iter().map(|(_, digest, _)| *digest).collect();
        let sizes: HashSet<u64> = wanted.iter().map(|(_, _, size)| *size).filter(|size| *size > 0).collect();
        let (full, rest): (Vec<Piece>, Vec<Piece>) =
            pieces.into_iter().partition(|piece| sizes.contains(&piece.status.size));
        let mut parts = rest;
        let paths: Vec<&RelPath> = full.iter().map(|piece| &piece.path).collect();
        let hashed = hash_files(root, &paths, full.iter().map(|piece| piece.status.size).sum());
        for (piece, hashed) in full.into_iter().zip(hashed) {
            match hashed {
                Ok(hashed) if digests.contains(&hashed.digest) => {
                    salvage.whole.insert(hashed.digest, Piece { status: hashed.status, ..piece });
                }
                _ => parts.push(piece),
            }
        }
        let keys: HashSet<Vec<u8>> = wanted
            .iter()
            .filter(|(_, digest, size)| *size > WHOLE_UP_TO && !salvage.whole.contains_key(digest))
            .filter_map(|(at, _, _)| key(at))
            .collect();
        let mut ground = Ground::new(root);
        for piece in parts {
            let key = key(piece.path.as_bytes()).filter(|key| piece.status.size > WHOLE_UP_TO && keys.contains(key));
            let longest =
                key.filter(|key| salvage.parts.get(key).is_none_or(|other| other.status.size < piece.status.size));
            let useless = match longest {
                Some(key) => salvage.parts.insert(key, piece),
                None => Some(piece),
            };
            if let Some(useless) = useless {
                // The sweep at the end says what cannot be removed.
                let _ = ground.remove(useless.path.as_bytes(), false);
            }
        }
        salvage
    }

    /// Moves a whole content to where it is made. Nothing when there is none, or it is no longer what it was: then
    /// others have their turn.
    pub(super) fn take(&mut self, digest: &Digest, ground: &mut Ground<'_>, at: &[u8]) -> Option<File> {
        let piece = self.whole.remove(digest)?;
        ground.rename_from(self.root, piece.path.as_bytes(), at).ok()?;
        let is_same = ground.status(at).is_ok_and(|now| {
            let then = &piece.status;
            (now.dev, now.ino, now.size, now.mtime) == (then.dev, then.ino, then.size, then.mtime) && now.is_only_name
        });
        if let Some(Ok(file)) = is_same.then(|| ground.read(at)) {
            return Some(file);
        }
        let _ = ground.remove(at, false);
        None
    }

    /// The beginning of a large file with its length in bytes, opened.
    pub(super) fn part(&self, at: &[u8]) -> Option<(File, u64)> {
        let piece = self.parts.get(&key(at)?)?;
        let file = self.root.open_file(piece.path.as_bytes()).ok()?;
        Some((file.into(), piece.status.size))
    }
}

/// Finds the files of ours in something unfinished.
fn list(root: &Root, path: &RelPath, depth: u32, pieces: &mut Vec<Piece>) {
    let Ok(directory) = root.open_directory(path.parent()) else { return };
    let Ok(status) = status_at(directory, path.name()) else { return };
    match root.below(path.as_bytes()) {
        Ok(below) if depth > 0 => {
            let Ok(mut rules) = IgnoreRules::new(&[]) else { return };
            let Ok(found) = walk(&below, &mut rules, false) else { return };
            let files = found.nodes.into_iter().filter(|node| node.kind == NodeKind::File);
            for node in files {
                if let Ok(path) = RelPath::join(path.as_bytes(), node.path.as_bytes()) {
                    add(path, node.status, pieces);
                }
            }
            for inner in found.leftovers {
                if let Ok(path) = RelPath::join(path.as_bytes(), inner.as_bytes()) {
                    list(root, &path, depth - 1, pieces);
                }
            }
        }
        Ok(_) => {}
        Err(_) => add(path.clone(), status, pieces),
    }
}

fn add(path: RelPath, status: Status, pieces: &mut Vec<Piece>) {
    if status.file_type == FileType::RegularFile && pieces.len() < MAX_FILES {
        pieces.push(Piece { path, status });
    }
}

/// What the places at which two runs make the same file have in common: the path below the unfinished directory, or the
/// half of the name that stands for the content.
fn key(at: &[u8]) -> Option<Vec<u8>> {
    let mut parts = at.rsplit(|byte| *byte == b'/');
    let mut below = Vec::new();
    let unfinished = loop {
        let part = parts.next()?;
        if is_temporary(part) {
            break part;
        }
        below.push(part);
    };
    if below.is_empty() {
        // See `ground::temporary_for`.
        return Some(unfinished[..b".ovs-cuisine.".len() + 8].to_vec());
    }
    below.reverse();
    Some(below.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_file_has_the_same_key_in_each_run() {
        let (one, two) = (".ovs-cuisine.0123456789abcdef.tmp", ".ovs-cuisine.fedcba9876543210.tmp");
        let of = |path: String| key(path.as_bytes());
        assert_eq!(of(format!("{one}/a/b")), of(format!("x/{two}/a/b")));
        assert_eq!(of(format!("{one}/a/b")), of(format!("releases/{two}/{one}/a/b")));
        assert_ne!(of(format!("{one}/a/b")), of(format!("{one}/a/c")));
        assert_eq!(of(one.to_owned()), of("a/.ovs-cuisine.01234567ffffffff.tmp".to_owned()));
        assert_ne!(of(one.to_owned()), of(two.to_owned()));
        assert_eq!(of("a/b".to_owned()), None);
    }
}
