//! Changes that follow one another in a session: both sides look at what changed only, and nothing is missed.

use std::path::Path;

use ovs_cuisine::{
    helper::tree::{HeldTrees, Place, apply, compare},
    tree::{Ahead, Care, Larder, ManifestPatch, RelPath, SourceTree},
};
use proptest::prelude::*;

use super::world::{Loopback, World, link, noise, set_mode};

/// A session that pushes a source again and again.
struct Session {
    world: World,
    held: HeldTrees,
    tree: SourceTree,
}

impl Session {
    /// The first push looks at everything.
    fn begin(world: World) -> Self {
        let tree = world.scan();
        let session = Self { world, held: HeldTrees::default(), tree };
        session.push(&session.tree, Care::Keep);
        session.world.assert_equal();
        session
    }

    /// Pushes; gives how many contents were asked for.
    fn push(&self, tree: &SourceTree, care: Care) -> usize {
        let mut supplier = Loopback::new(tree);
        let patch = ManifestPatch::between(self.tree.summary().manifest, self.tree.manifest(), tree.manifest());
        let patches = vec![(tree.summary().manifest, patch)];
        supplier.larder = Larder::of(Ahead { contents: Vec::new(), patches, care });
        let (op, state) = (self.world.op(tree), self.world.state());
        let place = Place { state: Some(&state), remember: true, held: Some(&self.held), ..Place::default() };
        if let Some(change) = compare(&op, &place, &mut supplier).unwrap() {
            apply(&op, &place, change, &mut supplier).unwrap();
        }
        supplier.wants()
    }

    /// Looks at these paths of the source again and pushes what became of them.
    fn follow(&mut self, changed: &[&str]) -> usize {
        let paths: Vec<RelPath> = changed.iter().map(|path| RelPath::new(*path).unwrap()).collect();
        let tree = self.tree.look_again(&paths).unwrap().expect("known directories");
        assert_eq!(tree.manifest(), self.world.scan().manifest(), "what is seen at {changed:?}");
        let wants = self.push(&tree, Care::Follow);
        self.tree = tree;
        wants
    }

    /// A file of the host that nobody asked about: it stays as long as nobody looks there.
    fn plant(&self) -> std::path::PathBuf {
        let path = self.world.dst().join("aside/planted");
        fs_err::write(&path, "by hand").unwrap();
        path
    }
}

fn world() -> World {
    let world = World::new();
    world.write("aside/file", "stays");
    for number in 0..50 {
        world.write(&format!("dir{}/sub/file{number}", number % 5), format!("content {number}"));
    }
    world
}

#[test]
fn a_following_change_looks_at_nothing_else() {
    let mut session = Session::begin(world());
    let planted = session.plant();
    session.world.write("dir1/sub/file1", "changed");
    assert_eq!(session.follow(&["dir1/sub/file1"]), 1);
    fs_err::remove_file(session.world.src().join("dir1/sub/file6")).unwrap();
    session.world.write("dir2/new/deep/er", "new");
    set_mode(&session.world.src().join("dir3"), 0o700);
    assert_eq!(session.follow(&["dir1/sub/file6", "dir2/new", "dir3"]), 1);
    fs_err::rename(session.world.src().join("dir4"), session.world.src().join("dir9")).unwrap();
    assert_eq!(session.follow(&["dir4", "dir9"]), 0, "a renamed directory travels by name only");
    link(&session.world.src().join("dir9/link"), "sub/file4");
    assert_eq!(session.follow(&["dir9/link"]), 0);
    assert!(planted.exists(), "nobody looked there");

    assert_eq!(session.push(&session.tree, Care::Keep), 0);
    assert!(!planted.exists(), "a look at everything finds it");
    session.world.assert_equal();
    session.world.assert_rsync_agrees();
}

