//! What of a new content is not in an old one, and the messages that say it.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    sync::Arc,
};

use zstd::zstd_safe::{CCtx, CParameter};

use super::{
    ChunkId, Digest, MAX_PATCHED, MAX_PREFIX, Part, Supply,
    chunk::{chunks, fine_chunks},
};

/// A content this long or shorter is not cut a second time: the list of finer chunks would cost more than it saves.
const FINER_FROM: u64 = 8 * 1024 * 1024;
/// Nor is one of which so few bytes are new.
const FINER_FROM_FRESH: u64 = 256 * 1024;
/// So many bytes of the old version around the place of new bytes are worth looking at too.
const MARGIN: u64 = 32 * 1024;
/// The same where much is new, so that nothing tells exactly which part of the old version it resembles.
const WIDE_MARGIN: u64 = 2 * 1024 * 1024;
/// Compression level of patches.
const ZSTD_LEVEL: i32 = 3;
/// Places that a patch may remember, as a power of two: 16 MiB of memory for each of two tables.
const MOST_PLACES: u32 = 22;
/// Bytes of new content that are cut finer at once.
const BLOCK: u64 = 1024 * 1024;

/// Where a delta is said to.
pub(super) trait Said {
    /// These bytes come next, as they are.
    fn literal(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// This message comes next.
    fn say(&mut self, message: Supply) -> io::Result<()>;
}

/// A content of the near side that can be read at any place.
#[derive(Debug)]
pub(super) enum Origin {
    File(File),
    Bytes(Arc<[u8]>),
}

impl Origin {
    /// Reads until the buffer is full or the content ends; gives how much.
    pub(super) fn read_full(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + filled as u64;
            let count = match self {
                Self::File(file) => match file.read_at(&mut buffer[filled..], at) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    result => result?,
                },
                Self::Bytes(bytes) => {
                    let from = usize::try_from(at).map_or(bytes.len(), |at| at.min(bytes.len()));
                    let rest = &bytes[from..];
                    let count = rest.len().min(buffer.len() - filled);
                    buffer[filled..filled + count].copy_from_slice(&rest[..count]);
                    count
                }
            };
            if count == 0 {
                break;
            }
            filled += count;
        }
        Ok(filled)
    }

    /// So many bytes from a place on; an error when there are not so many.
    pub(super) fn bytes_at(&self, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        let count = self.read_full(&mut bytes, offset)?;
        if count == bytes.len() { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Reads it from the beginning.
    pub(super) fn reader(&self) -> OriginReader<'_> {
        self.reader_at(0)
    }

    /// Reads it from a place on.
    pub(super) fn reader_at(&self, at: u64) -> OriginReader<'_> {
        OriginReader { origin: self, at }
    }
}

/// Reads a content in order.
#[derive(Debug)]
pub(super) struct OriginReader<'a> {
    origin: &'a Origin,
    at: u64,
}

impl Read for OriginReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.origin.read_full(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// A stretch of the new content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Where it is in the old version.
    pub(super) old: Option<u64>,
}

/// A new content as stretches that the old version has and stretches that it has not.
#[derive(Debug)]
pub(super) struct Delta {
    pub(super) stretches: Vec<Stretch>,
    /// Length of all stretches that the old version has not.
    pub(super) fresh: u64,
    old_len: u64,
}

/// What cutting a new content has given.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) delta: Delta,
    /// Hash of the new content as it was read.
    pub(super) digest: Digest,
}

/// Passes on what it reads and hashes it.
struct Hashing<R> {
    reader: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

impl Delta {
    /// Nothing yet, of an old version of this length.
    pub(super) fn of(old_len: u64) -> Self {
        Self { stretches: Vec::new(), fresh: 0, old_len }
    }

