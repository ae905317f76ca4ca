//! A source and a destination on disk, and a supplier that connects the two sides directly and counts what travels.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use ovs_cuisine::{
    helper::tree::{Place, TreeChange, compare},
    plan::{MaxDelete, OpFailure, Sync},
    tree::{Contents, Demand, Larder, ScanError, SourceTree, Supplier, Supply},
};

/// A source, a destination and the helper's memory, all below one temporary directory.
pub(super) struct World {
    path: PathBuf,
    /// None when another process owns the directory.
    _dir: Option<tempfile::TempDir>,
    pub(super) delete: MaxDelete,
    pub(super) ignore: Vec<String>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

impl World {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir(dir.path().join("src")).unwrap();
        let world = Self::at(dir.path());
        Self { _dir: Some(dir), ..world }
    }

    /// The world that another process made.
    pub(super) fn at(path: &Path) -> Self {
        let path = path.to_path_buf();
        Self { path, _dir: None, delete: MaxDelete::Any, ignore: Vec::new(), uid: None, gid: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn src(&self) -> PathBuf {
        self.path.join("src")
    }

    pub(super) fn dst(&self) -> PathBuf {
        self.path.join("dst")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    /// Writes a file of the source, with its directories.
    pub(super) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        write(&self.src().join(path), content);
    }

    pub(super) fn scan(&self) -> SourceTree {
        self.try_scan().unwrap()
    }

    pub(super) fn try_scan(&self) -> Result<SourceTree, ScanError> {
        SourceTree::scan(&self.src(), &self.ignore, None)
    }

    pub(super) fn op(&self, source: &SourceTree) -> Sync {
        Sync {
            dest: self.dst().to_str().unwrap().parse().unwrap(),
            tree: source.summary().clone(),
            owner: None,
            group: None,
            delete: self.delete,
            ignore: Vec::new(),
            release: None,
        }
    }

    pub(super) fn compare(
        &self,
        source: &SourceTree,
        supplier: &mut Loopback,
        remember: bool,
    ) -> Result<Option<TreeChange>, OpFailure> {
        let state = self.state();
        let place =
            Place { uid: self.uid, gid: self.gid, state: Some(&state), remember, held: None, remembered_as: None };
        compare(&self.op(source), &place, supplier)
    }

    /// One sync from scan to switch. Gives what travelled, and whether anything differed.
    pub(super) fn sync(&self) -> Result<(Loopback, bool), OpFailure> {
        let source = self.scan();
        let mut supplier = Loopback::new(&source);
        let change = self.compare(&source, &mut supplier, true)?;
        let differs = change.is_some();
        change.map_or(Ok(()), |change| change.apply(&mut supplier))?;
        Ok((supplier, differs))
    }

    /// A sync that must succeed, after which a comparison must find nothing and ask for nothing.
    pub(super) fn sync_well(&self) -> Loopback {
        let (supplier, _) = self.sync().unwrap();
        let source = self.scan();
        let mut again = Loopback::new(&source);
        let change = self.compare(&source, &mut again, true).unwrap();
        assert!(change.is_none(), "a second sync finds {:?}", change.map(|change| change.diff()));
        assert!(again.demands.is_empty(), "a second sync asks for {:?}", again.demands);
        supplier
    }

    /// Both trees are equal to an independent eye, and nothing unfinished is left.
    pub(super) fn assert_equal(&self) {
        assert_eq!(look(&self.src()), look(&self.dst()));
    }

    /// The real rsync would do nothing but set times of what is equal otherwise.
    pub(super) fn assert_rsync_agrees(&self) {
        let mut from = self.src().into_os_string();
        from.push("/");
        let output = Command::new("rsync")
            .args(["-n", "-aH", "--checksum", "--delete", "--itemize-changes"])
            .args([from.as_os_str(), self.dst().as_os_str()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        let differences: Vec<&str> =
            text.lines().filter(|line| !line.get(1..).unwrap_or("").contains("..t...... ")).collect();
        assert_eq!(differences, Vec::<&str>::new());
    }
}

pub(super) fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(path, content).unwrap();
}

pub(super) fn set_mode(path: &Path, mode: u32) {
    fs_err::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

pub(super) fn link(path: &Path, target: &str) {
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(target, path).unwrap();
}

/// Bytes that do not compress, different for each seed.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// What an independent walk sees of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    File { mode: u32, size: u64, digest: String },
    Dir { mode: u32 },
    Link { target: PathBuf },
    Other,
}

/// An independent walk: paths relative to the root, and what is there.
pub(super) fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        for entry in fs_err::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs_err::symlink_metadata(&path).unwrap();
            let mode = meta.mode() & 0o7777;
            let kind = if meta.is_dir() {
                waiting.push(path.clone());
                Seen::Dir { mode }
            } else if meta.is_symlink() {
                Seen::Link { target: fs_err::read_link(&path).unwrap() }
            } else if meta.is_file() {
                let digest = blake3::hash(&fs_err::read(&path).unwrap()).to_string();
                Seen::File { mode, size: meta.len(), digest }
            } else {
                Seen::Other
            };
            seen.insert(path.strip_prefix(root).unwrap().to_path_buf(), kind);
        }
    }
    seen
}

/// Called with the number of the message that is about to be given.
pub(super) type Hook = Box<dyn FnMut(usize, &mut Supply) -> io::Result<()>>;

/// Connects the two sides in one process.
pub(super) struct Loopback {
    contents: Contents,
    waiting: VecDeque<Supply>,
    /// Every demand so far.
    pub(super) demands: Vec<Demand>,
    /// How many messages were given.
    pub(super) given: usize,
    /// Compressed bytes given.
    pub(super) literal_bytes: usize,
    /// Bytes of patches given.
    pub(super) patch_bytes: usize,
    pub(super) hook: Option<Hook>,
    /// What came ahead of the plan.
    pub(super) larder: Option<Larder>,
}

impl Loopback {
    pub(super) fn new(source: &SourceTree) -> Self {
        let mut contents = Contents::new();
        contents.add_tree(source);
        Self::of(contents)
    }

    pub(super) fn of(contents: Contents) -> Self {
        Self {
            contents,
            waiting: VecDeque::new(),
            demands: Vec::new(),
            given: 0,
            literal_bytes: 0,
            patch_bytes: 0,
            hook: None,
            larder: None,
        }
    }

    /// Waits until the near side has kept what it sent.
    pub(super) fn finish_keeping(&self) {
        self.contents.finish_keeping();
    }

    /// How many contents were asked for, manifests included.
    pub(super) fn wants(&self) -> usize {
        self.demands.iter().map(|demand| demand.wants.len()).sum()
    }
}

impl Supplier for Loopback {
    fn demand(&mut self, demand: Demand) -> io::Result<()> {
        assert!(self.waiting.is_empty(), "only one demand is open at a time");
        let waiting = &mut self.waiting;
        self.contents.answer(&demand, &mut |supply| {
            waiting.push_back(supply);
            Ok(())
        })?;
        self.demands.push(demand);
        Ok(())
    }

    fn next_supply(&mut self) -> io::Result<Supply> {
        let mut supply = self.waiting.pop_front().ok_or(io::ErrorKind::UnexpectedEof)?;
        if let Some(hook) = &mut self.hook {
            hook(self.given, &mut supply)?;
        }
        self.given += 1;
        if let Supply::Literal(bytes) = &supply {
            self.literal_bytes += bytes.len();
        }
        if let Supply::Patch { frame, .. } = &supply {
            self.patch_bytes += frame.len();
        }
        Ok(supply)
    }

    fn larder(&self) -> Option<&Larder> {
        self.larder.as_ref()
    }
}
