//! Connecting and logging in, and every way in which that fails.

use std::{
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use ovs_cuisine::control::link::{Identity, KeyError, Link, LinkError, LinkErrorKind, Phase, Target};
use tokio::{net::TcpListener, task::JoinSet};

use super::sshd::{Options, Sshd, free_port, keygen, shared};

pub(super) async fn fail(target: Target) -> LinkError {
    match Link::connect(shared(target)).await {
        Ok(_) => panic!("the connection should fail"),
        Err(error) => error,
    }
}

fn quick(mut target: Target) -> Target {
    target.timeouts.phase = Duration::from_millis(300);
    target.timeouts.busy = Duration::from_millis(300);
    target
}

#[tokio::test]
async fn a_key_logs_in_and_a_command_runs() {
    let sshd = Sshd::start();
    let link = Link::connect(shared(sshd.target())).await.unwrap();
    let output = link.exec("echo out; echo err >&2; exit 7").await.unwrap();
    assert_eq!(
        (output.status, output.stdout.as_slice(), output.stderr.as_slice()),
        (Some(7), &b"out\n"[..], &b"err\n"[..])
    );
    link.close().await;
}

#[tokio::test]
async fn nothing_listens() {
    let mut target = Target::new("node-1", "127.0.0.1", "root");
    target.port = free_port();
    target.identities = vec![Identity::Agent];
    let error = fail(quick(target)).await;
    assert!(matches!(&*error.kind, LinkErrorKind::Refused { .. }), "{error}");
    assert!(error.to_string().starts_with("`node-1`: connection refused by `127.0.0.1` port "), "{error}");
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn a_name_without_address() {
    let mut target = Target::new("node-1", "no-such-host.invalid", "root");
    target.identities = vec![Identity::Agent];
    let error = fail(target).await;
    assert!(matches!(&*error.kind, LinkErrorKind::Resolve { .. }), "{error}");
}

/// A server that accepts and then does what `says` wants.
async fn listener(says: &'static [u8], hang_up: bool) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::io::AsyncWriteExt::write_all(&mut stream, says).await.unwrap();
            if !hang_up {
                kept.push(stream);
            }
        }
    });
    port
}

