//! What a component's recipe wants in etcd, against what etcd holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{
    error::ConfigError,
    owned::{Owned, OwnedKey, UNFINISHED, digest},
    store::{Entry, Store},
};
use crate::plan::{Action, ComponentName};

/// The largest value that fits into a request beside its key and our record (etcd takes 1.5 MiB in all).
pub(super) const LARGEST_VALUE: usize = 1 << 20;
/// Values longer than this are shown as their size and digest, as in file diffs.
const LARGEST_SHOWN: usize = 256 << 10;

/// The keys that a component's recipe wants.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Whose.
    pub component: ComponentName,
    /// The component's prefixes: each begins and ends with `/`. Every key lies below one of them.
    pub prefixes: Vec<String>,
    /// Whole keys and their values.
    pub keys: BTreeMap<String, Value>,
}

/// A wanted value.
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    /// What is stored, byte for byte; at most 1 MiB.
    pub bytes: Vec<u8>,
    /// Whether it must not be shown.
    pub secret: bool,
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.bytes, self.secret))
    }
}

/// A key that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// The whole key.
    pub key: String,
    /// Create, modify or remove.
    pub action: Action,
    /// Before; none when created. `***` when secret.
    pub before: Option<String>,
    /// After; none when removed. `***` when secret.
    pub after: Option<String>,
    /// Whether its value must not be shown.
    pub secret: bool,
    /// Another hand changed or removed it since we wrote it last.
    pub drifted: bool,
}

/// What differs, and all that applying it needs. From one reading; [`Store::apply`] refuses when a key moved since.
pub struct Comparison {
    pub(super) component: ComponentName,
    pub(super) prefixes: Vec<String>,
    pub(super) changes: Vec<KeyChange>,
    pub(super) writes: Vec<Write>,
    /// The record as it is to be.
    pub(super) record: Owned,
    /// Keys that the record named before.
    pub(super) owned_before: BTreeMap<String, OwnedKey>,
    /// The record's revision as read; 0 when there was none.
    pub(super) record_revision: i64,
    pub(super) revision: i64,
}

/// One key to put or remove.
#[derive(Clone)]
pub(super) struct Write {
    pub(super) key: String,
    /// None: remove it.
    pub(super) value: Option<Vec<u8>>,
    /// The key's revision as read; 0 when there was no such key.
    pub(super) observed: i64,
    /// BLAKE3 of what it held as read.
    pub(super) digest_before: Option<String>,
    /// What it held as read.
    pub(super) before: Option<Vec<u8>>,
}

impl Comparison {
    /// The keys that differ, in order.
    pub fn changes(&self) -> &[KeyChange] {
        &self.changes
    }

    /// Whether etcd holds what is wanted.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Whose keys these are.
    pub fn component(&self) -> &ComponentName {
        &self.component
    }

    /// The revision of the reading.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Whether there is anything to write: a key, or only our record of which keys are ours.
    pub(super) fn needs_write(&self) -> bool {
        !self.writes.is_empty() || self.record.keys != self.owned_before
    }
}

