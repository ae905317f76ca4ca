//! `alba maintenance`: delivers messages, finds ASDs, and moves data off OSDs that are to go.

use std::{
    net::UdpSocket,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use super::{
    access::{Manager, Osd},
    command::period,
    delivery, multicast, placement,
    proxy::read_chunk,
    settings::{MaintenanceSettings, Settings as _},
};
use crate::{
    arakoon::Client,
    limits,
    lines::{locked, text},
    log,
    signals::Arrived,
};

/// What the unit of the real one grants.
const FILES: u64 = 8192;
/// How often it looks for work.
const ROUND: Duration = Duration::from_secs(1);

/// Runs until it is told to end.
pub(crate) fn start(url: &str, sinks: &[String]) -> Result<(), String> {
    let mut settings = MaintenanceSettings::read(url)?;
    log::start("alba maintenance", sinks, &settings.log_level)?;
    // Before it says that it is there: an early SIGUSR1 must not end it.
    let arrived = Arrived::of(&[SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    log::info("starts; this is a stand-in, not alba");
    limits::warn_of_few_files(FILES);
    let manager = Arc::new(Mutex::new(Manager::read(&settings.albamgr_cfg_url)?));
    if let Some(socket) = multicast::listen() {
        let manager = Arc::clone(&manager);
        thread::spawn(move || discover(&socket, &manager));
    }
    let mut read = Instant::now();
    loop {
        match arrived.next(ROUND) {
            None | Some(SIGHUP) => {}
            Some(SIGUSR1) => {
                match MaintenanceSettings::read(url) {
                    Ok(again) => settings = again,
                    Err(error) => log::error(&format!("configuration not taken: {error}")),
                }
                log::set_level(&settings.log_level);
                log::reopen();
                log::info(&format!("configuration read again, log level {}", settings.log_level));
                take_manager(&manager, &settings, &mut read);
            }
            Some(_) => return Ok(()),
        }
        if read.elapsed() >= period() {
            take_manager(&manager, &settings, &mut read);
        }
        let current = locked(&manager).clone();
        if let Err(error) = delivery::deliver(&current).and_then(|_| drain(&current)) {
            log::warning(&error);
        }
    }
}

fn take_manager(manager: &Mutex<Manager>, settings: &MaintenanceSettings, read: &mut Instant) {
    *read = Instant::now();
    match Manager::read(&settings.albamgr_cfg_url) {
        Ok(again) => *locked(manager) = again,
        Err(error) => log::error(&format!("configuration of the ABM not taken: {error}")),
    }
}

/// Registers the ASDs that announce themselves.
fn discover(socket: &UdpSocket, manager: &Mutex<Manager>) {
    loop {
        let Some(asd) = multicast::heard(socket, None) else { continue };
        let current = locked(manager).clone();
        let known = current.osds().is_ok_and(|osds| osds.iter().any(|osd| asd["long_id"] == json!(osd.long_id)));
        if !known && current.call("add_osd", asd.clone()).is_ok() {
            log::info(&format!("found osd {}", asd["long_id"]));
        }
    }
}

/// Moves the fragments off decommissioned OSDs, and lets those go that hold none any more.
fn drain(manager: &Manager) -> Result<(), String> {
    let osds = manager.osds()?;
    let leaving: Vec<&Osd> = osds.iter().filter(|osd| osd.decommissioned).collect();
    if leaving.is_empty() {
        return Ok(());
    }
    let hosts = manager.get("list_nsm_hosts")?;
    for host in hosts.as_array().into_iter().flatten() {
        let nsm = manager.nsm(text(host, "id")?)?;
        let all = nsm.call(&json!({"op": "nsm.all"}))?;
        for object in all.as_array().into_iter().flatten() {
            move_object(&nsm, &osds, object)?;
        }
    }
    for osd in leaving {
        manager.call("forget_osd", json!({"long_id": osd.long_id}))?;
        log::info(&format!("osd {} is empty and gone", osd.long_id));
    }
    Ok(())
}

/// Gives an object's fragments on leaving OSDs a new place. `object` is `[namespace, name, manifest]`.
fn move_object(nsm: &Client, osds: &[Osd], object: &Value) -> Result<(), String> {
    let is_leaving =
        |fragment: &Value| osds.iter().any(|osd| osd.decommissioned && fragment["osd"] == json!(osd.long_id));
    let mut manifest = object[2].clone();
    let [.., least, most] = serde_json::from_value::<[usize; 4]>(manifest["policy"].clone()).unwrap_or([1, 0, 1, 1]);
    let mut moved = false;
    for (number, chunk) in manifest["chunks"].as_array_mut().into_iter().flatten().enumerate() {
        let old = chunk["fragments"].as_array().cloned().unwrap_or_default();
        let (leaving, mut staying): (Vec<Value>, Vec<Value>) = old.into_iter().partition(is_leaving);
        if leaving.is_empty() {
            continue;
        }
        let data = STANDARD.encode(read_chunk(osds, chunk)?);
        for fragment in &leaving {
            let key = format!("{}-r{number}", text(fragment, "key")?);
            let Some(place) = new_place(osds, &staying, most, number) else {
                // With fewer OSDs a chunk has fewer fragments, as long as its policy is content.
                if staying.len() >= least {
                    continue;
                }
                return Err("no OSD is left for a fragment of a leaving one".to_owned());
            };
            place.ask(&json!({"op": "put", "key": key, "data": data}))?;
            staying.push(json!({"osd": place.long_id, "key": key}));
        }
        chunk["fragments"] = json!(staying);
        moved = true;
    }
    if moved {
        nsm.call(&json!({
            "op": "nsm.replace", "namespace": object[0], "name": object[1], "old": object[2], "manifest": manifest,
        }))?;
        log::info(&format!("moved fragments of {} in {}", object[1], object[0]));
    }
    Ok(())
}

/// An OSD that has no fragment of this chunk, on a node that has not too many.
fn new_place<'a>(osds: &'a [Osd], staying: &[Value], most: usize, turn: usize) -> Option<&'a Osd> {
    let usable: Vec<Osd> = osds.iter().filter(|osd| osd.is_usable()).cloned().collect();
    let holds = |osd: &Osd| staying.iter().any(|fragment| fragment["osd"] == json!(osd.long_id));
    let on_node = |node: &str| osds.iter().filter(|osd| osd.node_id == node && holds(osd)).count();
    let free = placement::order(&usable, turn).into_iter().find(|osd| !holds(osd) && on_node(&osd.node_id) < most)?;
    osds.iter().find(|osd| osd.long_id == free.long_id)
}
