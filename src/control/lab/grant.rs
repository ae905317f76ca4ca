//! What containers may do beyond the rights of a bare one: for systemd as process 1, for FUSE, or because they are asked to.
//! The least that works, by device and capability; everything (`privileged`) only for who asks for it.

use std::collections::BTreeMap;

use bollard::models::ContainerCreateBody;

use super::{payload::Subject, sight::Wanted};
use crate::control::inventory::Init;

/// Mounting takes this capability: a FUSE file system, and the control groups of systemd.
const MOUNT: &str = "SYS_ADMIN";
const FUSE: &str = "/dev/fuse";
const UNCONFINED: &str = "apparmor=unconfined";

/// The signal that asks systemd, process 1, for an orderly end; systemd(1).
pub(super) const SYSTEMD_STOP: &str = "SIGRTMIN+3";

/// Told to `systemd-init` of the image, which gives the capability up unless it is asked for by somebody else.
const KEEP: &str = "OVS_CUISINE_KEEP=sys_admin";

/// Directories that systemd wants in memory, with the options of a usual machine. Docker's own say `noexec`.
const IN_MEMORY: [(&str, &str); 3] = [
    ("/run", "rw,nosuid,nodev,exec,mode=755"),
    ("/run/lock", "rw,nosuid,nodev,noexec,mode=1777"),
    ("/tmp", "rw,nosuid,nodev,exec,mode=1777"),
];

/// What a container may do beyond the rights of a bare one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants {
    /// Devices, capabilities and security options, such as `/dev/fuse` and `SYS_ADMIN`.
    pub what: Vec<String>,
    /// All devices and capabilities.
    pub privileged: bool,
}

impl Subject<'_> {
    pub(super) fn is_systemd(&self) -> bool {
        self.container.init == Init::Systemd
    }

    /// Whether it mounts file systems also after its start.
    fn keeps_mounting(&self) -> bool {
        let container = self.container;
        let names = [MOUNT, "CAP_SYS_ADMIN", "ALL"];
        container.fuse
            || container.privileged
            || container.cap_add.iter().any(|capability| names.contains(&capability.as_str()))
    }

    /// Whether a right is to be added; a privileged container has all of them.
    fn mounts(&self) -> bool {
        !self.container.privileged && (self.container.fuse || self.is_systemd())
    }

    pub(super) fn environment(&self) -> Option<Vec<String>> {
        let given = self.container.environment.iter().map(|(name, value)| format!("{name}={value}"));
        let keep = (self.is_systemd() && self.keeps_mounting()).then(|| KEEP.to_owned());
        let all: Vec<String> = given.chain(keep).collect();
        if all.is_empty() { None } else { Some(all) }
    }

    pub(super) fn devices(&self) -> Vec<String> {
        let mut devices = self.container.devices.clone();
        let is_fuse = |device: &String| device == FUSE || device.starts_with("/dev/fuse:");
        if self.container.fuse && !self.container.privileged && !devices.iter().any(is_fuse) {
            devices.push(FUSE.to_owned());
        }
        devices
    }

    pub(super) fn capabilities(&self) -> Vec<String> {
        let mut capabilities = self.container.cap_add.clone();
        let has = |name: &str| self.container.cap_add.iter().any(|capability| capability == name);
        if self.mounts() && !has(MOUNT) && !has("CAP_SYS_ADMIN") && !has("ALL") {
            capabilities.push(MOUNT.to_owned());
        }
        capabilities
    }

    pub(super) fn security_options(&self) -> Vec<String> {
        let mut options = self.container.security_opt.clone();
        let says = |option: &String| option.starts_with("apparmor");
        if self.apparmor && self.mounts() && !options.iter().any(says) {
            options.push(UNCONFINED.to_owned());
        }
        options
    }

    /// Directories in memory: those of systemd, as far as nothing else is mounted there, and the inventory's own.
    pub(super) fn tmpfs(&self) -> BTreeMap<String, String> {
        let mut all = self.container.tmpfs.clone();
        let is_mounted = |path: &str| self.container.volumes.iter().any(|mount| mount.target == path);
        for (path, options) in IN_MEMORY.iter().filter(|(path, _)| self.is_systemd() && !is_mounted(path)) {
            all.entry((*path).to_owned()).or_insert_with(|| (*options).to_owned());
        }
        all
    }
}

impl Wanted<'_> {
    /// What is granted, read from what is sent to the engine, whoever put it there.
    pub(super) fn grants(&self) -> Option<Grants> {
        grants(&self.subject, &self.body)
    }
}

