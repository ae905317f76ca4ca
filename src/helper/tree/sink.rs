//! Where a content goes while it is received.

use std::io::{self, Write};

/// Length in bytes of the buffers in which long parts of an old version are taken over: where the file system is a
/// program, each call is dear.
pub(super) const BUFFER: usize = 512 * 1024;

/// Takes a content in order.
pub(super) trait Sink {
    /// Takes the next bytes.
    fn take(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// A buffer of [`BUFFER`] bytes for [`Sink::give`].
    fn buffer(&mut self) -> Vec<u8>;

    /// Takes the first `len` bytes of a buffer, which it may write beside other work.
    fn give(&mut self, buffer: Vec<u8>, len: usize) -> io::Result<()>;
}

/// Writes to whatever can be written to.
pub(super) struct Plain<'a> {
    out: &'a mut dyn Write,
    buffer: Vec<u8>,
}

impl<'a> Plain<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, buffer: Vec::new() }
    }
}

impl Sink for Plain<'_> {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    fn buffer(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(BUFFER, 0);
        buffer
    }

    fn give(&mut self, buffer: Vec<u8>, len: usize) -> io::Result<()> {
        self.out.write_all(&buffer[..len])?;
        self.buffer = buffer;
        Ok(())
    }
}
