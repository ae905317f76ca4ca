//! Walks what is below a root without following a link: the scan of both sides.

use std::{
    collections::HashSet,
    io::{self, Read},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use rustix::{
    fs::{FileType, RawDir, fstat, readlinkat},
    io::Errno,
};

use super::{
    IGNORE_FILE, IgnoreRules, PathError, PatternError, RelPath, Root, Status, hash::in_parallel, index::IndexKey,
    is_temporary, printable, root::status_at, shown,
};

/// Longest ignore file in bytes.
const MAX_IGNORE_FILE: u64 = 1024 * 1024;
/// Buffer for directory entries in bytes; one system call lists a directory of usual size.
const ENTRIES_BUFFER: usize = 32 * 1024;
/// Fewer directories than this are listed without threads of their own.
const FEW_DIRECTORIES: usize = 32;
/// More threads than this gain nothing.
const MAX_THREADS: usize = 8;

/// One entry below a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where.
    pub path: RelPath,
    /// What stat says of it.
    pub status: Status,
    /// What it is.
    pub kind: NodeKind,
}

/// What an entry below a root is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
    /// A socket, pipe or device, named for people.
    Special(&'static str),
}

/// Everything below a root that is not ignored.
#[derive(Debug, Default)]
pub struct Walk {
    /// Ordered by path.
    pub nodes: Vec<Node>,
    /// Unfinished files and directories of ours, left by a killed run; see [`is_temporary`]. Not looked into.
    pub leftovers: Vec<RelPath>,
    /// Directories that hold something ignored, at any depth: they cannot be removed.
    pub holding_ignored: HashSet<RelPath>,
    /// The ignore files whose rules hold, as they were when they were read.
    pub(super) rule_files: Vec<(RelPath, IndexKey)>,
    /// Whether an ignore file ended the walk.
    met_ignore_file: bool,
}

/// Why a walk ended.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// A directory cannot be listed, or an entry's attributes cannot be read.
    #[error("cannot read `{path}`", path = shown(path))]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A path is too long for any host.
    #[error("`{name}` in `{directory}` cannot be part of a tree", directory = shown(directory))]
    Path {
        /// The directory that holds it.
        directory: PathBuf,
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: PathError,
    },
    /// Something else took an entry's place while it was read.
    #[error("`{path}` changed while it was read", path = shown(path))]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// An ignore file is not UTF-8, lies in a directory whose name is not, or is longer than 1 MiB.
    #[error("`{path}` is not UTF-8 text of at most 1 MiB", path = shown(path))]
    IgnoreFile {
        /// Which.
        path: PathBuf,
    },
    /// An ignore file holds something that is no pattern.
    #[error("cannot use `{path}`", path = shown(path))]
    Pattern {
        /// Which file.
        path: PathBuf,
        /// Which pattern.
        #[source]
        source: PatternError,
    },
}

/// Walks everything below `root` that `rules` do not ignore. When `read_ignore_files` is set, the rules of
/// [`IGNORE_FILE`]s found on the way are added to `rules` and hold from their directory on.
///
/// What vanishes during the walk is not part of it.
pub fn walk(root: &Root, rules: &mut IgnoreRules, read_ignore_files: bool) -> Result<Walk, WalkError> {
    let files = if read_ignore_files { IgnoreFiles::Read } else { IgnoreFiles::Plain };
    let mut walk = Walk::default();
    walk.descend(root, Vec::new(), rules, files)?;
    Ok(walk.sorted())
}

/// Walks one path below `root`, and all below it when it is a directory, with the rules of an earlier walk of the
/// whole. Empty when nothing is there or it is ignored. None when there are ignore files on the way: what they say may
/// be new, so the whole has to be walked.
pub fn walk_at(root: &Root, rules: &IgnoreRules, path: &RelPath) -> Result<Option<Walk>, WalkError> {
    let mut walk = Walk::default();
    if path.name() == IGNORE_FILE.as_bytes() {
        return Ok(None);
    }
    if is_temporary(path.name()) || path.ancestors().any(|directory| rules.ignores(&directory, true)) {
        return Ok(Some(walk));
    }
    let read_error = |source| WalkError::Read { path: root.path_of(path.as_bytes()), source };
    let parent = match root.open_directory(path.parent()) {
        Ok(parent) => parent,
        Err(error) if is_vanished(&error) => return Ok(Some(walk)),
        Err(error) => return Err(read_error(error)),
    };
    let is_directory = walk.visit(root, &parent, path.clone(), rules)?.is_some_and(|node| node.kind == NodeKind::Dir);
    if is_directory {
        let mut rules = rules.clone();
        walk.descend(root, path.as_bytes().to_vec(), &mut rules, IgnoreFiles::Refuse)?;
    }
    Ok(if walk.met_ignore_file { None } else { Some(walk.sorted()) })
}

