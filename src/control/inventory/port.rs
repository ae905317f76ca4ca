//! Published ports as texts (`8080:80`, `127.0.0.1:8080:80/tcp`, `80`), and clashes between them.

use std::net::{IpAddr, Ipv4Addr};

use super::model::PortMapping;

/// Where ports are published when no address is given: on this machine only.
pub(super) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How ports are written, for help lines.
pub(super) const FORMS: &str =
    "ports are written `8080:80`, `127.0.0.1:8080:80/tcp` or `80` (any free port to 80), each from 1 to 65535";

/// A published port; none when the text is not one.
pub(super) fn parse(text: &str) -> Option<PortMapping> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let udp = match protocol {
        "tcp" => false,
        "udp" => true,
        _ => return None,
    };
    // IPv6 addresses have colons of their own and stand in brackets.
    let (address, ports) = match ports.strip_prefix('[') {
        Some(rest) => {
            let (address, ports) = rest.split_once("]:")?;
            (Some(address.parse::<std::net::Ipv6Addr>().ok()?.into()), ports)
        }
        None => match ports.split(':').collect::<Vec<_>>().as_slice() {
            [address, _, _] => (Some(address.parse::<Ipv4Addr>().ok()?.into()), &ports[address.len() + 1..]),
            _ => (None, ports),
        },
    };
    let (host, container) = match ports.split_once(':') {
        Some(("", container)) if address.is_some() => (None, container),
        Some((host, container)) => (Some(number(host)?), container),
        None if address.is_none() => (None, ports),
        None => return None,
    };
    Some(PortMapping { address: address.unwrap_or(LOOPBACK), host, container: number(container)?, udp })
}

fn number(text: &str) -> Option<u16> {
    // `parse` would take `+80`.
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten().filter(|port| *port > 0)
}

/// Whether both cannot be published on one machine.
pub(super) fn clash(one: &PortMapping, other: &PortMapping) -> bool {
    let same_address = one.address == other.address
        || ((one.address.is_unspecified() || other.address.is_unspecified())
            && one.address.is_ipv4() == other.address.is_ipv4());
    one.host.is_some() && one.host == other.host && one.udp == other.udp && same_address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(address: &str, host: Option<u16>, container: u16, udp: bool) -> PortMapping {
        PortMapping { address: address.parse().unwrap(), host, container, udp }
    }

    #[test]
    fn ports_have_four_forms() {
        for (text, wanted) in [
            ("80", mapping("127.0.0.1", None, 80, false)),
            ("8080:80", mapping("127.0.0.1", Some(8080), 80, false)),
            ("0.0.0.0:8080:80/tcp", mapping("0.0.0.0", Some(8080), 80, false)),
            ("0.0.0.0::53/udp", mapping("0.0.0.0", None, 53, true)),
            ("[::1]:8080:80", mapping("::1", Some(8080), 80, false)),
        ] {
            assert_eq!(parse(text), Some(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for text in [
            "",
            "x",
            "0",
            "65536",
            "+80",
            "80:",
            ":80",
            "80/sctp",
            "1:2:3",
            "a:1:2",
            "127.0.0.1:80",
            "8000-8010:80",
            "[::1]:80",
            "::1:80:80",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn clashes_need_the_same_port_and_address() {
        let base = mapping("127.0.0.1", Some(80), 80, false);
        for (other, expected) in [
            (mapping("127.0.0.1", Some(80), 81, false), true),
            (mapping("0.0.0.0", Some(80), 80, false), true),
            (mapping("127.0.0.2", Some(80), 80, false), false),
            (mapping("::", Some(80), 80, false), false),
            (mapping("127.0.0.1", Some(80), 80, true), false),
            (mapping("127.0.0.1", None, 80, false), false),
        ] {
            assert_eq!(clash(&base, &other), expected, "{other:?}");
        }
    }
}
