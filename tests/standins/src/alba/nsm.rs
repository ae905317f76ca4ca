//! The plugin `nsm_host_plugin`: name spaces and the manifests of their objects.

use serde_json::{Value, json};

use crate::{
    arakoon::{Change, Store},
    lines::text,
};

type Outcome = Result<(Value, Vec<Change>), String>;

/// Splits the parts of a key; no name has it.
const SPLIT: char = '\0';

fn namespace_key(name: &str) -> String {
    format!("nsm/namespace/{name}")
}

fn object_key(namespace: &str, name: &str) -> String {
    format!("nsm/object/{namespace}{SPLIT}{name}")
}

fn objects<'a>(store: &'a Store, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str, Value)> {
    let below = store.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix));
    below.filter_map(|(key, manifest)| {
        let (namespace, name) = key.strip_prefix("nsm/object/")?.split_once(SPLIT)?;
        Some((namespace, name, serde_json::from_str(manifest).ok()?))
    })
}

/// Answers one call of the name space manager; the changes are written before the answer goes out.
pub(crate) fn answer(store: &Store, request: &Value) -> Outcome {
    let unchanged = |value: Value| Ok((value, Vec::new()));
    match text(request, "op")? {
        "nsm.version" => unchanged(json!([1, 3, 3, "stand-in"])),
        "nsm.create_namespace" => {
            let change = (namespace_key(text(request, "namespace")?), Some("{}".to_owned()));
            Ok((Value::Null, vec![change]))
        }
        "nsm.statistics" => {
            let namespaces = store.keys().filter(|key| key.starts_with("nsm/namespace/")).count();
            unchanged(json!({"namespaces": namespaces, "objects": objects(store, "nsm/object/").count()}))
        }
        "nsm.put" => {
            let object = object(store, request)?;
            Ok((Value::Null, vec![(object, Some(request["manifest"].to_string()))]))
        }
        "nsm.get" => unchanged(manifest(store, &object(store, request)?)?),
        "nsm.delete" => {
            let object = object(store, request)?;
            Ok((manifest(store, &object)?, vec![(object, None)]))
        }
        "nsm.replace" => {
            let object = object(store, request)?;
            if manifest(store, &object)? != request["old"] {
                return Err("Old_manifest_mismatch".to_owned());
            }
            Ok((Value::Null, vec![(object, Some(request["manifest"].to_string()))]))
        }
        "nsm.list" => {
            let prefix = object_key(text(request, "namespace")?, "");
            unchanged(objects(store, &prefix).map(|(_, name, _)| json!(name)).collect())
        }
        "nsm.all" => {
            let all = objects(store, "nsm/object/");
            unchanged(all.map(|(namespace, name, manifest)| json!([namespace, name, manifest])).collect())
        }
        other => Err(format!("Unknown_operation {other}")),
    }
}

fn object(store: &Store, request: &Value) -> Result<String, String> {
    let namespace = text(request, "namespace")?;
    if !store.contains_key(&namespace_key(namespace)) {
        return Err(format!("Namespace_id_not_found: {namespace}"));
    }
    Ok(object_key(namespace, text(request, "name")?))
}

fn manifest(store: &Store, object: &str) -> Result<Value, String> {
    let manifest = store.get(object).and_then(|text| serde_json::from_str(text).ok());
    manifest.ok_or_else(|| "Object_not_found".to_owned())
}
