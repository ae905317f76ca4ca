//! Names to addresses without the C library: the hosts file, then the servers of `resolv.conf`.
//!
//! Both are read at each dial. Containers come back with other addresses.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    Hosts, Resolver,
    config::LookupIpStrategy,
    lookup::Lookup,
    proto::{
        op::Query,
        rr::{Name, RData, RecordType},
    },
};
use tokio::{net::TcpStream, time::timeout};

/// Looking a name up.
const LOOK_UP: Duration = Duration::from_secs(5);
/// Connecting to one address.
const CONNECT: Duration = Duration::from_secs(3);

/// A connection to the first address of a host that takes one.
pub(super) async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = match timeout(LOOK_UP, addresses(host)).await {
        Ok(addresses) => addresses?,
        Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, format!("looking up `{host}` took too long"))),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("`{host}` has no address"));
    for address in addresses {
        match timeout(CONNECT, TcpStream::connect(SocketAddr::new(address, port))).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("`{address}` did not answer")),
        }
    }
    Err(last)
}

async fn addresses(host: &str) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let listed = from_hosts_file(host);
    if !listed.is_empty() {
        return Ok(listed);
    }
    let not_found = |error| io::Error::new(io::ErrorKind::NotFound, format!("cannot look up `{host}`: {error}"));
    let mut builder = Resolver::builder_tokio().map_err(not_found)?;
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = Duration::from_secs(2);
    let found = builder.build().map_err(not_found)?.lookup_ip(host).await.map_err(not_found)?;
    Ok(found.iter().collect())
}

/// The hosts file alone: it counts even where `resolv.conf` names no server.
fn from_hosts_file(host: &str) -> Vec<IpAddr> {
    let (Ok(hosts), Ok(name)) = (Hosts::from_system(), Name::from_utf8(host)) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for record_type in [RecordType::A, RecordType::AAAA] {
        let lookup = hosts.lookup_static_host(&Query::query(name.clone(), record_type));
        for record in lookup.iter().flat_map(Lookup::answers) {
            match &record.data {
                RData::A(address) => found.push(IpAddr::V4(address.0)),
                RData::AAAA(address) => found.push(IpAddr::V6(address.0)),
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_and_the_hosts_file_need_no_server() {
        assert_eq!(addresses("127.0.0.9").await.unwrap(), [IpAddr::from([127, 0, 0, 9])]);
        assert_eq!(addresses("::1").await.unwrap(), ["::1".parse::<IpAddr>().unwrap()]);
        assert!(addresses("localhost").await.unwrap().contains(&IpAddr::from([127, 0, 0, 1])));
    }

    #[tokio::test]
    async fn dialling_reaches_a_listener_and_names_a_failure() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        dial("localhost", port).await.unwrap();
        drop(listener);
        assert_eq!(dial("127.0.0.1", port).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
