//! `alba asd-start`: keeps fragments in one directory.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use super::{
    access::unique_id,
    blobs::Blobs,
    multicast,
    settings::{AsdSettings, Settings as _},
};
use crate::{
    limits,
    lines::{self, Answer, locked},
    log,
    signals::Arrived,
};

/// What the unit of the real one grants.
const FILES: u64 = 8192;
const LONG: Duration = Duration::from_secs(3600);

struct Asd {
    long_id: String,
    node_id: String,
    blobs: Mutex<Blobs>,
    /// The ABM that has claimed it, in a file of its home.
    claimed_by: Mutex<Option<String>>,
    home: std::path::PathBuf,
}

/// Runs until it is told to end.
pub(crate) fn start(url: &str, sinks: &[String]) -> Result<(), String> {
    let settings = AsdSettings::read(url)?;
    log::start("alba asd", sinks, &settings.log_level)?;
    // Before it says that it is there: an early SIGUSR1 must not end it.
    let arrived = Arrived::of(&[SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    log::info("starts; this is a stand-in, not alba");
    let home = &settings.home;
    if !limits::is_writable_directory(home) {
        return Err(format!("home {} is not a directory that I can write", home.display()));
    }
    limits::warn_of_few_files(FILES);
    limits::warn_of_locked_memory();
    if !settings.write_blobs {
        log::warning("blobs are not written says the configuration; the stand-in writes them");
    }
    let long_id = long_id(home, settings.asd_id.as_deref())?;
    let port = settings.port.ok_or("the stand-in speaks no TLS")?;
    let listeners = lines::listen(&settings.ips, port)?;
    let asd = Arc::new(Asd {
        blobs: Mutex::new(Blobs::open(&settings)?),
        claimed_by: Mutex::new(fs_err::read_to_string(home.join("claimed_by")).ok()),
        node_id: settings.node_id.clone(),
        home: home.clone(),
        long_id,
    });
    let own = Arc::clone(&asd);
    lines::serve(listeners, move |request: &Value| lines::answered(own.answer(request)));
    let every = settings.multicast.filter(|every| *every > 0.0).map(Duration::from_secs_f64);
    let me = json!({"long_id": asd.long_id, "node_id": asd.node_id, "ips": settings.ips, "port": port});
    loop {
        if every.is_some() {
            multicast::announce(&me);
        }
        match arrived.next(every.unwrap_or(LONG)) {
            None | Some(SIGHUP) => {}
            Some(SIGUSR1) => asd.reread(url),
            Some(_) => return Ok(()),
        }
    }
}

/// The name of an ASD stays the one that its home was first used with.
fn long_id(home: &Path, configured: Option<&str>) -> Result<String, String> {
    let path = home.join("asd_id");
    let kept = fs_err::read_to_string(&path).ok();
    match (kept, configured) {
        (Some(kept), Some(configured)) if kept != configured => {
            Err(format!("asd_id is {configured}, but {} belongs to {kept}", home.display()))
        }
        (Some(kept), _) => Ok(kept),
        (None, configured) => {
            let id = configured.map_or_else(unique_id, |id| Ok(id.to_owned()))?;
            fs_err::write(&path, &id).map_err(|error| error.to_string())?;
            Ok(id)
        }
    }
}

impl Asd {
    fn answer(&self, request: &Value) -> Answer {
        let key = || lines::text(request, "key");
        match lines::text(request, "op")? {
            "version" => Ok(json!([1, 3, 3, "stand-in"])),
            "who" => {
                Ok(json!({"long_id": self.long_id, "node_id": self.node_id, "claimed_by": *locked(&self.claimed_by)}))
            }
            "statistics" => {
                let blobs = locked(&self.blobs);
                let (used, most) = blobs.usage();
                Ok(json!({"disk_usage": used, "capacity": most, "fragments": blobs.count()}))
            }
            "disk_usage" => Ok(json!(locked(&self.blobs).usage())),
            "claim" => self.claim(lines::text(request, "alba_id")?),
            "put" => {
                let data = STANDARD.decode(lines::text(request, "data")?).map_err(|error| error.to_string())?;
                locked(&self.blobs).put(key()?, &data).map(|()| Value::Null)
            }
            "get" => Ok(json!(STANDARD.encode(locked(&self.blobs).get(key()?)?))),
            "delete" => locked(&self.blobs).delete(key()?).map(|()| Value::Null),
            other => Err(format!("Unknown_operation {other}")),
        }
    }

    fn claim(&self, alba_id: &str) -> Answer {
        let mut claimed_by = locked(&self.claimed_by);
        match claimed_by.as_deref() {
            Some(other) if other != alba_id => return Err(format!("Osd_exn: already claimed by {other}")),
            Some(_) => {}
            None => {
                fs_err::write(self.home.join("claimed_by"), alba_id).map_err(|error| error.to_string())?;
                *claimed_by = Some(alba_id.to_owned());
                log::info(&format!("claimed by {alba_id}"));
            }
        }
        Ok(Value::Null)
    }

    /// Log level and capacity follow the configuration while it runs; nothing else does.
    fn reread(&self, url: &str) {
        let settings = AsdSettings::read(url).and_then(|settings| {
            locked(&self.blobs).resize(&settings)?;
            Ok(settings)
        });
        match settings {
            Ok(settings) => {
                log::set_level(&settings.log_level);
                log::reopen();
                log::info(&format!("configuration read again, log level {}", settings.log_level));
            }
            Err(error) => log::error(&format!("configuration not taken: {error}")),
        }
    }
}
