//! From the friendly keys of an inventory to Docker's create payload (Engine API, `POST /containers/create`).

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, DeviceMapping, EndpointIpamConfig, EndpointSettings, HostConfig, HostConfigCgroupnsModeEnum,
    Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountType, NetworkingConfig, PortBinding, PortMap,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};

use super::{LabError, api, grant, names};
use crate::{
    control::inventory::{Container, Propagation, VolumeMount, VolumeSource},
    plan::{HostName, LabName},
};

/// SSH's port inside, as Docker writes it.
pub(super) const SSH_PORT: &str = "22/tcp";

/// Published ports are for this machine only, unless the inventory says otherwise.
const LOOPBACK: &str = "127.0.0.1";

/// One container of a lab, and what it is made from.
#[derive(Clone, Copy)]
pub(super) struct Subject<'i> {
    pub(super) lab: &'i LabName,
    pub(super) host: &'i HostName,
    pub(super) container: &'i Container,
    /// Whether the engine confines containers with `AppArmor`, which forbids them to mount anything.
    pub(super) apparmor: bool,
}

impl Subject<'_> {
    fn wrong(&self, key: &str, why: impl Into<String>) -> LabError {
        LabError::BadSetting { host: self.host.clone(), key: key.to_owned(), why: why.into() }
    }

    /// The network it is attached to.
    pub(super) fn network(&self) -> String {
        self.container.network.clone().unwrap_or_else(|| names::network(self.lab))
    }

    /// Whether it is attached to the lab's own network.
    pub(super) fn uses_lab_network(&self) -> bool {
        self.container.network.as_ref().is_none_or(|network| *network == names::network(self.lab))
    }

    /// The create payload: friendly keys, then `container.api` over them. Our labels are not in it yet.
    pub(super) fn payload(&self) -> Result<ContainerCreateBody, LabError> {
        let container = self.container;
        let network = self.network();
        let ports = self.ports(&network);
        let friendly = ContainerCreateBody {
            hostname: self.hostname(&network),
            image: Some(container.image.clone()),
            cmd: container.command.clone(),
            env: self.environment(),
            stop_signal: self.is_systemd().then(|| grant::SYSTEMD_STOP.to_owned()),
            labels: Some(container.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect()),
            exposed_ports: ports.as_ref().map(|ports| {
                let mut names: Vec<_> = ports.keys().cloned().collect();
                names.sort();
                names
            }),
            networking_config: self.endpoints(&network),
            host_config: Some(self.host_config(network, ports)?),
            ..ContainerCreateBody::default()
        };
        let mut body = api::merged(self.host, &friendly, &container.api)?;
        if body.image.as_ref().is_none_or(|image| !is_image_reference(image)) {
            return Err(self.wrong("image", "not an image reference such as `ovs-cuisine/ssh:latest`"));
        }
        let labels = body.labels.get_or_insert_default();
        if let Some(ours) = labels.keys().find(|name| name.starts_with(names::PREFIX)) {
            return Err(
                self.wrong("labels", format!("`{ours}` is ours: labels must not begin with `{}`", names::PREFIX))
            );
        }
        Ok(body)
    }

    fn hostname(&self, network: &str) -> Option<String> {
        let name = self.container.hostname.clone().unwrap_or_else(|| self.host.to_string());
        // The engine refuses a host name of its own in another's network namespace.
        (!shares_a_namespace(network)).then_some(name)
    }

    fn host_config(&self, network: String, ports: Option<PortMap>) -> Result<HostConfig, LabError> {
        let container = self.container;
        let memory = container.memory.map(i64::try_from).transpose();
        Ok(HostConfig {
            network_mode: Some(network),
            port_bindings: ports,
            mounts: some_list(container.volumes.iter().map(|mount| self.mount(mount))),
            devices: all(self.devices().iter().map(|device| self.device(device)))?,
            cap_add: some_list(self.capabilities().into_iter()),
            cgroupns_mode: self.is_systemd().then_some(HostConfigCgroupnsModeEnum::PRIVATE),
            cap_drop: some_list(container.cap_drop.iter().cloned()),
            security_opt: some_list(self.security_options().into_iter()),
            privileged: container.privileged.then_some(true),
            restart_policy: container.restart.as_deref().map(|text| self.restart(text)).transpose()?,
            memory: memory.map_err(|_| self.wrong("memory", "too large"))?,
            nano_cpus: container.cpus.map(|cpus| self.nano_cpus(cpus)).transpose()?,
            tmpfs: some_map(&self.tmpfs()),
            ulimits: all(container.ulimits.iter().map(|(name, limit)| self.ulimit(name, limit)))?,
            sysctls: some_map(&container.sysctls),
            dns: some_list(container.dns.iter().map(ToString::to_string)),
            extra_hosts: some_list(container.extra_hosts.iter().map(|(name, address)| format!("{name}:{address}"))),
            ..HostConfig::default()
        })
    }

    /// Published ports, SSH's own among them. A free port is asked for with an empty one.
    fn ports(&self, network: &str) -> Option<PortMap> {
        if shares_a_namespace(network) || network == "none" {
            return None;
        }
        let binding = |address: String, port: Option<u16>| PortBinding {
            host_ip: Some(address),
            host_port: Some(port.map(|port| port.to_string()).unwrap_or_default()),
        };
        let mut ports = PortMap::new();
        ports.insert(SSH_PORT.to_owned(), Some(vec![binding(LOOPBACK.to_owned(), self.container.ssh_port)]));
        for port in &self.container.ports {
            let name = format!("{}/{}", port.container, if port.udp { "udp" } else { "tcp" });
            let bindings = ports.entry(name).or_default().get_or_insert_default();
            bindings.push(binding(port.address.to_string(), port.host));
        }
        Some(ports)
    }

    /// Names under which other containers of the network find this one. Only networks that people made have them.
    fn endpoints(&self, network: &str) -> Option<NetworkingConfig> {
        if shares_a_namespace(network) || ["none", "bridge", "default"].contains(&network) {
            return None;
        }
        let mut aliases = vec![self.host.to_string()];
        aliases.extend(self.container.aliases.iter().filter(|alias| alias.as_str() != self.host.as_str()).cloned());
        let address = self.container.address.map(|address| address.to_string());
        let settings = EndpointSettings {
            aliases: Some(aliases),
            ipam_config: address
                .map(|address| EndpointIpamConfig { ipv4_address: Some(address), ..EndpointIpamConfig::default() }),
            ..EndpointSettings::default()
        };
        Some(NetworkingConfig { endpoints_config: Some(HashMap::from([(network.to_owned(), settings)])) })
    }

    /// `Mounts` and not `Binds`: a bind of a directory that is not there is an error instead of a new empty directory.
    fn mount(&self, mount: &VolumeMount) -> Mount {
        let (typ, source) = match &mount.source {
            VolumeSource::Named(name) => (MountType::VOLUME, Some(names::volume(self.lab, name))),
            VolumeSource::Bind(path) => (MountType::BIND, Some(path.to_string_lossy().into_owned())),
            VolumeSource::Anonymous => (MountType::VOLUME, None),
        };
        Mount {
            target: Some(mount.target.clone()),
            source,
            typ: Some(typ),
            read_only: mount.read_only.then_some(true),
            bind_options: mount.propagation.map(|propagation| MountBindOptions {
                propagation: Some(passed_on(propagation)),
                ..MountBindOptions::default()
            }),
            ..Mount::default()
        }
    }

    /// `/dev/x`, `/dev/x:/dev/y` or `/dev/x:/dev/y:rwm`, as `docker run --device` takes them.
    fn device(&self, text: &str) -> Result<DeviceMapping, LabError> {
        let wrong =
            || self.wrong("devices", format!("`{text}` is not `/dev/x`, `/dev/x:/dev/y` or `/dev/x:/dev/y:rwm`"));
        let is_rights = |text: &str| !text.is_empty() && text.chars().all(|c| "rwm".contains(c));
        let (outside, inside, rights) = match text.split(':').collect::<Vec<_>>()[..] {
            [path] => (path, path, "rwm"),
            [path, rights] if is_rights(rights) => (path, path, rights),
            [outside, inside] => (outside, inside, "rwm"),
            [outside, inside, rights] if is_rights(rights) => (outside, inside, rights),
            _ => return Err(wrong()),
        };
        if !outside.starts_with('/') || !inside.starts_with('/') {
            return Err(wrong());
        }
        Ok(DeviceMapping {
            path_on_host: Some(outside.to_owned()),
            path_in_container: Some(inside.to_owned()),
            cgroup_permissions: Some(rights.to_owned()),
        })
    }

    fn restart(&self, text: &str) -> Result<RestartPolicy, LabError> {
        let (name, tries) = text.split_once(':').map_or((text, None), |(name, tries)| (name, Some(tries)));
        let tries = tries.map(str::parse::<u32>).transpose().ok();
        let name = match name {
            "no" => Some(RestartPolicyNameEnum::NO),
            "always" => Some(RestartPolicyNameEnum::ALWAYS),
            "unless-stopped" => Some(RestartPolicyNameEnum::UNLESS_STOPPED),
            "on-failure" => Some(RestartPolicyNameEnum::ON_FAILURE),
            _ => None,
        };
        match (name, tries) {
            (Some(name), Some(tries)) if tries.is_none() || name == RestartPolicyNameEnum::ON_FAILURE => {
                Ok(RestartPolicy { name: Some(name), maximum_retry_count: tries.map(i64::from) })
            }
            _ => {
                Err(self
                    .wrong("restart", format!("`{text}` is not `no`, `always`, `unless-stopped` or `on-failure[:n]`")))
            }
        }
    }

    fn nano_cpus(&self, cpus: f64) -> Result<i64, LabError> {
        if !(0.01..=10_000.0).contains(&cpus) {
            return Err(self.wrong("cpus", format!("{cpus} is not between 0.01 and 10000")));
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most 10^13 after the check above")]
        Ok((cpus * 1e9).round() as i64)
    }

    /// `n` or `soft:hard`; -1 is no limit.
    fn ulimit(&self, name: &str, limit: &str) -> Result<ResourcesUlimits, LabError> {
        let (soft, hard) = limit.split_once(':').unwrap_or((limit, limit));
        match (soft.parse::<i64>(), hard.parse::<i64>()) {
            (Ok(soft), Ok(hard)) if soft >= -1 && hard >= -1 => {
                Ok(ResourcesUlimits { name: Some(name.to_owned()), soft: Some(soft), hard: Some(hard) })
            }
            _ => Err(self.wrong("ulimits", format!("`{limit}` of `{name}` is not a number or `soft:hard`"))),
        }
    }
}

