//! Parameters of a recipe: what it declares, and what a component gives.

use std::path::{self, Path, PathBuf};

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::Value;

use super::{
    error::{Fault, RecipeError, RecipeErrorKind},
    files::nearest,
    values::ParamDecl,
};
use crate::{
    control::inventory::{Component, ParamValue},
    plan::{Secret, Source},
};

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
    pub default: Option<Value>,
    /// One line for people.
    pub doc: String,
    /// The only values it may have; empty when it may have any.
    pub choices: Vec<Value>,
    /// What the directory that a `path` names must have, relative to it; what ends in `/` is a directory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contains: Vec<String>,
    /// When a component's turn comes in a push of several that a `path` takes part in: lower ones first.
    #[serde(skip_serializing_if = "is_usual")]
    pub push_order: i32,
    /// The recipe line that declares it.
    pub source: Source,
}

/// The value of a parameter, of the declared type.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum BoundValue {
    /// A plain value; null when the parameter is optional and not given.
    Plain(Value),
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

impl ParamType {
    const ALL: [Self; 9] =
        [Self::Str, Self::Int, Self::Bool, Self::Float, Self::Path, Self::List, Self::Dict, Self::Secret, Self::Port];

    /// Its name in `param("...")`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Str => "str",
            Self::Int => "int",
            Self::Bool => "bool",
            Self::Float => "float",
            Self::Path => "path",
            Self::List => "list",
            Self::Dict => "dict",
            Self::Secret => "secret",
            Self::Port => "port",
        }
    }

    fn of_name(name: &str) -> Result<Self, Fault> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name);
            let fault = Fault::new(RecipeErrorKind::Param, format!("`{name}` is not a type of parameters"));
            match nearest(name, names) {
                Some(near) => fault.hint(format!("did you mean `{near}`?")),
                None => fault.hint(format!("types are {}", names.join(", "))),
            }
        })
    }

    /// Whether a value, as TOML or Starlark has it, is of this type.
    fn admits(self, value: &Value) -> bool {
        match self {
            Self::Str | Self::Path | Self::Secret => value.is_string(),
            Self::Int => value.is_i64() || value.is_u64(),
            Self::Bool => value.is_boolean(),
            Self::Float => value.is_number(),
            Self::List => value.is_array(),
            Self::Dict => value.is_object(),
            Self::Port => value.as_u64().is_some_and(|port| (1..=65535).contains(&port)),
        }
    }

    /// What a value of this type is, in words.
    fn expected(self) -> &'static str {
        match self {
            Self::Str => "a text",
            Self::Int => "a whole number",
            Self::Bool => "true or false",
            Self::Float => "a number",
            Self::Path => "a path",
            Self::List => "a list",
            Self::Dict => "a table",
            Self::Secret => "a text (a secret)",
            Self::Port => "a port (1 to 65535)",
        }
    }
}

/// What a value is, in words.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde wants")]
fn is_usual(push_order: &i32) -> bool {
    *push_order == 0
}

/// Checks what `param()` was given.
pub(super) fn check(declared: &ParamDecl) -> Result<(), Fault> {
    spec("", declared).map(drop)
}

/// The declaration of a parameter of this name.
pub(super) fn spec(name: &str, declared: &ParamDecl) -> Result<ParamSpec, Fault> {
    let wrong = |message: String| Fault::new(RecipeErrorKind::Param, message);
    let kind = ParamType::of_name(&declared.kind)?;
    let parse = |json: &String| serde_json::from_str(json).map_err(|error| wrong(error.to_string()));
    let default: Option<Value> = declared.default.as_ref().map(parse).transpose()?;
    let choices: Vec<Value> = declared.choices.iter().map(parse).collect::<Result<_, _>>()?;
    if let Some(value) =
        default.iter().filter(|value| !value.is_null()).chain(&choices).find(|value| !kind.admits(value))
    {
        return Err(wrong(format!("{value} is {}, but the parameter is {}", kind_of(value), kind.expected())));
    }
    if kind == ParamType::Secret && (default.as_ref().is_some_and(|value| !value.is_null()) || !choices.is_empty()) {
        return Err(wrong("a secret cannot stand in a recipe, neither as default nor as choice".to_owned())
            .hint("write default = None and, when it is None, use secret(\"name\"), which makes one up"));
    }
    if let Some(value) =
        default.as_ref().filter(|value| !value.is_null() && !choices.is_empty() && !choices.contains(value))
    {
        return Err(wrong(format!("the default {value} is not among the choices")));
    }
    let contains = declared.contains.clone();
    if kind != ParamType::Path && !contains.is_empty() {
        return Err(wrong("`contains` is for parameters of type `path`".to_owned()));
    }
    if kind != ParamType::Path && declared.push_order != 0 {
        return Err(wrong("`push_order` is for parameters of type `path`".to_owned()));
    }
    let is_below = |path: &String| Path::new(path).components().all(|part| matches!(part, path::Component::Normal(_)));
    if let Some(bad) = contains.iter().find(|path| path.is_empty() || !is_below(path)) {
        return Err(wrong(format!("`{bad}` in `contains` is not a path below the directory")));
    }
    let source = Source { file: declared.file.clone(), line: declared.line };
    Ok(ParamSpec {
        name: name.to_owned(),
        kind,
        required: default.is_none(),
        default,
        doc: declared.doc.clone(),
        choices,
        contains,
        push_order: declared.push_order,
        source,
    })
}

