//! All content that hosts may demand, and the answers to their demands.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use zstd::stream::write::Encoder;

use super::{
    ChunkId, Demand, Digest, Entry, EntryKind, MAX_LITERAL, RelPath, SourceTree, Supply, WHOLE_UP_TO, Want,
    chunk::chunks, hash::digest_of,
};

/// Compression level of literals: higher ones cost more time than a link of 1 Gbit/s gives back.
const ZSTD_LEVEL: i32 = 3;
/// So many bytes are compressed before the stream is flushed: one zstd block. Flushing more often costs size.
const FLUSH_AFTER: usize = 128 * 1024;
/// So many messages may wait for a flush.
const MAX_PENDING: usize = 4096;
/// Bytes of a file read at once.
const READ: usize = 64 * 1024;

/// Content by digest: files of source trees, single files, and bytes in memory. Nothing else can be demanded.
#[derive(Debug, Default, Clone)]
pub struct Contents {
    stored: HashMap<Digest, Stored>,
    trees: Vec<Offered>,
}

#[derive(Debug, Clone)]
enum Stored {
    File(PathBuf),
    Bytes(Arc<[u8]>),
}

/// A tree whose files may be demanded.
#[derive(Debug, Clone)]
struct Offered {
    tree: SourceTree,
    /// Where in the manifest each content is; made when the first one is demanded.
    places: Arc<OnceLock<HashMap<Digest, usize>>>,
}

impl Offered {
    /// A file with this content.
    fn path(&self, digest: &Digest) -> Option<&RelPath> {
        let entries = self.tree.manifest().entries();
        let places = self.places.get_or_init(|| {
            let place = |(index, entry): (usize, &Entry)| match &entry.kind {
                EntryKind::File { digest, .. } => Some((*digest, index)),
                _ => None,
            };
            entries.iter().enumerate().filter_map(place).collect()
        });
        entries.get(*places.get(digest)?).map(|entry| &entry.path)
    }
}

impl Contents {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tree's manifest and files.
    pub fn add_tree(&mut self, tree: &SourceTree) {
        let manifest = Stored::Bytes(Arc::clone(tree.manifest_bytes()));
        self.stored.entry(tree.summary().manifest).or_insert(manifest);
        self.trees.push(Offered { tree: tree.clone(), places: Arc::default() });
    }

    /// Adds bytes that are kept in memory; gives their digest.
    pub fn add_bytes(&mut self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.stored.entry(digest).or_insert_with(|| Stored::Bytes(bytes.into()));
        digest
    }

    /// Adds a file by path; reads it once. Gives digest and length in bytes.
    pub fn add_file(&mut self, path: &Path) -> io::Result<(Digest, u64)> {
        let mut file = fs_err::File::open(path)?;
        let (digest, size) = digest_of(&mut file, &mut vec![0; READ])?;
        self.stored.entry(digest).or_insert_with(|| Stored::File(path.to_path_buf()));
        Ok((digest, size))
    }

    /// Answers a demand: gives the messages to `out` one by one. Blocks on reading files and on `out`, whose error ends
    /// the answer. Needs little memory whatever the size of the contents.
    ///
    /// A content that is not here, or whose file is no longer what it was, is answered by [`Supply::Gone`].
    pub fn answer(&self, demand: &Demand, out: &mut dyn FnMut(Supply) -> io::Result<()>) -> io::Result<()> {
        let mut answer = Answer::new(out)?;
        for want in &demand.wants {
            match self.supply(want, &mut answer)? {
                Ok(()) => answer.say(Supply::End)?,
                Err(why) => answer.say(Supply::Gone { why })?,
            }
        }
        answer.flush()
    }

