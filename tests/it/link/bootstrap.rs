//! Placing and starting a helper, whatever the host is like.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ovs_cuisine::{
    control::link::{HelperChannel, HelperProgram, Link, LinkError, LinkErrorKind, Phase, SudoProblem, Target},
    plan::{Answer, Facts, Question},
    wire::{self, FromHelper, HelperHello, NearHello, PROTOCOL, ToHelper},
};
use tokio::task::JoinSet;

use super::sshd::{Options, Sshd, User, shared};

fn hello() -> NearHello {
    NearHello { protocol: PROTOCOL, owner: "test".to_owned(), lock_wait_ms: 1000, lab: "test".parse().unwrap() }
}

/// Connects and starts the helper; also says how many bytes of it were sent.
async fn start(target: Target, program: &HelperProgram) -> Result<(Link, HelperChannel, u64), LinkError> {
    let link = Link::connect(shared(target)).await?;
    let sent = AtomicU64::new(0);
    let channel = link.start_helper(program, hello(), |bytes| sent.store(bytes, Ordering::Relaxed)).await?;
    Ok((link, channel, sent.into_inner()))
}

async fn refusal(target: Target, program: &HelperProgram) -> LinkError {
    match start(target, program).await {
        Ok(_) => panic!("the helper should not start"),
        Err(error) => error,
    }
}

fn embedded() -> HelperProgram {
    HelperProgram::embedded().unwrap()
}

async fn ask(channel: &mut HelperChannel, command: &str) -> Answer {
    let command = command.to_owned();
    let questions = vec![Question::Output { command, timeout_ms: 10_000 }];
    channel.send(&ToHelper::Ask { request: 1, questions }).await.unwrap();
    match channel.recv().await.unwrap() {
        Some(FromHelper::Answers { request: 1, mut answers }) => answers.remove(0),
        other => panic!("{other:?}"),
    }
}

async fn dismiss(mut channel: HelperChannel) {
    channel.send(&ToHelper::Bye).await.unwrap();
    assert_eq!(channel.recv().await.unwrap(), None);
}

fn with_users(users: &[(&'static str, &'static str)]) -> Options {
    let users = users.iter().map(|(name, shell)| User { name, shell }).collect();
    Options { users, ..Options::default() }
}

#[tokio::test]
async fn root_gets_the_helper_once() {
    let (sshd, program) = (Sshd::start(), embedded());
    let (link, mut channel, sent) = start(sshd.target(), &program).await.unwrap();
    assert_eq!(sent, program.size());
    assert_eq!((channel.facts().user.as_str(), channel.facts().uid), ("root", 0));
    assert_eq!(ask(&mut channel, "echo here").await, Answer::Text("here".to_owned()));
    let traffic = channel.traffic();
    assert_eq!((traffic.sent_messages, traffic.received_messages), (2, 2));
    assert!(traffic.sent_bytes > 8 && traffic.received_bytes > 8);
    dismiss(channel).await;
    link.close().await;
    let (_link, channel, sent) = start(sshd.target(), &program).await.unwrap();
    assert_eq!(sent, 0, "it was there already");
    dismiss(channel).await;
    let listing = sshd.inside("cd /var/lib/ovs-cuisine/bin; stat -c '%a %u %n' . .[!.]* * 2>/dev/null || true");
    assert_eq!(listing, format!("700 0 .\n700 0 cuisine-helper-{}\n", program.id()));
}

#[tokio::test]
async fn any_login_shell_will_do_however_much_it_prints() {
    let known = ["/bin/bash", "/bin/dash", "/usr/bin/tcsh", "/usr/bin/fish", "/usr/bin/zsh", "/bin/busybox"];
    // busybox is a shell only by that name.
    let shells = known.iter().filter(|shell| Path::new(shell).exists());
    let shells: Vec<&str> = shells.map(|shell| if shell.ends_with("busybox") { "/run/sh" } else { shell }).collect();
    let before = "ln -s /bin/busybox /run/sh";
    assert!(shells.len() >= 2, "bash and dash at least: {shells:?}");
    let users: Vec<(&str, &str)> = ["a", "b", "c", "d", "e", "f"].into_iter().zip(shells.iter().copied()).collect();
    let noise = (0..100).map(|number| format!("echo welcome {number}")).collect::<Vec<_>>().join("\n");
    let sshd = Sshd::with(&Options { noise, before: before.to_owned(), ..with_users(&users) });
    let program = embedded();
    for (user, shell) in users {
        for wanted in [program.size(), 0] {
            let (_link, channel, sent) = start(sshd.target_as(user), &program)
                .await
                .unwrap_or_else(|error| panic!("{shell}: {error}\n{:?}", error.output_tail()));
            assert_eq!(sent, wanted, "{shell}");
            assert_eq!(channel.facts().user, user, "{shell}");
            dismiss(channel).await;
        }
        sshd.inside(&format!("test -x /home/{user}/.cache/ovs-cuisine/cuisine-helper-{}", program.id()));
    }
}

