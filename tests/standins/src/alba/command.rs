//! The program `alba`: its sub-commands, what they print, and how they end.

use std::{
    io::{Read as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use serde_json::{Value, json};

use super::{access::Manager, arguments::Arguments, asd, delivery, libraries, maintenance, multicast, proxy};
use crate::{arakoon::Cluster, config_url::ConfigUrl, lines, log};

/// Sub-commands that failed, without `--to-json`.
const FAILED: u8 = 2;
/// The command line was not understood.
const MISUSED: u8 = 124;
/// The dynamic loader's own.
const NOT_LOADED: u8 = 127;

const PROXY_PORT: u16 = 10000;
const ASD_PORT: u16 = 8000;
const WAIT: Duration = Duration::from_secs(60);

/// How often the ABM's configuration is looked at. Tests shorten it by `OVS_STANDIN_PERIOD_SECS`.
pub(crate) fn period() -> Duration {
    const USUAL: u64 = 60;
    let given = std::env::var("OVS_STANDIN_PERIOD_SECS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(given.unwrap_or(USUAL))
}

/// What a sub-command is about; named in the errors of `--to-json`.
#[derive(Clone, Copy)]
enum About {
    Manager,
    Nsm,
    Osd,
    Proxy,
}

enum Failure {
    Misused(String),
    Failed(About, String),
}

type Result<T> = std::result::Result<T, Failure>;

/// Runs `alba` with these arguments, without the program's own name.
#[must_use]
pub fn main(words: &[String]) -> ExitCode {
    if let Err(text) = libraries::check() {
        writeln!(std::io::stderr(), "/usr/bin/alba: {text}").ok();
        return ExitCode::from(NOT_LOADED);
    }
    let arguments = match Arguments::parse(words.get(1..).unwrap_or(&[])) {
        Ok(arguments) => arguments,
        Err(text) => return end(MISUSED, &format!("alba stand-in: {text}")),
    };
    let name = words.first().map_or("--help", String::as_str);
    match run(name, &arguments) {
        Ok(value) => {
            let value = if arguments.has("to-json") { json!({"success": true, "result": value}) } else { value };
            print(&value);
            ExitCode::SUCCESS
        }
        Err(Failure::Misused(text)) => end(MISUSED, &format!("alba stand-in: {text}")),
        Err(Failure::Failed(about, text)) if arguments.has("to-json") => {
            let kind = match about {
                About::Manager => "Albamgr_protocol.Protocol.Error.Albamgr_exn",
                About::Nsm => "Nsm_model.Err.Nsm_exn",
                About::Osd => "Asd_protocol.Protocol.Error.Exn",
                About::Proxy => "Proxy_protocol.Protocol.Error.Exn",
            };
            // The codes of the real one are not known here; only that there is one.
            print(&json!({"success": false, "error": {"message": text, "exception_type": kind, "exception_code": 1}}));
            ExitCode::SUCCESS
        }
        Err(Failure::Failed(_, text)) => end(FAILED, &format!("alba stand-in: {text}")),
    }
}

fn end(code: u8, text: &str) -> ExitCode {
    writeln!(std::io::stderr(), "{text}").ok();
    ExitCode::from(code)
}

fn print(value: &Value) {
    let text = match value {
        Value::Null => return,
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    writeln!(std::io::stdout(), "{text}").ok();
}

fn misused(text: String) -> Failure {
    Failure::Misused(text)
}

fn run(name: &str, arguments: &Arguments) -> Result<Value> {
    match name {
        "--version" | "version" => Ok(json!("1.3.3\nthis is a stand-in, not alba")),
        "asd-start" | "proxy-start" | "maintenance" => daemon(name, arguments),
        _ if name.starts_with("asd-") => asd_command(name, arguments),
        _ if name.starts_with("proxy-") => proxy_command(name, arguments),
        _ => manager_command(name, arguments),
    }
}

fn daemon(name: &str, arguments: &Arguments) -> Result<Value> {
    let (url, sinks) = (arguments.required("config").map_err(misused)?, arguments.all("log-sink"));
    let (ended, about) = match name {
        "asd-start" => (asd::start(url, sinks), About::Osd),
        "proxy-start" => (proxy::start(url, sinks), About::Proxy),
        _ => (maintenance::start(url, sinks), About::Manager),
    };
    ended.map(|()| Value::Null).map_err(|text| Failure::Failed(about, text))
}

fn asd_command(name: &str, arguments: &Arguments) -> Result<Value> {
    let fail = |text: String| Failure::Failed(About::Osd, text);
    if name == "asd-discovery" {
        let socket = multicast::listen().ok_or_else(|| fail("cannot listen".to_owned()))?;
        return multicast::heard(&socket, Some(WAIT)).ok_or_else(|| fail("nobody was heard".to_owned()));
    }
    let op = match name {
        "asd-get-version" => "version",
        "asd-statistics" => "statistics",
        "asd-disk-usage" => "disk_usage",
        _ => return Err(Failure::Misused(format!("unknown command `{name}'."))),
    };
    let host = arguments.get("host").unwrap_or("");
    let port = arguments.port(ASD_PORT).map_err(misused)?;
    lines::call(host, port, &json!({"op": op}), WAIT).map_err(fail)
}

fn proxy_command(name: &str, arguments: &Arguments) -> Result<Value> {
    let word = |place, what| arguments.word(place, what).map_err(misused);
    let request = match name {
        "proxy-get-version" => json!({"op": "version"}),
        "proxy-statistics" => json!({"op": "statistics"}),
        "proxy-osd-info" => json!({"op": "osd_info"}),
        "proxy-list-namespaces" => json!({"op": "list_namespaces"}),
        "proxy-create-namespace" => {
            json!({"op": "create_namespace", "namespace": word(0, "NAMESPACE")?, "preset": arguments.words.get(1)})
        }
        "proxy-list-objects" => json!({"op": "list_objects", "namespace": word(0, "NAMESPACE")?}),
        "proxy-delete-object" => {
            json!({"op": "delete_object", "namespace": word(0, "NAMESPACE")?, "name": word(1, "OBJECT")?})
        }
        // The proxy reads and writes the file itself: a path of its own host.
        "proxy-upload-object" => json!({
            "op": "upload", "namespace": word(0, "NAMESPACE")?, "file": absolute(word(1, "FILE")?), "name": word(2, "OBJECT")?,
        }),
        "proxy-download-object" => json!({
            "op": "download", "namespace": word(0, "NAMESPACE")?, "name": word(1, "OBJECT")?, "file": absolute(word(2, "FILE")?),
        }),
        _ => return Err(Failure::Misused(format!("unknown command `{name}'."))),
    };
    let host = arguments.get("host").unwrap_or("::1");
    let port = arguments.port(PROXY_PORT).map_err(misused)?;
    let answer = lines::call(host, port, &request, WAIT).map_err(|text| Failure::Failed(About::Proxy, text))?;
    let is_silent = name.starts_with("proxy-create") || name.ends_with("-object");
    Ok(if is_silent { Value::Null } else { answer })
}

fn absolute(path: &str) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    here.join(path).display().to_string()
}

fn manager_command(name: &str, arguments: &Arguments) -> Result<Value> {
    const KNOWN: [&str; 20] = [
        "get-alba-id",
        "mgr-get-version",
        "list-nsm-hosts",
        "add-nsm-host",
        "update-abm-client-config",
        "get-abm-client-config",
        "nsm-host-statistics",
        "add-osd",
        "claim-osd",
        "list-osds",
        "list-available-osds",
        "list-decommissioning-osds",
        "decommission-osd",
        "deliver-messages",
        "get-maintenance-config",
        "list-namespaces",
        "create-namespace",
        "create-preset",
        "preset-set-default",
        "list-presets",
    ];
    if !KNOWN.contains(&name) {
        return Err(Failure::Misused(format!("unknown command `{name}'.")));
    }
    let from_environment = std::env::var("ALBA_CONFIG").ok();
    let url = arguments.get("config").or(from_environment.as_deref());
    let url = url.ok_or_else(|| misused("required option --config is missing".to_owned()))?;
    ask_manager(&Manager::read(url).map_err(failed)?, name, arguments)
}

fn failed(text: String) -> Failure {
    Failure::Failed(About::Manager, text)
}

fn ask_manager(manager: &Manager, name: &str, arguments: &Arguments) -> Result<Value> {
    let get = |op: &str| manager.get(op).map_err(failed);
    let call = |op: &str, members: Value| manager.call(op, members).map_err(failed);
    let long_id = || Ok(json!({"long_id": arguments.required("long-id").map_err(misused)?}));
    let word = |what| arguments.word(0, what).map_err(misused);
    match name {
        "get-alba-id" => get("alba_id").map(|id| json!({"id": id})),
        "mgr-get-version" => get("version"),
        "list-nsm-hosts" => get("list_nsm_hosts"),
        "add-nsm-host" => {
            let text = ConfigUrl::of_arakoon(word("NSM_URL")?).and_then(|url| url.read()).map_err(failed)?;
            let cluster = Cluster::parse(&text).map_err(failed)?;
            call("add_nsm_host", json!({"cluster_config": cluster.to_json()}))
        }
        "update-abm-client-config" => call("set_client_config", json!({"config": manager.client.cluster.client_ini()})),
        "get-abm-client-config" => get("client_config"),
        "nsm-host-statistics" => {
            let nsm = manager.nsm(word("NSM_HOST")?).map_err(failed)?;
            nsm.call(&json!({"op": "nsm.statistics"})).map_err(|text| Failure::Failed(About::Nsm, text))
        }
        "add-osd" => add_osd(manager, arguments),
        "claim-osd" => call("claim_osd", long_id()?),
        "decommission-osd" => call("decommission_osd", long_id()?),
        "list-osds" => osds(manager, |_| true),
        "list-available-osds" => osds(manager, |osd| osd["claimed"] == false),
        "list-decommissioning-osds" => osds(manager, |osd| osd["decommissioned"] == true),
        "deliver-messages" => {
            log::start("alba", &[], "info").map_err(failed)?;
            delivery::deliver(manager).map(|count| json!({"delivered": count})).map_err(failed)
        }
        "get-maintenance-config" => get("maintenance_config"),
        "list-namespaces" => get("list_namespaces"),
        "create-namespace" => {
            call("create_namespace", json!({"namespace": word("NAMESPACE")?, "preset": arguments.words.get(1)}))
        }
        "create-preset" => call("create_preset", json!({"name": word("PRESET")?, "preset": preset()?})),
        "preset-set-default" => call("preset_set_default", json!({"name": word("PRESET")?})),
        _ => get("list_presets"),
    }
}

/// The preset that is on the standard input.
fn preset() -> Result<Value> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| failed(format!("preset: {error}")))
}

fn osds(manager: &Manager, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let all = manager.get("list_osds").map_err(|text| Failure::Failed(About::Manager, text))?;
    Ok(all.as_array().into_iter().flatten().filter(|osd| wanted(osd)).cloned().collect())
}

/// Asks the OSD itself who it is, then makes it known.
fn add_osd(manager: &Manager, arguments: &Arguments) -> Result<Value> {
    let (host, port) = (arguments.get("host").unwrap_or(""), arguments.port(ASD_PORT).map_err(misused)?);
    let node_id = arguments.required("node-id").map_err(misused)?;
    let who = lines::call(host, port, &json!({"op": "who"}), WAIT).map_err(|text| Failure::Failed(About::Osd, text))?;
    if who["node_id"] != json!(node_id) {
        log::warning(&format!("the osd says its node is {}, not {node_id}", who["node_id"]));
    }
    let osd = json!({"long_id": who["long_id"], "node_id": node_id, "ips": [host], "port": port});
    manager.call("add_osd", osd).map_err(|text| Failure::Failed(About::Manager, text))
}
