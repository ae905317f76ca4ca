//! The configuration store against a real etcd: logins, comparison, guarded writes, losses.

mod cut;
mod etcdctl;
mod recipe;
mod rollback;
pub(crate) mod server;

use std::{collections::BTreeMap, fmt::Write as _, io::ErrorKind, time::Duration};

use etcd_client::{Compare, CompareOp, GetOptions, Permission, PutOptions, Txn, TxnOp};
use ovs_cuisine::{
    control::config::{ConfigError, Grant, LoginMode, Store, StoreAccess, Value, Wish},
    plan::{Action, ComponentName, Secret},
};
use tokio::time::timeout;

use server::{Etcd, LONG, Tls, dial, lab};

fn component(name: &str) -> ComponentName {
    name.parse().unwrap()
}

fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

fn wish(keys: &[(&str, &str)]) -> Wish {
    let value = |text: &str| Value { bytes: text.into(), secret: false };
    let keys = keys.iter().map(|(key, text)| (format!("/ovs/agent/{key}"), value(text))).collect();
    Wish { component: component("agent"), prefixes: vec!["/ovs/agent/".to_owned()], keys }
}

/// One key that everybody may see, and one with a password.
fn wish_with_secret(text: &str) -> Wish {
    let mut wish = wish(&[("open", "visible")]);
    wish.keys.insert("/ovs/agent/password".to_owned(), Value { bytes: text.into(), secret: true });
    wish
}

async fn changes(store: &Store, wish: &Wish) -> Vec<(String, Action, bool)> {
    let comparison = store.compare(wish).await.unwrap();
    let list = comparison.changes().iter();
    list.map(|change| (change.key.replace("/ovs/agent/", ""), change.action, change.drifted)).collect()
}

async fn deploy(store: &Store, wish: &Wish) -> (usize, usize) {
    let applied = store.apply(store.compare(wish).await.unwrap()).await.unwrap();
    (applied.written, applied.removed)
}

async fn put(client: &mut etcd_client::Client, key: &str, value: &str) {
    client.put(key, value, None).await.unwrap();
}

async fn read(client: &mut etcd_client::Client, key: &str) -> Option<String> {
    let answer = client.get(key, None).await.unwrap();
    answer.kvs().first().map(|kv| String::from_utf8(kv.value().to_vec()).unwrap())
}

#[tokio::test]
async fn authentication_is_switched_on_from_every_half_done_state() {
    for half_done in 0..5 {
        let etcd = Etcd::start(&[]);
        let mut hand = etcd.client(None).await.unwrap();
        if half_done > 0 {
            hand.user_add("root", "another password", None).await.unwrap();
        }
        if half_done > 1 {
            hand.role_add("root").await.unwrap();
        }
        if half_done > 2 {
            hand.user_grant_role("root", "root").await.unwrap();
        }
        if half_done > 3 {
            hand.user_change_password("root", "root-pw").await.unwrap();
            hand.auth_enable().await.unwrap();
        }
        let store = Store::open(etcd.access("root-pw"), dial(), &lab()).await.unwrap();
        assert_eq!(store.auth_enabled(), half_done > 3, "state {half_done}");
        if half_done < 4 {
            let error = store.apply(store.compare(&wish(&[("a", "1")])).await.unwrap()).await.unwrap_err();
            assert!(matches!(error, ConfigError::AuthOff { .. }), "nothing is written before: {error}");
        }
        let looked = store.ensure_auth(LoginMode::Check).await.unwrap();
        assert_eq!(looked.is_some(), half_done < 4);
        assert_eq!(store.auth_enabled(), half_done > 3, "check changes nothing");
        let done = store.ensure_auth(LoginMode::Apply).await.unwrap();
        assert_eq!(done, looked, "state {half_done}");
        assert!(store.auth_enabled());
        assert_eq!(store.ensure_auth(LoginMode::Apply).await.unwrap(), None);
        assert_eq!(deploy(&store, &wish(&[("a", "1")])).await, (1, 0));
        assert!(etcd.client(None).await.unwrap().get("/ovs/agent/a", None).await.is_err(), "anonymous is refused");
    }
}

#[tokio::test]
async fn two_runs_may_switch_authentication_on() {
    let etcd = Etcd::start(&[]);
    let open = || async { Store::open(etcd.access("root-pw"), dial(), &lab()).await.unwrap() };
    let (one, two, three) = (open().await, open().await, open().await);
    let done = tokio::join!(one.ensure_auth(LoginMode::Apply), two.ensure_auth(LoginMode::Apply));
    assert!(done.0.is_ok() && done.1.is_ok(), "{done:?}");
    assert_eq!(three.ensure_auth(LoginMode::Apply).await.unwrap(), None, "it was on already");
    assert_eq!(deploy(&three, &wish(&[("a", "1")])).await, (1, 0));
}

