//! Who has which address on a lab's network.
//!
//! All addresses are decided in one place, before any container is made. What a container holds, running or not, the engine
//! knows; a host without container asks for addresses in an order of its own ([`Layout::asked_by`]), and hosts ask by turns,
//! short names first. So a host whose container is lost gets the address back that it had, whichever others are
//! lost with it and in whichever order they are made anew: see `docs/decisions/0012-addresses.md` for when that is not so.

use std::{collections::BTreeMap, net::Ipv4Addr};

use bollard::models::{ContainerCreateBody, EndpointIpamConfig, EndpointSettings};

use super::{names, payload::Subject, reader::Listed, subnet::Layout};
use crate::{
    control::inventory::{Access, Inventory},
    plan::{HostName, LabName},
};

/// Addresses of a lab's hosts.
pub(super) type Addresses = BTreeMap<HostName, Ipv4Addr>;

/// What is known of a lab's network before addresses are decided.
#[derive(Debug, Default)]
pub(super) struct Roll {
    /// The inventory's hosts on it, each with the address that the inventory gives it.
    hosts: BTreeMap<HostName, Option<Ipv4Addr>>,
    /// What the containers of these hosts hold, running or not.
    held: Addresses,
    /// What other containers hold, and their names.
    others: BTreeMap<Ipv4Addr, String>,
}

/// An address that a host cannot have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Misfit {
    /// None is free.
    Full,
    /// It is not one of the network's.
    Outside(Ipv4Addr),
    /// A container holds it.
    Held(Ipv4Addr, String),
}

impl Roll {
    /// What an inventory says about a lab's network, and what the engine's containers hold on it.
    pub(super) fn new(inventory: &Inventory, listed: &[Listed]) -> Self {
        let lab = &inventory.lab.name;
        let mut roll = Self { hosts: given(inventory), ..Self::default() };
        let network = names::network(lab);
        let mut aside = Addresses::new();
        for item in listed {
            let attached = item.network_settings.networks.get(&network);
            let Some(address) = attached.and_then(|attached| attached.address()?.parse().ok()) else { continue };
            let name = item.names.first().map_or("", |name| name.trim_start_matches('/'));
            match owner(lab, item).filter(|host| roll.hosts.contains_key(host)) {
                Some(host) if name == names::container(lab, &host) => drop(roll.held.insert(host, address)),
                // An ended run left it: the host's container, as long as that has no successor.
                Some(host) if name == names::replaced(lab, &host) => drop(aside.insert(host, address)),
                _ => drop(roll.others.insert(address, name.to_owned())),
            }
        }
        for (host, address) in aside {
            if *roll.held.entry(host.clone()).or_insert(address) != address {
                roll.others.insert(address, names::replaced(lab, &host));
            }
        }
        roll
    }

    /// So many hosts are on the network.
    pub(super) fn len(&self) -> usize {
        self.hosts.len()
    }

    /// What a host's container holds.
    pub(super) fn held(&self, host: &HostName) -> Option<Ipv4Addr> {
        self.held.get(host).copied()
    }

    /// The address of every host for which there is one: the one that the inventory gives it, else the one that its
    /// container holds, else the first that it asks for and that nobody else has or is given.
    pub(super) fn decide(&self, layout: &Layout) -> Addresses {
        let mut decided = Addresses::new();
        for (host, given) in &self.hosts {
            // What a container held on a network that is gone means nothing on this one.
            let held = self.held(host).filter(|address| layout.takes(*address));
            if let Some(address) = given.or(held) {
                decided.insert(host.clone(), address);
            }
        }
        let mut taken: Vec<Ipv4Addr> =
            decided.values().chain(self.held.values()).chain(self.others.keys()).copied().collect();
        taken.sort_unstable();
        let mut chosen = std::collections::BTreeSet::new();
        let mut asking: Vec<&HostName> = self.hosts.keys().filter(|host| !decided.contains_key(*host)).collect();
        // Shorter names first: `asd-10` comes after `asd-9`, so that a range that grows takes nothing from who is there.
        asking.sort_by_key(|host| (host.as_str().len(), *host));
        for host in asking {
            let is_free = |address: &Ipv4Addr| taken.binary_search(address).is_err() && !chosen.contains(address);
            if let Some(address) = layout.asked_by(host).find(is_free) {
                chosen.insert(address);
                decided.insert(host.clone(), address);
            }
        }
        decided
    }

