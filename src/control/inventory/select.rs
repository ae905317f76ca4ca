//! Choosing hosts and components: by name, glob, range, `@group`, `component:NAME`, `all`, and `!` before any of them.

use std::collections::HashSet;

use globset::{Glob, GlobMatcher};
use indexmap::IndexMap;

use super::{
    model::Inventory,
    nearest::did_you_mean,
    range::{self, RangeError},
};
use crate::plan::{ComponentName, GroupName, HostName};

/// The word for every host.
pub(super) const ALL: &str = "all";

/// What begins the name of a component in a selection of hosts.
const COMPONENT: &str = "component:";

/// Why a selection selects nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The selection has no word in it.
    #[error("the selection is empty")]
    Empty,
    /// No host has this name.
    #[error("no host is named `{name}`")]
    UnknownHost {
        /// The name.
        name: String,
        /// The nearest right name as a question, else the names that there are.
        help: Option<String>,
    },
    /// No group has this name.
    #[error("no group is named `{name}`")]
    UnknownGroup {
        /// The name.
        name: String,
        /// The nearest right name as a question, else the names that there are.
        help: Option<String>,
    },
    /// No component has this name.
    #[error("no component is named `{name}`")]
    UnknownComponent {
        /// The name.
        name: String,
        /// The nearest right name as a question, else the names that there are.
        help: Option<String>,
    },
    /// A glob that nothing matches.
    #[error("`{pattern}` matches nothing")]
    NoMatch {
        /// The glob.
        pattern: String,
        /// The names that there are.
        help: Option<String>,
    },
    /// Not a glob or range.
    #[error("{why}")]
    BadPattern {
        /// The text.
        pattern: String,
        /// Why, naming the text.
        why: String,
        /// How a range is written.
        help: Option<String>,
    },
    /// Everything was excluded, or the groups are empty.
    #[error("`{selection}` selects nothing")]
    Nothing {
        /// The selection.
        selection: String,
    },
}

impl SelectError {
    /// One line that says what to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Empty => Some("write a name, a glob such as `asd-*`, `@group` or `all`".to_owned()),
            Self::Nothing { .. } => None,
            Self::UnknownHost { help, .. }
            | Self::UnknownGroup { help, .. }
            | Self::UnknownComponent { help, .. }
            | Self::NoMatch { help, .. }
            | Self::BadPattern { help, .. } => help.clone(),
        }
    }
}

/// The names that a selection is made from.
pub(super) struct Roster<'a> {
    /// All hosts in the order of the inventory.
    pub(super) hosts: &'a [HostName],
    /// The groups whose hosts are known.
    pub(super) groups: &'a IndexMap<GroupName, Vec<HostName>>,
    /// All components; none where they may not be used.
    pub(super) components: Option<&'a IndexMap<ComponentName, Vec<HostName>>>,
}

/// What words select: hosts in the order of the inventory, and what is wrong with which word.
pub(super) struct Selection {
    pub(super) hosts: Vec<HostName>,
    pub(super) faults: Vec<(usize, SelectError)>,
}

impl<'a> Roster<'a> {
    /// The hosts that any word includes, all when none does, without those that any word excludes.
    pub(super) fn select<'w>(&self, words: impl IntoIterator<Item = &'w str>) -> Selection {
        let (mut included, mut excluded) = (HashSet::new(), HashSet::new());
        let (mut faults, mut only_excludes, mut any) = (Vec::new(), true, false);
        for (index, word) in words.into_iter().enumerate() {
            any = true;
            only_excludes &= word.starts_with('!');
            let (set, word) = match word.strip_prefix('!') {
                Some(rest) => (&mut excluded, rest.trim_start()),
                None => (&mut included, word),
            };
            match self.word(word) {
                Ok(hosts) => set.extend(hosts),
                Err(fault) => faults.push((index, fault)),
            }
        }
        let wanted = |host: &&HostName| any && (only_excludes || included.contains(*host)) && !excluded.contains(*host);
        Selection { hosts: self.hosts.iter().filter(wanted).cloned().collect(), faults }
    }

    /// The hosts of one word without its `!`.
    fn word(&self, word: &str) -> Result<Vec<&'a HostName>, SelectError> {
        if word == ALL {
            return Ok(self.hosts.iter().collect());
        }
        if let Some(group) = word.strip_prefix('@') {
            let hosts = self.groups.iter().find(|(name, _)| name.as_str() == group).map(|(_, hosts)| hosts);
            let help = || did_you_mean(group, "groups", self.groups.keys().map(GroupName::as_str));
            return hosts
                .map(|hosts| hosts.iter().collect())
                .ok_or_else(|| SelectError::UnknownGroup { name: group.to_owned(), help: help() });
        }
        if let Some((components, name)) = self.components.zip(word.strip_prefix(COMPONENT)) {
            let hosts = components.iter().find(|(known, _)| known.as_str() == name).map(|(_, hosts)| hosts);
            let help = || did_you_mean(name, "components", components.keys().map(ComponentName::as_str));
            return hosts
                .map(|hosts| hosts.iter().collect())
                .ok_or_else(|| SelectError::UnknownComponent { name: name.to_owned(), help: help() });
        }
        matching(word, "hosts", self.hosts).map_err(|fault| self.mistaken_for_host(word, fault))
    }

    /// A group's name without its `@` is a slip worth a word.
    fn mistaken_for_host(&self, word: &str, fault: SelectError) -> SelectError {
        match fault {
            SelectError::UnknownHost { name, .. } if self.groups.keys().any(|group| group.as_str() == word) => {
                SelectError::UnknownHost { name, help: Some(format!("a group is written `@{word}`")) }
            }
            other => other,
        }
    }
}