fn grants(subject: &Subject<'_>, body: &ContainerCreateBody) -> Option<Grants> {
    let config = body.host_config.as_ref()?;
    let privileged = config.privileged == Some(true);
    let devices = config.devices.iter().flatten().filter_map(|device| device.path_on_host.clone());
    let given_up = subject.is_systemd() && !subject.keeps_mounting();
    let capability = |name: &String| {
        if given_up && name == MOUNT { format!("{MOUNT} until systemd begins") } else { name.clone() }
    };
    let capabilities = config.cap_add.iter().flatten().map(capability);
    let options = config.security_opt.iter().flatten().cloned();
    let what: Vec<String> = devices.chain(capabilities).chain(options).collect();
    (privileged || !what.is_empty()).then_some(Grants { what, privileged })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::control::{inventory::Container, lab::example};

    fn sent(apparmor: bool, change: impl FnOnce(&mut Container)) -> (Value, Option<Grants>) {
        let (lab, host) = ("lab".parse().unwrap(), "a".parse().unwrap());
        let mut container = example::container();
        change(&mut container);
        let subject = Subject { lab: &lab, host: &host, container: &container, apparmor };
        let body = subject.payload().unwrap();
        let granted = grants(&subject, &body);
        (serde_json::to_value(body).unwrap(), granted)
    }

    fn granted(what: &[&str], privileged: bool) -> Grants {
        Grants { what: what.iter().map(|text| (*text).to_owned()).collect(), privileged }
    }

    #[test]
    fn fuse_is_a_device_and_a_capability_and_no_more() {
        let (body, grants) = sent(false, |container| container.fuse = true);
        let config = &body["HostConfig"];
        let device = json!([{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"}]);
        assert_eq!((&config["Devices"], &config["CapAdd"]), (&device, &json!(["SYS_ADMIN"])));
        assert!(config.get("Privileged").is_none() && config.get("SecurityOpt").is_none(), "{config}");
        assert_eq!(grants, Some(granted(&["/dev/fuse", "SYS_ADMIN"], false)));

        let (body, grants) = sent(true, |container| container.fuse = true);
        assert_eq!(body["HostConfig"]["SecurityOpt"], json!(["apparmor=unconfined"]));
        assert_eq!(grants, Some(granted(&["/dev/fuse", "SYS_ADMIN", "apparmor=unconfined"], false)));

        // What the inventory says already is not said twice.
        let (body, _) = sent(true, |container| {
            container.fuse = true;
            container.devices = vec!["/dev/fuse:rw".into()];
            container.cap_add = vec!["SYS_ADMIN".into()];
            container.security_opt = vec!["apparmor=own-profile".into()];
        });
        let config = &body["HostConfig"];
        assert_eq!(config["Devices"].as_array().unwrap().len(), 1);
        assert_eq!(
            (&config["CapAdd"], &config["SecurityOpt"]),
            (&json!(["SYS_ADMIN"]), &json!(["apparmor=own-profile"]))
        );
        assert_eq!(sent(true, |_| {}).1, None, "a bare container is granted nothing");
    }

    #[test]
    fn privileged_is_sent_when_asked_for_and_makes_the_rest_needless() {
        let (body, grants) = sent(true, |container| {
            container.privileged = true;
            container.fuse = true;
        });
        let config = &body["HostConfig"];
        assert_eq!(config["Privileged"], true);
        assert!(["Devices", "CapAdd", "SecurityOpt"].iter().all(|key| config.get(*key).is_none()), "{config}");
        assert_eq!(grants, Some(granted(&[], true)));
    }

    #[test]
    fn systemd_gets_control_groups_of_its_own_and_directories_in_memory() {
        let (body, grants) = sent(false, |container| container.init = Init::Systemd);
        let config = &body["HostConfig"];
        assert_eq!((&config["CgroupnsMode"], &config["CapAdd"]), (&json!("private"), &json!(["SYS_ADMIN"])));
        assert_eq!(body["StopSignal"], "SIGRTMIN+3");
        assert!(body.get("Env").is_none() && config.get("Privileged").is_none());
        assert_eq!(config["Tmpfs"].as_object().unwrap().keys().count(), 3);
        assert_eq!(grants, Some(granted(&["SYS_ADMIN until systemd begins"], false)));

        let (body, grants) = sent(false, |container| {
            container.init = Init::Systemd;
            container.fuse = true;
            container.tmpfs.insert("/run".into(), "size=1m".into());
        });
        assert_eq!(body["Env"], json!(["OVS_CUISINE_KEEP=sys_admin"]), "FUSE mounts later, too");
        assert_eq!(body["HostConfig"]["Tmpfs"]["/run"], "size=1m");
        assert_eq!(grants, Some(granted(&["/dev/fuse", "SYS_ADMIN"], false)));
    }
}
