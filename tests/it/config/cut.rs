//! A write that etcd's end cuts off: wholly old, wholly new, or, when it took several requests, key by key.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ovs_cuisine::control::config::{ConfigError, Dial, Store, StoreAccess, Stream, Target, Value, Wish};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    net::TcpStream,
};

use super::{
    changes, component, deploy, secret,
    server::{Etcd, dial, lab},
    wish,
};

/// Longer than any call may wait for an etcd that is gone.
const GIVES_UP: Duration = Duration::from_secs(40);

/// A way to etcd that breaks.
#[derive(Clone)]
struct Way {
    /// Bytes that still go there; then it breaks, for good.
    left: Arc<AtomicU64>,
    /// Nothing comes back any more.
    swallows: Arc<AtomicBool>,
}

impl Way {
    fn breaking_after(bytes: u64) -> Self {
        Self { left: Arc::new(AtomicU64::new(bytes)), swallows: Arc::default() }
    }

    fn dial(&self) -> Dial {
        let way = self.clone();
        Arc::new(move |host, port| {
            let way = way.clone();
            Box::pin(async move {
                if way.left.load(Ordering::SeqCst) == 0 {
                    return Err(std::io::ErrorKind::ConnectionRefused.into());
                }
                let far = TcpStream::connect((host, port)).await?;
                let (near, inner) = tokio::io::duplex(1 << 14);
                tokio::spawn(async move { way.relay(inner, far).await });
                Ok(Box::new(near) as Box<dyn Stream>)
            })
        })
    }

    async fn relay(&self, mut inner: DuplexStream, mut far: TcpStream) {
        let (mut from_etcd, mut to_etcd) = far.split();
        let (mut from_us, mut to_us) = tokio::io::split(&mut inner);
        let answers = async {
            let mut piece = vec![0; 4096];
            while let Ok(length @ 1..) = from_etcd.read(&mut piece).await {
                if !self.swallows.load(Ordering::SeqCst) && to_us.write_all(&piece[..length]).await.is_err() {
                    return;
                }
            }
        };
        let requests = async {
            let mut piece = vec![0; 4096];
            while let Ok(length @ 1..) = from_us.read(&mut piece).await {
                let room = self.left.load(Ordering::SeqCst).min(length as u64);
                self.left.fetch_sub(room, Ordering::SeqCst);
                let sent = to_etcd.write_all(&piece[..usize::try_from(room).unwrap()]).await;
                if sent.is_err() || room < length as u64 {
                    return;
                }
            }
        };
        tokio::select! { () = answers => {}, () = requests => {} }
    }
}

async fn by_way(etcd: &Etcd, way: &Way) -> Store {
    Store::open(etcd.access("root-pw"), way.dial(), &lab()).await.unwrap()
}

fn large(fill: u8) -> Wish {
    let mut wish = wish(&[]);
    for index in 0..5 {
        wish.keys.insert(format!("/ovs/agent/large-{index}"), Value { bytes: vec![fill; 1 << 20], secret: false });
    }
    wish
}

async fn fills(store: &Store) -> String {
    let entries = store.get("/ovs/agent/").await.unwrap();
    let fill = |value: &[u8]| {
        assert!(value.iter().all(|byte| *byte == value[0]), "each key is wholly old or wholly new");
        char::from(value[0])
    };
    entries.iter().map(|entry| fill(&entry.value)).collect()
}

#[tokio::test]
async fn a_split_write_that_is_cut_off_is_finished_by_the_next() {
    let etcd = Etcd::start(&[]);
    let steady = &etcd.store().await;
    deploy(steady, &large(b'1')).await;
    let before = steady.compare(&large(b'1')).await.unwrap().revision();

    // Two of the five requests get through, and half of the third.
    let store = by_way(&etcd, &Way::breaking_after(5 << 19)).await;
    let begun = Instant::now();
    let error = store.apply(store.compare(&large(b'2')).await.unwrap()).await.unwrap_err();
    assert!(matches!(&error, ConfigError::Unreachable { what, .. } if what == "write the configuration"), "{error}");
    assert!(begun.elapsed() < GIVES_UP, "{:?}", begun.elapsed());
    assert_eq!(fills(steady).await, "22111", "those that were written, in order");

    // Going back would mix what is in the history with what is not.
    let to = |revision| async move { steady.prepare_rollback(&Target::Revision(revision), &[], "/ovs/").await };
    let error = to(before).await.err().unwrap();
    assert!(matches!(&error, ConfigError::NotKept { number: 2, .. }), "{error}");

    // What is left of that run's lock does not stop the next one, and what it wrote counts as ours.
    let later = steady.compare(&large(b'2')).await.unwrap();
    assert_eq!(later.changes().len(), 3);
    assert!(later.changes().iter().all(|change| !change.drifted), "no other hand was at work: {later:?}");
    assert_eq!(steady.apply(later).await.unwrap().written, 3);
    assert_eq!(fills(steady).await, "22222");
    assert_eq!(changes(steady, &large(b'2')).await, []);
    assert!(matches!(to(before).await, Err(ConfigError::NotKept { .. })), "not even then");

    // A recipe that wants none of them any more after such an end still has them removed.
    let store = by_way(&etcd, &Way::breaking_after(5 << 19)).await;
    store.apply(store.compare(&large(b'3')).await.unwrap()).await.unwrap_err();
    deploy(steady, &wish(&[])).await;
    assert_eq!(fills(steady).await, "");
}

