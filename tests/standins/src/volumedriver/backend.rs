//! The backend must answer before volumes are served: an alba proxy, or a local directory.

use std::{path::Path, thread, time::Duration};

use serde_json::{Value, json};

use super::config::{Config, number};
use crate::{lines, log};

const SECTION: &str = "backend_connection_manager";
const WAIT: Duration = Duration::from_secs(15);

/// Waits for the backend as long as its configuration says, and makes the name space for files there.
pub(crate) fn connect(config: &Config) -> Result<(), String> {
    let section = config.section(SECTION);
    let kind = |section: &Value| section["backend_type"].as_str().unwrap_or("LOCAL").to_owned();
    if kind(section) == "MULTI" {
        let numbered = section.as_object().into_iter().flatten().filter(|(name, _)| name.parse::<u32>().is_ok());
        let backends: Vec<&Value> = numbered.map(|(_, backend)| backend).collect();
        if backends.is_empty() {
            return Err(format!("{SECTION}: MULTI without any backend"));
        }
        // One that answers is enough.
        let mut last = Ok(());
        for backend in backends {
            last = connect_one(config, backend, &kind(backend));
            if last.is_ok() {
                break;
            }
        }
        return last;
    }
    connect_one(config, section, &kind(section))
}

fn connect_one(config: &Config, backend: &Value, kind: &str) -> Result<(), String> {
    match kind {
        "LOCAL" => {
            let path = backend["local_connection_path"].as_str();
            let path =
                path.ok_or("No value for required parameter backend_connection_manager.local_connection_path")?;
            if Path::new(path).is_dir() { Ok(()) } else { Err(format!("local backend: {path} is not a directory")) }
        }
        "ALBA" => alba(config, backend),
        other => Err(format!("{SECTION}: the stand-in has no backend {other}")),
    }
}

fn alba(config: &Config, backend: &Value) -> Result<(), String> {
    let host = backend["alba_connection_host"].as_str().unwrap_or("127.0.0.1");
    let port = number(&backend["alba_connection_port"]).and_then(|port| u16::try_from(port).ok());
    let port = port.ok_or("alba_connection_port is not a port")?;
    let retries = number(&backend["backend_interface_retries_on_error"]).unwrap_or(5);
    let pause = number(&backend["backend_interface_retry_interval_secs"]).unwrap_or(1);
    let mut pause = Duration::from_secs(pause);
    let factor = backend["backend_interface_retry_backoff_multiplier"].as_f64().unwrap_or(2.0);
    let namespace = config.text("file_driver", "fd_namespace")?;
    let request = json!({
        "op": "create_namespace", "namespace": namespace, "preset": backend["alba_connection_preset"],
    });
    let mut attempt = 0;
    loop {
        match lines::call(host, port, &request, WAIT) {
            Ok(_) => return Ok(()),
            Err(error) if error.contains("Namespace_already_exists") => return Ok(()),
            Err(error) if attempt == retries => return Err(format!("alba proxy at {host}:{port}: {error}")),
            Err(error) => log::warning(&format!("alba proxy at {host}:{port}: {error}; again in {pause:?}")),
        }
        // As the real one waits: for a time, not for an event, since nobody tells when a proxy is back.
        thread::sleep(pause);
        pause = pause.mul_f64(factor);
        attempt += 1;
    }
}
