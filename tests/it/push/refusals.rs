//! Everything that users get wrong about trees, through the real program and a real container: each is a clear error
//! that names the path and says what to do, ends with a status that is not 0, and leaves the host as it was.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt, fs::symlink},
    path::Path,
    process::{Command, Stdio},
};

use crate::support::lab::{Run, TestLab};

/// Sources and destinations that cannot be, by component; `node-1` has a small, a read-only and somebody else's
/// directory.
const CASES: [(&str, &str, &str); 15] = [
    ("missing", "sources/missing", "/opt/app"),
    ("file", "sources/file", "/opt/app"),
    ("leads-nowhere", "sources/leads-nowhere", "/opt/app"),
    ("empty", "sources/empty", "/opt/app"),
    ("closed-file", "sources/closed-file", "/opt/app"),
    ("closed-directory", "sources/closed-directory", "/opt/app"),
    ("pipe", "sources/pipe", "/opt/app"),
    ("too-deep", "sources/too-deep", "/opt/app"),
    ("bad-rule", "sources/bad-rule", "/opt/app"),
    ("onto-file", "sources/good", "/srv/file"),
    ("below-file", "sources/good", "/srv/file/app"),
    ("onto-broken-link", "sources/good", "/srv/link"),
    ("too-long", "sources/good", "/opt/TOO-LONG/app"),
    ("full", "sources/large", "/small/app"),
    ("read-only", "sources/good", "/sealed/app"),
];

const RECIPE: &str = r#"
"""A tree."""

params(build = param("path", doc = "Tree to push."), dest = param("str"))

def deploy(ctx):
    sync(ctx.params.build, ctx.params.dest, delete = True)
"#;

fn inventory() -> String {
    let mut text = String::from(
        r#"
[host.node-1.container]
image = "ovs-cuisine/ssh:latest"
tmpfs = { "/small" = "size=1m" }
volumes = ["./sealed:/sealed:ro"]

[component.app]
recipe = "app"
hosts = ["node-1"]
params = { build = "sources/good", dest = "/opt/app" }
"#,
    );
    for (name, source, dest) in CASES {
        let dest = dest.replace("TOO-LONG", &"long".repeat(70));
        writeln!(
            text,
            "[component.{name}]\nrecipe = \"app\"\nhosts = [\"node-1\"]\nparams = {{ build = \"{source}\", dest = \"{dest}\" }}\n"
        )
        .unwrap();
    }
    text
}

