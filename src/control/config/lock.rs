//! The lab's write lock in etcd: a key with a lease, so that a dead run's lock ends by itself.
//!
//! Every write is guarded by the revision at which its lock was made, so a lock may be broken at any time: whoever held it
//! writes nothing more. That is done when its holder can be seen to be gone (a process of this machine that ended, or this
//! very process, whose answer from etcd was lost); a holder elsewhere is waited for.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::time::{Instant, sleep};

use super::{
    error::ConfigError,
    holder::{self, Mark},
    store::Store,
};

/// How long a lock outlives the run that took it, in seconds. Longer than any write of ours takes with all its retries.
const LEASE: i64 = 60;
/// How long another run's write is waited for.
const WAIT: Duration = Duration::from_secs(20);
/// First and longest pause between looks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// The lock, held. Ends with [`Lock::release`], when dropped, or with its lease.
pub(super) struct Lock<'a> {
    store: &'a Store,
    lease: Option<i64>,
    key: String,
    /// The revision at which the lock's key was made: whoever takes the lock later has another.
    created: i64,
    mark: Mark,
}

/// Somebody else's lock.
struct Held {
    value: Vec<u8>,
    created: i64,
    lease: i64,
}

impl Store {
    /// Takes the lab's write lock; waits for another run at most 20 s.
    pub(super) async fn lock(&self) -> Result<Lock<'_>, ConfigError> {
        let granted =
            self.connection.call("get a lease", |mut client| async move { client.lease_grant(LEASE, None).await });
        let lease = granted.await?.id();
        // From here on the lease is revoked however this ends.
        let (key, mark) = (self.own_key("lock"), Mark::new());
        let mut lock = Lock { store: self, lease: Some(lease), key, created: 0, mark };
        let deadline = Instant::now() + WAIT;
        let mut pause = PAUSES.0;
        loop {
            match self.try_lock(&lock, lease).await? {
                Ok(created) => {
                    lock.created = created;
                    return Ok(lock);
                }
                Err(Some(held)) if holder::is_gone(&held.value) => self.break_lock(&lock.key, &held).await?,
                Err(held) if Instant::now() + pause >= deadline => {
                    let left = match &held {
                        Some(held) => self.lease_left(held.lease).await,
                        None => None,
                    };
                    lock.release().await;
                    let owner = held.map_or_else(|| "another run".to_owned(), |held| holder::name(&held.value));
                    return Err(ConfigError::LockHeld { owner, waited: WAIT.as_secs(), left });
                }
                Err(_) => {
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    /// The revision at which our lock was made, or who holds it. Bears being called twice with one lease.
    async fn try_lock(&self, lock: &Lock<'_>, lease: i64) -> Result<Result<i64, Option<Held>>, ConfigError> {
        let key = lock.key.as_str();
        let txn = Txn::new()
            .when([Compare::version(key, CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key, lock.mark.value(), Some(PutOptions::new().with_lease(lease)))])
            .or_else([TxnOp::get(key, None)]);
        let answer = self
            .connection
            .call("take the lab's lock", |mut client| {
                let txn = txn.clone();
                async move { client.txn(txn).await }
            })
            .await?;
        if answer.succeeded() {
            return Ok(Ok(answer.header().map_or(0, etcd_client::ResponseHeader::revision)));
        }
        for response in answer.op_responses() {
            if let TxnOpResponse::Get(found) = response
                && let Some(kv) = found.kvs().first()
            {
                if kv.lease() == lease {
                    return Ok(Ok(kv.create_revision()));
                }
                let held = Held { value: kv.value().to_vec(), created: kv.create_revision(), lease: kv.lease() };
                return Ok(Err(Some(held)));
            }
        }
        Ok(Err(None))
    }

    /// Removes this very lock, not one that somebody has taken since.
    async fn break_lock(&self, key: &str, held: &Held) -> Result<(), ConfigError> {
        tracing::info!("the lab's lock of {} is broken: that run has ended", holder::name(&held.value));
        let txn = Txn::new()
            .when([Compare::create_revision(key, CompareOp::Equal, held.created)])
            .and_then([TxnOp::delete(key, None)]);
        self.connection
            .call("break the lock of a run that has ended", |mut client| {
                let txn = txn.clone();
                async move { client.txn(txn).await.map(drop) }
            })
            .await
    }

    /// Seconds until a lease ends by itself; none when that cannot be told.
    async fn lease_left(&self, lease: i64) -> Option<u64> {
        let asked = self
            .connection
            .look(
                "ask how long a lease lasts",
                |mut client| async move { client.lease_time_to_live(lease, None).await },
            )
            .await;
        u64::try_from(asked.ok()?.ttl()).ok()
    }
}

impl Lock<'_> {
    /// True in a transaction as long as the lock is ours.
    pub(super) fn guard(&self) -> Compare {
        Compare::create_revision(self.key.as_str(), CompareOp::Equal, self.created)
    }

    /// Reads the lock's key inside a transaction, for [`Lock::is_ours`].
    pub(super) fn look(&self) -> TxnOp {
        TxnOp::get(self.key.as_str(), None)
    }

    /// Whether this key (as [`Lock::look`] found it) is still our lock.
    pub(super) fn is_ours(&self, key: &[u8], created: i64) -> bool {
        key == self.key.as_bytes() && created == self.created
    }

    /// Gives the lock back. A failure is of no account: the lease ends by itself.
    pub(super) async fn release(mut self) {
        if let Some(lease) = self.lease.take() {
            let revoked = self
                .store
                .connection
                .call("give the lock back", |mut client| async move { client.lease_revoke(lease).await })
                .await;
            if let Err(error) = revoked {
                tracing::debug!("the lab's lock ends with its lease: {error}");
            }
        }
    }
}

impl Drop for Lock<'_> {
    // Only when the run is interrupted in the middle: the next run need not wait for the lease to end.
    fn drop(&mut self) {
        let (Some(lease), Ok(runtime)) = (self.lease.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        if let Some(mut client) = self.store.connection.connected() {
            runtime.spawn(async move { client.lease_revoke(lease).await });
        }
    }
}
