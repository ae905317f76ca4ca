//! Going back: the keys as they were at an earlier revision, written in one transaction that is a write like others.
//!
//! Only keys that writes of ours touched since then are looked at, and each must still hold what the last of these writes
//! gave it. What they held before is kept with the history, or read from etcd's own while that is not compacted.

use std::collections::{BTreeMap, BTreeSet};

use etcd_client::TxnOp;
use futures::future::try_join_all;

use super::{
    apply::{Applied, Attempt, FLAT, NEST, REQUEST, bundled, cost, touched, unmoved, untouched},
    compare::{KeyChange, Write, shown},
    error::ConfigError,
    journal::{JournalChange, JournalEntry},
    lock::Lock,
    owned::{Owned, OwnedKey, UNFINISHED, digest},
    replaced::{Held, Past, Replaced},
    store::{Entry, Store},
};
use crate::plan::{Action, ComponentName};

/// Where to go back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To what was before the last run that wrote anything.
    BeforeLast,
    /// To what this run left.
    Run(String),
    /// To what was at this revision of etcd.
    Revision(i64),
}

/// One write of a component with the revision that it made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Whose.
    pub component: ComponentName,
    /// What was written.
    pub entry: JournalEntry,
    /// The store's revision since then.
    pub revision: i64,
}

/// What going back would change, and all that doing it needs; [`Store::roll_back`] refuses when a key moved since.
pub struct Rollback {
    target: i64,
    /// The revision of the reading.
    revision: i64,
    prefix: String,
    parts: Vec<Part>,
}

/// One component's share.
struct Part {
    component: ComponentName,
    changes: Vec<KeyChange>,
    writes: Vec<Write>,
    record: Owned,
    record_revision: i64,
}

impl Rollback {
    /// The revision that it goes back to.
    pub fn target(&self) -> i64 {
        self.target
    }

    /// What differs, by component; components of which nothing does are left out.
    pub fn changes(&self) -> impl Iterator<Item = (&ComponentName, &[KeyChange])> {
        self.parts.iter().map(|part| (&part.component, part.changes.as_slice()))
    }

    fn writes(&self) -> impl Iterator<Item = &Write> {
        self.parts.iter().flat_map(|part| &part.writes)
    }
}

/// What a key is to hold again, and what the last write since then gave it.
struct Touched {
    wanted: Option<Held>,
    /// BLAKE3; none when that write removed it.
    last: Option<String>,
}

impl Store {
    /// The writes of all components, oldest first; at most the last hundred of each.
    pub async fn written(&self) -> Result<Vec<Written>, ConfigError> {
        Ok(self.all_written().await?.0)
    }

    /// The same, and at which revision that was.
    async fn all_written(&self) -> Result<(Vec<Written>, i64), ConfigError> {
        let prefix = self.own_key("journal/");
        let (entries, revision) = self.get_at(&prefix, 0).await?;
        let mut written = Vec::new();
        for found in entries {
            let name = found.key.strip_prefix(&prefix).and_then(|rest| rest.split_once('/')?.0.parse().ok());
            let Some(component) = name else { continue };
            let entry = serde_json::from_slice(&found.value)
                .map_err(|source| ConfigError::Record { key: found.key.clone(), source })?;
            written.push(Written { component, entry, revision: found.revision });
        }
        written.sort_by_key(|write| write.revision);
        Ok((written, revision))
    }

