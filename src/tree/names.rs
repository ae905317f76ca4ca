//! Files with more than one name in a tree.

use std::collections::HashMap;

use super::{Node, NodeKind};

/// Which nodes, by index, are further names of a file that an earlier node names, and which node that is. The nodes are
/// ordered by path; names outside of them do not count.
pub fn further_names(nodes: &[Node]) -> HashMap<usize, usize> {
    let mut first: HashMap<(u64, u64), usize> = HashMap::new();
    let mut further = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        if node.kind == NodeKind::File && !node.status.is_only_name {
            match first.entry((node.status.dev, node.status.ino)) {
                std::collections::hash_map::Entry::Occupied(earlier) => drop(further.insert(index, *earlier.get())),
                std::collections::hash_map::Entry::Vacant(empty) => drop(empty.insert(index)),
            }
        }
    }
    further
}
