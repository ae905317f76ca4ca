//! Keys of the v3 keyspace as nodes of the v2 tree. A directory is what keys lie below; a key that ends in `/` marks a
//! directory that was made empty. Where a key is both, it is the directory that is seen.

use std::collections::BTreeMap;

use etcd_client::KeyValue;

use super::answer::Node;

/// Keys deeper than this below a directory are left out: each level is one of the answer's.
const DEEPEST: usize = 128;

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) value: Vec<u8>,
    pub(super) created: i64,
    pub(super) modified: i64,
}

impl Leaf {
    pub(super) fn of(kv: &KeyValue) -> Self {
        Self { value: kv.value().to_vec(), created: kv.create_revision(), modified: kv.mod_revision() }
    }

    /// As a node. What is not UTF-8 is replaced, as Go's JSON does.
    pub(super) fn node(&self, path: &str) -> Node {
        Node {
            key: path.to_owned(),
            value: Some(String::from_utf8_lossy(&self.value).into_owned()),
            modified_index: self.modified,
            created_index: self.created,
            ..Node::default()
        }
    }
}

/// A directory as a node, without what is in it. It is as old as the oldest key below it.
pub(super) fn directory(path: &str, created: i64) -> Node {
    let key = if path == "/" { String::new() } else { path.to_owned() };
    let created = if path == "/" { 0 } else { created };
    Node { key, dir: true, modified_index: created, created_index: created, ..Node::default() }
}

/// What lies below a directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    branch: Branch,
}

#[derive(Debug, Default)]
struct Branch {
    created: Option<i64>,
    leaves: BTreeMap<String, Leaf>,
    branches: BTreeMap<String, Branch>,
}

impl Listing {
    /// Adds a key, by its name below the directory. Unless all levels are wanted, only the first keeps its values.
    pub(super) fn add(&mut self, name: &[u8], leaf: Leaf, is_recursive: bool) {
        let Ok(name) = std::str::from_utf8(name) else {
            return;
        };
        let (name, is_mark) = name.strip_suffix('/').map_or((name, name.is_empty()), |name| (name, true));
        let parts: Vec<&str> = if name.is_empty() { Vec::new() } else { name.split('/').collect() };
        // No v2 path names them.
        if parts.len() > DEEPEST || parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
            return;
        }
        let folders = if is_mark { parts.as_slice() } else { &parts[..parts.len().saturating_sub(1)] };
        let mut branch = &mut self.branch;
        branch.grow_up(leaf.created);
        for (depth, folder) in folders.iter().enumerate() {
            if depth > 0 && !is_recursive {
                return;
            }
            branch = branch.branches.entry((*folder).to_owned()).or_default();
            branch.grow_up(leaf.created);
        }
        if let (Some(last), false) = (parts.last(), is_mark || !folders.is_empty() && !is_recursive) {
            branch.leaves.insert((*last).to_owned(), leaf);
        }
    }

    /// The directory with what is in it, in order, hidden names (`_...`) left out.
    pub(super) fn node(self, path: &str, is_recursive: bool) -> Node {
        self.branch.node(path, true, is_recursive)
    }
}

impl Branch {
    fn grow_up(&mut self, created: i64) {
        self.created = Some(self.created.map_or(created, |known| known.min(created)));
    }

    fn node(self, path: &str, with_nodes: bool, is_recursive: bool) -> Node {
        let mut node = directory(path, self.created.unwrap_or_default());
        if !with_nodes {
            return node;
        }
        let whole = |name: &str| format!("{}/{name}", node.key);
        let mut nodes: BTreeMap<String, Node> =
            self.leaves.into_iter().map(|(name, leaf)| (name.clone(), leaf.node(&whole(&name)))).collect();
        for (name, branch) in self.branches {
            let below = branch.node(&whole(&name), is_recursive, is_recursive);
            nodes.insert(name, below);
        }
        node.nodes = nodes.into_iter().filter(|(name, _)| !name.starts_with('_')).map(|(_, node)| node).collect();
        node
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str], is_recursive: bool) -> String {
        let mut listing = Listing::default();
        for (name, created) in names.iter().zip(5..) {
            let leaf = Leaf { value: name.as_bytes().to_vec(), created, modified: 9 };
            listing.add(name.as_bytes(), leaf, is_recursive);
        }
        shown(&listing.node("/d", is_recursive))
    }

    fn shown(node: &Node) -> String {
        let nodes: Vec<String> = node.nodes.iter().map(shown).collect();
        let below = if node.dir { format!("[{}]", nodes.join(" ")) } else { String::new() };
        format!("{}@{}{below}", node.key, node.created_index)
    }

    #[test]
    fn keys_become_a_tree() {
        let names = ["b/y", "a", "b", "b/x/1", "_h", "b/_h/2", "c/", "a-b"];
        assert_eq!(listing(&names, false), "/d@5[/d/a@6 /d/a-b@12 /d/b@5[] /d/c@11[]]");
        assert_eq!(listing(&names, true), "/d@5[/d/a@6 /d/a-b@12 /d/b@5[/d/b/x@8[/d/b/x/1@8] /d/b/y@5] /d/c@11[]]");
    }

    #[test]
    fn names_that_no_path_reaches_are_left_out() {
        assert_eq!(listing(&["", "a//b", "../x", "x/.", &"p/".repeat(200)], true), "/d@5[]");
        let mut listing = Listing::default();
        listing.add(b"\xff", Leaf { value: Vec::new(), created: 1, modified: 1 }, true);
        assert_eq!(shown(&listing.node("/", true)), "@0[]");
    }
}
