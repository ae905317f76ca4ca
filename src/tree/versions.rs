//! Large contents that were pushed before, kept on the near side: what hosts still have of them need not be sent again.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{ChunkId, Digest, WHOLE_UP_TO, chunk::chunks, delta::Origin, hash::digest_of, index::replace_file};

/// Bytes of contents that are kept; the one that was not used for longest goes first.
const MOST_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// A longer content is not kept: it would drive out everything else.
const LONGEST: u64 = 512 * 1024 * 1024;
/// First bytes of a list of chunks; the last one is the version of the format.
const MAGIC: &[u8; 8] = b"OVSCHNK\x01";
/// Length of a chunk in such a list in bytes.
const RECORD: usize = 16 + 4;
/// Bytes copied at once.
const BUFFER: usize = 1024 * 1024;

/// A directory of contents, each a file named by its digest, with its list of chunks beside it.
///
/// A cache: what is missing is sent in another way, and what is damaged is noticed by the host, whose demand then
/// names chunks instead.
#[derive(Debug, Clone)]
pub struct Versions {
    directory: PathBuf,
}

/// A content that was pushed before.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) content: Origin,
    pub(super) chunks: Vec<ChunkId>,
}

impl Versions {
    /// Contents below this directory, which is made when something is kept.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Whether a content of this length is kept at all.
    pub(super) fn takes(size: u64) -> bool {
        size > WHOLE_UP_TO && size <= LONGEST
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.to_string())
    }

    fn list(&self, digest: &Digest) -> PathBuf {
        self.directory.join(format!("{digest}.chunks"))
    }

    /// The content with this digest and length, if it is here.
    pub(super) fn find(&self, digest: &Digest, size: u64) -> Option<Version> {
        let path = self.path(digest);
        let file = fs_err::File::open(&path).ok()?.into_parts().0;
        if file.metadata().ok()?.len() != size {
            return None;
        }
        // Used now: it stays longer than others.
        let _ = file.set_modified(SystemTime::now());
        let known = fs_err::read(self.list(digest)).ok().and_then(|bytes| decode(&bytes));
        let chunks = known.filter(|chunks| chunks.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>() == size);
        let chunks = if let Some(chunks) = chunks {
            chunks
        } else {
            let origin = Origin::File(file.try_clone().ok()?);
            let reader = BufReader::with_capacity(BUFFER, origin.reader());
            let found = chunks_of(reader).collect::<io::Result<Vec<ChunkId>>>().ok()?;
            let _ = replace_file(&self.list(digest), &encode(&found));
            found
        };
        Some(Version { content: Origin::File(file), chunks })
    }

    /// Forgets a content that is not what its name says. Reads it. What such a content leads to is noticed by the host
    /// that gets it; this makes that it happens once.
    pub(super) fn check(&self, digest: &Digest) {
        let Ok(mut file) = fs_err::File::open(self.path(digest)) else { return };
        if digest_of(&mut file, &mut vec![0; BUFFER]).is_ok_and(|(found, _)| found != *digest) {
            self.forget(digest);
        }
    }

    /// Keeps a content and the list of its chunks, if it is not here yet. What goes wrong costs time at a later push only.
    /// Blocks while copying.
    pub(super) fn keep(&self, digest: &Digest, source: &File, size: u64) {
        let path = self.path(digest);
        if !Self::takes(size) || path.exists() {
            return;
        }
        let kept = self.make_room(size).and_then(|()| {
            let mut copy = tempfile_in(&self.directory)?;
            let copied = copy_and_cut(source, size, &mut copy.1);
            let chunks = copied.inspect_err(|_| drop(fs_err::remove_file(&copy.0)))?;
            replace_file(&self.list(digest), &encode(&chunks))?;
            fs_err::rename(&copy.0, &path).inspect_err(|_| drop(fs_err::remove_file(&copy.0)))
        });
        if let Err(error) = kept {
            // The disk of the cache may be full; there is nothing to be told to anybody.
            drop(error);
        }
    }

    /// Forgets a content that turned out not to be what its name says.
    fn forget(&self, digest: &Digest) {
        let _ = fs_err::remove_file(self.path(digest));
        let _ = fs_err::remove_file(self.list(digest));
    }

    /// Removes what was not used for longest until there is room.
    fn make_room(&self, size: u64) -> io::Result<()> {
        fs_err::create_dir_all(&self.directory)?;
        let mut kept = Vec::new();
        for entry in fs_err::read_dir(&self.directory)? {
            let entry = entry?;
            let status = entry.metadata()?;
            kept.push((status.modified()?, status.len(), entry.path()));
        }
        kept.sort_unstable();
        let mut total = size + kept.iter().map(|(_, size, _)| size).sum::<u64>();
        for (_, size, path) in kept {
            if total <= MOST_BYTES {
                break;
            }
            fs_err::remove_file(path)?;
            total -= size;
        }
        Ok(())
    }
}