    /// Finds the chunks of `old` in what a reader gives. Holds one chunk at a time, and the lists.
    pub(super) fn find(reader: impl Read, old: &[ChunkId]) -> io::Result<Cut> {
        let mut places: HashMap<ChunkId, usize> = HashMap::with_capacity(old.len());
        let mut offsets = Vec::with_capacity(old.len());
        let mut old_len = 0;
        for (index, id) in old.iter().enumerate() {
            places.entry(*id).or_insert(index);
            offsets.push(old_len);
            old_len += u64::from(id.len);
        }
        let mut delta = Self::of(old_len);
        let mut reader = Hashing { reader, hasher: blake3::Hasher::new() };
        // Where the old version goes on, so that the longest stretches are found.
        let mut expected = 0;
        for chunk in chunks(&mut reader) {
            let chunk = chunk?;
            let follows = old.get(expected) == Some(&chunk.id);
            let place = if follows { Some(expected) } else { places.get(&chunk.id).copied() };
            if let Some(place) = place {
                expected = place + 1;
            }
            let len = u64::from(chunk.id.len);
            delta.add(Stretch { offset: chunk.offset, len, old: place.map(|place| offsets[place]) });
        }
        Ok(Cut { delta, digest: reader.hasher.finalize().into() })
    }

    fn add(&mut self, next: Stretch) {
        if next.old.is_none() {
            self.fresh += next.len;
        }
        if let Some(last) = self.stretches.last_mut() {
            let continues = match (last.old, next.old) {
                (None, None) => true,
                (Some(before), Some(after)) => before + last.len == after,
                _ => false,
            };
            if continues {
                last.len += next.len;
                return;
            }
        }
        self.stretches.push(next);
    }

    /// The parts of the old version that should be cut finer because nothing of them was found; none when that is not
    /// worth it.
    pub(super) fn parts_to_cut(&self, old: &[ChunkId]) -> Vec<(u64, u64)> {
        let len = self.stretches.iter().map(|stretch| stretch.len).sum::<u64>();
        if len <= FINER_FROM || self.fresh <= FINER_FROM_FRESH {
            return Vec::new();
        }
        let mut used: Vec<(u64, u64)> =
            self.stretches.iter().filter_map(|stretch| Some((stretch.old?, stretch.len))).collect();
        used.sort_unstable();
        let (mut parts, mut at): (Vec<(u64, u64)>, u64) = (Vec::new(), 0);
        // Used stretches are whole chunks, so the gaps between them are too.
        for (offset, len) in used.into_iter().chain([(old.iter().map(|id| u64::from(id.len)).sum(), 0)]) {
            if offset > at {
                parts.push((at, offset - at));
            }
            at = at.max(offset + len);
        }
        parts
    }

    /// Says a stretch to a host that has the old version itself, from which `old` is read too: new bytes travel as
    /// patches of what they resemble there.
    pub(super) fn say_patch(
        &self,
        index: usize,
        new: &Origin,
        old: &Origin,
        out: &mut impl Said,
    ) -> Result<(), SayError> {
        let stretch = self.stretches[index];
        if let Some(offset) = stretch.old {
            return out.say(Supply::Copy { offset, len: stretch.len }).map_err(SayError::Out);
        }
        let (from, to) = self.resembled(index);
        let mut done = 0;
        while done < stretch.len {
            let len = (stretch.len - done).min(u64::from(MAX_PATCHED));
            let (offset, prefix_len) = self.prefix(stretch.len, done, len, from, to);
            let bytes = new.bytes_at(stretch.offset + done, len).map_err(SayError::Read)?;
            let prefix = old.bytes_at(offset, prefix_len).map_err(|_| SayError::Old)?;
            let frame = compress(&bytes, &prefix).map_err(|_| SayError::Old)?;
            match (frame, u32::try_from(prefix_len), u32::try_from(len)) {
                (Some(frame), Ok(prefix), Ok(len)) => {
                    out.say(Supply::Patch { offset, prefix, len, frame }).map_err(SayError::Out)?;
                }
                _ => out.literal(&bytes).map_err(SayError::Out)?,
            }
            done += len;
        }
        Ok(())
    }

    /// The part of the old version between the neighbours of a new stretch.
    fn resembled(&self, index: usize) -> (u64, u64) {
        let old_end = |stretch: &Stretch| stretch.old.map(|old| old + stretch.len);
        let from = self.stretches[..index].iter().rev().find_map(old_end).unwrap_or(0);
        let to = self.stretches[index..].iter().find_map(|stretch| stretch.old).unwrap_or(self.old_len);
        let len = self.stretches[index].len;
        // Where the order changed, what followed the bytes before is the best guess.
        let to = if to < from { from.saturating_add(len) } else { to };
        (from.min(self.old_len), to.min(self.old_len))
    }

