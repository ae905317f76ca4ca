//! The receiving end of the one zstd stream that carries all literals of a demand.

use std::{collections::VecDeque, io};

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

/// Most compressed bytes that may wait to be asked for. The sender flushes four times as often.
const MAX_WAITING: usize = 1024 * 1024;
/// Largest window as a power of two (8 MiB): more than level 3 uses, and all the memory that a stream may ask for.
const MAX_WINDOW_LOG: u32 = 23;
/// Decompressed bytes given at once.
const PIECE: usize = 128 * 1024;

/// Decompresses a stream that comes in pieces, exactly as much as is asked for.
pub struct LiteralDecoder {
    zstd: Decoder<'static>,
    waiting: VecDeque<Vec<u8>>,
    /// How much of the first waiting piece is used up.
    used: usize,
    bytes: usize,
    piece: Vec<u8>,
}

impl LiteralDecoder {
    /// A decoder at the beginning of a stream.
    pub fn new() -> io::Result<Self> {
        let mut zstd = Decoder::new()?;
        zstd.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))?;
        Ok(Self { zstd, waiting: VecDeque::new(), used: 0, bytes: 0, piece: vec![0; PIECE] })
    }

    /// Takes the next bytes of the stream. An error when too many of them wait: a sender that never says what they are
    /// for would fill the memory.
    pub fn push(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.bytes += bytes.len();
        if self.bytes > MAX_WAITING {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more content came than was announced"));
        }
        if !bytes.is_empty() {
            self.waiting.push_back(bytes);
        }
        Ok(())
    }

    /// Gives the next decompressed bytes of the stream, at least one and at most `limit`, which is above 0. An error
    /// when the bytes that came do not hold any.
    pub fn next(&mut self, limit: u64) -> io::Result<&[u8]> {
        let limit = usize::try_from(limit).unwrap_or(PIECE).min(PIECE);
        let mut written = 0;
        while written == 0 {
            let input = self.waiting.front().map_or(&[][..], |piece| &piece[self.used..]);
            let mut input_buffer = InBuffer::around(input);
            let mut output = OutBuffer::around(&mut self.piece[..limit]);
            self.zstd.run(&mut input_buffer, &mut output)?;
            let (read, given) = (input_buffer.pos(), output.pos());
            if read == 0 && given == 0 && self.waiting.is_empty() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "less content came than was announced"));
            }
            if read == 0 && given == 0 && self.used == 0 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the content cannot be decompressed"));
            }
            self.advance(read);
            written = given;
        }
        Ok(&self.piece[..written])
    }

    fn advance(&mut self, read: usize) {
        self.used += read;
        self.bytes -= read;
        if self.waiting.front().is_some_and(|piece| piece.len() == self.used) {
            self.waiting.pop_front();
            self.used = 0;
        }
    }
}

impl std::fmt::Debug for LiteralDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiteralDecoder").field("waiting", &self.bytes).finish_non_exhaustive()
    }
}