/// Checks a component's parameters against the declarations of `recipe`. Relative paths start at `base`, those of
/// defaults at `folder`.
pub(super) fn bind(
    recipe: &str,
    specs: &[ParamSpec],
    component: &Component,
    base: &Path,
    folder: &Path,
) -> Result<Params, RecipeError> {
    let mut wrong: Vec<RecipeError> = Vec::new();
    for (name, given) in &component.params {
        if !specs.iter().any(|spec| spec.name == *name) {
            let error =
                RecipeError::new(RecipeErrorKind::Param, format!("recipe `{recipe}` has no parameter `{name}`"));
            wrong.push(suggest(error, name, specs).at(given.source.clone()));
        }
    }
    let mut params = IndexMap::new();
    for spec in specs {
        match component.params.get(&spec.name) {
            Some(given) => match value(spec, given, base) {
                Ok(value) => drop(params.insert(spec.name.clone(), value)),
                Err(error) => wrong.push(error.at(given.source.clone())),
            },
            None => match &spec.default {
                Some(default) => drop(params.insert(spec.name.clone(), bound(spec.kind, default, folder))),
                None => wrong.push(missing(recipe, spec, component)),
            },
        }
    }
    let mut wrong = wrong.into_iter();
    match wrong.next() {
        Some(first) => Err(first.with_others(wrong.collect())),
        None => Ok(Params(params)),
    }
}

fn value(spec: &ParamSpec, given: &ParamValue, base: &Path) -> Result<BoundValue, RecipeError> {
    let wrong = |message| RecipeError::new(RecipeErrorKind::Param, message);
    if !spec.kind.admits(&given.value) {
        let (name, expected, kind) = (&spec.name, spec.kind.expected(), kind_of(&given.value));
        return Err(wrong(format!("parameter `{name}` is {expected}, not {kind}")));
    }
    if spec.kind == ParamType::Path && given.value.as_str().is_some_and(str::is_empty) {
        return Err(wrong(format!("parameter `{}` is an empty path", spec.name)));
    }
    if !spec.choices.is_empty() && !spec.choices.contains(&given.value) {
        let choices: Vec<String> = spec.choices.iter().map(ToString::to_string).collect();
        let shown = given.shown();
        return Err(wrong(format!("parameter `{}` is {shown}; it may be {}", spec.name, choices.join(" or "))));
    }
    // A text whose name tells a secret is one, whatever its recipe says.
    let kind = if given.secret && spec.kind == ParamType::Str { ParamType::Secret } else { spec.kind };
    Ok(bound(kind, &given.value, base))
}

/// Refuses directories that have not all that the recipe declared.
pub(super) fn check_layouts(specs: &[ParamSpec], params: &Params, component: &Component) -> Result<(), RecipeError> {
    let wrong = specs.iter().filter_map(|spec| {
        let Some(BoundValue::Path(directory)) = params.get(&spec.name) else { return None };
        let source = component.params.get(&spec.name).map_or(&component.source, |given| &given.source);
        Some(layout(spec, directory)?.at(source.clone()))
    });
    match RecipeError::joined(wrong) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// What is wrong with a directory.
fn layout(spec: &ParamSpec, directory: &Path) -> Option<RecipeError> {
    let is_there = |path: &&String| {
        let whole = directory.join(path);
        if path.ends_with('/') { whole.is_dir() } else { whole.exists() }
    };
    let missing: Vec<_> = spec.contains.iter().filter(|path| !is_there(path)).map(|path| format!("`{path}`")).collect();
    if missing.is_empty() {
        return None;
    }
    let message = if directory.is_dir() {
        format!("parameter `{}`: {} has no {}", spec.name, directory.display(), missing.join(", no "))
    } else {
        format!("parameter `{}`: {} is not a directory", spec.name, directory.display())
    };
    let doc = if spec.doc.is_empty() { "" } else { &format!(": {}", spec.doc) };
    let wanted: Vec<_> = spec.contains.iter().map(|path| format!("`{path}`")).collect();
    let hint = format!("it must have {}{doc}", wanted.join(", "));
    Some(RecipeError::new(RecipeErrorKind::Param, message).with_hint(hint))
}

fn bound(kind: ParamType, value: &Value, base: &Path) -> BoundValue {
    match (kind, value.as_str()) {
        (ParamType::Path, Some(text)) => BoundValue::Path(normal(&base.join(text))),
        (ParamType::Secret, Some(text)) => BoundValue::Secret(Secret::new(text.to_owned())),
        (ParamType::Float, None) => match value.as_f64() {
            Some(number) => BoundValue::Plain(Value::from(number)),
            None => BoundValue::Plain(value.clone()),
        },
        _ => BoundValue::Plain(value.clone()),
    }
}

/// A path without `.` and `..`, as people mean it: `a/../b` is `b`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            path::Component::ParentDir => drop(normal.pop()),
            path::Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

fn missing(recipe: &str, spec: &ParamSpec, component: &Component) -> RecipeError {
    let message = format!("component `{}` needs parameter `{}` of recipe `{recipe}`", component.name, spec.name);
    let error = RecipeError::new(RecipeErrorKind::Param, message).at(component.source.clone());
    let doc = if spec.doc.is_empty() { spec.kind.expected() } else { &spec.doc };
    error.with_hint(format!("add `{} = ...` to its params: {doc}", spec.name))
}

fn suggest(error: RecipeError, name: &str, specs: &[ParamSpec]) -> RecipeError {
    let names = || specs.iter().map(|spec| spec.name.as_str());
    match nearest(name, names()) {
        Some(near) => error.with_hint(format!("did you mean `{near}`?")),
        None if specs.is_empty() => error.with_hint("it has none at all"),
        None => error.with_hint(format!("it has {}", names().collect::<Vec<_>>().join(", "))),
    }
}
