//! Connections to jump hosts, shared: one carries all hosts behind it, however many.

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::time::Instant;

use super::{
    connection::Connection,
    dial::{self, Patience},
    error::{Hop, LinkError, LinkErrorKind},
    target::{Identity, Target},
};

/// A jump host's connection, or the news that it cannot be had.
#[derive(Debug, Default)]
struct Slot {
    /// How many attempts have failed. Who waits for one that fails, fails with it: another try for each host behind
    /// the jump host would add up their deadlines.
    failures: AtomicU64,
    state: tokio::sync::Mutex<SlotState>,
}

#[derive(Debug, Default)]
struct SlotState {
    connection: Weak<Connection>,
    failed: Option<(u64, Arc<LinkErrorKind>)>,
}

type Slots = Mutex<HashMap<String, Arc<Slot>>>;

/// The connection to the last jump host of a target, and the name of the way to it; none when there is no jump host.
pub(super) async fn reach(target: &Target) -> Result<(Option<Arc<Connection>>, String), LinkError> {
    let (mut via, mut way) = (None, String::new());
    for (index, hop) in target.jump.iter().enumerate() {
        let connection = shared(hop, via, &way).await.map_err(|kind| LinkError {
            host: target.name.clone(),
            hop: Some(Hop { number: index + 1, name: hop.name.clone() }),
            kind,
        })?;
        via = Some(connection);
        way.push_str(&identity_of(hop));
        way.push_str(" > ");
    }
    Ok((via, way))
}

async fn shared(hop: &Target, via: Option<Arc<Connection>>, way: &str) -> Result<Arc<Connection>, Arc<LinkErrorKind>> {
    let slot = slot(format!("{way}{}", identity_of(hop)));
    let seen = slot.failures.load(Ordering::Acquire);
    let mut state = slot.state.lock().await;
    if let Some(connection) = state.connection.upgrade().filter(|connection| !connection.is_lost()) {
        return Ok(connection);
    }
    if let Some((number, kind)) = &state.failed
        && *number > seen
    {
        return Err(Arc::clone(kind));
    }
    let patience = Patience::Busy(Instant::now() + hop.timeouts.busy);
    match dial::connect(hop, via, way, patience).await {
        Ok(connection) => {
            let connection = Arc::new(connection);
            *state = SlotState { connection: Arc::downgrade(&connection), failed: None };
            Ok(connection)
        }
        Err(kind) => {
            let kind = Arc::new(kind);
            let number = slot.failures.fetch_add(1, Ordering::AcqRel) + 1;
            state.failed = Some((number, Arc::clone(&kind)));
            Err(kind)
        }
    }
}

fn slot(key: String) -> Arc<Slot> {
    static SLOTS: LazyLock<Slots> = LazyLock::new(Mutex::default);
    let mut slots = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
    // Those that nobody waits for and that hold no connection.
    slots.retain(|_, slot| {
        Arc::strong_count(slot) > 1 || slot.state.try_lock().is_ok_and(|state| state.connection.strong_count() > 0)
    });
    Arc::clone(slots.entry(key).or_default())
}

/// What makes two hops the same: where, as whom, with which keys, checked how.
fn identity_of(hop: &Target) -> String {
    let keys: Vec<String> = hop
        .identities
        .iter()
        .map(|identity| match identity {
            Identity::KeyFile(path) => path.display().to_string(),
            Identity::Agent => "agent".to_owned(),
            Identity::Loaded(key) => key.fingerprint(),
        })
        .collect();
    format!("{}@{}:{} {keys:?} {:?}", hop.user, hop.address, hop.port, hop.host_keys)
}
