//! `[host.NAME]` and `[host."name-[1-3]"]`: who there is and how each is reached.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use indexmap::IndexMap;
use serde_json::{Map, Value};
use toml::de::DeTable;

use super::{
    address,
    container::{self, Placeholders},
    mask::Masked,
    model::{Access, Container, Group, Host, Lab, PortMapping},
    nearest::did_you_mean,
    port::{self, LOOPBACK},
    problem::{Problems, Span},
    range,
    select::ALL,
    ssh::{self, Chains},
    table::{Item, Table, Text},
};
use crate::plan::{GroupName, HostName, Source};

const KEYS: [&str; 4] = ["container", "ssh", "vars", "groups"];

/// `[defaults]`: what hosts of a kind have in common.
#[derive(Clone, Copy, Default)]
pub(super) struct Defaults<'a> {
    pub(super) container: Option<&'a DeTable<'a>>,
    pub(super) ssh: Option<&'a DeTable<'a>>,
}

/// A host whose name is known and whose table is still to be read.
pub(super) struct Draft<'a> {
    pub(super) name: HostName,
    /// Where its key stands.
    pub(super) span: Span,
    table: Table<'a>,
    /// Which of the hosts of its table it is, and how many there are.
    place: (usize, usize),
    /// Groups that the host itself names.
    pub(super) groups: Vec<Text<'a>>,
}

/// The hosts by name, ranges expanded; keys and names are checked.
pub(super) fn drafts<'a>(hosts: &Item<'a>, problems: &'a Problems) -> Vec<Draft<'a>> {
    let mut drafts: Vec<Draft<'a>> = Vec::new();
    let mut places: HashMap<HostName, Span> = HashMap::new();
    for (key, item) in hosts.members() {
        let Some(fields) = item.as_table() else {
            item.expected("a table");
            continue;
        };
        let table = Table::new(fields, format!("`[host.{}]`", quoted(key.text)), key.span.clone(), problems);
        table.only(&KEYS);
        check_kind(&table, key.text);
        let groups = table.texts("groups");
        let names = names(&key, problems);
        let of = names.len();
        for (nth, name) in names.into_iter().enumerate() {
            if let Some(first) = places.get(&name) {
                let message = format!("host `{name}` is defined twice");
                problems.clash(key.span.clone(), message, None, (first.clone(), "the first definition"));
                continue;
            }
            places.insert(name.clone(), key.span.clone());
            drafts.push(Draft {
                name,
                span: key.span.clone(),
                table: table.clone(),
                place: (nth, of),
                groups: groups.clone(),
            });
        }
    }
    drafts
}

/// A key as it stands in a header.
fn quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if bare { key.to_owned() } else { format!("\"{key}\"") }
}

fn names(key: &Text<'_>, problems: &Problems) -> Vec<HostName> {
    let texts = match range::expand(key.text) {
        Ok(texts) => texts,
        Err(fault) => {
            problems.add_with(key.span.clone(), fault.to_string(), fault.help());
            return Vec::new();
        }
    };
    let mut names = Vec::new();
    for text in texts {
        if text == ALL {
            let help = Some("`all` stands for every host in selections".to_owned());
            problems.add_with(key.span.clone(), "no host can be named `all`", help);
            continue;
        }
        match text.parse::<HostName>() {
            Ok(name) => names.push(name),
            Err(fault) => problems.add(key.span.clone(), fault.to_string()),
        }
    }
    names
}

/// A host is a container or a machine that is there already: one of the two.
fn check_kind(table: &Table<'_>, name: &str) {
    match (table.item("container"), table.item("ssh")) {
        (Some(container), Some(ssh)) => {
            let message = format!("host `{name}` has both `container` and `ssh`");
            let help =
                Some("a container is always reached by SSH; `ssh` is for machines that are there already".into());
            table.problems.clash(ssh.key, message, help, (container.key, "the container"));
        }
        (None, None) => {
            let message = format!("host `{name}` has neither `container` nor `ssh`");
            let help = "`container = true` is a container that we start, `ssh = true` a machine that is there already";
            table.problems.add_with(table.span.clone(), message, Some(help.to_owned()));
        }
        _ => {}
    }
}

