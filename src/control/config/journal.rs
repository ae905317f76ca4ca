//! What was written when and by whom: the last hundred writes of each component, kept in etcd beside the keys.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{compare::Comparison, error::ConfigError, lock::owner, owned::digest, store::Store};
use crate::plan::{Action, ComponentName};

/// Writes kept per component; the oldest is overwritten.
const KEPT: u64 = 100;
/// Keys listed per write; more are only counted, so that an entry stays far below etcd's limit.
const LISTED: usize = 1000;

/// One write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Its number among the component's writes, from 1.
    pub number: u64,
    /// When, in seconds since 1970 (the near side's clock).
    pub at: u64,
    /// Who: `user@machine (process 1)`.
    pub by: String,
    /// Keys written or removed in all.
    pub count: usize,
    /// The first 1000 of them.
    pub changes: Vec<JournalChange>,
}

/// One key of a write. Values are named by their digest only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalChange {
    /// The whole key.
    pub key: String,
    /// Create, modify or remove.
    pub action: Action,
    /// BLAKE3 of the value before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// BLAKE3 of the value after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl JournalEntry {
    /// The entry of a write that is about to happen.
    pub(super) fn of(comparison: &Comparison, number: u64) -> Self {
        let changes =
            comparison.changes.iter().zip(&comparison.writes).take(LISTED).map(|(change, write)| JournalChange {
                key: change.key.clone(),
                action: change.action,
                before: write.digest_before.clone(),
                after: write.value.as_deref().map(digest),
            });
        Self { number, at: now(), by: owner(), count: comparison.changes.len(), changes: changes.collect() }
    }

    /// The entry of one key's change by hand.
    pub(super) fn of_edit(key: &str, action: Action, before: Option<String>, after: String, number: u64) -> Self {
        let change = JournalChange { key: key.to_owned(), action, before, after: Some(after) };
        Self { number, at: now(), by: owner(), count: 1, changes: vec![change] }
    }

    pub(super) fn render(&self) -> Vec<u8> {
        // Strings and numbers only: cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

impl Store {
    /// Where a component's write with this number is kept.
    pub(super) fn journal_key(&self, component: &ComponentName, number: u64) -> String {
        self.own_key(&format!("journal/{component}/{:02}", number % KEPT))
    }

    /// The last writes of a component, oldest first, at most 100.
    pub async fn history(&self, component: &ComponentName) -> Result<Vec<JournalEntry>, ConfigError> {
        let mut entries = Vec::new();
        for entry in self.get(&self.own_key(&format!("journal/{component}/"))).await? {
            let parsed: JournalEntry = serde_json::from_slice(&entry.value)
                .map_err(|source| ConfigError::Record { key: entry.key.clone(), source })?;
            entries.push(parsed);
        }
        entries.sort_by_key(|entry| entry.number);
        Ok(entries)
    }
}
