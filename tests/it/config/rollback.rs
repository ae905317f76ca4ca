//! Going back to what keys were, against a real etcd.

use std::fmt::Write as _;

use ovs_cuisine::control::config::{ConfigError, Rollback, Store, Target, Value, Wish};

use super::{changes, component, deploy, put, read, server::Etcd, wish, wish_with_secret};

async fn revision(store: &Store) -> i64 {
    store.compare(&wish(&[])).await.unwrap().revision()
}

async fn prepare(store: &Store, revision: i64) -> Result<Rollback, ConfigError> {
    store.prepare_rollback(&Target::Revision(revision), &[], "/ovs/").await
}

async fn back(store: &Store, revision: i64) -> (usize, usize) {
    let applied = store.roll_back(prepare(store, revision).await.unwrap()).await.unwrap();
    (applied.written, applied.removed)
}

async fn values(store: &Store) -> Vec<(String, String)> {
    let entries = store.get("/ovs/agent/").await.unwrap().into_iter();
    entries.map(|entry| (entry.key.replace("/ovs/agent/", ""), String::from_utf8(entry.value).unwrap())).collect()
}

#[tokio::test]
async fn what_was_comes_back_and_goes_again() {
    let etcd = Etcd::start(&[]);
    let store = etcd.store().await;
    let mut hand = etcd.root().await;
    let one = wish(&[("a", "1"), ("b", "1"), ("same", "x")]);
    let two = wish(&[("a", "2"), ("c", "2"), ("same", "x")]);
    deploy(&store, &one).await;
    let (first, was) = (revision(&store).await, values(&store).await);
    deploy(&store, &two).await;
    let (second, is) = (revision(&store).await, values(&store).await);
    put(&mut hand, "/ovs/agent/foreign", "x").await;
    store
        .set_key("/ovs/agent/a", b"by hand", store.get_key("/ovs/agent/a").await.unwrap().unwrap().revision)
        .await
        .unwrap();

    let prepared = prepare(&store, first).await.unwrap();
    let all: Vec<_> = prepared.changes().collect();
    assert_eq!((all.len(), all[0].0.as_str(), all[0].1.len()), (1, "agent", 3), "a, b and c");
    drop(prepared);
    assert_eq!(back(&store, first).await, (2, 1));
    let without_foreign = |mut values: Vec<(String, String)>| {
        values.retain(|(key, _)| key != "foreign");
        values
    };
    assert_eq!(without_foreign(values(&store).await), was);
    assert_eq!(read(&mut hand, "/ovs/agent/foreign").await.as_deref(), Some("x"), "never ours, never touched");
    assert_eq!(changes(&store, &one).await, [], "and our record knows whose they are");
    assert_eq!(prepare(&store, first).await.unwrap().changes().count(), 0, "there is nothing left to do");
    let third = revision(&store).await;

    // It is a write like others: listed, and gone back on.
    let history = store.history(&component("agent")).await.unwrap();
    let last = history.last().unwrap();
    assert_eq!((last.number, last.count, last.back_to), (4, 3, Some(first)));
    assert_eq!(back(&store, second).await, (2, 1));
    assert_eq!(without_foreign(values(&store).await), is);
    assert_eq!(back(&store, third).await, (2, 1));
    assert_eq!(without_foreign(values(&store).await), was);
    assert_eq!(back(&store, 0).await, (0, 3), "to before the first write");
    assert_eq!(deploy(&store, &two).await, (3, 0), "deploy goes on from there");
    assert!(matches!(prepare(&store, 1 << 40).await, Err(ConfigError::NoSuchRun { .. })));
    let run = store.prepare_rollback(&Target::Run("r0".to_owned()), &[], "/ovs/").await;
    assert!(matches!(run, Err(ConfigError::NoSuchRun { .. })));
}

#[tokio::test]
async fn another_hand_stops_it() {
    let etcd = Etcd::start(&[]);
    let store = etcd.store().await;
    let mut hand = etcd.root().await;
    deploy(&store, &wish(&[("a", "1"), ("b", "1")])).await;
    let first = revision(&store).await;
    deploy(&store, &wish(&[("a", "2"), ("b", "2")])).await;
    // Between looking and writing.
    let prepared = prepare(&store, first).await.unwrap();
    put(&mut hand, "/ovs/agent/b", "by hand").await;
    let error = store.roll_back(prepared).await.unwrap_err();
    assert!(matches!(&error, ConfigError::Conflict { key } if key == "/ovs/agent/b"), "{error}");
    // Before looking.
    let error = prepare(&store, first).await.err().unwrap();
    assert!(matches!(&error, ConfigError::Changed { key } if key == "/ovs/agent/b"), "{error}");
    assert_eq!(read(&mut hand, "/ovs/agent/a").await.as_deref(), Some("2"), "nothing was written");
    // One that holds what it is to hold already is in nobody's way.
    put(&mut hand, "/ovs/agent/b", "1").await;
    assert_eq!(back(&store, first).await, (1, 0));
    // And so is one of a component that is not asked for.
    put(&mut hand, "/ovs/agent/a", "by hand").await;
    let other = store.prepare_rollback(&Target::Revision(first), &[component("other")], "/ovs/").await.unwrap();
    assert_eq!(other.changes().count(), 0);
}

