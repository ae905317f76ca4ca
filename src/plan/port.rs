//! Ports that services listen on: what a recipe declares, so that two that want the same are told before either starts.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// A port that a service listens on, with the addresses that it listens at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenPort {
    /// Its number, from 1.
    pub number: u16,
    /// UDP; TCP otherwise.
    pub udp: bool,
    /// The only address that it listens at; every address of the host when not given.
    pub address: Option<IpAddr>,
    /// The parameter of the recipe that it follows from, for people.
    pub parameter: Option<String>,
}

/// That a text is no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a port: they are written `8080`, `127.0.0.1:8080`, `[::1]:8080` or `8080/udp`, from 1 to 65535")]
pub struct ListenPortError(String);

impl ListenPort {
    /// A TCP port on every address.
    pub fn tcp(number: u16) -> Self {
        Self { number, udp: false, address: None, parameter: None }
    }

    /// Whether both cannot be listened on by two programs of one host.
    pub fn clashes(&self, other: &Self) -> bool {
        self.number == other.number && self.udp == other.udp && self.meets(other.address)
    }

    /// Whether it is listened on at this address, or at every address that none stands for.
    pub fn meets(&self, address: Option<IpAddr>) -> bool {
        let (Some(own), Some(other)) = (self.address, address) else { return true };
        // A socket of IPv6 for every address takes those of IPv4 along, as a rule.
        let takes = |wide: IpAddr, narrow: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4());
        own == other || takes(own, other) || takes(other, own)
    }
}

impl fmt::Display for ListenPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            None => write!(f, "{}", self.number)?,
            Some(IpAddr::V4(address)) => write!(f, "{address}:{}", self.number)?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.number)?,
        }
        f.write_str(if self.udp { "/udp" } else { "" })
    }
}

impl FromStr for ListenPort {
    type Err = ListenPortError;

    fn from_str(text: &str) -> Result<Self, ListenPortError> {
        let bad = || ListenPortError(text.to_owned());
        let (rest, udp) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.split('/').next().unwrap_or(text), false),
            Some((rest, "udp")) => (rest, true),
            Some(_) => return Err(bad()),
        };
        let (address, number) = match rest.rsplit_once(':') {
            None => (None, rest),
            Some((address, number)) => {
                let inner = address.strip_prefix('[').and_then(|address| address.strip_suffix(']'));
                let address: IpAddr = inner.unwrap_or(address).parse().map_err(|_| bad())?;
                if inner.is_some() != address.is_ipv6() {
                    return Err(bad());
                }
                (Some(address), number)
            }
        };
        // `parse` would take `+80`.
        let plain = number.bytes().all(|byte| byte.is_ascii_digit());
        let number = plain.then(|| number.parse().ok()).flatten().filter(|number| *number > 0).ok_or_else(bad)?;
        Ok(Self { number, udp, address, parameter: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(text: &str) -> ListenPort {
        text.parse().unwrap()
    }

    #[test]
    fn ports_are_read_and_shown() {
        for text in ["80", "5353/udp", "127.0.0.1:8002", "[::1]:53/udp"] {
            assert_eq!(port(text).to_string(), text);
        }
        assert_eq!(port("80/tcp"), ListenPort::tcp(80));
        for bad in
            ["", "0", "65536", "+80", "80/sctp", "localhost:80", "::1:80", "[127.0.0.1]:80", ":80", "80/", "1/udp/x"]
        {
            assert!(bad.parse::<ListenPort>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_clash_on_addresses_that_they_share() {
        for (one, other, clash) in [
            ("80", "80", true),
            ("80", "81", false),
            ("80", "80/udp", false),
            ("80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "0.0.0.0:80", true),
        ] {
            assert_eq!(port(one).clashes(&port(other)), clash, "{one} {other}");
            assert_eq!(port(other).clashes(&port(one)), clash, "{other} {one}");
        }
    }
}
