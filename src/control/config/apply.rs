//! Writing what a comparison found: guarded by the revisions it read, all or nothing.
//!
//! One transaction as a rule. etcd takes 128 operations in a flat one; more are nested, with the whole prefix guarded by
//! one comparison. Only what does not fit into one request (1.5 MiB) is split, under the lab's lock and after a second
//! look at every key; our record names all keys of a split write before the first one is written.

use std::collections::BTreeMap;

use etcd_client::{Compare, CompareOp, GetOptions, ResponseHeader, Txn, TxnOp, TxnOpResponse, TxnResponse};

use super::{
    compare::{Comparison, Write, is_below},
    error::ConfigError,
    journal::JournalEntry,
    lock::Lock,
    owned::{Owned, UNFINISHED},
    rollback::replaced,
    store::Store,
};

/// Keys in a flat transaction: etcd's default limit of 128, less the record, the journal and what was replaced.
pub(super) const FLAT: usize = 125;
/// Keys per nested transaction and number of those: etcd counts both levels together against its 128.
pub(super) const NEST: usize = 60;
/// Bytes per request: etcd's default limit is 1.5 MiB, and one value may have 1 MiB.
pub(super) const REQUEST: usize = 1_400_000;
/// What a key costs in a request besides its texts.
const OVERHEAD: usize = 64;

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The revision that it made; the revision compared when there was nothing to write.
    pub revision: i64,
    /// Keys created or modified.
    pub written: usize,
    /// Keys removed.
    pub removed: usize,
}

/// Our record, the journal's entry and the replaced values as they go into the transaction.
struct Records {
    key: String,
    record: Owned,
    observed: i64,
    journal: Option<(String, Vec<u8>)>,
    /// None when it is too much to keep.
    replaced: Option<(String, Vec<u8>)>,
}

impl Store {
    /// Writes what differs. Nothing is written when a key or our record moved since the comparison
    /// ([`ConfigError::Conflict`]), nor when authentication is off.
    pub async fn apply(&self, comparison: Comparison) -> Result<Applied, ConfigError> {
        self.require_auth()?;
        let mut applied = Applied { revision: comparison.revision, written: 0, removed: 0 };
        if !comparison.needs_write() {
            return Ok(applied);
        }
        // Our own components queue here rather than at etcd's lock.
        let _turn = self.writing.lock().await;
        let lock = self.lock().await?;
        let revision = self.write(&lock, &comparison).await;
        lock.release().await;
        applied.revision = revision?;
        applied.removed = comparison.writes.iter().filter(|write| write.value.is_none()).count();
        applied.written = comparison.writes.len() - applied.removed;
        Ok(applied)
    }

    async fn write(&self, lock: &Lock<'_>, comparison: &Comparison) -> Result<i64, ConfigError> {
        let mut record = comparison.record.clone();
        record.run = format!("{:032x}", rand::random::<u128>());
        record.writes += 1;
        let journal = JournalEntry::of(comparison, record.writes).render();
        let number = record.writes;
        let replaced = replaced(number, &comparison.changes, &comparison.writes).render();
        let mut records = Records {
            key: self.own_key(&format!("owned/{}", comparison.component)),
            replaced: replaced.map(|bytes| (self.replaced_key(&comparison.component, number), bytes)),
            journal: Some((self.journal_key(&comparison.component, record.writes), journal)),
            record,
            observed: comparison.record_revision,
        };
        if cost(&comparison.writes) + records.cost() > REQUEST {
            records.replaced = None;
        }
        let size = cost(&comparison.writes) + records.cost();
        let inside = comparison.writes.iter().all(|write| is_below(&comparison.prefixes, &write.key));
        if size > REQUEST || comparison.writes.len() > NEST * NEST || (comparison.writes.len() > FLAT && !inside) {
            return self.write_split(lock, comparison, records).await;
        }
        if comparison.writes.len() <= FLAT {
            return self.write_flat(lock, &comparison.writes, Some(&records)).await;
        }
        self.write_nested(lock, comparison, &records).await
    }

    /// One transaction, each key guarded by its own revision.
    async fn write_flat(
        &self,
        lock: &Lock<'_>,
        writes: &[Write],
        records: Option<&Records>,
    ) -> Result<i64, ConfigError> {
        let mut guards = vec![lock.guard()];
        guards.extend(writes.iter().map(|write| unmoved(&write.key, write.observed)));
        let mut looks = vec![lock.look()];
        looks.extend(writes.iter().map(|write| TxnOp::get(write.key.as_str(), None)));
        let mut ops: Vec<TxnOp> = writes.iter().map(Write::op).collect();
        if let Some(records) = records {
            guards.push(unmoved(&records.key, records.observed));
            looks.push(TxnOp::get(records.key.as_str(), None));
            ops.extend(records.ops());
        }
        let found = match self.attempt(lock, guards, ops, looks).await? {
            Attempt::Done(revision) => return Ok(revision),
            Attempt::Refused(found) => found,
        };
        match records {
            Some(records) if found.is_ours(records) => Ok(found.revision(&records.key)),
            Some(records) => {
                let moved = writes.iter().find(|write| found.revision(&write.key) != write.observed);
                Err(ConfigError::Conflict { key: moved.map_or(&records.key, |write| &write.key).clone() })
            }
            // Part of a split write. A key that holds what we want is our own write whose answer was lost.
            None => match writes.iter().find(|write| found.value(&write.key) != write.value.as_deref()) {
                Some(moved) => Err(ConfigError::Conflict { key: moved.key.clone() }),
                None => Ok(found.at),
            },
        }
    }