#[test]
fn another_hand_where_something_changes_leads_to_a_look_at_everything() {
    type Hand = fn(&Path);
    let hands: [(&str, Hand); 6] = [
        ("dir1/sub/file1", |dst| fs_err::write(dst.join("dir1/sub/file1"), "by hand").unwrap()),
        ("dir1/sub/file1", |dst| set_mode(&dst.join("dir1/sub"), 0o700)),
        ("dir1/sub/file1", |dst| fs_err::remove_file(dst.join("dir1/sub/file1")).unwrap()),
        ("dir1/new", |dst| fs_err::write(dst.join("dir1/new"), "by hand").unwrap()),
        ("dir1/sub/file1", |dst| {
            fs_err::rename(dst.join("dir1"), dst.join("elsewhere")).unwrap();
            link(&dst.join("dir1"), "elsewhere");
        }),
        ("dir1/sub/file1", |dst| {
            fs_err::rename(dst, dst.with_file_name("moved")).unwrap();
            fs_err::create_dir_all(dst.join("aside")).unwrap();
        }),
    ];
    for (changed, hand) in hands {
        let mut session = Session::begin(world());
        hand(&session.world.dst());
        let planted = session.plant();
        session.world.write(changed, "changed here");
        session.follow(&[changed]);
        assert!(!planted.exists(), "{changed}");
        session.world.assert_equal();
    }
}

#[test]
fn a_directory_that_holds_more_than_is_known_is_not_removed_unseen() {
    let mut session = Session::begin(world());
    fs_err::write(session.world.dst().join("dir1/sub/extra"), "by hand").unwrap();
    fs_err::remove_dir_all(session.world.src().join("dir1")).unwrap();
    session.follow(&["dir1"]);
    session.world.assert_equal();
}

#[test]
fn ignore_files_need_a_look_at_everything() {
    let world = world();
    world.write("dir1/.cuisineignore", "*.log\n");
    world.write("dir1/a.log", "");
    let tree = world.scan();
    let path = |path: &str| [RelPath::new(path).unwrap()];
    for changed in ["dir1/.cuisineignore", "dir1", "unknown/file"] {
        assert!(tree.look_again(&path(changed)).unwrap().is_none(), "{changed}");
    }
    world.write("dir1/b.log", "");
    world.write("dir1/b.txt", "");
    let again = tree.look_again(&[&path("dir1/b.log")[..], &path("dir1/b.txt")[..]].concat()).unwrap().unwrap();
    assert_eq!(again.manifest(), world.scan().manifest());
    assert!(tree.look_again(&path("dir2/sub")).unwrap().is_some());

    fs_err::rename(world.src(), world.src().with_file_name("old")).unwrap();
    fs_err::create_dir(world.src()).unwrap();
    assert!(tree.look_again(&path("dir2/sub")).unwrap().is_none(), "another directory has its place");
}

/// An edit of the source; the numbers choose where.
fn edit(world: &World, kind: u8, at: u8, seed: u64) -> Vec<String> {
    let (dir, file) = (format!("dir{}", at % 5), format!("dir{}/sub/file{at}", at % 5));
    let src = world.src();
    let place = src.join(&file);
    let gone = |path: &Path| drop(fs_err::remove_dir_all(path).or_else(|_| fs_err::remove_file(path)));
    match kind {
        0 | 1 => {
            fs_err::create_dir_all(place.parent().unwrap()).unwrap();
            gone(&place);
            fs_err::write(&place, noise(seed, usize::from(at) * 700)).unwrap();
            // The directories may have been missing.
            return vec![dir];
        }
        2 => gone(&place),
        3 => {
            if place.is_file() {
                set_mode(&place, if seed.is_multiple_of(2) { 0o600 } else { 0o755 });
            }
        }
        4 => {
            let other = format!("dir{}", seed % 7);
            if src.join(&dir).exists() && !src.join(&other).exists() {
                fs_err::rename(src.join(&dir), src.join(&other)).unwrap();
            }
            return vec![dir, other];
        }
        5 => {
            gone(&src.join(&dir));
            return vec![dir];
        }
        6 => {
            if place.parent().unwrap().is_dir() {
                gone(&place);
                fs_err::create_dir_all(place.join("now/a/directory")).unwrap();
            }
        }
        _ => {
            if place.parent().unwrap().is_dir() {
                gone(&place);
                link(&place, "../..");
            }
        }
    }
    if place.parent().unwrap().is_dir() { vec![file] } else { vec![] }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_edits_can_be_followed(edits in proptest::collection::vec((0u8..8, 0u8..50, any::<u64>()), 1..30)) {
        let mut session = Session::begin(world());
        for batch in edits.chunks(3) {
            let changed: Vec<String> =
                batch.iter().flat_map(|(kind, at, seed)| edit(&session.world, *kind, *at, *seed)).collect();
            let changed: Vec<&str> = changed.iter().map(String::as_str).collect();
            session.follow(&changed);
            session.world.assert_equal();
        }
        session.world.assert_rsync_agrees();
    }
}
