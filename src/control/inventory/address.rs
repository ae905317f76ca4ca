//! `[lab] subnet`, and the addresses that hosts have in it or on another network.

use std::{collections::HashMap, net::Ipv4Addr};

use indexmap::IndexMap;

use super::{
    model::{Access, Container, Lab},
    problem::{Problems, Span},
    range::{self, RangeError},
    subnet::{Subnet, SubnetError},
    table::{Table, Text},
};
use crate::plan::HostName;

const KEY: &str = "address";

/// Networks of the engine on which it chooses itself, or that give a container no address.
const WITHOUT: [&str; 4] = ["bridge", "default", "host", "none"];

/// The lab's subnet as text; none when it is wrong, which is reported.
pub(super) fn subnet(table: &Table<'_>, text: &Text<'_>) -> Option<Subnet> {
    let wrong = |fault: SubnetError| {
        table.problems.add_with(text.span.clone(), fault.to_string(), Some(fault.help()));
    };
    text.text.parse().map_err(wrong).ok()
}

/// Refuses an address in the defaults: it would be every host's.
pub(super) fn check_defaults(table: &Table<'_>) {
    if let Some(item) = table.own_item(KEY) {
        let help = "give each host its own, or none: the address then follows from the host's name".to_owned();
        table.problems.add_with(item.key, "an address cannot be every host's", Some(help));
    }
}

/// A host's address, as text or as one of a range: the `nth` host of `of` that one table describes has its `nth`
/// address. None when there is none, or when it is wrong, which is reported.
pub(super) fn read(table: &Table<'_>, nth: usize, of: usize) -> Option<(Ipv4Addr, Span)> {
    let text = table.own_item(KEY)?.text()?;
    let problem = |message: String, help: String| table.problems.add_with(text.span.clone(), message, Some(help));
    let all = match range::expand(text.text) {
        Ok(all) => all,
        Err(fault) => {
            let form = "a range of addresses is written `172.30.5.[11-13]`".to_owned();
            let help = fault.help().filter(|_| matches!(fault, RangeError::Backwards(_))).unwrap_or(form);
            problem(fault.to_string(), help);
            return None;
        }
    };
    if all.len() != of {
        let addresses = if all.len() == 1 { "1 address".to_owned() } else { format!("{} addresses", all.len()) };
        let hosts = if of == 1 { "1 host".to_owned() } else { format!("{of} hosts") };
        let message = format!("`{}` is {addresses} for {hosts}", text.text);
        let example = all[0].parse().ok().and_then(|first| as_range(first, of)).map(|range| format!(": `{range}`"));
        problem(message, format!("write as many as there are hosts{}", example.unwrap_or_default()));
        return None;
    }
    let address = all[nth].parse::<Ipv4Addr>().ok();
    if address.is_none() {
        problem(format!("`{}` is not an IPv4 address", all[nth]), "an address is written `172.30.5.11`".to_owned());
    }
    Some((address?, text.span))
}

/// So many addresses from one on: `172.30.5.[11-13]`.
fn as_range(first: Ipv4Addr, count: usize) -> Option<String> {
    let [a, b, c, d] = first.octets();
    let last = usize::from(d) + count - 1;
    match count {
        1 => Some(first.to_string()),
        _ => (last < 255).then(|| format!("{a}.{b}.{c}.[{d}-{last}]")),
    }
}

/// Whether a container is on the lab's own network.
fn is_on_labs(container: &Container, lab: &Lab) -> bool {
    container.network.as_deref().is_none_or(|network| network == lab.name.as_str())
}

/// Looks at the addresses of all hosts: each can be had, and nobody else has it.
pub(super) fn check(
    lab: &Lab,
    containers: &IndexMap<HostName, Container>,
    places: &HashMap<HostName, Span>,
    problems: &Problems,
) {
    let mut taken: HashMap<(&str, Ipv4Addr), (&HostName, &Span)> = HashMap::new();
    for (host, container) in containers {
        let (Some(address), Some(span)) = (container.address, places.get(host)) else { continue };
        let network = if is_on_labs(container, lab) {
            lab.name.as_str()
        } else {
            container.network.as_deref().unwrap_or_default()
        };
        if let Some((message, help)) = misfit(lab, container, address) {
            problems.add_with(span.clone(), message, Some(help));
        } else if let Some((other, first)) = taken.insert((network, address), (host, span)) {
            let message = format!("address {address} is given twice: to `{other}` and to `{host}`");
            problems.clash(span.clone(), message, None, (first.clone(), "the first one"));
        }
    }
}

/// Why a container cannot have its address, and what to do.
fn misfit(lab: &Lab, container: &Container, address: Ipv4Addr) -> Option<(String, String)> {
    if !is_on_labs(container, lab) {
        let network = container.network.as_deref().unwrap_or_default();
        let has_none = WITHOUT.contains(&network) || network.starts_with("container:");
        return has_none.then(|| {
            let help = "leave `address` out, or put the container on a network of its own".to_owned();
            (format!("network `{network}` gives no container an address of its choice"), help)
        });
    }
    let Some(subnet) = lab.subnet else {
        let fitting =
            Subnet::with_room(address, 200).map_or_else(String::new, |subnet| format!(": `subnet = \"{subnet}\"`"));
        return Some((
            "an address needs a subnet, and the lab names none".to_owned(),
            format!("give `[lab]` the one that it lies in{fitting}"),
        ));
    };
    if subnet.takes(address) {
        return None;
    }
    let message = match subnet.net().contains(&address) {
        true if address == subnet.gateway() => format!("{address} is the gateway of subnet `{subnet}`"),
        true => format!("{address} is no host's address in subnet `{subnet}`"),
        false => format!("{address} is not in the lab's subnet `{subnet}`"),
    };
    let (first, last) = (subnet.gateway().to_bits() + 1, subnet.net().broadcast().to_bits() - 1);
    Some((message, format!("containers have {} to {}", Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(last))))
}

/// The lab's subnet has room for its containers.
pub(super) fn check_room(lab: &Lab, table: &Table<'_>, accesses: &IndexMap<HostName, Access>) {
    let (Some(subnet), Some(item)) = (lab.subnet, table.item("subnet")) else { return };
    let on_labs = |access: &&Access| matches!(access, Access::Container(container) if is_on_labs(container, lab));
    let count = accesses.values().filter(on_labs).count();
    if count > subnet.room() {
        let message =
            format!("subnet `{subnet}` has room for {}, and the lab has {count}", containers_of(subnet.room()));
        let larger = Subnet::with_room(subnet.net().network(), count);
        let help = larger.map(|larger| format!("`{larger}` has room for {}", larger.room()));
        table.problems.add_with(item.span, message, help);
    }
}

fn containers_of(count: usize) -> String {
    if count == 1 { "1 container".to_owned() } else { format!("{count} containers") }
}
