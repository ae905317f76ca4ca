//! What can be told before anything starts: devices that are not there, ports that somebody has.

use std::{
    io::ErrorKind,
    net::{IpAddr, TcpListener, UdpSocket},
};

use bollard::models::PortMap;
use serde_json::Value;

use super::{
    Engine, LabError, Sight,
    engine::Place,
    reader::{Info, Listed, each},
    sight::Wanted,
};
use crate::{
    control::inventory::{Access, Container, Init, Inventory},
    plan::HostName,
};

/// A port of the engine's machine that a container asks for.
struct Claim<'w> {
    host: &'w HostName,
    address: String,
    port: u16,
    udp: bool,
}

impl Engine {
    /// Refuses work that cannot succeed: a device that the engine's machine does not have, a published port that another
    /// container or a process has. What cannot be told from here, about a remote engine, is left to the engine.
    pub(super) async fn preflight(&self, work: &[(&Wanted<'_>, Sight)]) -> Result<(), LabError> {
        let devices = work.iter().flat_map(|(wanted, _)| devices(wanted)).collect::<Vec<_>>();
        let claims: Vec<(Claim<'_>, Option<&str>)> = work
            .iter()
            .flat_map(|(wanted, sight)| claims(wanted).into_iter().map(|claim| (claim, sight.id.as_deref())))
            .collect();
        if devices.is_empty() && claims.is_empty() {
            return Ok(());
        }
        let near = self.is_this_machines().await?;
        for (host, device) in devices {
            if near && !is_there(&device) {
                return Err(LabError::DeviceMissing { host: host.clone(), device });
            }
        }
        let listed: Vec<Value> =
            if claims.is_empty() { Vec::new() } else { self.read("list containers", "/containers/json").await? };
        let running: Vec<Listed> = each(listed);
        claims.iter().find_map(|(claim, own)| taken(claim, *own, &running, near)).map_or(Ok(()), Err)
    }

    /// Whether the engine confines containers with `AppArmor`. Asked only when one of these containers mounts anything.
    pub(super) async fn confines(&self, inventory: &Inventory, hosts: &[HostName]) -> Result<bool, LabError> {
        let mounts = |container: &Container| container.fuse || container.init == Init::Systemd;
        let asks = hosts.iter().filter_map(|name| inventory.hosts.get(name)).any(|host| match &host.access {
            Access::Container(container) => mounts(container),
            Access::Ssh(_) => false,
        });
        Ok(asks && self.info().await?.security_options.iter().any(|option| option.contains("name=apparmor")))
    }

    async fn info(&self) -> Result<Info, LabError> {
        self.read("ask docker what it is", "/info").await
    }

    /// Whether the engine sees the devices and ports that we see. A local socket may belong to another machine: when we run
    /// in a container, or it is forwarded.
    pub(super) async fn is_this_machines(&self) -> Result<bool, LabError> {
        if *self.place() != Place::Here {
            return Ok(false);
        }
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(self.info().await?.name == name)
    }
}

fn devices<'w>(wanted: &'w Wanted<'_>) -> Vec<(&'w HostName, String)> {
    let config = wanted.body.host_config.iter();
    let devices = config.flat_map(|config| config.devices.iter().flatten());
    devices.filter_map(|device| Some((wanted.subject.host, device.path_on_host.clone()?))).collect()
}

fn is_there(device: &str) -> bool {
    !matches!(fs_err::metadata(device), Err(error) if error.kind() == ErrorKind::NotFound)
}

fn claims<'w>(wanted: &'w Wanted<'_>) -> Vec<Claim<'w>> {
    let config = wanted.body.host_config.as_ref();
    config
        .and_then(|config| config.port_bindings.as_ref())
        .map_or_else(Vec::new, |map| of_map(wanted.subject.host, map))
}

/// Free ports are asked for with an empty text; ranges are the engine's to choose from.
fn of_map<'w>(host: &'w HostName, map: &PortMap) -> Vec<Claim<'w>> {
    let each = map.iter().flat_map(|(name, bindings)| {
        bindings.iter().flatten().filter_map(move |binding| {
            let port = binding.host_port.as_deref()?.parse().ok().filter(|port| *port != 0)?;
            let address = binding.host_ip.clone().unwrap_or_default();
            Some(Claim { host, address, port, udp: name.ends_with("/udp") })
        })
    });
    each.collect()
}