/// `host` and `container:<id>` networks: what belongs to a network namespace is not the container's own.
fn shares_a_namespace(network: &str) -> bool {
    network == "host" || network.starts_with("container:")
}

/// Characters of `[registry[:port]/]name[:tag][@digest]`; the text becomes part of a request's path.
fn passed_on(propagation: Propagation) -> MountBindOptionsPropagationEnum {
    match propagation {
        Propagation::Shared => MountBindOptionsPropagationEnum::SHARED,
        Propagation::Rshared => MountBindOptionsPropagationEnum::RSHARED,
        Propagation::Slave => MountBindOptionsPropagationEnum::SLAVE,
        Propagation::Rslave => MountBindOptionsPropagationEnum::RSLAVE,
        Propagation::Private => MountBindOptionsPropagationEnum::PRIVATE,
        Propagation::Rprivate => MountBindOptionsPropagationEnum::RPRIVATE,
    }
}

fn is_image_reference(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:@".contains(c))
        && !text.split('/').any(|part| part.is_empty() || part == "." || part == "..")
}

fn all<T>(items: impl Iterator<Item = Result<T, LabError>>) -> Result<Option<Vec<T>>, LabError> {
    let items: Vec<T> = items.collect::<Result<_, _>>()?;
    Ok(if items.is_empty() { None } else { Some(items) })
}

