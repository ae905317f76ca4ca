//! Hashes files on several threads.

use std::{
    fs::File,
    io::{self, Read},
    num::NonZero,
    os::unix::fs::FileExt,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use rustix::{
    fs::{FileType, fstat},
    io::Errno,
};

use super::{Digest, RelPath, Root, Status};

/// Buffer of a thread in bytes.
const BUFFER: usize = 128 * 1024;
/// More threads than this gain nothing: memory is the limit.
const MAX_THREADS: usize = 8;
/// Fewer files than this are hashed without threads of their own...
const FEW_FILES: usize = 16;
/// ...when they have fewer bytes than this together.
const FEW_BYTES: u64 = 1024 * 1024;
/// A file this long or longer is read on several threads...
const LONG_FILE: u64 = 16 * 1024 * 1024;
/// ...at most so many...
const MAX_THREADS_OF_FILE: usize = 4;
/// ...in parts of so many bytes: subtrees of the hash, so a power of two.
const PART: u64 = 4 * 1024 * 1024;
/// How often a file that changes while it is read is read again.
const TRIES: u32 = 3;

/// The content of a file and the attributes that it had then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashed {
    /// Hash of the whole content.
    pub digest: Digest,
    /// Attributes of the very file that was read.
    pub status: Status,
}

/// Why a file has no digest.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// It cannot be opened or read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It changed each time it was read.
    #[error("the file keeps changing")]
    Changing,
    /// It is no longer a regular file, or no longer there.
    #[error("the file vanished")]
    Vanished,
}

/// Hashes files below a root; the results have the order of `paths`. `bytes` is their size together, as far as known.
pub fn hash_files(root: &Root, paths: &[&RelPath], bytes: u64) -> Vec<Result<Hashed, HashError>> {
    if paths.is_empty() {
        return Vec::new();
    }
    let few = paths.len() < FEW_FILES && bytes < FEW_BYTES;
    in_parallel(paths, if few { 1 } else { MAX_THREADS }, || {
        let mut buffer = vec![0; BUFFER];
        move |path| hash_file(root, path, &mut buffer)
    })
}

/// Does something with each item on as many threads as there are cores, at most so many; the results have the order of
/// the items. `worker` makes what one thread works with.
pub(super) fn in_parallel<'a, T: Sync, R: Send, W: FnMut(&'a T) -> R>(
    items: &'a [T],
    most_threads: usize,
    worker: impl Fn() -> W + Sync,
) -> Vec<R> {
    // Asking reads files of the kernel; the answer does not change.
    static CORES: OnceLock<usize> = OnceLock::new();
    let threads = most_threads.min(items.len());
    let cores = || *CORES.get_or_init(|| thread::available_parallelism().map_or(1, NonZero::get));
    let threads = if threads <= 1 { 1 } else { threads.min(cores()) };
    if threads == 1 {
        return items.iter().map(worker()).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut work = worker();
        let mut done = Vec::new();
        while let Some((at, item)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, items.get(at)?)))
        {
            done.push((at, work(item)));
        }
        done
    };
    let mut results: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    results.sort_unstable_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

fn hash_file(root: &Root, path: &RelPath, buffer: &mut [u8]) -> Result<Hashed, HashError> {
    for _ in 0..TRIES {
        let fd = match root.open_file(path.as_bytes()) {
            Ok(fd) => fd,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(HashError::Vanished);
            }
            // A link has taken its place, or that of a directory above it.
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => return Err(HashError::Changing),
            Err(error) => return Err(error.into()),
        };
        let before = Status::from(fstat(&fd).map_err(io::Error::from)?);
        if before.file_type != FileType::RegularFile {
            return Err(HashError::Vanished);
        }
        let mut file = File::from(fd);
        let (digest, size) = if before.size >= LONG_FILE {
            match digest_of_long(&file, before.size) {
                Ok(digest) => (digest, before.size),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                Err(error) => return Err(error.into()),
            }
        } else {
            digest_of(&mut file, buffer)?
        };
        let after = Status::from(fstat(&file).map_err(io::Error::from)?);
        if size == before.size && before.key() == after.key() {
            return Ok(Hashed { digest, status: after });
        }
    }
    Err(HashError::Changing)
}

/// Hash of the first `size` bytes of a long file, read on several threads. An error when it is shorter now.
fn digest_of_long(file: &File, size: u64) -> io::Result<Digest> {
    let offsets: Vec<u64> = (0..size.div_ceil(PART)).map(|part| part * PART).collect();
    let parts = in_parallel(&offsets, MAX_THREADS_OF_FILE, || {
        let mut buffer = vec![0; BUFFER];
        move |offset: &u64| {
            let mut hasher = blake3::Hasher::new();
            hasher.set_input_offset(*offset);
            let (mut at, end) = (*offset, size.min(offset + PART));
            while at < end {
                let wanted = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
                file.read_exact_at(&mut buffer[..wanted], at)?;
                hasher.update(&buffer[..wanted]);
                at += wanted as u64;
            }
            Ok(hasher.finalize_non_root())
        }
    });
    let parts = parts.into_iter().collect::<io::Result<Vec<ChainingValue>>>()?;
    let left = left_subtree_len(size);
    let (before, after) = parts.split_at(usize::try_from(left / PART).map_err(io::Error::other)?);
    Ok(merge_subtrees_root(&joined(before, left), &joined(after, size - left), Mode::Hash).into())
}

/// What the hashes of parts that follow each other, `len` bytes together, come to.
fn joined(parts: &[ChainingValue], len: u64) -> ChainingValue {
    if len <= PART {
        return parts[0];
    }
    let left = left_subtree_len(len);
    // Of a power of two of parts, so a whole number.
    let (before, after) = parts.split_at(usize::try_from(left / PART).unwrap_or(parts.len()));
    merge_subtrees_non_root(&joined(before, left), &joined(after, len - left), Mode::Hash)
}

/// Hash and length of all that a reader gives.
pub(super) fn digest_of(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<(Digest, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut size = 0;
    loop {
        match reader.read(buffer) {
            Ok(0) => return Ok((hasher.finalize().into(), size)),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_long_file_has_the_hash_of_a_short_one() {
        let part = usize::try_from(PART).unwrap();
        let mut bytes = vec![0; 9 * part + 12_345];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        for len in [part + 1, 2 * part, 2 * part + 1, 3 * part, 4 * part - 1, 8 * part, 9 * part + 12_345] {
            assert_eq!(digest_of_long(&file, len as u64).unwrap(), Digest::of(&bytes[..len]), "{len}");
        }
        assert!(digest_of_long(&file, 20 * PART).is_err(), "a file that became shorter");
    }

    #[test]
    fn results_keep_the_order_on_any_number_of_threads() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<RelPath> = (0..100).map(|n| RelPath::new(format!("f{n:03}")).unwrap()).collect();
        for path in &paths {
            fs_err::write(dir.path().join(path.as_path()), path.to_string().repeat(1000)).unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        let gone = RelPath::new("gone").unwrap();
        for bytes in [0, u64::MAX] {
            let mut wanted: Vec<&RelPath> = paths.iter().take(if bytes == 0 { 5 } else { 100 }).collect();
            wanted.push(&gone);
            let results = hash_files(&root, &wanted, bytes);
            assert_eq!(results.len(), wanted.len());
            for (path, result) in wanted.iter().zip(&results) {
                match result {
                    Ok(hashed) => assert_eq!(hashed.digest, Digest::of(path.to_string().repeat(1000).as_bytes())),
                    Err(error) => assert!(matches!(error, HashError::Vanished) && **path == gone),
                }
            }
        }
    }
}
