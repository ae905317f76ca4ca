//! Every op: check, apply, check, apply says would change, changed, no change, no change; and a check writes nothing.

use ovs_cuisine::{
    plan::{
        Action, Content, Detail, DirEnsure, DirRemove, FileLink, FileRemove, FileWrite, GroupEnsure, HostPath,
        MaxDelete, Mode as Bits, Op, Outcome, PackageEnsure, PackageState, Principal, Run, RunGuard, Secret,
        SshAuthorize, Sync, UserEnsure, WaitPort,
    },
    tree::SourceTree,
    wire::Mode,
};

use super::host::{Helper, Host, Told, assert_same, host, plan};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJQ0 alice@laptop";

pub(super) fn path(text: &str) -> HostPath {
    text.parse().unwrap()
}

pub(super) fn bits(mode: u32) -> Bits {
    Bits::try_from(mode).unwrap()
}

fn name(text: &str) -> Principal {
    text.parse().unwrap()
}

pub(super) fn file(at: &str, content: Content) -> FileWrite {
    FileWrite { path: path(at), content, mode: None, owner: None, group: None }
}

pub(super) fn text(content: &str) -> Content {
    Content::Inline(content.as_bytes().to_vec())
}

pub(super) fn dir(at: &str) -> DirEnsure {
    DirEnsure { path: path(at), mode: None, owner: None, group: None, recursive: false }
}

pub(super) fn user(login: &str) -> UserEnsure {
    UserEnsure {
        name: login.into(),
        present: true,
        uid: None,
        group: None,
        groups: Vec::new(),
        home: None,
        shell: None,
        comment: None,
        system: false,
    }
}

pub(super) fn run(command: &str) -> Run {
    Run {
        command: Secret::new(command.into()),
        sensitive: false,
        guards: Vec::new(),
        directory: None,
        environment: Vec::new(),
        user: None,
        timeout_ms: 120_000,
        success: vec![0],
        stdin: None,
        changes: true,
    }
}

/// Check, apply, check, apply. Gives what the first check told.
pub(super) fn converge(host: &Host, helper: &mut Helper, op: &Op) -> Told {
    let what = format!("{} {}", op.name(), op.subject());
    let before = host.listing();
    let told = helper.check(op);
    assert_eq!(told.outcome(), Outcome::WouldChange, "{what}: first check");
    assert_eq!(told.diffs().len(), 1, "{what}: a difference is shown");
    assert_same(&before, &host.listing(), &format!("{what}: the first check wrote something"));
    let applied = helper.apply(op);
    assert_eq!(applied.outcome(), Outcome::Changed, "{what}: first apply");
    assert_eq!(applied.diffs(), told.diffs(), "{what}: what was foretold is what was done");
    let after = host.listing();
    assert_eq!(helper.check(op).outcome(), Outcome::NoChange, "{what}: second check");
    assert_same(&after, &host.listing(), &format!("{what}: the second check wrote something"));
    let again = helper.apply(op);
    assert_eq!(again.outcome(), Outcome::NoChange, "{what}: second apply");
    assert_eq!(again.diffs(), [], "{what}: no difference is shown when there is none");
    told
}

#[test]
fn files() {
    let host = host();
    let mut helper = host.helper();
    host.shell("rm -rf /srv/files; mkdir -p /srv/files; printf 'old\\n' >/srv/files/old; chmod 0600 /srv/files/old");
    let mut op = file("/srv/files/new", text("one\ntwo\n"));
    op.mode = Some(bits(0o4750));
    (op.owner, op.group) = (Some(name("daemon")), Some(name("3")));
    converge(&host, &mut helper, &Op::FileWrite(op));
    assert_eq!(host.shell("stat -c '%a %U %g' /srv/files/new; cat /srv/files/new"), "4750 daemon 3\none\ntwo\n");

    // What is not asked for stays: mode and owner of a file that is there.
    host.shell("chown daemon /srv/files/old");
    let told = converge(&host, &mut helper, &Op::FileWrite(file("/srv/files/old", text("new\n"))));
    assert_eq!(told.details(), [Detail::Text { before: "old\n".into(), after: "new\n".into() }]);
    assert_eq!(host.shell("stat -c '%a %U' /srv/files/old; cat /srv/files/old"), "600 daemon\nnew\n");

    let mut owned = file("/srv/files/old", text("new\n"));
    owned.mode = Some(bits(0o644));
    let told = converge(&host, &mut helper, &Op::FileWrite(owned));
    let mode = Detail::Attribute { name: "mode".into(), before: Some("0600".into()), after: Some("0644".into()) };
    assert_eq!(told.details(), [mode]);

    // A link that leads to a file is followed, as editors do.
    host.shell("ln -s old /srv/files/link");
    converge(&host, &mut helper, &Op::FileWrite(file("/srv/files/link", text("through\n"))));
    assert_eq!(host.shell("readlink /srv/files/link; cat /srv/files/old"), "old\nthrough\n");
    assert!(host.succeeds("test -z \"$(find /srv/files -name '.ovs-cuisine*')\""), "no rubbish is left");
}

