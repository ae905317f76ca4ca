//! The edge: blocks of volumes over TCP, for clients that do not see the mount.

use std::{net::TcpListener, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    storage::Storage,
    takeover,
    volumes::{Volumes, Whereabouts},
};
use crate::lines::{self, Answer, text};

/// The most that one call reads or writes, in bytes.
const LARGEST: u64 = 4 << 20;

/// Serves the volumes at `tcp://host:port`, wherever they are.
pub(crate) fn serve(uri: &str, volumes: &Arc<Volumes>) -> Result<(), String> {
    let place = uri.strip_prefix("tcp://").ok_or_else(|| format!("{uri}: the stand-in has no transport but tcp"))?;
    let (host, port) = place.rsplit_once(':').ok_or_else(|| format!("{uri} has no port"))?;
    let port = port.parse().map_err(|_| format!("{uri} has no port"))?;
    let listeners = lines::listen(&[host.to_owned()], port)?;
    let volumes = Arc::clone(volumes);
    lines::serve(listeners, move |request: &Value| lines::answered(answer(&volumes, request)));
    Ok(())
}

/// Serves other nodes: the volumes of this one.
pub(crate) fn serve_nodes(listeners: Vec<TcpListener>, volumes: &Arc<Volumes>) {
    let volumes = Arc::clone(volumes);
    lines::serve(listeners, move |request: &Value| lines::answered(answer_here(&volumes, request)));
}

/// The name of the volume that a request is about.
fn name(request: &Value) -> Result<&str, String> {
    let volume = text(request, "volume")?.trim_start_matches('/');
    let is_plain = !volume.is_empty() && volume.split('/').all(|part| !["", ".", ".."].contains(&part));
    if is_plain { Ok(volume) } else { Err("bad volume name".to_owned()) }
}

fn answer(volumes: &Volumes, request: &Value) -> Answer {
    match text(request, "op")? {
        "hello" => Ok(json!("volumedriver stand-in")),
        "list" => Ok(json!(volumes.list()?)),
        "create" => create(volumes, request),
        "size" | "read" | "write" => match volumes.find(name(request)?)? {
            Whereabouts::At(owner) => volumes.ask(&owner, request),
            Whereabouts::Here | Whereabouts::Nowhere => answer_here(volumes, request),
        },
        other => Err(format!("unknown op {other}")),
    }
}

fn number(request: &Value, member: &str) -> Result<u64, String> {
    request[member].as_u64().ok_or_else(|| format!("{member} is missing"))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn failed(error: std::io::Error) -> String {
    error.to_string()
}

/// A name without a slash is a volume of the whole cluster.
fn create(volumes: &Volumes, request: &Value) -> Answer {
    let name = name(request)?;
    if !name.contains('/')
        && let Err(owner) = volumes.claim(name)?
    {
        return Err(format!("volume {name} exists: {owner} has it"));
    }
    let file = fs_err::OpenOptions::new().write(true).create_new(true).open(volumes.path(name)).map_err(failed)?;
    volumes.storage.resize(file.file(), number(request, "size")?).map_err(failed)?;
    Ok(Value::Null)
}

fn answer_here(volumes: &Volumes, request: &Value) -> Answer {
    let op = text(request, "op")?;
    if op == "hello" {
        return Ok(json!("volumedriver stand-in"));
    }
    let storage = &volumes.storage;
    let name = name(request)?;
    let open = || {
        let file = fs_err::OpenOptions::new().read(true).write(true).open(volumes.path(name)).map_err(failed)?;
        Ok::<_, String>(file.into_parts().0)
    };
    match op {
        "size" => Ok(json!(open()?.metadata().map_err(failed)?.len())),
        "read" => {
            let length = number(request, "length")?;
            if length > LARGEST {
                return Err(format!("at most {LARGEST} bytes at once"));
            }
            let length = usize::try_from(length).map_err(|error| error.to_string())?;
            let data = Storage::read(&open()?, number(request, "offset")?, length).map_err(failed)?;
            Ok(json!(STANDARD.encode(data)))
        }
        "write" => {
            let data = STANDARD.decode(text(request, "data")?).map_err(|error| error.to_string())?;
            let file = open()?;
            let (offset, length) = (number(request, "offset")?, file.metadata().map_err(failed)?.len());
            if offset.checked_add(data.len() as u64).is_none_or(|end| end > length) {
                return Err("beyond the end of the volume".to_owned());
            }
            storage.write(&file, offset, &data).map_err(|error| format!("errno {}", i32::from(error)))?;
            Ok(Value::Null)
        }
        // What only the mounts of other nodes ask.
        "stat" => volumes.stat(name).map_err(failed),
        "resize" => storage.resize(&open()?, number(request, "size")?).map(|()| Value::Null).map_err(failed),
        "give_up" => takeover::give_up(volumes, name),
        "remove" => {
            storage.remove(&volumes.path(name)).map_err(failed)?;
            volumes.release(name).map(|()| Value::Null)
        }
        other => Err(format!("unknown op {other}")),
    }
}