    /// Why a host cannot have what was decided for it. `moves` tells whether a host's container is about to be made anew, so
    /// that what it holds gets free.
    pub(super) fn misfit(
        &self,
        host: &HostName,
        decided: &Addresses,
        layout: &Layout,
        lab: &LabName,
        moves: impl Fn(&HostName) -> bool,
    ) -> Option<Misfit> {
        let Some(&address) = decided.get(host) else { return Some(Misfit::Full) };
        if !layout.takes(address) {
            return Some(Misfit::Outside(address));
        }
        if let Some(name) = self.others.get(&address) {
            return Some(Misfit::Held(address, name.clone()));
        }
        if self.held(host) == Some(address) {
            return None;
        }
        let rival = self.hosts.keys().filter(|other| *other != host).find(|other| {
            let holds = self.held(other) == Some(address);
            decided.get(*other) == Some(&address) || holds && !moves(other)
        });
        rival.map(|other| Misfit::Held(address, names::container(lab, other)))
    }
}

/// Hosts of an inventory on the lab's network, with the addresses that it gives them, also by `container.api`.
fn given(inventory: &Inventory) -> BTreeMap<HostName, Option<Ipv4Addr>> {
    let lab = &inventory.lab.name;
    let containers = inventory.hosts.values().filter_map(|host| match &host.access {
        Access::Container(container) => Some((&host.name, container)),
        Access::Ssh(_) => None,
    });
    containers
        .filter_map(|(host, container)| {
            let subject = Subject { lab, host, container, apparmor: false };
            // One whose settings are wrong is told when its turn comes.
            let body = subject.payload().ok()?;
            Some((host.clone(), asked(lab_endpoint(&subject, &body)?)))
        })
        .collect()
}

/// The place of a container on the lab's network; none when it is on another, also by `container.api`.
pub(super) fn lab_endpoint<'b>(subject: &Subject<'_>, body: &'b ContainerCreateBody) -> Option<&'b EndpointSettings> {
    let mode = body.host_config.as_ref()?.network_mode.as_ref()?;
    let is_on_labs = subject.uses_lab_network() && *mode == names::network(subject.lab);
    endpoint(subject, body).filter(|_| is_on_labs)
}

/// The place of a container on the network that the inventory names.
pub(super) fn endpoint<'b>(subject: &Subject<'_>, body: &'b ContainerCreateBody) -> Option<&'b EndpointSettings> {
    body.networking_config.as_ref()?.endpoints_config.as_ref()?.get(&subject.network())
}

/// The address that a place on a network asks for.
pub(super) fn asked(endpoint: &EndpointSettings) -> Option<Ipv4Addr> {
    endpoint.ipam_config.as_ref()?.ipv4_address.as_ref()?.parse().ok()
}

/// Asks for an address on a network, unless the payload asks for one already.
pub(super) fn ask(body: &mut ContainerCreateBody, network: &str, address: Ipv4Addr) {
    let endpoints = body.networking_config.as_mut().and_then(|config| config.endpoints_config.as_mut());
    let Some(endpoint) = endpoints.and_then(|endpoints| endpoints.get_mut(network)) else { return };
    let config = endpoint.ipam_config.get_or_insert_with(EndpointIpamConfig::default);
    config.ipv4_address.get_or_insert_with(|| address.to_string());
}

