//! What can go wrong between us and a Docker engine.

use std::{error::Error as StdError, io, path::PathBuf};

use crate::{control::link::KeyError, plan::HostName};

/// Why something about containers did not work. Messages name the thing; [`LabError::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// No engine listens on the local socket.
    #[error("docker is not running: nothing answers at `{address}`")]
    NotRunning {
        /// The engine's address.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The socket is there, but not for this user.
    #[error("docker's socket `{address}` may not be used by this user")]
    NoPermission {
        /// The engine's address.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A remote engine's port refuses connections.
    #[error("the docker engine at `{address}` refuses connections")]
    Refused {
        /// The engine's address.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The engine could not be reached for another reason, or was lost.
    #[error("the docker engine at `{address}` cannot be reached")]
    Unreachable {
        /// The engine's address.
        address: String,
        /// What stood in the way.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Not an address of an engine.
    #[error("`{address}` is not an engine's address: `unix:///path` or `tcp://host:port` is")]
    BadAddress {
        /// What was given.
        address: String,
    },
    /// `DOCKER_TLS_VERIFY` asks for TLS, which is not supported yet.
    #[error("the docker engine at `{address}` is asked for with TLS, which is not supported")]
    TlsUnsupported {
        /// The engine's address.
        address: String,
    },
    /// The engine's API is older than the oldest one that we speak.
    #[error("docker {version} at `{address}` speaks API {api}; at least {minimum} is needed")]
    TooOld {
        /// The engine's address.
        address: String,
        /// The engine's version.
        version: String,
        /// Its API's version.
        api: String,
        /// The oldest API version that is good enough.
        minimum: &'static str,
    },
    /// A call to the engine took longer than its deadline.
    #[error("docker did not answer within {seconds} s: cannot {action}")]
    Timeout {
        /// What was tried: ``start container `demo-etcd` ``.
        action: String,
        /// The deadline in seconds.
        seconds: u64,
    },
    /// The engine refused a call.
    #[error("cannot {action}")]
    Api {
        /// What was tried: ``start container `demo-etcd` ``.
        action: String,
        /// What the engine said.
        #[source]
        source: EngineAnswer,
    },
    /// The inventory has no such host, or the host is not a container.
    #[error("host `{host}` is not a container of this inventory")]
    NotAContainer {
        /// Which host.
        host: HostName,
    },
    /// The host has no container yet.
    #[error("host `{host}`: container `{name}` does not exist")]
    NoContainer {
        /// Which host.
        host: HostName,
        /// What its container would be called.
        name: String,
    },
    /// The engine does not have the image.
    #[error("host `{host}`: the engine has no image `{image}`")]
    ImageMissing {
        /// A host that wants it.
        host: HostName,
        /// The image.
        image: String,
    },
    /// A container that is not ours, or is another lab's, has the name.
    #[error("container `{name}` is there already and {owner}")]
    ForeignContainer {
        /// Container's name.
        name: String,
        /// Whose it is, in words.
        owner: String,
    },
    /// A network that is not ours has the lab's name.
    #[error("network `{name}` is there already and does not belong to this lab")]
    ForeignNetwork {
        /// The network's name.
        name: String,
    },
    /// A network that the inventory names does not exist.
    #[error("host `{host}`: the engine has no network `{network}`")]
    NetworkMissing {
        /// Which host.
        host: HostName,
        /// The network.
        network: String,
    },
    /// A subnet of the inventory's is not free.
    #[error("the lab's subnet {subnet} overlaps {by}")]
    SubnetTaken {
        /// The subnet.
        subnet: String,
        /// What has it, or leads to it.
        by: String,
    },
    /// No subnet is free, as far as was tried.
    #[error("no free subnet was found for network `{network}`")]
    NoSubnet {
        /// The lab's network.
        network: String,
    },
    /// The inventory wants another subnet, and the network cannot be made anew below a container.
    #[error(
        "network `{network}` has subnet {found}, the inventory wants {wanted}, and container `{container}` is on it"
    )]
    SubnetChanged {
        /// The lab's network.
        network: String,
        /// What it has.
        found: String,
        /// What the inventory says.
        wanted: String,
        /// A container that this run does not make anew.
        container: String,
    },
    /// Every address is taken.
    #[error("host `{host}`: network `{network}` has no address left in {subnet}")]
    SubnetFull {
        /// Which host.
        host: HostName,
        /// The network.
        network: String,
        /// Its subnet.
        subnet: String,
    },
    /// Another container has the address.
    #[error("host `{host}`: address {address} on network `{network}` is already in use{}", by(holder.as_deref()))]
    AddressInUse {
        /// Which host.
        host: HostName,
        /// The address.
        address: String,
        /// The network.
        network: String,
        /// The container that has it, running or not, when that is known.
        holder: Option<String>,
    },
    /// The address is not one that the network gives to containers.
    #[error("host `{host}`: network `{network}` has no address {address} for a container{}", within(subnet.as_deref()))]
    AddressOutside {
        /// Which host.
        host: HostName,
        /// The address.
        address: String,
        /// The network.
        network: String,
        /// The network's subnet, when that is known.
        subnet: Option<String>,
    },
    /// The engine chose the network's subnet itself, and gives no fixed addresses on it.
    #[error("host `{host}`: network `{network}` takes no fixed address such as {address}")]
    AddressRefused {
        /// Which host.
        host: HostName,
        /// The address.
        address: String,
        /// The network.
        network: String,
    },
    /// A published port is taken.
    #[error("host `{host}`: port {port} on {address} is already in use{}", by(holder.as_deref()))]
    PortInUse {
        /// Which host.
        host: HostName,
        /// Address on the engine's machine.
        address: String,
        /// The port.
        port: String,
        /// The container that has it, when that is known.
        holder: Option<String>,
    },
    /// A device is not there on the engine's machine.
    #[error("host `{host}`: the engine's machine has no device `{device}`")]
    DeviceMissing {
        /// Which host.
        host: HostName,
        /// The device's path.
        device: String,
    },
    /// `container.api` has a key that Docker's create payload does not know.
    #[error("host `{host}`: `container.api` has the unknown key `{path}`")]
    UnknownField {
        /// Which host.
        host: HostName,
        /// Where it stands: `HostConfig.Memry`.
        path: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A container setting cannot be understood.
    #[error("host `{host}`: container setting `{key}` is wrong: {why}")]
    BadSetting {
        /// Which host.
        host: HostName,
        /// Which key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// The login user is not in the image.
    #[error("host `{host}`: image `{image}` has no user `{user}`")]
    UserMissing {
        /// Which host.
        host: HostName,
        /// The user.
        user: String,
        /// The image.
        image: String,
    },
    /// There is no address by which the container's SSH can be reached.
    #[error("host `{host}`: no way to reach its SSH port: {why}")]
    NoEndpoint {
        /// Which host.
        host: HostName,
        /// Why.
        why: String,
    },
    /// A key of the lab cannot be read or made.
    #[error("host `{host}`: its keys cannot be prepared")]
    Keys {
        /// Which host.
        host: HostName,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// An image build failed in one of its steps.
    #[error("building image `{image}` failed: {message}")]
    Build {
        /// The image's tag.
        image: String,
        /// What the engine said last.
        message: String,
        /// The last lines of output before it.
        output_tail: Vec<String>,
    },
    /// A root file system cannot be read or packed.
    #[error("cannot read the root file system `{}`", path.display())]
    Rootfs {
        /// Which path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What the engine said when it refused a call.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct EngineAnswer {
    /// HTTP status, 0 when the answer could not be understood or broke off.
    pub status: u16,
    /// Its message.
    pub message: String,
}

impl LabError {
    /// One line that says what to do, when that is known.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotRunning { .. } => "start it: `scripts/setup` or `systemctl start docker`".to_owned(),
            Self::NoPermission { .. } => {
                "join the group `docker` (`sudo usermod -aG docker $USER`, then log in again) or run as root".to_owned()
            }
            Self::Refused { .. } => "check the engine's address in DOCKER_HOST or `lab.engine`".to_owned(),
            Self::TlsUnsupported { .. } => {
                "forward the engine's socket: `ssh -L /tmp/docker.sock:/var/run/docker.sock HOST`".to_owned()
            }
            Self::TooOld { .. } => "upgrade docker to 20.10 or newer".to_owned(),
            Self::NoContainer { .. } => "create it: `ovs-cuisine up INVENTORY`".to_owned(),
            Self::ImageMissing { image, .. } => missing_image_hint(image),
            Self::ForeignContainer { name, .. } => format!("rename the lab or the host, or `docker rm -f {name}`"),
            Self::ForeignNetwork { .. } => "rename the lab, or give `container.network`".to_owned(),
            Self::NetworkMissing { network, .. } => format!("make it: `docker network create {network}`"),
            Self::SubnetTaken { .. } => {
                "choose another `subnet` below `[lab]`, or leave it out: a free one is taken then".to_owned()
            }
            Self::NoSubnet { .. } => "name one below `[lab]`: `subnet = \"198.18.5.0/24\"`".to_owned(),
            Self::SubnetChanged { .. } => {
                "bring up the whole lab, without `--on` and `--only`; disconnect a container that is not the lab's".to_owned()
            }
            Self::SubnetFull { .. } => {
                "name a larger `subnet` below `[lab]`, or remove containers that the lab no longer has: `deploy --prune`"
                    .to_owned()
            }
            Self::AddressInUse { .. } => "give one of the two another `address`, or remove the other container".to_owned(),
            Self::AddressOutside { network, .. } => format!("see its subnet: `docker network inspect {network}`"),
            Self::AddressRefused { network, .. } => format!(
                "make the network with a subnet of its own (`docker network create --subnet 172.30.5.0/24 {network}`), or leave \
                 `address` out"
            ),
            Self::PortInUse { .. } => "choose another port, or leave it out to get a free one".to_owned(),
            Self::DeviceMissing { device, .. } if device == "/dev/fuse" => {
                "load the kernel's module on that machine: `modprobe fuse`".to_owned()
            }
            Self::UnknownField { nearest, .. } => {
                return nearest.as_ref().map(|name| format!("did you mean `{name}`?"));
            }
            Self::UserMissing { .. } => "log in as `root` and create the user in a recipe".to_owned(),
            Self::Keys { source, .. } => return source.hint(),
            Self::Api { source, .. } if source.message.contains("error setting rlimit") => {
                "this engine may not raise limits so far: lower or take out `ulimits` of the container".to_owned()
            }
            Self::Unreachable { .. }
            | Self::BadAddress { .. }
            | Self::Timeout { .. }
            | Self::Api { .. }
            | Self::NotAContainer { .. }
            | Self::BadSetting { .. }
            | Self::DeviceMissing { .. }
            | Self::NoEndpoint { .. }
            | Self::Rootfs { .. } => return None,
            Self::Build { message, .. } => return offline_hint(message),
        })
    }

    /// The engine's HTTP status, when it refused a call.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => Some(source.status),
            _ => None,
        }
    }

    /// Whether the engine said that the thing is not there.
    pub(super) fn is_missing(&self) -> bool {
        self.status() == Some(404)
    }
}

