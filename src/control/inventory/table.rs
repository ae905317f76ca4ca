//! Strict reading of TOML tables: every key is known, every value has its type, every problem has its place.

use std::ops::RangeInclusive;

use serde_json::{Map, Number, Value};
use toml::de::{DeTable, DeValue};

use super::{
    mask::is_secret_name,
    nearest::did_you_mean,
    problem::{Problems, Span},
};

/// Deeper values are refused: whoever walks them does so by recursion.
const DEEPEST: usize = 64;

/// A text with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text<'a> {
    /// The text.
    pub(super) text: &'a str,
    /// Where it stands, quotes included.
    pub(super) span: Span,
}

/// One table of an inventory, with the table of defaults behind it.
#[derive(Clone)]
pub(super) struct Table<'a> {
    own: Option<&'a DeTable<'a>>,
    defaults: Option<&'a DeTable<'a>>,
    /// What messages call it: `[lab]`.
    pub(super) title: String,
    /// Where it begins, for what is missing.
    pub(super) span: Span,
    pub(super) problems: &'a Problems,
}

impl<'a> Table<'a> {
    /// A table without defaults.
    pub(super) fn new(table: &'a DeTable<'a>, title: String, span: Span, problems: &'a Problems) -> Self {
        Self { own: Some(table), defaults: None, title, span, problems }
    }

    /// A table without keys.
    pub(super) fn empty(title: String, span: Span, problems: &'a Problems) -> Self {
        Self { own: None, defaults: None, title, span, problems }
    }

    /// The same table; what it lacks is taken from `defaults`.
    pub(super) fn over(mut self, defaults: Option<&'a DeTable<'a>>) -> Self {
        self.defaults = defaults;
        self
    }

    /// Refuses all other keys in the table itself; defaults are looked at where they stand.
    pub(super) fn only(&self, keys: &[&str]) {
        self.only_or(keys, |_| None);
    }

    /// The same with a help of its own for some unknown keys.
    pub(super) fn only_or(&self, keys: &[&str], help: impl Fn(&str) -> Option<String>) {
        for (key, _) in self.own.into_iter().flatten() {
            let name: &str = key.get_ref();
            if !keys.contains(&name) {
                let help = help(name).or_else(|| did_you_mean(name, "keys", keys.iter().copied()));
                self.problems.add_with(key.span(), format!("unknown key `{name}` in {}", self.title), help);
            }
        }
    }

    /// The value of a key: the table's own, else the default.
    pub(super) fn item(&self, key: &str) -> Option<Item<'a>> {
        self.own_item(key).or_else(|| self.default_item(key))
    }

    /// The value of a key in the table itself.
    pub(super) fn own_item(&self, key: &str) -> Option<Item<'a>> {
        self.own.and_then(|table| find(table, key, self.problems))
    }

    /// The default value of a key.
    pub(super) fn default_item(&self, key: &str) -> Option<Item<'a>> {
        self.defaults.and_then(|table| find(table, key, self.problems))
    }

    /// The members of a table below `key`: the defaults first, replaced by the table's own.
    pub(super) fn members(&self, key: &str) -> Vec<(Text<'a>, Item<'a>)> {
        let mut members: Vec<(Text<'a>, Item<'a>)> = Vec::new();
        for item in self.default_item(key).into_iter().chain(self.own_item(key)) {
            for (name, value) in item.members() {
                members.retain(|(known, _)| known.text != name.text);
                members.push((name, value));
            }
        }
        members
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Option<Text<'a>> {
        self.item(key).and_then(|item| item.text())
    }

    /// One text or a list of texts.
    pub(super) fn texts(&self, key: &str) -> Vec<Text<'a>> {
        self.item(key).map(|item| item.texts()).unwrap_or_default()
    }

    /// A truth value.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.item(key).and_then(|item| item.flag())
    }

    /// A whole number in a range.
    pub(super) fn whole<T: TryFrom<i64>>(&self, key: &str, range: RangeInclusive<i64>) -> Option<T> {
        self.item(key).and_then(|item| item.whole(range))
    }

    /// A table as JSON; empty when there is none.
    pub(super) fn json(&self, key: &str) -> Map<String, Value> {
        let Some(item) = self.item(key) else { return Map::new() };
        match item.json() {
            Some(Value::Object(members)) => members,
            Some(_) => {
                item.expected("a table");
                Map::new()
            }
            None => Map::new(),
        }
    }
}

fn find<'a>(table: &'a DeTable<'a>, key: &str, problems: &'a Problems) -> Option<Item<'a>> {
    let (name, value) = table.get_key_value(key)?;
    Some(Item { value: value.get_ref(), span: value.span(), key: name.span(), problems })
}

/// A value with its place.
#[derive(Clone)]
pub(super) struct Item<'a> {
    value: &'a DeValue<'a>,
    /// Where the value stands; for `[a.b]` where its header stands.
    pub(super) span: Span,
    /// Where its key stands.
    pub(super) key: Span,
    problems: &'a Problems,
}

impl<'a> Item<'a> {
    /// Reports that something else was expected.
    pub(super) fn expected(&self, what: &str) {
        self.problems.add(self.span.clone(), format!("expected {what}, found {}", kind(self.value)));
    }

