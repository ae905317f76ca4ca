//! The messages of an answer, with the compressed stream that they refer to.

use std::{
    collections::VecDeque,
    io::{self, Write},
};

use zstd::stream::write::Encoder;

use super::{MAX_LITERAL, Supply, delta::Said};

/// Compression level of literals: higher ones cost more time than a link of 1 Gbit/s gives back.
const ZSTD_LEVEL: i32 = 3;
/// So many bytes are compressed before the stream is flushed: one zstd block. Flushing more often costs size.
const FLUSH_AFTER: usize = 128 * 1024;
/// The host has work with so many bytes that it copies by itself: they are not held back.
const FLUSH_AFTER_COPIES: u64 = 4 * 1024 * 1024;
/// So many messages may wait for a flush.
const MAX_PENDING: usize = 4096;

/// Collects messages and the compressed stream, and lets go of both together: what a message announces has always
/// been sent before it.
pub(super) struct Answer<'a> {
    out: &'a mut dyn FnMut(Supply) -> io::Result<()>,
    /// The open frame of the stream.
    zstd: Option<Encoder<'static, Vec<u8>>>,
    pending: VecDeque<Supply>,
    unflushed: usize,
    /// Bytes of copies among what is pending.
    copies: u64,
}

impl<'a> Answer<'a> {
    pub(super) fn new(out: &'a mut dyn FnMut(Supply) -> io::Result<()>) -> Self {
        Self { out, zstd: None, pending: VecDeque::new(), unflushed: 0, copies: 0 }
    }

    /// Ends the open frame and lets go of everything: what comes next in the stream may come from elsewhere. The end of
    /// the frame goes before the messages that refer to it, of which the last may be the last of the answer.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if let Some(zstd) = self.zstd.take() {
            self.unflushed = 0;
            self.send(&zstd.finish()?)?;
        }
        self.pending.drain(..).try_for_each(&mut self.out)
    }

    fn send(&mut self, stream: &[u8]) -> io::Result<()> {
        stream.chunks(MAX_LITERAL).try_for_each(|part| (self.out)(Supply::Literal(part.to_vec())))
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(zstd) = self.zstd.as_mut().filter(|_| self.unflushed > 0) {
            zstd.flush()?;
            self.unflushed = 0;
            let stream = std::mem::take(zstd.get_mut());
            self.send(&stream)?;
        }
        self.copies = 0;
        self.pending.drain(..).try_for_each(&mut self.out)
    }
}

impl Said for Answer<'_> {
    fn literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Piece by piece: the host lets little more than a flush wait for what it is for.
        for piece in bytes.chunks(FLUSH_AFTER) {
            let zstd = match &mut self.zstd {
                Some(zstd) => zstd,
                empty => empty.insert(Encoder::new(Vec::new(), ZSTD_LEVEL)?),
            };
            zstd.write_all(piece)?;
            self.unflushed += piece.len();
            self.say(Supply::Take(piece.len() as u64))?;
        }
        Ok(())
    }

    /// Queues a message, joined with the one before it where they continue each other.
    fn say(&mut self, message: Supply) -> io::Result<()> {
        if let Supply::Patch { frame, .. } = &message {
            self.unflushed += frame.len();
        }
        if let Supply::Copy { len, .. } = &message {
            self.copies += len;
        }
        match (self.pending.back_mut(), &message) {
            (Some(Supply::Take(before)), Supply::Take(more)) => *before += more,
            (Some(Supply::Copy { offset, len }), Supply::Copy { offset: next, len: more })
                if offset.checked_add(*len) == Some(*next) =>
            {
                *len += more;
            }
            _ => self.pending.push_back(message),
        }
        let is_due =
            self.unflushed >= FLUSH_AFTER || self.copies >= FLUSH_AFTER_COPIES || self.pending.len() >= MAX_PENDING;
        if is_due { self.flush() } else { Ok(()) }
    }
}
