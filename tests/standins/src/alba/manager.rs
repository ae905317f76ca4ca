//! The plugin `albamgr_plugin`: what the ABM keeps, and how each call changes it.

use serde_json::{Value, json};

use super::preset::Preset;
use crate::{
    arakoon::{Change, Store},
    lines::text,
};

type Outcome = Result<(Value, Vec<Change>), String>;

const ROOT: &str = "abm/";

fn key(kind: &str, name: &str) -> String {
    format!("{ROOT}{kind}/{name}")
}

fn read(store: &Store, kind: &str, name: &str) -> Option<Value> {
    store.get(&key(kind, name)).and_then(|text| serde_json::from_str(text).ok())
}

fn list(store: &Store, kind: &str) -> Vec<(String, Value)> {
    let prefix = key(kind, "");
    let below = store.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
    let read =
        |(key, text): (&String, &String)| Some((key[prefix.len()..].to_owned(), serde_json::from_str(text).ok()?));
    below.filter_map(read).collect()
}

fn set(kind: &str, name: &str, value: &Value) -> Change {
    (key(kind, name), Some(value.to_string()))
}

fn remove(kind: &str, name: &str) -> Change {
    (key(kind, name), None)
}

fn values(store: &Store, kind: &str) -> Value {
    list(store, kind).into_iter().map(|(_, value)| value).collect()
}

/// A message for an OSD or the NSM, kept until it has been delivered. Its number is never used again: two who deliver
/// the same one must not end a later one.
fn message(store: &Store, body: &Value) -> [Change; 2] {
    let next = read(store, "own", "next_message").and_then(|next| next.as_u64()).unwrap_or(0);
    [set("message", &format!("{next:012}"), body), set("own", "next_message", &json!(next + 1))]
}

/// Answers one call of the manager; the changes are written before the answer goes out.
pub(crate) fn answer(store: &Store, request: &Value) -> Outcome {
    let unchanged = |value: Value| Ok((value, Vec::new()));
    match text(request, "op")? {
        "abm.alba_id" => alba_id(store),
        "abm.version" => unchanged(json!([1, 3, 3, "stand-in"])),
        "abm.add_nsm_host" => add_nsm_host(store, request),
        "abm.list_nsm_hosts" => unchanged(values(store, "nsm")),
        "abm.add_osd" => add_osd(store, request),
        "abm.list_osds" => unchanged(values(store, "osd")),
        "abm.claim_osd" => claim_osd(store, request),
        "abm.decommission_osd" => decommission_osd(store, request),
        "abm.forget_osd" => forget_osd(store, request),
        "abm.client_config" => unchanged(read(store, "own", "client_config").unwrap_or(Value::Null)),
        "abm.set_client_config" => {
            Ok((Value::Null, vec![set("own", "client_config", &json!(text(request, "config")?))]))
        }
        "abm.create_namespace" => create_namespace(store, request),
        "abm.list_namespaces" => unchanged(values(store, "namespace")),
        "abm.create_preset" => create_preset(store, request),
        "abm.preset_set_default" => set_default(store, request),
        "abm.list_presets" => unchanged(presets(store)),
        "abm.messages" => unchanged(list(store, "message").into_iter().map(|(id, body)| json!([id, body])).collect()),
        "abm.delivered" => delivered(store, request),
        "abm.maintenance_config" => unchanged(json!({
            "enable_auto_repair": true, "auto_repair_timeout_seconds": 900.0, "auto_repair_disabled_nodes": [],
            "enable_rebalance": true, "cache_eviction_prefix_preset_pairs": {}, "redis_lru_cache_eviction": null,
        })),
        other => Err(format!("Unknown_operation {other}")),
    }
}

fn alba_id(store: &Store) -> Outcome {
    if let Some(id) = read(store, "own", "id") {
        return Ok((id, Vec::new()));
    }
    let id = json!(super::access::unique_id()?);
    let change = set("own", "id", &id);
    Ok((id, vec![change]))
}

fn add_nsm_host(store: &Store, request: &Value) -> Outcome {
    let cluster = &request["cluster_config"];
    let id = text(cluster, "cluster_id")?;
    if read(store, "nsm", id).is_some() {
        return Err(format!("Nsm_host_already_exists: {id}"));
    }
    let host = json!({"id": id, "kind": "arakoon", "lost": false, "namespaces_count": 0, "cluster": cluster});
    Ok((Value::Null, vec![set("nsm", id, &host)]))
}

fn osd(store: &Store, request: &Value) -> Result<(String, Value), String> {
    let long_id = text(request, "long_id")?;
    let osd = read(store, "osd", long_id).ok_or_else(|| format!("Osd_unknown: {long_id}"))?;
    Ok((long_id.to_owned(), osd))
}

fn add_osd(store: &Store, request: &Value) -> Outcome {
    let (long_id, node_id) = (text(request, "long_id")?, text(request, "node_id")?);
    if read(store, "osd", long_id).is_some() {
        return Err(format!("Osd_already_exists: {long_id}"));
    }
    let osd = json!({
        "long_id": long_id, "node_id": node_id, "ips": request["ips"], "port": request["port"], "osd_id": null,
        "claimed": false, "delivered": false, "decommissioned": false,
    });
    Ok((json!({"long_id": long_id}), vec![set("osd", long_id, &osd)]))
}