#[tokio::test]
async fn a_wrong_password_is_told_from_nobody_there() {
    let mut etcd = Etcd::start(&[]);
    etcd.store().await;
    let error = Store::open(etcd.access("wrong-canary"), dial(), &lab()).await.err().unwrap();
    assert!(matches!(error, ConfigError::LoginRefused { .. }), "{error}");
    assert!(error.to_string().contains("`root`") && !format!("{error} {error:?}").contains("canary"));
    let error = Store::open(etcd.access(""), dial(), &lab()).await.err().unwrap();
    assert!(matches!(error, ConfigError::BadLogin { .. }), "{error}");
    etcd.kill();
    let error = Store::open(etcd.access("root-pw"), dial(), &lab()).await.err().unwrap();
    assert!(error.is_unreachable(), "{error}");
    assert!(error.to_string().contains(&format!("localhost:{}", etcd.port)));
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.starts_with("Connection refused"), "{cause}");
}

#[tokio::test]
async fn a_component_reads_its_own_prefix_and_nothing_else() {
    let etcd = Etcd::start(&[]);
    let store = etcd.store().await;
    let (agent, password) = (component("agent"), secret("agent-pw"));
    let grants = [Grant::read("/ovs/agent/")];
    let login = |mode| store.ensure_login(&agent, &grants, &password, mode);
    let looked = login(LoginMode::Check).await.unwrap().unwrap();
    assert_eq!(looked.action, Action::Create);
    assert_eq!(login(LoginMode::Check).await.unwrap(), Some(looked.clone()), "check changes nothing");
    assert_eq!(login(LoginMode::Apply).await.unwrap(), Some(looked));
    assert_eq!(login(LoginMode::Apply).await.unwrap(), None, "the second time there is nothing to do");

    deploy(&store, &wish(&[("a", "1")])).await;
    let mut client = etcd.client(Some(("agent", "agent-pw"))).await.unwrap();
    assert_eq!(read(&mut client, "/ovs/agent/a").await.as_deref(), Some("1"));
    let all = client.get("/ovs/agent/", Some(GetOptions::new().with_prefix())).await.unwrap();
    assert_eq!(all.kvs().len(), 1);
    for refused in ["/ovs/other/a", "/ovs/agent", "/ovs-cuisine/lab/owned/agent"] {
        assert!(client.get(refused, None).await.is_err(), "{refused}");
    }
    assert!(client.get("/", Some(GetOptions::new().with_prefix())).await.is_err());
    assert!(client.put("/ovs/agent/a", "2", None).await.is_err());
    assert!(client.user_list().await.is_err());
}

#[tokio::test]
async fn a_login_that_was_changed_is_mended() {
    let etcd = Etcd::start(&[]);
    let store = etcd.store().await;
    let (agent, password) = (component("agent"), secret("agent-pw"));
    let grants = [Grant::read("/ovs/agent/")];
    let login = |mode| store.ensure_login(&agent, &grants, &password, mode);
    login(LoginMode::Apply).await.unwrap();
    let mut hand = etcd.root().await;
    hand.user_change_password("agent", "other").await.unwrap();
    assert_eq!(login(LoginMode::Apply).await.unwrap().unwrap().details, ["password"]);
    hand.role_grant_permission("agent", Permission::read_write("/ovs/").with_prefix()).await.unwrap();
    hand.role_grant_permission("agent", Permission::read("/single")).await.unwrap();
    let details = login(LoginMode::Apply).await.unwrap().unwrap().details;
    assert_eq!(details, ["may no longer touch `/ovs/`", "may no longer touch `/single`"]);
    hand.user_grant_role("agent", "root").await.unwrap();
    assert_eq!(login(LoginMode::Apply).await.unwrap().unwrap().details, ["role `root` taken away"]);
    hand.user_revoke_role("agent", "agent").await.unwrap();
    assert_eq!(login(LoginMode::Apply).await.unwrap().unwrap().details, ["its role"]);
    hand.role_delete("agent").await.unwrap();
    let details = login(LoginMode::Apply).await.unwrap().unwrap().details;
    assert!(details.contains(&"new role".to_owned()) && details.contains(&"its role".to_owned()), "{details:?}");
    assert_eq!(login(LoginMode::Apply).await.unwrap(), None);
    let moved =
        store.ensure_login(&agent, &[Grant::read("/ovs/moved/")], &password, LoginMode::Apply).await.unwrap().unwrap();
    assert_eq!(moved.details, ["may read `/ovs/moved/`", "may no longer touch `/ovs/agent/`"]);
    let mut client = etcd.client(Some(("agent", "agent-pw"))).await.unwrap();
    assert!(client.get("/ovs/moved/x", None).await.is_ok() && client.get("/ovs/agent/x", None).await.is_err());

    for (name, prefix, password) in
        [("root", "/x/", "pw"), ("agent", "x/", "pw"), ("agent", "/", "pw"), ("agent", "/x/", "")]
    {
        let result =
            store.ensure_login(&component(name), &[Grant::read(prefix)], &secret(password), LoginMode::Apply).await;
        assert!(matches!(result, Err(ConfigError::BadLogin { .. })), "{name} {prefix}");
    }
}

