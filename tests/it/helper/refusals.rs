//! What cannot be done is said in a way that helps, and leaves everything as it was.

use ovs_cuisine::{
    plan::{
        Answer, Content, Detail, DirRemove, FailureKind, FileLink, FileRemove, GroupEnsure, Op, Outcome, Question,
        Secret, SshAuthorize,
    },
    wire::{FromHelper, Mode, ToHelper},
};

use super::{
    host::{host, plan},
    operations::{dir, file, path, run, text, user},
};

#[test]
fn a_full_disk_is_named_and_leaves_the_old_file() {
    let host = host();
    let mut helper = host.helper();
    host.shell("rm -f /small/*; echo old >/small/x");
    let op = Op::FileWrite(file("/small/x", Content::Inline(vec![b'x'; 3 * 1024 * 1024])));
    let failure = helper.apply(&op).failure();
    assert_eq!(failure.kind, FailureKind::NoSpace);
    assert_eq!(failure.message, "cannot write `/small/x`: no space left on device");
    assert!(failure.hint.unwrap().contains("df -h"));
    assert_eq!(host.shell("ls -A /small; cat /small/x"), "x\nold\n");
}

#[test]
fn what_is_wrong_with_a_path_is_said() {
    let host = host();
    let mut helper = host.helper();
    host.shell("rm -rf /srv/odd; mkdir -p /srv/odd/dir/full; touch /srv/odd/file; ln -s nowhere /srv/odd/lost");
    let message = |helper: &mut super::host::Helper, op: Op| {
        let before = host.listing();
        let checked = helper.check(&op).failure();
        let applied = helper.apply(&op).failure();
        assert_eq!(checked, applied, "check and apply agree");
        assert_eq!(checked.kind, FailureKind::BadInput, "{checked:?}");
        let touched = host.listing();
        let changed: Vec<&str> =
            touched.lines().filter(|line| !before.contains(*line) && !line.contains("/var/lib/ovs-cuisine")).collect();
        assert!(changed.is_empty(), "{op:?} changed something: {changed:#?}");
        checked.message
    };
    let cases = [
        (Op::FileWrite(file("/srv/odd/dir", text(""))), "cannot write `/srv/odd/dir`: it is a directory"),
        (Op::FileWrite(file("/srv/odd/none/x", text(""))), "directory `/srv/odd/none` does not exist"),
        (Op::FileWrite(file("/srv/odd/lost", text(""))), "`/srv/odd/lost` is a symbolic link that leads nowhere"),
        (Op::FileWrite(file("/dev/null", text(""))), "cannot write `/dev/null`: it is a device, socket or pipe"),
        (Op::DirEnsure(dir("/srv/odd/file")), "cannot make the directory `/srv/odd/file`: a file is in its place"),
        (Op::FileRemove(FileRemove { path: path("/srv/odd/dir") }), "cannot remove `/srv/odd/dir`: it is a directory"),
        (
            Op::DirRemove(DirRemove { path: path("/srv/odd/dir"), recursive: false }),
            "cannot remove `/srv/odd/dir`: it holds 1 entries",
        ),
        (
            Op::DirRemove(DirRemove { path: path("/etc"), recursive: true }),
            "`/etc` is never removed: it is the root or directly below it",
        ),
        (
            Op::FileLink(FileLink { path: path("/srv/odd/file"), target: "x".into(), force: false }),
            "cannot make the link `/srv/odd/file`: a file is in its place",
        ),
        (
            Op::FileLink(FileLink { path: path("/srv/odd/dir"), target: "x".into(), force: true }),
            "cannot make the link `/srv/odd/dir`: a directory is in its place",
        ),
        (
            Op::SshAuthorize(SshAuthorize {
                user: "root".into(),
                key: "-----BEGIN PRIVATE KEY-----".into(),
                present: true,
            }),
            "ssh_authorize was given a private key",
        ),
    ];
    for (op, expected) in cases {
        assert_eq!(message(&mut helper, op), expected);
    }
    let mut owned = file("/srv/odd/new", text(""));
    owned.owner = Some("nobody-here".parse().unwrap());
    assert_eq!(message(&mut helper, Op::FileWrite(owned)), "user `nobody-here` does not exist");
    let mut member = user("somebody");
    member.groups = vec!["no-such-group".into()];
    assert_eq!(message(&mut helper, Op::UserEnsure(member)), "group `no-such-group` does not exist");
}

#[test]
fn keys_are_not_written_through_links() {
    let host = host();
    let mut helper = host.helper();
    host.shell("userdel -r mallory 2>/dev/null || true; useradd -m mallory; mkdir -p /srv/target; ln -sfn /srv/target ~mallory/.ssh");
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJQ0 a".to_owned();
    let op = Op::SshAuthorize(SshAuthorize { user: "mallory".into(), key, present: true });
    let failure = helper.apply(&op).failure();
    assert!(failure.message.contains("keys are not written through it"), "{failure:?}");
    host.shell("rm ~mallory/.ssh; mkdir ~mallory/.ssh; ln -s /etc/passwd ~mallory/.ssh/authorized_keys");
    let failure = helper.apply(&op).failure();
    assert!(failure.message.contains("keys are not written through it"), "{failure:?}");
    assert!(host.shell("ls -A /srv/target; grep ed25519 /etc/passwd || true").is_empty());
}

