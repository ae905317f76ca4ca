//! From the text of an inventory to its model, or to everything that is wrong with it.

use std::{fs::OpenOptions, io::Read, path::Path};

use toml::de::DeTable;

use super::{
    address, component, group, host, lab,
    model::{Inventory, Lab},
    path::clean,
    problem::{InventoryError, Problems, Span, line_of},
    select::Roster,
    table::{Table, secrets},
};
use crate::plan::Source;

const KEYS: [&str; 5] = ["lab", "defaults", "host", "group", "component"];

/// No inventory is larger; what is, is some other file.
const LARGEST: u64 = 16 << 20;

impl Inventory {
    /// Reads an inventory from its file. Errors hold everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, InventoryError> {
        let text = read_file(path).map_err(|cause| InventoryError::unreadable(path, cause))?;
        match String::from_utf8(text) {
            Ok(text) => Self::parse(&text, path),
            Err(fault) => {
                let at = fault.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(fault.as_bytes()).into_owned();
                let problems = Problems::default();
                problems.add(at..at + 1, "the inventory is not UTF-8");
                let blots = hidden_lines(&text);
                Err(InventoryError::invalid(path, &text, &blots, problems))
            }
        }
    }

    /// Reads an inventory from its text. `path` names it in messages, and relative paths in it start at its directory.
    pub fn parse(text: &str, path: &Path) -> Result<Self, InventoryError> {
        let (document, faults) = DeTable::parse_recoverable(text);
        let problems = Problems::default();
        if faults.is_empty() {
            let found = read(document.get_ref(), text, path, &problems);
            return match found {
                Some(inventory) if problems.is_empty() => Ok(inventory),
                _ => Err(InventoryError::invalid(path, text, &secrets(document.get_ref()), problems)),
            };
        }
        for fault in faults {
            let span = fault.span().unwrap_or_default();
            let key = text.get(span.clone()).unwrap_or_default();
            let message = match fault.message() {
                "duplicate key" => format!("`{key}` is defined twice"),
                other => other.to_owned(),
            };
            problems.add_with(span.clone(), message, syntax_help(text, &span));
        }
        let mut blots = secrets(document.get_ref());
        blots.extend(hidden_lines(text));
        Err(InventoryError::invalid(path, text, &blots, problems))
    }
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Not by `fs_err`: its errors name the path, and ours does already.
    OpenOptions::new().read(true).open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "it is larger than 16 MiB"));
    }
    Ok(bytes)
}

/// Where text is not TOML, its structure cannot tell where a secret ends: the rest of each line with one is hidden.
fn hidden_lines(text: &str) -> Vec<Span> {
    let mut start = 0;
    let mut hidden = Vec::new();
    for line in text.split_inclusive('\n') {
        if let Some(at) = super::mask::secret_at(line) {
            hidden.push(start + at..start + line.len());
        }
        start += line.len();
    }
    hidden
}

/// `[host.asd-[1-3]]` is the slip that everybody makes once.
fn syntax_help(text: &str, span: &Span) -> Option<String> {
    let start = text.get(..span.start)?.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[start..].lines().next()?.trim();
    let name = line.strip_prefix("[host.")?.strip_suffix(']')?;
    (name.contains('[') && !name.contains('"')).then(|| format!("a name with a range is quoted: `[host.\"{name}\"]`"))
}

/// The whole model. None when a part is missing, which is reported.
fn read<'a>(document: &'a DeTable<'a>, text: &str, path: &Path, problems: &'a Problems) -> Option<Inventory> {
    let absolute = clean(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    let base = absolute.parent().unwrap_or_else(|| Path::new("/"));
    let source = |span: &Span| Source { file: path.display().to_string(), line: line_of(text, span.start) };
    let root = Table::new(document, "the inventory".to_owned(), 0..0, problems);
    root.only(&KEYS);

    let lab = read_lab(&root, base);
    let lab_name = lab.as_ref().map_or("lab", |lab| lab.name.as_str());
    let defaults = section(&root, "defaults").map(|table| host::check_defaults(&table, lab_name, base));
    let drafts = root.item("host").map(|item| host::drafts(&item, problems)).unwrap_or_default();
    let names: Vec<_> = drafts.iter().map(|draft| draft.name.clone()).collect();
    let words = root.item("group").map(|item| group::words(&item, problems)).unwrap_or_default();
    host::check_groups(&drafts, &words.iter().map(|group| group.name.clone()).collect::<Vec<_>>(), problems);
    let members = group::resolve(&words, &drafts, problems);
    let reader =
        host::Reader { defaults: defaults.unwrap_or_default(), lab: lab_name, whole: lab.as_ref(), base, problems };
    let accesses = reader.accesses(&drafts);
    if let (Some(lab), Some(table)) = (&lab, section(&root, "lab")) {
        address::check_room(lab, &table, &accesses);
    }
    let roster = Roster { hosts: &names, groups: &members, components: None };
    let reader = component::Reader { roster, base, problems, source: &source };
    let components = root.item("component").map(|item| reader.read(&item)).unwrap_or_default();

    let groups = group::finish(&words, members);
    let lab = lab?;
    let hosts = host::finish(&drafts, accesses, &lab, &groups, source);
    Some(Inventory { path: absolute, lab, hosts, groups, components })
}

fn read_lab(root: &Table<'_>, base: &Path) -> Option<Lab> {
    if root.item("lab").is_none() {
        let help = Some("begin with `[lab]` and `name = \"demo\"`".to_owned());
        root.problems.add_with(root.span.clone(), "the inventory has no `[lab]`", help);
        return None;
    }
    lab::read(&section(root, "lab")?, base)
}

/// A table of the inventory itself; anything else under its name is reported.
fn section<'a>(root: &Table<'a>, key: &str) -> Option<Table<'a>> {
    let item = root.item(key)?;
    let fields = item.as_table();
    if fields.is_none() {
        item.expected("a table");
    }
    fields.map(|fields| Table::new(fields, format!("`[{key}]`"), item.key, root.problems))
}
