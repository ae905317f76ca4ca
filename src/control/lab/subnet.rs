//! Which subnet a lab's network gets when the inventory does not say, and how a subnet is divided.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::reader::IpamView;
use crate::{
    control::inventory::Subnet,
    plan::{HostName, LabName},
};

/// Private blocks (RFC 1918), in the order in which subnets are taken from them. The first is large, so that two labs
/// seldom want the same subnet, and Docker does not take networks of its own from it.
const BLOCKS: [Ipv4Net; 3] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// What a lab gets: 4096 addresses, so that names of hosts seldom ask for the same one.
const USUAL: u8 = 20;
/// What the largest lab gets.
const LARGEST: u8 = 16;

/// A subnet of fewer addresses is not divided: there are too few of them.
const DIVIDED: u8 = 28;

/// So many addresses of a host are spread over the subnet; those after them follow the first one.
const SPREAD: u64 = 16;

/// The subnets that a lab can have, best first: always the same ones for the same name and about the same size.
pub(super) fn candidates(lab: &LabName, containers: usize) -> impl Iterator<Item = Subnet> {
    // Half of what is divided off for hosts stays free.
    let fits = |length: &u8| (3_usize << (30 - length)) >= containers.saturating_mul(2);
    let length = (LARGEST..=USUAL).rev().find(fits).unwrap_or(LARGEST);
    let hash = hash(lab.as_str(), "subnet");
    BLOCKS.into_iter().flat_map(move |block| {
        let count = 1_u64 << (length - block.prefix_len());
        (0..count).filter_map(move |step| {
            let offset = u32::try_from((hash + step) % count).ok()? << (32 - length);
            let first = Ipv4Addr::from_bits(block.network().to_bits() + offset);
            Subnet::new(Ipv4Net::new(first, length).ok()?).ok()
        })
    })
}

/// A network's addresses: which are whose to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// All of them.
    pub(super) net: Ipv4Net,
    /// The engine's own, the gateway among them.
    kept: Vec<Ipv4Addr>,
    /// Those that the engine gives to containers that ask for none.
    pub(super) free_range: Option<Ipv4Net>,
}

impl Layout {
    /// How we divide a subnet: the first address is the gateway's, the last quarter is for containers that ask for none,
    /// so that nobody who is attached by hand gets the address of a host whose container is stopped or lost.
    pub(super) fn of(subnet: Subnet) -> Self {
        let net = subnet.net();
        let quarter = (net.prefix_len() <= DIVIDED).then(|| {
            let last = net.broadcast();
            Ipv4Net::new(last, net.prefix_len() + 2).ok().map(|quarter| quarter.trunc())
        });
        Self { net, kept: vec![subnet.gateway()], free_range: quarter.flatten() }
    }

    /// How the engine has a network; none when it has no IPv4 subnet.
    pub(super) fn read(ipam: &IpamView) -> Option<Self> {
        let (net, config) = ipam.config.iter().find_map(|config| {
            let net: Ipv4Net = config.subnet.parse().ok()?;
            Some((net.trunc(), config))
        })?;
        // Some versions write the gateway with the subnet's length.
        let address = |text: &str| text.split('/').next()?.parse::<Ipv4Addr>().ok();
        let others = config.auxiliary_addresses.values().map(String::as_str);
        let kept = std::iter::once(config.gateway.as_str()).chain(others).filter_map(address).collect();
        Some(Self { net, kept, free_range: config.ip_range.parse().ok() })
    }

    /// The gateway's address.
    pub(super) fn gateway(&self) -> Option<Ipv4Addr> {
        self.kept.first().copied()
    }

    /// Whether a container can have the address.
    pub(super) fn takes(&self, address: Ipv4Addr) -> bool {
        let ends = [self.net.network(), self.net.broadcast()];
        self.net.contains(&address) && !ends.contains(&address) && !self.kept.contains(&address)
    }

