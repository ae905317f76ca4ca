//! Makes all that is new under names of its own, content verified and attributes set, before anything is switched.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs::File,
    io::{self, Read},
};

use rustix::{
    fs::{Gid, Mode, Uid, fchmod, fchown, fstat, fsync, futimens, syncfs},
    process::{getegid, geteuid},
};

use super::{
    TreeChange,
    draft::Draft,
    fetch::{OldFile, Received, Reception},
    ground::{Ground, timestamps},
    salvage::Salvage,
    sink::Sink,
    state::{Found, owner_fits},
    work::Stage,
};
use crate::{
    helper::failure::io_failure,
    plan::OpFailure,
    tree::{Digest, Entry, EntryKind, Old, RelPath, Root, Status, Supplier, WHOLE_UP_TO, Want, write_xattrs},
};

/// Up to so many files are flushed to disk one by one; for more, the whole file system is flushed once, which is
/// cheaper then.
const FEW_FILES: usize = 32;
/// Most contents asked for at once: some 700 KB of message.
const MAX_WANTS: usize = 16 * 1024;
/// Most chunks of old files proposed at once: 5 MB of message.
const MAX_CHUNKS: usize = 256 * 1024;
/// What to do where files cannot have several names.
const NO_HARD_LINKS: &str = "make the names separate files in the source, or sync to a file system that has hard links";
/// Buffer for copying in bytes.
const BUFFER: usize = 128 * 1024;

/// Makes what is new. All paths are those of [`Stage::at`].
pub(super) struct Staging<'a> {
    change: &'a TreeChange,
    ground: Ground<'a>,
    flush_each: bool,
    /// Where this run has made a content already.
    made: HashMap<Digest, &'a [u8]>,
    /// What runs that were cut off had made.
    salvage: Option<Salvage<'a>>,
}

/// A file that is to be made.
#[derive(Clone, Copy)]
struct NewFile<'a> {
    stage: &'a Stage,
    entry: &'a Entry,
    size: u64,
    digest: Digest,
    mode: u32,
}

/// A file to be fetched, and what the near side is told of its old version.
struct Ask<'a> {
    new: NewFile<'a>,
    old: Option<OldFile>,
    tell: Old,
}

impl<'a> Ask<'a> {
    fn whole(new: NewFile<'a>) -> Self {
        Self { new, old: None, tell: Old::Nothing }
    }

    /// How many chunks the near side is told.
    fn chunks(&self) -> usize {
        match &self.tell {
            Old::Nothing | Old::Version { .. } => 0,
            Old::Chunks { whole, parts } => whole.len() + parts.iter().map(|part| part.chunks.len()).sum::<usize>(),
        }
    }

    /// How to ask when the near side could do nothing with what it was told: each time with more, in the end for the
    /// whole.
    fn other_way(self, received: Received) -> Self {
        let Self { new, old, tell } = self;
        let Some(old) = old else { return Self::whole(new) };
        let more = match (tell, received) {
            (Old::Version { .. }, _) => old.chunks(),
            (Old::Chunks { whole, parts }, Received::Finer(wanted)) if parts.is_empty() => old.finer(whole, &wanted),
            _ => return Self::whole(new),
        };
        match more {
            Ok(tell) => Self { new, old: Some(old), tell },
            Err(_) => Self::whole(new),
        }
    }
}

impl<'a> Staging<'a> {
    pub(super) fn new(change: &'a TreeChange, ground: Ground<'a>) -> Self {
        let flush_each = change.work.stages.len() <= FEW_FILES;
        Self { change, ground, flush_each, made: HashMap::new(), salvage: None }
    }