#[tokio::test]
async fn keys_come_change_go_and_foreign_ones_stay() {
    let etcd = Etcd::start(&[]);
    let store = etcd.store().await;
    let mut hand = etcd.root().await;
    put(&mut hand, "/ovs/agent/foreign", "x").await;
    put(&mut hand, "/ovs/agent/taken", "by hand").await;
    put(&mut hand, "/ovs/agent/same", "s").await;
    put(&mut hand, "/ovs/agent2/near", "x").await;

    let first = wish(&[("a", "1"), ("b", "2"), ("same", "s"), ("taken", "ours")]);
    let expected = [("a", Action::Create), ("b", Action::Create), ("taken", Action::Modify)];
    let expected = expected.map(|(key, action)| (key.to_owned(), action, false));
    assert_eq!(changes(&store, &first).await, expected);
    assert_eq!(changes(&store, &first).await, expected, "comparing writes nothing");
    assert_eq!(deploy(&store, &first).await, (3, 0));
    assert_eq!(changes(&store, &first).await, []);
    let before = store.compare(&first).await.unwrap().revision();
    assert_eq!(deploy(&store, &first).await, (0, 0));
    assert_eq!(store.compare(&first).await.unwrap().revision(), before, "no change, no write");

    put(&mut hand, "/ovs/agent/a", "by hand").await;
    hand.delete("/ovs/agent/b", None).await.unwrap();
    let drifted = [("a".to_owned(), Action::Modify, true), ("b".to_owned(), Action::Create, true)];
    assert_eq!(changes(&store, &first).await, drifted, "a hand edit shows as a change back");
    assert_eq!(deploy(&store, &first).await, (2, 0));
    assert_eq!(read(&mut hand, "/ovs/agent/a").await.as_deref(), Some("1"));

    let second = wish(&[("b", "2")]);
    assert_eq!(deploy(&store, &second).await, (0, 3));
    for gone in ["a", "same", "taken"] {
        assert_eq!(read(&mut hand, &format!("/ovs/agent/{gone}")).await, None, "{gone}");
    }
    assert_eq!(read(&mut hand, "/ovs/agent/foreign").await.as_deref(), Some("x"));
    assert_eq!(read(&mut hand, "/ovs/agent2/near").await.as_deref(), Some("x"));

    let wish_of = |name: &str| {
        let prefix = format!("/ovs/{name}/");
        let key = (format!("{prefix}a"), Value { bytes: b"1".to_vec(), secret: false });
        Wish { component: component(name), prefixes: vec![prefix], keys: [key].into() }
    };
    deploy(&store, &wish_of("zero")).await;
    deploy(&store, &wish_of("base")).await;
    deploy(&store, &wish(&[("b", "3")])).await;
    deploy(&store, &second).await;
    let order: Vec<_> = store.components().await.unwrap().into_iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(order, ["base", "zero", "agent"], "what came last is first, however often others were written since");

    let history = store.history(&component("agent")).await.unwrap();
    let history = &history[..3];
    assert_eq!(history.iter().map(|entry| (entry.number, entry.count)).collect::<Vec<_>>(), [(1, 3), (2, 2), (3, 3)]);
    assert!(history.iter().all(|entry| entry.at > 0 && entry.by.contains('@')));
    assert_eq!(store.get("/ovs/agent/").await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_component_that_moves_takes_its_keys_along() {
    let etcd = Etcd::start(&[]);
    let store = etcd.store().await;
    deploy(&store, &wish(&[("a", "1"), ("b", "2")])).await;
    let keys = BTreeMap::from([("/moved/a".to_owned(), Value { bytes: b"1".to_vec(), secret: false })]);
    let moved = Wish { component: component("agent"), prefixes: vec!["/moved/".to_owned()], keys };
    assert_eq!(deploy(&store, &moved).await, (1, 2));
    assert_eq!(store.get("/ovs/agent/").await.unwrap(), []);
    assert!(store.compare(&moved).await.unwrap().is_empty());
    // Another component that names the same keys keeps the first one from removing them.
    let mut shared = moved.clone();
    shared.component = component("heir");
    deploy(&store, &shared).await;
    let mut empty = moved;
    empty.keys.clear();
    assert_eq!(deploy(&store, &empty).await, (0, 0));
    assert_eq!(store.get("/moved/").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_that_moved_since_the_comparison_stops_everything() {
    let etcd = Etcd::start(&[]);
    let store = etcd.store().await;
    let mut hand = etcd.root().await;
    deploy(&store, &wish(&[("a", "1"), ("b", "1")])).await;
    let wanted = wish(&[("a", "2"), ("b", "2"), ("c", "2")]);
    for (key, by_hand) in [("b", Some("x")), ("c", Some("x")), ("b", None)] {
        let comparison = store.compare(&wanted).await.unwrap();
        let key = format!("/ovs/agent/{key}");
        match by_hand {
            Some(value) => put(&mut hand, &key, value).await,
            None => drop(hand.delete(key.as_str(), None).await.unwrap()),
        }
        let error = store.apply(comparison).await.unwrap_err();
        assert!(matches!(&error, ConfigError::Conflict { key: named } if *named == key), "{error}");
        assert_eq!(read(&mut hand, "/ovs/agent/a").await.as_deref(), Some("1"), "nothing was written");
    }
    // Two runs that compared the same: the second one finds the first one's record.
    let (one, two) = (store.compare(&wanted).await.unwrap(), store.compare(&wanted).await.unwrap());
    store.apply(one).await.unwrap();
    assert!(matches!(store.apply(two).await, Err(ConfigError::Conflict { .. })));
    assert_eq!(changes(&store, &wanted).await, []);
}

#[tokio::test]
async fn three_hundred_keys_are_one_transaction() {
    let etcd = Etcd::start(&[]);
    let store = etcd.store().await;
    let mut hand = etcd.root().await;
    let many = |value: &str| {
        let mut wish = wish(&[]);
        for index in 0..300 {
            let value = Value { bytes: value.into(), secret: false };
            wish.keys.insert(format!("/ovs/agent/key-{index:03}"), value);
        }
        wish
    };
    assert_eq!(deploy(&store, &many("1")).await, (300, 0));
    let entries = store.get("/ovs/agent/").await.unwrap();
    assert_eq!(entries.len(), 300);
    assert!(entries.iter().all(|entry| entry.revision == entries[0].revision), "all of one revision");

    let comparison = store.compare(&many("2")).await.unwrap();
    put(&mut hand, "/ovs/agent/key-123", "by hand").await;
    let error = store.apply(comparison).await.unwrap_err();
    assert!(matches!(&error, ConfigError::Conflict { key } if key == "/ovs/agent/key-123"), "{error}");
    assert_eq!(read(&mut hand, "/ovs/agent/key-000").await.as_deref(), Some("1"), "nothing was written");
    assert_eq!(deploy(&store, &many("2")).await, (300, 0));
    assert_eq!(deploy(&store, &wish(&[])).await, (0, 300));
    assert_eq!(store.get("/ovs/agent/").await.unwrap(), []);
}

#[tokio::test]
async fn what_does_not_fit_into_one_request_is_split() {
    let etcd = Etcd::start(&[]);
    let store = etcd.store().await;
    let mut hand = etcd.root().await;
    let large = |fill: u8| {
        let mut wish = wish(&[("small", "x")]);
        for index in 0..5 {
            let value = Value { bytes: vec![fill; 1 << 20], secret: false };
            wish.keys.insert(format!("/ovs/agent/large-{index}"), value);
        }
        wish
    };
    assert_eq!(deploy(&store, &large(b'1')).await, (6, 0));
    assert_eq!(changes(&store, &large(b'1')).await, []);
    let comparison = store.compare(&large(b'2')).await.unwrap();
    put(&mut hand, "/ovs/agent/large-4", "by hand").await;
    let error = store.apply(comparison).await.unwrap_err();
    assert!(matches!(&error, ConfigError::Conflict { key } if key == "/ovs/agent/large-4"), "{error}");
    assert!(read(&mut hand, "/ovs/agent/large-0").await.unwrap().starts_with('1'), "nothing was written");
    assert_eq!(deploy(&store, &large(b'2')).await, (5, 0));
    assert_eq!(deploy(&store, &wish(&[])).await, (0, 6));
    let mut too_large = wish(&[]);
    too_large.keys.insert("/ovs/agent/k".to_owned(), Value { bytes: vec![0; (1 << 20) + 1], secret: false });
    let error = store.compare(&too_large).await.unwrap_err();
    assert!(matches!(&error, ConfigError::ValueTooLarge { key, .. } if key == "/ovs/agent/k"), "{error}");
}

#[tokio::test]
async fn secrets_are_compared_and_never_seen() {
    let etcd = Etcd::start(&[]);
    let store = etcd.store().await;
    let mut seen = String::new();
    for wish in [wish_with_secret("canary-1"), wish_with_secret("canary-2"), wish_with_secret("canary-2"), wish(&[])] {
        let comparison = store.compare(&wish).await.unwrap();
        write!(seen, "{wish:?} {comparison:?} {:?}", comparison.changes()).unwrap();
        store.apply(comparison).await.unwrap();
        write!(seen, "{:?}", store.history(&component("agent")).await.unwrap()).unwrap();
    }
    write!(seen, "{:?}", store.access()).unwrap();
    assert!(!seen.contains("canary") && !seen.contains("root-pw"), "{seen}");
    assert!(seen.contains("***") && seen.contains("visible"));
    assert_eq!(store.get("/ovs/agent/").await.unwrap(), []);
}

#[tokio::test]
async fn an_expired_token_and_a_crash_are_survived() {
    let mut etcd = Etcd::start(&["--auth-token-ttl", "2"]);
    let store = etcd.store().await;
    deploy(&store, &wish(&[("a", "1")])).await;
    // etcd forgets the token: nothing to await here but the time.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(deploy(&store, &wish(&[("a", "2")])).await, (1, 0));
    etcd.restart();
    assert_eq!(deploy(&store, &wish(&[("a", "3")])).await, (1, 0));
    let login =
        store.ensure_login(&component("agent"), &[Grant::read("/ovs/agent/")], &secret("pw"), LoginMode::Apply).await;
    assert!(login.unwrap().is_some());
    etcd.kill();
    let comparing = tokio::spawn(async move { changes(&store, &wish(&[("a", "4")])).await });
    etcd.restart();
    assert_eq!(timeout(LONG, comparing).await.unwrap().unwrap().len(), 1, "a call waits for etcd to come back");
}

#[tokio::test]
async fn a_member_that_does_not_answer_is_passed_over() {
    let etcd = Etcd::start(&[]);
    etcd.store().await;
    // Takes connections and never says a word.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let host = || "127.0.0.1".to_owned();
    let endpoints = vec![(host(), mute.local_addr().unwrap().port()), (host(), refusing), etcd.endpoint()];
    let access = StoreAccess { endpoints, ..etcd.access("root-pw") };
    let store = Store::open(access, dial(), &lab()).await.unwrap();
    assert!(store.auth_enabled());
    assert_eq!(deploy(&store, &wish(&[("a", "1")])).await, (1, 0));
}

#[tokio::test]
async fn a_lock_is_waited_for_named_and_given_back() {
    let etcd = Etcd::start(&[]);
    let store = etcd.store().await;
    let mut hand = etcd.root().await;
    let lease = hand.lease_grant(600, None).await.unwrap().id();
    let held = PutOptions::new().with_lease(lease);
    let free = [Compare::version("/ovs-cuisine/lab/lock", CompareOp::Equal, 0)];
    let taken = [TxnOp::put("/ovs-cuisine/lab/lock", "somebody@elsewhere", Some(held))];
    assert!(hand.txn(Txn::new().when(free).and_then(taken)).await.unwrap().succeeded());
    let comparison = store.compare(&wish(&[("a", "1")])).await.unwrap();
    let error = store.apply(comparison).await.unwrap_err();
    let ConfigError::LockHeld { owner, left: Some(left), .. } = &error else { panic!("{error}") };
    assert!(owner == "somebody@elsewhere" && (1..=600).contains(left), "{error}");
    assert!(error.to_string().ends_with(&format!("the lock ends by itself in {left} s")), "{error}");
    assert_eq!(read(&mut hand, "/ovs/agent/a").await, None);

    let comparison = store.compare(&wish(&[("a", "1")])).await.unwrap();
    let (applied, revoked) = tokio::join!(store.apply(comparison), hand.lease_revoke(lease));
    revoked.unwrap();
    assert_eq!(applied.unwrap().written, 1, "it goes on when the other one is done");
    assert_eq!(read(&mut hand, "/ovs-cuisine/lab/lock").await, None, "the lock is given back");
    assert_eq!(hand.leases().await.unwrap().leases().len(), 0, "no lease is left behind");
}

#[tokio::test]
async fn many_components_write_at_once() {
    let etcd = Etcd::start(&[]);
    let store = std::sync::Arc::new(etcd.store().await);
    let tasks: Vec<_> = (0..16)
        .map(|index| {
            let store = store.clone();
            tokio::spawn(async move {
                let name = format!("c{index}");
                let prefix = format!("/ovs/{name}/");
                store
                    .ensure_login(&component(&name), &[Grant::read(prefix.as_str())], &secret("pw"), LoginMode::Apply)
                    .await
                    .unwrap();
                let keys = BTreeMap::from([(format!("{prefix}a"), Value { bytes: b"1".to_vec(), secret: false })]);
                let wish = Wish { component: component(&name), prefixes: vec![prefix], keys };
                store.apply(store.compare(&wish).await.unwrap()).await.unwrap().written
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(timeout(LONG, task).await.unwrap().unwrap(), 1);
    }
}

#[tokio::test]
async fn tls_checks_the_certificate() {
    let (good, other) = (Tls::new("localhost"), Tls::new("localhost"));
    let etcd = Etcd::start_tls(good.clone());
    let store = etcd.store().await;
    assert_eq!(deploy(&store, &wish(&[("a", "1")])).await, (1, 0));
    let link = store.access().etcd_link("agent", &secret("pw"), "/ovs/agent/launch/h/s").unwrap();
    assert!(link.expose().contains("?cert=") && format!("{link:?}") == "***");

    let wrong_ca = StoreAccess { ca: Some(other.ca), ..etcd.access("root-pw") };
    let wrong_name = StoreAccess { endpoints: vec![("127.0.0.1".to_owned(), etcd.port)], ..etcd.access("root-pw") };
    let no_ca = StoreAccess { ca: Some("nonsense".to_owned()), ..etcd.access("root-pw") };
    for access in [wrong_ca, wrong_name, no_ca] {
        let error = Store::open(access, dial(), &lab()).await.err().unwrap();
        assert!(matches!(error, ConfigError::Tls { .. }), "{error:?}");
    }
    let plain = StoreAccess { ca: None, ..etcd.access("root-pw") };
    assert!(Store::open(plain, dial(), &lab()).await.is_err(), "a password never goes out in the clear to TLS etcd");
}

#[tokio::test]
async fn the_stream_is_asked_for_again_after_a_loss() {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    };
    let etcd = Etcd::start(&[]);
    etcd.store().await;
    let dials = Arc::new(AtomicUsize::new(0));
    let broken = Arc::new(Mutex::new(Vec::new()));
    let (count, cut) = (dials.clone(), broken.clone());
    // A relay in place of an SSH tunnel, whose near end can be cut.
    let relay: ovs_cuisine::control::config::Dial = Arc::new(move |host, port| {
        let (count, cut) = (count.clone(), cut.clone());
        Box::pin(async move {
            if count.fetch_add(1, Ordering::SeqCst) == 1 {
                return Err(std::io::Error::new(ErrorKind::BrokenPipe, "the tunnel is not up yet"));
            }
            let mut far = tokio::net::TcpStream::connect((host, port)).await?;
            let (near, mut inner) = tokio::io::duplex(1 << 16);
            let task = tokio::spawn(async move { tokio::io::copy_bidirectional(&mut inner, &mut far).await });
            cut.lock().unwrap().push(task.abort_handle());
            Ok(Box::new(near) as Box<dyn ovs_cuisine::control::config::Stream>)
        })
    });
    let store = Store::open(etcd.access("root-pw"), relay, &lab()).await.unwrap();
    deploy(&store, &wish(&[("a", "1")])).await;
    for task in broken.lock().unwrap().drain(..) {
        task.abort();
    }
    assert_eq!(deploy(&store, &wish(&[("a", "2")])).await, (1, 0));
    assert!(dials.load(Ordering::SeqCst) >= 3, "lost, refused once, and dialled again");
}