/// Why a port cannot be had; none when it is free, or the container's own, or that cannot be told.
fn taken(claim: &Claim<'_>, own: Option<&str>, running: &[Listed], near: bool) -> Option<LabError> {
    let refused = |holder: Option<String>| {
        let (address, port) = (claim.address.clone(), claim.port.to_string());
        Some(LabError::PortInUse { host: claim.host.clone(), address, port, holder })
    };
    let protocol = if claim.udp { "udp" } else { "tcp" };
    let has = |listed: &&Listed| {
        let same = |address: &str| overlaps(address, &claim.address);
        listed.ports.iter().any(|port| port.public == claim.port && port.protocol == protocol && same(&port.address))
    };
    match running.iter().find(has) {
        Some(holder) if own == Some(holder.id.as_str()) => None,
        Some(holder) => refused(Some(holder.names.first().map_or("", |name| name.trim_start_matches('/')).to_owned())),
        None if near && is_bound(claim) => refused(None),
        None => None,
    }
}

/// Whether two addresses of one machine have ports in common.
fn overlaps(one: &str, other: &str) -> bool {
    let any =
        |address: &str| address.is_empty() || address.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
    one == other || any(one) || any(other)
}

/// Tries it: what cannot be bound for another reason, such as a port of the system's, is the engine's to judge.
fn is_bound(claim: &Claim<'_>) -> bool {
    let Ok(address) = (if claim.address.is_empty() { "0.0.0.0" } else { &claim.address }).parse::<IpAddr>() else {
        return false;
    };
    let tried = if claim.udp {
        UdpSocket::bind((address, claim.port)).map(drop)
    } else {
        TcpListener::bind((address, claim.port)).map(drop)
    };
    tried.is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(id: &str, address: &str, port: u16) -> Listed {
        let view = serde_json::json!({"Id": id, "Names": [format!("/lab-{id}")], "Ports": [
            {"PrivatePort": 80, "PublicPort": port, "IP": address, "Type": "tcp"},
        ]});
        serde_json::from_value(view).unwrap()
    }

    #[test]
    fn a_port_is_anothers_when_another_container_has_it_on_that_address() {
        let host: HostName = "web".parse().unwrap();
        let claim = |address: &str, udp| Claim { host: &host, address: address.to_owned(), port: 8080, udp };
        let others = [running("1", "127.0.0.1", 8080), running("2", "127.0.0.1", 9090)];
        let told = |claim: &Claim<'_>, own| taken(claim, own, &others, false).map(|error| error.to_string());
        let expected = "host `web`: port 8080 on 127.0.0.1 is already in use by container `lab-1`";
        assert_eq!(told(&claim("127.0.0.1", false), None), Some(expected.to_owned()));
        assert!(told(&claim("0.0.0.0", false), None).is_some(), "every address is this one, too");
        assert_eq!(told(&claim("127.0.0.1", false), Some("1")), None, "its own, which steps aside");
        assert_eq!(told(&claim("127.0.0.1", true), None), None, "another protocol");
        assert_eq!(told(&claim("127.0.0.2", false), None), None, "another address");
    }

    #[test]
    fn a_port_that_a_process_has_is_taken_as_far_as_we_can_see() {
        let host: HostName = "web".parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let claim = Claim { host: &host, address: "127.0.0.1".to_owned(), port, udp: false };
        assert!(matches!(taken(&claim, None, &[], true), Some(LabError::PortInUse { holder: None, .. })));
        assert!(taken(&claim, None, &[], false).is_none(), "another machine's ports are not ours");
        drop(listener);
        assert!(taken(&claim, None, &[], true).is_none());
    }
}
