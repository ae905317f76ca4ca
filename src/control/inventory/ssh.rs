//! `ssh = {...}`: a machine that is there already, and the chain of jump hosts before it.

use std::path::Path;

use indexmap::IndexMap;

use super::{
    container::Placeholders,
    model::{HostKeyPolicy, Jump, SshAccess},
    nearest::did_you_mean,
    path::resolve,
    problem::Problems,
    table::{Table, Text},
};
use crate::plan::HostName;

const KEYS: [&str; 8] = ["address", "port", "user", "key", "sudo", "jump", "host_key", "timeout"];

/// Ends a chain that the defaults would begin.
const NONE: &str = "none";

const PORT: u16 = 22;
const USER: &str = "root";

/// Seconds for each phase of connecting.
const TIMEOUT: u64 = 10;

/// A longer chain is a slip, or an inventory made to exhaust us.
const MOST_HOPS: usize = 16;

/// Algorithms that a pinned host key may begin with (RFC 4253, 5656, 8709; OpenSSH for `sk-`).
const KEY_TYPES: [&str; 3] = ["ssh-", "ecdsa-sha2-", "sk-"];

/// An SSH host whose chain of jump hosts is still to be resolved.
pub(super) struct Draft<'a> {
    pub(super) access: SshAccess,
    jump: Vec<Text<'a>>,
    /// The chain comes from the defaults.
    inherited: bool,
    /// What a hop outside the inventory takes from the defaults.
    common: Jump,
}

/// Refuses unknown keys of a host's SSH table.
pub(super) fn check_keys(table: &Table<'_>) {
    table.only(&KEYS);
}

/// Reads an SSH host, defaults behind it. What is wrong is reported and left out.
pub(super) fn read<'a>(table: &Table<'a>, fill: Placeholders<'_>, base: &Path) -> Draft<'a> {
    let word = |key: &str| {
        let text = table.text(key)?;
        let filled = fill.fill(text.text);
        let fits = !filled.is_empty() && !filled.starts_with('-') && !filled.contains(char::is_whitespace);
        if !fits {
            table.problems.add(text.span, format!("`{}` is not a word without blanks", text.text));
        }
        fits.then_some(filled)
    };
    let key_file = |text: Text<'_>| resolve(&fill.fill(text.text), base);
    let default_text = |key: &str| table.default_item(key).and_then(|item| item.as_text());
    let access = SshAccess {
        address: word("address").unwrap_or_else(|| fill.host.to_owned()),
        port: table.whole("port", 1..=i64::from(u16::MAX)).unwrap_or(PORT),
        user: word("user").unwrap_or_else(|| USER.to_owned()),
        key: table.text("key").map(key_file),
        sudo: table.flag("sudo").unwrap_or_default(),
        jump: Vec::new(),
        host_key: table.text("host_key").and_then(|text| host_key(table, &text)).unwrap_or(HostKeyPolicy::Strict),
        timeout: table.whole("timeout", 1..=3600).unwrap_or(TIMEOUT),
    };
    let common = Jump {
        name: String::new(),
        address: String::new(),
        port: PORT,
        user: default_text("user").map_or_else(|| USER.to_owned(), |text| text.text.to_owned()),
        key: default_text("key").map(key_file),
        host_key: HostKeyPolicy::Strict,
    };
    Draft { access, jump: table.texts("jump"), inherited: table.own_item("jump").is_none(), common }
}

fn host_key(table: &Table<'_>, text: &Text<'_>) -> Option<HostKeyPolicy> {
    match text.text {
        "strict" => return Some(HostKeyPolicy::Strict),
        "accept-new" => return Some(HostKeyPolicy::AcceptNew),
        _ => {}
    }
    let mut words = text.text.split_whitespace();
    let (algorithm, data) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let base64 = data.len() >= 16 && data.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='));
    if base64 && KEY_TYPES.iter().any(|kind| algorithm.starts_with(kind)) {
        return Some(HostKeyPolicy::Pinned(format!("{algorithm} {data}")));
    }
    let help = "a policy is `strict`, `accept-new` or the host's public key: `ssh-ed25519 AAAA...`";
    let message = format!("`{}` is not a policy for host keys", text.text);
    table.problems.add_with(text.span.clone(), message, Some(help.to_owned()));
    None
}

/// `[user@]host[:port]`, IPv6 addresses in brackets; none when the text is not an address.
fn address(text: &str, common: &Jump) -> Option<Jump> {
    let (user, place) = match text.rsplit_once('@') {
        Some((user, place)) => (user, place),
        None => (common.user.as_str(), text),
    };
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':')?)),
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Some(PORT), |port| port.parse().ok().filter(|port| *port > 0))?;
    let plain = |word: &str| !word.is_empty() && !word.starts_with('-') && !word.contains(char::is_whitespace);
    if !plain(user) || !plain(host) {
        return None;
    }
    Some(Jump { name: text.to_owned(), address: host.to_owned(), port, user: user.to_owned(), ..common.clone() })
}

