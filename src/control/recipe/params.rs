//! Parameters of a recipe: what it declares, and what a component gives.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::Serialize;

use crate::plan::{Secret, Source};

/// The type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ParamType {
    /// Text.
    Str,
    /// A whole number.
    Int,
    /// True or false.
    Bool,
    /// A number.
    Float,
    /// A file or directory of the near side. Relative ones start at the inventory's directory, in a default at the
    /// recipe's.
    Path,
    /// A list.
    List,
    /// A table.
    Dict,
    /// Text that is never shown.
    Secret,
    /// A TCP port, 1 to 65535.
    Port,
}

/// A parameter as its recipe declares it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ParamSpec {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ParamType,
    /// Whether every component must give it.
    pub required: bool,
    /// Its value when not given; none when required, JSON null when it is then `None`.
    pub default: Option<serde_json::Value>,
    /// One line for people.
    pub doc: String,
    /// The only values it may have; empty when it may have any.
    pub choices: Vec<serde_json::Value>,
    /// The recipe line that declares it.
    pub source: Source,
}

/// The value of a parameter, of the declared type.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum BoundValue {
    /// A plain value; null when the parameter is optional and not given.
    Plain(serde_json::Value),
    /// An absolute path.
    Path(PathBuf),
    /// A secret.
    Secret(Secret<String>),
}

/// The parameters of one component, checked against its recipe's declarations, in the order of these.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Params(IndexMap<String, BoundValue>);

impl Params {
    /// A parameter's value; none when the recipe does not declare it.
    pub fn get(&self, name: &str) -> Option<&BoundValue> {
        self.0.get(name)
    }

    /// All parameters with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &BoundValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The values of all parameters of type `path`: what a push has to watch.
    pub fn paths(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.iter().filter_map(|(name, value)| match value {
            BoundValue::Path(path) => Some((name, path.as_path())),
            _ => None,
        })
    }
}

impl FromIterator<(String, BoundValue)> for Params {
    fn from_iter<I: IntoIterator<Item = (String, BoundValue)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}
