//! `alba proxy-start`: takes whole objects and spreads them over the OSDs.
//!
//! Fragments are whole copies of a chunk, not erasure codes: any one of them is enough to read it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use super::{
    access::{Manager, Osd, unique_id},
    command::period,
    delivery, placement,
    preset::{Policy, Preset},
    settings::{ProxySettings, Settings as _},
};
use crate::{
    config_url::ConfigUrl,
    limits,
    lines::{self, Answer, locked, text},
    log,
    signals::Arrived,
};

/// What the unit of the real one grants.
const FILES: u64 = 8192;

struct Proxy {
    manager: Mutex<Manager>,
    read_preference: Vec<String>,
    uploads: AtomicUsize,
    downloads: AtomicUsize,
}

/// Runs until it is told to end.
pub(crate) fn start(url: &str, sinks: &[String]) -> Result<(), String> {
    let settings = ProxySettings::read(url)?;
    log::start("alba proxy", sinks, &settings.log_level)?;
    // Before it says that it is there: an early SIGUSR1 must not end it.
    let arrived = Arrived::of(&[SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    log::info("starts; this is a stand-in, not alba");
    limits::warn_of_few_files(FILES);
    limits::warn_of_locked_memory();
    let manager_url = settings.manager_url()?;
    let proxy = Arc::new(Proxy {
        manager: Mutex::new(Manager::read(manager_url)?),
        read_preference: settings.read_preference.clone(),
        uploads: AtomicUsize::new(0),
        downloads: AtomicUsize::new(0),
    });
    let listeners = lines::listen(&settings.ips, settings.port)?;
    let own = Arc::clone(&proxy);
    lines::serve(listeners, move |request: &Value| lines::answered(own.answer(request)));
    loop {
        match arrived.next(period()) {
            None => proxy.refresh(manager_url),
            Some(SIGHUP) => {}
            Some(SIGUSR1) => proxy.reread(url),
            Some(_) => return Ok(()),
        }
    }
}

impl Proxy {
    /// Replaces the own copy of the ABM's configuration by what the ABM hands out to clients, as the real one does.
    fn refresh(&self, url: &str) {
        let manager = locked(&self.manager).clone();
        let text = match manager.get("client_config") {
            Ok(Value::String(text)) => text,
            Ok(_) => manager.client.cluster.client_ini(),
            Err(error) => return log::warning(&format!("client configuration of the ABM: {error}")),
        };
        if let Err(error) = ConfigUrl::of_arakoon(url).and_then(|url| url.write(&text)) {
            log::warning(&format!("client configuration of the ABM not written: {error}"));
        }
        self.take_manager(url);
    }

    fn take_manager(&self, url: &str) {
        match Manager::read(url) {
            Ok(manager) => *locked(&self.manager) = manager,
            Err(error) => log::error(&format!("configuration of the ABM not taken: {error}")),
        }
    }

    fn reread(&self, url: &str) {
        match ProxySettings::read(url) {
            Ok(settings) => {
                log::set_level(&settings.log_level);
                log::reopen();
                log::info(&format!("configuration read again, log level {}", settings.log_level));
                if let Ok(manager_url) = settings.manager_url() {
                    self.take_manager(manager_url);
                }
            }
            Err(error) => log::error(&format!("configuration not taken: {error}")),
        }
    }

    fn answer(&self, request: &Value) -> Answer {
        let manager = locked(&self.manager).clone();
        let namespace = || text(request, "namespace");
        let on_object = |op: &str| {
            let (nsm, _) = manager.namespace(namespace()?)?;
            nsm.call(&json!({"op": op, "namespace": namespace()?, "name": text(request, "name")?}))
        };
        match text(request, "op")? {
            "version" => Ok(json!([1, 3, 3, "stand-in"])),
            "statistics" => {
                let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
                Ok(json!({"uploads": count(&self.uploads), "downloads": count(&self.downloads)}))
            }
            "osd_info" => manager.get("list_osds"),
            "list_namespaces" => manager.get("list_namespaces"),
            "create_namespace" => {
                let made = manager.call("create_namespace", request.clone())?;
                delivery::deliver(&manager)?;
                Ok(made)
            }
            "upload" => self.upload(&manager, request),
            "download" => self.download(&manager, request),
            "list_objects" => {
                let (nsm, _) = manager.namespace(namespace()?)?;
                nsm.call(&json!({"op": "nsm.list", "namespace": namespace()?}))
            }
            "delete_object" => on_object("nsm.delete").map(|manifest| {
                drop_fragments(&manager, &manifest);
                Value::Null
            }),
            other => Err(format!("Unknown_operation {other}")),
        }
    }

    fn upload(&self, manager: &Manager, request: &Value) -> Answer {
        let (nsm, preset) = manager.namespace(text(request, "namespace")?)?;
        let preset = Preset::parse(preset)?;
        let data = fs_err::read(text(request, "file")?).map_err(|error| error.to_string())?;
        let turn = self.uploads.fetch_add(1, Ordering::Relaxed);
        let osds: Vec<Osd> = manager.osds()?.into_iter().filter(Osd::is_usable).collect();
        let policy = placement::choose(&preset.policies, &osds).ok_or("No_satisfiable_policy")?;
        let object = unique_id()?;
        let mut chunks = Vec::new();
        for (number, part) in data.chunks(preset.fragment_size).enumerate() {
            let name = format!("{object}-{number}");
            let fragments = spread(&placement::order(&osds, turn), policy, &name, part)?;
            chunks.push(json!({"size": part.len(), "fragments": fragments}));
        }
        let manifest = json!({"object_id": object, "size": data.len(), "policy": policy, "chunks": chunks});
        let put = json!({
            "op": "nsm.put", "namespace": request["namespace"], "name": text(request, "name")?, "manifest": manifest,
        });
        nsm.call(&put)?;
        Ok(manifest)
    }

    fn download(&self, manager: &Manager, request: &Value) -> Answer {
        let (nsm, _) = manager.namespace(text(request, "namespace")?)?;
        let get = json!({"op": "nsm.get", "namespace": request["namespace"], "name": text(request, "name")?});
        let manifest = nsm.call(&get)?;
        let mut osds = manager.osds()?;
        // Near nodes first, in the order of the configuration; others keep their order behind them.
        let place = |osd: &Osd| self.read_preference.iter().position(|node| *node == osd.node_id).unwrap_or(usize::MAX);
        osds.sort_by_key(place);
        let mut data = Vec::new();
        for chunk in manifest["chunks"].as_array().into_iter().flatten() {
            data.extend(read_chunk(&osds, chunk)?);
        }
        if json!(data.len()) != manifest["size"] {
            return Err("NotEnoughFragments: the object is not whole".to_owned());
        }
        fs_err::write(text(request, "file")?, &data).map_err(|error| error.to_string())?;
        self.downloads.fetch_add(1, Ordering::Relaxed);
        Ok(json!({"size": data.len()}))
    }
}

/// Puts up to k + m copies on the OSDs, at most `max_per_node` on one node; fails with fewer than `min_fragments`.
fn spread(osds: &[&Osd], policy: Policy, name: &str, data: &[u8]) -> Result<Vec<Value>, String> {
    let (k, m, least, most) = policy;
    let data = STANDARD.encode(data);
    let mut placed: Vec<(&Osd, Value)> = Vec::new();
    let mut failure = String::new();
    for osd in osds {
        if placed.len() == k + m || placed.iter().filter(|(other, _)| other.node_id == osd.node_id).count() == most {
            continue;
        }
        let key = format!("{name}-{}", placed.len());
        match osd.ask(&json!({"op": "put", "key": key, "data": data})) {
            Ok(_) => placed.push((osd, json!({"osd": osd.long_id, "key": key}))),
            Err(error) => {
                log::warning(&format!("osd {}: {error}", osd.long_id));
                failure = error;
            }
        }
    }
    if placed.len() < least {
        return Err(format!("Too few OSDs took a fragment: {} of {least}: {failure}", placed.len()));
    }
    Ok(placed.into_iter().map(|(_, fragment)| fragment).collect())
}

/// The data of a chunk, from the first OSD that has it.
pub(crate) fn read_chunk(osds: &[Osd], chunk: &Value) -> Result<Vec<u8>, String> {
    let fragments = chunk["fragments"].as_array().cloned().unwrap_or_default();
    for osd in osds {
        let Some(fragment) = fragments.iter().find(|fragment| fragment["osd"] == json!(osd.long_id)) else { continue };
        let data = osd.ask(&json!({"op": "get", "key": fragment["key"]}));
        let data =
            data.and_then(|data| STANDARD.decode(data.as_str().unwrap_or("")).map_err(|error| error.to_string()));
        match data {
            Ok(data) if json!(data.len()) == chunk["size"] => return Ok(data),
            Ok(_) => log::warning(&format!("osd {}: a fragment is cut short", osd.long_id)),
            Err(error) => log::warning(&format!("osd {}: {error}", osd.long_id)),
        }
    }
    Err("NotEnoughFragments".to_owned())
}

fn drop_fragments(manager: &Manager, manifest: &Value) {
    let osds = manager.osds().unwrap_or_default();
    for chunk in manifest["chunks"].as_array().into_iter().flatten() {
        for fragment in chunk["fragments"].as_array().into_iter().flatten() {
            if let Some(osd) = osds.iter().find(|osd| fragment["osd"] == json!(osd.long_id)) {
                // What stays behind costs space only.
                osd.ask(&json!({"op": "delete", "key": fragment["key"]})).ok();
            }
        }
    }
}
