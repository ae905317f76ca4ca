//! A file that is being written and has not its own name yet.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

use rustix::fs::fdatasync;

use super::sink::{BUFFER, Sink};

/// Unit in which holes are kept, in bytes: the block size of the usual file systems.
const BLOCK: usize = 4096;
/// So many bytes are on their way to the disk before the next ones are: waiting for all of them at the end would take
/// longer.
const FLUSH_AFTER: u64 = 16 * 1024 * 1024;
/// Most buffers in use: one that is filled, one that is written, and two that wait.
const BUFFERS: usize = 4;
/// What a block without content looks like.
const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// A fresh file that is written from its beginning to its end. One that should have holes gets no block for zeros.
#[derive(Debug)]
pub(super) struct Draft {
    file: File,
    at: u64,
    keeps_holes: bool,
    /// Up to where a flush was begun, and the one that is running.
    flushed: u64,
    flush: Option<JoinHandle<io::Result<()>>>,
    /// Writes what is given in buffers, of which so many are in use.
    writer: Option<Writer>,
    buffers: usize,
}

impl Draft {
    /// Writes to this file, which is empty.
    pub(super) fn new(file: File, keeps_holes: bool) -> Self {
        Self { file, at: 0, keeps_holes, flushed: 0, flush: None, writer: None, buffers: 0 }
    }

    /// The file, with the length that was written.
    pub(super) fn finish(mut self) -> io::Result<File> {
        self.writer.take().map_or(Ok(()), Writer::end)?;
        self.end_flush()?;
        if self.keeps_holes {
            self.file.set_len(self.at)?;
        }
        Ok(self.file)
    }

    /// Begins to bring what was written to the disk, beside other work, unless that is going on already.
    fn flush_early(&mut self) -> io::Result<()> {
        if self.at - self.flushed < FLUSH_AFTER || self.flush.as_ref().is_some_and(|flush| !flush.is_finished()) {
            return Ok(());
        }
        self.end_flush()?;
        let file = self.file.try_clone()?;
        self.flushed = self.at;
        self.flush = Some(thread::spawn(move || Ok(fdatasync(&file)?)));
        Ok(())
    }

