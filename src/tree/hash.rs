//! Hashes files on several threads.

use std::{
    fs::File,
    io::{self, Read},
    num::NonZero,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

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
        let (digest, size) = digest_of(&mut file, buffer)?;
        let after = Status::from(fstat(&file).map_err(io::Error::from)?);
        if size == before.size && before.key() == after.key() {
            return Ok(Hashed { digest, status: after });
        }
    }
    Err(HashError::Changing)
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
    use super::*;

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
