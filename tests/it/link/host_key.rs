//! Host keys against a real server.

use std::path::PathBuf;

use ovs_cuisine::control::link::{HostKeyProblem, HostKeys, Link, LinkErrorKind, Target};

use super::{
    connect::fail,
    sshd::{INSIDE, Options, Sshd, keygen, shared},
};

fn listed(sshd: &Sshd, lines: &[String]) -> Target {
    let files = vec![sshd.known_hosts(lines), PathBuf::from("/does/not/exist")];
    Target { host_keys: HostKeys::KnownHosts { files, accept_new_into: None }, ..sshd.target() }
}

fn name(sshd: &Sshd) -> String {
    format!("[127.0.0.1]:{}", sshd.port)
}

async fn problem(target: Target) -> (HostKeyProblem, Option<String>) {
    let error = fail(target).await;
    let hint = error.hint();
    let Ok(LinkErrorKind::HostKey(problem)) = std::sync::Arc::try_unwrap(error.kind) else {
        panic!("not a host key problem")
    };
    (*problem, hint)
}

fn other_key(sshd: &Sshd, kind: &str) -> String {
    let path = sshd.path().join(format!("other_{kind}"));
    keygen(&path, kind, "");
    fs_err::read_to_string(path.with_extension("pub")).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_listed_key_is_good() {
    let sshd = Sshd::start();
    let key = sshd.host_key("ed25519");
    for line in
        [format!("{} {key}", name(&sshd)), format!("[127.*]:*,!other\t{key}   a comment"), format!("127.0.0.1 {key}")]
    {
        Link::connect(shared(listed(&sshd, &["not a line".to_owned(), line]))).await.unwrap();
    }
}

#[tokio::test]
async fn an_unknown_key_is_refused_with_its_fingerprint_and_the_remedy() {
    let sshd = Sshd::start();
    let target = listed(&sshd, &[format!("elsewhere {}", sshd.host_key("ed25519"))]);
    let (problem, hint) = problem(target.clone()).await;
    assert!(matches!(problem, HostKeyProblem::Unknown { .. }), "{problem}");
    let output = std::process::Command::new("ssh-keygen").arg("-lf").arg(sshd.path().join("host_ed25519.pub")).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let fingerprint = text.split(' ').nth(1).unwrap();
    assert!(problem.to_string().contains(fingerprint), "{problem} {fingerprint}");
    // The remedy, done as written, is one.
    let hint = hint.unwrap();
    let command = hint.split_once(": ").unwrap().1;
    assert!(std::process::Command::new("sh").args(["-c", command]).status().unwrap().success(), "{hint}");
    Link::connect(shared(target)).await.unwrap();
}

#[tokio::test]
async fn a_changed_key_is_refused() {
    let sshd = Sshd::start();
    let other = other_key(&sshd, "ed25519");
    let (problem, hint) = problem(listed(&sshd, &[format!("{} {other}", name(&sshd))])).await;
    assert!(matches!(problem, HostKeyProblem::Changed { .. }), "{problem}");
    assert_eq!(problem.to_string().matches("SHA256:").count(), 2, "{problem}");
    assert!(hint.unwrap().contains(&format!("ssh-keygen -R '{}' -f ", name(&sshd))));
}

#[tokio::test]
async fn a_second_key_of_the_same_type_is_no_change() {
    let sshd = Sshd::start();
    let lines = [other_key(&sshd, "ed25519"), sshd.host_key("ed25519")].map(|key| format!("{} {key}", name(&sshd)));
    Link::connect(shared(listed(&sshd, &lines))).await.unwrap();
}

#[tokio::test]
async fn a_revoked_key_is_refused_although_it_is_listed() {
    let sshd = Sshd::start();
    let key = sshd.host_key("ed25519");
    let lines = [format!("{} {key}", name(&sshd)), format!("@revoked * {key}")];
    let (problem, _) = problem(listed(&sshd, &lines)).await;
    assert!(matches!(problem, HostKeyProblem::Revoked { line: 2, .. }), "{problem}");
}

#[tokio::test]
async fn the_known_type_is_asked_for() {
    let sshd = Sshd::with(&Options { host_keys: vec!["ed25519", "rsa"], ..Options::default() });
    Link::connect(shared(listed(&sshd, &[format!("{} {}", name(&sshd), sshd.host_key("rsa"))]))).await.unwrap();
}

#[tokio::test]
async fn a_host_known_by_another_type_is_its_own_problem() {
    let sshd = Sshd::start();
    let lines = [format!("{} {}", name(&sshd), other_key(&sshd, "rsa"))];
    let mut target = listed(&sshd, &lines);
    let (found, _) = problem(target.clone()).await;
    assert!(matches!(found, HostKeyProblem::OtherType { .. }), "{found}");
    // Taking new keys does not cover it.
    let into = sshd.path().join("known_hosts");
    target.host_keys = HostKeys::KnownHosts { files: Vec::new(), accept_new_into: Some(into.clone()) };
    let (found, _) = problem(target).await;
    assert!(matches!(found, HostKeyProblem::OtherType { .. }), "{found}");
    assert_eq!(fs_err::read_to_string(into).unwrap().lines().count(), 1);
}

#[tokio::test]
async fn a_new_key_is_taken_once_when_that_is_allowed() {
    let sshd = Sshd::start();
    let into = sshd.path().join("keys/lab/known_hosts");
    let mut target = sshd.target();
    target.host_keys = HostKeys::KnownHosts { files: Vec::new(), accept_new_into: Some(into.clone()) };
    Link::connect(shared(target.clone())).await.unwrap();
    let text = fs_err::read_to_string(&into).unwrap();
    assert_eq!(text, format!("{} {}\n", name(&sshd), sshd.host_key("ed25519")));
    Link::connect(shared(target.clone())).await.unwrap();
    assert_eq!(fs_err::read_to_string(&into).unwrap(), text);
    // A changed key is not a new one.
    fs_err::write(&into, format!("{} {}\n", name(&sshd), other_key(&sshd, "ed25519"))).unwrap();
    let (problem, _) = problem(target).await;
    assert!(matches!(problem, HostKeyProblem::Changed { .. }), "{problem}");
}

#[tokio::test]
async fn a_pinned_key_is_the_only_good_one() {
    let sshd = Sshd::start();
    let mut target = sshd.target();
    target.host_keys = HostKeys::Pinned(vec![other_key(&sshd, "ed25519")]);
    let (problem, _) = problem(target.clone()).await;
    assert!(matches!(problem, HostKeyProblem::NotPinned { .. }), "{problem}");
    target.host_keys = HostKeys::Pinned(vec!["ssh-ed25519 AAAA".to_owned()]);
    assert!(matches!(&*fail(target).await.kind, LinkErrorKind::KnownHosts(_)));
}

#[tokio::test]
async fn an_unreadable_file_is_an_error_and_not_an_empty_one() {
    let sshd = Sshd::start();
    let mut target = sshd.target();
    // A directory cannot be read as a file, not even by root.
    target.host_keys = HostKeys::KnownHosts { files: vec![sshd.path().to_owned()], accept_new_into: None };
    let error = fail(target).await;
    assert!(matches!(&*error.kind, LinkErrorKind::KnownHosts(_)), "{error}");
    assert!(error.to_string().contains("cannot read"), "{error}");
}

/// Makes an authority, has it sign the host's key with these arguments, and has sshd show the certificate.
fn certified(arguments: &[&str]) -> (Sshd, String) {
    let outer = tempfile::tempdir().unwrap();
    let authority = outer.path().join("authority");
    keygen(&authority, "ed25519", "");
    let (host, shown) = (outer.path().join("host"), outer.path().join("host-cert.pub"));
    keygen(&host, "ed25519", "");
    let signed = std::process::Command::new("ssh-keygen")
        .args(["-q", "-I", "test", "-s"])
        .arg(&authority)
        .args(arguments)
        .arg(host.with_extension("pub"))
        .output()
        .unwrap();
    assert!(signed.status.success(), "{signed:?}");
    let config = format!("HostKey {INSIDE}/host\nHostCertificate {INSIDE}/host-cert.pub\n");
    let files = vec![host, shown];
    let sshd = Sshd::with(&Options { config, files, host_keys: vec!["rsa"], ..Options::default() });
    let authority = fs_err::read_to_string(authority.with_extension("pub")).unwrap();
    (sshd, format!("@cert-authority *,[*]:* {}", authority.trim()))
}

#[tokio::test]
async fn a_certificate_of_a_known_authority_is_good() {
    let (sshd, authority) = certified(&["-h", "-n", "127.0.0.1"]);
    Link::connect(shared(listed(&sshd, &[authority]))).await.unwrap();
}

#[tokio::test]
async fn certificates_that_are_not_for_this_host_are_refused() {
    let cases: [(&[&str], &str); 3] = [
        (&["-h", "-n", "elsewhere"], "it is for elsewhere"),
        (&["-h", "-n", "127.0.0.1", "-V", "20200101:20200201"], "expired"),
        (&["-n", "127.0.0.1"], "user's"),
    ];
    for (arguments, why) in cases {
        // sshd itself refuses to show a user's certificate, so the host is unknown then.
        let (sshd, authority) = certified(arguments);
        let (problem, _) = problem(listed(&sshd, &[authority])).await;
        match problem {
            HostKeyProblem::Certificate { why: said, .. } => assert!(said.contains(why), "{said}"),
            HostKeyProblem::Unknown { .. } if why == "user's" => {}
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn without_an_authority_the_plain_key_is_asked_for() {
    let (sshd, _) = certified(&["-h", "-n", "127.0.0.1"]);
    let lines = [format!("{} {}", name(&sshd), sshd.host_key("rsa"))];
    Link::connect(shared(listed(&sshd, &lines))).await.unwrap();
}

#[tokio::test]
async fn a_revoked_authority_certifies_nothing() {
    let (sshd, authority) = certified(&["-h", "-n", "127.0.0.1"]);
    let revoked = authority.replacen("@cert-authority", "@revoked", 1);
    let (problem, _) = problem(listed(&sshd, &[authority, revoked])).await;
    assert!(matches!(problem, HostKeyProblem::Revoked { .. }), "{problem}");
}
