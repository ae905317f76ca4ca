//! The graph of components: its order, and its cycles told by their path.

use std::collections::{HashMap, HashSet};

use super::model::Inventory;
use crate::plan::ComponentName;

/// A cycle as it is walked, the first name again at the end; none when there is none.
///
/// Only names among the keys count: what is not there is reported elsewhere.
pub(super) fn cycle<'a>(edges: &HashMap<&'a str, Vec<&'a str>>, from: &'a str) -> Option<Vec<&'a str>> {
    let mut done = HashSet::new();
    // Walked by hand: a chain of needs may be longer than the stack is deep.
    let mut path: Vec<(&str, usize)> = vec![(from, 0)];
    let mut walked = HashMap::from([(from, 0)]);
    while let Some((name, next)) = path.last_mut() {
        let Some(target) = edges.get(name).and_then(|targets| targets.get(*next)).copied() else {
            done.insert(*name);
            walked.remove(name);
            path.pop();
            continue;
        };
        *next += 1;
        if let Some(start) = walked.get(target) {
            return Some(path[*start..].iter().map(|(name, _)| *name).chain([target]).collect());
        }
        if !done.contains(target) {
            walked.insert(target, path.len());
            path.push((target, 0));
        }
    }
    None
}

impl Inventory {
    /// All components, each after what it needs, otherwise in the order of the file.
    pub fn order(&self) -> Vec<ComponentName> {
        let mut order: Vec<ComponentName> = Vec::with_capacity(self.components.len());
        let mut placed = HashSet::new();
        // There is no cycle, so every round places at least one.
        while let Some(next) = self
            .components
            .values()
            .find(|component| !placed.contains(&component.name) && component.needs.iter().all(|n| placed.contains(n)))
        {
            placed.insert(&next.name);
            order.push(next.name.clone());
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_is_told_by_its_path() {
        let edges = HashMap::from([
            ("a", vec!["b", "missing"]),
            ("b", vec!["c", "d"]),
            ("c", vec![]),
            ("d", vec!["b"]),
            ("e", vec!["e"]),
        ]);
        assert_eq!(cycle(&edges, "a"), Some(vec!["b", "d", "b"]));
        assert_eq!(cycle(&edges, "c"), None);
        assert_eq!(cycle(&edges, "e"), Some(vec!["e", "e"]));
    }

    #[test]
    fn a_long_chain_needs_no_stack() {
        let names: Vec<String> = (0..100_000).map(|number| number.to_string()).collect();
        let edges: HashMap<&str, Vec<&str>> =
            names.windows(2).map(|pair| (pair[0].as_str(), vec![pair[1].as_str()])).collect();
        assert_eq!(cycle(&edges, "0"), None);
    }
}