/// More than fit into a flat transaction, and few enough that their request needs no leave of etcd's to go on (the first
/// 64 KiB of a stream).
const KEYS: usize = 130;

fn many(value: &str) -> Wish {
    let mut wish = wish(&[]);
    for index in 0..KEYS {
        let value = Value { bytes: value.repeat(20).into(), secret: false };
        wish.keys.insert(format!("/ovs/agent/key-{index:03}"), value);
    }
    wish
}

/// From the moment when the large request is under way no answer comes through; waits until etcd has done it.
async fn answers_are_lost(way: &Way, steady: &Store, fill: char) {
    let begun = Instant::now();
    way.left.store(1 << 20, Ordering::SeqCst);
    while way.left.load(Ordering::SeqCst) > (1 << 20) - 10_000 {
        assert!(begun.elapsed() < GIVES_UP, "the request never began");
        tokio::task::yield_now().await;
    }
    way.swallows.store(true, Ordering::SeqCst);
    while fills(steady).await != fill.to_string().repeat(KEYS) {
        assert!(begun.elapsed() < GIVES_UP, "the write never came");
    }
}

#[tokio::test]
async fn a_request_that_is_cut_off_writes_nothing() {
    let etcd = Etcd::start(&[]);
    let steady = etcd.store().await;
    deploy(&steady, &many("1")).await;
    // The lock and half of a request of 40 kB.
    let way = Way::breaking_after(1 << 20);
    let store = by_way(&etcd, &way).await;
    let comparison = store.compare(&many("2")).await.unwrap();
    way.left.store(20_000, Ordering::SeqCst);
    let error = store.apply(comparison).await.unwrap_err();
    assert!(matches!(&error, ConfigError::Unreachable { what, .. } if what == "write the configuration"), "{error}");
    assert_eq!(fills(&steady).await, "1".repeat(KEYS));
    assert_eq!(deploy(&steady, &many("2")).await, (KEYS, 0));
}

#[tokio::test]
async fn an_answer_that_is_lost_leaves_the_whole_write() {
    let etcd = Etcd::start(&[]);
    let steady = etcd.store().await;
    deploy(&steady, &many("1")).await;
    let way = Way::breaking_after(1 << 20);
    let store = by_way(&etcd, &way).await;
    let comparison = store.compare(&many("2")).await.unwrap();
    let applying = tokio::spawn(async move { store.apply(comparison).await });
    answers_are_lost(&way, &steady, '2').await;
    way.left.store(0, Ordering::SeqCst);
    let error = applying.await.unwrap().unwrap_err();
    assert!(error.is_unreachable(), "what is not known is not said to be done: {error}");
    assert_eq!(deploy(&steady, &many("2")).await, (0, 0), "and the next one finds it done");
    // When etcd is back in time, the second attempt finds the first one's work.
    let way = Way::breaking_after(1 << 20);
    let store = by_way(&etcd, &way).await;
    let comparison = store.compare(&many("3")).await.unwrap();
    let applying = tokio::spawn(async move { store.apply(comparison).await });
    answers_are_lost(&way, &steady, '3').await;
    way.swallows.store(false, Ordering::SeqCst);
    assert_eq!(applying.await.unwrap().unwrap().written, KEYS);
    assert_eq!(changes(&steady, &many("3")).await, []);
}

#[tokio::test]
async fn everybody_gives_up_together() {
    let mut etcd = Etcd::start(&[]);
    let store = Arc::new(etcd.store().await);
    etcd.kill();
    let begun = Instant::now();
    let tasks: Vec<_> = (0..12)
        .map(|index| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                use ovs_cuisine::control::config::{Grant, LoginMode};
                let name = format!("c{index}");
                let grants = [Grant::read(format!("/ovs/{name}/"))];
                store.ensure_login(&component(&name), &grants, &secret("pw"), LoginMode::Apply).await.unwrap_err()
            })
        })
        .collect();
    for task in tasks {
        let error = task.await.unwrap();
        assert!(error.is_unreachable(), "{error}");
    }
    assert!(begun.elapsed() < GIVES_UP, "one after the other: {:?}", begun.elapsed());
    // And all of them find it again.
    etcd.restart();
    assert_eq!(deploy(&store, &wish(&[("a", "1")])).await, (1, 0));
}

/// A member whose connections are accepted and never answered, as those of a stopped process.
#[tokio::test]
async fn a_silent_etcd_is_given_up_in_time() {
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let etcd = Etcd::start(&[]);
    let endpoints = vec![("127.0.0.1".to_owned(), mute.local_addr().unwrap().port())];
    let begun = Instant::now();
    let error = Store::open(StoreAccess { endpoints, ..etcd.access("root-pw") }, dial(), &lab()).await.err().unwrap();
    assert!(matches!(&error, ConfigError::Unreachable { what, .. } if what == "log in"), "{error}");
    assert!(begun.elapsed() < GIVES_UP, "{:?}", begun.elapsed());
}
