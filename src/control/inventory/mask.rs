//! Values that an inventory holds and that no output may show: whatever is called password, secret, token or the like.

use std::{fmt, ops::Deref};

use serde::{Serialize, Serializer, ser::Error as _};
use serde_json::Value;

use crate::plan::Source;

/// What is shown instead of a secret.
const MASK: &str = "***";

/// Parts of a name that tell that its value is a secret.
const TELLTALES: [&str; 9] =
    ["password", "passwd", "passphrase", "secret", "token", "credential", "private_key", "privatekey", "api_key"];

/// Whether a value under this name is a secret: `password`, `AUTH_TOKEN`, `db-secret` ...
pub(super) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    TELLTALES.iter().any(|telltale| name.contains(telltale))
}

/// Where the value of a secret begins in a line such as `password = "x"`, whatever else the line is.
pub(super) fn secret_at(line: &str) -> Option<usize> {
    // Letters keep their places: only ASCII is lowered.
    let lower = line.to_ascii_lowercase().replace('-', "_");
    let name = TELLTALES.iter().filter_map(|telltale| lower.find(telltale)).min()?;
    lower[name..].find('=').map(|equals| name + equals + 1)
}

/// A copy in which every value under a secret's name is `***`, at any depth. In lists, `NAME=value` counts too.
fn masked(value: &Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .iter()
                .map(|(name, value)| {
                    (name.clone(), if is_secret_name(name) { Value::from(MASK) } else { masked(value) })
                })
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(masked).collect()),
        Value::String(text) => match text.split_once('=') {
            Some((name, _)) if is_secret_name(name) => Value::String(format!("{name}={MASK}")),
            _ => value.clone(),
        },
        other => other.clone(),
    }
}

/// Data with names, whose secrets are neither printed nor serialised. Reading it gives the data itself.
#[derive(Clone, Default, PartialEq)]
pub struct Masked<T>(pub T);

impl<T> Deref for Masked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> From<T> for Masked<T> {
    fn from(data: T) -> Self {
        Self(data)
    }
}

#[expect(clippy::into_iter_without_iter, reason = "`iter` of the data itself is reached through Deref")]
impl<'a, T> IntoIterator for &'a Masked<T>
where
    &'a T: IntoIterator,
{
    type Item = <&'a T as IntoIterator>::Item;
    type IntoIter = <&'a T as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<T: Serialize> Serialize for Masked<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let data = serde_json::to_value(&self.0).map_err(S::Error::custom)?;
        masked(&data).serialize(serializer)
    }
}

impl<T: Serialize> fmt::Debug for Masked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = serde_json::to_value(&self.0).map_err(|_| fmt::Error)?;
        write!(f, "{}", masked(&data))
    }
}

/// A parameter as written, with its place.
#[derive(Clone, PartialEq)]
pub struct ParamValue {
    /// The value; TOML dates are texts.
    pub value: Value,
    /// Whether its name tells a secret; then it is neither printed nor serialised.
    pub secret: bool,
    /// Where it stands.
    pub source: Source,
}

impl ParamValue {
    /// The parameter called `name`.
    pub fn new(name: &str, value: Value, source: Source) -> Self {
        Self { value, secret: is_secret_name(name), source }
    }

    /// The value as it may be shown.
    pub fn shown(&self) -> Value {
        if self.secret { Value::from(MASK) } else { masked(&self.value) }
    }
}

impl Serialize for ParamValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.shown().serialize(serializer)
    }
}

impl fmt::Debug for ParamValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.shown(), self.source)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn here() -> Source {
        Source { file: "lab.toml".to_owned(), line: 3 }
    }

    #[test]
    fn secrets_are_told_by_their_names() {
        for name in ["password", "DB_PASSWORD", "auth-token", "clientSecret", "api-key"] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["port", "pass_through", "keys", "user", "monkey"] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn secrets_are_masked_at_any_depth() {
        let data = json!({
            "port": 80,
            "db": { "password": "canary" },
            "login": { "secret": { "deep": "canary" } },
            "Env": ["DB_TOKEN=canary", "PATH=/bin"],
        });
        let shown = json!({
            "port": 80,
            "db": { "password": "***" },
            "login": { "secret": "***" },
            "Env": ["DB_TOKEN=***", "PATH=/bin"],
        });
        assert_eq!(serde_json::to_value(Masked(data.clone())).unwrap(), shown);
        assert!(!format!("{:?}", Masked(data)).contains("canary"));
    }

    #[test]
    fn parameters_hide_by_name_and_by_content() {
        let plain = ParamValue::new("port", json!(80), here());
        assert_eq!(serde_json::to_string(&plain).unwrap(), "80");
        for param in [
            ParamValue::new("password", json!("canary"), here()),
            ParamValue::new("login", json!({ "secret": "canary" }), here()),
        ] {
            assert!(!serde_json::to_string(&param).unwrap().contains("canary"));
            assert!(!format!("{param:?}").contains("canary"));
        }
    }
}
