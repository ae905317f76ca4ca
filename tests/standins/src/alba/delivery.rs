//! Messages that wait in the ABM for OSDs and NSM hosts, and who carries them there.

use serde_json::{Value, json};

use super::access::Manager;
use crate::{lines::text, log};

/// Delivers what can be delivered, and gives the number. What cannot stays for the next time.
pub(crate) fn deliver(manager: &Manager) -> Result<usize, String> {
    let messages = manager.get("messages")?;
    let mut count = 0;
    for message in messages.as_array().into_iter().flatten() {
        match deliver_one(manager, &message[1]) {
            Ok(()) => {
                manager.call("delivered", json!({"id": message[0]}))?;
                count += 1;
            }
            Err(error) => log::warning(&format!("message {} waits: {error}", message[1])),
        }
    }
    Ok(count)
}

fn deliver_one(manager: &Manager, message: &Value) -> Result<(), String> {
    match text(message, "kind")? {
        "claim" => {
            let alba_id = manager.get("alba_id")?;
            let osds = manager.osds()?;
            let osd = osds.iter().find(|osd| message["long_id"] == json!(osd.long_id)).ok_or("Osd_unknown")?;
            osd.ask(&json!({"op": "claim", "alba_id": alba_id})).map(|_| ())
        }
        "create_namespace" => {
            let nsm = manager.nsm(text(message, "nsm_host_id")?)?;
            nsm.call(&json!({"op": "nsm.create_namespace", "namespace": message["namespace"]})).map(|_| ())
        }
        other => Err(format!("unknown message {other}")),
    }
}