#[tokio::test]
async fn endless_noise_is_given_up() {
    let sshd = Sshd::with(&Options { noise: "yes".to_owned(), ..with_users(&[("loud", "/bin/bash")]) });
    let error = refusal(sshd.target_as("loud"), &embedded()).await;
    assert!(matches!(&*error.kind, LinkErrorKind::Noise), "{error}");
}

#[tokio::test]
async fn an_account_without_shell_says_so() {
    let sshd = Sshd::with(&with_users(&[("closed", "/usr/sbin/nologin")]));
    let error = refusal(sshd.target_as("closed"), &embedded()).await;
    let LinkErrorKind::NotStarted { status: Some(1), output, .. } = &*error.kind else { panic!("{error:?}") };
    assert!(output.iter().any(|line| line.contains("not available")), "{output:?}");
}

#[tokio::test]
async fn twenty_first_runs_at_once_all_succeed() {
    let sshd = Sshd::with(&with_users(&[("many", "/bin/sh")]));
    let mut target = sshd.target_as("many");
    target.timeouts.phase = Duration::from_secs(60);
    target.timeouts.busy = Duration::from_secs(120);
    let program = embedded();
    let mut all = JoinSet::new();
    for _ in 0..20 {
        let (target, program) = (target.clone(), program.clone());
        all.spawn(async move {
            let (_link, channel, _) = start(target, &program).await?;
            dismiss(channel).await;
            Ok::<_, LinkError>(())
        });
    }
    for done in all.join_all().await {
        done.unwrap();
    }
    let files = sshd.inside("ls -A /home/many/.cache/ovs-cuisine");
    assert_eq!(files, format!("cuisine-helper-{}\n", program.id()), "nothing is left over");
}

#[tokio::test]
async fn one_session_is_enough() {
    let options = Options { config: "MaxSessions 1\n".to_owned(), ..with_users(&[("one", "/bin/bash")]) };
    let sshd = Sshd::with(&options);
    let (link, channel, sent) = start(sshd.target_as("one"), &embedded()).await.unwrap();
    assert_ne!(sent, 0);
    dismiss(channel).await;
    assert_eq!(link.exec("true").await.unwrap().status, Some(0));
}

#[tokio::test]
async fn directories_without_programs_are_passed_over() {
    let before = "mount -o remount,noexec /home".to_owned();
    let sshd = Sshd::with(&Options { before, ..with_users(&[("u", "/bin/sh")]) });
    let program = embedded();
    let (_link, channel, _) = start(sshd.target_as("u"), &program).await.unwrap();
    dismiss(channel).await;
    sshd.inside(&format!("test -x /var/tmp/ovs-cuisine-4001/cuisine-helper-{}", program.id()));
}

#[tokio::test]
async fn every_refused_directory_is_named() {
    let before = "for d in /home /tmp; do mount -o remount,noexec $d; done\nchmod 755 /var/tmp\n\
                  mkdir -m 777 /dev/shm/ovs-cuisine-4001\nchown 77 /dev/shm/ovs-cuisine-4001\n\
                  mount -t tmpfs -o size=1m tmpfs /mnt; mkdir -m 1777 /mnt/tmp; mkdir /mnt/elsewhere\n\
                  ln -s /mnt/elsewhere /mnt/tmp/ovs-cuisine-4001";
    let mut target = None;
    let sshd = Sshd::with(&Options { before: before.to_owned(), ..with_users(&[("u", "/bin/sh")]) });
    target.get_or_insert(sshd.target_as("u")).helper_dir = Some("/mnt/tmp".parse().unwrap());
    let error = refusal(target.unwrap(), &embedded()).await;
    let LinkErrorKind::NoPlace { tried } = &*error.kind else { panic!("{error:?}") };
    let tried: Vec<(&str, &str)> = tried.iter().map(|(place, why)| (place.as_str(), why.as_str())).collect();
    assert_eq!(
        tried,
        [
            ("/mnt/tmp/ovs-cuisine-4001", "it is a symbolic link"),
            ("/home/u/.cache/ovs-cuisine", "programs may not run there"),
            ("/var/tmp/ovs-cuisine-4001", "it cannot be made"),
            ("/dev/shm/ovs-cuisine-4001", "it belongs to somebody else"),
            ("/tmp/ovs-cuisine-4001", "programs may not run there"),
        ]
    );
}

