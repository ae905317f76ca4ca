//! Presets: how the objects of a name space are cut and spread.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// `[k, m, min_fragments, max_per_node]`.
pub(crate) type Policy = (usize, usize, usize, usize);

/// A preset as `create-preset` reads it; what the stand-in does not look at is kept as it is.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Preset {
    pub(crate) policies: Vec<Policy>,
    pub(crate) fragment_size: usize,
    #[serde(default)]
    compression: Value,
    #[serde(default)]
    object_checksum: Value,
    #[serde(default)]
    fragment_checksum: Value,
    #[serde(default)]
    fragment_encryption: Value,
    #[serde(default)]
    osds: Value,
    #[serde(default)]
    in_use: bool,
    #[serde(default)]
    version: u64,
}

/// The most that one fragment may hold; it travels in one line.
const LARGEST_FRAGMENT: usize = 8 << 20;

impl Preset {
    /// Reads and checks a preset.
    pub(crate) fn parse(value: Value) -> Result<Self, String> {
        let preset: Self = serde_json::from_value(value).map_err(|error| format!("Invalid_preset: {error}"))?;
        let is_bad = |(k, m, least, most): &Policy| *k == 0 || least > &(k + m) || least < k || *most == 0;
        if preset.policies.is_empty() || preset.policies.iter().any(is_bad) {
            return Err("Invalid_preset: a policy needs 0 < k <= min_fragments <= k+m and max_per_node > 0".to_owned());
        }
        if preset.fragment_size == 0 || preset.fragment_size > LARGEST_FRAGMENT {
            return Err(format!("Invalid_preset: fragment_size {} is out of range", preset.fragment_size));
        }
        Ok(preset)
    }

    /// What the ABM installs by itself.
    pub(crate) fn default_value() -> Value {
        json!({
            "policies": [[5, 4, 8, 3], [2, 2, 3, 4]],
            "fragment_size": 1_048_576,
            "compression": ["snappy"],
            "object_checksum": {"default": ["crc-32c"], "verify_upload": true, "allowed": [["none"], ["sha-1"], ["crc-32c"]]},
            "fragment_checksum": ["crc-32c"],
            "fragment_encryption": ["none"],
            "osds": ["all"],
            "in_use": true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_is_read_strictly() {
        assert_eq!(Preset::parse(Preset::default_value()).unwrap().policies[1], (2, 2, 3, 4));
        let mut other = Preset::default_value();
        other["fragmentsize"] = json!(1);
        assert!(Preset::parse(other).is_err());
        let mut other = Preset::default_value();
        other["policies"] = json!([[2, 2, 5, 4]]);
        assert!(Preset::parse(other).is_err());
    }
}