/// What becomes of ignore files found on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IgnoreFiles {
    /// Their rules hold from their directory on.
    Read,
    /// They are files like others.
    Plain,
    /// They end the walk.
    Refuse,
}

/// What came of listing a directory.
enum Listing {
    Done(Walk),
    /// It is no longer there.
    Vanished,
    /// It has an ignore file, which has to be read first.
    HasRules,
}

/// Lists one directory; no bytes stand for the root, which must be there.
fn list(
    root: &Root,
    directory: &[u8],
    rules: &IgnoreRules,
    files: IgnoreFiles,
    buffer: &mut [MaybeUninit<u8>],
) -> Result<Listing, WalkError> {
    let read_error = |source| WalkError::Read { path: root.path_of(directory), source };
    let fd = match root.open_directory(directory) {
        Ok(fd) => fd,
        Err(error) if is_vanished(&error) && !directory.is_empty() => return Ok(Listing::Vanished),
        Err(error) if is_link(&error) => return Err(WalkError::Changed { path: root.path_of(directory) }),
        Err(error) => return Err(read_error(error)),
    };
    if files != IgnoreFiles::Plain && status_at(&fd, IGNORE_FILE.as_bytes()).is_ok() {
        return Ok(Listing::HasRules);
    }
    let mut listed = Walk::default();
    let mut entries = RawDir::new(&fd, buffer);
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            // It was removed after it had been opened.
            Err(Errno::NOENT) if !directory.is_empty() => return Ok(Listing::Vanished),
            Err(error) => return Err(read_error(error.into())),
        };
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let path = RelPath::join(directory, name).map_err(|source| WalkError::Path {
            directory: root.path_of(directory),
            name: printable(name),
            source,
        })?;
        if is_temporary(name) {
            listed.leftovers.push(path);
        } else {
            listed.visit(root, &fd, path, rules)?;
        }
    }
    Ok(Listing::Done(listed))
}

impl Walk {
    /// Takes in what is below a directory; no bytes stand for the root.
    fn descend(
        &mut self,
        root: &Root,
        start: Vec<u8>,
        rules: &mut IgnoreRules,
        files: IgnoreFiles,
    ) -> Result<(), WalkError> {
        let mut level = vec![start];
        while !level.is_empty() {
            let threads = if level.len() < FEW_DIRECTORIES { 1 } else { MAX_THREADS };
            let shared: &IgnoreRules = rules;
            let listings = in_parallel(&level, threads, || {
                let mut buffer = vec![MaybeUninit::uninit(); ENTRIES_BUFFER];
                move |directory: &Vec<u8>| list(root, directory, shared, files, &mut buffer)
            });
            let mut next = Vec::new();
            for (directory, listing) in level.iter().zip(listings) {
                match listing? {
                    Listing::Done(listed) => self.take_in(listed, &mut next),
                    Listing::Vanished => self.nodes.retain(|node| node.path.as_bytes() != directory),
                    Listing::HasRules if files == IgnoreFiles::Refuse => {
                        self.met_ignore_file = true;
                        return Ok(());
                    }
                    Listing::HasRules => {
                        let mut buffer = vec![MaybeUninit::uninit(); ENTRIES_BUFFER];
                        self.rule_files.extend(read_rules(root, directory, rules)?);
                        match list(root, directory, rules, IgnoreFiles::Plain, &mut buffer)? {
                            Listing::Done(listed) => self.take_in(listed, &mut next),
                            _ => self.nodes.retain(|node| node.path.as_bytes() != directory),
                        }
                    }
                }
            }
            level = next;
        }
        Ok(())
    }

    fn take_in(&mut self, listed: Self, directories: &mut Vec<Vec<u8>>) {
        let below = listed.nodes.iter().filter(|node| node.kind == NodeKind::Dir);
        directories.extend(below.map(|node| node.path.as_bytes().to_vec()));
        self.nodes.extend(listed.nodes);
        self.leftovers.extend(listed.leftovers);
        self.holding_ignored.extend(listed.holding_ignored);
    }