async fn deadline_of(says: &'static [u8]) -> Phase {
    let mut target = quick(Target::new("node-1", "127.0.0.1", "root"));
    target.port = listener(says, false).await;
    target.identities = vec![Identity::Agent];
    let begun = Instant::now();
    let error = fail(target).await;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    match &*error.kind {
        LinkErrorKind::Deadline { phase, after } => {
            assert_eq!(*after, Duration::from_millis(300));
            assert!(error.to_string().contains(&format!("{phase} timed out after 300 ms")), "{error}");
            *phase
        }
        _ => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_mute_server_is_given_up() {
    assert_eq!(deadline_of(b"").await, Phase::Banner);
    assert_eq!(deadline_of(b"welcome to this machine\r\n").await, Phase::Banner);
    assert_eq!(deadline_of(b"SSH-2.0-Mute\r\n").await, Phase::KeyExchange);
}

#[tokio::test]
async fn what_is_not_ssh_is_called_so() {
    let mut target = quick(Target::new("node-1", "127.0.0.1", "root"));
    target.port = listener(b"HTTP/1.1 400 Bad Request\r\n\r\n", true).await;
    target.identities = vec![Identity::Agent];
    let error = fail(target).await;
    assert!(matches!(&*error.kind, LinkErrorKind::NotSsh { .. }), "{error}");
}

#[tokio::test]
async fn hanging_up_at_once_is_tried_again_and_then_named() {
    let mut target = quick(Target::new("node-1", "127.0.0.1", "root"));
    target.port = listener(b"", true).await;
    target.identities = vec![Identity::Agent];
    let error = fail(target).await;
    assert!(matches!(&*error.kind, LinkErrorKind::Closed { phase: Phase::Banner, .. }), "{error}");
}

#[tokio::test]
async fn a_starting_machine_is_waited_for() {
    let sshd = Sshd::start();
    let (target, real) = (sshd.target(), sshd.port);
    // Nothing at first, then something that hangs up, then sshd.
    let port = free_port();
    let target = shared(Target { port, ..target });
    let connecting = tokio::spawn(Link::connect_when_ready(Arc::clone(&target), Duration::from_secs(30)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    drop(listener.accept().await.unwrap());
    let forward = tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, real)).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let link = connecting.await.unwrap().unwrap();
    assert_eq!(link.exec("true").await.unwrap().status, Some(0));
    forward.abort();
}

#[tokio::test]
async fn waiting_for_a_machine_has_an_end() {
    let mut target = Target::new("node-1", "127.0.0.1", "root");
    target.port = free_port();
    target.identities = vec![Identity::Agent];
    let waited = Link::connect_when_ready(shared(target), Duration::from_millis(200)).await;
    assert!(matches!(&*waited.unwrap_err().kind, LinkErrorKind::Refused { .. }));
}

#[tokio::test]
async fn a_refused_key_is_listed() {
    let sshd = Sshd::start();
    let other = sshd.path().join("other");
    keygen(&other, "ed25519", "");
    let mut target = sshd.target();
    target.identities = vec![Identity::KeyFile(other.clone())];
    // Refused at once, also when a machine is waited for.
    let error = Link::connect_when_ready(shared(target), Duration::from_secs(60)).await.unwrap_err();
    let LinkErrorKind::Refusal { user, offered, accepts } = &*error.kind else { panic!("{error}") };
    assert_eq!((user.as_str(), offered.len(), accepts.as_slice()), ("root", 1, &["publickey".to_owned()][..]));
    assert!(offered[0].starts_with("ED25519 SHA256:") && offered[0].contains(&*other.to_string_lossy()), "{error}");
}

#[tokio::test]
async fn keys_that_cannot_be_used_are_named_before_dialling() {
    let directory = tempfile::tempdir().unwrap();
    let fail_with = |path: &Path| {
        let mut target = Target::new("node-1", "192.0.2.1", "root");
        target.identities = vec![Identity::KeyFile(path.to_owned())];
        fail(target)
    };
    let missing = directory.path().join("missing");
    let error = fail_with(&missing).await;
    assert!(matches!(&*error.kind, LinkErrorKind::Key(KeyError::Missing { .. })), "{error}");
    let open = directory.path().join("open");
    keygen(&open, "ed25519", "");
    fs_err::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = fail_with(&open).await;
    assert!(matches!(&*error.kind, LinkErrorKind::Key(KeyError::TooOpen { mode: 0o644, .. })), "{error}");
    assert_eq!(error.hint().unwrap(), format!("chmod 600 {}", open.display()));
    let garbage = directory.path().join("garbage");
    fs_err::write(&garbage, "garbage").unwrap();
    fs_err::set_permissions(&garbage, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(&*fail_with(&garbage).await.kind, LinkErrorKind::Key(KeyError::Format { .. })));
}

#[tokio::test]
async fn an_encrypted_key_needs_the_agent() {
    let sshd = Sshd::start();
    let encrypted = sshd.path().join("encrypted");
    keygen(&encrypted, "ed25519", "secret");
    let mut target = sshd.target();
    target.identities = vec![Identity::KeyFile(encrypted.clone())];
    let error = fail(target).await;
    assert!(matches!(&*error.kind, LinkErrorKind::Key(KeyError::Encrypted { .. })), "{error}");
    assert_eq!(error.hint().unwrap(), format!("ssh-add {}", encrypted.display()));
}

#[tokio::test]
async fn rsa_keys_sign_with_sha2() {
    let sshd = Sshd::start();
    for (name, kind) in [("rsa", "rsa"), ("ecdsa", "ecdsa")] {
        let key = sshd.path().join(name);
        keygen(&key, kind, "");
        fs_err::copy(key.with_extension("pub"), sshd.path().join("authorized_keys")).unwrap();
        let mut target = sshd.target();
        target.identities = vec![Identity::KeyFile(key)];
        Link::connect(shared(target)).await.unwrap();
    }
}

#[tokio::test]
async fn only_the_named_key_is_offered() {
    // Two tries are all that this server grants.
    let sshd = Sshd::with(&Options { config: "MaxAuthTries 2\n".to_owned(), ..Options::default() });
    let mut many = sshd.target();
    many.identities.clear();
    for number in 0..4 {
        let key = sshd.path().join(format!("wrong-{number}"));
        keygen(&key, "ed25519", "");
        many.identities.push(Identity::KeyFile(key));
    }
    many.identities.push(Identity::KeyFile(sshd.key()));
    let error = fail(many).await;
    let LinkErrorKind::Refusal { offered, .. } = &*error.kind else { panic!("{error}") };
    assert!(offered.last().unwrap().contains("Too many authentication failures"), "{error}");
    Link::connect(shared(sshd.target())).await.unwrap();
}

/// An ssh-agent of our own. Its socket's path is what `SSH_AUTH_SOCK` would be.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Needs its own process: the environment of this one is shared by all tests.
#[tokio::test]
async fn the_agent_signs() {
    const INNER: &str = "OVS_CUISINE_IT_AGENT";
    if std::env::var_os(INNER).is_some() {
        let sshd = Sshd::start();
        fs_err::copy(std::env::var_os(INNER).unwrap(), sshd.path().join("authorized_keys")).unwrap();
        let mut target = sshd.target();
        target.identities = vec![Identity::Agent];
        Link::connect(shared(target.clone())).await.unwrap();
        // Encrypted in its file, open in the agent.
        let file = Path::new(&std::env::var_os(INNER).unwrap()).with_extension("");
        target.identities = vec![Identity::KeyFile(file)];
        Link::connect(shared(target)).await.unwrap();
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent");
    let _agent =
        Agent(Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap());
    for _ in 0..1000 {
        if socket.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for kind in ["rsa", "ed25519"] {
        let key = directory.path().join(kind);
        keygen(&key, kind, "");
        let added = Command::new("ssh-add").arg(&key).env("SSH_AUTH_SOCK", &socket).output().unwrap();
        assert!(added.status.success(), "{added:?}");
        let encrypted = Command::new("ssh-keygen").args(["-q", "-p", "-N", "secret", "-f"]).arg(&key).output().unwrap();
        assert!(encrypted.status.success(), "{encrypted:?}");
        let inner = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "link::connect::the_agent_signs", "--nocapture"])
            .env(INNER, key.with_extension("pub"))
            .env("SSH_AUTH_SOCK", &socket)
            .output()
            .unwrap();
        assert!(inner.status.success(), "{}", String::from_utf8_lossy(&inner.stdout));
        assert!(String::from_utf8_lossy(&inner.stdout).contains("1 passed"), "it did not run");
    }
}

#[tokio::test]
async fn thirty_at_once_pass_a_narrow_door() {
    let sshd = Sshd::with(&Options { config: "MaxStartups 3:30:10\n".to_owned(), ..Options::default() });
    let mut target = sshd.target();
    target.timeouts.busy = Duration::from_secs(120);
    let target = shared(target);
    let mut all = JoinSet::new();
    for number in 0..30 {
        let target = Arc::clone(&target);
        all.spawn(async move {
            let link = Link::connect(target).await?;
            let output = link.exec(&format!("echo {number}")).await?;
            assert_eq!(output.stdout, format!("{number}\n").into_bytes());
            Ok::<_, LinkError>(())
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap().unwrap();
    }
}

fn behind(bastion: &Sshd, target: Target) -> Target {
    let mut hop = bastion.target();
    "bastion".clone_into(&mut hop.name);
    Target { jump: vec![hop], ..target }
}

#[tokio::test]
async fn one_bastion_connection_carries_all() {
    let options = Options { config: "MaxStartups 3:30:10\nMaxSessions 1\n".to_owned(), ..Options::default() };
    let (bastion, sshd) = (Sshd::with(&options), Sshd::start());
    let target = shared(behind(&bastion, sshd.target()));
    let mut all = JoinSet::new();
    for _ in 0..30 {
        let target = Arc::clone(&target);
        all.spawn(async move {
            let link = Link::connect(target).await?;
            Ok::<_, LinkError>((link.exec("true").await?.status, link))
        });
    }
    // The links live until all have connected.
    let done = all.join_all().await;
    assert!(done.iter().all(|result| matches!(result, Ok((Some(0), _)))), "{done:?}");
    let logins = bastion.log().matches("Accepted publickey").count();
    assert_eq!(logins, 1, "{}", bastion.log());
}

#[tokio::test]
async fn three_hops_with_their_own_keys() {
    let hops = [Sshd::start(), Sshd::start(), Sshd::start()];
    let sshd = Sshd::start();
    let jump = hops.iter().map(Sshd::target).collect();
    let link = Link::connect(shared(Target { jump, ..sshd.target() })).await.unwrap();
    assert_eq!(link.exec("true").await.unwrap().status, Some(0));
}

#[tokio::test]
async fn failures_behind_a_jump_host_say_where() {
    let (bastion, sshd) = (Sshd::start(), Sshd::start());
    // At the host itself: nothing listens there, seen from the jump host.
    let error = fail(behind(&bastion, Target { port: free_port(), ..sshd.target() })).await;
    assert!(matches!(&*error.kind, LinkErrorKind::Refused { .. }) && error.hop.is_none(), "{error:?}");
    // At the jump host: its key is not the pinned one.
    let mut target = behind(&bastion, sshd.target());
    target.jump[0].host_keys = sshd.target().host_keys;
    let error = fail(target).await;
    assert!(matches!(&*error.kind, LinkErrorKind::HostKey(_)), "{error}");
    assert_eq!(error.hop.as_ref().map(|hop| (hop.number, hop.name.as_str())), Some((1, "bastion")));
    assert!(error.to_string().starts_with("`node-1` by jump host 1 `bastion`: the host key of "), "{error}");
    // At the second jump host: no login.
    let mut target = behind(&bastion, sshd.target());
    let mut second = sshd.target_as("nobody-here");
    second.name = "inner".to_owned();
    target.jump.push(second);
    let error = fail(target).await;
    assert!(matches!(&*error.kind, LinkErrorKind::Refusal { .. }), "{error}");
    assert_eq!(error.hop.as_ref().map(|hop| (hop.number, hop.name.as_str())), Some((2, "inner")));
}

#[tokio::test]
async fn a_jump_host_that_forbids_forwarding_is_named() {
    let bastion = Sshd::with(&Options { config: "AllowTcpForwarding no\n".to_owned(), ..Options::default() });
    let sshd = Sshd::start();
    let error = fail(behind(&bastion, sshd.target())).await;
    assert!(matches!(&*error.kind, LinkErrorKind::ForwardingForbidden { .. }), "{error}");
    assert!(error.hint().unwrap().contains("AllowTcpForwarding"), "{error}");
}

#[tokio::test]
async fn a_dead_jump_host_fails_all_behind_it_once() {
    let sshd = Sshd::start();
    let mut target = sshd.target();
    let mut hop = quick(Target::new("bastion", "127.0.0.1", "root"));
    hop.port = listener(b"", false).await;
    hop.identities = vec![Identity::Agent];
    target.jump = vec![hop];
    let target = shared(target);
    let begun = Instant::now();
    let mut all = JoinSet::new();
    for _ in 0..40 {
        all.spawn(Link::connect(Arc::clone(&target)));
    }
    for done in all.join_all().await {
        let error = done.unwrap_err();
        assert!(matches!(&*error.kind, LinkErrorKind::Deadline { phase: Phase::Banner, .. }), "{error}");
        assert_eq!(error.hop.as_ref().map(|hop| hop.number), Some(1));
    }
    assert!(begun.elapsed() < 20 * Duration::from_millis(300), "each host waited by itself");
}
