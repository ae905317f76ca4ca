//! Receives content from the near side and believes none of it before its hash fits.

use std::{
    fmt::Display,
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::FileExt,
};

use zstd::zstd_safe::{DCtx, DParameter};

use super::sink::{Plain, Sink};
use crate::{
    helper::failure::io_failure,
    plan::{FailureKind, OpFailure},
    tree::{
        ChunkId, Demand, Digest, LiteralDecoder, MAX_PATCHED, MAX_PREFIX, Old, Part, Supplier, Supply, Want, chunks,
        fine_chunks,
    },
};

/// Most chunks of one old file that are proposed: 4 GiB at the usual length, 5 MB of message.
const MAX_CHUNKS: usize = 256 * 1024;
/// Shorter parts of an old version are taken over without a thread that writes.
const LONG_COPY: u64 = 128 * 1024;
/// Buffer for those in bytes.
const SHORT: usize = 64 * 1024;
/// Largest window of a patch as a power of two: its prefix and what it decompresses to, both at their longest.
const MAX_WINDOW_LOG: u32 = 24;

/// An old version of a content, of which the near side need not send what is still the same.
#[derive(Debug)]
pub(super) struct OldFile {
    file: File,
}

impl OldFile {
    pub(super) fn new(file: File) -> Self {
        Self { file }
    }

    /// Its chunks, for a near side that does not have it; reads it once.
    pub(super) fn chunks(&self) -> io::Result<Old> {
        let ids: io::Result<Vec<ChunkId>> =
            chunks(self.reader(0, u64::MAX)).take(MAX_CHUNKS).map(|chunk| Ok(chunk?.id)).collect();
        Ok(Old::Chunks { whole: ids?, parts: Vec::new() })
    }

    /// Cuts parts of it finer. Parts that are not there are left out.
    pub(super) fn finer(&self, whole: Vec<ChunkId>, wanted: &[(u64, u64)]) -> io::Result<Old> {
        let (mut parts, mut count) = (Vec::new(), 0);
        for (offset, len) in wanted {
            let ids: io::Result<Vec<ChunkId>> = fine_chunks(self.reader(*offset, *len))
                .take(MAX_CHUNKS.saturating_sub(count))
                .map(|chunk| Ok(chunk?.id))
                .collect();
            let chunks = ids?;
            count += chunks.len();
            parts.push(Part { offset: *offset, chunks });
        }
        Ok(Old::Chunks { whole, parts })
    }

    fn reader(&self, offset: u64, len: u64) -> impl Read + '_ {
        Positioned { file: &self.file, at: offset }.take(len)
    }
}

/// Reads a file from a place on, whatever its own position is.
struct Positioned<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at = self.at.saturating_add(count as u64);
        Ok(count)
    }
}

/// What came of a want.
#[derive(Debug)]
pub(super) enum Received {
    /// The content, verified.
    Whole,
    /// The near side needs to know the chunks of the old version, or what it made of the old version was wrong. What
    /// was written is not to be used.
    Unknown,
    /// The near side wants these parts of the old version cut finer. Nothing was written.
    Finer(Vec<(u64, u64)>),
}

/// Receives the answer to one demand, content by content.
pub(super) struct Reception<'a> {
    supplier: &'a mut dyn Supplier,
    literals: LiteralDecoder,
    buffer: Vec<u8>,
}

impl<'a> Reception<'a> {
    /// Sends the demand. `subject` names it in failures.
    pub(super) fn open(
        supplier: &'a mut dyn Supplier,
        wants: Vec<Want>,
        subject: impl Display,
    ) -> Result<Self, OpFailure> {
        supplier.demand(Demand { wants }).map_err(|error| io_failure("ask for the content of", &subject, &error))?;
        let literals = LiteralDecoder::new().map_err(|error| io_failure("receive", &subject, &error))?;
        Ok(Self { supplier, literals, buffer: vec![0; SHORT] })
    }

    /// Receives the next content into `out`; `name` is what it is for. Never gives `out` more than `size` bytes. With
    /// an old version, a content that has the wrong hash is only unknown: whoever patched it may have had another one.
    ///
    /// Errors: `Content` when what comes is not what was announced, or is gone on the near side; those of `out`;
    /// `Cancelled` or `Io` when nothing comes any more.
    pub(super) fn receive(
        &mut self,
        digest: Digest,
        size: u64,
        old: Option<&OldFile>,
        out: &mut dyn Sink,
        name: &dyn Display,
    ) -> Result<Received, OpFailure> {
        let mut target = Target { out, hasher: blake3::Hasher::new(), left: size, name };
        loop {
            let supply =
                self.supplier.next_supply().map_err(|error| io_failure("receive the content of", name, &error))?;
            match (supply, old) {
                (Supply::Literal(bytes), _) => self.literals.push(bytes).map_err(|error| target.refuse(&error))?,
                (Supply::Take(bytes), _) => self.take(bytes, &mut target)?,
                (Supply::Copy { offset, len }, Some(old)) => self.copy(&old.file, offset, len, &mut target)?,
                (Supply::Patch { offset, prefix, len, frame }, Some(old)) => {
                    let bytes = patched(&old.file, offset, prefix, len, &frame);
                    target.write(&bytes.map_err(|error| target.refuse(&error))?)?;
                }
                (Supply::End, None) => return target.finish(digest).map(|()| Received::Whole),
                (Supply::End, Some(_)) => {
                    let is_right = target.finish(digest).is_ok();
                    return Ok(if is_right { Received::Whole } else { Received::Unknown });
                }
                (Supply::Unknown, Some(_)) => return Ok(Received::Unknown),
                (Supply::Finer { parts }, Some(_)) => return Ok(Received::Finer(parts)),
                (Supply::Gone { why }, _) => {
                    let message = format!("the content of `{name}` is no longer there: {why}");
                    return Err(OpFailure::new(FailureKind::Content, message).hint("run again"));
                }
                (Supply::Copy { .. } | Supply::Patch { .. } | Supply::Unknown | Supply::Finer { .. }, None) => {
                    return Err(target.refuse(&"it refers to an old version that was not proposed"));
                }
            }
        }
    }

