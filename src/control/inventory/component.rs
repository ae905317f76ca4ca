//! `[component.NAME]`: recipes with parameters on hosts, and what needs what.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use indexmap::IndexMap;

use super::{
    graph,
    mask::ParamValue,
    model::{Component, FailurePolicy, RecipeRef},
    nearest::did_you_mean,
    path::resolve,
    problem::{Problems, Span},
    select::Roster,
    table::{Item, Table, Text},
};
use crate::plan::{ComponentName, Source};

const KEYS: [&str; 6] = ["recipe", "hosts", "needs", "serial", "on_failure", "params"];

/// Everything that components are read with.
pub(super) struct Reader<'r, 'a> {
    pub(super) roster: Roster<'r>,
    pub(super) base: &'r Path,
    pub(super) problems: &'a Problems,
    /// Where a place is, for later messages.
    pub(super) source: &'r dyn Fn(&Span) -> Source,
}

impl<'a> Reader<'_, 'a> {
    /// All components, in the order of the file. What is wrong is reported and left out.
    pub(super) fn read(&self, components: &Item<'a>) -> IndexMap<ComponentName, Component> {
        let members = components.members();
        let names: Vec<&str> = members.iter().map(|(key, _)| key.text).collect();
        let mut read = IndexMap::new();
        for (key, item) in &members {
            let Some(fields) = item.as_table() else {
                item.expected("a table");
                continue;
            };
            let table = Table::new(fields, format!("`[component.{}]`", key.text), key.span.clone(), self.problems);
            table.only(&KEYS);
            match key.text.parse::<ComponentName>() {
                Ok(name) => {
                    read.insert(name.clone(), self.component(&table, name, &names));
                }
                Err(fault) => self.problems.add(key.span.clone(), format!("{fault}")),
            }
        }
        self.check_cycles(&members);
        // A component without recipe was reported; whoever sees the result sees only whole ones.
        read.into_iter().filter_map(|(name, component)| Some((name, component?))).collect()
    }

    fn component(&self, table: &Table<'a>, name: ComponentName, names: &[&str]) -> Option<Component> {
        let recipe = self.recipe(table);
        let hosts = self.hosts(table);
        let needs = self.needs(table, names);
        let serial = table.whole("serial", 1..=i64::from(u32::MAX));
        let on_failure = table.text("on_failure").map_or(Some(FailurePolicy::default()), |text| self.policy(&text));
        let params = self.params(table);
        let source = (self.source)(&table.span);
        Some(Component { name, recipe: recipe?, hosts, needs, serial, on_failure: on_failure?, params, source })
    }

    fn recipe(&self, table: &Table<'a>) -> Option<RecipeRef> {
        if table.item("recipe").is_none() {
            let message = format!("{} has no recipe", table.title);
            let help = "`recipe = \"NAME\"` is `NAME/recipe.star` in one of the lab's recipe directories";
            self.problems.add_with(table.span.clone(), message, Some(help.to_owned()));
            return None;
        }
        let text = table.text("recipe")?;
        if text.text.is_empty() {
            self.problems.add(text.span, "the recipe's name is empty");
            return None;
        }
        let path = text.text.contains('/') || text.text.starts_with(['.', '~']);
        Some(if path { RecipeRef::Path(resolve(text.text, self.base)) } else { RecipeRef::Named(text.text.to_owned()) })
    }

    fn hosts(&self, table: &Table<'a>) -> Vec<crate::plan::HostName> {
        let Some(item) = table.item("hosts") else {
            let help = Some("name them: `hosts = [\"asd-*\", \"!asd-3\", \"@storage\"]`".to_owned());
            self.problems.add_with(table.span.clone(), format!("{} has no hosts", table.title), help);
            return Vec::new();
        };
        let words = item.texts();
        let selection = self.roster.select(words.iter().map(|text| text.text));
        let faulty = !selection.faults.is_empty();
        for (at, fault) in selection.faults {
            self.problems.add_with(words[at].span.clone(), fault.to_string(), fault.hint());
        }
        // Words of a wrong type were reported and are not among the words.
        let whole = item.as_list().map_or(1, |list| list.len()) == words.len();
        if selection.hosts.is_empty() && whole && !faulty {
            self.problems.add(item.span, format!("{} selects no hosts", table.title));
        }
        selection.hosts
    }

    fn needs(&self, table: &Table<'a>, names: &[&str]) -> Vec<ComponentName> {
        let mut needs: Vec<ComponentName> = Vec::new();
        for text in table.texts("needs") {
            if !names.contains(&text.text) {
                let help = did_you_mean(text.text, "components", names.iter().copied());
                self.problems.add_with(text.span, format!("no component is named `{}`", text.text), help);
            } else if let Some(name) = text.text.parse().ok().filter(|name| !needs.contains(name)) {
                needs.push(name);
            }
        }
        needs
    }

    fn policy(&self, text: &Text<'_>) -> Option<FailurePolicy> {
        const POLICIES: [(&str, FailurePolicy); 3] = [
            ("stop_all", FailurePolicy::StopAll),
            ("stop_host", FailurePolicy::StopHost),
            ("continue", FailurePolicy::Continue),
        ];
        let found = POLICIES.iter().find(|(word, _)| *word == text.text);
        if found.is_none() {
            let help = did_you_mean(text.text, "policies", POLICIES.iter().map(|(word, _)| *word));
            self.problems.add_with(text.span.clone(), format!("`{}` is not a failure policy", text.text), help);
        }
        found.map(|(_, policy)| *policy)
    }

    fn params(&self, table: &Table<'a>) -> IndexMap<String, ParamValue> {
        let param = |(name, item): (Text<'_>, Item<'_>)| {
            let source = (self.source)(&name.span);
            Some((name.text.to_owned(), ParamValue::new(name.text, item.json()?, source)))
        };
        table.members("params").into_iter().filter_map(param).collect()
    }

    /// Each circle of needs is told once, at the `needs` of its first component.
    fn check_cycles(&self, members: &[(Text<'a>, Item<'a>)]) {
        let needs = |item: &Item<'a>| {
            let table = item.as_table()?;
            Table::new(table, String::new(), item.span.clone(), self.problems).item("needs")
        };
        let edges: HashMap<&str, Vec<&str>> = members
            .iter()
            .filter_map(|(key, item)| {
                Some((key.text, needs(item)?.texts().into_iter().map(|text| text.text).collect()))
            })
            .collect();
        let mut told: HashSet<&str> = HashSet::new();
        for (key, _) in members {
            let Some(ring) = graph::cycle(&edges, key.text) else { continue };
            if ring.iter().any(|name| told.contains(name)) {
                continue;
            }
            told.extend(&ring);
            let place = members.iter().find(|(name, _)| Some(&name.text) == ring.first());
            let span = place.and_then(|(_, item)| needs(item)).map(|item| item.span).unwrap_or_default();
            let path: Vec<String> = ring.iter().map(|name| format!("`{name}`")).collect();
            let message = format!("components need each other: {}", path.join(" needs "));
            self.problems.add_with(span, message, Some("leave out one of these needs".to_owned()));
        }
    }
}
