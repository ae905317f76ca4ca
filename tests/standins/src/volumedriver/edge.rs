//! The edge: blocks of volumes over TCP, for clients that do not see the mount.

use std::{path::PathBuf, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::storage::Storage;
use crate::lines::{self, Answer, text};

/// The most that one call reads or writes, in bytes.
const LARGEST: u64 = 4 << 20;

/// Serves the volumes at `tcp://host:port`.
pub(crate) fn serve(uri: &str, storage: &Arc<Storage>) -> Result<(), String> {
    let place = uri.strip_prefix("tcp://").ok_or_else(|| format!("{uri}: the stand-in has no transport but tcp"))?;
    let (host, port) = place.rsplit_once(':').ok_or_else(|| format!("{uri} has no port"))?;
    let port = port.parse().map_err(|_| format!("{uri} has no port"))?;
    let listeners = lines::listen(&[host.to_owned()], port)?;
    let storage = Arc::clone(storage);
    lines::serve(listeners, move |request: &Value| lines::answered(answer(&storage, request)));
    Ok(())
}

fn path(storage: &Storage, request: &Value) -> Result<PathBuf, String> {
    let volume = text(request, "volume")?.trim_start_matches('/');
    let is_plain = !volume.is_empty() && volume.split('/').all(|part| !["", ".", ".."].contains(&part));
    if is_plain {
        Ok(storage.root.join(format!("{volume}{}", storage.suffix)))
    } else {
        Err("bad volume name".to_owned())
    }
}

fn answer(storage: &Storage, request: &Value) -> Answer {
    let number = |member: &str| request[member].as_u64().ok_or_else(|| format!("{member} is missing"));
    let failed = |error: std::io::Error| error.to_string();
    let open = || {
        let file = fs_err::OpenOptions::new().read(true).write(true).open(path(storage, request)?).map_err(failed)?;
        Ok::<_, String>(file.into_parts().0)
    };
    match text(request, "op")? {
        "hello" => Ok(json!("volumedriver stand-in")),
        "list" => Ok(json!(storage.volumes())),
        "create" => {
            let path = path(storage, request)?;
            let file = fs_err::OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
            storage.resize(file.file(), number("size")?).map_err(failed)?;
            Ok(Value::Null)
        }
        "size" => Ok(json!(open()?.metadata().map_err(failed)?.len())),
        "read" => {
            let length = number("length")?;
            if length > LARGEST {
                return Err(format!("at most {LARGEST} bytes at once"));
            }
            let length = usize::try_from(length).map_err(|error| error.to_string())?;
            let data = Storage::read(&open()?, number("offset")?, length).map_err(failed)?;
            Ok(json!(STANDARD.encode(data)))
        }
        "write" => {
            let data = STANDARD.decode(text(request, "data")?).map_err(|error| error.to_string())?;
            let file = open()?;
            let (offset, length) = (number("offset")?, file.metadata().map_err(failed)?.len());
            if offset.checked_add(data.len() as u64).is_none_or(|end| end > length) {
                return Err("beyond the end of the volume".to_owned());
            }
            storage.write(&file, offset, &data).map_err(|error| format!("errno {}", i32::from(error)))?;
            Ok(Value::Null)
        }
        other => Err(format!("unknown op {other}")),
    }
}