fn some_list<T>(items: impl Iterator<Item = T>) -> Option<Vec<T>> {
    let items: Vec<T> = items.collect();
    if items.is_empty() { None } else { Some(items) }
}

fn some_map(map: &std::collections::BTreeMap<String, String>) -> Option<HashMap<String, String>> {
    if map.is_empty() { None } else { Some(map.clone().into_iter().collect()) }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::{Value, json};

    use super::*;
    use crate::control::{inventory::PortMapping, lab::example};

    fn payload(change: impl FnOnce(&mut Container)) -> Result<Value, LabError> {
        let (lab, host) = ("lab".parse().unwrap(), "a".parse().unwrap());
        let mut container = example::container();
        change(&mut container);
        let body = Subject { lab: &lab, host: &host, container: &container, apparmor: false }.payload()?;
        Ok(serde_json::to_value(body).unwrap())
    }

    #[test]
    fn a_plain_container_asks_for_its_network_its_name_and_a_free_ssh_port() {
        assert_eq!(
            payload(|_| {}).unwrap(),
            json!({
                "Hostname": "a",
                "Image": "ovs-cuisine/ssh:latest",
                "ExposedPorts": {"22/tcp": {}},
                "Labels": {},
                "HostConfig": {
                    "NetworkMode": "lab",
                    "PortBindings": {"22/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
                },
                "NetworkingConfig": {"EndpointsConfig": {"lab": {"Aliases": ["a"]}}},
            })
        );
    }

    #[test]
    fn every_friendly_key_reaches_dockers_own() {
        let found = payload(|container| {
            let mount = |source, target: &str, read_only, propagation| VolumeMount {
                source,
                target: target.into(),
                read_only,
                propagation,
            };
            container.volumes = vec![
                mount(VolumeSource::Named("data".into()), "/srv", false, None),
                mount(VolumeSource::Bind(PathBuf::from("/src")), "/src", true, Some(Propagation::Rshared)),
                mount(VolumeSource::Anonymous, "/cache", false, None),
            ];
            let address = "0.0.0.0".parse().unwrap();
            container.ports = vec![PortMapping { address, host: Some(53), container: 53, udp: true }];
            container.privileged = true;
            container.devices = vec!["/dev/fuse".into(), "/dev/sdb:/dev/xvdb:r".into(), "/dev/kvm:rw".into()];
            container.cap_add = vec!["SYS_ADMIN".into()];
            container.restart = Some("on-failure:3".into());
            container.memory = Some(1 << 30);
            container.cpus = Some(1.5);
            container.tmpfs.insert("/run".into(), "size=1m".into());
            container.ulimits.insert("nofile".into(), "1024:-1".into());
            container.sysctls.insert("net.core.somaxconn".into(), "9".into());
            container.dns = vec!["192.0.2.1".parse().unwrap()];
            container.extra_hosts.insert("there".into(), "192.0.2.2".into());
            container.ssh_port = Some(2222);
            container.aliases = vec!["a".into(), "other".into()];
        })
        .unwrap();
        let device = |outside: &str, inside: &str, rights: &str| json!({"PathOnHost": outside, "PathInContainer": inside, "CgroupPermissions": rights});
        let expected = json!({
            "NetworkMode": "lab",
            "PortBindings": {
                "22/tcp": [{"HostIp": "127.0.0.1", "HostPort": "2222"}],
                "53/udp": [{"HostIp": "0.0.0.0", "HostPort": "53"}],
            },
            "Mounts": [
                {"Type": "volume", "Source": "lab-data", "Target": "/srv"},
                {"Type": "bind", "Source": "/src", "Target": "/src", "ReadOnly": true, "BindOptions": {"Propagation": "rshared"}},
                {"Type": "volume", "Target": "/cache"},
            ],
            "Devices": [
                device("/dev/fuse", "/dev/fuse", "rwm"),
                device("/dev/sdb", "/dev/xvdb", "r"),
                device("/dev/kvm", "/dev/kvm", "rw"),
            ],
            "CapAdd": ["SYS_ADMIN"],
            "Privileged": true,
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
            "Memory": 1 << 30,
            "NanoCpus": 1_500_000_000,
            "Tmpfs": {"/run": "size=1m"},
            "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": -1}],
            "Sysctls": {"net.core.somaxconn": "9"},
            "Dns": ["192.0.2.1"],
            "ExtraHosts": ["there:192.0.2.2"],
        });
        assert_eq!(found["HostConfig"], expected);
        assert_eq!(found["ExposedPorts"], json!({"22/tcp": {}, "53/udp": {}}));
        assert_eq!(found["NetworkingConfig"]["EndpointsConfig"]["lab"]["Aliases"], json!(["a", "other"]));
    }

    #[test]
    fn networks_of_others_get_no_names_ports_or_host_name() {
        let on = |network: &str| payload(|container| container.network = Some(network.to_owned())).unwrap();
        for shared in ["host", "container:x"] {
            let found = on(shared);
            assert!(found.get("Hostname").is_none() && found.get("NetworkingConfig").is_none(), "{shared}");
            assert_eq!(found["HostConfig"], json!({"NetworkMode": shared}));
        }
        assert!(on("bridge").get("NetworkingConfig").is_none(), "the default network has no aliases");
        assert_eq!(on("mine")["NetworkingConfig"]["EndpointsConfig"], json!({"mine": {"Aliases": ["a"]}}));
    }

    #[test]
    fn wrong_settings_are_named() {
        type Change = fn(&mut Container);
        let cases: [(&str, Change); 8] = [
            ("devices", |container| container.devices = vec!["dev/fuse".into()]),
            ("devices", |container| container.devices = vec!["/dev/a:/dev/b:x".into()]),
            ("restart", |container| container.restart = Some("always:3".into())),
            ("restart", |container| container.restart = Some("sometimes".into())),
            ("cpus", |container| container.cpus = Some(f64::NAN)),
            ("ulimits", |container| drop(container.ulimits.insert("nofile".into(), "many".into()))),
            ("image", |container| container.image = "../containers/x".into()),
            ("labels", |container| drop(container.labels.insert("ovs-cuisine.lab".into(), "x".into()))),
        ];
        for (expected, change) in cases {
            match payload(change) {
                Err(LabError::BadSetting { key, .. }) => assert_eq!(key, expected),
                other => panic!("{expected} gave {other:?}"),
            }
        }
    }

    #[test]
    fn docker_itself_has_the_last_word() {
        let found = payload(|container| {
            container.memory = Some(1 << 30);
            container.api = json!({"HostConfig": {"Memory": 5, "PidsLimit": 9}, "StopSignal": "SIGINT"}).into();
        })
        .unwrap();
        assert_eq!((&found["HostConfig"]["Memory"], &found["HostConfig"]["PidsLimit"]), (&json!(5), &json!(9)));
        assert_eq!(found["StopSignal"], "SIGINT");
    }
}
