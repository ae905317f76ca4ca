//! A container for tests.

use std::collections::BTreeMap;

use crate::control::inventory::{Container, Init};

/// A container with nothing but an image and a user.
pub(super) fn container() -> Container {
    Container {
        image: super::SSH_IMAGE.to_owned(),
        init: Init::Runit,
        fuse: false,
        volumes: Vec::new(),
        ports: Vec::new(),
        environment: BTreeMap::new().into(),
        devices: Vec::new(),
        cap_add: Vec::new(),
        cap_drop: Vec::new(),
        security_opt: Vec::new(),
        privileged: false,
        network: None,
        address: None,
        aliases: Vec::new(),
        hostname: None,
        restart: None,
        memory: None,
        cpus: None,
        tmpfs: BTreeMap::new(),
        ulimits: BTreeMap::new(),
        sysctls: BTreeMap::new(),
        dns: Vec::new(),
        extra_hosts: BTreeMap::new(),
        labels: BTreeMap::new(),
        command: None,
        ssh_port: None,
        user: "root".to_owned(),
        api: serde_json::Value::Null.into(),
    }
}
