//! What was hashed before, so that an unchanged tree is proven by stat alone.

use std::{
    io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use rustc_hash::FxHashMap;

use super::{Digest, Status, Time};

/// First bytes of an index file; the last one is the version of the format.
const MAGIC: &[u8; 8] = b"OVSINDX\x02";
/// Length of one entry in bytes: fixed, because reading the index is a good part of proving that nothing changed.
const RECORD: usize = 5 * 8 + 2 * 4 + 32;
/// A file changed so shortly before it was hashed may change again without a new time: clocks of file systems tick
/// every few milliseconds, on some every two seconds.
const RACY_SECONDS: i64 = 2;
/// No kernel's clock for files is coarser than this in nanoseconds, where a file system keeps what the clock says.
const TICK_NANOS: i64 = 100_000_000;

/// What content is remembered by. All five must be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IndexKey {
    /// Device number of the file system.
    pub dev: u64,
    /// Number of the inode.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Last modification.
    pub mtime: Time,
    /// Last change of content or attributes.
    pub ctime: Time,
}

/// Digests of files by their [`IndexKey`]. A cache: without it, or with a damaged one, everything is hashed again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    digests: FxHashMap<IndexKey, Digest>,
}

impl Index {
    /// Reads an index file; an empty index when there is none or it is damaged.
    pub fn load(path: &Path) -> Self {
        let digests = fs_err::read(path).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Self { digests }
    }

    /// Writes an index file, by way of a temporary file beside it; makes missing directories.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut body = Vec::with_capacity(self.digests.len() * RECORD);
        for (key, digest) in &self.digests {
            let IndexKey { dev, ino, size, mtime, ctime } = key;
            let numbers = [*dev, *ino, *size, mtime.secs.cast_unsigned(), ctime.secs.cast_unsigned()];
            body.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            body.extend([mtime.nanos, ctime.nanos].iter().flat_map(|nanos| nanos.to_le_bytes()));
            body.extend_from_slice(digest.as_bytes());
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(Digest::of(&body).as_bytes());
        bytes.extend_from_slice(&body);
        replace_file(path, &bytes)
    }

    /// The digest of the content with this key, if it is known.
    pub fn digest(&self, key: &IndexKey) -> Option<Digest> {
        self.digests.get(key).copied()
    }

    /// Remembers a digest, unless the file changed so shortly before `scanned_at` (seconds since 1970) that it could
    /// change again unseen.
    pub fn remember(&mut self, status: &Status, digest: Digest, scanned_at: i64) {
        let fresh = |time: Time| (time.secs..=time.secs.saturating_add(RACY_SECONDS)).contains(&scanned_at);
        let from_the_future = status.ctime.secs > scanned_at;
        if !from_the_future && !fresh(status.mtime) && !fresh(status.ctime) {
            self.digests.insert(status.key(), digest);
        }
    }

    /// Goes on remembering what another index knew.
    pub fn keep(&mut self, status: &Status, digest: Digest) {
        self.digests.insert(status.key(), digest);
    }

    /// Remembers the digest of a file that this process has just written and whose time of modification it has set back
    /// to that of the source: whoever writes to it later leaves another one, unless both are of the same tick of the
    /// clock. `now` is taken after the file was written.
    pub fn remember_made(&mut self, status: &Status, digest: Digest, now: Time) {
        // Whole seconds are the mark of a file system that has no finer times.
        let tick = if status.mtime.nanos == 0 { RACY_SECONDS * 1_000_000_000 } else { TICK_NANOS };
        let nanos = |time: Time| i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
        if nanos(now) - nanos(status.mtime) > i128::from(tick) {
            self.digests.insert(status.key(), digest);
        }
    }

    /// How many files it knows.
    pub fn len(&self) -> usize {
        self.digests.len()
    }

    /// Whether it knows nothing.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }
}

fn decode(bytes: &[u8]) -> Option<FxHashMap<IndexKey, Digest>> {
    let (sum, body) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
    if Digest::of(body).as_bytes() != sum {
        return None;
    }
    let (records, rest) = body.as_chunks::<RECORD>();
    rest.is_empty().then(|| records.iter().filter_map(|record| decode_record(record)).collect())
}