/// The chains of jump hosts of a whole inventory.
pub(super) struct Chains<'d, 'a> {
    pub(super) drafts: &'d IndexMap<String, Draft<'a>>,
    /// Names of all hosts, containers included.
    pub(super) hosts: &'d [HostName],
    pub(super) problems: &'d Problems,
}

/// Why there is no chain.
enum Broken {
    /// Reported already.
    Known,
    /// The names walked, the first one again at the end.
    Loop(Vec<String>),
    /// More than [`MOST_HOPS`].
    TooLong,
}

impl<'a> Chains<'_, 'a> {
    /// The hops to a host, outermost first; none when they are wrong, which is reported.
    pub(super) fn chain(&self, host: &str) -> Vec<Jump> {
        match self.walk(host, &mut Vec::new()) {
            Ok(hops) => return hops,
            Err(Broken::Known) => {}
            Err(Broken::Loop(names)) => self.report_loop(&names),
            Err(Broken::TooLong) => {
                if let Some(text) = self.first_hop(host) {
                    let message = format!("`{host}` stands behind more than {MOST_HOPS} jump hosts");
                    self.problems.add(text.span.clone(), message);
                }
            }
        }
        Vec::new()
    }

    fn first_hop(&self, host: &str) -> Option<&Text<'a>> {
        self.drafts.get(host).and_then(|draft| draft.jump.first())
    }

    /// Every host of a loop and before it finds the loop; it is told once, from the name that comes first.
    fn report_loop(&self, names: &[String]) {
        let ring = &names[..names.len() - 1];
        let start = ring.iter().enumerate().min_by_key(|(_, name)| *name).map_or(0, |(index, _)| index);
        let path: Vec<String> = ring[start..].iter().chain(&ring[..=start]).map(|name| format!("`{name}`")).collect();
        let Some(text) = self.first_hop(&ring[start]) else { return };
        let message = format!("jump hosts go in a circle: {}", path.join(" through "));
        self.problems.add_with(text.span.clone(), message, Some("`jump = \"none\"` ends a chain".to_owned()));
    }

    /// As OpenSSH has it: the first hop is reached by its own chain, every other one through the hop before it.
    /// `path` holds the hosts whose first hops were followed so far.
    fn walk(&self, host: &str, path: &mut Vec<String>) -> Result<Vec<Jump>, Broken> {
        let Some(draft) = self.drafts.get(host) else { return Ok(Vec::new()) };
        if matches!(draft.jump.as_slice(), [only] if only.text == NONE) {
            return Ok(Vec::new());
        }
        if let Some(start) = path.iter().position(|walked| walked == host) {
            return Err(Broken::Loop(path.iter().skip(start).cloned().chain([host.to_owned()]).collect()));
        }
        if path.len() > MOST_HOPS {
            return Err(Broken::TooLong);
        }
        path.push(host.to_owned());
        // A host of the default chain is itself reached by the part of the chain before it.
        let own_place = draft.inherited.then(|| draft.jump.iter().position(|hop| hop.text == host)).flatten();
        let mut hops: Vec<Jump> = Vec::new();
        for (index, text) in draft.jump.iter().take(own_place.unwrap_or(usize::MAX)).enumerate() {
            let hop = self.hop(text, draft).ok_or(Broken::Known)?;
            if index == 0 {
                hops = self.walk(text.text, path)?;
            }
            hops.push(hop);
        }
        let names: Vec<&str> = hops.iter().map(|hop| hop.name.as_str()).chain([host]).collect();
        for (end, name) in names.iter().enumerate() {
            if let Some(start) = names[..end].iter().position(|known| known == name) {
                return Err(Broken::Loop(names[start..=end].iter().map(|&name| name.to_owned()).collect()));
            }
        }
        if hops.len() > MOST_HOPS { Err(Broken::TooLong) } else { Ok(hops) }
    }

    /// A host of the inventory, or an address.
    fn hop(&self, text: &Text<'_>, draft: &Draft<'_>) -> Option<Jump> {
        if let Some(known) = self.drafts.get(text.text) {
            let SshAccess { address, port, user, key, host_key, .. } = known.access.clone();
            return Some(Jump { name: text.text.to_owned(), address, port, user, key, host_key });
        }
        let name = text.text;
        let (message, help) = if self.hosts.iter().any(|host| host.as_str() == name) {
            (format!("`{name}` is a container and no jump host"), "a jump host has `ssh`".to_owned())
        } else if name == NONE {
            ("`none` stands beside other jump hosts".to_owned(), "`jump = \"none\"` stands alone".to_owned())
        } else if name.contains(['@', ':']) {
            if let Some(hop) = address(name, &draft.common) {
                return Some(hop);
            }
            (format!("`{name}` is not an address"), "an address is written `user@host` or `user@host:22`".to_owned())
        } else {
            let near =
                did_you_mean(name, "hosts", self.hosts.iter().map(HostName::as_str)).filter(|help| help.ends_with('?'));
            let form = "a jump host outside the inventory is written `user@host` or `host:port`".to_owned();
            (format!("no host is named `{name}`"), near.unwrap_or(form))
        };
        self.problems.add_with(text.span.clone(), message, Some(help));
        None
    }
}
