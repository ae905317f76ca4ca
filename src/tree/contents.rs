//! All content that hosts may demand, and the answers to their demands.

use std::{
    collections::{HashMap, hash_map},
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread::JoinHandle,
};

use rustix::fs::fstat;

use super::{
    ChunkId, Demand, Digest, Entry, EntryKind, Old, Part, SourceTree, Status, Supply, Versions, WHOLE_UP_TO, Want,
    answer::Answer,
    delta::{Delta, Origin, Said, SayError},
    hash::digest_of,
    shown,
    units::{Made, SharedUnits, Unit, answer_units, units},
};

/// Bytes of a file read at once.
const READ: usize = 64 * 1024;

/// Content by digest: files of source trees, single files, and bytes in memory. Nothing else can be demanded.
#[derive(Debug, Default, Clone)]
pub struct Contents {
    stored: HashMap<Digest, Stored>,
    trees: Vec<Offered>,
    versions: Option<Arc<Versions>>,
    /// What is being kept while it is sent.
    keeping: Arc<Mutex<HashMap<Digest, JoinHandle<()>>>>,
    /// New contents, and the old versions from which they were made: those may be damaged.
    based: Arc<Mutex<HashMap<Digest, Digest>>>,
    shared: Option<Arc<SharedUnits>>,
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
    fn entry(&self, digest: &Digest) -> Option<&Entry> {
        let entries = self.tree.manifest().entries();
        let places = self.places.get_or_init(|| {
            let place = |(index, entry): (usize, &Entry)| match &entry.kind {
                EntryKind::File { digest, .. } => Some((*digest, index)),
                _ => None,
            };
            entries.iter().enumerate().filter_map(place).collect()
        });
        entries.get(*places.get(digest)?)
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
        self.add_known(digest, bytes.into());
        digest
    }

    /// Adds bytes that are kept in memory and have this digest.
    pub fn add_known(&mut self, digest: Digest, bytes: Arc<[u8]>) {
        self.stored.entry(digest).or_insert(Stored::Bytes(bytes));
    }

    /// Adds a file by path; reads it once. Gives digest and length in bytes.
    pub fn add_file(&mut self, path: &Path) -> io::Result<(Digest, u64)> {
        let mut file = fs_err::File::open(path)?;
        let (digest, size) = digest_of(&mut file, &mut vec![0; READ])?;
        self.stored.entry(digest).or_insert_with(|| Stored::File(path.to_path_buf()));
        Ok((digest, size))
    }

    /// A store without contents that keeps and uses the same versions.
    #[must_use]
    pub fn emptied(&self) -> Self {
        let (versions, keeping) = (self.versions.clone(), Arc::clone(&self.keeping));
        Self { versions, keeping, based: Arc::clone(&self.based), shared: self.shared.clone(), ..Self::default() }
    }

    /// Keeps large contents that were pushed, and makes use of those that are kept.
    pub fn use_versions(&mut self, versions: Versions) {
        self.versions = Some(Arc::new(versions));
    }

    /// Shares what is compressed among all who demand the same: for runs on several hosts.
    pub fn share(&mut self) {
        self.shared = Some(Arc::default());
    }

    /// Answers a demand: gives the messages to `out` one by one. Blocks on reading files and on `out`, whose error ends
    /// the answer. Needs little memory whatever the size of the contents; much of them is compressed on several threads.
    ///
    /// A content that is not here, or whose file is no longer what it was, is answered by [`Supply::Gone`].
    pub fn answer(&self, demand: &Demand, out: &mut dyn FnMut(Supply) -> io::Result<()>) -> io::Result<()> {
        answer_units(&units(&demand.wants), &|unit| self.made(unit), &mut |unit, out| self.say(unit, out), out)
    }

    /// The messages of a unit, made at most once at a time for all who share them.
    fn made(&self, unit: &Unit<'_>) -> io::Result<Made> {
        match &self.shared {
            Some(shared) => shared.made(unit, || self.make(unit)),
            None => self.make(unit),
        }
    }

    fn make(&self, unit: &Unit<'_>) -> io::Result<Made> {
        let mut messages = Vec::new();
        self.say(unit, &mut |message| {
            messages.push(message);
            Ok(())
        })?;
        Ok(messages.into())
    }