    /// One transaction of many: the prefixes are guarded as a whole, so a change of any key below them stops the write.
    async fn write_nested(
        &self,
        lock: &Lock<'_>,
        comparison: &Comparison,
        records: &Records,
    ) -> Result<i64, ConfigError> {
        let mut guards = vec![lock.guard(), unmoved(&records.key, records.observed)];
        guards.extend(comparison.prefixes.iter().map(|prefix| untouched(prefix, comparison.revision)));
        let mut ops = bundled(&comparison.writes.iter().collect::<Vec<_>>());
        ops.extend(records.ops());
        let mut looks = vec![lock.look(), TxnOp::get(records.key.as_str(), None)];
        looks.extend(comparison.prefixes.iter().map(|prefix| touched(prefix, comparison.revision)));
        let found = match self.attempt(lock, guards, ops, looks).await? {
            Attempt::Done(revision) => return Ok(revision),
            Attempt::Refused(found) => found,
        };
        if found.is_ours(records) {
            return Ok(found.revision(&records.key));
        }
        Err(ConfigError::Conflict { key: found.below(&comparison.prefixes).unwrap_or(&records.key).to_owned() })
    }

    /// Several transactions, for what does not fit into one request.
    async fn write_split(
        &self,
        lock: &Lock<'_>,
        comparison: &Comparison,
        mut records: Records,
    ) -> Result<i64, ConfigError> {
        self.check_unmoved(comparison).await?;
        // First the record with old and new keys: whatever is written after this is known to be ours.
        let mut all = records.record.clone();
        for (key, owned) in &comparison.owned_before {
            all.keys.entry(key.clone()).or_insert_with(|| owned.clone());
        }
        all.run.push(UNFINISHED);
        let first = Records {
            key: records.key.clone(),
            record: all,
            observed: records.observed,
            journal: None,
            replaced: None,
        };
        records.observed = self.write_flat(lock, &[], Some(&first)).await?;
        let mut rest = comparison.writes.as_slice();
        while !rest.is_empty() {
            let (part, later) = rest.split_at(fitting(rest));
            self.write_flat(lock, part, None).await?;
            rest = later;
        }
        self.write_flat(lock, &[], Some(&records)).await
    }

    /// Looks at every key of a split write once more, before its first part.
    async fn check_unmoved(&self, comparison: &Comparison) -> Result<(), ConfigError> {
        let mut revisions: BTreeMap<String, i64> = BTreeMap::new();
        for prefix in &comparison.prefixes {
            let entries = self.get(prefix).await?;
            revisions.extend(entries.into_iter().map(|entry| (entry.key, entry.revision)));
        }
        for write in comparison.writes.iter().filter(|write| !is_below(&comparison.prefixes, &write.key)) {
            if let Some(entry) = self.get_one(&write.key, 0).await? {
                revisions.insert(entry.key, entry.revision);
            }
        }
        let moved = |write: &&Write| revisions.get(&write.key).copied().unwrap_or(0) != write.observed;
        match comparison.writes.iter().find(moved) {
            Some(write) => Err(ConfigError::Conflict { key: write.key.clone() }),
            None => Ok(()),
        }
    }

    /// Makes a transaction under the lock. That the lock is lost is an error.
    pub(super) async fn attempt(
        &self,
        lock: &Lock<'_>,
        guards: Vec<Compare>,
        ops: Vec<TxnOp>,
        looks: Vec<TxnOp>,
    ) -> Result<Attempt, ConfigError> {
        let answer = self.transact(Txn::new().when(guards).and_then(ops).or_else(looks)).await?;
        let found = Found::of(&answer);
        if answer.succeeded() {
            return Ok(Attempt::Done(found.at));
        }
        found.lock_is_ours(lock)?;
        Ok(Attempt::Refused(found))
    }

    pub(super) async fn transact(&self, txn: Txn) -> Result<TxnResponse, ConfigError> {
        self.connection
            .call("write the configuration", |client| {
                let txn = txn.clone();
                async move { client.kv_client().max_decoding_message_size(usize::MAX).txn(txn).await }
            })
            .await
    }
}

impl Write {
    pub(super) fn op(&self) -> TxnOp {
        match &self.value {
            Some(value) => TxnOp::put(self.key.as_str(), value.as_slice(), None),
            None => TxnOp::delete(self.key.as_str(), None),
        }
    }

    /// Bytes in a request: the key stands in guard, operation and look.
    fn cost(&self) -> usize {
        3 * (self.key.len() + OVERHEAD) + self.value.as_ref().map_or(0, Vec::len)
    }
}

