//! `cp` of the real program, to real containers and from them.

mod hostile;
mod receive;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use crate::support::lab::{Run, TestLab, docker};

const TWO_HOSTS: &str = r#"
[defaults.container]
image = "ovs-cuisine/ssh:latest"

[host."node-[1-2]"]
container = {}
"#;

/// What `rsync -a` would have to keep of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    File(u32, i64, Vec<u8>),
    Dir(u32, i64),
    Link(PathBuf),
}

/// An independent walk.
fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let meta = fs_err::symlink_metadata(&path).unwrap();
        let (mode, mtime) = (meta.mode() & 0o7777, meta.mtime());
        let kind = if meta.is_dir() {
            waiting.extend(fs_err::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Seen::Dir(mode, mtime)
        } else if meta.is_symlink() {
            Seen::Link(fs_err::read_link(&path).unwrap())
        } else {
            Seen::File(mode, mtime, fs_err::read(&path).unwrap())
        };
        seen.insert(path.strip_prefix(root).unwrap().to_path_buf(), kind);
    }
    seen
}

fn set_mode(path: &Path, mode: u32) {
    fs_err::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn set_time(path: &Path, secs: u64) {
    let file = fs_err::File::open(path).unwrap().into_parts().0;
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(secs)).unwrap();
}

/// Bytes that do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A tree with everything that is awkward: empty directories, blanks, newlines, bytes that are not UTF-8, links, an
/// ignore file, closed modes, old times.
fn awkward(root: &Path) {
    for directory in ["empty", "deep/er/est", "a b"] {
        fs_err::create_dir_all(root.join(directory)).unwrap();
    }
    fs_err::write(root.join("deep/er/est/file"), "deep\n").unwrap();
    fs_err::write(root.join("a b/new\nline"), "odd\n").unwrap();
    fs_err::write(root.join(OsStr::from_bytes(b"not-\xff-utf8")), "bytes\n").unwrap();
    fs_err::write(root.join(".cuisineignore"), "*.o\n").unwrap();
    fs_err::write(root.join("kept.o"), "not ignored\n").unwrap();
    fs_err::write(root.join("tool"), "#!/bin/sh\n").unwrap();
    fs_err::write(root.join("nothing"), "").unwrap();
    fs_err::hard_link(root.join("tool"), root.join("deep/tool-too")).unwrap();
    symlink("deep/er", root.join("inner")).unwrap();
    symlink("/nowhere/at/all", root.join("dangling")).unwrap();
    set_mode(&root.join("tool"), 0o755);
    set_mode(&root.join("kept.o"), 0o600);
    set_mode(&root.join("empty"), 0o700);
    set_time(&root.join("tool"), 1_000_000_000);
    set_time(&root.join("deep"), 1_100_000_000);
    set_time(root, 1_200_000_000);
}

/// A lab whose hosts are up.
fn up() -> TestLab {
    let lab = TestLab::new(TWO_HOSTS);
    lab.expect(0, &["up", "LAB"]);
    lab
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The line of a host.
fn line<'e>(events: &'e [Value], host: &str) -> &'e Value {
    events.iter().find(|event| event["event"] == "copied" && event["host"] == host).expect("a line for the host")
}

fn number(line: &Value, member: &str) -> u64 {
    line[member].as_u64().unwrap_or_else(|| panic!("{member} in {line}"))
}

