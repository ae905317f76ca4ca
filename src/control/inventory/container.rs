//! `container = {...}`: a bare container with friendly keys, and Docker's own under `api`.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use serde_json::{Map, Value};

use super::{
    mask::Masked,
    model::{Container, Init, PortMapping, VolumeMount},
    mount, port, size,
    table::{Item, Table, Text},
};

const KEYS: [&str; 28] = [
    "image",
    "init",
    "fuse",
    "volumes",
    "ports",
    "environment",
    "devices",
    "cap_add",
    "cap_drop",
    "security_opt",
    "privileged",
    "network",
    "address",
    "aliases",
    "hostname",
    "restart",
    "memory",
    "cpus",
    "tmpfs",
    "ulimits",
    "sysctls",
    "dns",
    "extra_hosts",
    "labels",
    "command",
    "ssh_port",
    "user",
    "api",
];

fn init_named(name: &str) -> Option<Init> {
    match name {
        "runit" => Some(Init::Runit),
        "systemd" => Some(Init::Systemd),
        _ => None,
    }
}

/// The image when neither host nor defaults name one.
fn image_with(init: Init) -> &'static str {
    match init {
        Init::Runit => "ovs-cuisine/ssh:latest",
        Init::Systemd => "ovs-cuisine/ssh:systemd",
    }
}

/// Labels that begin so are ours.
const OUR_LABELS: &str = "ovs-cuisine.";

/// What stands for `{host}` and `{lab}`.
#[derive(Clone, Copy)]
pub(super) struct Placeholders<'a> {
    pub(super) host: &'a str,
    pub(super) lab: &'a str,
}

impl Placeholders<'_> {
    /// The text with both replaced; other braces stay.
    pub(super) fn fill(&self, text: &str) -> String {
        text.replace("{host}", self.host).replace("{lab}", self.lab)
    }

    fn fill_json(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.fill(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.fill_json(item)),
            Value::Object(members) => members.values_mut().for_each(|member| self.fill_json(member)),
            _ => {}
        }
    }
}

/// Refuses unknown keys of a container's table.
pub(super) fn check_keys(table: &Table<'_>) {
    table.only_or(&KEYS, |name| {
        let foreign = name.starts_with(|c: char| c.is_ascii_uppercase());
        foreign.then(|| "names of the Docker API go into the table `container.api`".to_owned())
    });
}

/// Reads a container, defaults behind it. What is wrong is reported and left out.
pub(super) fn read(table: &Table<'_>, fill: Placeholders<'_>, base: &Path) -> Container {
    let reader = Reader { table, fill, base };
    let init = reader.init();
    Container {
        image: reader.image(init),
        init,
        fuse: table.flag("fuse").unwrap_or_default(),
        volumes: reader.volumes(),
        ports: reader.ports(),
        environment: Masked(reader.scalars("environment", is_variable, "the name of a variable")),
        devices: reader.list("devices", is_device, "a device such as `/dev/sdb` or `/dev/sdb:/dev/xvdc:rwm`"),
        cap_add: reader.list("cap_add", is_capability, "a capability such as `SYS_ADMIN`"),
        cap_drop: reader.list("cap_drop", is_capability, "a capability such as `SYS_ADMIN`"),
        security_opt: reader.list("security_opt", is_word, "a security option such as `apparmor=unconfined`"),
        privileged: table.flag("privileged").unwrap_or_default(),
        network: reader.word("network"),
        // Each host has its own: see `address`.
        address: None,
        aliases: reader.list("aliases", is_dns_name, "a name on the network"),
        hostname: reader.checked("hostname", is_dns_name, "a host name"),
        restart: reader.checked("restart", is_restart, "one of `no`, `always`, `unless-stopped`, `on-failure[:n]`"),
        memory: reader.memory(),
        cpus: reader.cpus(),
        tmpfs: reader.tmpfs(),
        ulimits: reader.ulimits(),
        sysctls: reader.scalars("sysctls", is_word, "a kernel parameter"),
        dns: reader.dns(),
        extra_hosts: reader.extra_hosts(),
        labels: reader.labels(),
        command: table.item("command").map(|item| reader.filled(&item.texts())),
        ssh_port: table.whole("ssh_port", 1..=i64::from(u16::MAX)),
        user: reader.word("user").unwrap_or_else(|| "root".to_owned()),
        api: Masked(reader.api()),
    }
}

struct Reader<'r, 'a> {
    table: &'r Table<'a>,
    fill: Placeholders<'r>,
    base: &'r Path,
}

