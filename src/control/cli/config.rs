//! `config get`, `config set` and `config diff`: the configuration in etcd. The others are in [`super::history`].

use std::sync::Arc;

use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

use super::{
    args, deploy,
    failure::{Exit, Failure},
    history, output,
    run::Lab,
};
use crate::{
    control::{
        config::Store,
        drive::{self, Events, Fleet},
    },
    plan::Action,
};

pub(super) async fn config(args: args::Config, verbose: u8) -> Result<Exit, Failure> {
    match args {
        args::Config::Get { inventory, key, json } => get(&Lab::load(&inventory)?, key.as_deref(), json).await,
        args::Config::Set { inventory, key, value, force } => {
            set(&Lab::load(&inventory)?, &key, &text_of(value)?, force).await
        }
        args::Config::Diff(plan) => deploy::config_diff(plan, verbose).await,
        args::Config::History(args) => history::history(args).await,
        args::Config::Rollback(args) => history::rollback(args).await,
    }
}

/// The lab's store, reached for one command, and the way there.
pub(super) struct Opened {
    pub(super) fleet: Arc<Fleet>,
    pub(super) store: Arc<Store>,
}

pub(super) async fn opened(lab: &Lab) -> Result<Opened, Failure> {
    let keyring = drive::open_keyring(&lab.inventory)?;
    let (events, _inbox) = Events::channel();
    let fleet = Fleet::new(lab.inventory.clone(), keyring.clone(), events, None, CancellationToken::new());
    let fleet = Arc::new(fleet);
    let store = drive::store_of(&fleet, &lab.inventory, &lab.library, &keyring).await?;
    Ok(Opened { fleet, store })
}

async fn get(lab: &Lab, key: Option<&str>, as_json: bool) -> Result<Exit, Failure> {
    let Opened { fleet, store } = opened(lab).await?;
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

async fn set(lab: &Lab, key: &str, value: &str, force: bool) -> Result<Exit, Failure> {
    let (key, member) = key.split_once('|').map_or((key, None), |(key, member)| (key, Some(member)));
    let key = absolute_key(&lab.inventory.lab.prefix, key);
    let Opened { fleet, store } = opened(lab).await?;
    let held = store.get_key(&key).await?;
    let before = held.as_ref().map_or(0, |entry| entry.revision);
    let held = held.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
    let wanted = match member {
        Some(member) => with_member(&key, held.as_deref(), member, value)?,
        None => value.to_owned(),
    };
    let is_json = |text: &str| serde_json::from_str::<Json>(text).is_ok();
    if !force && held.as_deref().is_some_and(is_json) && !is_json(&wanted) {
        return Err(Failure::bad_input(format!("`{key}` holds JSON, and this value is not JSON"))
            .hint("quote a text as JSON does, such as '\"text\"', or give --force"));
    }
    let edited = store.set_key(&key, wanted.as_bytes(), before).await?;
    fleet.close().await;
    let Some(action) = edited.action else {
        output::result(&format!("{key} is so already\n"))?;
        return Ok(Exit::Done);
    };
    let verb = if action == Action::Create { "created" } else { "changed" };
    output::result(&format!("{key} {verb} (revision {})\n", edited.revision))?;
    if let Some(owner) = edited.owner {
        output::progress(&format!("the next deploy of component {owner} sets it back to what its recipe wants"));
    }
    Ok(Exit::Done)
}

/// A JSON value with one of its members set: `a.b` is the member `b` of the member `a`.
fn with_member(key: &str, held: Option<&str>, member: &str, value: &str) -> Result<String, Failure> {
    let held = held.ok_or_else(|| {
        Failure::bad_input(format!("etcd has no key `{key}`")).hint("set the whole value first, without `|`")
    })?;
    let mut whole: Json = serde_json::from_str(held)
        .map_err(|error| Failure::bad_input(format!("`{key}` does not hold JSON, so it has no members: {error}")))?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Json::String(value.to_owned()));
    let mut place = &mut whole;
    for name in member.split('.') {
        let members = place
            .as_object_mut()
            .filter(|_| !name.is_empty())
            .ok_or_else(|| Failure::bad_input(format!("`{key}` has no place for the member `{member}`")))?;
        place = members.entry(name).or_insert_with(|| json!({}));
    }
    *place = value;
    Ok(whole.to_string())
}

/// The value itself, or standard input for `-`, without its last newline.
fn text_of(value: String) -> Result<String, Failure> {
    if value != "-" {
        return Ok(value);
    }
    let text = std::io::read_to_string(std::io::stdin())
        .map_err(|error| Failure::internal("cannot read standard input", error))?;
    Ok(text.strip_suffix('\n').map_or_else(|| text.clone(), str::to_owned))
}

/// Keys are relative to the lab's prefix unless they begin with `/`.
fn absolute_key(prefix: &str, key: &str) -> String {
    if key.starts_with('/') { key.to_owned() } else { format!("{prefix}{key}") }
}

fn indented(value: &str) -> String {
    value.lines().flat_map(|line| ["    ", line, "\n"]).collect()
}
