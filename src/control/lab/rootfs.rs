//! Packs a root file system on the way to the engine, without a copy of it anywhere.

use std::{
    io::{self, Read, Write},
    os::unix::fs::FileTypeExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::Stream;
use tokio::{sync::mpsc, task::JoinHandle};

/// Bytes in one piece.
const PIECE: usize = 256 * 1024;
/// Pieces on their way to the engine: 2 MiB, so memory stays small whatever the size of the tree.
const PIECES_IN_FLIGHT: usize = 8;

/// What these directories hold belongs to the running machine, not to its root file system.
const RUNTIME: [&str; 4] = ["proc", "sys", "dev", "run"];

/// The task that packs.
pub(super) struct Packing {
    task: JoinHandle<io::Result<()>>,
    sent: Sent,
}

/// Counts what was handed to the engine.
#[derive(Clone, Default)]
pub(super) struct Sent(Arc<AtomicU64>);

impl Sent {
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Packing {
    pub(super) fn sent(&self) -> Sent {
        self.sent.clone()
    }

    /// Whether everything could be read. An engine that hung up is not a failure of reading.
    pub(super) async fn result(self) -> io::Result<()> {
        match self.task.await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Ok(result) => result,
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// A directory as a tar archive, or a file as it is, in pieces.
pub(super) fn archive(path: &Path) -> io::Result<(impl Stream<Item = io::Result<Bytes>> + Send + 'static, Packing)> {
    let is_directory = fs_err::metadata(path)?.is_dir();
    let (pieces, mut inbox) = mpsc::channel(PIECES_IN_FLIGHT);
    let sent = Sent::default();
    let path = path.to_owned();
    let writer = PieceWriter { pieces: pieces.clone(), sent: sent.clone() };
    let task = tokio::task::spawn_blocking(move || {
        let result = if is_directory { pack(&path, writer) } else { copy(&path, writer) };
        if let Err(error) = &result {
            // Without this the engine would take half an archive for a whole one.
            let _ = pieces.blocking_send(Err(io::Error::new(error.kind(), error.to_string())));
        }
        result
    });
    Ok((futures::stream::poll_fn(move |context| inbox.poll_recv(context)), Packing { task, sent }))
}

fn copy(path: &Path, mut to: PieceWriter) -> io::Result<()> {
    let mut file = fs_err::File::open(path)?;
    let mut buffer = vec![0; PIECE];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            read => to.write_all(&buffer[..read])?,
        }
    }
}

fn pack(root: &Path, to: PieceWriter) -> io::Result<()> {
    let mut tar = tar::Builder::new(io::BufWriter::with_capacity(PIECE, to));
    tar.follow_symlinks(false);
    append(&mut tar, root, Path::new(""))?;
    tar.into_inner()?.flush()
}

fn append<W: Write>(tar: &mut tar::Builder<W>, root: &Path, inside: &Path) -> io::Result<()> {
    let mut entries: Vec<_> = fs_err::read_dir(root.join(inside))?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs_err::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        let inside = inside.join(entry.file_name());
        // A socket means nothing without the process behind it.
        if kind.is_socket() {
            continue;
        }
        tar.append_path_with_name(entry.path(), &inside)?;
        let is_runtime = RUNTIME.iter().any(|name| inside == Path::new(name));
        if kind.is_dir() && !is_runtime {
            append(tar, root, &inside)?;
        }
    }
    Ok(())
}

struct PieceWriter {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    sent: Sent,
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.pieces.blocking_send(Ok(piece)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        self.sent.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use futures::StreamExt as _;

    use super::*;

    async fn packed(path: &Path) -> Vec<u8> {
        let (stream, packing) = archive(path).unwrap();
        let pieces: Vec<_> = stream.collect().await;
        packing.result().await.unwrap();
        pieces.into_iter().flat_map(|piece| piece.unwrap().to_vec()).collect()
    }

    #[tokio::test]
    async fn a_directory_is_packed_without_what_the_machine_put_there() {
        let root = tempfile::tempdir().unwrap();
        for directory in ["etc", "proc/1", "dev"] {
            fs_err::create_dir_all(root.path().join(directory)).unwrap();
        }
        fs_err::write(root.path().join("etc/name"), "x".repeat(PIECE + 1)).unwrap();
        fs_err::write(root.path().join("proc/1/status"), "no").unwrap();
        symlink("/nowhere", root.path().join("etc/link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.path().join("etc/socket")).unwrap();
        let archive = packed(root.path()).await;
        let mut tar = tar::Archive::new(&archive[..]);
        let names: Vec<String> =
            tar.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names, ["dev", "etc", "etc/link", "etc/name", "proc"]);
    }

    #[tokio::test]
    async fn an_archive_is_sent_as_it_is_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("root.tar");
        let content = vec![7; 3 * PIECE + 5];
        fs_err::write(&path, &content).unwrap();
        let (stream, packing) = archive(&path).unwrap();
        let sent = packing.sent();
        let pieces: Vec<_> = stream.collect().await;
        assert_eq!(pieces.into_iter().map(|piece| piece.unwrap().len()).sum::<usize>(), content.len());
        assert_eq!(sent.bytes(), content.len() as u64);
        packing.result().await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_path_is_an_error_that_names_it() {
        let error = archive(Path::new("/nowhere/root")).map(drop).unwrap_err();
        assert!(error.to_string().contains("/nowhere/root"), "{error}");
    }
}
