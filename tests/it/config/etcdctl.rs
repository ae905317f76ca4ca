//! Logins over TLS, as `etcdctl` sees them.

use ovs_cuisine::control::config::{Grant, LoginMode};

use super::{
    component, deploy, secret,
    server::{Etcd, Tls},
    wish,
};
use crate::support::etcdctl::{Call, End, Etcdctl};

#[tokio::test]
async fn logins_hold_over_tls() {
    let (tls, other) = (Tls::new("localhost"), Tls::new("localhost"));
    let etcd = Etcd::start_tls(tls.clone());
    let store = etcd.store().await;
    for (name, prefix) in [("agent", "/ovs/agent/"), ("other", "/ovs/other/")] {
        let grants = [Grant::read(prefix)];
        store.ensure_login(&component(name), &grants, &secret("pw"), LoginMode::Apply).await.unwrap();
    }
    deploy(&store, &wish(&[("a", "1"), ("b", "2")])).await;

    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs_err::write(&path, text).unwrap();
        Some(path.display().to_string())
    };
    let endpoint = format!("https://localhost:{}", etcd.port);
    let etcdctl = Etcdctl { endpoint: endpoint.clone(), ca: place("ca.pem", &tls.ca) };
    let login = |name: &str| (name.to_owned(), "pw".to_owned());
    let (agent, other_login) = (login("agent"), login("other"));
    let read = ["get", "/ovs/agent/", "--prefix"];
    let lines = ["/ovs/agent/a", "1", "/ovs/agent/b", "2"].map(str::to_owned).to_vec();
    let mut calls = vec![
        Call::new(Some(&agent), &read, End::Lines(lines)),
        Call::new(Some(&agent), &["put", "/ovs/agent/a", "x"], End::Refused),
        Call::new(Some(&other_login), &read, End::Refused),
        Call::new(None, &read, End::Refused),
    ];
    for login in [Some(&agent), Some(&other_login), None] {
        calls.extend(Call::administration(login));
    }
    assert_eq!(etcdctl.wrong(&calls), Vec::<String>::new());

    let distrusting = Etcdctl { endpoint, ca: place("other.pem", &other.ca) };
    let said = distrusting.call(Some(&agent), &["--command-timeout", "3s", "--dial-timeout", "3s", "get", "/"]);
    assert!(said.is_err(), "another CA's etcd is not talked to");
    let plain = Etcdctl { endpoint: format!("http://localhost:{}", etcd.port), ca: None };
    assert!(plain.call(Some(&agent), &["--command-timeout", "3s", "--dial-timeout", "3s", "get", "/"]).is_err());
}
