//! Who reads what in etcd: each component its own, and what its recipe says besides.

use std::collections::BTreeMap;

use etcd_client::{Client, Compare, CompareOp, ConnectOptions, GetOptions, Txn, TxnOp};
use serde_json::Value;

use crate::support::lab::TestLab;

fn secret(lab: &TestLab, name: &str) -> String {
    let keys = fs_err::read_dir(lab.path("keys")).unwrap().next().unwrap().unwrap().path();
    fs_err::read_to_string(keys.join("passwords").join(name)).unwrap().trim().to_owned()
}

async fn client(lab: &TestLab, login: Option<(&str, &str)>) -> Client {
    let options = login.map(|(user, password)| ConnectOptions::new().with_user(user, password));
    Client::connect([format!("http://{}:2379", lab.address("etcd"))], options).await.unwrap()
}

/// The keys of each component, as our own records say.
async fn owned(lab: &TestLab, root: &mut Client) -> BTreeMap<String, Vec<String>> {
    let prefix = format!("/ovs-cuisine/{}/owned/", lab.container("").trim_end_matches('-'));
    let found = root.get(prefix.as_str(), Some(GetOptions::new().with_prefix())).await.unwrap();
    let mut all = BTreeMap::new();
    for record in found.kvs() {
        let component = record.key_str().unwrap().strip_prefix(&prefix).unwrap().to_owned();
        let record: Value = serde_json::from_slice(record.value()).unwrap();
        let keys: Vec<String> = record["keys"].as_object().unwrap().keys().cloned().collect();
        if !keys.is_empty() {
            all.insert(component, keys);
        }
    }
    all
}

/// What the recipes say that a login reads besides its own, as prefixes.
fn widened(component: &str) -> &'static [&'static str] {
    match component {
        // The framework looks at everything that it manages.
        "controller" => &["/ovs/arakoon/", "/ovs/vpools/", "/ovs/alba/"],
        // The agent finds ASDs and backends by their keys, and asks whether there is RDMA.
        "agent" => &["/ovs/alba/asds/", "/ovs/alba/backends/", "/ovs/arakoon/", "/ovs/framework/rdma"],
        _ => &[],
    }
}

/// What a login may write: what its program keeps up to date by itself.
fn writable(component: &str) -> &'static str {
    match component {
        "controller" => "/ovs/framework/",
        "agent" => "/ovs/alba/asdnodes/",
        _ => "nothing",
    }
}

#[tokio::main(flavor = "current_thread")]
pub(super) async fn each_component_reads_its_own(lab: &TestLab) {
    let mut root = client(lab, Some(("root", &secret(lab, "secret.etcd.root")))).await;
    let all = owned(lab, &mut root).await;
    assert!(all.len() >= 10, "{:?}", all.keys());
    let mut refused = 0;
    for (component, keys) in &all {
        let password = secret(lab, &format!("login.{component}"));
        let mut own = client(lab, Some((component, &password))).await;
        for key in keys {
            let found = own.get(key.as_str(), None).await.unwrap_or_else(|error| panic!("{component} {key}: {error}"));
            assert_eq!(found.kvs().len(), 1, "{component} {key}");
        }
        for (other, keys) in all.iter().filter(|(other, _)| *other != component) {
            for key in keys {
                let may = widened(component).iter().any(|range| key.starts_with(range));
                let got = own.get(key.as_str(), None).await;
                assert_eq!(got.is_ok(), may, "{component} reads {key} of {other}");
                refused += usize::from(!may);
            }
        }
        let everything = own.get("/", Some(GetOptions::new().with_prefix())).await;
        assert!(everything.is_err(), "{component} lists everything");
        for key in keys {
            // Asked for in a transaction that never comes to pass: permissions are looked at all the same.
            let never = [Compare::version(key.as_str(), CompareOp::Equal, 1 << 40)];
            let write = Txn::new().when(never).and_then([TxnOp::put(key.as_str(), "x", None)]);
            let written = own.txn(write).await;
            assert_eq!(written.is_ok(), key.starts_with(writable(component)), "{component} writes {key}");
        }
    }
    eprintln!("logins: {} components, {refused} keys of others refused", all.len());
}

#[tokio::main(flavor = "current_thread")]
pub(super) async fn nobody_reads_anything(lab: &TestLab) {
    let mut nobody = client(lab, None).await;
    for key in ["/ovs/framework/cluster_id", "/ovs/", "/"] {
        let options = key.ends_with('/').then(|| GetOptions::new().with_prefix());
        assert!(nobody.get(key, options).await.is_err(), "anonymous reads {key}");
    }
    assert!(nobody.put("/ovs/x", "x", None).await.is_err());
}