#[test]
fn a_file_goes_to_a_host_and_comes_back() {
    let lab = up();
    let source = lab.path("some file");
    fs_err::write(&source, "content\n").unwrap();
    set_mode(&source, 0o640);
    set_time(&source, 1_000_000_000);
    let stat = |path: &str| lab.inside("node-1", &format!("stat -c '%a %Y %U %s' '{path}'"));

    // Into a directory, in both ways of saying so, under another name, and to the home directory.
    lab.inside("node-1", "mkdir /srv/one /srv/two; echo other > /srv/one/other");
    for (dest, lands) in [
        ("node-1:/srv/one", "/srv/one/some file"),
        ("node-1:/srv/two/", "/srv/two/some file"),
        ("node-1:/srv/named", "/srv/named"),
        ("node-1:", "/root/some file"),
        ("node-1:~/homely", "/root/homely"),
    ] {
        let run = lab.expect(0, &["cp", "LAB", text(&source), dest]);
        assert!(run.stdout.starts_with("node-1: 1 file, 8 B; 1 new, 0 changed, 8 B sent in "), "{}", run.stdout);
        assert_eq!(stat(lands), "640 1000000000 root 8\n", "{dest}");
        assert_eq!(lab.inside("node-1", &format!("cat '{lands}'")), "content\n");
    }
    assert_eq!(lab.inside("node-1", "ls /srv/one"), "other\nsome file\n", "nothing else is touched");

    let again = lab.events(0, &["cp", "LAB", text(&source), "node-1:/srv/one"]);
    let again = line(&again, "node-1");
    assert_eq!((&again["status"], number(again, "sent")), (&"unchanged".into(), 0), "{again}");

    // A time alone is set right, and nothing is sent.
    lab.inside("node-1", "touch '/srv/one/some file'");
    let times = lab.events(0, &["cp", "LAB", text(&source), "node-1:/srv/one"]);
    let times = line(&times, "node-1");
    assert_eq!(
        (&times["status"], number(times, "modified"), number(times, "sent")),
        (&"changed".into(), 1, 0),
        "{times}"
    );
    assert_eq!(stat("/srv/one/some file"), "640 1000000000 root 8\n");

    // Back: into a directory and under another name.
    fs_err::create_dir(lab.path("back")).unwrap();
    for (dest, lands) in [("back", "back/some file"), ("back/", "back/some file"), ("named", "named")] {
        lab.expect(0, &["cp", "LAB", "node-1:/srv/one/some file", &format!("{}/{dest}", text(&lab.path("")))]);
        let meta = fs_err::metadata(lab.path(lands)).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o640, 1_000_000_000), "{dest}");
        assert_eq!(fs_err::read_to_string(lab.path(lands)).unwrap(), "content\n");
    }
    assert_eq!(look(&lab.path("back")).len(), 2, "nothing is left behind");

    // An existing file is replaced as a whole; a link in its place is replaced, not written through.
    lab.inside("node-1", "echo target > /srv/target; ln -sf /srv/target /srv/named");
    lab.expect(0, &["cp", "LAB", text(&source), "node-1:/srv/named"]);
    assert_eq!(
        lab.inside("node-1", "cat /srv/target /srv/named; test -L /srv/named || echo file"),
        "target\ncontent\nfile\n"
    );

    // What a killed run left is swept by the next copy.
    let left = "/srv/one/.ovs-cuisine.0123456789abcdef.tmp";
    lab.inside("node-1", &format!("echo left > {left}; echo other > {left}.not"));
    lab.expect(0, &["cp", "LAB", text(&source), "node-1:/srv/one"]);
    assert_eq!(lab.inside("node-1", "ls -A /srv/one | wc -l; ls /srv/one/.*.not"), format!("3\n{left}.not\n"));

    // A colon in a name here.
    lab.write("a:b", "colon\n");
    let mut command = lab.command(&["cp", "LAB", "./a:b", "node-1:/srv/colon"]);
    assert!(command.current_dir(lab.path("")).status().unwrap().success());
    assert_eq!(lab.inside("node-1", "cat /srv/colon"), "colon\n");
}