/// Copies a file that others read too: its position is theirs. Gives its chunks.
fn copy_and_cut(source: &File, size: u64, copy: &mut File) -> io::Result<Vec<ChunkId>> {
    let origin = Origin::File(source.try_clone()?);
    let passed = Passing { reader: origin.reader().take(size), copy };
    let chunks = chunks_of(BufReader::with_capacity(BUFFER, passed)).collect::<io::Result<Vec<ChunkId>>>()?;
    let copied: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
    if copied == size { Ok(chunks) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Writes down what is read through it.
struct Passing<'a, R> {
    reader: R,
    copy: &'a mut File,
}

impl<R: Read> Read for Passing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.copy.write_all(&buffer[..count])?;
        Ok(count)
    }
}

/// A new file that only its owner can read.
fn tempfile_in(directory: &Path) -> io::Result<(PathBuf, File)> {
    use std::{
        hash::{BuildHasher, Hasher, RandomState},
        os::unix::fs::OpenOptionsExt,
    };
    let path = directory.join(format!("new.{:016x}", RandomState::new().build_hasher().finish()));
    let file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
    Ok((path, file))
}

fn chunks_of(reader: impl Read) -> impl Iterator<Item = io::Result<ChunkId>> {
    chunks(reader).map(|chunk| Ok(chunk?.id))
}

fn encode(chunks: &[ChunkId]) -> Vec<u8> {
    let body: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.hash.into_iter().chain(chunk.len.to_le_bytes())).collect();
    [&MAGIC[..], Digest::of(&body).as_bytes(), &body].concat()
}

fn decode(bytes: &[u8]) -> Option<Vec<ChunkId>> {
    let (sum, body) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
    if Digest::of(body).as_bytes() != sum {
        return None;
    }
    let (records, rest) = body.as_chunks::<RECORD>();
    let chunk = |record: &[u8; RECORD]| {
        let (hash, len) = record.split_first_chunk::<16>()?;
        Some(ChunkId { hash: *hash, len: u32::from_le_bytes(len.try_into().ok()?) })
    };
    if rest.is_empty() { records.iter().map(chunk).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(seed: u8, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn keep(versions: &Versions, content: &[u8]) -> Digest {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        let digest = Digest::of(content);
        versions.keep(&digest, &file, content.len() as u64);
        digest
    }

    #[test]
    fn what_is_kept_is_found_with_its_chunks() {
        let dir = tempfile::tempdir().unwrap();
        let versions = Versions::new(dir.path().join("content"));
        let bytes = content(1, 300_000);
        let digest = keep(&versions, &bytes);
        for _ in 0..2 {
            // The second time the list is read from its file.
            let found = versions.find(&digest, 300_000).unwrap();
            let ids: Vec<ChunkId> = chunks_of(&bytes[..]).map(Result::unwrap).collect();
            assert_eq!(found.chunks, ids);
            assert!(found.content.bytes_at(0, 300_000).unwrap() == bytes);
            versions.check(&digest);
        }
        assert!(versions.find(&digest, 299_999).is_none());
        assert!(versions.find(&Digest::of(b"other"), 300_000).is_none());
        versions.forget(&digest);
        assert!(versions.find(&digest, 300_000).is_none());
        assert_eq!(fs_err::read_dir(dir.path().join("content")).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_list_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let versions = Versions::new(dir.path().to_path_buf());
        let digest = keep(&versions, &content(2, 200_000));
        let right = versions.find(&digest, 200_000).unwrap().chunks;
        for damaged in [&b""[..], b"OVSCHNK\x01", &encode(&right[1..])] {
            fs_err::write(versions.list(&digest), damaged).unwrap();
            assert_eq!(versions.find(&digest, 200_000).unwrap().chunks, right);
        }
    }

    #[test]
    fn a_damaged_content_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let versions = Versions::new(dir.path().to_path_buf());
        let digest = keep(&versions, &content(4, 200_000));
        versions.check(&digest);
        assert!(versions.find(&digest, 200_000).is_some());
        fs_err::write(versions.path(&digest), content(5, 200_000)).unwrap();
        versions.check(&digest);
        assert!(versions.find(&digest, 200_000).is_none());
    }

    #[test]
    fn small_contents_are_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let versions = Versions::new(dir.path().join("content"));
        keep(&versions, &content(3, 60_000));
        assert!(!dir.path().join("content").exists());
    }
}