    /// What it takes to go back, for these components only unless there are none. `prefix` is the lab's. Reads only.
    ///
    /// [`ConfigError::NoSuchRun`] when nothing was written, or not by that run; [`ConfigError::NotKept`] when the history does
    /// not reach back so far; [`ConfigError::Changed`] when another hand changed a key since.
    pub async fn prepare_rollback(
        &self,
        target: &Target,
        only: &[ComponentName],
        prefix: &str,
    ) -> Result<Rollback, ConfigError> {
        let (written, revision) = self.all_written().await?;
        let is_chosen = |write: &&Written| only.is_empty() || only.contains(&write.component);
        let written: Vec<Written> = written.iter().filter(is_chosen).cloned().collect();
        let target = resolve(target, &written, revision)?;
        let mut by_component: BTreeMap<ComponentName, Vec<Written>> = BTreeMap::new();
        for write in written {
            by_component.entry(write.component.clone()).or_default().push(write);
        }
        let mut parts = Vec::new();
        for (component, writes) in by_component {
            if let Some(part) = self.part(component, &writes, target, revision).await? {
                parts.push(part);
            }
        }
        let mut seen = BTreeSet::new();
        let rollback = Rollback { target, revision, prefix: prefix.to_owned(), parts };
        if let Some(twice) = rollback.writes().find(|write| !seen.insert(&write.key)) {
            return Err(ConfigError::Shared { key: twice.key.clone() });
        }
        Ok(rollback)
    }

    /// One component's share; none when none of its keys differs.
    async fn part(
        &self,
        component: ComponentName,
        writes: &[Written],
        target: i64,
        revision: i64,
    ) -> Result<Option<Part>, ConfigError> {
        let record_key = self.own_key(&format!("owned/{component}"));
        let Some(found) = self.get_one(&record_key, revision).await? else { return Ok(None) };
        let mut record = Owned::parse(&found.key, &found.value)?;
        // A write in several requests that was cut off stands in no history: part of it cannot be undone.
        if record.run.ends_with(UNFINISHED) && found.revision > target {
            return Err(ConfigError::NotKept { component, number: record.writes });
        }
        let undone = undone(&component, writes, target, record.writes)?;
        if undone.is_empty() {
            return Ok(None);
        }
        let touched = self.touched(&component, &undone, target, (&record, revision)).await?;
        let now = try_join_all(touched.keys().map(|key| self.get_one(key, revision))).await?;
        let (mut changes, mut writes) = (Vec::new(), Vec::new());
        for ((key, touched), now) in touched.into_iter().zip(now) {
            let secret = touched.wanted.as_ref().is_some_and(|held| held.secret)
                || record.keys.get(&key).is_some_and(|owned| owned.secret);
            let value = match &touched.wanted {
                Some(held) => Some(held.bytes().ok_or_else(|| not_kept(&component, &undone))?),
                None => None,
            };
            match &value {
                Some(value) => drop(record.keys.insert(key.clone(), OwnedKey::of(value, secret))),
                None => drop(record.keys.remove(&key)),
            }
            let Some(change) = change(&key, now.as_ref(), value.as_deref(), secret, &touched)? else { continue };
            changes.push(change);
            writes.push(Write {
                key,
                value,
                observed: now.as_ref().map_or(0, |entry| entry.revision),
                digest_before: now.as_ref().map(|entry| digest(&entry.value)),
                before: now.map(|entry| entry.value),
            });
        }
        let part = Part { component, changes, writes, record, record_revision: found.revision };
        Ok(Some(part).filter(|part| !part.writes.is_empty()))
    }

    /// The keys that these writes touched: what each held before the first of them, and what the last one gave it.
    async fn touched(
        &self,
        component: &ComponentName,
        undone: &[&Written],
        target: i64,
        (record, revision): (&Owned, i64),
    ) -> Result<BTreeMap<String, Touched>, ConfigError> {
        let kept = self.replaced(component, revision).await?;
        let mut touched: BTreeMap<String, Touched> = BTreeMap::new();
        for write in undone {
            if write.entry.count != write.entry.changes.len() {
                return Err(not_kept(component, undone));
            }
            for change in &write.entry.changes {
                if let Some(known) = touched.get_mut(&change.key) {
                    known.last.clone_from(&change.after);
                    continue;
                }
                let mut past =
                    kept.get(&write.entry.number).map_or(Past::Unknown, |replaced| replaced.get(&change.key));
                if matches!(past, Past::Unknown) {
                    // Whether a key that is gone was secret nobody knows any more: better taken for one.
                    let secret = record.keys.get(&change.key).is_none_or(|owned| owned.secret);
                    past = self.look_back(change, target, secret).await?;
                }
                let wanted = match past {
                    Past::Held(held) => Some(held),
                    Past::Absent => None,
                    Past::Unknown => return Err(not_kept(component, undone)),
                };
                touched.insert(change.key.clone(), Touched { wanted, last: change.after.clone() });
            }
        }
        Ok(touched)
    }