#[test]
fn a_directory_goes_to_a_host_and_comes_back_as_it_was() {
    let lab = up();
    let source = lab.path("tree");
    awkward(&source);
    let wanted = look(&source);
    let copy = |words: &[&str]| {
        let events = lab.events(0, &[&["cp", "LAB", "-r"], words].concat());
        line(&events, "node-1").clone()
    };
    let back = |from: &str, name: &str| {
        copy(&[from, text(&lab.path(name))]);
        look(&lab.path(name))
    };

    // To a name that is free, then into the directory that is there now: as cp -r does.
    let first = copy(&[text(&source), "node-1:/srv/tree"]);
    let names = wanted.values().filter(|seen| matches!(seen, Seen::File(..))).count();
    assert_eq!(number(&first, "files"), names as u64 - 1, "two names are one file: {first}");
    assert_eq!(back("node-1:/srv/tree", "back"), wanted);
    let inode = |path: &str| fs_err::metadata(lab.path(path)).unwrap().ino();
    assert_eq!(inode("back/tool"), inode("back/deep/tool-too"));
    copy(&[text(&source), "node-1:/srv/tree"]);
    assert_eq!(lab.inside("node-1", "ls -d /srv/tree/tree/empty"), "/srv/tree/tree/empty\n");
    lab.inside("node-1", "rm -r /srv/tree/tree");

    // With a slash at the end the same; with `/.` the contents, beside what is there.
    lab.inside("node-1", "mkdir /srv/other; echo stays > /srv/other/stays; chmod 711 /srv/other");
    copy(&[&format!("{}/", text(&source)), "node-1:/srv/other"]);
    copy(&[&format!("{}/.", text(&source)), "node-1:/srv/other/"]);
    assert_eq!(lab.inside("node-1", "cat /srv/other/stays /srv/other/kept.o"), "stays\nnot ignored\n");
    assert_eq!(lab.inside("node-1", "stat -c %a /srv/other"), "711\n", "the directory itself is not part of it");
    let other = back("node-1:/srv/other/tree/", "other");
    assert_eq!(other, wanted);

    assert_eq!(back("node-1:/srv/other/tree", "fresh/"), wanted, "a new directory may be asked for with a slash");

    // Again: nothing is sent in either direction, and what is not in the source stays.
    let again = copy(&[&format!("{}/.", text(&source)), "node-1:/srv/tree"]);
    assert_eq!((&again["status"], number(&again, "sent")), (&"unchanged".into(), 0), "{again}");
    fs_err::write(lab.path("back/mine"), "mine\n").unwrap();
    let again = copy(&["node-1:/srv/tree/.", text(&lab.path("back"))]);
    assert_eq!((&again["status"], number(&again, "sent")), (&"unchanged".into(), 0), "{again}");

    // One file changes: only that one is sent.
    lab.inside("node-1", "printf 'changed by hand' > /srv/tree/deep/er/est/file");
    let one = copy(&["node-1:/srv/tree/.", text(&lab.path("back"))]);
    assert_eq!((number(&one, "modified"), number(&one, "created"), number(&one, "sent")), (1, 0, 15), "{one}");
    assert_eq!(fs_err::read_to_string(lab.path("back/deep/er/est/file")).unwrap(), "changed by hand");
    assert_eq!(fs_err::read_to_string(lab.path("back/mine")).unwrap(), "mine\n");
}

#[test]
fn of_a_large_file_only_what_differs_is_sent() {
    let lab = up();
    let mut content = noise(1, 6_000_000);
    fs_err::write(lab.path("large"), &content).unwrap();
    let copied = |words: &[&str]| {
        let events = lab.events(0, &[&["cp", "LAB"], words].concat());
        number(line(&events, "node-1"), "sent")
    };
    assert_eq!(copied(&[text(&lab.path("large")), "node-1:/srv/large"]), 6_000_000);
    assert_eq!(copied(&["node-1:/srv/large", text(&lab.path("back"))]), 6_000_000);
    assert_eq!(fs_err::read(lab.path("back")).unwrap(), content);

    content.splice(3_000_000..3_000_000, noise(2, 1000));
    fs_err::write(lab.path("large"), &content).unwrap();
    let sent = copied(&[text(&lab.path("large")), "node-1:/srv/large"]);
    assert!((1000..600_000).contains(&sent), "up: {sent}");
    let sent = copied(&["node-1:/srv/large", text(&lab.path("back"))]);
    assert!((1000..600_000).contains(&sent), "down: {sent}");
    assert_eq!(fs_err::read(lab.path("back")).unwrap(), content);
}