/// Looks at the defaults by themselves, so that their problems are told even when no host uses them.
pub(super) fn check_defaults<'a>(table: &Table<'a>, lab: &str, base: &Path) -> Defaults<'a> {
    table.only(&["container", "ssh"]);
    let fill = Placeholders { host: "host", lab };
    let section = |key: &str| {
        let item = table.item(key)?;
        let fields = item.as_table();
        if fields.is_none() {
            item.expected("a table");
        }
        fields.map(|fields| {
            Table::new(fields, format!("`[defaults.{key}]`"), item.key, table.problems).over(Some(fields))
        })
    };
    if let Some(section) = section("container") {
        container::check_keys(&section);
        address::check_defaults(&section);
        container::read(&section, fill, base);
    }
    if let Some(section) = section("ssh") {
        ssh::check_keys(&section);
        ssh::read(&section, fill, base);
    }
    let fields = |key: &str| table.item(key).and_then(|item| item.as_table());
    Defaults { container: fields("container"), ssh: fields("ssh") }
}

/// Everything that the hosts are read with.
pub(super) struct Reader<'r, 'a> {
    pub(super) defaults: Defaults<'a>,
    /// The lab's name; any text when it has none, which is reported elsewhere.
    pub(super) lab: &'r str,
    /// The lab itself; none when it is wrong, which is reported elsewhere.
    pub(super) whole: Option<&'r Lab>,
    pub(super) base: &'r Path,
    pub(super) problems: &'a Problems,
}