/// The names that a name, glob or range stands for. `what` they are is for messages.
fn matching<'a, N: AsRef<str>>(word: &str, what: &str, names: &'a [N]) -> Result<Vec<&'a N>, SelectError> {
    if word.is_empty() {
        return Err(SelectError::Empty);
    }
    let texts = if range::has_range(word) {
        range::expand(word).map_err(|fault| bad_range(word, &fault))?
    } else {
        vec![word.to_owned()]
    };
    let listed = |text: &str| did_you_mean(text, what, names.iter().map(AsRef::as_ref));
    let mut found = Vec::new();
    for text in &texts {
        if text.contains(['*', '?', '[', '{']) {
            let glob = glob(text)?;
            found.extend(names.iter().filter(|name| glob.is_match(name.as_ref())));
        } else {
            let name = names.iter().find(|name| name.as_ref() == text);
            let unknown = || SelectError::UnknownHost { name: text.clone(), help: listed(text) };
            found.push(name.ok_or_else(unknown)?);
        }
    }
    if found.is_empty() {
        return Err(SelectError::NoMatch { pattern: word.to_owned(), help: listed(word) });
    }
    Ok(found)
}

fn glob(pattern: &str) -> Result<GlobMatcher, SelectError> {
    Glob::new(pattern).map(|glob| glob.compile_matcher()).map_err(|fault| SelectError::BadPattern {
        pattern: pattern.to_owned(),
        why: format!("`{pattern}` is not a pattern: {}", fault.kind()),
        help: None,
    })
}

fn bad_range(word: &str, fault: &RangeError) -> SelectError {
    SelectError::BadPattern { pattern: word.to_owned(), why: fault.to_string(), help: fault.help() }
}

/// The words of a selection: commas and blanks stand between them, but not within brackets.
fn words(selection: &str) -> Vec<&str> {
    let mut depth = 0usize;
    let split = selection.split(move |c: char| {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && (c == ',' || c.is_whitespace())
    });
    split.filter(|word| !word.is_empty()).collect()
}

impl Inventory {
    /// The hosts that a selection names, in the order of the inventory: names, globs (`asd-*`), ranges (`asd-[1-3]`),
    /// `@group`, `component:NAME` and `all`, with commas between them; `!` before a word excludes. With exclusions
    /// alone all other hosts are selected. Every word must stand for something.
    pub fn select(&self, selection: &str) -> Result<Vec<HostName>, SelectError> {
        let words = words(selection);
        if words.is_empty() {
            return Err(SelectError::Empty);
        }
        let hosts: Vec<HostName> = self.hosts.keys().cloned().collect();
        let groups = self.groups.iter().map(|(name, group)| (name.clone(), group.hosts.clone())).collect();
        let components =
            self.components.iter().map(|(name, component)| (name.clone(), component.hosts.clone())).collect();
        let roster = Roster { hosts: &hosts, groups: &groups, components: Some(&components) };
        let selected = roster.select(words);
        if let Some((_, fault)) = selected.faults.into_iter().next() {
            return Err(fault);
        }
        if selected.hosts.is_empty() {
            return Err(SelectError::Nothing { selection: selection.trim().to_owned() });
        }
        Ok(selected.hosts)
    }

    /// The components that names and globs stand for, in the order of [`Inventory::order`]; all when there are none.
    /// `!` before a word excludes. With `with_needs` also those that they need, whatever was excluded.
    pub fn select_components(&self, words: &[String], with_needs: bool) -> Result<Vec<ComponentName>, SelectError> {
        let order = self.order();
        let (mut included, mut excluded) = (HashSet::new(), HashSet::new());
        for word in words.iter().flat_map(|word| self::words(word)) {
            let (set, word) = match word.strip_prefix('!') {
                Some(rest) => (&mut excluded, rest),
                None => (&mut included, word),
            };
            set.extend(matching(word, "components", &order).map_err(of_component)?);
        }
        if included.is_empty() {
            included.extend(&order);
        }
        let mut wanted: HashSet<&ComponentName> = included.difference(&excluded).copied().collect();
        if with_needs {
            // Needs come before what needs them, so one walk from the end finds them all.
            for name in order.iter().rev().filter_map(|name| self.components.get(name)) {
                if wanted.contains(&name.name) {
                    wanted.extend(&name.needs);
                }
            }
        }
        let chosen: Vec<ComponentName> = order.iter().filter(|name| wanted.contains(name)).cloned().collect();
        if chosen.is_empty() && !words.is_empty() {
            return Err(SelectError::Nothing { selection: words.join(",") });
        }
        Ok(chosen)
    }
}

/// The same fault, said of components.
fn of_component(fault: SelectError) -> SelectError {
    match fault {
        SelectError::UnknownHost { name, help } => SelectError::UnknownComponent { name, help },
        other => other,
    }
}
