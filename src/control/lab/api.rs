//! `container.api`: Docker's own create payload, laid over the friendly keys.
//!
//! The engine (and bollard) silently ignore a key they do not know, so a misspelt limit would be no limit. Here it is an
//! error that names the key and the one that was probably meant.

use bollard::models::{
    ContainerCreateBody, DeviceMapping, DeviceRequest, EndpointIpamConfig, EndpointSettings, HealthConfig, HostConfig,
    HostConfigLogConfig, Mount, MountBindOptions, MountTmpfsOptions, MountVolumeOptions, NetworkingConfig, PortBinding,
    ResourcesUlimits, RestartPolicy, ThrottleDevice,
};
use serde::{Deserialize, de};
use serde_json::Value;

use super::LabError;
use crate::plan::HostName;

/// The friendly payload with `api` laid over it: objects are merged, everything else (arrays too) is replaced, `null`
/// takes a key away. Unknown keys and wrong types are errors.
pub(super) fn merged(
    host: &HostName,
    friendly: &ContainerCreateBody,
    api: &Value,
) -> Result<ContainerCreateBody, LabError> {
    let wrong = |why: String| LabError::BadSetting { host: host.clone(), key: "api".to_owned(), why };
    if !api.is_object() && !api.is_null() {
        return Err(wrong("not a table".to_owned()));
    }
    let mut payload = serde_json::to_value(friendly).map_err(|error| wrong(error.to_string()))?;
    if let Some(object) = api.as_object().filter(|object| !object.is_empty()) {
        merge(&mut payload, &Value::Object(object.clone()));
    }
    let mut unknown = None;
    let body = serde_ignored::deserialize(payload, |path| {
        unknown.get_or_insert_with(|| plain_path(&path));
    })
    .map_err(|error: serde_json::Error| wrong(error.to_string()))?;
    match unknown {
        None => Ok(body),
        Some(path) => Err(LabError::UnknownField { host: host.clone(), nearest: nearest(&path), path }),
    }
}

fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.shift_remove(key);
                } else {
                    merge(base.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// `HostConfig.Mounts.0.Typo`; `serde_ignored` writes `?` for each `Option` on the way.
fn plain_path(path: &serde_ignored::Path<'_>) -> String {
    let text = path.to_string();
    text.split('.').filter(|part| *part != "?").collect::<Vec<_>>().join(".")
}

/// The known key beside `path` that looks most like it, as a whole path.
fn nearest(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('.').collect();
    let (wrong, parents) = parts.split_last()?;
    let closest = fields_of(parents)
        .iter()
        .map(|field| (strsim::jaro_winkler(&field.to_lowercase(), &wrong.to_lowercase()), *field))
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .filter(|(likeness, _)| *likeness > 0.8)?
        .1;
    Some(parents.iter().chain([&closest]).copied().collect::<Vec<_>>().join("."))
}

/// Keys of the payload's part that `path` leads to; none for parts whose keys are free or that nobody misspells.
fn fields_of(path: &[&str]) -> &'static [&'static str] {
    match path {
        [] => fields::<ContainerCreateBody>(),
        ["Healthcheck"] => fields::<HealthConfig>(),
        ["NetworkingConfig"] => fields::<NetworkingConfig>(),
        ["NetworkingConfig", "EndpointsConfig", _] => fields::<EndpointSettings>(),
        ["NetworkingConfig", "EndpointsConfig", _, "IPAMConfig"] => fields::<EndpointIpamConfig>(),
        ["HostConfig"] => fields::<HostConfig>(),
        ["HostConfig", "RestartPolicy"] => fields::<RestartPolicy>(),
        ["HostConfig", "LogConfig"] => fields::<HostConfigLogConfig>(),
        ["HostConfig", "Mounts", _] => fields::<Mount>(),
        ["HostConfig", "Mounts", _, "BindOptions"] => fields::<MountBindOptions>(),
        ["HostConfig", "Mounts", _, "VolumeOptions"] => fields::<MountVolumeOptions>(),
        ["HostConfig", "Mounts", _, "TmpfsOptions"] => fields::<MountTmpfsOptions>(),
        ["HostConfig", "Devices", _] => fields::<DeviceMapping>(),
        ["HostConfig", "DeviceRequests", _] => fields::<DeviceRequest>(),
        ["HostConfig", "Ulimits", _] => fields::<ResourcesUlimits>(),
        ["HostConfig", "PortBindings", _, _] => fields::<PortBinding>(),
        ["HostConfig", "BlkioDeviceReadBps" | "BlkioDeviceWriteBps", _] => fields::<ThrottleDevice>(),
        _ => &[],
    }
}

/// The key names that a derived `Deserialize` announces.
fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // Always an error: the reader only notes what it is asked for.
    let _ = T::deserialize(FieldNames(&mut names));
    names
}

struct FieldNames<'n>(&'n mut &'static [&'static str]);

impl<'de> de::Deserializer<'de> for FieldNames<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: de::Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("only names of fields are read"))
    }

    fn deserialize_struct<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(api: &Value) -> Result<ContainerCreateBody, LabError> {
        let friendly = ContainerCreateBody {
            image: Some("image".into()),
            env: Some(vec!["A=1".into()]),
            host_config: Some(HostConfig { memory: Some(1), privileged: Some(true), ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        merged(&"a".parse().unwrap(), &friendly, api)
    }

    #[test]
    fn objects_are_merged_lists_replaced_and_null_takes_away() {
        let body = with(&json!({"Env": ["B=2"], "HostConfig": {"PidsLimit": 7, "Memory": null}})).unwrap();
        assert_eq!(body.env.unwrap(), ["B=2"]);
        let host = body.host_config.unwrap();
        assert_eq!((host.pids_limit, host.memory, host.privileged), (Some(7), None, Some(true)));
        assert_eq!(body.image.unwrap(), "image");
        assert!(with(&Value::Null).is_ok() && with(&json!({})).is_ok());
    }

    #[test]
    fn unknown_keys_are_named_with_the_one_that_was_meant() {
        for (api, path, meant) in [
            (json!({"HostConfig": {"Memry": 1}}), "HostConfig.Memry", Some("HostConfig.Memory")),
            (json!({"hostconfig": {}}), "hostconfig", Some("HostConfig")),
            (
                json!({"HostConfig": {"Mounts": [{"Targt": "/x"}]}}),
                "HostConfig.Mounts.0.Targt",
                Some("HostConfig.Mounts.0.Target"),
            ),
            (json!({"Zebra": 1}), "Zebra", None),
        ] {
            match with(&api) {
                Err(LabError::UnknownField { path: found, nearest, .. }) => {
                    assert_eq!((found.as_str(), nearest.as_deref()), (path, meant));
                }
                other => panic!("{api} gave {other:?}"),
            }
        }
    }

    #[test]
    fn wrong_types_are_errors() {
        for api in [json!({"HostConfig": {"Memory": "much"}}), json!([1]), json!({"Image": 3})] {
            assert!(matches!(with(&api), Err(LabError::BadSetting { .. })), "{api} must be refused");
        }
    }
}
