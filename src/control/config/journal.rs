//! What was written when and by whom: the last hundred writes of each component, kept in etcd beside the keys.

use std::{
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{
    compare::{Comparison, KeyChange, Write},
    error::ConfigError,
    holder::owner,
    owned::digest,
    store::Store,
};
use crate::plan::{Action, ComponentName};

/// Writes kept per component; the oldest is overwritten.
const KEPT: u64 = 100;
/// Keys listed per write; more are only counted, so that an entry stays far below etcd's limit.
const LISTED: usize = 1000;

/// What all writes of this process have in common.
static RUN: LazyLock<String> = LazyLock::new(|| format!("r{:08x}", rand::random::<u32>()));

/// One write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Its number among the component's writes, from 1.
    pub number: u64,
    /// When, in seconds since 1970 (the near side's clock).
    pub at: u64,
    /// Who: `user@machine (process 1)`.
    pub by: String,
    /// The run of this program that it was part of, such as `r1f00ba42`; empty in entries of earlier versions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run: String,
    /// The revision that it went back to, when it was a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<i64>,
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
        Self::of_changes(&comparison.changes, &comparison.writes, number)
    }

    /// The entry of a component's share of a rollback.
    pub(super) fn of_rollback(changes: &[KeyChange], writes: &[Write], back_to: i64, number: u64) -> Self {
        Self { back_to: Some(back_to), ..Self::of_changes(changes, writes, number) }
    }

    fn of_changes(changes: &[KeyChange], writes: &[Write], number: u64) -> Self {
        let listed = changes.iter().zip(writes).take(LISTED).map(|(change, write)| JournalChange {
            key: change.key.clone(),
            action: change.action,
            before: write.digest_before.clone(),
            after: write.value.as_deref().map(digest),
        });
        Self {
            number,
            at: now(),
            by: owner(),
            run: RUN.clone(),
            back_to: None,
            count: changes.len(),
            changes: listed.collect(),
        }
    }

    /// The entry of one key's change by hand.
    pub(super) fn of_edit(key: &str, action: Action, before: Option<String>, after: String, number: u64) -> Self {
        let change = JournalChange { key: key.to_owned(), action, before, after: Some(after) };
        Self { number, at: now(), by: owner(), run: RUN.clone(), back_to: None, count: 1, changes: vec![change] }
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