    fn sorted(mut self) -> Self {
        self.nodes.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        self.leftovers.sort_unstable();
        self
    }

    /// Takes an entry in; none when it is ignored or has vanished.
    pub(super) fn visit(
        &mut self,
        root: &Root,
        directory: &OwnedFd,
        path: RelPath,
        rules: &IgnoreRules,
    ) -> Result<Option<&Node>, WalkError> {
        let read_error = |source| WalkError::Read { path: root.path_of(path.as_bytes()), source };
        let status = match status_at(directory, path.name()) {
            Ok(status) => status,
            Err(error) if is_vanished(&error) => return Ok(None),
            Err(error) => return Err(read_error(error)),
        };
        if rules.ignores(&path, status.file_type == FileType::Directory) {
            self.keep_directories_of(&path);
            return Ok(None);
        }
        let kind = match status.file_type {
            FileType::RegularFile => NodeKind::File,
            FileType::Directory => NodeKind::Dir,
            FileType::Symlink => match readlinkat(directory.as_fd(), path.name(), Vec::new()) {
                Ok(target) => NodeKind::Symlink(target.into_bytes()),
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::INVAL) => return Err(WalkError::Changed { path: root.path_of(path.as_bytes()) }),
                Err(error) => return Err(read_error(error.into())),
            },
            FileType::Socket => NodeKind::Special("a socket"),
            FileType::Fifo => NodeKind::Special("a named pipe"),
            FileType::BlockDevice | FileType::CharacterDevice => NodeKind::Special("a device"),
            FileType::Unknown => NodeKind::Special("of an unknown kind"),
        };
        self.nodes.push(Node { path, status, kind });
        Ok(self.nodes.last())
    }

    fn keep_directories_of(&mut self, ignored: &RelPath) {
        let mut parent = ignored.parent().to_vec();
        while let Ok(path) = RelPath::new(parent) {
            parent = path.parent().to_vec();
            if !self.holding_ignored.insert(path) {
                break;
            }
        }
    }
}

/// Whether something is no longer where it was listed.
fn is_vanished(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether a link is where a directory was listed.
fn is_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// The rules that decide about one path below `root`: the parameters, and the ignore files of all directories above
/// the path.
pub fn rules_above(root: &Root, path: &RelPath, parameters: &[String]) -> Result<IgnoreRules, RulesError> {
    let mut rules = IgnoreRules::new(parameters)?;
    let above = path.ancestors().map(|directory| directory.as_bytes().to_vec());
    for directory in std::iter::once(Vec::new()).chain(above) {
        read_rules(root, &directory, &mut rules)?;
    }
    Ok(rules)
}

/// Why the rules of a path cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A parameter is no pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A directory or an ignore file cannot be read.
    #[error(transparent)]
    Walk(#[from] WalkError),
}

/// Adds the rules of a directory's ignore file; gives the file as it was. None when there is none.
fn read_rules(
    root: &Root,
    directory: &[u8],
    rules: &mut IgnoreRules,
) -> Result<Option<(RelPath, IndexKey)>, WalkError> {
    let path = || root.path_of(directory).join(IGNORE_FILE);
    let relative =
        RelPath::join(directory, IGNORE_FILE.as_bytes()).map_err(|_| WalkError::IgnoreFile { path: path() })?;
    let read_error = |source| WalkError::Read { path: path(), source };
    let file = match root.open_file(relative.as_bytes()) {
        Ok(file) => std::fs::File::from(file),
        // A link is not followed: it could lead out of the tree. What is not there has no rules.
        Err(error) if is_vanished(&error) || is_link(&error) => return Ok(None),
        Err(error) => return Err(read_error(error)),
    };
    let status = Status::from(fstat(&file).map_err(|error| read_error(error.into()))?);
    if status.file_type != FileType::RegularFile {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(MAX_IGNORE_FILE + 1).read_to_end(&mut bytes).map_err(read_error)?;
    let text = String::from_utf8(bytes).ok().filter(|text| text.len() as u64 <= MAX_IGNORE_FILE);
    match (str::from_utf8(directory), text) {
        (Ok(directory), Some(text)) => {
            rules.add_file(directory, &text).map_err(|source| WalkError::Pattern { path: path(), source })?;
            Ok(Some((relative, status.key())))
        }
        _ => Err(WalkError::IgnoreFile { path: path() }),
    }
}
