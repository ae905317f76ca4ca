//! An opened directory that nothing below can lead out of.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, statat},
    io::Errno,
};

use super::{Time, index::IndexKey};

/// How often an open is tried again when directories are being renamed meanwhile (`EAGAIN` of openat2).
const RENAME_RACES: u32 = 8;
/// Shorter files are not looked at for holes.
const SHORTEST_WITH_HOLES: u64 = 8 * 1024;

/// A directory, held open. It may itself be reached through links; below it no link is ever followed, so whatever is
/// planted or swapped there, nothing outside is read or written.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
    /// False once the kernel (before 5.6) or a sandbox has refused openat2.
    has_openat2: AtomicBool,
}

/// What stat tells of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Kind of the entry.
    pub file_type: FileType,
    /// Permission bits, at most `0o7777`.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Device number of the file system.
    pub dev: u64,
    /// Number of the inode.
    pub ino: u64,
    /// Whether this is the only name of the inode.
    pub is_only_name: bool,
    /// Whether it has fewer blocks than its length needs.
    pub has_holes: bool,
    /// Last modification of the content.
    pub mtime: Time,
    /// Last change of content or attributes; nobody can set it.
    pub ctime: Time,
}

impl From<Stat> for Status {
    fn from(stat: Stat) -> Self {
        let time = |secs: i64, nanos: u64| Time { secs, nanos: u32::try_from(nanos).unwrap_or_default() };
        Self {
            file_type: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            dev: stat.st_dev,
            ino: stat.st_ino,
            is_only_name: stat.st_nlink == 1,
            has_holes: has_holes(&stat),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// Short files may have no block of their own because their content lies in the inode.
fn has_holes(stat: &Stat) -> bool {
    let (size, blocks) = (u64::try_from(stat.st_size).unwrap_or_default(), u64::try_from(stat.st_blocks));
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    is_file && size >= SHORTEST_WITH_HOLES && blocks.unwrap_or_default().saturating_mul(512) < size
}

impl Status {
    /// What an index remembers content by: another content has another key.
    pub fn key(&self) -> IndexKey {
        IndexKey { dev: self.dev, ino: self.ino, size: self.size, mtime: self.mtime, ctime: self.ctime }
    }
}

impl Root {
    /// Opens a directory, following links.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, path, flags, Mode::empty())?;
        Ok(Self { fd, path: path.to_path_buf(), has_openat2: AtomicBool::new(true) })
    }

    /// A directory below as a root of its own.
    pub fn below(&self, relative: &[u8]) -> io::Result<Self> {
        let fd = self.open_directory(relative)?;
        let has_openat2 = AtomicBool::new(self.has_openat2.load(Ordering::Relaxed));
        Ok(Self { fd, path: self.path_of(relative), has_openat2 })
    }

    /// The path by which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of something below, for messages.
    pub fn path_of(&self, relative: &[u8]) -> PathBuf {
        if relative.is_empty() { self.path.clone() } else { self.path.join(OsStr::from_bytes(relative)) }
    }

    /// The directory itself.
    pub fn status(&self) -> io::Result<Status> {
        Ok(fstat(&self.fd)?.into())
    }

    /// Opens a directory below for listing and changing; no bytes stand for the root itself.
    pub fn open_directory(&self, relative: &[u8]) -> io::Result<OwnedFd> {
        self.open_below(relative, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Opens a file below for reading. Does not wait for a writer when it is a pipe.
    pub fn open_file(&self, relative: &[u8]) -> io::Result<OwnedFd> {
        self.open_below(relative, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
    }

    fn open_below(&self, relative: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let path = if relative.is_empty() { &b"."[..] } else { relative };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..RENAME_RACES {
            if !self.has_openat2.load(Ordering::Relaxed) {
                break;
            }
            match openat2(&self.fd, path, flags, Mode::empty(), resolve) {
                Ok(fd) => return Ok(fd),
                Err(Errno::AGAIN | Errno::INTR) => {}
                // Old kernels know no openat2; sandboxes refuse what they do not know with EPERM.
                Err(Errno::NOSYS | Errno::PERM) => self.has_openat2.store(false, Ordering::Relaxed),
                Err(error) => return Err(error.into()),
            }
        }
        open_by_parts(self.fd.as_fd(), path, flags)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What openat2 does, by hand: opens part after part and follows no link.
fn open_by_parts(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory: Option<OwnedFd> = None;
    let mut parts = path.split(|byte| *byte == b'/').peekable();
    while let Some(part) = parts.next() {
        let from = directory.as_ref().map_or(root, AsFd::as_fd);
        let is_last = parts.peek().is_none();
        let fd = openat(from, part, if is_last { flags } else { step }, Mode::empty())?;
        if is_last {
            return Ok(fd);
        }
        directory = Some(fd);
    }
    Err(io::ErrorKind::InvalidInput.into())
}

/// Stat of a name in a directory, not following a link.
pub fn status_at(directory: impl AsFd, name: &[u8]) -> io::Result<Status> {
    Ok(statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?.into())
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::fs::symlink};

    use super::*;

    fn content(fd: OwnedFd) -> String {
        let mut text = String::new();
        std::fs::File::from(fd).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn no_link_below_is_followed_with_or_without_openat2() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        fs_err::create_dir_all(real.join("a/b")).unwrap();
        fs_err::write(real.join("a/b/f"), "inside").unwrap();
        fs_err::write(dir.path().join("secret"), "outside").unwrap();
        symlink("..", real.join("up")).unwrap();
        symlink("b/f", real.join("a/file")).unwrap();
        symlink("a", real.join("same")).unwrap();
        symlink("real", dir.path().join("door")).unwrap();
        for has_openat2 in [true, false] {
            let root = Root::open(&dir.path().join("door")).unwrap();
            root.has_openat2.store(has_openat2, Ordering::Relaxed);
            assert_eq!(content(root.open_file(b"a/b/f").unwrap()), "inside");
            for path in ["up/secret", "../secret", "a/file", "same/b/f", "up"] {
                assert!(root.open_file(path.as_bytes()).is_err() || path == "../secret", "{path}");
            }
            assert!(root.open_directory(b"up").is_err());
            assert!(root.open_directory(b"same").is_err());
            assert!(root.open_directory(b"").is_ok());
        }
    }
}
