//! Changes below a root: every path is opened part by part, no link is followed, nothing outside can be reached.

use std::{
    ffi::CString,
    fs::File,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chmodat,
        chownat, fchmod, fstat, linkat, mkdirat, openat, renameat, renameat_with, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
    process::geteuid,
};

use crate::tree::{Digest, Root, Status, Time, Xattr, is_temporary, status_at, write_xattrs};

/// The directory that is being changed. Paths are relative to it, in bytes.
#[derive(Debug)]
pub(super) struct Ground<'a> {
    root: &'a Root,
    /// The directory used last: neighbours are changed one after the other.
    opened: Option<(Vec<u8>, OwnedFd)>,
}

impl<'a> Ground<'a> {
    /// Works below this root.
    pub(super) fn new(root: &'a Root) -> Self {
        Self { root, opened: None }
    }

    /// The root.
    pub(super) fn root(&self) -> &'a Root {
        self.root
    }

    fn open<'p>(&mut self, path: &'p [u8]) -> io::Result<(&OwnedFd, &'p [u8])> {
        let (parent, name) = split(path);
        if self.opened.as_ref().is_none_or(|(opened, _)| opened != parent) {
            self.opened = None;
            self.opened = Some((parent.to_vec(), self.root.open_directory(parent)?));
        }
        match &self.opened {
            Some((_, fd)) => Ok((fd, name)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// A new file for writing, readable by its owner only. An error when there is anything at the path.
    pub(super) fn create_file(&mut self, path: &[u8]) -> io::Result<File> {
        let (directory, name) = self.open(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(openat(directory, name, flags, Mode::from_raw_mode(0o600))?))
    }

    /// A new directory that only its owner can use.
    pub(super) fn create_directory(&mut self, path: &[u8]) -> io::Result<()> {
        let (directory, name) = self.open(path)?;
        Ok(mkdirat(directory, name, Mode::RWXU)?)
    }

    /// A new symbolic link.
    pub(super) fn create_symlink(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> {
        let target = CString::new(target)?;
        let (directory, name) = self.open(path)?;
        Ok(symlinkat(target.as_c_str(), directory, name)?)
    }

    /// A second name for a file.
    pub(super) fn link(&mut self, from: &[u8], to: &[u8]) -> io::Result<()> {
        let (parent, from_name) = split(from);
        let from_directory = self.root.open_directory(parent)?;
        let (directory, name) = self.open(to)?;
        Ok(linkat(&from_directory, from_name, directory, name, AtFlags::empty())?)
    }

    /// A second name for a file below another root.
    pub(super) fn link_from(&mut self, root: &Root, from: &[u8], to: &[u8]) -> io::Result<()> {
        let (parent, from_name) = split(from);
        let from_directory = root.open_directory(parent)?;
        let (directory, name) = self.open(to)?;
        Ok(linkat(&from_directory, from_name, directory, name, AtFlags::empty())?)
    }

    /// Moves something from below another root on the same file system.
    pub(super) fn rename_from(&mut self, root: &Root, from: &[u8], to: &[u8]) -> io::Result<()> {
        let (parent, from_name) = split(from);
        let from_directory = root.open_directory(parent)?;
        let (directory, name) = self.open(to)?;
        Ok(renameat(&from_directory, from_name, directory, name)?)
    }

    /// A file for reading.
    pub(super) fn read(&self, path: &[u8]) -> io::Result<File> {
        self.root.open_file(path).map(File::from)
    }

    /// Gives what is at `from` the name of `to` in the same directory, over what is there.
    pub(super) fn rename(&mut self, from: &[u8], to: &[u8]) -> io::Result<()> {
        let (directory, name) = self.open(from)?;
        Ok(renameat(directory, name, directory, split(to).1)?)
    }

    /// Swaps two names of one directory. Where the file system cannot, what was at `to` is moved away first, so for
    /// a moment nothing is there.
    pub(super) fn exchange(&mut self, from: &[u8], to: &[u8]) -> io::Result<()> {
        let (directory, name) = self.open(from)?;
        let other = split(to).1;
        match renameat_with(directory, name, directory, other, RenameFlags::EXCHANGE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                let aside = temporary_name();
                renameat(directory, other, directory, &*aside)?;
                renameat(directory, name, directory, other)?;
                Ok(renameat(directory, &*aside, directory, name)?)
            }
            result => Ok(result?),
        }
    }

    /// Removes a name, of a directory only when it is empty.
    pub(super) fn remove(&mut self, path: &[u8], is_directory: bool) -> io::Result<()> {
        if is_directory {
            // It may be the one that is held open.
            self.opened = None;
        }
        let (directory, name) = self.open(path)?;
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        Ok(unlinkat(directory, name, flags)?)
    }

    /// Stat of what is at a path.
    pub(super) fn status(&mut self, path: &[u8]) -> io::Result<Status> {
        let (directory, name) = self.open(path)?;
        status_at(directory, name)
    }

    /// Changes owner and group where given.
    pub(super) fn set_owner(&mut self, path: &[u8], uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let (directory, name) = self.open(path)?;
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        Ok(chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Changes the permission bits of a file or directory; anything else there is an error.
    pub(super) fn set_mode(&mut self, path: &[u8], mode: u32) -> io::Result<()> {
        let (directory, name) = self.open(path)?;
        let mode = Mode::from_raw_mode(mode);
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match openat(directory, name, OFlags::RDONLY | flags, Mode::empty()) {
            Ok(fd) => Ok(fchmod(fd, mode)?),
            // Not readable, so not to be opened: its name below /proc leads to this very inode.
            Err(Errno::ACCESS) => {
                let fd = openat(directory, name, OFlags::PATH | flags, Mode::empty())?;
                let kind = FileType::from_raw_mode(fstat(&fd)?.st_mode);
                if !matches!(kind, FileType::RegularFile | FileType::Directory) {
                    return Err(io::Error::other("something else is there now"));
                }
                let magic = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
                Ok(chmodat(CWD, magic, mode, AtFlags::empty())?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes extended attributes those of a file or directory that is going to have these permission bits. For an
    /// ordinary user it has to be writable meanwhile.
    pub(super) fn set_xattrs(&mut self, path: &[u8], mode: u32, xattrs: &[Xattr]) -> io::Result<()> {
        if mode & 0o600 != 0o600 && !geteuid().is_root() {
            self.set_mode(path, mode | 0o600)?;
        }
        let (directory, name) = self.open(path)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        write_xattrs(openat(directory, name, flags, Mode::empty())?, xattrs)
    }

    /// Changes the time of last modification.
    pub(super) fn set_time(&mut self, path: &[u8], mtime: Time) -> io::Result<()> {
        let (directory, name) = self.open(path)?;
        Ok(utimensat(directory, name, &timestamps(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Removes what is at a path with all that is in it. What is not there is no error.
    pub(super) fn remove_tree(&mut self, path: &[u8]) -> io::Result<()> {
        self.opened = None;
        // Directories in the order in which they were found; emptied from the last to the first.
        let mut directories = Vec::new();
        match self.status(path) {
            Ok(status) if status.file_type == FileType::Directory => directories.push(path.to_vec()),
            Ok(_) => return self.remove(path, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut next = 0;
        while let Some(directory) = directories.get(next).cloned() {
            self.empty(&directory, &mut directories)?;
            next += 1;
        }
        directories.iter().rev().try_for_each(|directory| self.remove(directory, true))
    }

    /// Removes the names in a directory that are no directories; adds those that are to `directories`.
    fn empty(&mut self, path: &[u8], directories: &mut Vec<Vec<u8>>) -> io::Result<()> {
        let mut fd = self.root.open_directory(path);
        if fd.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            self.set_mode(path, 0o700)?;
            fd = self.root.open_directory(path);
        }
        let fd = fd?;
        if fstat(&fd)?.st_mode & 0o300 != 0o300 {
            fchmod(&fd, Mode::RWXU)?;
        }
        let mut buffer = Vec::with_capacity(8192);
        let mut names = Vec::new();
        let mut entries = RawDir::new(fd.as_fd(), buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_bytes().to_vec());
            }
        }
        for name in names {
            if status_at(&fd, &name)?.file_type == FileType::Directory {
                directories.push([path, &b"/"[..], name.as_slice()].concat());
            } else {
                unlinkat(&fd, name, AtFlags::empty())?;
            }
        }
        Ok(())
    }
}

/// Times for a file that was modified then; the time of access stays.
pub(super) fn timestamps(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
    }
}

/// Directory and name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    path.iter().rposition(|byte| *byte == b'/').map_or((&[], path), |at| (&path[..at], &path[at + 1..]))
}

/// A path beside another one, for what is not finished. Nobody can guess it.
pub(super) fn temporary_beside(path: &[u8]) -> Vec<u8> {
    let (parent, _) = split(path);
    let name = temporary_name();
    debug_assert!(is_temporary(name.as_bytes()));
    if parent.is_empty() { name.into_bytes() } else { [parent, &b"/"[..], name.as_bytes()].concat() }
}

/// The same for a file: half of the name stands for the content, so that the next run finds what a run that was cut off
/// had of it.
pub(super) fn temporary_for(path: &[u8], content: &Digest) -> Vec<u8> {
    let mut temporary = temporary_beside(path);
    let at = temporary.len() - "0123456789abcdef.tmp".len();
    temporary[at..at + 8].copy_from_slice(&content.to_string().as_bytes()[..8]);
    temporary
}

fn temporary_name() -> String {
    // The standard library seeds this with random bytes of the operating system.
    format!(".ovs-cuisine.{:016x}.tmp", RandomState::new().build_hasher().finish())
}