#[test]
fn several_hosts_get_the_same_and_give_each_into_its_own_directory() {
    let lab = up();
    lab.write("tree/file", "same\n");
    let tree = lab.path("tree");
    let run = lab.expect(0, &["cp", "LAB", "-r", text(&tree), "node-*:/srv/"]);
    let mut lines: Vec<&str> = run.stdout.lines().collect();
    lines.sort_unstable();
    assert!(lines.len() == 2 && lines[0].starts_with("node-1: ") && lines[1].starts_with("node-2: "), "{lines:?}");
    for host in ["node-1", "node-2"] {
        assert_eq!(lab.inside(host, "cat /srv/tree/file"), "same\n");
        lab.inside(host, &format!("echo {host} > /srv/tree/name"));
    }

    let back = lab.path("back");
    lab.expect(0, &["cp", "LAB", "-r", "node-*:/srv/tree", text(&back)]);
    lab.expect(0, &["cp", "LAB", "node-1,node-2:/srv/tree/name", text(&back)]);
    for host in ["node-1", "node-2"] {
        assert_eq!(fs_err::read_to_string(back.join(host).join("tree/name")).unwrap(), format!("{host}\n"));
        assert_eq!(fs_err::read_to_string(back.join(host).join("name")).unwrap(), format!("{host}\n"));
    }

    // A link where a host's directory should be is not followed.
    fs_err::create_dir(lab.path("outside")).unwrap();
    fs_err::create_dir(lab.path("trap")).unwrap();
    symlink(lab.path("outside"), lab.path("trap/node-1")).unwrap();
    let run = lab.expect(20, &["cp", "LAB", "node-*:/srv/tree/name", text(&lab.path("trap"))]);
    assert!(run.stderr.contains("node-1: ") && run.stderr.contains("in the way"), "{}", run.stderr);
    assert_eq!(
        fs_err::read_to_string(lab.path("trap/node-2/name")).unwrap(),
        "node-2\n",
        "the other one is not stopped"
    );
    assert_eq!(look(&lab.path("outside")).len(), 1);

    // A host that is gone stops no other; the larger status wins.
    docker(&["rm", "-f", "-v", &lab.container("node-2")]);
    let run = lab.expect(30, &["cp", "LAB", "node-*:/srv/tree/name", text(&back)]);
    assert!(run.stderr.contains("error: node-2: ") && run.stderr.contains("hint: "), "{}", run.stderr);
    assert!(run.stdout.starts_with("node-1: 1 file"), "{}", run.stdout);
    let run = lab.expect(40, &["cp", "LAB", "node-*:/srv/missing", text(&back)]);
    assert!(run.stderr.contains("node-1: cannot copy `/srv/missing`"), "{}", run.stderr);
}