    /// What a key held at the target, from etcd's own history; unknown when that is compacted, or is not what our own
    /// history says.
    async fn look_back(&self, change: &JournalChange, target: i64, secret: bool) -> Result<Past, ConfigError> {
        let found = match self.get_one(&change.key, target.max(1)).await {
            Ok(found) => found,
            Err(ConfigError::Etcd { .. }) => return Ok(Past::Unknown),
            Err(error) => return Err(error),
        };
        if found.as_ref().map(|entry| digest(&entry.value)) != change.before {
            return Ok(Past::Unknown);
        }
        Ok(Past::of(found.map(|entry| Held::new(&entry.value, secret))))
    }

    /// Goes back, in one transaction. Nothing is written when a key or record moved since the reading
    /// ([`ConfigError::Conflict`]).
    pub async fn roll_back(&self, rollback: Rollback) -> Result<Applied, ConfigError> {
        self.require_auth()?;
        let _turn = self.writing.lock().await;
        let lock = self.lock().await?;
        let revision = self.write_back(&lock, &rollback).await;
        lock.release().await;
        let removed = rollback.writes().filter(|write| write.value.is_none()).count();
        Ok(Applied { revision: revision?, written: rollback.writes().count() - removed, removed })
    }

    async fn write_back(&self, lock: &Lock<'_>, rollback: &Rollback) -> Result<i64, ConfigError> {
        let (mut guards, mut looks, mut records) = (vec![lock.guard()], vec![lock.look()], Vec::new());
        let run = format!("{:032x}", rand::random::<u128>());
        let mut size = 0;
        for part in &rollback.parts {
            let mut record = part.record.clone();
            (record.run, record.writes) = (run.clone(), record.writes + 1);
            let number = record.writes;
            let key = self.own_key(&format!("owned/{}", part.component));
            guards.push(unmoved(&key, part.record_revision));
            looks.push(TxnOp::get(key.as_str(), None));
            let mut put = |key: String, value: Vec<u8>| {
                size += key.len() + value.len();
                records.push(TxnOp::put(key, value, None));
            };
            put(key, record.render());
            let entry = JournalEntry::of_rollback(&part.changes, &part.writes, rollback.target, number);
            put(self.journal_key(&part.component, number), entry.render());
            if let Some(replaced) = replaced(number, &part.changes, &part.writes).render() {
                put(self.replaced_key(&part.component, number), replaced);
            }
        }
        let writes: Vec<&Write> = rollback.writes().collect();
        let is_flat = writes.len() + records.len().max(guards.len()) <= FLAT;
        let inside = writes.iter().all(|write| write.key.starts_with(&rollback.prefix));
        let chunks = writes.len().div_ceil(NEST) + records.len();
        if size + cost(rollback.writes()) > REQUEST || !is_flat && (!inside || chunks + NEST > FLAT) {
            return Err(ConfigError::TooMuch { keys: writes.len() });
        }
        let mut ops: Vec<TxnOp> = if is_flat {
            guards.extend(writes.iter().map(|write| unmoved(&write.key, write.observed)));
            looks.extend(writes.iter().map(|write| TxnOp::get(write.key.as_str(), None)));
            writes.iter().map(|write| write.op()).collect()
        } else {
            // Too many guards for one transaction: nothing below the lab's prefix may have moved.
            guards.push(untouched(&rollback.prefix, rollback.revision));
            looks.push(touched(&rollback.prefix, rollback.revision));
            bundled(&writes)
        };
        ops.extend(records);
        let found = match self.attempt(lock, guards, ops, looks).await? {
            Attempt::Done(revision) => return Ok(revision),
            Attempt::Refused(found) => found,
        };
        let Some(first) = rollback.parts.first() else { return Ok(found.at) };
        let record = self.own_key(&format!("owned/{}", first.component));
        if found.is_from(&record, &run) {
            return Ok(found.revision(&record));
        }
        let moved = writes.iter().find(|write| is_flat && found.revision(&write.key) != write.observed);
        let below = || found.below(std::slice::from_ref(&rollback.prefix)).filter(|_| !is_flat);
        let key = moved.map(|write| write.key.as_str()).or_else(below).unwrap_or(&record);
        Err(ConfigError::Conflict { key: key.to_owned() })
    }
}