    /// An error is told to one flush only, so none must be missed.
    fn end_flush(&mut self) -> io::Result<()> {
        let Some(flush) = self.flush.take() else { return Ok(()) };
        flush.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Writes bytes at a place, but for blocks of zeros where holes are kept.
fn write_at(file: &File, mut bytes: &[u8], mut at: u64, keeps_holes: bool) -> io::Result<()> {
    if !keeps_holes {
        return file.write_all_at(bytes, at);
    }
    let is_hole = |part: &[u8]| part == &ZEROS[..part.len()];
    while !bytes.is_empty() {
        // Up to the next border of a block, so that a whole block of zeros is seen as one; and as far beyond as it goes
        // on alike.
        let into = usize::try_from(at % BLOCK as u64).unwrap_or_default();
        let mut end = bytes.len().min(BLOCK - into);
        let leaves_hole = is_hole(&bytes[..end]);
        while end < bytes.len() {
            let next = bytes.len().min(end + BLOCK);
            if is_hole(&bytes[end..next]) != leaves_hole {
                break;
            }
            end = next;
        }
        if !leaves_hole {
            file.write_all_at(&bytes[..end], at)?;
        }
        at += end as u64;
        bytes = &bytes[end..];
    }
    Ok(())
}

/// A thread that writes buffers, so that the next ones can be read and hashed meanwhile.
#[derive(Debug)]
struct Writer {
    queue: SyncSender<(Vec<u8>, usize, u64)>,
    free: Receiver<Vec<u8>>,
    thread: JoinHandle<io::Result<()>>,
}

impl Writer {
    fn start(file: File, keeps_holes: bool) -> Self {
        let (queue, filled) = sync_channel::<(Vec<u8>, usize, u64)>(BUFFERS);
        let (give_back, free) = sync_channel(BUFFERS);
        let thread = thread::spawn(move || {
            for (buffer, len, at) in filled {
                write_at(&file, &buffer[..len], at, keeps_holes)?;
                // Nobody needs it any more when the last one has been given.
                let _ = give_back.try_send(buffer);
            }
            Ok(())
        });
        Self { queue, free, thread }
    }

    fn end(self) -> io::Result<()> {
        drop(self.queue);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Sink for Draft {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_at(&self.file, bytes, self.at, self.keeps_holes)?;
        self.at += bytes.len() as u64;
        self.flush_early()
    }

    fn buffer(&mut self) -> Vec<u8> {
        let waited = match &self.writer {
            Some(writer) if self.buffers == BUFFERS => writer.free.recv().ok(),
            _ => None,
        };
        waited.unwrap_or_else(|| {
            // When the writer has ended, the next buffer that it is given says why.
            self.buffers = BUFFERS.min(self.buffers + 1);
            vec![0; BUFFER]
        })
    }

    fn give(&mut self, buffer: Vec<u8>, len: usize) -> io::Result<()> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => Writer::start(self.file.try_clone()?, self.keeps_holes),
        };
        if writer.queue.send((buffer, len, self.at)).is_err() {
            writer.end()?;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.writer = Some(writer);
        self.at += len as u64;
        self.flush_early()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(pieces: &[Vec<u8>], keeps_holes: bool) -> (Vec<u8>, File) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("draft");
        let file = fs_err::File::create_new(&path).unwrap().into_parts().0;
        let mut draft = Draft::new(file, keeps_holes);
        for piece in pieces {
            draft.take(piece).unwrap();
        }
        let file = draft.finish().unwrap();
        (fs_err::read(&path).unwrap(), file)
    }

    #[test]
    fn zeros_get_no_block_where_holes_are_kept() {
        use std::os::unix::fs::MetadataExt;
        let pieces = [b"begin".to_vec(), vec![0; 1_000_000], b"middle".to_vec(), vec![0; 500_000]];
        let (content, file) = written(&pieces, true);
        assert_eq!(content, pieces.concat());
        assert!(file.metadata().unwrap().blocks() * 512 <= 16 * 1024);
        let (content, file) = written(&pieces, false);
        assert_eq!(content, pieces.concat());
        assert!(file.metadata().unwrap().blocks() * 512 >= 1_500_000);
    }

    #[test]
    fn given_buffers_and_taken_bytes_come_out_in_order() {
        for keeps_holes in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("draft");
            let file = fs_err::File::create_new(&path).unwrap().into_parts().0;
            let (mut draft, mut wanted) = (Draft::new(file, keeps_holes), Vec::new());
            for number in 0..40u8 {
                let mut buffer = draft.buffer();
                let len = BUFFER - 1000 * usize::from(number);
                buffer[..len].fill(number);
                wanted.extend_from_slice(&buffer[..len]);
                draft.give(buffer, len).unwrap();
                draft.take(b"between").unwrap();
                wanted.extend_from_slice(b"between");
            }
            draft.finish().unwrap();
            assert!(fs_err::read(&path).unwrap() == wanted);
        }
    }

    #[test]
    fn an_error_of_the_writer_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("draft");
        fs_err::write(&path, "").unwrap();
        // A file that cannot be written to.
        let mut draft = Draft::new(fs_err::File::open(&path).unwrap().into_parts().0, false);
        let mut given = Ok(());
        for _ in 0..100 {
            let buffer = draft.buffer();
            given = draft.give(buffer, 10);
            if given.is_err() {
                break;
            }
        }
        assert!(given.is_err() || draft.finish().is_err());
    }

    proptest! {
        #[test]
        fn any_pieces_come_out_as_they_went_in(
            pieces in proptest::collection::vec((0usize..9000, any::<bool>()), 0..8),
            keeps_holes: bool,
        ) {
            let pieces: Vec<Vec<u8>> =
                pieces.iter().map(|(len, zeros)| vec![u8::from(!zeros); *len]).collect();
            prop_assert_eq!(written(&pieces, keeps_holes).0, pieces.concat());
        }
    }
}