    /// Says a unit; ends its frame of the stream.
    fn say(&self, unit: &Unit<'_>, out: &mut dyn FnMut(Supply) -> io::Result<()>) -> io::Result<()> {
        let mut answer = Answer::new(out);
        match unit {
            Unit::Wants(wants) => {
                for want in *wants {
                    match self.supply(want, &mut answer)? {
                        Ok(end) => answer.say(end)?,
                        Err(why) => answer.say(Supply::Gone { why })?,
                    }
                }
            }
            Unit::Segment { want, offset, len } => match self.segment(want, *offset, *len) {
                Ok(bytes) => {
                    answer.literal(&bytes)?;
                    if offset + len == want.size {
                        answer.say(Supply::End)?;
                    }
                }
                Err(why) => answer.say(Supply::Gone { why })?,
            },
        }
        answer.finish()
    }

    /// A part of a long content. That it is part of the right one, the host finds out when it has the whole; here only
    /// a file that was touched since is noticed.
    fn segment(&self, want: &Want, offset: u64, len: u64) -> Result<Vec<u8>, String> {
        let (origin, name) = self.origin(&want.digest)?;
        if offset == 0 {
            self.keep_in_background(want, &origin);
        }
        let changed = || format!("{name} changed since it was scanned");
        if !self.is_untouched(want, &origin) {
            return Err(changed());
        }
        match origin.bytes_at(offset, len) {
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(changed()),
            Err(error) => Err(format!("cannot read {name}: {error}")),
        }
    }

    /// Whether a file still looks as it did when it was scanned.
    fn is_untouched(&self, want: &Want, origin: &Origin) -> bool {
        let Origin::File(file) = origin else { return true };
        let Ok(status) = fstat(file).map(Status::from) else { return false };
        let known = self.trees.iter().find_map(|offered| offered.entry(&want.digest));
        status.size == want.size && known.is_none_or(|entry| entry.mtime == status.mtime)
    }