    /// Makes everything. Until this has succeeded nothing that was there before is touched.
    pub(super) fn run(&mut self, supplier: &mut dyn Supplier) -> Result<(), OpFailure> {
        let change = self.change;
        let (mut files, mut names) = (Vec::new(), Vec::new());
        for stage in &change.work.stages {
            let entry = &change.wanted[stage.entry];
            match &entry.kind {
                EntryKind::Dir { .. } => {
                    let made = self.ground.create_directory(&stage.at);
                    made.map_err(|error| self.failure("create", entry, &error))?;
                }
                EntryKind::Symlink { target } => {
                    let made = self.make_symlink(stage, entry, target);
                    made.map_err(|error| self.failure("create link", entry, &error))?;
                }
                EntryKind::File { size, digest, mode } => {
                    files.push(NewFile { stage, entry, size: *size, digest: *digest, mode: *mode });
                }
                EntryKind::HardLink { to } => names.push((stage, entry, to)),
            }
        }
        let places: HashMap<&RelPath, &[u8]> =
            files.iter().map(|new| (&new.entry.path, new.stage.at.as_slice())).collect();
        self.salvage = self.look_for_salvage(&files);
        let lacking = self.take_local(files)?;
        let lacking = self.take_sent(lacking, supplier)?;
        self.fetch(lacking, supplier)?;
        for (stage, entry, to) in names {
            let from = places.get(to).copied().unwrap_or(to.as_bytes());
            let made = self.ground.link(from, &stage.at);
            made.map_err(|error| self.failure("make another name of a file at", entry, &error).hint(NO_HARD_LINKS))?;
        }
        self.finish_directories()?;
        if !self.flush_each {
            let root = self.ground.root();
            syncfs(root).map_err(|error| io_failure("flush", root.path().display(), &error.into()))?;
        }
        Ok(())
    }