#[test]
fn secrets_and_binaries_are_not_shown() {
    let host = host();
    let mut helper = host.helper();
    host.shell(
        "rm -rf /srv/secret; mkdir -p /srv/secret; echo canary-old >/srv/secret/a; echo canary-old >/srv/secret/b",
    );
    let secret = Op::FileWrite(file("/srv/secret/a", Content::Secret(Secret::new(b"canary-new".to_vec()))));
    let told = converge(&host, &mut helper, &secret);
    assert_eq!(told.details(), [Detail::SecretContent]);
    let mut sensitive = plan([Op::FileWrite(file("/srv/secret/b", text("canary-new")))]);
    sensitive.steps[0].sensitive = true;
    for mode in [Mode::Check, Mode::Apply] {
        let told = helper.run(mode, &sensitive);
        assert!(!format!("{told:?}").contains("canary"), "{told:?}");
    }
    assert_eq!(host.shell("cat /srv/secret/*"), "canary-newcanary-new");

    let told = converge(&host, &mut helper, &Op::FileWrite(file("/srv/secret/c", Content::Inline(vec![0, 1, 255]))));
    assert!(matches!(told.details()[0], Detail::Opaque { before: None, after: Some((3, _)) }), "{told:?}");
}

#[test]
fn blobs_are_asked_for() {
    let host = host();
    let mut helper = host.helper();
    host.shell("rm -rf /srv/blobs; mkdir -p /srv/blobs");
    let small = "line\n".repeat(30_000).into_bytes();
    let large: Vec<u8> = (0u32..300_000).flat_map(u32::to_le_bytes).collect();
    for (at, bytes) in [("/srv/blobs/small", small), ("/srv/blobs/large", large)] {
        let size = bytes.len() as u64;
        let digest = helper.contents.add_bytes(bytes.clone());
        let told = converge(&host, &mut helper, &Op::FileWrite(file(at, Content::Blob { digest, size })));
        assert_eq!(matches!(told.details()[0], Detail::Text { .. }), size < 256 * 1024);
        assert_eq!(host.shell(&format!("stat -c %s {at}")).trim(), size.to_string());
    }
}

#[test]
fn links_and_removals() {
    let host = host();
    let mut helper = host.helper();
    host.shell("rm -rf /srv/links; mkdir -p /srv/links/full/deep; touch /srv/links/file /srv/links/full/deep/x");
    let link = |at: &str, target: &str, force| Op::FileLink(FileLink { path: path(at), target: target.into(), force });
    converge(&host, &mut helper, &link("/srv/links/link", "file", false));
    let told = converge(&host, &mut helper, &link("/srv/links/link", "../elsewhere", false));
    assert_eq!(told.diffs()[0].changes[0].action, Action::Modify);
    converge(&host, &mut helper, &link("/srv/links/file", "link", true));
    assert_eq!(host.shell("readlink /srv/links/file").trim(), "link");

    let remove = |at: &str| Op::FileRemove(FileRemove { path: path(at) });
    converge(&host, &mut helper, &remove("/srv/links/file"));
    let remove_dir = |at: &str, recursive| Op::DirRemove(DirRemove { path: path(at), recursive });
    let told = converge(&host, &mut helper, &remove_dir("/srv/links/full", true));
    assert!(matches!(told.details()[0], Detail::Tree { removed: 2, .. }), "{told:?}");
    host.shell("mkdir /srv/links/empty");
    converge(&host, &mut helper, &remove_dir("/srv/links/empty", false));
    assert_eq!(host.shell("ls /srv/links").trim(), "link");
}

