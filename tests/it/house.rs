//! Keeps the house in order: which room may import which, which room owns which crate, how files look.
//!
//! Reads `src/` with `syn`, so it sees what a text search misses: `super::super::` detours, `use` trees, paths inside
//! macro tokens and attributes. The tests at the end plant violations and expect each to be found.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, Literal, Span, TokenStream, TokenTree};
use syn::{
    ItemUse, UseTree, Visibility,
    spanned::Spanned as _,
    visit::{self, Visit},
};

/// A room, where it is, and the rooms it may import. A row names only rows above it, so there is no cycle.
struct Room {
    name: &'static str,
    path: &'static [&'static str],
    imports: &'static [&'static str],
}

const fn room(name: &'static str, path: &'static [&'static str], imports: &'static [&'static str]) -> Room {
    Room { name, path, imports }
}

/// The directions of the design, section "The house".
const ROOMS: [Room; 14] = [
    room("tree", &["tree"], &[]),
    room("plan", &["plan"], &["tree"]),
    room("wire", &["wire"], &["plan", "tree"]),
    room("helper", &["helper"], &["wire", "plan", "tree"]),
    room("launch", &["launch"], &["plan"]),
    room("event", &["control", "event"], &["plan"]),
    room("inventory", &["control", "inventory"], &["plan"]),
    room("recipe", &["control", "recipe"], &["inventory", "plan", "tree"]),
    room("link", &["control", "link"], &["inventory", "wire", "plan"]),
    room("lab", &["control", "lab"], &["inventory", "link", "plan"]),
    room("config", &["control", "config"], &["inventory", "link", "plan"]),
    room(
        "drive",
        &["control", "drive"],
        &["event", "inventory", "recipe", "link", "lab", "config", "wire", "plan", "tree"],
    ),
    room("report", &["control", "report"], &["event", "plan"]),
    room(
        "cli",
        &["control", "cli"],
        &["event", "inventory", "recipe", "link", "lab", "config", "drive", "report", "plan"],
    ),
];

/// The programs: each opens one room.
const PROGRAMS: [Room; 3] = [
    room("ovs-cuisine", &["bin", "ovs-cuisine"], &["cli"]),
    room("cuisine-helper", &["bin", "cuisine-helper"], &["helper"]),
    room("ovs-launch", &["bin", "ovs-launch"], &["launch"]),
];

/// Files that only say which rooms there are.
const MAPS: [&str; 2] = ["src/lib.rs", "src/control/mod.rs"];

/// Heavy crates, and the rooms that alone may name them.
const OWNED: [(&str, &[&str]); 10] = [
    ("russh", &["link"]),
    ("starlark", &["recipe"]),
    ("bollard", &["lab"]),
    ("etcd_client", &["config", "launch"]),
    ("hyper", &["launch"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("notify", &["drive"]),
    ("ignore", &["tree"]),
    ("syn", &[]),
];

const MOST_LINES: usize = 1000;
const NAMELESS: [&str; 7] = ["util.rs", "utils.rs", "helpers.rs", "misc.rs", "common.rs", "util", "utils"];

/// What is wrong with the imports of one source file, a line each: `file:line: what`.
fn violations(file: &str, source: &str) -> Vec<String> {
    let syntax = match syn::parse_file(source) {
        Ok(syntax) => syntax,
        Err(error) => return vec![format!("{file}: {error}")],
    };
    if MAPS.contains(&file) {
        return map_violations(file, &syntax);
    }
    let module = module_path(file);
    let Some(room) = ROOMS.iter().chain(&PROGRAMS).find(|room| starts_with(&module, room.path)) else {
        return vec![format!("{file}: belongs to no room")];
    };
    let mut locals = Locals::default();
    locals.visit_file(&syntax);
    let mut reader = Reader { file, room, module, locals: locals.names, found: Vec::new() };
    reader.visit_file(&syntax);
    reader.found
}

fn map_violations(file: &str, syntax: &syn::File) -> Vec<String> {
    let other = syntax.items.iter().filter(|item| !matches!(item, syn::Item::Mod(module) if module.content.is_none()));
    other.map(|item| format!("{file}:{}: a map holds modules only", line(item.span()))).collect()
}

/// `src/control/report/plain.rs` is the module `control, report, plain`.
fn module_path(file: &str) -> Vec<String> {
    let inner = file.strip_prefix("src/").unwrap_or(file);
    let inner = inner.strip_suffix("/mod.rs").or_else(|| inner.strip_suffix(".rs")).unwrap_or(inner);
    inner.split('/').map(str::to_owned).collect()
}

fn starts_with(path: &[String], prefix: &[&str]) -> bool {
    path.len() >= prefix.len() && path.iter().zip(prefix).all(|(one, other)| one == other)
}

fn line(span: Span) -> usize {
    span.start().line
}

/// The paths of a `use` tree, each with its line and the name that it brings into scope.
fn leaves(tree: &UseTree, prefix: &[String], found: &mut Vec<(Vec<String>, String, usize)>) {
    let with = |name: String| prefix.iter().cloned().chain([name]).collect::<Vec<_>>();
    match tree {
        UseTree::Path(path) => leaves(&path.tree, &with(path.ident.to_string()), found),
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, prefix, found)),
        UseTree::Glob(glob) => found.push((with("*".into()), "*".into(), line(glob.span()))),
        UseTree::Name(name) if name.ident == "self" => {
            found.push((prefix.to_vec(), prefix.last().cloned().unwrap_or_default(), line(name.span())));
        }
        UseTree::Name(name) => found.push((with(name.ident.to_string()), name.ident.to_string(), line(name.span()))),
        UseTree::Rename(rename) if rename.ident == "self" => {
            found.push((prefix.to_vec(), rename.rename.to_string(), line(rename.span())));
        }
        UseTree::Rename(rename) => {
            found.push((with(rename.ident.to_string()), rename.rename.to_string(), line(rename.span())));
        }
    }
}

/// Names that a file defines or imports from the house, so that a path beginning with them is not a crate's.
#[derive(Default)]
struct Locals {
    names: BTreeSet<String>,
}

impl<'ast> Visit<'ast> for Locals {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.names.insert(item.ident.to_string());
        visit::visit_item_mod(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let mut paths = Vec::new();
        leaves(&item.tree, &[], &mut paths);
        let house = paths.into_iter().filter(|(path, ..)| {
            item.leading_colon.is_none()
                && path.len() > 1
                && matches!(path[0].as_str(), "crate" | "self" | "super" | "ovs_cuisine")
        });
        self.names.extend(house.map(|(_, name, _)| name));
    }
}

struct Reader<'a> {
    file: &'a str,
    room: &'static Room,
    module: Vec<String>,
    locals: BTreeSet<String>,
    found: Vec<String>,
}

impl Reader<'_> {
    fn complain(&mut self, line: usize, what: &str) {
        self.found.push(format!("{}:{line}: {what}", self.file));
    }

    /// Judges one path as written. `import`: it stands in a `use`, where even one segment names a crate.
    fn path(&mut self, segments: &[String], line: usize, import: bool) {
        let Some(first) = segments.first() else { return };
        if segments.len() == 1 && !import {
            return; // A variable, a type in scope, `self`, or the `crate` of `pub(crate)`.
        }
        let is_program = self.module[0] == "bin";
        let absolute = match first.as_str() {
            "crate" if is_program => return,
            "crate" | "ovs_cuisine" => segments[1..].to_vec(),
            "self" | "super" => {
                let rest = &segments[usize::from(first == "self")..];
                let supers = rest.iter().take_while(|segment| *segment == "super").count();
                let kept = self.module.len().saturating_sub(supers);
                self.module[..kept].iter().chain(&rest[supers..]).cloned().collect()
            }
            name => return self.crate_use(name, line),
        };
        let Some(room) = ROOMS.iter().find(|room| starts_with(&absolute, room.path)) else {
            let text = segments.join("::");
            return self.complain(line, &format!("`{text}` names no room; import what is inside one"));
        };
        if room.name != self.room.name && !self.room.imports.contains(&room.name) {
            let text = segments.join("::");
            let (from, to) = (self.room.name, room.name);
            self.complain(line, &format!("{from} may not import {to} (`{text}`)"));
        }
    }

    fn crate_use(&mut self, name: &str, line: usize) {
        let Some((_, owners)) = OWNED.iter().find(|(owned, _)| *owned == name) else { return };
        if !self.locals.contains(name) && !owners.contains(&self.room.name) {
            let owners = if owners.is_empty() { "tests only".to_owned() } else { owners.join(" and ") };
            self.complain(line, &format!("{} may not use `{name}`, which belongs to {owners}", self.room.name));
        }
    }

    /// Judges the paths in tokens that syn leaves unread. `prefix` is not empty inside the braces of a `use` tree.
    fn tokens(&mut self, stream: TokenStream, prefix: &[String]) {
        let trees: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while let Some(tree) = trees.get(at) {
            at += 1;
            match tree {
                TokenTree::Group(group) => self.tokens(group.stream(), &[]),
                TokenTree::Ident(word) if word == "as" && !prefix.is_empty() => at += 1,
                TokenTree::Ident(word) => {
                    let mut path = prefix.to_vec();
                    path.push(word.to_string());
                    let mut open = None;
                    while let [TokenTree::Punct(one), TokenTree::Punct(two), next, ..] = &trees[at..] {
                        if one.as_char() != ':' || two.as_char() != ':' || open.is_some() {
                            break;
                        }
                        match next {
                            TokenTree::Ident(word) => path.push(word.to_string()),
                            TokenTree::Punct(star) if star.as_char() == '*' => path.push("*".into()),
                            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => open = Some(group),
                            _ => break,
                        }
                        at += 3;
                    }
                    match open {
                        Some(group) => self.tokens(group.stream(), &path),
                        None => self.path(&path, line(word.span()), false),
                    }
                }
                TokenTree::Literal(literal) => self.literal(literal),
                TokenTree::Punct(_) => {}
            }
        }
    }

    /// `#[serde(with = "crate::wire::x")]` imports too.
    fn literal(&mut self, literal: &Literal) {
        let text = syn::parse_str::<syn::LitStr>(&literal.to_string()).map(|text| text.value()).unwrap_or_default();
        if ["crate::", "super::", "self::"].iter().any(|start| text.starts_with(start))
            && let Ok(path) = syn::parse_str::<syn::Path>(&text)
        {
            self.path(&idents(&path), line(literal.span()), false);
        }
    }
}