#[tokio::test]
async fn a_configured_directory_comes_first() {
    let sshd =
        Sshd::with(&Options { before: "mkdir -p -m 1777 /run/tools".to_owned(), ..with_users(&[("u", "/bin/sh")]) });
    let mut target = sshd.target_as("u");
    target.helper_dir = Some("/run/tools".parse().unwrap());
    let program = embedded();
    let (_link, channel, _) = start(target.clone(), &program).await.unwrap();
    dismiss(channel).await;
    sshd.inside(&format!("test -x /run/tools/ovs-cuisine-4001/cuisine-helper-{}", program.id()));
    target.helper_dir = Some("/run/$(reboot)".parse().unwrap());
    assert!(matches!(&*refusal(target, &program).await.kind, LinkErrorKind::NoPlace { .. }));
}

#[tokio::test]
async fn a_full_disk_is_named_and_leaves_nothing() {
    let before = "mkdir -p /home/u/.cache; mount -t tmpfs -o size=64k,mode=777 tmpfs /home/u/.cache";
    let sshd = Sshd::with(&Options { before: before.to_owned(), ..with_users(&[("u", "/bin/sh")]) });
    let error = refusal(sshd.target_as("u"), &embedded()).await;
    let LinkErrorKind::Upload { place, stderr, .. } = &*error.kind else { panic!("{error:?}") };
    assert_eq!(place, "/home/u/.cache/ovs-cuisine");
    assert!(stderr.iter().any(|line| line.contains("No space left")), "{stderr:?}");
    assert_eq!(sshd.inside("ls -A /home/u/.cache/ovs-cuisine"), "");
}

#[tokio::test]
async fn a_broken_helper_is_replaced() {
    let (sshd, program) = (Sshd::start(), embedded());
    let path = format!("/var/lib/ovs-cuisine/bin/cuisine-helper-{}", program.id());
    sshd.inside(&format!(
        "umask 077; mkdir -p /var/lib/ovs-cuisine/bin; head -c 100 /bin/true > {path}; chmod 700 {path}"
    ));
    let (_link, channel, sent) = start(sshd.target(), &program).await.unwrap();
    assert_eq!(sent, program.size());
    dismiss(channel).await;
}

#[tokio::test]
async fn a_helper_for_another_cpu_is_not_even_sent() {
    let sshd = Sshd::start();
    let mut content = embedded().content().unwrap().to_vec();
    // e_machine of elf(5): 183 is AArch64, 62 is x86-64.
    content[18] = if content[18] == 62 { 183 } else { 62 };
    let error = refusal(sshd.target(), &HelperProgram::from_content(content)).await;
    assert!(matches!(&*error.kind, LinkErrorKind::WrongCpu { .. }), "{error}");
    assert!(error.hint().unwrap().contains("OVS_CUISINE_HELPER"), "{error}");
}

/// A shell script that is placed like a helper and then does this.
fn impostor(does: &str) -> HelperProgram {
    let script = format!(
        "#!/bin/sh\ncase $1 in\n--self-check) n=${{0##*/.cuisine-helper-}}; echo ${{n%%.*}};;\n\
         serve) printf '\\n\\000OVS-CUISINE %s\\n' $2; {does};;\nesac\n"
    );
    HelperProgram::from_content(script.into_bytes())
}

/// Bytes for the shell's printf.
fn octal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\{byte:03o}")).collect::<Vec<_>>().concat()
}

#[tokio::test]
async fn impostors_are_seen_through() {
    let sshd = Sshd::start();
    let kind_of = async |does: &str| refusal(sshd.target(), &impostor(does)).await.kind;
    assert!(matches!(&*kind_of("printf '\\001\\000\\000\\000x'").await, LinkErrorKind::Frame(_)));
    let fault = wire::encode(&FromHelper::Fault { why: "no\u{1b}[2Jway".to_owned() }).unwrap();
    match &*kind_of(&format!("printf '{}'", octal(&fault))).await {
        LinkErrorKind::Fault { why } => assert_eq!(why, "no [2Jway"),
        other => panic!("{other}"),
    }
    let done = wire::encode(&FromHelper::Answers { request: 1, answers: Vec::new() }).unwrap();
    assert!(matches!(&*kind_of(&format!("printf '{}'", octal(&done))).await, LinkErrorKind::NoHello));
    match &*kind_of("echo why it died >&2; exit 9").await {
        LinkErrorKind::HelperEnded { status: Some(9), stderr, .. } => assert_eq!(stderr, &["why it died"]),
        other => panic!("{other}"),
    }
    match &*kind_of("exit 0").await {
        LinkErrorKind::HelperEnded { status: Some(0), .. } => {}
        other => panic!("{other}"),
    }
}