    /// A text, anything else reported.
    pub(super) fn text(&self) -> Option<Text<'a>> {
        let text = self.as_text();
        if text.is_none() {
            self.expected("a string");
        }
        text
    }

    /// A text if it is one.
    pub(super) fn as_text(&self) -> Option<Text<'a>> {
        match self.value {
            DeValue::String(text) => Some(Text { text, span: self.span.clone() }),
            _ => None,
        }
    }

    /// A truth value if it is one.
    pub(super) fn as_flag(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(flag) => Some(*flag),
            _ => None,
        }
    }

    /// A table if it is one.
    pub(super) fn as_table(&self) -> Option<&'a DeTable<'a>> {
        match self.value {
            DeValue::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The elements if it is a list.
    pub(super) fn as_list(&self) -> Option<Vec<Self>> {
        let DeValue::Array(list) = self.value else { return None };
        Some(
            list.iter()
                .map(|item| Item {
                    value: item.get_ref(),
                    span: item.span(),
                    key: self.key.clone(),
                    problems: self.problems,
                })
                .collect(),
        )
    }

    /// A truth value, anything else reported.
    pub(super) fn flag(&self) -> Option<bool> {
        let flag = self.as_flag();
        if flag.is_none() {
            self.expected("true or false");
        }
        flag
    }

    /// A whole number in a range, anything else reported.
    pub(super) fn whole<T: TryFrom<i64>>(&self, range: RangeInclusive<i64>) -> Option<T> {
        let DeValue::Integer(digits) = self.value else {
            self.expected("an integer");
            return None;
        };
        let number = i64::from_str_radix(digits.as_str(), digits.radix()).ok().filter(|number| range.contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            let (first, last) = (range.start(), range.end());
            self.problems.add(self.span.clone(), format!("`{digits}` is not between {first} and {last}"));
        }
        number
    }

    /// A whole or broken number, anything else reported.
    pub(super) fn number(&self) -> Option<f64> {
        let digits = match self.value {
            DeValue::Integer(digits) => digits.as_str(),
            DeValue::Float(digits) => digits.as_str(),
            _ => {
                self.expected("a number");
                return None;
            }
        };
        digits.parse().ok().filter(|number: &f64| number.is_finite())
    }

    /// A text, number or truth value as text: what an environment or a label holds.
    pub(super) fn scalar(&self) -> Option<String> {
        match self.value {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(digits) => Some(digits.to_string()),
            DeValue::Float(digits) => Some(digits.to_string()),
            DeValue::Boolean(flag) => Some(flag.to_string()),
            _ => {
                self.expected("a string, a number, true or false");
                None
            }
        }
    }

    /// One text or a list of texts, anything else reported.
    pub(super) fn texts(&self) -> Vec<Text<'a>> {
        if let Some(text) = self.as_text() {
            return vec![text];
        }
        self.list("a string or a list of strings").iter().filter_map(Item::text).collect()
    }

    /// The elements of a list, anything else reported.
    pub(super) fn list(&self, what: &str) -> Vec<Self> {
        self.as_list().unwrap_or_else(|| {
            self.expected(what);
            Vec::new()
        })
    }

    /// The members of a table, anything else reported.
    pub(super) fn members(&self) -> Vec<(Text<'a>, Item<'a>)> {
        let Some(table) = self.as_table() else {
            self.expected("a table");
            return Vec::new();
        };
        table
            .iter()
            .map(|(name, value)| {
                let text = Text { text: name.get_ref(), span: name.span() };
                let item =
                    Item { value: value.get_ref(), span: value.span(), key: name.span(), problems: self.problems };
                (text, item)
            })
            .collect()
    }

    /// The value as JSON; dates become texts. What JSON cannot hold is reported.
    pub(super) fn json(&self) -> Option<Value> {
        match to_json(self.value, 0) {
            Ok(value) => Some(value),
            Err(why) => {
                self.problems.add(self.span.clone(), why);
                None
            }
        }
    }
}

fn to_json(value: &DeValue<'_>, depth: usize) -> Result<Value, String> {
    if depth > DEEPEST {
        return Err(format!("values are nested more than {DEEPEST} deep"));
    }
    Ok(match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(digits) => {
            let signed = i64::from_str_radix(digits.as_str(), digits.radix()).map(Value::from);
            signed
                .or_else(|_| u64::from_str_radix(digits.as_str(), digits.radix()).map(Value::from))
                .map_err(|_| format!("`{digits}` does not fit 64 bits"))?
        }
        DeValue::Float(digits) => {
            let number = digits.as_str().parse().ok().and_then(Number::from_f64);
            Value::Number(number.ok_or_else(|| format!("`{digits}` is not a finite number"))?)
        }
        DeValue::Boolean(flag) => Value::from(*flag),
        DeValue::Datetime(date) => Value::from(date.to_string()),
        DeValue::Array(list) => {
            Value::Array(list.iter().map(|item| to_json(item.get_ref(), depth + 1)).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => Value::Object(
            table
                .iter()
                .map(|(name, item)| Ok((name.get_ref().to_string(), to_json(item.get_ref(), depth + 1)?)))
                .collect::<Result<_, String>>()?,
        ),
    })
}

/// What people call the type of a value.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(true) => "`true`",
        DeValue::Boolean(false) => "`false`",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The places of all values that a secret's name stands before; errors that quote the file blot them out.
pub(super) fn secrets(table: &DeTable<'_>) -> Vec<Span> {
    let mut found = Vec::new();
    for (name, value) in table {
        collect_secrets(value.get_ref(), &value.span(), is_secret_name(name.get_ref()), &mut found);
    }
    found
}

fn collect_secrets(value: &DeValue<'_>, span: &Span, secret: bool, found: &mut Vec<Span>) {
    match value {
        DeValue::Table(table) => {
            for (name, value) in table {
                collect_secrets(value.get_ref(), &value.span(), secret || is_secret_name(name.get_ref()), found);
            }
        }
        DeValue::Array(list) => {
            for item in list {
                collect_secrets(item.get_ref(), &item.span(), secret, found);
            }
        }
        DeValue::String(text) => {
            let named = text.split_once('=').is_some_and(|(name, _)| is_secret_name(name));
            if secret || named {
                found.push(span.clone());
            }
        }
        _ if secret => found.push(span.clone()),
        _ => {}
    }
}