    fn take(&mut self, bytes: u64, target: &mut Target<'_>) -> Result<(), OpFailure> {
        let mut left = bytes;
        while left > 0 {
            let piece = self.literals.next(left.min(target.left.max(1))).map_err(|error| target.refuse(&error))?;
            left -= piece.len() as u64;
            target.write(piece)?;
        }
        Ok(())
    }

    fn copy(&mut self, file: &File, from: u64, len: u64, target: &mut Target<'_>) -> Result<(), OpFailure> {
        let mut at = from;
        let to = from.checked_add(len).ok_or_else(|| target.refuse(&"it refers to what no file can hold"))?;
        while at < to {
            let mut own = if len < LONG_COPY { None } else { Some(target.out.buffer()) };
            let buffer = own.as_mut().unwrap_or(&mut self.buffer);
            let wanted = usize::try_from(to - at).unwrap_or(usize::MAX).min(buffer.len());
            let count = match file.read_at(&mut buffer[..wanted], at) {
                Ok(0) => return Err(target.refuse(&"the old version became shorter meanwhile")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(io_failure("read the old version of", target.name, &error)),
            };
            match own {
                Some(buffer) => target.give(buffer, count)?,
                None => target.write(&self.buffer[..count])?,
            }
            at += count as u64;
        }
        Ok(())
    }
}

/// What a patch makes of a part of an old file.
fn patched(file: &File, offset: u64, prefix: u32, len: u32, frame: &[u8]) -> io::Result<Vec<u8>> {
    let invalid = |why: &'static str| io::Error::new(io::ErrorKind::InvalidData, why);
    if prefix > MAX_PREFIX || len > MAX_PATCHED || frame.len() > len as usize {
        return Err(invalid("a patch is too long"));
    }
    let mut before = vec![0; prefix as usize];
    file.read_exact_at(&mut before, offset)?;
    let broken = |_| invalid("a patch cannot be decompressed");
    let mut context = DCtx::create();
    context.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).map_err(broken)?;
    context.ref_prefix(&before).map_err(broken)?;
    let mut bytes = Vec::with_capacity(len as usize);
    let count = context.decompress(&mut bytes, frame).map_err(broken)?;
    if count == len as usize { Ok(bytes) } else { Err(invalid("a patch has another length than announced")) }
}

/// Where a content goes; counts and hashes it.
struct Target<'a> {
    out: &'a mut dyn Sink,
    hasher: blake3::Hasher,
    left: u64,
    name: &'a dyn Display,
}

impl Target<'_> {
    fn count(&mut self, bytes: &[u8]) -> Result<(), OpFailure> {
        self.left =
            (self.left.checked_sub(bytes.len() as u64)).ok_or_else(|| self.refuse(&"more came than was announced"))?;
        self.hasher.update(bytes);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), OpFailure> {
        self.count(bytes)?;
        self.out.take(bytes).map_err(|error| io_failure("write", self.name, &error))
    }

    fn give(&mut self, buffer: Vec<u8>, len: usize) -> Result<(), OpFailure> {
        self.count(&buffer[..len])?;
        self.out.give(buffer, len).map_err(|error| io_failure("write", self.name, &error))
    }

    fn finish(self, digest: Digest) -> Result<(), OpFailure> {
        if self.left == 0 && Digest::from(self.hasher.finalize()) == digest {
            Ok(())
        } else {
            Err(self.refuse(&"its hash differs"))
        }
    }

    fn refuse(&self, why: &dyn Display) -> OpFailure {
        let message = format!("the content that came for `{}` is not what was announced: {why}", self.name);
        OpFailure::new(FailureKind::Content, message).hint("run again; the source may have changed meanwhile")
    }
}

/// Fetches one content of `size` bytes into `out` and verifies it. What `out` got before an error is not to be used.
pub fn fetch_blob(
    supplier: &mut dyn Supplier,
    digest: Digest,
    size: u64,
    out: &mut dyn Write,
) -> Result<(), OpFailure> {
    let name = format!("content {}", digest.short());
    let want = Want { digest, size, old: Old::Nothing };
    // Without an old version there is nothing but the whole.
    Reception::open(supplier, vec![want], &name)?.receive(digest, size, None, &mut Plain::new(out), &name).map(drop)
}

/// Fetches one content into memory, of which an old version is at hand. `name` is what it is for.
pub(super) fn fetch_bytes(
    supplier: &mut dyn Supplier,
    digest: Digest,
    size: u64,
    old: Option<&OldFile>,
    name: &str,
) -> Result<Vec<u8>, OpFailure> {
    let mut bytes = Vec::new();
    if let Some(old) = old
        && let Ok(chunks) = old.chunks()
    {
        let want = Want { digest, size, old: chunks };
        let received = Reception::open(supplier, vec![want], name)?.receive(
            digest,
            size,
            Some(old),
            &mut Plain::new(&mut bytes),
            &name,
        )?;
        if matches!(received, Received::Whole) {
            return Ok(bytes);
        }
        bytes.clear();
    }
    let want = Want { digest, size, old: Old::Nothing };
    Reception::open(supplier, vec![want], name)?.receive(digest, size, None, &mut Plain::new(&mut bytes), &name)?;
    Ok(bytes)
}
