//! Everything that a container is created from, and its digest: a container with another digest is made anew.

use std::collections::BTreeMap;

use bollard::models::ContainerCreateBody;
use serde_json::Value;

use super::{LabError, access::AccessKeys, names, payload::Subject};
use crate::plan::HostName;

/// Changes when the meaning of the same payload changes, so that containers of older versions are made anew.
const SPEC_VERSION: &str = "1";

/// A container as it should be. Has no `Debug`: its environment may hold secrets.
pub(super) struct Spec {
    pub(super) host: HostName,
    /// With our labels.
    pub(super) body: ContainerCreateBody,
    /// Hexadecimal BLAKE3.
    pub(super) digest: String,
    /// Setting to a short digest of its value.
    parts: BTreeMap<String, String>,
    pub(super) keys: AccessKeys,
}

impl Spec {
    /// `body` is the subject's payload, `image_id` what its image's tag means now.
    pub(super) fn new(
        subject: Subject<'_>,
        mut body: ContainerCreateBody,
        image_id: &str,
        keys: AccessKeys,
    ) -> Result<Self, LabError> {
        let mut payload = serde_json::to_value(&body).map_err(|error| LabError::BadSetting {
            host: subject.host.clone(),
            key: "api".to_owned(),
            why: error.to_string(),
        })?;
        if subject.container.address.is_some() {
            leave_out_address(&mut payload, &subject.network());
        }
        let mut parts = settings(&payload);
        parts.insert("image".to_owned(), short(&Value::from(image_id)));
        parts.insert("keys".to_owned(), short(&Value::from(vec![keys.authorized(), keys.host_public()])));
        parts.insert("user".to_owned(), short(&Value::from(subject.container.user.as_str())));
        // A tag is only a name for the image; that another tag means the same image changes nothing.
        parts.remove("Image");
        let digest = blake3::hash(format!("{SPEC_VERSION},{}", written(&parts)).as_bytes()).to_hex().to_string();
        let labels = body.labels.get_or_insert_default();
        let ours = [
            (names::LAB, subject.lab.to_string()),
            (names::HOST, subject.host.to_string()),
            (names::SPEC, digest.clone()),
            (names::PARTS, written(&parts)),
            (names::VERSION, env!("CARGO_PKG_VERSION").to_owned()),
        ];
        labels.extend(ours.map(|(name, value)| (name.to_owned(), value)));
        Ok(Self { host: subject.host.clone(), body, digest, parts, keys })
    }

    /// What differs from a container with these labels, in words: `image changed`. None when nothing does.
    pub(super) fn difference(&self, labels: &BTreeMap<String, String>) -> Option<String> {
        if labels.get(names::SPEC) == Some(&self.digest) {
            return None;
        }
        let there = labels.get(names::PARTS).map(|text| read(text)).unwrap_or_default();
        let ours = self.parts.iter().map(|(name, digest)| (name.as_str(), digest.as_str()));
        let ours: BTreeMap<&str, &str> = ours.collect();
        let mut differing: Vec<&str> = ours
            .iter()
            .filter(|(name, digest)| there.get(*name) != Some(*digest))
            .map(|(name, _)| *name)
            .chain(there.keys().filter(|name| !ours.contains_key(*name)).copied())
            .map(friendly)
            .collect();
        differing.sort_unstable();
        differing.dedup();
        Some(match differing[..] {
            [] => "made by another version".to_owned(),
            _ if there.is_empty() => "made by another version".to_owned(),
            [.., _] if differing.len() > 4 => format!("{} settings changed", differing.len()),
            [ref first @ .., last] if !first.is_empty() => format!("{} and {last} changed", first.join(", ")),
            [.., only] => format!("{only} changed"),
        })
    }
}

/// An address is not part of what a container is made from: one that has it already, by its host's name, need not be made
/// anew when the inventory says it, too. What it has is compared with the engine.
fn leave_out_address(payload: &mut Value, network: &str) {
    let endpoint = payload.pointer_mut("/NetworkingConfig/EndpointsConfig").and_then(|all| all.get_mut(network));
    let Some(endpoint) = endpoint.and_then(Value::as_object_mut) else { return };
    if let Some(Value::Object(asked)) = endpoint.get_mut("IPAMConfig") {
        asked.shift_remove("IPv4Address");
        if asked.is_empty() {
            endpoint.shift_remove("IPAMConfig");
        }
    }
}

/// Digests of the payload's settings: its own keys and those of `HostConfig`.
fn settings(payload: &Value) -> BTreeMap<String, String> {
    let mut parts = BTreeMap::new();
    for (key, value) in payload.as_object().into_iter().flatten() {
        match value {
            Value::Object(inner) if key == "HostConfig" => {
                parts.extend(inner.iter().map(|(name, value)| (format!("{key}.{name}"), short(value))));
            }
            // No label is as good as none at all.
            Value::Object(inner) if inner.is_empty() => {}
            value => {
                parts.insert(key.clone(), short(value));
            }
        }
    }
    parts
}