    fn look_for_salvage(&self, files: &[NewFile<'a>]) -> Option<Salvage<'a>> {
        let change = self.change;
        let (root, paths) = match &change.left {
            Some(left) => (&left.root, &left.paths),
            None => (self.ground.root(), &change.state.leftovers),
        };
        let wanted: Vec<_> = files.iter().map(|new| (new.stage.at.as_slice(), new.digest, new.size)).collect();
        (!paths.is_empty()).then(|| Salvage::look(root, paths, &wanted, change.uid))
    }

    fn failure(&self, doing: &str, entry: &Entry, error: &io::Error) -> OpFailure {
        io_failure(doing, self.change.path_of(entry.path.as_bytes()), error)
    }

    fn make_symlink(&mut self, stage: &Stage, entry: &Entry, target: &[u8]) -> io::Result<()> {
        self.ground.create_symlink(&stage.at, target)?;
        self.own(&stage.at)?;
        self.ground.set_time(&stage.at, entry.mtime)
    }

    /// Gives an entry the owner asked for, when it has another.
    fn own(&mut self, at: &[u8]) -> io::Result<()> {
        let (uid, gid) = (self.change.uid, self.change.gid);
        if (uid.is_some() || gid.is_some()) && !owner_fits(&self.ground.status(at)?, uid, gid) {
            self.ground.set_owner(at, uid, gid)?;
        }
        Ok(())
    }

    /// Makes what needs nothing from the near side: empty files, and files whose content is here already. Gives the
    /// rest.
    fn take_local(&mut self, files: Vec<NewFile<'a>>) -> Result<Vec<NewFile<'a>>, OpFailure> {
        let change = self.change;
        let mut here: HashMap<Digest, Vec<&Found>> = HashMap::new();
        for found in &change.state.found {
            if let Some(EntryKind::File { digest, .. }) = &found.kind {
                here.entry(*digest).or_default().push(found);
            }
        }
        let mut taken = HashSet::new();
        let mut given: HashMap<Digest, Vec<&Found>> = HashMap::new();
        for found in change.donor.iter().flat_map(|donor| &donor.found) {
            if let Some(EntryKind::File { digest, .. }) = &found.kind {
                given.entry(*digest).or_default().push(found);
            }
        }
        let mut going = change.going();
        let mut lacking = Vec::new();
        for file in files {
            let sources = here.get(&file.digest).map_or(&[][..], Vec::as_slice);
            let gifts = given.get(&file.digest).map_or(&[][..], Vec::as_slice);
            let is_made = self.link_gift(file, gifts, &mut taken)
                || file.size == 0 && self.make_empty(file)?
                || self.link_one(file, sources, &mut going)
                || self.take_salvage(file)?
                || self.copy_one(file, sources)?
                || self.copy_gift(file, gifts)?;
            if !is_made {
                lacking.push(file);
            }
        }
        Ok(lacking)
    }

    /// Makes what came ahead of the plan. Gives the rest.
    fn take_sent(
        &mut self,
        files: Vec<NewFile<'a>>,
        supplier: &mut dyn Supplier,
    ) -> Result<Vec<NewFile<'a>>, OpFailure> {
        let Some(larder) = supplier.larder() else { return Ok(files) };
        let mut lacking = Vec::new();
        for new in files {
            let Some(content) = larder.content(&new.digest).filter(|content| content.len() as u64 == new.size) else {
                lacking.push(new);
                continue;
            };
            let mut draft = self.create(new)?;
            draft.take(content).map_err(|error| self.failure("write", new.entry, &error))?;
            self.finish(draft, new)?;
        }
        Ok(lacking)
    }

    fn make_empty(&mut self, new: NewFile<'a>) -> Result<bool, OpFailure> {
        if new.digest != Digest::of(b"") {
            return Ok(false);
        }
        let draft = self.create(new)?;
        self.finish(draft, new)?;
        Ok(true)
    }

    /// Takes over what a run that was cut off had made.
    fn take_salvage(&mut self, new: NewFile<'a>) -> Result<bool, OpFailure> {
        let Some(salvage) = &mut self.salvage else { return Ok(false) };
        let Some(file) = salvage.take(&new.digest, &mut self.ground, &new.stage.at) else { return Ok(false) };
        self.set_attributes(&file, new)?;
        self.made.insert(new.digest, &new.stage.at);
        Ok(true)
    }

    /// Takes over a file that is about to lose its name, by a second name. Only one new file may have it, or two would
    /// share later changes. What goes wrong here is no failure: a copy does as well.
    fn link_one(&mut self, new: NewFile<'a>, sources: &[&'a Found], going: &mut HashSet<&'a RelPath>) -> bool {
        let (uid, gid) = (self.change.uid, self.change.gid);
        let wanted = (uid.unwrap_or(geteuid().as_raw()), gid.unwrap_or(getegid().as_raw()));
        let fits =
            |status: &Status| status.is_only_name && status.mode == new.mode && (status.uid, status.gid) == wanted;
        let fits = |found: &Found| fits(&found.status) && self.has_xattrs_of(new, found);
        let Some(source) = sources.iter().find(|found| fits(found) && going.contains(&found.path)) else {
            return false;
        };
        if self.ground.link(source.path.as_bytes(), &new.stage.at).is_err() {
            return false;
        }
        let is_unchanged = self.ground.status(&new.stage.at).is_ok_and(|now| {
            let then = &source.status;
            (now.dev, now.ino, now.size, now.mtime) == (then.dev, then.ino, then.size, then.mtime)
        });
        if is_unchanged && self.ground.set_time(&new.stage.at, new.entry.mtime).is_ok() {
            going.remove(&source.path);
            return true;
        }
        // Whatever was linked is not what was scanned; without it the copy or the near side has its turn.
        let _ = self.ground.remove(&new.stage.at, false);
        false
    }

    /// Whether extended attributes are as wanted, or not part of the tree.
    fn has_xattrs_of(&self, new: NewFile<'a>, found: &Found) -> bool {
        !self.change.xattrs || found.xattrs() == new.entry.xattrs()
    }

    /// Makes a file a second name of one that is the same in everything. Only one new file may have it, or two would be
    /// one. What goes wrong here is no failure.
    fn link_gift(&mut self, new: NewFile<'a>, gifts: &[&'a Found], taken: &mut HashSet<&'a RelPath>) -> bool {
        let Some(donor) = &self.change.donor else { return false };
        let (uid, gid) = (self.change.uid, self.change.gid);
        let wanted = (uid.unwrap_or(geteuid().as_raw()), gid.unwrap_or(getegid().as_raw()));
        let fits = |status: &Status| {
            status.mode == new.mode && status.mtime == new.entry.mtime && (status.uid, status.gid) == wanted
        };
        let fits = |found: &Found| fits(&found.status) && self.has_xattrs_of(new, found);
        let mut free = gifts.iter().filter(|found| !taken.contains(&found.path) && fits(found));
        let same_path = gifts.iter().find(|found| found.path == new.entry.path && fits(found));
        let Some(gift) = same_path.filter(|found| !taken.contains(&found.path)).or_else(|| free.next()) else {
            return false;
        };
        if self.ground.link_from(&donor.root, gift.path.as_bytes(), &new.stage.at).is_err() {
            return false;
        }
        let is_unchanged = self.ground.status(&new.stage.at).is_ok_and(|now| {
            let then = &gift.status;
            (now.dev, now.ino, now.size, now.mtime, now.mode) == (then.dev, then.ino, then.size, then.mtime, then.mode)
        });
        if is_unchanged {
            taken.insert(&gift.path);
        } else {
            // Whatever was linked is not what was scanned; without it others have their turn.
            let _ = self.ground.remove(&new.stage.at, false);
        }
        is_unchanged
    }