#[tokio::test]
async fn several_components_and_many_keys_are_one_transaction() {
    let etcd = Etcd::start(&[]);
    let store = etcd.store().await;
    let mut hand = etcd.root().await;
    let many = |name: &str, value: &str| {
        let prefix = format!("/ovs/{name}/");
        let key = |index| (format!("{prefix}key-{index:03}"), Value { bytes: value.into(), secret: false });
        Wish { component: component(name), prefixes: vec![prefix.clone()], keys: (0..150).map(key).collect() }
    };
    for name in ["one", "two"] {
        deploy(&store, &many(name, "1")).await;
    }
    let first = revision(&store).await;
    for name in ["one", "two"] {
        deploy(&store, &many(name, "2")).await;
    }
    let prepared = prepare(&store, first).await.unwrap();
    put(&mut hand, "/ovs/elsewhere", "x").await;
    let error = store.roll_back(prepared).await.unwrap_err();
    assert!(matches!(&error, ConfigError::Conflict { key } if key == "/ovs/elsewhere"), "the whole prefix: {error}");
    assert_eq!(back(&store, first).await, (300, 0));
    let mut all = store.get("/ovs/one/").await.unwrap();
    all.extend(store.get("/ovs/two/").await.unwrap());
    assert!(all.iter().all(|entry| entry.value == b"1" && entry.revision == all[0].revision), "all of one revision");
}

#[tokio::test]
async fn what_is_not_kept_comes_from_etcds_own_history_as_long_as_there_is_one() {
    let etcd = Etcd::start(&[]);
    let store = etcd.store().await;
    let mut hand = etcd.root().await;
    // More than is kept of one write, then more writes than are kept.
    let large = "x".repeat(400 << 10);
    deploy(&store, &wish(&[("a", &large)])).await;
    let first = revision(&store).await;
    for round in 0..25 {
        deploy(&store, &wish(&[("a", &round.to_string())])).await;
    }
    assert_eq!(back(&store, first).await, (1, 0));
    assert_eq!(read(&mut hand, "/ovs/agent/a").await.unwrap(), large);
    let kept = store.get("/ovs-cuisine/lab/replaced/agent/").await.unwrap();
    assert!(kept.len() <= 20 && kept.iter().all(|entry| entry.value.len() < 300 << 10), "bounded");
    let now = revision(&store).await;
    hand.compact(now, None).await.unwrap();
    let error = prepare(&store, first + 1).await.err().unwrap();
    assert!(matches!(&error, ConfigError::NotKept { number: 2, .. }), "{error}");
    // Recent ones need no history of etcd's.
    deploy(&store, &wish(&[("a", "last")])).await;
    deploy(&store, &wish(&[("a", "very last")])).await;
    let last = revision(&store).await;
    hand.compact(last, None).await.unwrap();
    assert_eq!(back(&store, last - 2).await, (1, 0));
}

#[tokio::test]
async fn secrets_come_back_and_are_never_shown() {
    let etcd = Etcd::start(&[]);
    let store = etcd.store().await;
    deploy(&store, &wish_with_secret("canary-1")).await;
    let first = revision(&store).await;
    deploy(&store, &wish_with_secret("canary-2")).await;
    deploy(&store, &wish(&[])).await;
    let prepared = prepare(&store, first).await.unwrap();
    let mut seen = String::new();
    for (_, changes) in prepared.changes() {
        write!(seen, "{changes:?}").unwrap();
    }
    store.roll_back(prepared).await.unwrap();
    write!(seen, "{:?}", store.written().await.unwrap()).unwrap();
    assert!(seen.contains("***") && seen.contains("visible") && !seen.contains("canary"), "{seen}");
    assert_eq!(values(&store).await[1], ("password".to_owned(), "canary-1".to_owned()));
    // The record knows it for a secret again.
    let comparison = store.compare(&wish(&[])).await.unwrap();
    assert!(!format!("{comparison:?}").contains("canary"));
}
