//! The mount: what the kernel asks of a file system, answered with the files of the storage.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::{errno::errno, remote, storage::Storage, volumes::Volumes};
use crate::{lines::locked, log};

/// Nothing is kept by the kernel: the edge changes the same files.
const KEEP: Duration = Duration::ZERO;
const BLOCK: u32 = 4096;
const LONGEST_NAME: u32 = 255;

/// Whose the files seem to be, from `-o uid=`, `gid=` and `umask=`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Disguise {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) umask: Option<u32>,
}

/// The file system. Inode numbers are those of the files behind it, but for the root and for volumes of other nodes.
pub(crate) struct Tree {
    storage: Arc<Storage>,
    volumes: Arc<Volumes>,
    disguise: Disguise,
    places: Mutex<HashMap<u64, PathBuf>>,
    open: Mutex<Handles>,
}

#[derive(Default)]
struct Handles {
    next: u64,
    /// With the inode number of each.
    files: HashMap<u64, (u64, Held)>,
}

/// What a handle stands for.
#[derive(Clone)]
enum Held {
    Here(Arc<std::fs::File>),
    /// The volume of this name, at another node.
    Elsewhere(String),
}

type Result<T> = std::result::Result<T, Errno>;

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn failed(error: io::Error) -> Errno {
    errno(&error)
}

impl Tree {
    pub(crate) fn new(volumes: Arc<Volumes>, disguise: Disguise) -> Self {
        let storage = Arc::clone(&volumes.storage);
        let places = HashMap::from([(INodeNo::ROOT.0, storage.root.clone())]);
        Self { storage, volumes, disguise, places: Mutex::new(places), open: Mutex::default() }
    }

