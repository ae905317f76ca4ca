//! Which keys are ours: one record per component, changed in the same transaction as the keys themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::ConfigError;

/// The form of the record; a later one is refused rather than misread.
const VERSION: u32 = 1;

/// How `run` ends while a write of several transactions is under way: the record names keys of before and of after.
pub(super) const UNFINISHED: char = '+';

/// What we wrote for one component. JSON at `/ovs-cuisine/<lab>/owned/<component>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Owned {
    pub(super) version: u32,
    /// Marks the write that this record is from: tells a lost answer from another hand's change.
    pub(super) run: String,
    /// Number of writes so far; names the journal's entry.
    pub(super) writes: u64,
    /// The whole keys.
    pub(super) keys: BTreeMap<String, OwnedKey>,
}

/// One key that we wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OwnedKey {
    /// BLAKE3 of the value that we wrote last.
    pub(super) digest: String,
    /// Whether the value must not be shown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) secret: bool,
}

/// BLAKE3 of a value, in hexadecimal.
pub(super) fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

impl OwnedKey {
    pub(super) fn of(bytes: &[u8], secret: bool) -> Self {
        Self { digest: digest(bytes), secret }
    }
}

impl Default for Owned {
    fn default() -> Self {
        Self { version: VERSION, run: String::new(), writes: 0, keys: BTreeMap::new() }
    }
}

impl Owned {
    pub(super) fn parse(key: &str, bytes: &[u8]) -> Result<Self, ConfigError> {
        let bad = |source| ConfigError::Record { key: key.to_owned(), source };
        let record: Self = serde_json::from_slice(bytes).map_err(bad)?;
        if record.version != VERSION {
            let text = format!("version {} is not known", record.version);
            return Err(bad(serde::de::Error::custom(text)));
        }
        Ok(record)
    }

    pub(super) fn render(&self) -> Vec<u8> {
        // Strings and numbers only: cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_text() {
        let mut record = Owned { run: "r".to_owned(), writes: 3, ..Owned::default() };
        record.keys.insert("/a/b".to_owned(), OwnedKey::of(b"x", true));
        assert_eq!(Owned::parse("k", &record.render()).unwrap(), record);
    }

    #[test]
    fn a_later_or_damaged_record_is_refused() {
        for bad in ["", "{}", r#"{"version":2,"run":"","writes":0,"keys":{}}"#, r#"{"version":1,"x":1}"#] {
            let error = Owned::parse("/ovs-cuisine/lab/owned/x", bad.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("/ovs-cuisine/lab/owned/x"), "{error}");
        }
    }
}