fn idents(path: &syn::Path) -> Vec<String> {
    path.segments.iter().map(|segment| segment.ident.to_string()).collect()
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let mut paths = Vec::new();
        leaves(&item.tree, &[], &mut paths);
        for (path, _, line) in &paths {
            self.path(path, *line, true);
            let owned = OWNED.iter().any(|(owned, _)| path[0] == *owned) && !self.locals.contains(&path[0]);
            if owned && matches!(item.vis, Visibility::Public(_)) {
                self.complain(*line, &format!("`{}` is handed on; wrap it instead", path.join("::")));
            }
        }
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        self.path(&[item.ident.to_string()], line(item.span()), true);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.attrs.iter().any(|attribute| attribute.path().is_ident("path")) {
            self.complain(line(item.span()), "a module stands where its name says, without `#[path]`");
        }
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    // `pub(in crate::control)` imports nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.path(&idents(path), line(path.span()), false);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        if item.path.is_ident("include") {
            self.complain(line(item.span()), "`include!` hides what a room imports");
        }
        self.tokens(item.tokens.clone(), &[]);
        visit::visit_macro(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone(), &[]);
        }
        visit::visit_attribute(self, attribute);
    }
}

/// Every Rust file below a directory of the package, as `(path from the package's root, text)`.
fn sources(directory: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut open: Vec<PathBuf> = vec![root.join(directory)];
    let mut found = Vec::new();
    while let Some(directory) = open.pop() {
        for entry in fs_err::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs_err::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn rooms_import_downwards_only() {
    let sources = sources("src");
    assert!(sources.len() > 30, "only {} files were found", sources.len());
    let found: Vec<String> = sources.iter().flat_map(|(file, source)| violations(file, source)).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn each_row_names_only_rows_above_it() {
    for (index, room) in ROOMS.iter().enumerate() {
        for import in room.imports {
            assert!(ROOMS[..index].iter().any(|above| above.name == *import), "{} names {import}", room.name);
        }
    }
    let owners = OWNED.iter().flat_map(|(_, owners)| owners.iter());
    for owner in owners.chain(PROGRAMS.iter().flat_map(|program| program.imports)) {
        assert!(ROOMS.iter().any(|room| room.name == *owner), "there is no room {owner}");
    }
}

#[test]
fn report_never_knows_drive() {
    let report = ROOMS.iter().find(|room| room.name == "report").unwrap();
    assert_eq!(report.imports, ["event", "plan"]);
}

#[test]
fn files_are_named_for_what_they_hold_and_say_it_first() {
    let mut found = Vec::new();
    for (file, text) in ["src", "tests"].into_iter().flat_map(sources) {
        if file.split('/').any(|part| NAMELESS.contains(&part)) {
            found.push(format!("{file}: the name says nothing"));
        }
        if !text.trim().is_empty() && !text.starts_with("//! ") {
            found.push(format!("{file}: begins without `//! ` and what it holds"));
        }
        let lines = text.lines().count();
        if lines > MOST_LINES {
            found.push(format!("{file}: {lines} lines; at most {MOST_LINES}"));
        }
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// Feeds each source to the guard as if it were that file and expects exactly this complaint, or none.
fn planted(cases: &[(&str, &str, Option<&str>)]) {
    for (file, source, want) in cases {
        let found = violations(file, source);
        match want {
            None => assert!(found.is_empty(), "{source}: {found:?}"),
            Some(want) => {
                assert_eq!(found.len(), 1, "{source}: {found:?}");
                assert!(found[0].starts_with(&format!("{file}:")) && found[0].contains(want), "{source}: {found:?}");
            }
        }
    }
}

#[test]
fn goes_red_for_an_upward_import() {
    planted(&[
        ("src/tree/manifest.rs", "use crate::plan::Facts;", Some("tree may not import plan")),
        ("src/plan/op.rs", "use crate::{tree::Digest, control::cli::run};", Some("plan may not import cli")),
        ("src/wire/mod.rs", "fn f() { crate::helper::serve() }", Some("wire may not import helper")),
        ("src/wire/mod.rs", "use crate::{plan::Op, tree::Digest};", None),
    ]);
}

#[test]
fn goes_red_for_a_sideways_import() {
    planted(&[
        ("src/control/report/json.rs", "use crate::control::drive::Fleet;", Some("report may not import drive")),
        ("src/control/link/mod.rs", "type T = crate::control::lab::Engine;", Some("link may not import lab")),
        ("src/launch/mod.rs", "fn f(x: &crate::wire::Frame) {}", Some("launch may not import wire")),
        (
            "src/control/config/mod.rs",
            "impl crate::control::recipe::Load for X {}",
            Some("config may not import recipe"),
        ),
        ("src/control/lab/mod.rs", "use crate::control::{inventory::Inventory, link::Link};", None),
    ]);
}

#[test]
fn goes_red_for_a_detour() {
    planted(&[
        ("src/control/report/plain.rs", "use super::super::drive::Fleet;", Some("report may not import drive")),
        ("src/control/report/mod.rs", "use super::drive::Fleet;", Some("report may not import drive")),
        ("src/control/report/mod.rs", "mod a { use super::super::drive::X; }", Some("report may not import drive")),
        ("src/control/report/mod.rs", "mod a { use super::super::event::X; use super::Y; }", None),
        ("src/control/report/mod.rs", "fn f() { self::super::drive::x() }", Some("report may not import")),
        ("src/control/report/mod.rs", "use crate::control;", Some("names no room")),
        ("src/control/report/mod.rs", "use super::{self as control};", Some("names no room")),
        ("src/control/report/mod.rs", "use super::*;", Some("names no room")),
        ("src/helper/mod.rs", "use crate as house;", Some("names no room")),
        ("src/helper/mod.rs", "extern crate ovs_cuisine;", Some("names no room")),
        ("src/helper/mod.rs", "#[path = \"../control/cli/mod.rs\"] mod cli;", Some("without `#[path]`")),
        ("src/helper/mod.rs", "include!(\"../launch/mod.rs\");", Some("hides")),
        ("src/lib.rs", "pub mod tree; pub use tree::Digest;", Some("modules only")),
        ("src/odd.rs", "", Some("belongs to no room")),
    ]);
}

#[test]
fn goes_red_for_what_macros_and_attributes_hide() {
    planted(&[
        (
            "src/control/report/mod.rs",
            "fn f() { format!(\"{}\", super::drive::x()); }",
            Some("report may not import drive"),
        ),
        (
            "src/tree/mod.rs",
            "fn f() { assert!(vec![(crate::plan::x(), 1)].is_empty()); }",
            Some("tree may not import plan"),
        ),
        ("src/tree/mod.rs", "macro_rules! m { () => { $crate::plan::x() } }", Some("tree may not import plan")),
        ("src/plan/mod.rs", "m! { use crate::{tree::A, wire::{B as C}}; }", Some("plan may not import wire")),
        ("src/plan/mod.rs", "#[serde(with = \"crate::wire::hex\")] struct X;", Some("plan may not import wire")),
        ("src/plan/mod.rs", "#[derive(crate::wire::Encode)] struct X;", Some("plan may not import wire")),
        ("src/plan/mod.rs", "#[serde(default = \"X::new\")] pub(in crate::control) struct X;", None),
        ("src/plan/name.rs", "macro_rules! m { () => { pub(crate) struct X; } }", None),
    ]);
}

#[test]
fn goes_red_for_a_crate_outside_its_room() {
    planted(&[
        ("src/control/drive/mod.rs", "use russh::client;", Some("belongs to link")),
        ("src/control/drive/mod.rs", "use russh as ssh;", Some("belongs to link")),
        ("src/control/drive/mod.rs", "fn f() { let x = ::russh::client::x(); }", Some("belongs to link")),
        ("src/control/drive/mod.rs", "fn f() { println!(\"{}\", russh::VERSION); }", Some("belongs to link")),
        ("src/control/drive/mod.rs", "#[derive(clap::Parser)] struct X;", Some("belongs to cli")),
        ("src/control/recipe/mod.rs", "fn f(x: etcd_client::Client) {}", Some("belongs to config and launch")),
        ("src/helper/mod.rs", "mod ignore; fn f() { ignore::x(); let ignore = 1; g(ignore); }", None),
        ("src/helper/mod.rs", "use ignore::Match;", Some("belongs to tree")),
        ("src/control/link/mod.rs", "use russh::client; fn f(x: russh::Channel) {}", None),
        ("src/control/link/mod.rs", "pub use russh::client::Handle;", Some("handed on")),
        ("src/control/link/mod.rs", "use rcgen::KeyPair; use tokio::net;", None),
    ]);
}

#[test]
fn goes_red_for_a_program_that_looks_around() {
    planted(&[
        ("src/bin/ovs-cuisine.rs", "use ovs_cuisine::control::cli; fn main() { cli::main() }", None),
        ("src/bin/ovs-cuisine.rs", "use ovs_cuisine::control::drive;", Some("ovs-cuisine may not import drive")),
        (
            "src/bin/cuisine-helper.rs",
            "fn main() { ovs_cuisine::wire::x() }",
            Some("cuisine-helper may not import wire"),
        ),
        ("src/bin/ovs-launch.rs", "fn main() { ovs_cuisine::launch::main() }", None),
    ]);
}