#[test]
fn what_cannot_be_copied_says_why_and_changes_nothing() {
    let lab = up();
    lab.write("file", "file\n");
    lab.write("tree/sub/file", "file\n");
    lab.inside(
        "node-1",
        "mkdir -p /srv/dir/file /srv/tree; echo x > /srv/plain; echo x > /srv/tree/sub; mkfifo /srv/pipe",
    );
    symlink("/", lab.path("link")).unwrap();
    // The memory file system of a container holds 64 MiB unless told otherwise.
    fs_err::write(lab.path("large"), vec![b'x'; 80 * 1024 * 1024]).unwrap();
    let here = |path: &str| text(&lab.path(path)).to_owned();
    let (file, tree) = (here("file"), here("tree"));
    let cases: &[(i32, &[&str], &[&str])] = &[
        // Usage.
        (20, &["a", "b"], &["neither", "HOST:PATH"]),
        (20, &["node-1:/a", "node-2:/b"], &["both"]),
        (20, &[&file, "nod-1:/x"], &["nod-1", "node-1"]),
        (20, &[&file, "node-1:/a/../b"], &["node-1: ", "`/a/../b`", "without `..`"]),
        (20, &[&here("missing"), "node-1:/srv/x"], &["missing", "correct the path"]),
        (20, &[&tree, "node-1:/srv/x"], &["is a directory", "with -r"]),
        (20, &["node-1:/srv/plain", &here("no/such")], &["does not exist", "mkdir -p"]),
        (20, &["node-1:/srv/plain", &here("file/")], &["not a directory"]),
        (20, &["node-1:/srv/plain", &here("link")], &["link to a directory", "link/"]),
        (20, &["node-1,node-2:/srv/plain", &file], &["not a directory", "several hosts"]),
        // Refused by a side.
        (40, &["node-1:/srv/missing", &here("x")], &["node-1: cannot copy `/srv/missing`", "no such file", "hint: "]),
        (40, &["node-1:/srv/dir", &here("x")], &["node-1: `/srv/dir` is a directory", "with -r"]),
        (40, &["node-1:/srv/pipe", &here("x")], &["`/srv/pipe`", "pipe", "hint: "]),
        (40, &[&file, "node-1:/srv/no/such"], &["`/srv/no` does not exist", "mkdir -p /srv/no"]),
        (40, &[&file, "node-1:/srv/new/"], &["`/srv/new` does not exist", "hint: "]),
        (40, &[&file, "node-1:/srv/plain/"], &["`/srv/plain` is not a directory", "hint: "]),
        (40, &[&file, "node-1:/srv/dir"], &["`/srv/dir/file` is a directory and should become a file", "by hand"]),
        (40, &["-r", &tree, "node-1:/srv"], &["`/srv/tree/sub` is a file or link", "by hand"]),
        (40, &[&file, "node-1:/proc/x"], &["node-1: ", "/proc"]),
        (40, &[&here("large"), "node-1:/dev/shm/"], &["node-1: not enough space", "`/dev/shm`", "hint: "]),
    ];
    for (status, words, wanted) in cases {
        let run: Run = lab.expect(*status, &[&["cp", "LAB"], *words].concat());
        for part in *wanted {
            assert!(run.stderr.contains(part), "{words:?}: no `{part}` in\n{}", run.stderr);
        }
        assert_eq!(run.stdout, "", "{words:?}");
    }
    assert!(!lab.path("x").exists() && !lab.path("no").exists());
    assert_eq!(lab.inside("node-1", "ls -A /srv"), "dir\npipe\nplain\ntree\n");
}

#[test]
fn a_check_writes_nothing_and_what_no_tree_holds_is_left_out() {
    let lab = up();
    lab.write("tree/file", "file\n");
    let tree = lab.path("tree");
    assert!(Command::new("mkfifo").arg(tree.join("pipe")).status().unwrap().success());
    let check = lab.expect(0, &["cp", "LAB", "-r", text(&tree), "node-1:/srv/tree", "--check"]);
    assert!(
        check.stdout.contains("would be 2 new, 0 changed") && check.stdout.contains("+ tree/file"),
        "{}",
        check.stdout
    );
    assert_eq!(lab.inside("node-1", "ls -A /srv"), "");
    let run = lab.expect(0, &["cp", "LAB", "-r", text(&tree), "node-1:/srv/tree"]);
    assert!(
        run.stderr.contains("warning: node-1: left out ") && run.stderr.contains("pipe`: a named pipe"),
        "{}",
        run.stderr
    );

    lab.inside("node-1", "chmod 4755 /srv/tree/file; mkfifo /srv/tree/one");
    let back = lab.path("back");
    let check = lab.events(0, &["cp", "LAB", "-r", "node-1:/srv/tree", text(&back), "--check", "-j", "1"]);
    let check = line(&check, "node-1");
    assert_eq!(
        (&check["applied"], number(check, "created"), number(check, "skipped")),
        (&false.into(), 2, 1),
        "{check}"
    );
    assert!(!back.exists(), "--check wrote");
    lab.expect(0, &["cp", "LAB", "-r", "node-1:/srv/tree", text(&back)]);
    let mode = fs_err::metadata(back.join("file")).unwrap().mode() & 0o7777;
    assert_eq!(mode, 0o755, "a host does not choose what runs as the operator");
    // To hosts all bits are kept.
    set_mode(&back.join("file"), 0o4750);
    lab.expect(0, &["cp", "LAB", text(&back.join("file")), "node-1:/srv/file"]);
    assert_eq!(lab.inside("node-1", "stat -c %a /srv/file"), "4750\n");
}
