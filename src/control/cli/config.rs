//! `config get` and `config diff`: the configuration in etcd.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    args, deploy,
    failure::{Exit, Failure},
    output,
    run::Lab,
};
use crate::control::drive::{self, Events, Fleet};

pub(super) async fn config(args: args::Config, verbose: u8) -> Result<Exit, Failure> {
    match args {
        args::Config::Get { inventory, key, json } => get(&Lab::load(&inventory)?, key.as_deref(), json).await,
        args::Config::Diff(plan) => deploy::config_diff(plan, verbose).await,
    }
}

async fn get(lab: &Lab, key: Option<&str>, as_json: bool) -> Result<Exit, Failure> {
    let keyring = drive::open_keyring(&lab.inventory)?;
    let (events, _inbox) = Events::channel();
    let fleet =
        std::sync::Arc::new(Fleet::new(lab.inventory.clone(), keyring.clone(), events, None, CancellationToken::new()));
    let store = drive::read_only_store(&fleet, &lab.inventory, &lab.library, &keyring).await?;
    let key = absolute_key(&lab.inventory.lab.prefix, key.unwrap_or_default());
    let mut entries = store.get(&key).await?;
    // `get` is by prefix; a key without `/` at its end means just that key.
    if !key.ends_with('/') {
        entries.retain(|entry| entry.key == key);
    }
    fleet.close().await;
    if entries.is_empty() {
        return Err(Failure::bad_input(format!("etcd has no key `{key}`"))
            .hint("list all keys: ovs-cuisine config get INVENTORY"));
    }
    let one = entries.len() == 1 && !key.ends_with('/');
    for entry in entries {
        let value = String::from_utf8_lossy(&entry.value);
        let text = if as_json {
            format!("{}\n", json!({"schema": 1, "key": entry.key, "value": value, "revision": entry.revision}))
        } else if one {
            value.into_owned()
        } else {
            format!("{}\n{}", entry.key, indented(&value))
        };
        output::result(&text)?;
    }
    Ok(Exit::Done)
}

/// Keys are relative to the lab's prefix unless they begin with `/`.
fn absolute_key(prefix: &str, key: &str) -> String {
    if key.starts_with('/') { key.to_owned() } else { format!("{prefix}{key}") }
}

fn indented(value: &str) -> String {
    value.lines().flat_map(|line| ["    ", line, "\n"]).collect()
}