fn decode_record(record: &[u8]) -> Option<(IndexKey, Digest)> {
    let mut rest = record;
    let mut number = || {
        let (bytes, after) = rest.split_first_chunk::<8>()?;
        rest = after;
        Some(u64::from_le_bytes(*bytes))
    };
    let [dev, ino, size] = [number()?, number()?, number()?];
    let [mtime, ctime] = [number()?.cast_signed(), number()?.cast_signed()];
    let (nanos, digest) = rest.split_first_chunk::<8>()?;
    let (before, after) = nanos.split_first_chunk::<4>()?;
    let mtime = Time { secs: mtime, nanos: u32::from_le_bytes(*before) };
    let ctime = Time { secs: ctime, nanos: u32::from_le_bytes(after.try_into().ok()?) };
    let digest: [u8; 32] = digest.try_into().ok()?;
    Some((IndexKey { dev, ino, size, mtime, ctime }, digest.into()))
}

/// Replaces a file of ours at once; readable by its owner only. Makes missing directories.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs_err::create_dir_all(directory)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = name.to_os_string();
    temporary.push(format!(".{}.{}", std::process::id(), next_number()));
    let temporary = directory.join(temporary);
    let write = || {
        let mut options = fs_err::OpenOptions::new();
        options.options_mut().mode(0o600);
        options.write(true).create(true).truncate(true).open(&temporary)?.write_all(bytes)?;
        fs_err::rename(&temporary, path)
    };
    let done = write();
    if done.is_err() {
        // The first error is the one to tell; what is left of the file is harmless.
        let _ = fs_err::remove_file(&temporary);
    }
    done
}

fn next_number() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// The time now.
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}

/// Seconds since 1970 now; before a scan begins.
pub fn unix_now() -> i64 {
    now().secs
}

#[cfg(test)]
mod tests {
    use rustix::fs::FileType;

    use super::*;

    fn status(ino: u64, secs: i64) -> Status {
        let time = Time { secs, nanos: 7 };
        Status {
            file_type: FileType::RegularFile,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 3,
            dev: 1,
            ino,
            is_only_name: true,
            has_holes: false,
            mtime: time,
            ctime: time,
        }
    }

    fn sample() -> Index {
        let mut index = Index::default();
        for ino in 0..50 {
            index.remember(&status(ino, 100), Digest::of(&ino.to_le_bytes()), 200);
        }
        index
    }

    #[test]
    fn an_index_survives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/index");
        let index = sample();
        index.save(&path).unwrap();
        index.save(&path).unwrap();
        assert_eq!(Index::load(&path), index);
        assert_eq!(index.len(), 50);
        assert_eq!(fs_err::read_dir(dir.path().join("deep/er")).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn damage_costs_the_index_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        sample().save(&path).unwrap();
        let whole = fs_err::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            assert!(decode(&bytes).is_none(), "byte {at}");
            assert!(decode(&whole[..at]).is_none(), "cut at {at}");
        }
        assert!(Index::load(&dir.path().join("missing")).is_empty());
    }

    #[test]
    fn fresh_files_are_not_trusted() {
        for (changed, scanned, trusted) in [(100, 102, false), (100, 100, false), (100, 103, true), (100, 99, false)] {
            let mut index = Index::default();
            index.remember(&status(1, changed), Digest::of(b"x"), scanned);
            assert_eq!(!index.is_empty(), trusted, "changed at {changed}, scanned at {scanned}");
        }
        for (modified, now, nanos, trusted) in
            [(100, 100, 7, false), (99, 100, 7, true), (99, 100, 0, false), (97, 100, 0, true), (101, 100, 7, false)]
        {
            let mut index = Index::default();
            let mtime = Time { secs: modified, nanos };
            let made = Status { mtime, ctime: Time { secs: now, nanos: 7 }, ..status(1, 100) };
            index.remember_made(&made, Digest::of(b"x"), Time { secs: now, nanos: 8 });
            assert_eq!(!index.is_empty(), trusted, "made at {now}, modified at {modified}.{nanos}");
        }
        let mut index = Index::default();
        let old_content_new_name = Status { ctime: Time { secs: 500, nanos: 0 }, ..status(1, 100) };
        index.remember(&old_content_new_name, Digest::of(b"x"), 501);
        assert!(index.is_empty());
    }
}
