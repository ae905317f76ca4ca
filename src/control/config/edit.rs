//! One key changed by hand: by its operator, not by a recipe.

use etcd_client::{Compare, CompareOp, DeleteOptions, ResponseHeader, Txn, TxnOp};

use super::{
    compare::LARGEST_VALUE,
    error::ConfigError,
    journal::JournalEntry,
    owned::{Owned, digest},
    replaced::{Held, Replaced},
    store::{Entry, Store},
};
use crate::plan::{Action, ComponentName};

/// What a change by hand did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    /// The component whose recipe wrote the key, when one did: its next deploy sets it back.
    pub owner: Option<ComponentName>,
    /// None when the key held the value already.
    pub action: Option<Action>,
    /// The store's revision afterwards.
    pub revision: i64,
}

impl Store {
    /// One key: its value and revision. None when there is no such key.
    pub async fn get_key(&self, key: &str) -> Result<Option<super::Entry>, ConfigError> {
        self.get_one(key, 0).await
    }

    /// Sets one key that held what `before` says (its revision, 0 for no key at all): [`ConfigError::Conflict`] when it
    /// moved meanwhile. The write is in the journal of the component that owns the key; what its recipe wrote last stays
    /// on record, so that the change is seen as one by hand.
    pub async fn set_key(&self, key: &str, value: &[u8], before: i64) -> Result<Edited, ConfigError> {
        self.require_auth()?;
        if !key.starts_with('/') || key.ends_with('/') || key.starts_with("/ovs-cuisine/") || key.contains('\0') {
            return Err(ConfigError::BadEdit { key: key.to_owned() });
        }
        if value.len() > LARGEST_VALUE {
            return Err(ConfigError::ValueTooLarge { key: key.to_owned(), size: value.len() });
        }
        let _turn = self.writing.lock().await;
        let lock = self.lock().await?;
        let edited = self.edit(&lock, key, value, before).await;
        lock.release().await;
        edited
    }

    async fn edit(
        &self,
        lock: &super::lock::Lock<'_>,
        key: &str,
        value: &[u8],
        before: i64,
    ) -> Result<Edited, ConfigError> {
        let found = self.get_one(key, 0).await?;
        if found.as_ref().map_or(0, |entry| entry.revision) != before {
            return Err(ConfigError::Conflict { key: key.to_owned() });
        }
        let owner = self.owner_of(key).await?;
        let name = owner.as_ref().map(|(name, ..)| name.clone());
        if found.as_ref().is_some_and(|entry| entry.value == value) {
            return Ok(Edited { owner: name, action: None, revision: before });
        }
        let action = if found.is_some() { Action::Modify } else { Action::Create };
        let mut guards = vec![lock.guard(), Compare::mod_revision(key, CompareOp::Equal, before)];
        let mut writes = vec![TxnOp::put(key, value, None)];
        if let Some((component, mut record, revision)) = owner {
            let record_key = self.own_key(&format!("owned/{component}"));
            record.writes += 1;
            let old = found.as_ref().map(|entry| digest(&entry.value));
            let entry = JournalEntry::of_edit(key, action, old, digest(value), record.writes);
            guards.push(Compare::mod_revision(record_key.as_str(), CompareOp::Equal, revision));
            writes.push(TxnOp::put(self.journal_key(&component, record.writes), entry.render(), None));
            let secret = record.keys.get(key).is_some_and(|owned| owned.secret);
            let before = found.as_ref().map(|entry| Held::new(&entry.value, secret));
            if let Some(replaced) = Replaced::new(record.writes, [(key.to_owned(), before)]).render() {
                writes.push(TxnOp::put(self.replaced_key(&component, record.writes), replaced, None));
            }
            writes.push(TxnOp::put(record_key, record.render(), None));
        }
        let txn = Txn::new().when(guards).and_then(writes);
        let answer = self
            .connection
            .call("change a key", |mut client| {
                let txn = txn.clone();
                async move { client.txn(txn).await }
            })
            .await?;
        if answer.succeeded() {
            let revision = answer.header().map_or(0, ResponseHeader::revision);
            return Ok(Edited { owner: name, action: Some(action), revision });
        }
        // A call whose answer was lost is made again, and finds its own work.
        match self.get_one(key, 0).await? {
            Some(entry) if entry.value == value => {
                Ok(Edited { owner: name, action: Some(action), revision: entry.revision })
            }
            _ => Err(ConfigError::Conflict { key: key.to_owned() }),
        }
    }

    /// The components that we keep a record of, and the keys that they own; the one that came last is first.
    ///
    /// A component is written when what it needs is healthy, so that in this order nothing goes before what uses it.
    pub async fn components(&self) -> Result<Vec<(ComponentName, Vec<String>)>, ConfigError> {
        let mut records = self.records().await?;
        records.sort_by_key(|(_, _, entry)| std::cmp::Reverse(entry.created));
        Ok(records.into_iter().map(|(name, record, _)| (name, record.keys.into_keys().collect())).collect())
    }

    /// Forgets a component that owns nothing any more: its history, then its record. As long as that is there, a run that
    /// was cut off does it again.
    pub async fn forget(&self, component: &ComponentName) -> Result<(), ConfigError> {
        for key in [format!("journal/{component}/"), format!("replaced/{component}/"), format!("owned/{component}")] {
            let whole = self.own_key(&key);
            self.connection
                .call("forget a component", |mut client| {
                    let (key, below) = (whole.clone(), whole.ends_with('/'));
                    let options = below.then(|| DeleteOptions::new().with_prefix());
                    async move { client.delete(key, options).await.map(drop) }
                })
                .await?;
        }
        Ok(())
    }

    async fn records(&self) -> Result<Vec<(ComponentName, Owned, Entry)>, ConfigError> {
        let prefix = self.own_key("owned/");
        let mut found = Vec::new();
        for entry in self.get(&prefix).await? {
            let record = Owned::parse(&entry.key, &entry.value)?;
            if let Some(name) = entry.key.strip_prefix(&prefix).and_then(|name| name.parse().ok()) {
                found.push((name, record, entry));
            }
        }
        Ok(found)
    }

    /// The component whose recipe wrote a key, its record and the record's revision.
    async fn owner_of(&self, key: &str) -> Result<Option<(ComponentName, Owned, i64)>, ConfigError> {
        let found = self.records().await?.into_iter().find(|(_, record, _)| record.keys.contains_key(key));
        Ok(found.map(|(name, record, entry)| (name, record, entry.revision)))
    }
}