impl Records {
    fn ops(&self) -> Vec<TxnOp> {
        let mut ops = vec![TxnOp::put(self.key.as_str(), self.record.render(), None)];
        let beside = self.journal.iter().chain(&self.replaced);
        ops.extend(beside.map(|(key, entry)| TxnOp::put(key.as_str(), entry.as_slice(), None)));
        ops
    }

    fn cost(&self) -> usize {
        let beside: usize = self.journal.iter().chain(&self.replaced).map(|(key, entry)| key.len() + entry.len()).sum();
        self.record.render().len() + beside + 3 * (self.key.len() + OVERHEAD)
    }
}

/// How a transaction under the lock ended.
pub(super) enum Attempt {
    /// It is made, at this revision.
    Done(i64),
    /// A guard did not hold.
    Refused(Found),
}

/// What a refused transaction found.
pub(super) struct Found {
    /// The revision that it was looked at.
    pub(super) at: i64,
    /// Key to (created, changed, value).
    keys: BTreeMap<Vec<u8>, (i64, i64, Vec<u8>)>,
}

impl Found {
    pub(super) fn of(answer: &TxnResponse) -> Self {
        let mut keys = BTreeMap::new();
        for response in answer.op_responses() {
            if let TxnOpResponse::Get(mut get) = response {
                for kv in get.take_kvs() {
                    let (created, changed) = (kv.create_revision(), kv.mod_revision());
                    let (key, value) = kv.into_key_value();
                    keys.insert(key, (created, changed, value));
                }
            }
        }
        Self { at: answer.header().map_or(0, ResponseHeader::revision), keys }
    }

    pub(super) fn revision(&self, key: &str) -> i64 {
        self.keys.get(key.as_bytes()).map_or(0, |(_, changed, _)| *changed)
    }

    fn value(&self, key: &str) -> Option<&[u8]> {
        self.keys.get(key.as_bytes()).map(|(_, _, value)| value.as_slice())
    }

    pub(super) fn below(&self, prefixes: &[String]) -> Option<&str> {
        self.keys.keys().filter_map(|key| std::str::from_utf8(key).ok()).find(|key| is_below(prefixes, key))
    }

    pub(super) fn lock_is_ours(&self, lock: &Lock<'_>) -> Result<(), ConfigError> {
        let ours = self.keys.iter().any(|(key, (created, ..))| lock.is_ours(key, *created));
        if ours { Ok(()) } else { Err(ConfigError::LockLost) }
    }

    /// Whether the record is the one that we just tried to write: the write counted and its answer was lost.
    fn is_ours(&self, records: &Records) -> bool {
        self.is_from(&records.key, &records.record.run)
    }

    /// Whether the record at a key is the one of this write.
    pub(super) fn is_from(&self, key: &str, run: &str) -> bool {
        self.value(key).and_then(|value| Owned::parse(key, value).ok()).is_some_and(|record| record.run == run)
    }
}

/// True in a transaction as long as a key is as it was read.
pub(super) fn unmoved(key: &str, observed: i64) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, observed)
}

/// True in a transaction as long as no key below a prefix changed after a revision.
pub(super) fn untouched(prefix: &str, revision: i64) -> Compare {
    Compare::mod_revision(prefix, CompareOp::Less, revision + 1).with_prefix()
}

/// Looks for a key below a prefix that did.
pub(super) fn touched(prefix: &str, revision: i64) -> TxnOp {
    let changed = GetOptions::new().with_prefix().with_min_mod_revision(revision + 1);
    TxnOp::get(prefix, Some(changed.with_keys_only().with_limit(1)))
}

/// More writes than one transaction takes, as transactions within one.
pub(super) fn bundled(writes: &[&Write]) -> Vec<TxnOp> {
    let bundle = |writes: &[&Write]| Txn::new().and_then(writes.iter().map(|write| write.op()).collect::<Vec<_>>());
    writes.chunks(NEST).map(|writes| TxnOp::txn(bundle(writes))).collect()
}

pub(super) fn cost<'w>(writes: impl IntoIterator<Item = &'w Write>) -> usize {
    writes.into_iter().map(Write::cost).sum()
}

/// How many of these fit into one request; at least one.
fn fitting(writes: &[Write]) -> usize {
    let mut size = 0;
    let fits = |write: &&Write| {
        size += write.cost();
        size <= REQUEST
    };
    writes.iter().take(FLAT).take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(size: usize) -> Write {
        Write { key: "/k".to_owned(), value: Some(vec![0; size]), observed: 0, digest_before: None, before: None }
    }

    #[test]
    fn parts_keep_to_the_limits() {
        assert_eq!(fitting(&vec![write(1); 300]), FLAT);
        assert_eq!(fitting(&vec![write(1 << 20); 3]), 1);
        assert_eq!(fitting(&vec![write(600_000); 3]), 2);
        assert_eq!(fitting(&vec![write(2 * REQUEST); 3]), 1);
    }
}