    /// Every address of a container, in the order in which a host of this name asks for them. What comes first differs from
    /// host to host; the order is the same in every version of this program, or hosts would lose their addresses.
    pub(super) fn asked_by(&self, host: &HostName) -> impl Iterator<Item = Ipv4Addr> {
        let size = 1_u64 << (32 - self.net.prefix_len());
        let base = self.net.network().to_bits();
        let start = self.free_range.map(|range| u64::from(range.network().to_bits().saturating_sub(base)));
        // A range at the very beginning leaves nothing before it: then hosts are spread over the whole.
        let own = start.filter(|start| *start > 0).unwrap_or(size).min(size);
        let name = host.as_str().to_owned();
        let first = hash(&name, "0") % own;
        (0..SPREAD)
            .map(move |number| hash(&name, &number.to_string()) % own)
            .chain((1..own).map(move |step| (first + step) % own))
            .chain(own..size)
            .filter_map(move |offset| Some(Ipv4Addr::from_bits(base + u32::try_from(offset).ok()?)))
            .filter(|address| self.takes(*address))
    }
}

fn hash(name: &str, what: &str) -> u64 {
    let digest = blake3::hash(format!("{name}\0{what}").as_bytes());
    // 56 bits: a sum with a number of steps stays within 64.
    digest.as_bytes()[..7].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn layout(subnet: &str) -> Layout {
        Layout::of(subnet.parse().unwrap())
    }

    #[test]
    fn a_lab_has_the_same_candidates_each_time_and_other_labs_have_others() {
        let of = |lab: &str, containers| candidates(&lab.parse().unwrap(), containers).collect::<Vec<_>>();
        let demo = of("demo", 11);
        assert_eq!(demo, of("demo", 12));
        // Pinned: another first choice would move every lab that is made anew.
        assert_eq!(demo[0].to_string(), "10.200.240.0/20");
        assert_eq!(demo.len(), 4096 + 256 + 16);
        assert_eq!(demo.iter().collect::<HashSet<_>>().len(), demo.len(), "none comes twice");
        let firsts: HashSet<_> = (0..50).map(|number| of(&format!("lab-{number}"), 3)[0]).collect();
        assert!(firsts.len() >= 48, "{firsts:?}");
    }

    #[test]
    fn a_large_lab_gets_a_large_subnet() {
        let length = |containers| candidates(&"x".parse().unwrap(), containers).next().unwrap().net().prefix_len();
        assert_eq!([0, 11, 1536, 1537, 3072, 20_000, 1_000_000].map(length), [20, 20, 20, 19, 19, 16, 16]);
    }

    #[test]
    fn the_last_quarter_is_for_who_asks_for_no_address() {
        let usual = layout("10.5.16.0/20");
        assert_eq!(usual.free_range.unwrap().to_string(), "10.5.28.0/22");
        assert_eq!(layout("10.5.16.0/28").free_range.unwrap().to_string(), "10.5.16.12/30");
        assert_eq!(layout("10.5.16.0/29").free_range, None);
        for number in 0..200 {
            let host: HostName = format!("host-{number}").parse().unwrap();
            let first = usual.asked_by(&host).next().unwrap();
            assert!(!usual.free_range.unwrap().contains(&first), "{first}");
        }
    }

    #[test]
    fn a_host_asks_for_every_address_that_a_container_can_have() {
        for (subnet, room) in
            [("172.30.5.0/24", 253), ("172.30.5.0/28", 13), ("172.30.5.0/29", 5), ("172.30.5.0/30", 1)]
        {
            let layout = layout(subnet);
            let asked: HashSet<_> = layout.asked_by(&"etcd".parse().unwrap()).collect();
            assert_eq!(asked.len(), room, "{subnet}");
            let kept = [layout.net.network(), layout.gateway().unwrap(), layout.net.broadcast()];
            assert!(!asked.iter().any(|address| kept.contains(address)));
        }
    }

    #[test]
    fn what_a_host_asks_for_never_changes() {
        let asked = |host: &str| layout("10.5.16.0/20").asked_by(&host.parse().unwrap()).next().unwrap().to_string();
        assert_eq!([asked("etcd"), asked("asd-1")], ["10.5.20.218", "10.5.25.215"]);
    }

    #[test]
    fn a_network_is_read_as_the_engine_has_it() {
        let ipam = serde_json::json!({"Config": [
            {"Subnet": "fd00::/64"},
            {"Subnet": "10.5.16.0/20", "IPRange": "10.5.28.0/22", "Gateway": "10.5.16.1/20"},
        ]});
        let read = Layout::read(&serde_json::from_value(ipam).unwrap()).unwrap();
        assert_eq!(read, layout("10.5.16.0/20"));
        assert_eq!(Layout::read(&IpamView::default()), None);
    }
}