fn by(holder: Option<&str>) -> String {
    holder.map(|name| format!(" by container `{name}`")).unwrap_or_default()
}

fn within(subnet: Option<&str>) -> String {
    subnet.map(|subnet| format!(": its subnet is {subnet}")).unwrap_or_default()
}

/// What the engine says when it cannot get a base image, or when the build cannot get packages.
fn offline_hint(message: &str) -> Option<String> {
    let is_pull = ["pull access denied", "manifest unknown", "dial tcp", "no such host", "/v2/"];
    let base = "give a base that the engine has (`--base`), or a root file system (`--rootfs`, see docs/images.md)";
    is_pull.iter().any(|words| message.contains(words)).then(|| base.to_owned())
}

fn missing_image_hint(image: &str) -> String {
    let tagged = super::image::SSH_IMAGE;
    if image == super::image::SYSTEMD_IMAGE {
        "build it: `ovs-cuisine image build --init systemd`".to_owned()
    } else if image == tagged || tagged.strip_suffix(":latest") == Some(image) {
        "build it: `ovs-cuisine image build`".to_owned()
    } else {
        format!("`docker pull {image}`, or build one: `ovs-cuisine image build`")
    }
}

/// The input or output error at the root of a client library's error, if there is one.
pub(super) fn io_cause<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e io::Error> {
    let mut cause = Some(error);
    let mut found = None;
    while let Some(error) = cause {
        found = error.downcast_ref::<io::Error>().or(found);
        cause = error.source();
    }
    found
}