fn claim_osd(store: &Store, request: &Value) -> Outcome {
    let (long_id, mut osd) = osd(store, request)?;
    if osd["claimed"] == true {
        return Err(format!("Osd_already_claimed: {long_id}"));
    }
    let next = read(store, "own", "next_osd_id").and_then(|next| next.as_u64()).unwrap_or(0);
    osd["claimed"] = json!(true);
    osd["osd_id"] = json!(next);
    let (_, mut changes) = alba_id(store)?;
    changes.push(set("osd", &long_id, &osd));
    changes.push(set("own", "next_osd_id", &json!(next + 1)));
    changes.extend(message(store, &json!({"kind": "claim", "long_id": long_id})));
    Ok((json!(next), changes))
}

fn decommission_osd(store: &Store, request: &Value) -> Outcome {
    let (long_id, mut osd) = osd(store, request)?;
    if osd["claimed"] != true {
        return Err(format!("Osd_not_claimed: {long_id}"));
    }
    if osd["decommissioned"] == true {
        return Err(format!("Osd_already_decommissioned: {long_id}"));
    }
    osd["decommissioned"] = json!(true);
    Ok((Value::Null, vec![set("osd", &long_id, &osd)]))
}

/// Maintenance has moved everything off it.
fn forget_osd(store: &Store, request: &Value) -> Outcome {
    let (long_id, osd) = osd(store, request)?;
    if osd["decommissioned"] != true {
        return Err(format!("Osd_not_decommissioned: {long_id}"));
    }
    Ok((Value::Null, vec![remove("osd", &long_id)]))
}

fn create_namespace(store: &Store, request: &Value) -> Outcome {
    let name = text(request, "namespace")?;
    if read(store, "namespace", name).is_some() {
        return Err(format!("Namespace_already_exists: {name}"));
    }
    let default = read(store, "own", "default_preset").and_then(|name| name.as_str().map(str::to_owned));
    let preset =
        request["preset"].as_str().map_or_else(|| default.unwrap_or_else(|| "default".to_owned()), str::to_owned);
    if preset_named(store, &preset).is_none() {
        return Err(format!("Preset_does_not_exist: {preset}"));
    }
    let hosts = list(store, "nsm").into_iter();
    let host = hosts.min_by_key(|(_, host)| host["namespaces_count"].as_u64());
    let (nsm, mut host) = host.ok_or("Empty_nsm_hosts: no nsm host is registered")?;
    host["namespaces_count"] = json!(host["namespaces_count"].as_u64().unwrap_or(0) + 1);
    let namespace = json!({"name": name, "nsm_host_id": nsm, "preset_name": preset, "state": "creating"});
    let body = json!({"kind": "create_namespace", "namespace": name, "nsm_host_id": nsm});
    let mut changes = vec![set("namespace", name, &namespace), set("nsm", &nsm, &host)];
    changes.extend(message(store, &body));
    Ok((namespace, changes))
}

fn preset_named(store: &Store, name: &str) -> Option<Value> {
    let built_in = (name == "default").then(Preset::default_value);
    read(store, "preset", name).or(built_in)
}

fn create_preset(store: &Store, request: &Value) -> Outcome {
    let name = text(request, "name")?;
    if preset_named(store, name).is_some() {
        return Err(format!("Preset_already_exists: {name}"));
    }
    Preset::parse(request["preset"].clone())?;
    Ok((Value::Null, vec![set("preset", name, &request["preset"])]))
}

fn set_default(store: &Store, request: &Value) -> Outcome {
    let name = text(request, "name")?;
    if preset_named(store, name).is_none() {
        return Err(format!("Preset_does_not_exist: {name}"));
    }
    Ok((Value::Null, vec![set("own", "default_preset", &json!(name))]))
}

fn presets(store: &Store) -> Value {
    let default = read(store, "own", "default_preset").unwrap_or_else(|| json!("default"));
    let mut all = list(store, "preset");
    if !all.iter().any(|(name, _)| name == "default") {
        all.insert(0, ("default".to_owned(), Preset::default_value()));
    }
    let one =
        |(name, preset): (String, Value)| json!({"name": name, "is_default": json!(name) == default, "preset": preset});
    all.into_iter().map(one).collect()
}

/// A message has reached its end: what waited for it is now so.
fn delivered(store: &Store, request: &Value) -> Outcome {
    let id = text(request, "id")?;
    let Some(body) = read(store, "message", id) else {
        // Somebody else has delivered it too.
        return Ok((Value::Null, Vec::new()));
    };
    let mut changes = vec![remove("message", id)];
    if let Some(long_id) = body["long_id"].as_str()
        && let Some(mut osd) = read(store, "osd", long_id)
    {
        osd["delivered"] = json!(true);
        changes.push(set("osd", long_id, &osd));
    }
    if let Some(name) = body["namespace"].as_str()
        && let Some(mut namespace) = read(store, "namespace", name)
    {
        namespace["state"] = json!("active");
        changes.push(set("namespace", name, &namespace));
    }
    Ok((Value::Null, changes))
}