    /// Supplies one content. The inner error says why it is gone; the outer one ends the answer.
    fn supply(&self, want: &Want, answer: &mut Answer<'_>) -> io::Result<Result<(), String>> {
        let (mut reader, name): (Box<dyn Read + '_>, String) = match self.stored.get(&want.digest) {
            Some(Stored::Bytes(bytes)) => (Box::new(&**bytes), "memory".to_owned()),
            None => {
                let in_tree =
                    |offered: &Offered| Some((Arc::clone(offered.tree.root()), offered.path(&want.digest)?.clone()));
                let Some((root, path)) = self.trees.iter().find_map(in_tree) else {
                    return Ok(Err(format!("content {} is not part of this run", want.digest.short())));
                };
                let name = format!("`{}`", root.path_of(path.as_bytes()).display());
                match root.open_file(path.as_bytes()) {
                    Ok(fd) => (Box::new(File::from(fd)), name),
                    Err(error) => return Ok(Err(format!("cannot read {name}: {error}"))),
                }
            }
            Some(Stored::File(path)) => match fs_err::File::open(path) {
                Ok(file) => (Box::new(file), format!("`{}`", path.display())),
                Err(error) => return Ok(Err(format!("cannot read `{}`: {error}", path.display()))),
            },
        };
        // One byte more than wanted, so that growth shows, and a file that grows for ever ends.
        let mut source = Source::new(reader.by_ref().take(want.size.saturating_add(1)));
        let sent = if want.basis.is_empty() || want.size <= WHOLE_UP_TO {
            source.send_whole(answer)
        } else {
            source.send_delta(&want.basis, answer)
        };
        match sent {
            Ok(()) if Digest::from(source.hasher.finalize()) == want.digest => Ok(Ok(())),
            Ok(()) => Ok(Err(format!("{name} changed since it was scanned"))),
            Err(SendError::Out(error)) => Err(error),
            Err(SendError::Read(error)) => Ok(Err(format!("cannot read {name}: {error}"))),
        }
    }
}

enum SendError {
    Read(io::Error),
    Out(io::Error),
}

/// A content being read; hashes what it gives.
struct Source<R> {
    reader: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Source<R> {
    fn new(reader: R) -> Self {
        Self { reader, hasher: blake3::Hasher::new() }
    }

    fn send_whole(&mut self, answer: &mut Answer<'_>) -> Result<(), SendError> {
        let mut buffer = vec![0; READ];
        loop {
            let count = match self.reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(SendError::Read(error)),
            };
            self.hasher.update(&buffer[..count]);
            answer.literal(&buffer[..count]).map_err(SendError::Out)?;
        }
    }

    fn send_delta(&mut self, basis: &[ChunkId], answer: &mut Answer<'_>) -> Result<(), SendError> {
        let mut places: HashMap<ChunkId, u32> = HashMap::with_capacity(basis.len());
        for (place, id) in (0..).zip(basis) {
            places.entry(*id).or_insert(place);
        }
        // Where the far side's old version goes on; equal chunks in a row become one message.
        let mut expected = 0u32;
        for chunk in chunks(&mut self.reader) {
            let chunk = chunk.map_err(SendError::Read)?;
            self.hasher.update(&chunk.data);
            let follows = basis.get(expected as usize) == Some(&chunk.id);
            let place = if follows { Some(expected) } else { places.get(&chunk.id).copied() };
            match place {
                Some(first) => {
                    answer.say(Supply::Copy { first, count: 1 }).map_err(SendError::Out)?;
                    expected = first + 1;
                }
                None => answer.literal(&chunk.data).map_err(SendError::Out)?,
            }
        }
        Ok(())
    }
}

/// Collects messages and the compressed stream, and lets go of both together: what a message announces has always
/// been sent before it.
struct Answer<'a> {
    out: &'a mut dyn FnMut(Supply) -> io::Result<()>,
    zstd: Encoder<'static, Vec<u8>>,
    pending: VecDeque<Supply>,
    unflushed: usize,
}

impl<'a> Answer<'a> {
    fn new(out: &'a mut dyn FnMut(Supply) -> io::Result<()>) -> io::Result<Self> {
        let zstd = Encoder::new(Vec::new(), ZSTD_LEVEL)?;
        Ok(Self { out, zstd, pending: VecDeque::new(), unflushed: 0 })
    }

    fn literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.zstd.write_all(bytes)?;
        self.unflushed += bytes.len();
        self.say(Supply::Take(bytes.len() as u64))
    }

    /// Queues a message, joined with the one before it where they continue each other.
    fn say(&mut self, message: Supply) -> io::Result<()> {
        match (self.pending.back_mut(), &message) {
            (Some(Supply::Take(before)), Supply::Take(more)) => *before += more,
            (Some(Supply::Copy { first, count }), Supply::Copy { first: next, count: more })
                if first.checked_add(*count) == Some(*next) =>
            {
                *count += more;
            }
            _ => self.pending.push_back(message),
        }
        if self.unflushed >= FLUSH_AFTER || self.pending.len() >= MAX_PENDING { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.unflushed > 0 {
            self.zstd.flush()?;
            self.unflushed = 0;
            let stream = std::mem::take(self.zstd.get_mut());
            for part in stream.chunks(MAX_LITERAL) {
                (self.out)(Supply::Literal(part.to_vec()))?;
            }
        }
        self.pending.drain(..).try_for_each(&mut self.out)
    }
}