/// An error for an engine that could not be dialled.
pub(super) fn dial_error(address: &str, error: Box<dyn StdError + Send + Sync>) -> LabError {
    let address = address.to_owned();
    let local = address.starts_with("unix://");
    let Some((kind, source)) = io_cause(&*error).map(|io| (io.kind(), copy(io))) else {
        return LabError::Unreachable { address, source: error };
    };
    match kind {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused if local => LabError::NotRunning { address, source },
        io::ErrorKind::PermissionDenied if local => LabError::NoPermission { address, source },
        io::ErrorKind::ConnectionRefused => LabError::Refused { address, source },
        _ => LabError::Unreachable { address, source: error },
    }
}

fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}

/// A client library's error as ours. `action` completes "cannot ...".
pub(super) fn api_error(action: &str, address: &str, error: bollard::errors::Error) -> LabError {
    use bollard::errors::Error as Bollard;
    let action = action.to_owned();
    let answer = |status, message| EngineAnswer { status, message };
    match error {
        Bollard::DockerResponseServerError { status_code, message } => {
            LabError::Api { action, source: answer(status_code, message) }
        }
        Bollard::DockerStreamError { error } => LabError::Api { action, source: answer(500, error) },
        error @ (Bollard::HyperLegacyError { .. }
        | Bollard::HyperResponseError { .. }
        | Bollard::SocketNotFoundError(_)
        | Bollard::IOError { .. }) => dial_error(address, Box::new(error)),
        other => LabError::Api { action, source: answer(0, other.to_string()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_socket_a_forbidden_one_and_a_closed_port_are_three_errors() {
        let dial = |address: &str, code: i32| dial_error(address, Box::new(io::Error::from_raw_os_error(code)));
        assert!(matches!(dial("unix:///x", 2), LabError::NotRunning { .. }));
        assert!(matches!(dial("unix:///x", 111), LabError::NotRunning { .. }));
        assert!(matches!(dial("unix:///x", 13), LabError::NoPermission { .. }));
        assert!(matches!(dial("tcp://x:1", 111), LabError::Refused { .. }));
        assert!(matches!(dial("tcp://x:1", 110), LabError::Unreachable { .. }));
    }

    #[test]
    fn a_base_that_cannot_be_pulled_has_a_hint_and_a_failing_step_has_not() {
        let hint = |message: &str| {
            LabError::Build { image: "x".into(), message: message.into(), output_tail: Vec::new() }.hint()
        };
        assert!(
            hint("Get \"https://registry.invalid/v2/\": dial tcp: lookup registry.invalid: no such host").is_some()
        );
        assert!(hint("pull access denied for lab/none, repository does not exist").is_some());
        assert_eq!(hint("The command '/bin/sh -c false' returned a non-zero code: 1"), None);
    }

    #[test]
    fn our_own_image_is_built_and_others_may_be_pulled() {
        let hint =
            |image: &str| LabError::ImageMissing { host: "a".parse().unwrap(), image: image.into() }.hint().unwrap();
        assert_eq!(hint("ovs-cuisine/ssh"), "build it: `ovs-cuisine image build`");
        assert_eq!(hint("ovs-cuisine/ssh:systemd"), "build it: `ovs-cuisine image build --init systemd`");
        assert!(hint("ubuntu:22.04").starts_with("`docker pull ubuntu:22.04`"));
    }
}
