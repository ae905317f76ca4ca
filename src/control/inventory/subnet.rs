//! A subnet that a lab's network can have.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use ipnet::Ipv4Net;
use serde::Serialize;

/// The longest prefix: network, gateway and broadcast address, and one container.
const LONGEST: u8 = 30;
/// The shortest prefix: a whole private block.
const SHORTEST: u8 = 8;

/// Address blocks that mean something else everywhere (RFC 6890).
const SPECIAL: [(Ipv4Net, &str); 4] = [
    (Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8), "of this machine"),
    (Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8), "of this machine"),
    (Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16), "of one link"),
    (Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3), "of no single machine"),
];

/// An IPv4 subnet for a lab's network. Its first address is the gateway's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Subnet(Ipv4Net);

/// Why something is no subnet for a lab's network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// Not an address and a length.
    #[error("`{0}` is not a subnet")]
    NotOne(String),
    /// The address is one within the subnet.
    #[error("`{given}` is an address within `{meant}`")]
    Within {
        /// What was given.
        given: String,
        /// The subnet that it lies in.
        meant: Ipv4Net,
    },
    /// Longer than 30 bits, or shorter than 8.
    #[error("`{0}` is not between /8 and /30")]
    Size(Ipv4Net),
    /// A block that no network can have.
    #[error("`{0}` holds addresses {1}")]
    Special(Ipv4Net, &'static str),
}

impl SubnetError {
    /// What to write instead.
    pub(super) fn help(&self) -> String {
        match self {
            Self::Within { meant, .. } => format!("write `{meant}`"),
            _ => "a subnet is written `172.30.5.0/24`".to_owned(),
        }
    }
}

impl Subnet {
    /// Takes a block of addresses.
    ///
    /// Errors when it is too small or too large, or its addresses mean something else.
    pub fn new(net: Ipv4Net) -> Result<Self, SubnetError> {
        if net.trunc() != net {
            return Err(SubnetError::Within { given: net.to_string(), meant: net.trunc() });
        }
        if !(SHORTEST..=LONGEST).contains(&net.prefix_len()) {
            return Err(SubnetError::Size(net));
        }
        match SPECIAL.iter().find(|(block, _)| overlap(*block, net)) {
            Some((_, of)) => Err(SubnetError::Special(net, of)),
            None => Ok(Self(net)),
        }
    }

    /// Its block of addresses.
    pub fn net(&self) -> Ipv4Net {
        self.0
    }

    /// The engine's own address in it.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0.network().to_bits() + 1)
    }

    /// So many containers have room.
    pub fn room(&self) -> usize {
        // Without network, gateway and broadcast address.
        (1_usize << (32 - self.0.prefix_len())) - 3
    }

    /// Whether a container can have the address.
    pub fn takes(&self, address: Ipv4Addr) -> bool {
        let kept = [self.0.network(), self.gateway(), self.0.broadcast()];
        self.0.contains(&address) && !kept.contains(&address)
    }

    /// Whether it has an address in common with a block.
    pub fn overlaps(&self, block: Ipv4Net) -> bool {
        overlap(self.0, block)
    }

    /// The smallest subnet from an address on that has room for so many containers; none when the block is too large.
    pub(super) fn with_room(from: Ipv4Addr, containers: usize) -> Option<Self> {
        let fits = |length: &u8| (1_usize << (32 - length)) - 3 >= containers;
        let length = (SHORTEST..=LONGEST).rev().find(fits)?;
        Self::new(Ipv4Net::new(from, length).ok()?.trunc()).ok()
    }
}

/// Two blocks of addresses are apart, or one holds the other.
fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other) || other.contains(&one)
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        Self::new(text.parse().map_err(|_| SubnetError::NotOne(text.to_owned()))?)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_has_room_without_network_gateway_and_broadcast() {
        let small = subnet("172.30.5.0/30");
        assert_eq!((small.room(), small.gateway()), (1, Ipv4Addr::new(172, 30, 5, 1)));
        let taken: Vec<bool> = (0..5).map(|last| small.takes(Ipv4Addr::new(172, 30, 5, last))).collect();
        assert_eq!(taken, [false, false, true, false, false]);
        assert_eq!(subnet("10.0.0.0/8").room(), (1 << 24) - 3);
        assert_eq!(Subnet::with_room(Ipv4Addr::new(172, 30, 5, 77), 14).unwrap(), subnet("172.30.5.64/27"));
    }

    #[test]
    fn what_is_none_is_refused_with_what_was_meant() {
        let refused = |text: &str| text.parse::<Subnet>().unwrap_err();
        for text in ["", "172.30.5.0", "172.30.5.0/33", "fd00::/64", "172.30.5/24"] {
            assert!(matches!(refused(text), SubnetError::NotOne(_)), "{text}");
        }
        assert_eq!(refused("172.30.5.7/24").help(), "write `172.30.5.0/24`");
        assert!(matches!(refused("172.30.5.0/31"), SubnetError::Size(_)));
        assert!(matches!(refused("172.0.0.0/7"), SubnetError::Size(_)));
        for text in ["127.1.0.0/16", "0.0.0.0/8", "169.254.3.0/24", "239.0.0.0/8"] {
            assert!(matches!(refused(text), SubnetError::Special(..)), "{text}");
        }
    }

    #[test]
    fn blocks_overlap_when_one_holds_the_other() {
        let one = subnet("172.30.4.0/23");
        for (text, expected) in
            [("172.30.5.0/24", true), ("172.16.0.0/12", true), ("172.30.6.0/23", false), ("0.0.0.0/0", true)]
        {
            assert_eq!(one.overlaps(text.parse().unwrap()), expected, "{text}");
        }
    }
}
