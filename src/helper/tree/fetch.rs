//! Receives content from the near side and believes none of it before its hash fits.

use std::{
    fmt::Display,
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
};

use crate::{
    helper::failure::io_failure,
    plan::{FailureKind, OpFailure},
    tree::{ChunkId, Demand, Digest, LiteralDecoder, Supplier, Supply, Want, chunks},
};

/// Most chunks of one old file that are proposed: 4 GiB at the usual length, 5 MB of message.
const MAX_BASIS: usize = 256 * 1024;
/// Buffer for copying from an old file in bytes.
const BUFFER: usize = 64 * 1024;

/// An old version of a content, of which the near side need not send what is still the same.
#[derive(Debug)]
pub(super) struct Basis {
    file: File,
    ids: Vec<ChunkId>,
    /// Where each chunk begins; one more than there are chunks.
    offsets: Vec<u64>,
}

impl Basis {
    /// Cuts an old file into chunks; reads it once.
    pub(super) fn of(file: File) -> io::Result<Self> {
        let (mut ids, mut offsets) = (Vec::new(), vec![0]);
        for chunk in chunks(&file).take(MAX_BASIS) {
            let chunk = chunk?;
            ids.push(chunk.id);
            offsets.push(chunk.offset + chunk.data.len() as u64);
        }
        Ok(Self { file, ids, offsets })
    }

    /// The chunks, for a demand.
    pub(super) fn ids(&self) -> &[ChunkId] {
        &self.ids
    }

    /// Where in the file so many chunks from `first` on begin and end; none when there are not so many.
    fn range(&self, first: u32, count: u32) -> Option<(u64, u64)> {
        let end = first.checked_add(count)?;
        Some((*self.offsets.get(first as usize)?, *self.offsets.get(end as usize)?))
    }
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
        Ok(Self { supplier, literals, buffer: vec![0; BUFFER] })
    }

    /// Receives the next content into `out`; `name` is what it is for. Never gives `out` more than `size` bytes.
    ///
    /// Errors: `Content` when what comes is not what was announced, or is gone on the near side; those of `out`;
    /// `Cancelled` or `Io` when nothing comes any more.
    pub(super) fn receive(
        &mut self,
        digest: Digest,
        size: u64,
        basis: Option<&Basis>,
        out: &mut dyn Write,
        name: &dyn Display,
    ) -> Result<(), OpFailure> {
        let mut target = Target { out, hasher: blake3::Hasher::new(), left: size, name };
        loop {
            let supply =
                self.supplier.next_supply().map_err(|error| io_failure("receive the content of", name, &error))?;
            match supply {
                Supply::Literal(bytes) => self.literals.push(bytes).map_err(|error| target.refuse(&error))?,
                Supply::Take(bytes) => self.take(bytes, &mut target)?,
                Supply::Copy { first, count } => {
                    let part = basis.and_then(|basis| Some((basis, basis.range(first, count)?)));
                    let Some((basis, (from, to))) = part else {
                        return Err(target.refuse(&"it refers to chunks that were not proposed"));
                    };
                    self.copy(&basis.file, from, to, &mut target)?;
                }
                Supply::End => return target.finish(digest),
                Supply::Gone { why } => {
                    let message = format!("the content of `{name}` is no longer there: {why}");
                    return Err(OpFailure::new(FailureKind::Content, message).hint("run again"));
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

    fn copy(&mut self, file: &File, from: u64, to: u64, target: &mut Target<'_>) -> Result<(), OpFailure> {
        let mut at = from;
        while at < to {
            let wanted = usize::try_from(to - at).unwrap_or(BUFFER).min(BUFFER);
            let count = match file.read_at(&mut self.buffer[..wanted], at) {
                Ok(0) => return Err(target.refuse(&"the old version became shorter meanwhile")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io_failure("read the old version of", target.name, &error)),
            };
            target.write(&self.buffer[..count])?;
            at += count as u64;
        }
        Ok(())
    }
}

/// Where a content goes; counts and hashes it.
struct Target<'a> {
    out: &'a mut dyn Write,
    hasher: blake3::Hasher,
    left: u64,
    name: &'a dyn Display,
}

impl Target<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), OpFailure> {
        self.left =
            (self.left.checked_sub(bytes.len() as u64)).ok_or_else(|| self.refuse(&"more came than was announced"))?;
        self.hasher.update(bytes);
        self.out.write_all(bytes).map_err(|error| io_failure("write", self.name, &error))
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
    let want = Want { digest, size, basis: Vec::new() };
    Reception::open(supplier, vec![want], &name)?.receive(digest, size, None, out, &name)
}