    fn copy_gift(&mut self, new: NewFile<'a>, gifts: &[&'a Found]) -> Result<bool, OpFailure> {
        let Some(donor) = &self.change.donor else { return Ok(false) };
        for gift in gifts {
            if let Ok(from) = donor.root.open_file(gift.path.as_bytes())
                && self.copy(new, from.into())?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn copy_one(&mut self, new: NewFile<'a>, sources: &[&'a Found]) -> Result<bool, OpFailure> {
        for source in sources {
            if let Ok(from) = self.ground.read(source.path.as_bytes())
                && self.copy(new, from)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Copies a file that should have the wanted content. False, and nothing made, when it has not.
    fn copy(&mut self, new: NewFile<'a>, from: File) -> Result<bool, OpFailure> {
        let mut draft = self.create(new)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER];
        // One byte more would be too much already; a file that grows for ever must not fill the disk.
        let mut from = from.take(new.size + 1);
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            hasher.update(&buffer[..count]);
            draft.take(&buffer[..count]).map_err(|error| self.failure("write", new.entry, &error))?;
        }
        if Digest::from(hasher.finalize()) == new.digest {
            self.finish(draft, new)?;
            return Ok(true);
        }
        let removed = self.ground.remove(&new.stage.at, false);
        removed.map_err(|error| self.failure("write", new.entry, &error))?;
        Ok(false)
    }

    fn create(&mut self, new: NewFile<'a>) -> Result<Draft, OpFailure> {
        let made = self.ground.create_file(&new.stage.at);
        let file = made.map_err(|error| self.failure("create", new.entry, &error))?;
        Ok(Draft::new(file, new.entry.has_holes()))
    }

    fn finish(&self, draft: Draft, new: NewFile<'a>) -> Result<(), OpFailure> {
        let file = draft.finish().map_err(|error| self.failure("write", new.entry, &error))?;
        self.set_attributes(&file, new)
    }

    /// Owner, extended attributes, mode and time, in the order in which none undoes another; then to disk.
    fn set_attributes(&self, file: &File, new: NewFile<'a>) -> Result<(), OpFailure> {
        let finish = || -> io::Result<()> {
            let (uid, gid) = (self.change.uid, self.change.gid);
            if !owner_fits(&fstat(file)?.into(), uid, gid) {
                fchown(file, uid.map(Uid::from_raw), gid.map(Gid::from_raw))?;
            }
            if self.change.xattrs {
                write_xattrs(file, new.entry.xattrs())?;
            }
            fchmod(file, Mode::from_raw_mode(new.mode))?;
            futimens(file, &timestamps(new.entry.mtime))?;
            if self.flush_each {
                fsync(file)?;
            }
            Ok(())
        };
        finish().map_err(|error| self.failure("set the attributes of", new.entry, &error))
    }

    fn fetch(&mut self, lacking: Vec<NewFile<'a>>, supplier: &mut dyn Supplier) -> Result<(), OpFailure> {
        let mut seen = HashSet::new();
        let (first, again): (Vec<_>, Vec<_>) = lacking.into_iter().partition(|new| seen.insert(new.digest));
        let mut waiting: VecDeque<Ask<'a>> = first.into_iter().map(|new| self.ask(new)).collect();
        while !waiting.is_empty() {
            let (mut batch, mut chunks) = (Vec::new(), 0);
            while batch.len() < MAX_WANTS && chunks < MAX_CHUNKS {
                let Some(ask) = waiting.pop_front() else { break };
                chunks += ask.chunks();
                batch.push(ask);
            }
            waiting.extend(self.fetch_batch(batch, supplier)?);
        }
        for new in again {
            let from = self.made.get(&new.digest).and_then(|at| self.ground.read(at).ok());
            let is_made = match from {
                Some(from) => self.copy(new, from)?,
                None => false,
            };
            if !is_made {
                self.fetch_batch(vec![Ask::whole(new)], supplier)?;
            }
        }
        Ok(())
    }

    /// How a file is asked for: with the old version of a large one. Whatever prevents its use costs bytes only.
    fn ask(&self, new: NewFile<'a>) -> Ask<'a> {
        let change = self.change;
        let replaced = new.stage.replaces.map(|at| &change.state.found[at]);
        let replaced = replaced.and_then(|found| Some((self.ground.root(), found, change.state.content(found)?)));
        let old = replaced.or_else(|| self.given(&new.entry.path));
        let old = old.filter(|(_, _, (_, size))| (*size).min(new.size) > WHOLE_UP_TO);
        let part = self.salvage.as_ref().and_then(|salvage| salvage.part(&new.stage.at));
        // What was received of the new version already is worth more than the old one, if it is much of it.
        if let Some((file, _)) = part.filter(|(_, size)| old.is_none() || *size >= new.size / 4) {
            let part = OldFile::new(file);
            if let Ok(tell) = part.chunks() {
                return Ask { new, old: Some(part), tell };
            }
        }
        let Some((root, found, (digest, size))) = old else { return Ask::whole(new) };
        let Ok(file) = root.open_file(found.path.as_bytes()) else { return Ask::whole(new) };
        Ask { new, old: Some(OldFile::new(file.into())), tell: Old::Version { digest, size } }
    }

    /// What the donor has at a path.
    fn given(&self, path: &RelPath) -> Option<(&'a Root, &'a Found, (Digest, u64))> {
        let donor = self.change.donor.as_ref()?;
        let at = donor.found.binary_search_by(|found| found.path.cmp(path)).ok()?;
        match &donor.found[at].kind {
            Some(EntryKind::File { digest, size, .. }) => Some((&donor.root, &donor.found[at], (*digest, *size))),
            _ => None,
        }
    }

    /// Fetches contents; gives those that have to be asked for again, in another way.
    fn fetch_batch(&mut self, batch: Vec<Ask<'a>>, supplier: &mut dyn Supplier) -> Result<Vec<Ask<'a>>, OpFailure> {
        let wants = batch.iter().map(|ask| Want { digest: ask.new.digest, size: ask.new.size, old: ask.tell.clone() });
        let mut reception = Reception::open(supplier, wants.collect(), &self.change.dest)?;
        let mut again = Vec::new();
        for ask in batch {
            let new = ask.new;
            let mut draft = self.create(new)?;
            let name = self.change.path_of(new.entry.path.as_bytes());
            let received = reception.receive(new.digest, new.size, ask.old.as_ref(), &mut draft, &name)?;
            if matches!(received, Received::Whole) {
                self.finish(draft, new)?;
                self.made.insert(new.digest, &new.stage.at);
            } else {
                let removed = self.ground.remove(&new.stage.at, false);
                removed.map_err(|error| self.failure("write", new.entry, &error))?;
                again.push(ask.other_way(received));
            }
        }
        Ok(again)
    }

    /// Attributes of new directories: after all that is in them, and from the innermost outwards.
    fn finish_directories(&mut self) -> Result<(), OpFailure> {
        let change = self.change;
        for stage in change.work.stages.iter().rev() {
            let entry = &change.wanted[stage.entry];
            if let EntryKind::Dir { mode } = entry.kind {
                let xattrs = if change.xattrs { Some(entry.xattrs()) } else { None };
                let done = self
                    .own(&stage.at)
                    .and_then(|()| xattrs.map_or(Ok(()), |xattrs| self.ground.set_xattrs(&stage.at, mode, xattrs)))
                    .and_then(|()| self.ground.set_mode(&stage.at, mode))
                    .and_then(|()| self.ground.set_time(&stage.at, entry.mtime));
                done.map_err(|error| self.failure("set the attributes of", entry, &error))?;
            }
        }
        Ok(())
    }
}