    /// Offset and length of the prefix for a piece of a stretch that resembles `from..to` of the old version.
    fn prefix(&self, stretch_len: u64, done: u64, len: u64, from: u64, to: u64) -> (u64, u64) {
        let window = to - from;
        let most = u64::from(MAX_PREFIX);
        let (start, end) = if window + 2 * MARGIN <= most && stretch_len == len {
            (from.saturating_sub(MARGIN), to + MARGIN)
        } else {
            let scaled = |at: u64| {
                let at = u128::from(window) * u128::from(at) / u128::from(stretch_len.max(1));
                from + u64::try_from(at).unwrap_or(window)
            };
            (scaled(done).saturating_sub(WIDE_MARGIN), scaled(done + len) + WIDE_MARGIN)
        };
        let end = end.min(self.old_len);
        // Of too long a part the middle is the best guess.
        let surplus = (end.saturating_sub(start)).saturating_sub(most);
        let (start, end) = (start + surplus / 2, end - surplus.div_ceil(2));
        (start, end.saturating_sub(start))
    }

    /// Says the delta to a host that told its chunks: new bytes travel as literals, but for what is found among the
    /// finer chunks of `parts`.
    pub(super) fn say_literals(&self, new: &Origin, parts: &[Part], out: &mut impl Said) -> Result<(), SayError> {
        let mut places: HashMap<ChunkId, u64> = HashMap::new();
        for Part { offset, chunks } in parts {
            let mut at = *offset;
            for id in chunks {
                places.entry(*id).or_insert(at);
                at = at.saturating_add(u64::from(id.len));
            }
        }
        for stretch in &self.stretches {
            if let Some(offset) = stretch.old {
                out.say(Supply::Copy { offset, len: stretch.len }).map_err(SayError::Out)?;
                continue;
            }
            let mut done = 0;
            while done < stretch.len {
                let len = (stretch.len - done).min(BLOCK);
                let bytes = new.bytes_at(stretch.offset + done, len).map_err(SayError::Read)?;
                if places.is_empty() {
                    out.literal(&bytes).map_err(SayError::Out)?;
                } else {
                    for chunk in fine_chunks(&bytes[..]) {
                        let chunk = chunk.map_err(SayError::Read)?;
                        match places.get(&chunk.id) {
                            Some(offset) => {
                                let len = u64::from(chunk.id.len);
                                out.say(Supply::Copy { offset: *offset, len }).map_err(SayError::Out)?;
                            }
                            None => out.literal(&chunk.data).map_err(SayError::Out)?,
                        }
                    }
                }
                done += len;
            }
        }
        Ok(())
    }
}

/// Why a delta could not be said to its end.
#[derive(Debug)]
pub(super) enum SayError {
    /// The new content cannot be read any more.
    Read(io::Error),
    /// The old version cannot be used.
    Old,
    /// What was said is not taken.
    Out(io::Error),
}

/// A zstd frame of `bytes` that refers to `prefix`; none when it would be no shorter.
fn compress(bytes: &[u8], prefix: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let failed = |code| io::Error::other(zstd::zstd_safe::get_error_name(code));
    let mut context = CCtx::create();
    // Every place of the prefix must be in reach of the last byte.
    let reach = (prefix.len() + bytes.len()).next_power_of_two().ilog2().clamp(10, 27);
    context.set_parameter(CParameter::CompressionLevel(ZSTD_LEVEL)).map_err(failed)?;
    context.set_parameter(CParameter::WindowLog(reach)).map_err(failed)?;
    // The tables of this level forget most of a long prefix; these hold a place for nearly every byte.
    context.set_parameter(CParameter::HashLog(reach.min(MOST_PLACES))).map_err(failed)?;
    context.set_parameter(CParameter::ChainLog(reach.min(MOST_PLACES))).map_err(failed)?;
    context.set_parameter(CParameter::ContentSizeFlag(true)).map_err(failed)?;
    context.ref_prefix(prefix).map_err(failed)?;
    let mut frame = Vec::with_capacity(zstd::zstd_safe::compress_bound(bytes.len()));
    context.compress2(&mut frame, bytes).map_err(failed)?;
    Ok(Some(frame).filter(|frame| frame.len() < bytes.len()))
}
