//! Which OSDs take the fragments of a chunk.

use std::collections::BTreeMap;

use super::{access::Osd, preset::Policy};

/// The first policy that these OSDs can satisfy: `min_fragments` must fit when no node takes more than `max_per_node`.
pub(crate) fn choose(policies: &[Policy], osds: &[Osd]) -> Option<Policy> {
    let mut nodes: BTreeMap<&str, usize> = BTreeMap::new();
    for osd in osds {
        *nodes.entry(&osd.node_id).or_default() += 1;
    }
    let fits = |policy: &&Policy| nodes.values().map(|count| (*count).min(policy.3)).sum::<usize>() >= policy.2;
    policies.iter().find(fits).copied()
}

/// The OSDs in the order in which they are tried: the nodes take turns. `turn` spreads the load.
pub(crate) fn order(osds: &[Osd], turn: usize) -> Vec<&Osd> {
    let mut nodes: BTreeMap<&str, Vec<&Osd>> = BTreeMap::new();
    for osd in osds {
        nodes.entry(&osd.node_id).or_default().push(osd);
    }
    let mut rows: Vec<Vec<&Osd>> = nodes.into_values().collect();
    let count = rows.len().max(1);
    rows.rotate_left(turn % count);
    for row in &mut rows {
        let length = row.len();
        row.rotate_left(turn / count % length);
    }
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(|place| rows.iter().filter_map(move |row| row.get(place).copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn osds(nodes: &[(&str, usize)]) -> Vec<Osd> {
        let osd = |node: &str, number: usize| Osd {
            long_id: format!("{node}{number}"),
            node_id: node.to_owned(),
            ips: Vec::new(),
            port: 0,
            claimed: true,
            delivered: true,
            decommissioned: false,
        };
        nodes.iter().flat_map(|(node, count)| (0..*count).map(move |number| osd(node, number))).collect()
    }

    const DEFAULT: [Policy; 2] = [(5, 4, 8, 3), (2, 2, 3, 4)];

    #[test]
    fn the_first_policy_that_fits_is_used() {
        for (nodes, want) in [
            (vec![("a", 3)], Some(DEFAULT[1])),
            (vec![("a", 2)], None),
            (vec![("a", 9)], Some(DEFAULT[1])),
            (vec![("a", 3), ("b", 3), ("c", 2)], Some(DEFAULT[0])),
        ] {
            assert_eq!(choose(&DEFAULT, &osds(&nodes)), want, "{nodes:?}");
        }
    }

    #[test]
    fn the_nodes_take_turns() {
        let all = osds(&[("a", 2), ("b", 1)]);
        let names = |turn| order(&all, turn).iter().map(|osd| osd.long_id.as_str()).collect::<Vec<_>>();
        assert_eq!(names(0), ["a0", "b0", "a1"]);
        assert_eq!(names(1), ["b0", "a0", "a1"]);
        assert_eq!(names(2), ["a1", "b0", "a0"]);
    }
}