fn facts_of_nothing() -> Facts {
    let text = r#"{"hostname":"h","distribution":{"id":"","like":[],"version":"","codename":""},"arch":"","kernel":"",
        "cpus":1,"memory":1,"init":"none","packages":"none","addresses":[],"user":"","uid":0,"home":"","boot_id":"",
        "machine_id":"","container":false,"state_dir":""}"#;
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let sshd = Sshd::start();
    let theirs = wire::encode(&FromHelper::Hello(HelperHello {
        protocol: 99,
        facts: facts_of_nothing(),
        trees: vec![],
        holdings: vec![],
    }))
    .unwrap();
    let error = refusal(sshd.target(), &impostor(&format!("printf '{}'; cat", octal(&theirs)))).await;
    assert!(matches!(&*error.kind, LinkErrorKind::Protocol { theirs: 99 }), "{error}");
}

#[tokio::test]
async fn a_helper_that_says_nothing_is_given_up() {
    let sshd = Sshd::start();
    let program = impostor("exec sleep 300");
    // Placed first, so that only the hello is slow.
    let mut target = sshd.target();
    target.timeouts.phase = Duration::from_secs(2);
    let error = refusal(target, &program).await;
    assert!(matches!(&*error.kind, LinkErrorKind::Deadline { phase: Phase::Hello, .. }), "{error}");
}