#[test]
fn directories() {
    let host = host();
    let mut helper = host.helper();
    host.shell("rm -rf /srv/dirs /srv/outside; mkdir -p /srv/dirs/tree/sub /srv/outside; touch /srv/dirs/tree/sub/f /srv/outside/f; ln -s /srv/outside /srv/dirs/tree/out");
    let mut op = dir("/srv/dirs/a/b/c");
    op.mode = Some(bits(0o2770));
    op.group = Some(name("daemon"));
    let told = converge(&host, &mut helper, &Op::DirEnsure(op));
    assert_eq!(told.diffs()[0].changes.len(), 3, "parents are told too");
    assert_eq!(host.shell("stat -c '%a %U %G' /srv/dirs/a /srv/dirs/a/b/c"), "755 root root\n2770 root daemon\n");

    let mut op = dir("/srv/dirs/tree");
    op.owner = Some(name("daemon"));
    op.recursive = true;
    converge(&host, &mut helper, &Op::DirEnsure(op));
    assert_eq!(
        host.shell("stat -c %U /srv/dirs/tree/sub/f /srv/dirs/tree/out /srv/outside/f"),
        "daemon\ndaemon\nroot\n"
    );
    host.shell("ln -s tree /srv/dirs/way");
    assert_eq!(helper.check(&Op::DirEnsure(dir("/srv/dirs/way"))).outcome(), Outcome::NoChange);
}

#[test]
fn accounts() {
    let host = host();
    let mut helper = host.helper();
    host.shell(
        "userdel -r carol 2>/dev/null || true; groupdel crew 2>/dev/null || true; groupdel carol 2>/dev/null || true",
    );
    let group = |gid, present| Op::GroupEnsure(GroupEnsure { name: "crew".into(), present, gid, system: false });
    converge(&host, &mut helper, &group(Some(4321), true));
    converge(&host, &mut helper, &group(Some(4322), true));
    assert_eq!(helper.check(&group(None, true)).outcome(), Outcome::NoChange);

    let mut carol = user("carol");
    carol.uid = Some(4400);
    carol.home = Some(path("/srv/carol"));
    carol.shell = Some("/bin/sh".into());
    converge(&host, &mut helper, &Op::UserEnsure(carol.clone()));
    assert_eq!(
        host.shell("getent passwd carol; stat -c %U /srv/carol"),
        "carol:x:4400:4400::/srv/carol:/bin/sh\ncarol\n"
    );
    carol.comment = Some("Carol".into());
    carol.groups = vec!["crew".into(), "audio".into()];
    carol.group = Some(name("users"));
    carol.shell = Some("/bin/bash".into());
    let told = converge(&host, &mut helper, &Op::UserEnsure(carol.clone()));
    assert_eq!(told.details().len(), 4, "{told:?}");
    assert_eq!(host.shell("id -Gn carol | tr ' ' '\\n' | sort | tr '\\n' ' '"), "audio crew users ");
    // Groups that the op does not name are left alone.
    host.shell("usermod -a -G video carol");
    assert_eq!(helper.check(&Op::UserEnsure(carol.clone())).outcome(), Outcome::NoChange);

    let authorize = |present| Op::SshAuthorize(SshAuthorize { user: "carol".into(), key: KEY.into(), present });
    converge(&host, &mut helper, &authorize(true));
    assert_eq!(
        host.shell("stat -c '%a %U %G' /srv/carol/.ssh /srv/carol/.ssh/authorized_keys"),
        "700 carol users\n600 carol users\n"
    );
    host.shell("printf '# mine\\nssh-rsa AAAAB3NzaC1yc2EAAAADAQ other' >>/srv/carol/.ssh/authorized_keys; chmod 0644 /srv/carol/.ssh/authorized_keys");
    converge(&host, &mut helper, &authorize(true));
    converge(&host, &mut helper, &authorize(false));
    assert_eq!(host.shell("cat /srv/carol/.ssh/authorized_keys"), "# mine\nssh-rsa AAAAB3NzaC1yc2EAAAADAQ other");

    carol.present = false;
    converge(&host, &mut helper, &Op::UserEnsure(carol));
    converge(&host, &mut helper, &group(None, false));
}