#[test]
fn a_check_depends_on_what_earlier_steps_would_make() {
    let host = host();
    let mut helper = host.helper();
    host.shell("rm -rf /srv/later; userdel -r dave 2>/dev/null || true; groupdel gang 2>/dev/null || true");
    let group = Op::GroupEnsure(GroupEnsure { name: "gang".into(), present: true, gid: None, system: false });
    let mut dave = user("dave");
    dave.groups = vec!["gang".into()];
    let mut home = dir("/srv/later/dave");
    home.owner = Some("dave".parse().unwrap());
    home.group = Some("gang".parse().unwrap());
    let mut config = file("/srv/later/dave/config", text("x"));
    config.owner = Some("dave".parse().unwrap());
    let mut command = run("true");
    command.user = Some("dave".into());
    command.directory = Some(path("/srv/later/dave"));
    let key =
        SshAuthorize { user: "dave".into(), key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJQ0".into(), present: true };
    let all = plan([
        group,
        Op::UserEnsure(dave),
        Op::DirEnsure(home),
        Op::FileWrite(config),
        Op::SshAuthorize(key),
        Op::Run(command),
    ]);
    assert_eq!(helper.run(Mode::Check, &all).outcomes(), vec![Outcome::WouldChange; 6]);
    assert_eq!(helper.run(Mode::Apply, &all).outcomes(), vec![Outcome::Changed; 6]);
    let quiet = helper.run(Mode::Check, &all).outcomes();
    assert_eq!(quiet[..5], vec![Outcome::NoChange; 5]);
}

#[test]
fn a_helper_that_is_not_root_says_what_it_may_not_do() {
    let host = host();
    host.shell("id plain >/dev/null 2>&1 || useradd -m plain");
    let mut helper = host.helper_as("plain");
    assert_eq!(helper.facts().user, "plain");
    assert_eq!(helper.facts().state_dir, "/home/plain/.local/state/ovs-cuisine");
    let refused = helper.apply(&Op::FileWrite(file("/etc/not-mine", text("")))).failure();
    assert_eq!(refused.kind, FailureKind::Permission);
    assert!(refused.hint.unwrap().contains("sudo = true"));
    let mut other = run("true");
    other.user = Some("root".into());
    let refused = helper.apply(&Op::Run(other)).failure();
    assert_eq!(refused.message, "`plain` may not run commands as `root`");
    let refused = helper.apply(&Op::UserEnsure(user("more"))).failure();
    assert!(refused.hint.unwrap().contains("sudo = true"));
    assert_eq!(helper.apply(&Op::FileWrite(file("/home/plain/mine", text("x")))).outcome(), Outcome::Changed);
    assert_eq!(host.shell("stat -c '%a %U' ~plain/.local/state/ovs-cuisine"), "700 plain\n");
}

#[test]
fn a_secret_command_is_seen_nowhere() {
    let host = host();
    let mut helper = host.helper();
    host.shell("rm -f /srv/canary-out /srv/seen");
    let mut secret = run(
        "echo canary-word; cat /proc/*/cmdline | tr '\\0' ' ' >/srv/seen; cat >/srv/canary-out; echo canary-word >&2; exit 9",
    );
    secret.sensitive = true;
    secret.stdin = Some(Secret::new("canary-input".into()));
    secret.user = Some("root".into());
    let op = Op::Run(secret);
    let checked = helper.check(&op);
    assert!(checked.details().iter().all(|detail| matches!(detail, Detail::Reason { .. })));
    let told = helper.apply(&op);
    assert_eq!(told.failure().message, "`***` ended with status 9");
    assert!(!format!("{told:?}{checked:?}").contains("canary"), "{told:?}");
    assert_eq!(host.shell("cat /srv/canary-out"), "canary-input");
    assert!(host.succeeds("test -s /srv/seen && ! grep -q canary /srv/seen"));
}

#[test]
fn questions_are_answered_while_a_plan_runs() {
    let host = host();
    let mut helper = host.helper();
    host.shell("rm -f /srv/asked; echo text >/srv/text");
    let wait = "i=0; until test -e /srv/asked; do i=$((i+1)); test $i -lt 10000 || exit 1; sleep 0.02; done";
    let request = helper.begin(Mode::Apply, &plan([Op::Run(run(wait))]));
    let questions = vec![
        Question::IsFile(path("/srv/text")),
        Question::Read(path("/srv/text")),
        Question::UserExists("root".into()),
        Question::PackageInstalled("coreutils".into()),
        Question::PackageInstalled("never-heard-of".into()),
        Question::Output { command: "echo a; touch /srv/asked".into(), timeout_ms: 60_000 },
    ];
    helper.send(&ToHelper::Ask { request: 99, questions });
    // The last question lets the plan end, so its end may come before the answers do.
    let mut ended = None;
    let answers = loop {
        match helper.receive() {
            FromHelper::Answers { request: 99, answers } => break answers,
            FromHelper::Steps { .. } => {}
            FromHelper::Done { tally, .. } => ended = Some(tally),
            other => panic!("unexpected: {other:?}"),
        }
    };
    let expected = [
        Answer::Flag(true),
        Answer::Text("text\n".into()),
        Answer::Flag(true),
        Answer::Flag(true),
        Answer::Flag(false),
        Answer::Text("a".into()),
    ];
    assert_eq!(answers, expected);
    let tally = ended.unwrap_or_else(|| helper.finish(request).tally);
    assert_eq!(tally.changed, 1);
}