#[tokio::test]
async fn more_than_waits_in_the_queue_is_sent_in_order() {
    let sshd = Sshd::start();
    let hello = wire::encode(&FromHelper::Hello(HelperHello {
        protocol: PROTOCOL,
        facts: facts_of_nothing(),
        trees: vec![],
        holdings: vec![],
    }))
    .unwrap();
    // Reads everything, then tells how many bytes came.
    let does = format!("printf '{}'; wc -c >&2; exit 4", octal(&hello));
    let (_link, channel, _) = start(sshd.target(), &impostor(&does)).await.unwrap();
    let mut wanted = channel.traffic().sent_bytes;
    for request in 0..40 {
        // Does not compress, so it is as long on the wire.
        let seed = blake3::hash(&[request]);
        let mut noise = vec![0; 1 << 20];
        blake3::Hasher::new_keyed(seed.as_bytes()).finalize_xof().fill(&mut noise);
        let command = noise.iter().map(|byte| char::from(*byte)).collect();
        let message = ToHelper::Ask { request: 1, questions: vec![Question::Output { command, timeout_ms: 1 }] };
        wanted += wire::encode(&message).unwrap().len() as u64;
        channel.send(&message).await.unwrap();
    }
    let (sender, mut receiver) = {
        assert_eq!(channel.traffic().sent_bytes, wanted);
        channel.split()
    };
    drop(sender);
    match &*receiver.recv().await.unwrap_err().kind {
        LinkErrorKind::HelperEnded { status: Some(4), stderr, .. } => assert_eq!(stderr, &[wanted.to_string()]),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn messages_wait_for_a_slow_reader_without_loss() {
    let sshd = Sshd::start();
    let (_link, mut channel, _) = start(sshd.target(), &embedded()).await.unwrap();
    let command = "head -c 400000 /dev/zero | tr '\\0' x".to_owned();
    for request in 0..64 {
        let questions = vec![Question::Output { command: command.clone(), timeout_ms: 60_000 }];
        channel.send(&ToHelper::Ask { request, questions }).await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 64 {
        let Some(FromHelper::Answers { request, .. }) = channel.recv().await.unwrap() else { panic!("answers only") };
        seen.push(request);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..64).collect::<Vec<_>>());
    dismiss(channel).await;
}

/// Waits until no helper runs in sshd's namespace any longer.
async fn until_no_helper_runs(sshd: &Sshd) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !sshd.inside("pgrep -f 'cuisine-helper-[0-9a-f]* serve' || true").is_empty() {
        assert!(Instant::now() < deadline, "the helper still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_dropped_channel_ends_the_helper() {
    let sshd = Sshd::start();
    let (link, channel, _) = start(sshd.target(), &embedded()).await.unwrap();
    drop(channel);
    until_no_helper_runs(&sshd).await;
    assert_eq!(link.exec("true").await.unwrap().status, Some(0), "the connection lives on");
}

#[tokio::test]
async fn a_dropped_link_ends_everything() {
    let sshd = Sshd::start();
    let (link, mut channel, _) = start(sshd.target(), &embedded()).await.unwrap();
    drop(link);
    let error = channel.recv().await.unwrap_err();
    assert!(matches!(&*error.kind, LinkErrorKind::Lost { .. }), "{error}");
    assert!(matches!(&*channel.send(&ToHelper::Bye).await.unwrap_err().kind, LinkErrorKind::Lost { .. }));
    until_no_helper_runs(&sshd).await;
}

#[tokio::test]
async fn a_killed_session_and_a_killed_helper_are_told_apart() {
    let sshd = Sshd::start();
    let (_link, mut channel, _) = start(sshd.target(), &embedded()).await.unwrap();
    sshd.inside("pkill -9 -f 'cuisine-helper-[0-9a-f]* serve'");
    let error = channel.recv().await.unwrap_err();
    assert!(
        matches!(&*error.kind, LinkErrorKind::HelperEnded { signal: Some(signal), .. } if signal == "KILL"),
        "{error}"
    );
    let (_link, mut channel, _) = start(sshd.target(), &embedded()).await.unwrap();
    sshd.inside("kill -9 $(pgrep -n -x sshd -P 1)");
    let error = channel.recv().await.unwrap_err();
    let LinkErrorKind::Lost { why } = &*error.kind else { panic!("{error}") };
    assert!(why.contains("closed") || why.contains("reset"), "{why}");
}

const SUDO: &str = "root ALL=(ALL:ALL) ALL\nfree ALL=(ALL:ALL) NOPASSWD: ALL\nasked ALL=(ALL:ALL) ALL\n\
                    shown ALL=(ALL:ALL) NOPASSWD: ALL\nDefaults:shown requiretty\n\
                    bounded ALL=(ALL:ALL) NOPASSWD: /bin/true\n";

#[tokio::test]
async fn sudo_starts_the_helper_or_says_why_not() {
    if !Path::new("/usr/bin/sudo").exists() {
        eprintln!("skipped: sudo is not installed");
        return;
    }
    let users = ["free", "asked", "shown", "bounded"].map(|name| (name, "/bin/bash"));
    let sshd = Sshd::with(&Options { sudoers: SUDO.to_owned(), ..with_users(&users) });
    let program = embedded();
    let as_root = |user: &str| Target { sudo: true, ..sshd.target_as(user) };
    let (_link, channel, _) = start(as_root("free"), &program).await.unwrap();
    assert_eq!(channel.facts().uid, 0);
    dismiss(channel).await;
    sshd.inside(&format!("test -x /var/lib/ovs-cuisine/bin/cuisine-helper-{}", program.id()));
    for (user, wanted) in [
        ("asked", SudoProblem::PasswordRequired { user: "asked".to_owned() }),
        ("bounded", SudoProblem::PasswordRequired { user: "bounded".to_owned() }),
        ("shown", SudoProblem::TerminalRequired { user: "shown".to_owned() }),
    ] {
        let error = refusal(as_root(user), &program).await;
        let LinkErrorKind::Sudo(problem) = &*error.kind else { panic!("{error:?} {:?}", error.output_tail()) };
        assert!(
            *problem == wanted || matches!((user, problem), ("bounded", SudoProblem::NotAllowed { .. })),
            "{error}"
        );
        assert!(error.hint().is_some());
    }
}

#[tokio::test]
async fn everything_can_be_moved_between_threads() {
    fn send<T: Send + Sync>() {}
    send::<Link>();
    send::<HelperChannel>();
    send::<LinkError>();
    let sshd = Sshd::start();
    let link = Arc::new(Link::connect(shared(sshd.target())).await.unwrap());
    let mut all = JoinSet::new();
    for _ in 0..2 {
        let link = Arc::clone(&link);
        all.spawn(async move {
            let channel = link.start_helper(&embedded(), hello(), |_| {}).await?;
            dismiss(channel).await;
            Ok::<_, LinkError>(())
        });
    }
    for done in all.join_all().await {
        done.unwrap();
    }
}