impl<'a> Reader<'_, 'a> {
    /// How every host is reached, in order.
    pub(super) fn accesses(&self, drafts: &[Draft<'a>]) -> IndexMap<HostName, Access> {
        let names: Vec<HostName> = drafts.iter().map(|draft| draft.name.clone()).collect();
        let mut containers: IndexMap<HostName, Container> = IndexMap::new();
        let mut machines: IndexMap<String, ssh::Draft<'a>> = IndexMap::new();
        let mut addresses: HashMap<HostName, Span> = HashMap::new();
        for draft in drafts {
            let fill = Placeholders { host: draft.name.as_str(), lab: self.lab };
            if let Some(table) = self.section(draft, "container", self.defaults.container) {
                container::check_keys(&table);
                let mut container = container::read(&table, fill, self.base);
                if let Some((address, span)) = address::read(&table, draft.place.0, draft.place.1) {
                    container.address = Some(address);
                    addresses.insert(draft.name.clone(), span);
                }
                check_aliases(&table, &draft.name, &container, &names);
                containers.insert(draft.name.clone(), container);
            } else if let Some(table) = self.section(draft, "ssh", self.defaults.ssh) {
                ssh::check_keys(&table);
                machines.insert(draft.name.to_string(), ssh::read(&table, fill, self.base));
            }
        }
        self.check_ports(drafts, &containers);
        if let Some(lab) = self.whole {
            address::check(lab, &containers, &addresses, self.problems);
        }
        let chains = Chains { drafts: &machines, hosts: &names, problems: self.problems };
        let access = |name: &HostName| {
            if let Some(container) = containers.get(name) {
                return Some(Access::Container(Box::new(container.clone())));
            }
            let machine = machines.get(name.as_str())?;
            let jump = chains.chain(name.as_str());
            Some(Access::Ssh(Box::new(super::model::SshAccess { jump, ..machine.access.clone() })))
        };
        names.iter().filter_map(|name| Some((name.clone(), access(name)?))).collect()
    }

    /// `container` or `ssh` of a host: a table, or `true` for the defaults alone.
    fn section(&self, draft: &Draft<'a>, key: &str, defaults: Option<&'a DeTable<'a>>) -> Option<Table<'a>> {
        let item = draft.table.item(key)?;
        let title = format!("`{key}` of {}", draft.table.title);
        let table = match (item.as_table(), item.as_flag()) {
            (Some(fields), _) => Table::new(fields, title, item.key, self.problems),
            (None, Some(true)) => Table::empty(title, item.key, self.problems),
            _ => {
                item.expected("a table or `true`");
                return None;
            }
        };
        Some(table.over(defaults))
    }

    /// Two containers cannot publish one port of one address.
    fn check_ports(&self, drafts: &[Draft<'a>], containers: &IndexMap<HostName, Container>) {
        let mut published: HashMap<u16, Vec<(PortMapping, &HostName, Span)>> = HashMap::new();
        for draft in drafts {
            let Some(container) = containers.get(&draft.name) else { continue };
            for (mapping, span) in self.published(draft, container) {
                let Some(number) = mapping.host else { continue };
                let known = published.entry(number).or_default();
                if let Some((_, owner, first)) = known.iter().find(|(other, ..)| port::clash(&mapping, other)) {
                    let message = if *owner == &draft.name {
                        format!("`{owner}` publishes port {number} twice")
                    } else {
                        format!("port {number} is published twice: by `{owner}` and by `{}`", draft.name)
                    };
                    // One text for many hosts: a range, or the defaults.
                    let help = (*first == span)
                        .then(|| "a port without a number of its own, such as `80`, gets any free one".to_owned());
                    self.problems.clash(span.clone(), message, help, (first.clone(), "the first one"));
                }
                known.push((mapping, &draft.name, span));
            }
        }
    }

    /// The ports that a container publishes, with their places.
    fn published(&self, draft: &Draft<'a>, container: &Container) -> Vec<(PortMapping, Span)> {
        let Some(table) = self.section(draft, "container", self.defaults.container) else { return Vec::new() };
        let items = table.item("ports").map(|item| item.as_list().unwrap_or_else(|| vec![item])).unwrap_or_default();
        let ports = items.iter().filter_map(|item| Some((container::read_port(&table, item)?, item.span.clone())));
        let ssh = container.ssh_port.zip(table.item("ssh_port")).map(|(number, item)| {
            (PortMapping { address: LOOPBACK, host: Some(number), container: 22, udp: false }, item.span)
        });
        ports.chain(ssh).collect()
    }
}

fn check_aliases(table: &Table<'_>, host: &HostName, container: &Container, names: &[HostName]) {
    for alias in &container.aliases {
        if names.iter().any(|name| name != host && name.as_str() == alias) {
            let span = table.item("aliases").map_or_else(|| table.span.clone(), |item| item.span);
            table.problems.add(span, format!("alias `{alias}` of host `{host}` is the name of another host"));
        }
    }
}

/// The hosts with their groups and variables: the lab's, then the groups' in the order of the file, then their own.
pub(super) fn finish(
    drafts: &[Draft<'_>],
    mut accesses: IndexMap<HostName, Access>,
    lab: &Lab,
    groups: &IndexMap<GroupName, Group>,
    source: impl Fn(&Span) -> Source,
) -> IndexMap<HostName, Host> {
    let members: Vec<(&Group, HashSet<&HostName>)> =
        groups.values().map(|group| (group, group.hosts.iter().collect())).collect();
    let mut hosts = IndexMap::new();
    for draft in drafts {
        let Some(access) = accesses.swap_remove(&draft.name) else { continue };
        let member_of = || members.iter().filter(|(_, hosts)| hosts.contains(&draft.name)).map(|(group, _)| group);
        let mut vars: Map<String, Value> = lab.vars.0.clone();
        for group in member_of() {
            vars.extend(group.vars.0.clone());
        }
        vars.extend(draft.table.json("vars"));
        let host = Host {
            name: draft.name.clone(),
            groups: member_of().map(|group| group.name.clone()).collect(),
            vars: Masked(vars),
            access,
            source: source(&draft.span),
        };
        hosts.insert(draft.name.clone(), host);
    }
    hosts
}

/// Groups that a host names must exist: a slip would leave the host out silently.
pub(super) fn check_groups(drafts: &[Draft<'_>], groups: &[GroupName], problems: &Problems) {
    for text in drafts.iter().flat_map(|draft| &draft.groups) {
        if !groups.iter().any(|group| group.as_str() == text.text) {
            let help = did_you_mean(text.text, "groups", groups.iter().map(GroupName::as_str))
                .unwrap_or_else(|| format!("define it: `[group.{}]`", quoted(text.text)));
            problems.add_with(text.span.clone(), format!("no group is named `{}`", text.text), Some(help));
        }
    }
}