/// 16 hexadecimal digits of the value's BLAKE3, whatever the order of its keys.
fn short(value: &Value) -> String {
    blake3::hash(sorted(value).to_string().as_bytes()).to_hex()[..16].to_owned()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let by_key: BTreeMap<&String, Value> = object.iter().map(|(key, value)| (key, sorted(value))).collect();
            Value::Object(by_key.into_iter().map(|(key, value)| (key.clone(), value)).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

fn written(parts: &BTreeMap<String, String>) -> String {
    parts.iter().map(|(name, digest)| format!("{name}={digest}")).collect::<Vec<_>>().join(",")
}

fn read(text: &str) -> BTreeMap<&str, &str> {
    text.split(',').filter_map(|part| part.split_once('=')).collect()
}

/// The inventory's word for a key of Docker's.
fn friendly(key: &str) -> &str {
    match key {
        "Env" => "environment",
        "Cmd" => "command",
        "Hostname" => "hostname",
        "Labels" => "labels",
        "ExposedPorts" | "HostConfig.PortBindings" => "ports",
        "NetworkingConfig" | "HostConfig.NetworkMode" => "network",
        "HostConfig.Mounts" => "volumes",
        "HostConfig.Memory" => "memory",
        "HostConfig.NanoCpus" => "cpus",
        "HostConfig.Devices" => "devices",
        "HostConfig.CapAdd" => "cap_add",
        "HostConfig.CapDrop" => "cap_drop",
        "HostConfig.SecurityOpt" => "security_opt",
        "HostConfig.Privileged" => "privileged",
        "HostConfig.RestartPolicy" => "restart",
        "HostConfig.Tmpfs" => "tmpfs",
        "HostConfig.Ulimits" => "ulimits",
        "HostConfig.Sysctls" => "sysctls",
        "HostConfig.Dns" => "dns",
        "HostConfig.ExtraHosts" => "extra_hosts",
        other => other.strip_prefix("HostConfig.").unwrap_or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::lab::example;

    fn spec(container: &crate::control::inventory::Container, image_id: &str, key: &str) -> Spec {
        let (lab, host) = ("lab".parse().unwrap(), "a".parse().unwrap());
        let subject = Subject { lab: &lab, host: &host, container, apparmor: false };
        let keys = AccessKeys::example(key);
        Spec::new(subject, subject.payload().unwrap(), image_id, keys).unwrap()
    }

    fn labels(spec: &Spec) -> BTreeMap<String, String> {
        spec.body.labels.clone().unwrap().into_iter().collect()
    }

    #[test]
    fn the_same_container_has_the_same_digest_each_time() {
        let mut container = example::container();
        for number in 0..20 {
            container.environment.0.insert(format!("NAME{number}"), "value".into());
            container.sysctls.insert(format!("net.x{number}"), "1".into());
            container.labels.insert(format!("label{number}"), "1".into());
        }
        let first = spec(&container, "sha256:1", "key");
        for _ in 0..20 {
            let again = spec(&container, "sha256:1", "key");
            assert_eq!(again.digest, first.digest);
            assert_eq!(again.difference(&labels(&first)), None);
        }
    }

    #[test]
    fn a_difference_is_named_in_the_inventorys_words() {
        let old = spec(&example::container(), "sha256:1", "key");
        let there = labels(&old);
        let difference = |container, image: &str, key: &str| spec(&container, image, key).difference(&there).unwrap();
        assert_eq!(difference(example::container(), "sha256:2", "key"), "image changed");
        assert_eq!(difference(example::container(), "sha256:1", "other"), "keys changed");
        let mut container = example::container();
        container.memory = Some(1 << 30);
        assert_eq!(difference(container.clone(), "sha256:1", "key"), "memory changed");
        container.environment.0.insert("A".into(), "1".into());
        assert_eq!(difference(container, "sha256:1", "key"), "environment and memory changed");
        let unlike = old.difference(&BTreeMap::from([(names::SPEC.to_owned(), "?".to_owned())]));
        assert_eq!(unlike.unwrap(), "made by another version");
    }

    #[test]
    fn an_address_is_no_difference_and_what_else_is_asked_for_is() {
        let old = spec(&example::container(), "sha256:1", "key");
        let mut container = example::container();
        container.address = Some("172.30.5.11".parse().unwrap());
        let given = spec(&container, "sha256:1", "key");
        assert_eq!(given.difference(&labels(&old)), None);
        let asked = given.body.networking_config.unwrap().endpoints_config.unwrap()["lab"].ipam_config.clone();
        assert_eq!(asked.unwrap().ipv4_address.as_deref(), Some("172.30.5.11"));
        let link = serde_json::json!({"LinkLocalIPs": ["169.254.34.68"]});
        container.api =
            serde_json::json!({"NetworkingConfig": {"EndpointsConfig": {"lab": {"IPAMConfig": link}}}}).into();
        assert_eq!(spec(&container, "sha256:1", "key").difference(&labels(&old)).unwrap(), "network changed");
    }

    #[test]
    fn another_tag_of_the_same_image_changes_nothing() {
        let old = spec(&example::container(), "sha256:1", "key");
        let mut container = example::container();
        container.image = "other:tag".into();
        assert_eq!(spec(&container, "sha256:1", "key").difference(&labels(&old)), None);
    }
}
