//! `[group.NAME]`: sets of hosts with variables.

use std::collections::{HashMap, HashSet};

use indexmap::IndexMap;

use super::{
    graph,
    host::Draft,
    mask::Masked,
    model::Group,
    problem::Problems,
    select::{ALL, Roster},
    table::{Item, Table, Text},
};
use crate::plan::{GroupName, HostName};

const KEYS: [&str; 2] = ["hosts", "vars"];

/// A group whose words are still to be resolved.
pub(super) struct Words<'a> {
    pub(super) name: GroupName,
    table: Table<'a>,
    hosts: Vec<Text<'a>>,
}

/// The groups by name; keys and names are checked.
pub(super) fn words<'a>(groups: &Item<'a>, problems: &'a Problems) -> Vec<Words<'a>> {
    let mut all = Vec::new();
    for (key, item) in groups.members() {
        let Some(fields) = item.as_table() else {
            item.expected("a table");
            continue;
        };
        let table = Table::new(fields, format!("`[group.{}]`", key.text), key.span.clone(), problems);
        table.only(&KEYS);
        if key.text == ALL {
            let help = Some("variables for every host stand in `vars` of `[lab]`".to_owned());
            problems.add_with(key.span, "no group can be named `all`", help);
            continue;
        }
        match key.text.parse() {
            Ok(name) => all.push(Words { name, hosts: table.texts("hosts"), table }),
            Err(fault) => problems.add(key.span, format!("{fault}")),
        }
    }
    all
}

/// The groups with their hosts: those that their words select, and those that name the group themselves.
pub(super) fn resolve(
    words: &[Words<'_>],
    drafts: &[Draft<'_>],
    problems: &Problems,
) -> IndexMap<GroupName, Vec<HostName>> {
    let names: Vec<HostName> = drafts.iter().map(|draft| draft.name.clone()).collect();
    // Known from the start, so that a group inside a circle is not also reported as missing.
    let mut resolved: IndexMap<GroupName, Vec<HostName>> =
        words.iter().map(|group| (group.name.clone(), Vec::new())).collect();
    for index in inner_first(words, problems) {
        let group = &words[index];
        let roster = Roster { hosts: &names, groups: &resolved, components: None };
        let selection = roster.select(group.hosts.iter().map(|text| text.text));
        for (at, fault) in selection.faults {
            problems.add_with(group.hosts[at].span.clone(), fault.to_string(), fault.hint());
        }
        let selected: HashSet<&HostName> = selection.hosts.iter().collect();
        let belongs = |draft: &&Draft<'_>| {
            selected.contains(&draft.name) || draft.groups.iter().any(|text| text.text == group.name.as_str())
        };
        let hosts = drafts.iter().filter(belongs).map(|draft| draft.name.clone()).collect();
        resolved.insert(group.name.clone(), hosts);
    }
    resolved
}

/// Indexes of the groups, each after the groups inside it. A circle is reported.
fn inner_first(words: &[Words<'_>], problems: &Problems) -> Vec<usize> {
    let inner = |group: &Words<'_>| -> Vec<usize> {
        let names = group.hosts.iter().filter_map(|text| text.text.trim_start_matches(['!', ' ']).strip_prefix('@'));
        names.filter_map(|name| words.iter().position(|other| other.name.as_str() == name)).collect()
    };
    let edges: HashMap<&str, Vec<&str>> = words
        .iter()
        .map(|group| (group.name.as_str(), inner(group).into_iter().map(|index| words[index].name.as_str()).collect()))
        .collect();
    if let Some(ring) = words.iter().find_map(|group| graph::cycle(&edges, group.name.as_str())) {
        let place = words.iter().find(|group| Some(&group.name.as_str()) == ring.first());
        let span = place.map(|group| group.table.span.clone()).unwrap_or_default();
        let path: Vec<String> = ring.iter().map(|name| format!("`{name}`")).collect();
        problems.add(span, format!("groups contain each other: {}", path.join(" contains ")));
        return Vec::new();
    }
    let mut order: Vec<usize> = Vec::new();
    while let Some(next) = (0..words.len())
        .find(|index| !order.contains(index) && inner(&words[*index]).iter().all(|inside| order.contains(inside)))
    {
        order.push(next);
    }
    order
}

/// The groups with their variables.
pub(super) fn finish(words: &[Words<'_>], mut hosts: IndexMap<GroupName, Vec<HostName>>) -> IndexMap<GroupName, Group> {
    let group = |words: &Words<'_>| Group {
        name: words.name.clone(),
        hosts: hosts.swap_remove(&words.name).unwrap_or_default(),
        vars: Masked(words.table.json("vars")),
    };
    words.iter().map(group).map(|group| (group.name.clone(), group)).collect()
}
