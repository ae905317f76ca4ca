//! Extended attributes of files and directories on disk.

use std::{io, os::fd::AsFd};

use rustix::{
    fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr},
    io::Errno,
};

use super::{EntryKind, RelPath, Root, Xattr, is_carried};

/// Names and values are seldom longer, in bytes.
const USUAL: usize = 512;
/// Longest list of names and longest value in bytes (`XATTR_LIST_MAX` and `XATTR_SIZE_MAX` of Linux).
const LONGEST: usize = 64 * 1024;

/// The attributes of an open file or directory that travel, ordered by name. None on a file system that has none.
pub(super) fn read_xattrs(fd: impl AsFd) -> io::Result<Vec<Xattr>> {
    let names = match sized(|buffer| flistxattr(&fd, buffer)) {
        Ok(names) => names,
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut xattrs = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| is_carried(name)) {
        match sized(|buffer| fgetxattr(&fd, name, buffer)) {
            Ok(value) => xattrs.push(Xattr { name: name.to_vec(), value }),
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}

/// What an entry below a root has of them: nothing unless it is a file or a directory. Those of a file with several
/// names are told with the first.
pub fn xattrs_at(root: &Root, path: &RelPath, kind: &EntryKind) -> io::Result<Vec<Xattr>> {
    let read = match kind {
        EntryKind::File { .. } => root.open_file(path.as_bytes()).and_then(read_xattrs),
        EntryKind::Dir { .. } => root.open_directory(path.as_bytes()).and_then(read_xattrs),
        EntryKind::Symlink { .. } | EntryKind::HardLink { .. } => Ok(Vec::new()),
    };
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

/// Makes the attributes that travel equal to these; the others stay.
pub fn write_xattrs(fd: impl AsFd, wanted: &[Xattr]) -> io::Result<()> {
    let now = read_xattrs(&fd)?;
    for xattr in now.iter().filter(|xattr| !wanted.iter().any(|wanted| wanted.name == xattr.name)) {
        fremovexattr(&fd, xattr.name.as_slice())?;
    }
    for xattr in wanted.iter().filter(|xattr| !now.contains(xattr)) {
        fsetxattr(&fd, xattr.name.as_slice(), &xattr.value, XattrFlags::empty())?;
    }
    Ok(())
}

/// Reads with a buffer that is long enough for most, and again with one that is for all.
fn sized(ask: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; USUAL];
    let len = match ask(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(LONGEST, 0);
            ask(&mut buffer)?
        }
        result => result?,
    };
    buffer.truncate(len);
    Ok(buffer)
}