    /// Supplies one content; gives what ends it. The inner error says why it is gone; the outer one ends the answer.
    fn supply(&self, want: &Want, answer: &mut Answer<'_>) -> io::Result<Result<Supply, String>> {
        let (origin, name) = match self.origin(&want.digest) {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        if want.size <= WHOLE_UP_TO || want.old == Old::Nothing {
            return self.supply_whole(want, &origin, &name, answer);
        }
        match &want.old {
            Old::Nothing => self.supply_whole(want, &origin, &name, answer),
            Old::Version { digest, size } => self.supply_patches(want, (digest, *size), &origin, &name, answer),
            Old::Chunks { whole, parts } => {
                self.suspect_base(&want.digest);
                self.supply_chunks(want, (whole, parts), &origin, &name, answer)
            }
        }
    }

    /// Supplies what an old version that is kept here has not.
    fn supply_patches(
        &self,
        want: &Want,
        (old, old_size): (&Digest, u64),
        origin: &Origin,
        name: &str,
        answer: &mut Answer<'_>,
    ) -> io::Result<Result<Supply, String>> {
        let Some(version) = self.versions.as_ref().and_then(|versions| versions.find(old, old_size)) else {
            return Ok(Ok(Supply::Unknown));
        };
        // A file that has changed since leads to another content, which the host notices and asks for anew.
        self.keep_in_background(want, origin);
        self.based.lock().unwrap_or_else(PoisonError::into_inner).insert(want.digest, *old);
        // Patches are said while the rest is still being compared: the host is at work meanwhile.
        let compared = Delta::align(origin, want.size, &version.content, &version.chunks, |delta, index| {
            delta.say_patch(index, origin, &version.content, answer)
        });
        match compared {
            Ok(_) => Ok(Ok(Supply::End)),
            Err(error) => said(error, name),
        }
    }

    /// Supplies what is not among the chunks that the host told of its old version.
    fn supply_chunks(
        &self,
        want: &Want,
        (whole, parts): (&[ChunkId], &[Part]),
        origin: &Origin,
        name: &str,
        answer: &mut Answer<'_>,
    ) -> io::Result<Result<Supply, String>> {
        // A file that has grown since still begins with what was scanned.
        let reader = origin.reader().take(want.size);
        let cut = match Delta::find(reader, whole) {
            Ok(cut) => cut,
            Err(error) => return said(SayError::Read(error), name),
        };
        if cut.digest != want.digest {
            return Ok(Err(format!("{name} changed since it was scanned")));
        }
        let to_cut = if parts.is_empty() { cut.delta.parts_to_cut(whole) } else { Vec::new() };
        if !to_cut.is_empty() {
            return Ok(Ok(Supply::Finer { parts: to_cut }));
        }
        self.keep_in_background(want, origin);
        match cut.delta.say_literals(origin, parts, answer) {
            Ok(()) => Ok(Ok(Supply::End)),
            Err(error) => said(error, name),
        }
    }

    /// A host that could do nothing with a patched content may have been given one that was made from a damaged version.
    fn suspect_base(&self, digest: &Digest) {
        let old = self.based.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
        if let Some((old, versions)) = old.zip(self.versions.clone()) {
            let mut keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
            keeping.entry(old).or_insert_with(|| std::thread::spawn(move || versions.check(&old)));
        }
    }

    /// A content and its name for people; the error says why it cannot be had.
    fn origin(&self, digest: &Digest) -> Result<(Origin, String), String> {
        let (file, name) = match self.stored.get(digest) {
            Some(Stored::Bytes(bytes)) => return Ok((Origin::Bytes(Arc::clone(bytes)), "memory".to_owned())),
            Some(Stored::File(path)) => (fs_err::File::open(path).map(|file| file.into_parts().0), path.clone()),
            None => {
                let in_tree = |offered: &Offered| {
                    let (root, path) = (offered.tree.root(), &offered.entry(digest)?.path);
                    Some((root.open_file(path.as_bytes()).map(File::from), root.path_of(path.as_bytes())))
                };
                let missing = || format!("content {} is not part of this run", digest.short());
                self.trees.iter().find_map(in_tree).ok_or_else(missing)?
            }
        };
        let name = format!("`{}`", shown(&name));
        match file {
            Ok(file) => Ok((Origin::File(file), name)),
            Err(error) => Err(format!("cannot read {name}: {error}")),
        }
    }

    fn supply_whole(
        &self,
        want: &Want,
        origin: &Origin,
        name: &str,
        answer: &mut Answer<'_>,
    ) -> io::Result<Result<Supply, String>> {
        self.keep_in_background(want, origin);
        let mut reader = origin.reader().take(want.size);
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; READ];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&buffer[..count]);
                    answer.literal(&buffer[..count])?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(format!("cannot read {name}: {error}"))),
            }
        }
        if Digest::from(hasher.finalize()) == want.digest {
            return Ok(Ok(Supply::End));
        }
        Ok(Err(format!("{name} changed since it was scanned")))
    }

    /// Keeps a large content for the next push, while it is being sent. A file that changes meanwhile is kept wrongly,
    /// which the host notices when it is used.
    fn keep_in_background(&self, want: &Want, origin: &Origin) {
        let (Some(versions), Origin::File(file)) = (&self.versions, origin) else { return };
        if !Versions::takes(want.size) {
            return;
        }
        let mut keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let (hash_map::Entry::Vacant(place), Ok(file)) = (keeping.entry(want.digest), file.try_clone()) else { return };
        let (versions, digest, size) = (Arc::clone(versions), want.digest, want.size);
        place.insert(std::thread::spawn(move || versions.keep(&digest, &file, size)));
    }

    /// Waits until all that is being kept is kept.
    pub fn finish_keeping(&self) {
        let keeping = std::mem::take(&mut *self.keeping.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in keeping.into_values() {
            // A panic there has said itself what is wrong, and costs the cache only.
            let _ = thread.join();
        }
    }
}

/// What an answer that could not be said to its end comes to.
fn said(error: SayError, name: &str) -> io::Result<Result<Supply, String>> {
    match error {
        SayError::Out(error) => Err(error),
        SayError::Read(error) => Ok(Err(format!("cannot read {name}: {error}"))),
        // Part of it may have been said already; the host begins anew.
        SayError::Old => Ok(Ok(Supply::Unknown)),
    }
}