    fn path(&self, ino: INodeNo) -> Result<PathBuf> {
        locked(&self.places).get(&ino.0).cloned().ok_or(Errno::ENOENT)
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> Result<PathBuf> {
        Ok(self.path(parent)?.join(name))
    }

    fn attributes(&self, path: &Path) -> Result<FileAttr> {
        let metadata = match (path.symlink_metadata(), self.volumes.name_of(path)) {
            (Err(error), Some(name)) if error.kind() == io::ErrorKind::NotFound => return self.of_volume(&name),
            (metadata, _) => metadata.map_err(failed)?,
        };
        let mut attributes = self.of_metadata(&metadata);
        if path == self.storage.root {
            attributes.ino = INodeNo::ROOT;
        }
        Ok(attributes)
    }

    fn of_metadata(&self, metadata: &std::fs::Metadata) -> FileAttr {
        let kind = if metadata.is_dir() { FileType::Directory } else { FileType::RegularFile };
        // As libfuse does it: with a umask the mode is what the umask leaves of all.
        let mode = self.disguise.umask.map_or(metadata.mode(), |umask| 0o777 & !umask);
        let time = |time: io::Result<SystemTime>| time.unwrap_or(SystemTime::UNIX_EPOCH);
        FileAttr {
            ino: INodeNo(metadata.ino()),
            size: metadata.size(),
            blocks: metadata.blocks(),
            atime: time(metadata.accessed()),
            mtime: time(metadata.modified()),
            ctime: time(metadata.modified()),
            crtime: SystemTime::UNIX_EPOCH,
            kind,
            perm: u16::try_from(mode & 0o7777).unwrap_or(0o600),
            nlink: u32::try_from(metadata.nlink()).unwrap_or(1),
            uid: self.disguise.uid.unwrap_or(metadata.uid()),
            gid: self.disguise.gid.unwrap_or(metadata.gid()),
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        }
    }

    /// What the node that has a volume says of it.
    fn of_volume(&self, name: &str) -> Result<FileAttr> {
        let told = remote::stat(&self.volumes, name)?;
        let mode = self.disguise.umask.map_or(told.mode, |umask| 0o777 & !umask);
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(told.mtime);
        Ok(FileAttr {
            ino: INodeNo(remote::number(name)),
            size: told.size,
            blocks: told.blocks,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: SystemTime::UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm: u16::try_from(mode & 0o7777).unwrap_or(0o600),
            nlink: 1,
            uid: self.disguise.uid.unwrap_or(0),
            gid: self.disguise.gid.unwrap_or(0),
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        })
    }

    /// Takes note of a file that the kernel will ask about by number.
    fn entry(&self, path: PathBuf) -> Result<FileAttr> {
        let attributes = self.attributes(&path)?;
        locked(&self.places).insert(attributes.ino.0, path);
        Ok(attributes)
    }

    fn hold(&self, ino: u64, held: Held) -> FileHandle {
        let mut open = locked(&self.open);
        open.next += 1;
        let number = open.next;
        open.files.insert(number, (ino, held));
        FileHandle(number)
    }

    fn held(&self, handle: FileHandle) -> Result<Held> {
        locked(&self.open).files.get(&handle.0).map(|(_, held)| held.clone()).ok_or(Errno::EBADF)
    }

    /// The open file of a handle, when it is of this node.
    fn held_here(&self, handle: Option<FileHandle>) -> Option<Arc<std::fs::File>> {
        match self.held(handle?) {
            Ok(Held::Here(file)) => Some(file),
            _ => None,
        }
    }

    /// Any open handle of a file; not every kernel says by which one it asks.
    fn held_by_number(&self, ino: INodeNo) -> Option<Arc<std::fs::File>> {
        locked(&self.open).files.values().find_map(|(other, held)| match held {
            Held::Here(file) if *other == ino.0 => Some(Arc::clone(file)),
            _ => None,
        })
    }

    /// A name is gone; what is still open is found by its handle.
    fn forget_path(&self, path: &Path) {
        locked(&self.places).retain(|_, place| place != path);
    }

    /// Opens what a number stands for, here or elsewhere.
    fn open_number(&self, ino: INodeNo) -> Result<Held> {
        let path = self.path(ino)?;
        match self.volumes.name_of(&path) {
            Some(name) if !path.exists() => remote::stat(&self.volumes, &name).map(|_| Held::Elsewhere(name)),
            _ => Self::open_path(&path).map(|file| Held::Here(Arc::new(file))),
        }
    }

    fn open_path(path: &Path) -> Result<std::fs::File> {
        // Both ways for every handle: the kernel has checked what the caller may.
        std::fs::OpenOptions::new().read(true).write(true).open(path).map_err(failed)
    }

    fn make_file(&self, parent: INodeNo, name: &OsStr, mode: u32) -> Result<(FileAttr, std::fs::File)> {
        let path = self.child(parent, name)?;
        self.claim(&path)?;
        let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(&path);
        let file = file.map_err(failed)?;
        Ok((self.entry(path)?, file))
    }

    /// A path that is a volume's becomes this node's, unless another one has it.
    fn claim(&self, path: &Path) -> Result<()> {
        let Some(name) = self.volumes.name_of(path) else { return Ok(()) };
        match self.volumes.claim(&name) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Errno::EEXIST),
            Err(error) => {
                log::warning(&error);
                Err(Errno::EIO)
            }
        }
    }

    /// A path that was a volume's is nobody's.
    fn release(&self, path: &Path) -> Result<()> {
        let Some(name) = self.volumes.name_of(path) else { return Ok(()) };
        self.volumes.release(&name).map_err(|error| {
            log::warning(&error);
            Errno::EIO
        })
    }

    fn remove(&self, path: &Path) -> Result<()> {
        match self.volumes.name_of(path) {
            Some(name) if !path.exists() => remote::remove(&self.volumes, &name)?,
            _ => {
                self.storage.remove(path).map_err(failed)?;
                self.release(path)?;
            }
        }
        self.forget_path(path);
        Ok(())
    }

    fn change(
        &self,
        ino: INodeNo,
        mode: Option<u32>,
        size: Option<u64>,
        handle: Option<FileHandle>,
    ) -> Result<FileAttr> {
        let file = self.held_here(handle);
        if let Some(size) = size {
            match file.clone().map_or_else(|| self.open_number(ino), |file| Ok(Held::Here(file)))? {
                Held::Here(file) => self.storage.resize(&file, size).map_err(failed)?,
                Held::Elsewhere(name) => remote::resize(&self.volumes, &name, size)?,
            }
        }
        if let Some(mode) = mode {
            let path = self.path(ino)?;
            // A volume of another node looks as its own mount says.
            if path.exists() {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode & 0o7777)).map_err(failed)?;
            }
        }
        self.look(ino, file.as_deref())
    }

    /// An open file is looked at by its handle: it may have no name any more.
    fn look(&self, ino: INodeNo, file: Option<&std::fs::File>) -> Result<FileAttr> {
        let by_number = self.held_by_number(ino);
        match file.or(by_number.as_deref()) {
            Some(file) => Ok(self.of_metadata(&file.metadata().map_err(failed)?)),
            None => self.attributes(&self.path(ino)?),
        }
    }

    fn move_entry(&self, from: &Path, to: &Path) -> Result<()> {
        // The registry has no step that renames; the stand-in does it for the volumes of its own node.
        if !from.exists() {
            return Err(Errno::EOPNOTSUPP);
        }
        self.claim(to)?;
        self.storage.rename(from, to).map_err(failed)?;
        self.release(from)?;
        self.forget_path(to);
        // Everything below a directory has moved with it.
        for place in locked(&self.places).values_mut() {
            if let Ok(below) = place.strip_prefix(from) {
                *place = if below.as_os_str().is_empty() { to.to_owned() } else { to.join(below) };
            }
        }
        Ok(())
    }

    fn names(&self, ino: INodeNo) -> Result<Vec<(u64, FileType, std::ffi::OsString)>> {
        let path = self.path(ino)?;
        let mut names = vec![
            (ino.0, FileType::Directory, ".".into()),
            // The kernel finds the parent by itself.
            (ino.0, FileType::Directory, "..".into()),
        ];
        for entry in path.read_dir().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let metadata = entry.metadata().map_err(failed)?;
            let kind = if metadata.is_dir() { FileType::Directory } else { FileType::RegularFile };
            names.push((metadata.ino(), kind, entry.file_name()));
        }
        if ino == INodeNo::ROOT {
            let others = self.volumes.elsewhere().map_err(|error| {
                log::warning(&error);
                Errno::EIO
            })?;
            names.extend(others.into_iter().map(|name| {
                let file = format!("{name}{}", self.storage.suffix);
                (remote::number(&name), FileType::RegularFile, file.into())
            }));
        }
        Ok(names)
    }
}

