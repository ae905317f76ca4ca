//! A file that is being written and has not its own name yet.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    thread::{self, JoinHandle},
};

use rustix::fs::fdatasync;

/// Unit in which holes are kept, in bytes: the block size of the usual file systems.
const BLOCK: usize = 4096;
/// So many bytes are on their way to the disk before the next ones are: waiting for all of them at the end would take
/// longer.
const FLUSH_AFTER: u64 = 16 * 1024 * 1024;
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
}

impl Draft {
    /// Writes to this file, which is empty.
    pub(super) fn new(file: File, keeps_holes: bool) -> Self {
        Self { file, at: 0, keeps_holes, flushed: 0, flush: None }
    }

    /// The file, with the length that was written.
    pub(super) fn finish(mut self) -> io::Result<File> {
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

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // At most up to the next border of a block, so that a whole block of zeros is seen as one; and as far beyond as
        // it goes on alike.
        let into = usize::try_from(self.at % BLOCK as u64).unwrap_or_default();
        let mut end = bytes.len().min(BLOCK - into);
        let is_hole = |part: &[u8]| part == &ZEROS[..part.len()];
        let leaves_hole = self.keeps_holes && is_hole(&bytes[..end]);
        while end < bytes.len() {
            let next = bytes.len().min(end + BLOCK);
            if self.keeps_holes && is_hole(&bytes[end..next]) != leaves_hole {
                break;
            }
            end = next;
        }
        if !leaves_hole {
            self.file.write_all_at(&bytes[..end], self.at)?;
        }
        self.at += end as u64;
        self.flush_early()?;
        Ok(end)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
            draft.write_all(piece).unwrap();
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