fn owner(lab: &LabName, item: &Listed) -> Option<HostName> {
    let is_labs = item.labels.get(names::LAB).is_some_and(|found| found == lab.as_str());
    item.labels.get(names::HOST).filter(|_| is_labs)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::{prelude::*, sample::subsequence};

    use super::*;

    fn host(name: &str) -> HostName {
        name.parse().unwrap()
    }

    fn roll(hosts: &[HostName]) -> Roll {
        Roll { hosts: hosts.iter().map(|host| (host.clone(), None)).collect(), ..Roll::default() }
    }

    fn layout(subnet: &str) -> Layout {
        Layout::of(subnet.parse().unwrap())
    }

    /// Names of some hosts; few addresses, so that they often ask for the same one.
    fn names_and_layout() -> impl Strategy<Value = (Vec<HostName>, Layout)> {
        let names = prop::collection::btree_set("[a-c][0-9]{0,2}", 1..13);
        let subnet = prop::sample::select(vec!["172.30.5.0/28", "172.30.5.0/27", "10.5.16.0/20"]);
        (names, subnet).prop_map(|(names, subnet)| (names.iter().map(|name| host(name)).collect(), layout(subnet)))
    }

    proptest! {
        // What fails is kept nowhere: it is found again as soon as it is run.
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn each_host_gets_an_address_of_its_own((names, layout) in names_and_layout()) {
            let decided = roll(&names).decide(&layout);
            prop_assert_eq!(decided.len(), names.len());
            let mut all: Vec<_> = decided.values().collect();
            all.sort();
            all.dedup();
            prop_assert_eq!(all.len(), names.len());
            prop_assert!(decided.values().all(|address| layout.takes(*address)));
        }

        #[test]
        fn whoever_is_lost_gets_the_same_address_back_in_any_order(
            ((names, layout), lost, order) in names_and_layout().prop_flat_map(|(names, layout)| {
                let count = names.len();
                let lost = subsequence(names.clone(), 0..=count);
                let order = Just(()).prop_perturb(|(), mut random| random.random::<u64>());
                (Just((names, layout)), lost, order)
            })
        ) {
            let mut roll = roll(&names);
            let all = roll.decide(&layout);
            roll.held = all.clone();
            for host in &lost {
                roll.held.remove(host);
            }
            // Made anew one after the other, in an order that has nothing to do with their names.
            let mut lost = lost;
            lost.sort_by_key(|host| blake3::hash(format!("{order}{host}").as_bytes()).to_hex());
            for host in lost {
                let address = roll.decide(&layout)[&host];
                prop_assert_eq!(address, all[&host]);
                roll.held.insert(host, address);
            }
        }

        #[test]
        fn another_host_moves_nobody_and_for_ever_if_it_asks_for_a_free_address(
            (names, layout) in names_and_layout(), more in "[d-f][0-9]{0,2}"
        ) {
            let mut roll = roll(&names);
            let before = roll.decide(&layout);
            roll.held = before.clone();
            roll.hosts.insert(host(&more), None);
            let after = roll.decide(&layout);
            prop_assert!(before.iter().all(|(host, address)| after[host] == *address), "while containers are there");
            let wish = layout.asked_by(&host(&more)).next().unwrap();
            if before.values().all(|address| *address != wish) {
                roll.held.clear();
                prop_assert_eq!(roll.decide(&layout), after, "also when all are lost");
            }
        }

        #[test]
        fn a_range_that_grows_moves_nobody_for_ever(count in 1_usize..28, name in "[a-z]{1,6}-") {
            let layout = layout("172.30.5.0/27");
            let range = |count: usize| (1..=count).map(|number| host(&format!("{name}{number}"))).collect::<Vec<_>>();
            let (before, after) = (roll(&range(count)).decide(&layout), roll(&range(count + 1)).decide(&layout));
            prop_assert!(before.iter().all(|(host, address)| after[host] == *address));
        }

        #[test]
        fn a_host_that_goes_moves_nobody_whose_first_choice_it_did_not_have(
            (names, layout) in names_and_layout(), at in any::<prop::sample::Index>()
        ) {
            let mut roll = roll(&names);
            let before = roll.decide(&layout);
            let gone = at.get(&names).clone();
            let is_wanted = names.iter().any(|other| {
                *other != gone && layout.asked_by(other).take_while(|address| *address != before[other]).any(|address| address == before[&gone])
            });
            roll.hosts.remove(&gone);
            if !is_wanted {
                let after = roll.decide(&layout);
                prop_assert!(after.iter().all(|(host, address)| before[host] == *address));
            }
        }
    }

    #[test]
    fn the_inventory_goes_first_then_what_a_container_holds() {
        let layout = layout("172.30.5.0/28");
        let mut roll = roll(&["a", "b", "c"].map(host));
        let first = roll.decide(&layout)[&host("a")];
        // Somebody else has what `a` asks for first, the inventory gives `b` the next one, and `c` sits on another.
        roll.others.insert(first, "stranger".to_owned());
        let next = roll.decide(&layout)[&host("a")];
        roll.hosts.insert(host("b"), Some(next));
        roll.held.insert(host("c"), Ipv4Addr::new(172, 30, 5, 13));
        let decided = roll.decide(&layout);
        assert_eq!((decided[&host("b")], decided[&host("c")]), (next, Ipv4Addr::new(172, 30, 5, 13)));
        assert!(![first, next].contains(&decided[&host("a")]));
    }

    #[test]
    fn an_address_that_cannot_be_had_is_told_with_who_has_it() {
        let layout = layout("172.30.5.0/30");
        let lab = "lab".parse().unwrap();
        let mut roll = roll(&["a", "b"].map(host));
        let only = Ipv4Addr::new(172, 30, 5, 2);
        let misfit = |roll: &Roll, of: &str, moves: bool| {
            roll.misfit(&host(of), &roll.decide(&layout), &layout, &lab, |_| moves)
        };
        assert_eq!((misfit(&roll, "a", false), misfit(&roll, "b", false)), (None, Some(Misfit::Full)));
        roll.hosts.insert(host("a"), Some(only));
        roll.hosts.insert(host("b"), Some(Ipv4Addr::new(172, 30, 5, 9)));
        assert_eq!(misfit(&roll, "b", false), Some(Misfit::Outside(Ipv4Addr::new(172, 30, 5, 9))));
        roll.held.insert(host("b"), only);
        assert_eq!(misfit(&roll, "a", false), Some(Misfit::Held(only, "lab-b".to_owned())));
        assert_eq!(misfit(&roll, "a", true), None, "it moves away in the same run");
        roll.hosts.insert(host("b"), None);
        assert_eq!(misfit(&roll, "b", false), None, "what it holds it may keep");
        assert_eq!(misfit(&roll, "a", false), Some(Misfit::Held(only, "lab-b".to_owned())));
        roll.others.insert(only, "stranger".to_owned());
        assert_eq!(misfit(&roll, "a", true), Some(Misfit::Held(only, "stranger".to_owned())));
    }

    #[test]
    fn the_roll_is_read_from_inventory_and_engine() {
        let text = "[lab]\nname = \"lab\"\nsubnet = \"172.30.5.0/24\"\n[host.\"a-[1-3]\"]\ncontainer = { address = \"172.30.5.[11-13]\" }\n\
                    [host.b]\ncontainer = true\n[host.c]\ncontainer = true\n[host.other]\ncontainer = { network = \"other\" }\n\
                    [host.api.container.api.NetworkingConfig.EndpointsConfig.lab.IPAMConfig]\nIPv4Address = \"172.30.5.77\"\n\
                    [host.machine]\nssh = true\n";
        let inventory = Inventory::parse(text, Path::new("/lab.toml")).unwrap();
        let item = |name: &str, host: &str, running: &str, asked: &str| {
            serde_json::from_value(serde_json::json!({
                "Id": name, "Names": [format!("/{name}")],
                "Labels": {"ovs-cuisine.lab": "lab", "ovs-cuisine.host": host},
                "NetworkSettings": {"Networks": {"lab": {"IPAddress": running, "IPAMConfig": {"IPv4Address": asked}}}},
            }))
            .unwrap()
        };
        let listed: Vec<Listed> = vec![
            item("lab-a-1", "a-1", "172.30.5.11", "172.30.5.11"),
            item("lab-b", "b", "", "172.30.5.20"),
            item("lab-b.replaced", "b", "", "172.30.5.21"),
            item("lab-c.replaced", "c", "", "172.30.5.22"),
            item("lab-gone", "gone", "", "172.30.5.30"),
            item("stranger", "", "172.30.5.200", ""),
        ];
        let roll = Roll::new(&inventory, &listed);
        let given: Vec<_> =
            roll.hosts.iter().map(|(host, given)| (host.as_str(), given.map(|at| at.octets()[3]))).collect();
        assert_eq!(
            given,
            [("a-1", Some(11)), ("a-2", Some(12)), ("a-3", Some(13)), ("api", Some(77)), ("b", None), ("c", None)]
        );
        let held: Vec<_> = roll.held.iter().map(|(host, at)| (host.as_str(), at.octets()[3])).collect();
        assert_eq!(held, [("a-1", 11), ("b", 20), ("c", 22)]);
        let others: Vec<_> = roll.others.values().map(String::as_str).collect();
        assert_eq!(others, ["lab-b.replaced", "lab-gone", "stranger"]);
    }
}