fn set_mode(path: &Path, mode: u32) {
    fs_err::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// A directory whose deepest entry has a path that is longer than 4095 bytes: one half is moved into the other, because
/// the whole cannot be named.
fn make_too_deep(root: &Path) {
    let name = "deep".repeat(60);
    let chain = |root: &Path| {
        let mut path = root.to_path_buf();
        fs_err::create_dir(&path).unwrap();
        for _ in 0..12 {
            path.push(&name);
            fs_err::create_dir(&path).unwrap();
        }
        path
    };
    let half = root.with_extension("half");
    let deepest = chain(root);
    chain(&half);
    fs_err::rename(&half, deepest.join("half")).unwrap();
}

fn make_sources(lab: &TestLab) {
    fs_err::create_dir(lab.path("sealed")).unwrap();
    fs_err::create_dir_all(lab.path("sources/empty")).unwrap();
    lab.write("sources/good/file", "new\n");
    lab.write("sources/good/lib/text", "new\n");
    lab.write("sources/file", "not a directory\n");
    symlink("nowhere", lab.path("sources/leads-nowhere")).unwrap();
    lab.write("sources/closed-file/open", "x");
    lab.write("sources/closed-file/new\nline", "x");
    set_mode(&lab.path("sources/closed-file/new\nline"), 0);
    lab.write("sources/closed-directory/closed/file", "x");
    set_mode(&lab.path("sources/closed-directory/closed"), 0);
    lab.write("sources/pipe/file", "x");
    assert!(Command::new("mkfifo").arg(lab.path("sources/pipe/fifo")).status().unwrap().success());
    make_too_deep(&lab.path("sources/too-deep"));
    lab.write("sources/bad-rule/.cuisineignore", "*.o\n[abc\n");
    fs_err::create_dir(lab.path("sources/large")).unwrap();
    fs_err::write(lab.path("sources/large/big"), vec![7; 3_000_000]).unwrap();
}

/// The program as root without the right to read what its mode forbids: what an ordinary user is for its own files.
fn without_privilege(command: &Command) -> Command {
    let mut limited = Command::new("setpriv");
    let caps = "-dac_override,-dac_read_search";
    limited
        .args(["--inh-caps", caps, "--bounding-set", caps])
        .arg(command.get_program())
        .args(command.get_args())
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdin(Stdio::null());
    limited
}

#[test]
fn what_an_ordinary_user_of_the_host_may_not_is_said_with_the_way_out() {
    let lab = TestLab::new(&inventory());
    lab.recipe("app", RECIPE);
    make_sources(&lab);
    lab.expect(0, &["up", "LAB"]);
    lab.inside("node-1", "mkdir /srv/theirs; echo old >/srv/theirs/file; useradd --create-home --shell /bin/sh worker");
    lab.inside(
        "node-1",
        "cp -r ~root/.ssh ~worker/ && chown -R worker: ~worker && mkdir /srv/ours && chown worker: /srv/ours",
    );
    let mut text = inventory();
    let (address, key) = (lab.address("node-1"), lab.host_key("node-1"));
    write!(
        text,
        "[host.ordinary.ssh]\naddress = \"{address}\"\nuser = \"worker\"\nhost_key = \"{key}\"\nkey = \"{}\"\n",
        lab.login_key().display()
    )
    .unwrap();
    for (name, dest) in [("denied", "/srv/theirs"), ("not-to-be-made", "/srv/new/app"), ("allowed", "/srv/ours/app")] {
        write!(
            text,
            "[component.{name}]\nrecipe = \"app\"\nhosts = [\"ordinary\"]\nparams = {{ build = \"sources/good\", dest = \"{dest}\" }}\n"
        )
        .unwrap();
    }
    lab.inventory(&text);
    let listing = "find /srv -printf '%p %y %m %s %T@ %l\\n' | sort";
    let before = lab.inside("node-1", listing);
    let mut story = String::new();
    for name in ["denied", "not-to-be-made"] {
        let run = lab.run(&["push", "LAB", name]);
        assert_eq!(lab.inside("node-1", listing), before, "{name} changed something");
        writeln!(story, "{name}: {}\n{}\n", run.status, told(&lab, &run)).unwrap();
    }
    insta::assert_snapshot!("what_an_ordinary_user_may_not", story);
    lab.expect(0, &["push", "LAB", "allowed"]);
    assert_eq!(lab.inside("node-1", "stat -c %U /srv/ours/app/file"), "worker\n");
}

/// What a run said, without what differs from run to run.
fn told(lab: &TestLab, run: &Run) -> String {
    let directory = lab.path("").display().to_string();
    let text =
        run.stderr.replace(&directory, "LAB/").replace(&lab.path("sources").display().to_string(), "LAB/sources");
    let text = text.replace(&"deep".repeat(60), "DEEP").replace(&"long".repeat(70), "TOO-LONG");
    // Progress comes and goes with the time that things take; the error is what counts.
    let from = text.find("error:").unwrap_or(0);
    text[from..].trim_end().to_owned()
}

#[test]
fn what_cannot_be_pushed_is_refused_by_name_and_changes_nothing() {
    let lab = TestLab::new(&inventory());
    lab.recipe("app", RECIPE);
    make_sources(&lab);
    lab.expect(0, &["up", "LAB"]);
    lab.inside("node-1", "mkdir -p /opt/app; echo old >/opt/app/old; echo file >/srv/file; ln -s nowhere /srv/link");
    let listing = "find /opt/app /srv /small /sealed -printf '%p %y %m %s %T@ %l\\n' | sort";
    let before = lab.inside("node-1", listing);
    let mut story = String::new();
    for (name, _, _) in CASES {
        let command = lab.command(&["push", "LAB", name]);
        let run = Run::of(&without_privilege(&command).output().unwrap());
        assert_eq!(lab.inside("node-1", listing), before, "{name} changed something");
        writeln!(story, "{name}: {}\n{}\n", run.status, told(&lab, &run)).unwrap();
    }
    insta::assert_snapshot!("what_cannot_be_pushed", story);
    // Names that are odd, and no error.
    lab.write("sources/good/new\nline", "");
    fs_err::write(lab.path("sources/good").join(OsStr::from_bytes(b"\xff\xfe")), "").unwrap();
    let events = lab.events(0, &["push", "LAB", "app"]);
    let paths = super::change_set(&events).unwrap()["paths"].to_string();
    assert!(paths.contains("+ new\\\\nline") && paths.contains("+ \u{fffd}\u{fffd}"), "{paths}");
    let odd = "test -e '/opt/app/new\nline' && test -e \"$(printf '/opt/app/\\377\\376')\" && rm /opt/app/new* /opt/app/*\"$(printf '\\376')\"";
    lab.inside("node-1", odd);
    assert_eq!(lab.inside("node-1", "cat /opt/app/lib/text; ls /opt/app"), "new\nfile\nlib\n");
}