impl fmt::Debug for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Comparison")
            .field("component", &self.component)
            .field("changes", &self.changes)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Compares what a component wants with what etcd holds. Reads only.
    ///
    /// A key that we wrote for the component and that it no longer wants is removed; a key below the prefix that we
    /// did not write is left alone unless it is wanted, and then changed to what is wanted.
    pub async fn compare(&self, wish: &Wish) -> Result<Comparison, ConfigError> {
        check(wish)?;
        let records_prefix = self.own_key("owned/");
        let record_key = format!("{records_prefix}{}", wish.component);
        let ((records, revision), present) = self.present(&records_prefix, wish).await?;
        let mut present: BTreeMap<String, Entry> =
            present.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        let (mut own, mut record_revision, mut claimed) = (Owned::default(), 0, BTreeSet::new());
        for entry in &records {
            let record = Owned::parse(&entry.key, &entry.value)?;
            if entry.key == record_key {
                (own, record_revision) = (record, entry.revision);
            } else {
                claimed.extend(record.keys.into_keys());
            }
        }
        // Only after the component got another prefix: its old keys.
        for key in own.keys.keys().filter(|key| !is_below(&wish.prefixes, key)) {
            if let Some(entry) = self.get_one(key, revision).await? {
                present.insert(key.clone(), entry);
            }
        }
        let mut changes = Vec::new();
        let mut writes = Vec::new();
        for mut change in differences(wish, &present, &own.keys, &claimed) {
            // Our own write that was cut off left keys that are not as its record says; no other hand did.
            change.drifted &= !own.run.ends_with(UNFINISHED);
            let entry = present.get(&change.key);
            writes.push(Write {
                value: wish.keys.get(&change.key).map(|value| value.bytes.clone()),
                observed: entry.map_or(0, |entry| entry.revision),
                digest_before: entry.map(|entry| digest(&entry.value)),
                before: entry.map(|entry| entry.value.clone()),
                key: change.key.clone(),
            });
            changes.push(change);
        }
        let owned_before = own.keys;
        let keys = wish.keys.iter().map(|(key, value)| (key.clone(), OwnedKey::of(&value.bytes, value.secret)));
        Ok(Comparison {
            component: wish.component.clone(),
            prefixes: wish.prefixes.clone(),
            changes,
            writes,
            record: Owned { keys: keys.collect(), writes: own.writes, ..Owned::default() },
            owned_before,
            record_revision,
            revision,
        })
    }

    /// The records of all components with their revision, and what lies below the component's prefixes at that very
    /// revision: keys that belong together.
    async fn present(&self, records: &str, wish: &Wish) -> Result<((Vec<Entry>, i64), Vec<Entry>), ConfigError> {
        let (records, revision) = self.get_at(records, 0).await?;
        let below = wish.prefixes.iter().map(|prefix| self.get_at(prefix, revision));
        let below = futures::future::try_join_all(below).await?;
        Ok(((records, revision), below.into_iter().flat_map(|(entries, _)| entries).collect()))
    }
}

/// Whether a key lies below one of these prefixes.
pub(super) fn is_below(prefixes: &[String], key: &str) -> bool {
    prefixes.iter().any(|prefix| key.len() > prefix.len() && key.starts_with(prefix.as_str()))
}

/// What differs. `claimed` are keys that other components' records name: never removed.
fn differences(
    wish: &Wish,
    present: &BTreeMap<String, Entry>,
    owned: &BTreeMap<String, OwnedKey>,
    claimed: &BTreeSet<String>,
) -> Vec<KeyChange> {
    let all: BTreeSet<&String> = wish.keys.keys().chain(owned.keys()).collect();
    let mut changes = Vec::new();
    for key in all {
        let (wanted, found, ours) = (wish.keys.get(key), present.get(key), owned.get(key));
        let action = match (wanted, found) {
            (Some(wanted), Some(found)) if wanted.bytes != found.value => Action::Modify,
            (Some(_), None) => Action::Create,
            (None, Some(_)) if !claimed.contains(key) => Action::Remove,
            _ => continue,
        };
        let secret = wanted.is_some_and(|value| value.secret) || ours.is_some_and(|ours| ours.secret);
        let held = found.map(|entry| digest(&entry.value));
        changes.push(KeyChange {
            key: key.clone(),
            action,
            before: found.map(|entry| shown(&entry.value, secret)),
            after: wanted.map(|value| shown(&value.bytes, secret)),
            secret,
            drifted: ours.is_some_and(|ours| held.as_ref() != Some(&ours.digest)),
        });
    }
    changes
}

fn check(wish: &Wish) -> Result<(), ConfigError> {
    let bad = |key: &str, why| Err(ConfigError::BadKey { component: wish.component.clone(), key: key.to_owned(), why });
    for prefix in &wish.prefixes {
        if !prefix.starts_with('/') || !prefix.ends_with('/') || prefix.len() < 2 {
            return bad(prefix, "must begin and end with `/`");
        }
        if prefix.starts_with("/ovs-cuisine/") {
            return bad(prefix, "is ours: recipes have nothing below `/ovs-cuisine/`");
        }
    }
    for (key, value) in &wish.keys {
        if !is_below(&wish.prefixes, key) {
            return bad(key, "does not lie below the component's prefix");
        }
        if key.chars().any(char::is_control) || key.len() > 4096 {
            return bad(key, "has control characters or is longer than 4096 bytes");
        }
        if value.bytes.len() > LARGEST_VALUE {
            return Err(ConfigError::ValueTooLarge { key: key.clone(), size: value.bytes.len() });
        }
    }
    Ok(())
}

