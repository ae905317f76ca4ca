//! Who reads what in etcd: each component its own, and what its recipe says besides.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use etcd_client::{Client, Compare, CompareOp, ConnectOptions, GetOptions, Txn, TxnOp};
use serde_json::Value;

use crate::support::{
    etcdctl::{Call, End, Etcdctl},
    lab::TestLab,
};

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
    let mut root = client(lab, Some(("root", &lab.password("secret.etcd.root")))).await;
    let all = owned(lab, &mut root).await;
    assert!(all.len() >= 10, "{:?}", all.keys());
    let mut refused = 0;
    for (component, keys) in &all {
        let password = lab.password(&format!("login.{component}"));
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

/// What a role may touch, as `etcdctl role get` says it; whole prefixes end in `/`.
#[derive(Default)]
struct Role {
    reads: BTreeSet<String>,
    writes: BTreeSet<String>,
}

impl Role {
    fn parse(lines: &[String]) -> Self {
        let (mut role, mut writes) = (Self::default(), false);
        for line in lines {
            match (line.trim(), line.starts_with('\t')) {
                ("KV Read:", _) => writes = false,
                ("KV Write:", _) => writes = true,
                (range, true) => {
                    let prefix = range.split_once("(prefix ").map(|(_, rest)| rest.trim_end_matches(')'));
                    let range = prefix.unwrap_or(range).to_owned();
                    if writes {
                        role.writes.insert(range)
                    } else {
                        role.reads.insert(range)
                    };
                }
                _ => {}
            }
        }
        role
    }

    fn may_read(&self, key: &str) -> bool {
        self.reads.iter().any(|range| if range.ends_with('/') { key.starts_with(range) } else { key == range })
    }
}

/// The same as its user would see it: real `etcdctl` with each component's login.
pub(super) fn etcdctl_says_the_same(lab: &TestLab) {
    let etcdctl = Etcdctl { endpoint: format!("http://{}:2379", lab.address("etcd")), ca: None };
    let root = ("root".to_owned(), lab.password("secret.etcd.root"));
    let by_root = |words: &[&str]| etcdctl.call(Some(&root), words).unwrap();
    let there = by_root(&["get", "/ovs/", "--prefix", "--keys-only"]);
    let owned = owned_keys(lab);
    let users: Vec<String> = by_root(&["user", "list"]).into_iter().filter(|user| user != "root").collect();
    assert_eq!(users.iter().collect::<Vec<_>>(), owned.keys().collect::<Vec<_>>(), "one login for each component");
    let roles: BTreeMap<&String, Role> =
        users.iter().map(|user| (user, Role::parse(&by_root(&["role", "get", user])))).collect();
    let (mut calls, mut writes) = (Call::administration(None), Vec::new());
    for (component, role) in &roles {
        are_as_granted(component, role, &owned);
        let login = ((*component).clone(), lab.password(&format!("login.{component}")));
        for range in &role.reads {
            let keys = there.iter().filter(|key| key.starts_with(range.as_str())).cloned().collect();
            let words = ["get", range, "--prefix", "--keys-only"];
            let words = if range.ends_with('/') { &words[..] } else { &words[..2] };
            let end = if range.ends_with('/') { End::Lines(keys) } else { End::Done };
            calls.push(Call::new(Some(&login), words, end));
            calls.push(Call::new(None, words, End::Refused));
        }
        // What others have, by their own prefixes.
        for (other, keys) in owned.iter().filter(|(other, _)| other != component) {
            let own = |range: &&String| keys.iter().any(|key| key.starts_with(range.as_str()));
            let widened = widened(other);
            for range in roles[other].reads.iter().filter(own).filter(|range| !widened.contains(&range.as_str())) {
                let may = role.may_read(range);
                let end = if may { End::Done } else { End::Refused };
                calls.push(Call::new(Some(&login), &["get", range, "--prefix", "--keys-only"], end));
            }
        }
        let key = owned[*component].iter().find(|key| !key.starts_with(writable(component)));
        for key in key.into_iter().map(String::as_str) {
            calls.push(Call::new(Some(&login), &["put", key, "x"], End::Refused));
            calls.push(Call::new(Some(&login), &["del", key], End::Refused));
            calls.push(Call::new(None, &["put", key, "x"], End::Refused));
        }
        for range in &role.writes {
            let own = format!("{range}written-by-etcdctl");
            writes.push(Call::new(Some(&login), &["put", &own, "x"], End::Done));
        }
        calls.extend(Call::administration(Some(&login)));
    }
    let begun = Instant::now();
    let mut wrong = etcdctl.wrong(&calls);
    // Afterwards: what is written here others would list.
    wrong.extend(etcdctl.wrong(&writes));
    eprintln!("logins: {} calls of etcdctl in {:.1} s", calls.len(), begun.elapsed().as_secs_f32());
    assert_eq!(wrong, Vec::<String>::new());
    for range in roles.values().flat_map(|role| &role.writes) {
        by_root(&["del", &format!("{range}written-by-etcdctl")]);
    }
    assert_eq!(by_root(&["get", "/ovs/", "--prefix", "--keys-only"]), there);
}

#[tokio::main(flavor = "current_thread")]
async fn owned_keys(lab: &TestLab) -> BTreeMap<String, Vec<String>> {
    let mut root = client(lab, Some(("root", &lab.password("secret.etcd.root")))).await;
    owned(lab, &mut root).await
}

/// A role holds its component's prefixes and what the recipe's `access(ctx)` adds, and nothing else.
fn are_as_granted(component: &str, role: &Role, owned: &BTreeMap<String, Vec<String>>) {
    let own = &owned[component];
    assert!(own.iter().all(|key| role.may_read(key)), "{component} does not read all of its own");
    let added: BTreeSet<&str> = widened(component).iter().copied().collect();
    let others: Vec<&String> = owned.iter().filter(|(name, _)| *name != component).flat_map(|(_, keys)| keys).collect();
    for range in &role.reads {
        let is_own = own.iter().any(|key| key.starts_with(range.as_str()));
        let is_added = added.contains(range.as_str());
        assert!(is_own != is_added, "{component} may read {range}");
        let foreign = others.iter().find(|key| key.starts_with(range.as_str()));
        assert!(is_added || foreign.is_none(), "{component} reads {foreign:?} with its own {range}");
    }
    assert!(added.iter().all(|range| role.reads.contains(*range)), "{component} lacks some of {added:?}");
    let writes: BTreeSet<&str> = role.writes.iter().map(String::as_str).collect();
    let granted: BTreeSet<&str> = [writable(component)].into_iter().filter(|range| *range != "nothing").collect();
    assert_eq!(writes, granted, "what {component} may write");
}
