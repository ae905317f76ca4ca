//! The machine's own routes: where its packets go already.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::control::inventory::Subnet;

/// The kernel's list of IPv4 routes (proc(5), `fib_route_seq_show` in `net/ipv4/fib_trie.c`).
const LIST: &str = "/proc/net/route";

/// Flags of a route, `linux/route.h`.
const THROUGH_GATEWAY: u32 = 0x2;
const REJECT: u32 = 0x200;

/// A route to less than this is a way out and no network: VPN clients halve the default route.
const SHORTEST: u8 = 8;

/// A route of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// Where it leads.
    pub(super) block: Ipv4Net,
    /// Through which interface.
    pub(super) interface: String,
    /// Whether what it leads to lies behind a gateway, and not on the interface itself.
    pub(super) is_far: bool,
}

/// The routes to networks; none where the kernel lists none.
pub(super) fn routes() -> Vec<Route> {
    fs_err::read_to_string(LIST).map(|list| read(&list)).unwrap_or_default()
}

/// The route that somebody who names a subnet did not think of. One through a gateway that leads to more than the subnet is
/// none: the nearer way wins, as was wanted.
pub(super) fn in_the_way(subnet: Subnet, routes: &[Route]) -> Option<&Route> {
    let holds = |block: &Ipv4Net| *block != subnet.net() && block.contains(&subnet.net());
    routes.iter().find(|route| subnet.overlaps(route.block) && !(route.is_far && holds(&route.block)))
}

fn read(list: &str) -> Vec<Route> {
    list.lines().skip(1).filter_map(route).filter(|route| route.block.prefix_len() >= SHORTEST).collect()
}

fn route(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [interface, destination, _, flags, _, _, _, mask, ..] = fields[..] else { return None };
    // Bytes in the order of the network, written as one number of the machine's.
    let address = |text: &str| Some(Ipv4Addr::from(u32::from_str_radix(text, 16).ok()?.to_ne_bytes()));
    let flags = u32::from_str_radix(flags, 16).ok()?;
    let block = Ipv4Net::with_netmask(address(destination)?, address(mask)?).ok()?;
    let leads_somewhere = flags & REJECT == 0;
    leads_somewhere.then(|| Route { block, interface: interface.to_owned(), is_far: flags & THROUGH_GATEWAY != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn routes_are_read_as_the_kernel_writes_them() {
        let list = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    tun0\t00000080\t010200C0\t0003\t0\t0\t0\t00000080\t0\t0\t0\n\
                    eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                    tun0\t0000000A\t010200C0\t0003\t0\t0\t0\t000000FF\t0\t0\t0\n\
                    *\t000010AC\t00000000\t0200\t0\t0\t0\t0000F0FF\t0\t0\t0\n\
                    odd line\n";
        let route = |block: &str, interface: &str, is_far| Route {
            block: block.parse().unwrap(),
            interface: interface.to_owned(),
            is_far,
        };
        assert_eq!(read(list), [route("192.0.2.0/24", "eth0", false), route("10.0.0.0/8", "tun0", true)]);
        assert!(read("").is_empty());
    }

    #[test]
    fn a_far_network_may_be_cut_into_and_a_near_one_may_not() {
        let route = |block: &str, is_far| Route { block: block.parse().unwrap(), interface: "x".to_owned(), is_far };
        let routes = [route("192.0.2.0/24", false), route("10.0.0.0/8", true), route("172.30.5.0/24", true)];
        let found = |subnet: &str| {
            in_the_way(subnet.parse().unwrap(), &routes).map(|route| route.block.to_string()).unwrap_or_default()
        };
        assert_eq!(found("192.0.2.128/25"), "192.0.2.0/24", "a neighbour would be cut off");
        assert_eq!(found("10.9.0.0/24"), "", "the rest of the far network stays");
        assert_eq!(found("10.0.0.0/8"), "10.0.0.0/8");
        assert_eq!(found("172.30.4.0/23"), "172.30.5.0/24", "it would be gone whole");
        assert_eq!(found("198.18.5.0/24"), "");
    }

    #[test]
    fn this_machine_lists_what_it_has() {
        for route in routes() {
            assert!(!route.interface.is_empty() && route.block == route.block.trunc(), "{route:?}");
        }
    }
}