/// The revision that a target means.
fn resolve(target: &Target, written: &[Written], revision: i64) -> Result<i64, ConfigError> {
    let none = |run: &str| ConfigError::NoSuchRun { run: run.to_owned() };
    match target {
        Target::Revision(wanted) if (0..=revision).contains(wanted) => Ok(*wanted),
        Target::Revision(wanted) => Err(none(&wanted.to_string())),
        Target::Run(run) => {
            let of_run = written.iter().filter(|write| write.entry.run == *run);
            of_run.map(|write| write.revision).max().ok_or_else(|| none(run))
        }
        Target::BeforeLast => {
            let last = written.last().ok_or_else(|| none("last"))?;
            // Writes of earlier versions name no run: the last one counts alone.
            let same = |write: &&Written| write.entry.run == last.entry.run && !last.entry.run.is_empty();
            let first = written.iter().filter(same).map(|write| write.revision).min();
            Ok(first.unwrap_or(last.revision) - 1)
        }
    }
}

/// A component's writes after a revision, oldest first, when all of them are there.
fn undone<'w>(
    component: &ComponentName,
    writes: &'w [Written],
    target: i64,
    latest: u64,
) -> Result<Vec<&'w Written>, ConfigError> {
    let mut sorted: Vec<&Written> = writes.iter().collect();
    sorted.sort_by_key(|write| write.entry.number);
    let undone: Vec<&Written> = sorted.iter().copied().filter(|write| write.revision > target).collect();
    let Some(first) = undone.first() else { return Ok(undone) };
    let number = first.entry.number;
    let before_is_known = number == 1 || sorted.iter().any(|write| write.entry.number + 1 == number);
    let numbers: Vec<u64> = undone.iter().map(|write| write.entry.number).collect();
    if !before_is_known || numbers != (number..=latest).collect::<Vec<_>>() {
        return Err(not_kept(component, &undone));
    }
    Ok(undone)
}

fn not_kept(component: &ComponentName, undone: &[&Written]) -> ConfigError {
    let number = undone.first().map_or(0, |write| write.entry.number);
    ConfigError::NotKept { component: component.clone(), number }
}

/// How a key differs from what it is to hold; none when it does not.
fn change(
    key: &str,
    now: Option<&Entry>,
    wanted: Option<&[u8]>,
    secret: bool,
    touched: &Touched,
) -> Result<Option<KeyChange>, ConfigError> {
    let held = now.map(|entry| entry.value.as_slice());
    let action = match (held, wanted) {
        (Some(held), Some(wanted)) if held != wanted => Action::Modify,
        (None, Some(_)) => Action::Create,
        (Some(_), None) => Action::Remove,
        _ => return Ok(None),
    };
    if held.map(digest) != touched.last {
        return Err(ConfigError::Changed { key: key.to_owned() });
    }
    let shown = |value: Option<&[u8]>| value.map(|value| shown(value, secret));
    let (before, after) = (shown(held), shown(wanted));
    Ok(Some(KeyChange { key: key.to_owned(), action, before, after, secret, drifted: false }))
}

/// What writes replace, for going back to.
pub(super) fn replaced(number: u64, changes: &[KeyChange], writes: &[Write]) -> Replaced {
    let held = changes.iter().zip(writes).map(|(change, write)| {
        let held = write.before.as_deref().map(|value| Held::new(value, change.secret));
        (write.key.clone(), held)
    });
    Replaced::new(number, held)
}