impl Reader<'_, '_> {
    fn wrong(&self, text: &Text<'_>, what: &str) {
        self.table.problems.add(text.span.clone(), format!("`{}` is not {what}", text.text));
    }

    fn filled(&self, texts: &[Text<'_>]) -> Vec<String> {
        texts.iter().map(|text| self.fill.fill(text.text)).collect()
    }

    fn init(&self) -> Init {
        let Some(text) = self.table.text("init") else { return Init::Runit };
        init_named(text.text).unwrap_or_else(|| {
            self.wrong(&text, "one of `runit` and `systemd`");
            Init::Runit
        })
    }

    /// The image that is given, or that of the init. An image of the defaults does not go with another init than theirs.
    fn image(&self, init: Init) -> String {
        let defaults = self.table.default_item("init").and_then(|item| init_named(item.as_text()?.text));
        let stands_apart = self.table.own_item("image").is_none() && init != defaults.unwrap_or(Init::Runit);
        self.word("image").filter(|_| !stands_apart).unwrap_or_else(|| image_with(init).to_owned())
    }

    /// A text without blanks.
    fn word(&self, key: &str) -> Option<String> {
        self.checked(key, is_word, "a word without blanks")
    }

    fn checked(&self, key: &str, fits: fn(&str) -> bool, what: &str) -> Option<String> {
        let text = self.table.text(key)?;
        let filled = self.fill.fill(text.text);
        if fits(&filled) {
            return Some(filled);
        }
        self.wrong(&text, what);
        None
    }

    fn list(&self, key: &str, fits: fn(&str) -> bool, what: &str) -> Vec<String> {
        let texts = self.table.texts(key);
        let (good, bad): (Vec<_>, Vec<_>) = texts.into_iter().partition(|text| fits(&self.fill.fill(text.text)));
        for text in &bad {
            self.wrong(text, what);
        }
        self.filled(&good)
    }

    /// A table of texts, numbers and truth values, all as text.
    fn scalars(&self, key: &str, fits: fn(&str) -> bool, what: &str) -> BTreeMap<String, String> {
        let member = |(name, item): (Text<'_>, Item<'_>)| {
            if !fits(name.text) {
                self.wrong(&name, what);
            }
            Some((name.text.to_owned(), self.fill.fill(&item.scalar()?)))
        };
        self.table.members(key).into_iter().filter_map(member).collect()
    }

    fn volumes(&self) -> Vec<VolumeMount> {
        let mut mounts: Vec<(VolumeMount, Text<'_>)> = Vec::new();
        for text in self.table.texts("volumes") {
            match mount::parse(&self.fill.fill(text.text), self.base) {
                Ok(mount) => {
                    if let Some((_, first)) = mounts.iter().find(|(known, _)| known.target == mount.target) {
                        let message = format!("two volumes are mounted at `{}`", mount.target);
                        let first = (first.span.clone(), "the first one");
                        self.table.problems.clash(text.span.clone(), message, None, first);
                    }
                    mounts.push((mount, text));
                }
                Err(fault) => {
                    let help = Some(fault.help().to_owned());
                    self.table.problems.add_with(text.span, format!("{fault}"), help);
                }
            }
        }
        mounts.into_iter().map(|(mount, _)| mount).collect()
    }

    fn ports(&self) -> Vec<PortMapping> {
        let items = self.table.item("ports").map(|item| item.as_list().unwrap_or_else(|| vec![item]));
        items.into_iter().flatten().filter_map(|item| read_port(self.table, &item)).collect()
    }

    fn memory(&self) -> Option<u64> {
        let item = self.table.item("memory")?;
        let text = item.scalar()?;
        let help = match size::parse(&text) {
            Some(bytes) if bytes >= size::LEAST_MEMORY => return Some(bytes),
            Some(_) => "the engine takes no limit below 6 MiB",
            None => "memory is written `512MiB`, `1.5g` or as a number of bytes",
        };
        let message = format!("`{text}` is not a memory limit");
        self.table.problems.add_with(item.span, message, Some(help.to_owned()));
        None
    }

    fn cpus(&self) -> Option<f64> {
        let item = self.table.item("cpus")?;
        let cpus = item.number()?;
        // The engine counts billionths and refuses less than a hundredth.
        if (0.01..=4096.0).contains(&cpus) {
            return Some(cpus);
        }
        self.table.problems.add(item.span, format!("`{cpus}` is not a number of CPUs from 0.01 to 4096"));
        None
    }

    /// `tmpfs = { "/run" = "size=64m" }`, or a list of paths.
    fn tmpfs(&self) -> BTreeMap<String, String> {
        let paths: Vec<(Text<'_>, String)> = match self.table.item("tmpfs") {
            Some(item) if item.as_table().is_none() => {
                item.texts().into_iter().map(|path| (path, String::new())).collect()
            }
            _ => {
                let members = self.table.members("tmpfs").into_iter();
                members.filter_map(|(path, item)| Some((path, item.text()?.text.to_owned()))).collect()
            }
        };
        let absolute = |(path, options): (Text<'_>, String)| {
            let fits = path.text.starts_with('/') && !path.text.contains(':');
            if !fits {
                self.wrong(&path, "an absolute path inside the container");
            }
            fits.then(|| (self.fill.fill(path.text), self.fill.fill(&options)))
        };
        paths.into_iter().filter_map(absolute).collect()
    }

    fn ulimits(&self) -> BTreeMap<String, String> {
        let mut limits = BTreeMap::new();
        for (name, item) in self.table.members("ulimits") {
            let Some(limit) = item.scalar() else { continue };
            let number = |text: &str| text == "-1" || text.parse::<u64>().is_ok();
            if limit.split(':').count() <= 2 && limit.split(':').all(number) {
                limits.insert(name.text.to_owned(), limit);
            } else {
                let help = "a limit is a number, or `soft:hard`; -1 is none".to_owned();
                self.table.problems.add_with(item.span, format!("`{limit}` is not a limit"), Some(help));
            }
        }
        limits
    }

    fn dns(&self) -> Vec<IpAddr> {
        let address = |text: &Text<'_>| text.text.parse().map_err(|_| self.wrong(text, "an IP address")).ok();
        self.table.texts("dns").iter().filter_map(address).collect()
    }

    fn extra_hosts(&self) -> BTreeMap<String, String> {
        let mut hosts = BTreeMap::new();
        for (name, item) in self.table.members("extra_hosts") {
            let Some(text) = item.text() else { continue };
            // The engine fills in the address of its own machine for this word.
            if text.text != "host-gateway" && text.text.parse::<IpAddr>().is_err() {
                self.wrong(&text, "an IP address or `host-gateway`");
            } else if !is_dns_name(name.text) {
                self.wrong(&name, "a host name");
            }
            hosts.insert(name.text.to_owned(), text.text.to_owned());
        }
        hosts
    }

    fn labels(&self) -> BTreeMap<String, String> {
        for (name, _) in self.table.members("labels") {
            if name.text.starts_with(OUR_LABELS) {
                let message = format!("label `{}` is one of ours", name.text);
                let help = format!("labels that begin with `{OUR_LABELS}` tell our containers from others");
                self.table.problems.add_with(name.span, message, Some(help));
            }
        }
        self.scalars("labels", |name| !name.is_empty(), "a label")
    }

    /// Docker's own create payload: the default's, with the host's merged into it.
    fn api(&self) -> Value {
        let mut payload = Value::Object(Map::new());
        for item in self.table.default_item("api").into_iter().chain(self.table.own_item("api")) {
            if item.as_table().is_none() {
                item.expected("a table");
            } else if let Some(layer) = item.json() {
                merge(&mut payload, layer);
            }
        }
        self.fill.fill_json(&mut payload);
        payload
    }
}

/// Tables are merged member by member; anything else replaces what was there.
fn merge(base: &mut Value, layer: Value) {
    match (base, layer) {
        (Value::Object(base), Value::Object(layer)) => {
            for (name, value) in layer {
                merge(base.entry(name).or_insert(Value::Null), value);
            }
        }
        (base, layer) => *base = layer,
    }
}

/// A published port: a text, or the number of a port inside.
pub(super) fn read_port(table: &Table<'_>, item: &Item<'_>) -> Option<PortMapping> {
    let text = item.scalar()?;
    let mapping = port::parse(&text);
    if mapping.is_none() {
        let message = format!("`{text}` is not a published port");
        table.problems.add_with(item.span.clone(), message, Some(port::FORMS.to_owned()));
    }
    mapping
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

fn is_capability(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

fn is_device(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let access = |text: &str| !text.is_empty() && text.chars().all(|c| "rwm".contains(c));
    match parts.as_slice() {
        [outside] => outside.starts_with('/'),
        [outside, inside] => outside.starts_with('/') && (inside.starts_with('/') || access(inside)),
        [outside, inside, mode] => outside.starts_with('/') && inside.starts_with('/') && access(mode),
        _ => false,
    }
}

fn is_dns_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn is_restart(text: &str) -> bool {
    matches!(text, "no" | "always" | "unless-stopped" | "on-failure")
        || text.strip_prefix("on-failure:").is_some_and(|tries| tries.parse::<u32>().is_ok())
}
