//! The values that writes replaced, kept beside the history for going back: of the last twenty writes of each component,
//! unless a write replaced more than 256 KiB.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use super::{error::ConfigError, store::Store};
use crate::plan::ComponentName;

/// Writes whose replaced values are kept per component; those of the oldest are overwritten.
const KEPT: u64 = 20;
/// The most that is kept of one write, in bytes as stored.
const LARGEST: usize = 256 << 10;

/// What one write replaced. JSON at `/ovs-cuisine/<lab>/replaced/<component>/NN`.
#[derive(Serialize, Deserialize)]
pub(super) struct Replaced {
    /// The number of the write in the component's history.
    number: u64,
    /// What each of its keys held; none where there was no key.
    values: BTreeMap<String, Option<Held>>,
}

/// A value that a key held.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Held {
    /// In base64: values need not be text.
    value: String,
    /// Whether it must not be shown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) secret: bool,
}

/// What a key was.
pub(super) enum Past {
    /// It held this.
    Held(Held),
    /// It was not there.
    Absent,
    /// Nobody knows any more.
    Unknown,
}

impl Past {
    pub(super) fn of(held: Option<Held>) -> Self {
        held.map_or(Self::Absent, Self::Held)
    }
}

impl Held {
    pub(super) fn new(value: &[u8], secret: bool) -> Self {
        Self { value: STANDARD.encode(value), secret }
    }

    /// The value; none when it is damaged.
    pub(super) fn bytes(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.value).ok()
    }
}

impl Replaced {
    pub(super) fn new(number: u64, values: impl IntoIterator<Item = (String, Option<Held>)>) -> Self {
        Self { number, values: values.into_iter().collect() }
    }

    /// As stored; none when it is too much to keep.
    pub(super) fn render(&self) -> Option<Vec<u8>> {
        let bytes = serde_json::to_vec(self).ok()?;
        (bytes.len() <= LARGEST).then_some(bytes)
    }

    /// What a key held before the write.
    pub(super) fn get(&self, key: &str) -> Past {
        self.values.get(key).cloned().map_or(Past::Unknown, Past::of)
    }
}

impl Store {
    /// Where the values that a write with this number replaced are kept.
    pub(super) fn replaced_key(&self, component: &ComponentName, number: u64) -> String {
        self.own_key(&format!("replaced/{component}/{:02}", number % KEPT))
    }

    /// What is kept of a component's writes, by their number.
    pub(super) async fn replaced(
        &self,
        component: &ComponentName,
        revision: i64,
    ) -> Result<BTreeMap<u64, Replaced>, ConfigError> {
        let mut kept = BTreeMap::new();
        for entry in self.get_at(&self.own_key(&format!("replaced/{component}/")), revision).await?.0 {
            let replaced: Replaced = serde_json::from_slice(&entry.value)
                .map_err(|source| ConfigError::Record { key: entry.key.clone(), source })?;
            kept.insert(replaced.number, replaced);
        }
        Ok(kept)
    }
}
