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

use super::{errno::errno, storage::Storage};
use crate::lines::locked;

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

/// The file system. Inode numbers are those of the files behind it, but for the root.
pub(crate) struct Tree {
    storage: Arc<Storage>,
    disguise: Disguise,
    places: Mutex<HashMap<u64, PathBuf>>,
    open: Mutex<Handles>,
}

#[derive(Default)]
struct Handles {
    next: u64,
    /// With the inode number of each.
    files: HashMap<u64, (u64, Arc<std::fs::File>)>,
}

type Result<T> = std::result::Result<T, Errno>;

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn failed(error: io::Error) -> Errno {
    errno(&error)
}

impl Tree {
    pub(crate) fn new(storage: Arc<Storage>, disguise: Disguise) -> Self {
        let places = HashMap::from([(INodeNo::ROOT.0, storage.root.clone())]);
        Self { storage, disguise, places: Mutex::new(places), open: Mutex::default() }
    }

    fn path(&self, ino: INodeNo) -> Result<PathBuf> {
        locked(&self.places).get(&ino.0).cloned().ok_or(Errno::ENOENT)
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> Result<PathBuf> {
        Ok(self.path(parent)?.join(name))
    }

    fn attributes(&self, path: &Path) -> Result<FileAttr> {
        let metadata = path.symlink_metadata().map_err(failed)?;
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

    /// Takes note of a file that the kernel will ask about by number.
    fn entry(&self, path: PathBuf) -> Result<FileAttr> {
        let attributes = self.attributes(&path)?;
        locked(&self.places).insert(attributes.ino.0, path);
        Ok(attributes)
    }

    fn hold(&self, ino: u64, file: std::fs::File) -> FileHandle {
        let mut open = locked(&self.open);
        open.next += 1;
        let number = open.next;
        open.files.insert(number, (ino, Arc::new(file)));
        FileHandle(number)
    }

    fn held(&self, handle: FileHandle) -> Result<Arc<std::fs::File>> {
        locked(&self.open).files.get(&handle.0).map(|(_, file)| Arc::clone(file)).ok_or(Errno::EBADF)
    }

    /// Any open handle of a file; not every kernel says by which one it asks.
    fn held_by_number(&self, ino: INodeNo) -> Option<Arc<std::fs::File>> {
        locked(&self.open).files.values().find(|(other, _)| *other == ino.0).map(|(_, file)| Arc::clone(file))
    }

    /// A name is gone; what is still open is found by its handle.
    fn forget_path(&self, path: &Path) {
        locked(&self.places).retain(|_, place| place != path);
    }

    fn open_path(path: &Path) -> Result<std::fs::File> {
        // Both ways for every handle: the kernel has checked what the caller may.
        std::fs::OpenOptions::new().read(true).write(true).open(path).map_err(failed)
    }

    fn make_file(&self, parent: INodeNo, name: &OsStr, mode: u32) -> Result<(FileAttr, std::fs::File)> {
        let path = self.child(parent, name)?;
        let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(&path);
        let file = file.map_err(failed)?;
        Ok((self.entry(path)?, file))
    }

    fn change(
        &self,
        ino: INodeNo,
        mode: Option<u32>,
        size: Option<u64>,
        handle: Option<FileHandle>,
    ) -> Result<FileAttr> {
        let file = handle.and_then(|handle| self.held(handle).ok());
        if let Some(size) = size {
            let file = file
                .as_ref()
                .map_or_else(|| Self::open_path(&self.path(ino)?).map(Arc::new), |file| Ok(Arc::clone(file)))?;
            self.storage.resize(&file, size).map_err(failed)?;
        }
        if let Some(mode) = mode {
            let permissions = std::fs::Permissions::from_mode(mode & 0o7777);
            std::fs::set_permissions(self.path(ino)?, permissions).map_err(failed)?;
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
        self.storage.rename(from, to).map_err(failed)?;
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
        let file = handle.and_then(|handle| self.held(handle).ok());
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
        let gone = self.child(parent, name).and_then(|path| {
            self.storage.remove(&path).map_err(failed)?;
            self.forget_path(&path);
            Ok(())
        });
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
        let file = self.path(ino).and_then(|path| Self::open_path(&path));
        // Past the page cache, so that mount and edge see the same bytes.
        answer!(reply, file, file => reply.opened(self.hold(ino.0, file), FopenFlags::FOPEN_DIRECT_IO));
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
            reply.created(&KEEP, &attributes, Generation(0), self.hold(attributes.ino.0, file), FopenFlags::FOPEN_DIRECT_IO);
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
        let data = self.held(handle).and_then(|file| Storage::read(&file, offset, size).map_err(failed));
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
        let written = self.held(handle).and_then(|file| self.storage.write(&file, offset, data));
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
        let synced = self.held(handle).and_then(|file| file.sync_all().map_err(failed));
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