/// A package source of our own: the tests need no network.
fn make_package_source(host: &Host) {
    host.shell(
        "test -e /srv/repo/Packages || {
        mkdir -p /srv/repo /tmp/deb; cd /srv/repo
        for package in cuisine-a:1 cuisine-b:1 cuisine-b:2; do
          name=${package%:*} version=${package#*:}
          rm -rf /tmp/deb/*; mkdir -p /tmp/deb/DEBIAN
          { echo Package: $name; echo Version: $version; echo Architecture: all; echo Maintainer: x; echo Provides: cuisine-virtual-$name;
            echo Description: test; } >/tmp/deb/DEBIAN/control
          printf '#!/bin/sh\\ntest -x /usr/sbin/policy-rc.d && /usr/sbin/policy-rc.d x start; echo $? >/srv/policy\\n' >/tmp/deb/DEBIAN/postinst
          chmod 0755 /tmp/deb/DEBIAN/postinst
          file=${name}_$version.deb
          dpkg-deb --build --root-owner-group /tmp/deb $file >/dev/null
          { cat /tmp/deb/DEBIAN/control; echo Filename: ./$file; echo Size: $(stat -c %s $file);
            echo SHA256: $(sha256sum $file | cut -d' ' -f1); echo; } >>Packages.new
        done
        mv Packages.new Packages
        rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/*
        echo 'deb [trusted=yes] file:/srv/repo ./' >/etc/apt/sources.list; }",
    );
}

#[test]
fn packages() {
    let host = host();
    let mut helper = host.helper();
    make_package_source(&host);
    host.shell("dpkg --purge cuisine-a cuisine-b 2>/dev/null; rm -rf /var/lib/apt/lists/* /var/lib/ovs-cuisine/package-lists-refreshed");
    let packages = |names: &[&str], state| {
        let packages = names.iter().map(|name| (*name).to_owned()).collect();
        Op::PackageEnsure(PackageEnsure { packages, state, refresh: false })
    };
    // There are no lists: they are fetched first.
    let told =
        converge(&host, &mut helper, &packages(&["cuisine-a", "cuisine-b=1", "coreutils"], PackageState::Present));
    let targets: Vec<String> = told.diffs()[0].changes.iter().map(|change| change.target.clone()).collect();
    assert_eq!(targets, ["package cuisine-a", "package cuisine-b"]);
    assert_eq!(host.shell("cat /srv/policy").trim(), "101", "packages were asked not to start services");
    assert!(!host.succeeds("test -e /usr/sbin/policy-rc.d"), "the policy is gone again");
    assert_eq!(
        helper.check(&packages(&["cuisine-virtual-cuisine-a"], PackageState::Present)).outcome(),
        Outcome::NoChange
    );
    converge(&host, &mut helper, &packages(&["cuisine-b=2"], PackageState::Present));
    converge(&host, &mut helper, &packages(&["cuisine-b=1"], PackageState::Present));
    converge(&host, &mut helper, &packages(&["cuisine-a", "never-heard-of"], PackageState::Absent));
    let unknown = helper.apply(&packages(&["never-heard-of"], PackageState::Present)).failure();
    assert_eq!(unknown.message, "no package source of the host offers `never-heard-of`");
    let odd = helper.check(&packages(&["coreutils-"], PackageState::Present)).failure();
    assert!(odd.message.contains("is not the name of a package"), "{odd:?}");
}

#[test]
fn commands() {
    let host = host();
    let mut helper = host.helper();
    host.shell("rm -rf /srv/run; mkdir -p /srv/run");
    let mut op = run("touch made");
    op.directory = Some(path("/srv/run"));
    op.guards = vec![RunGuard::Creates(path("/srv/run/made"))];
    converge(&host, &mut helper, &Op::Run(op));
    let mut op = run("echo x >/srv/run/unless");
    op.guards = vec![RunGuard::Unless("grep -q x /srv/run/unless".into())];
    converge(&host, &mut helper, &Op::Run(op));

    // Without guards a command runs every time, and says so.
    let mut plain = run("echo \"$GREETING $(cat) $(id -un) $HOME\"; exit 4");
    plain.success = vec![4];
    plain.environment = vec![("GREETING".into(), Secret::new("hello".into()))];
    plain.stdin = Some(Secret::new("there".into()));
    plain.user = Some("daemon".into());
    let plain = Op::Run(plain);
    for _ in 0..2 {
        assert_eq!(helper.check(&plain).outcome(), Outcome::WouldChange);
        let told = helper.apply(&plain);
        assert_eq!(
            (told.outcome(), told.output()),
            (Outcome::Changed, vec!["hello there daemon /usr/sbin".to_owned()])
        );
    }
    // One that only looks is run by a check too, and never changes anything.
    let mut probe = run("test -e /srv/run/probe");
    probe.changes = false;
    let probe = Op::Run(probe);
    assert!(matches!(helper.check(&probe).outcome(), Outcome::Unknown { .. }));
    assert_eq!(helper.apply(&probe).failure().message, "`test -e /srv/run/probe` ended with status 1");
    host.shell("touch /srv/run/probe");
    assert_eq!(helper.check(&probe).outcome(), Outcome::NoChange);
    assert_eq!(helper.apply(&probe).outcome(), Outcome::NoChange);
}

#[test]
fn trees() {
    let host = host();
    let mut helper = host.helper();
    host.shell("rm -rf /srv/tree");
    let source = tempfile::tempdir().unwrap();
    fs_err::create_dir_all(source.path().join("bin")).unwrap();
    fs_err::write(source.path().join("bin/tool"), "#!/bin/sh\necho tool\n").unwrap();
    fs_err::write(source.path().join("large"), vec![7; 500_000]).unwrap();
    let tree = SourceTree::scan(source.path(), &[], None).unwrap();
    helper.contents.add_tree(&tree);
    let op = Op::Sync(Sync {
        dest: path("/srv/tree"),
        tree: tree.summary().clone(),
        owner: Some(name("daemon")),
        group: None,
        delete: MaxDelete::Any,
        ignore: Vec::new(),
        release: None,
    });
    converge(&host, &mut helper, &op);
    assert_eq!(host.shell("sh /srv/tree/bin/tool; stat -c '%U %s' /srv/tree/large"), "tool\ndaemon 500000\n");
    host.shell("echo broken >/srv/tree/bin/tool");
    converge(&host, &mut helper, &op);
}

#[test]
fn ports() {
    let host = host();
    let mut helper = host.helper();
    let wait = |address: &str, port, timeout_ms| Op::WaitPort(WaitPort { address: address.into(), port, timeout_ms });
    let closed = wait("127.0.0.1", 4, 300);
    let before = host.listing();
    assert!(matches!(helper.check(&closed).outcome(), Outcome::Unknown { .. }));
    assert_same(&before, &host.listing(), "the check wrote something");
    let late = helper.apply(&closed).failure();
    assert!(late.message.starts_with("nothing accepted connections on 127.0.0.1:4 within 0.3 s"), "{late:?}");
    let nobody = helper.apply(&wait("no-such-host.invalid", 4, 300)).failure();
    assert!(nobody.message.contains("`no-such-host.invalid` is not known"), "{nobody:?}");

    // Opens while it is waited for.
    host.shell("rm -f /srv/perl.pid");
    let listen = "perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(LocalPort => 4711, Listen => 5); while ($s->accept) {}'";
    assert!(host.succeeds("perl -MIO::Socket::INET -e 1"), "the image has no perl-base with sockets");
    let request = helper.begin(Mode::Apply, &plan([wait("localhost", 4711, 100_000)]));
    host.shell(&format!("setsid {listen} >/dev/null 2>&1 </dev/null & echo $! >/srv/perl.pid"));
    assert_eq!(helper.finish(request).outcome(), Outcome::NoChange);
    for _ in 0..2 {
        assert_eq!(helper.check(&wait("127.0.0.1", 4711, 300)).outcome(), Outcome::NoChange);
        assert_eq!(helper.apply(&wait("127.0.0.1", 4711, 300)).outcome(), Outcome::NoChange);
    }
    host.shell("pkill -F /srv/perl.pid || kill $(cat /srv/perl.pid)");
}