/// A value as people read it.
pub(super) fn shown(bytes: &[u8], secret: bool) -> String {
    if secret {
        return "***".to_owned();
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() <= LARGEST_SHOWN => text.to_owned(),
        _ => format!("<{} bytes, blake3 {}>", bytes.len(), &digest(bytes)[..12]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Value { bytes: text.into(), secret: false }
    }

    fn entry(key: &str, text: &str) -> (String, Entry) {
        (key.to_owned(), Entry { key: key.to_owned(), value: text.into(), revision: 7, created: 7 })
    }

    fn wish(keys: &[(&str, &str)]) -> Wish {
        Wish {
            component: "agent".parse().unwrap(),
            prefixes: vec!["/ovs/agent/".to_owned()],
            keys: keys.iter().map(|(key, text)| ((*key).to_owned(), value(text))).collect(),
        }
    }

    fn summary(changes: &[KeyChange]) -> Vec<(&str, Action, bool)> {
        changes.iter().map(|change| (change.key.as_str(), change.action, change.drifted)).collect()
    }

    #[test]
    fn create_modify_remove_and_leave_alone() {
        let wish = wish(&[("/ovs/agent/a", "1"), ("/ovs/agent/b", "2"), ("/ovs/agent/c", "3"), ("/ovs/agent/d", "4")]);
        let present = BTreeMap::from([
            entry("/ovs/agent/b", "2"),
            entry("/ovs/agent/c", "by hand"),
            entry("/ovs/agent/d", "foreign"),
            entry("/ovs/agent/old", "x"),
            entry("/ovs/agent/foreign", "x"),
            entry("/ovs/agent/shared", "x"),
        ]);
        let owned = BTreeMap::from([
            ("/ovs/agent/c".to_owned(), OwnedKey::of(b"3", false)),
            ("/ovs/agent/old".to_owned(), OwnedKey::of(b"x", false)),
            ("/ovs/agent/gone".to_owned(), OwnedKey::of(b"x", false)),
            ("/ovs/agent/shared".to_owned(), OwnedKey::of(b"x", false)),
        ]);
        let claimed = BTreeSet::from(["/ovs/agent/shared".to_owned()]);
        assert_eq!(
            summary(&differences(&wish, &present, &owned, &claimed)),
            [
                ("/ovs/agent/a", Action::Create, false),
                ("/ovs/agent/c", Action::Modify, true),
                ("/ovs/agent/d", Action::Modify, false),
                ("/ovs/agent/old", Action::Remove, false),
            ]
        );
    }

    #[test]
    fn secrets_are_masked_on_both_sides() {
        let mut wish = wish(&[("/ovs/agent/a", "canary-new")]);
        let present = BTreeMap::from([entry("/ovs/agent/a", "canary-old"), entry("/ovs/agent/b", "canary-b")]);
        wish.keys.get_mut("/ovs/agent/a").unwrap().secret = true;
        let owned = BTreeMap::from([("/ovs/agent/b".to_owned(), OwnedKey::of(b"canary-b", true))]);
        let changes = differences(&wish, &present, &owned, &BTreeSet::new());
        assert_eq!(changes.len(), 2);
        assert!(!format!("{changes:?} {wish:?}").contains("canary"));
        assert!(!changes[0].drifted && changes[0].before.as_deref() == Some("***"));
    }

    #[test]
    fn bad_keys_are_refused() {
        let mut bad_prefix = wish(&[]);
        bad_prefix.prefixes = vec!["/ovs/agent".to_owned()];
        let mut ours = wish(&[]);
        ours.prefixes = vec!["/ovs-cuisine/lab/".to_owned()];
        let mut large = wish(&[]);
        let bytes = vec![0; LARGEST_VALUE + 1];
        large.keys.insert("/ovs/agent/a".to_owned(), Value { bytes, secret: false });
        for wish in [bad_prefix, ours, large, wish(&[("/ovs/agentx", "")]), wish(&[("/ovs/agent/", "")])] {
            assert!(check(&wish).is_err(), "{wish:?}");
        }
    }

    #[test]
    fn large_and_binary_values_are_named_by_digest() {
        assert!(shown(&[0xff], false).starts_with("<1 bytes, blake3 "));
        assert!(shown(&vec![b'a'; LARGEST_SHOWN + 1], false).starts_with("<262145 bytes"));
        assert_eq!(shown(b"text", false), "text");
    }
}