/// Hands a result to the kernel.
macro_rules! answer {
    ($reply:expr, $result:expr, $value:pat => $done:expr) => {
        match $result {
            Ok($value) => $done,
            Err(error) => $reply.error(error),
        }
    };
}

impl Filesystem for Tree {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.child(parent, name).and_then(|path| self.entry(path));
        answer!(reply, found, attributes => reply.entry(&KEEP, &attributes, Generation(0)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let file = self.held_here(handle);
        answer!(reply, self.look(ino, file.as_deref()), attributes => reply.attr(&KEEP, &attributes));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        answer!(reply, self.change(ino, mode, size, handle), attributes => reply.attr(&KEEP, &attributes));
    }

    fn mknod(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _rdev: u32, reply: ReplyEntry) {
        let new = self.make_file(parent, name, mode & !umask);
        answer!(reply, new, (attributes, _) => reply.entry(&KEEP, &attributes, Generation(0)));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let new = self.child(parent, name).and_then(|path| {
            std::fs::DirBuilder::new().mode(mode & !umask).create(&path).map_err(failed)?;
            self.entry(path)
        });
        answer!(reply, new, attributes => reply.entry(&KEEP, &attributes, Generation(0)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let gone = self.child(parent, name).and_then(|path| self.remove(&path));
        answer!(reply, gone, () => reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let gone =
            self.child(parent, name).and_then(|path| rustix::fs::rmdir(path).map_err(|error| failed(error.into())));
        answer!(reply, gone, () => reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let paths = self.child(parent, name).and_then(|from| Ok((from, self.child(newparent, newname)?)));
        let moved = paths.and_then(|(from, to)| match flags {
            flags if flags.is_empty() => self.move_entry(&from, &to),
            RenameFlags::RENAME_NOREPLACE if to.exists() => Err(Errno::EEXIST),
            RenameFlags::RENAME_NOREPLACE => self.move_entry(&from, &to),
            _ => Err(Errno::EINVAL),
        });
        answer!(reply, moved, () => reply.ok());
    }

    fn open(&self, _: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Past the page cache, so that mount and edge see the same bytes.
        answer!(reply, self.open_number(ino), held => reply.opened(self.hold(ino.0, held), FopenFlags::FOPEN_DIRECT_IO));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        answer!(reply, self.make_file(parent, name, mode & !umask), (attributes, file) => {
            let handle = self.hold(attributes.ino.0, Held::Here(Arc::new(file)));
            reply.created(&KEEP, &attributes, Generation(0), handle, FopenFlags::FOPEN_DIRECT_IO);
        });
    }

    fn read(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let size = usize::try_from(size).unwrap_or(0);
        let data = self.held(handle).and_then(|held| match held {
            Held::Here(file) => Storage::read(&file, offset, size).map_err(failed),
            Held::Elsewhere(name) => remote::read(&self.volumes, &name, offset, size),
        });
        answer!(reply, data, data => reply.data(&data));
    }

    fn write(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.held(handle).and_then(|held| match held {
            Held::Here(file) => self.storage.write(&file, offset, data),
            Held::Elsewhere(name) => remote::write(&self.volumes, &name, offset, data),
        });
        answer!(reply, written, () => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)));
    }

    fn flush(&self, _: &Request, _ino: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        locked(&self.open).files.remove(&handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _ino: INodeNo, handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let synced = self.held(handle).and_then(|held| match held {
            Held::Here(file) => file.sync_all().map_err(failed),
            // The node that has it wrote it before it answered.
            Held::Elsewhere(_) => Ok(()),
        });
        answer!(reply, synced, () => reply.ok());
    }

    fn fsyncdir(&self, _: &Request, _ino: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        answer!(reply, self.names(ino), names => {
            let skip = usize::try_from(offset).unwrap_or(usize::MAX);
            for (place, (ino, kind, name)) in names.into_iter().enumerate().skip(skip) {
                if reply.add(INodeNo(ino), place as u64 + 1, kind, name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn statfs(&self, _: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let (whole, used) = self.storage.usage();
        let block = u64::from(BLOCK);
        let free = whole.saturating_sub(used) / block;
        reply.statfs(whole / block, free, free, 0, 0, BLOCK, LONGEST_NAME, BLOCK);
    }
}
