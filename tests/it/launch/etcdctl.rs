//! `ovs-launch` under the name `etcdctl`: what arakoon and alba fork.

use std::{
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output, Stdio},
};

use super::{
    Lab,
    v2::{Forwarder, root_link},
};

/// A directory with the launcher as `etcdctl`.
fn place() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ovs-launch"), directory.path().join("etcdctl")).unwrap();
    directory
}

fn run(place: &tempfile::TempDir, arguments: &[&str], path: &str) -> (Option<i32>, String, String) {
    let program = place.path().join("etcdctl");
    let output: Output = Command::new(program).args(arguments).env("PATH", path).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn the_two_calls_read_and_write() {
    let lab = Lab::new(&["--enable-v2"]).await;
    let ours = Forwarder::start(&root_link(&lab.etcd));
    let place = place();
    // Against etcd's own v2 API and against ours it is the same.
    for port in [lab.etcd.port, ours.port] {
        let peers = format!("--peers=127.0.0.1:{port}");
        let call = |words: &[&str]| run(&place, &[&[peers.as_str()], words].concat(), "");
        let value = "[global]\ncluster = n1\n# ä & = % \"\n";
        assert_eq!(call(&["set", "/ovs/ara koon/config", value]), (Some(0), format!("{value}\n"), String::new()));
        assert_eq!(call(&["get", "--quorum", "ovs/ara koon/config"]), (Some(0), format!("{value}\n"), String::new()));
        assert_eq!(call(&["set", "/ovs/empty", ""]), (Some(0), "\n".to_owned(), String::new()));
        assert_eq!(call(&["get", "--quorum", "/ovs/empty"]), (Some(0), "\n".to_owned(), String::new()));
        let (code, stdout, stderr) = call(&["get", "--quorum", "/x/y"]);
        assert_eq!((code, stdout.as_str()), (Some(4), ""));
        assert!(stderr.starts_with("Error:  100: Key not found (/x) [") && stderr.ends_with("]\n"), "{stderr}");
        let (code, _, stderr) = call(&["set", "/ovs", "1"]);
        assert_eq!(code, Some(4));
        assert!(stderr.starts_with("Error:  102: Not a file (/ovs) ["), "{stderr}");
        let told = (Some(1), String::new(), "/ovs: is a directory\n".to_owned());
        assert_eq!(call(&["get", "--quorum", "/ovs"]), told);
    }
    let (code, _, stderr) = run(&place, &["--peers=127.0.0.1:1", "get", "--quorum", "/x"], "");
    assert_eq!(code, Some(4));
    assert!(stderr.starts_with("Error:  client: etcd cluster is unavailable or misconfigured\n"), "{stderr}");
    assert!(stderr.contains("127.0.0.1:1: ") && stderr.contains("refused"), "{stderr}");
}

#[test]
fn anything_else_is_for_another_etcdctl() {
    let (place, other) = (place(), tempfile::tempdir().unwrap());
    let own = place.path().display().to_string();
    let (code, _, stderr) = run(&place, &["member", "list"], &own);
    assert_eq!(code, Some(1), "it is not run by itself for ever");
    assert!(stderr.contains("ovs-launch in etcdctl's place") && stderr.contains("get --quorum PATH"), "{stderr}");
    let program = other.path().join("etcdctl");
    fs_err::write(&program, "#!/bin/sh\necho another \"$@\"\nexit 5\n").unwrap();
    fs_err::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("relative:{own}:{}", other.path().display());
    let told = (Some(5), "another member list -w json\n".to_owned(), String::new());
    assert_eq!(run(&place, &["member", "list", "-w", "json"], &path), told);
}
