//! The program `arakoon`: runs a node, or asks a cluster something and ends.

use std::{
    io::Read as _,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1},
    iterator::Signals,
};

use super::{
    arguments::{Action, Arguments},
    client::Client,
    config::{Cluster, Config},
    consensus::Node,
    disk::Entry,
    election,
    exit::{self, Exit},
    peer::BATCH,
    plugin,
    serve::Desk,
};
use crate::{config_url::ConfigUrl, end::end, limits, lines, log};

/// What the unit of the real one grants.
const FILES: u64 = 8192;
const WAIT: Duration = Duration::from_secs(5);

/// Runs `arakoon` with these arguments, without the program's own name.
#[must_use]
pub fn main(words: &[String]) -> ExitCode {
    end("arakoon", run(words))
}

fn run(words: &[String]) -> Result<String, Exit> {
    let arguments = Arguments::parse(words.to_vec()).map_err(|text| Exit::new(2, text))?;
    match &arguments.action {
        Action::Version => return Ok(format!("version: \"{}\"\nthis is a stand-in, not arakoon", plugin::BUILD)),
        Action::Ping { cluster, ip, port } => {
            let hello = json!({"op": "hello", "cluster": cluster});
            let answer = lines::call(ip, *port, &hello, WAIT).map_err(client_failure)?;
            return Ok(answer.as_str().unwrap_or("").to_owned());
        }
        Action::Node { daemonize: true, .. } => return daemonize(words),
        _ => {}
    }
    let url = arguments.config.ok_or_else(|| Exit::new(2, "-config is missing"))?;
    let text = ConfigUrl::of_arakoon(&url).and_then(|url| url.read())?;
    match arguments.action {
        Action::Node { node, autofix, catchup_only, .. } => {
            let config = Config::parse(&text, &node)?;
            run_node(config, autofix, catchup_only).map(|()| String::new())
        }
        action => ask(&Client::new(Cluster::parse(&text)?), action).map_err(client_failure),
    }
}

fn client_failure(text: String) -> Exit {
    Exit::new(1, text)
}

/// The same program again, on its own.
fn daemonize(words: &[String]) -> Result<String, Exit> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let words = words.iter().filter(|word| word.trim_start_matches('-') != "daemonize");
    let mut command = Command::new(own);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().map_err(|error| error.to_string())?;
    Ok(String::new())
}

fn ask(client: &Client, action: Action) -> Result<String, String> {
    let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let request = match action {
        Action::WhoMaster => return client.master(),
        Action::NodeState(name) => {
            let node = client.cluster.nodes.iter().find(|node| node.name == name);
            let node = node.ok_or_else(|| format!("node {name} is not in the cluster"))?;
            return client.ask_node(node, &json!({"op": "state"}), WAIT).map(text);
        }
        Action::Nop => json!({"op": "nop"}),
        Action::ExpectProgressPossible => json!({"op": "expect_progress_possible"}),
        Action::Statistics => json!({"op": "statistics"}),
        Action::Set { key, value } => json!({"op": "set", "key": key, "value": value}),
        Action::SetRaw(key) => {
            let mut value = String::new();
            std::io::stdin().read_to_string(&mut value).map_err(|error| error.to_string())?;
            json!({"op": "set", "key": key, "value": value})
        }
        Action::Get(key) => json!({"op": "get", "key": key}),
        Action::Delete(key) => json!({"op": "delete", "key": key}),
        Action::Prefix(key) => json!({"op": "prefix", "key": key}),
        Action::Node { .. } | Action::Ping { .. } | Action::Version => return Err("nothing to ask".to_owned()),
    };
    let answer = client.call_once(&request)?;
    Ok(if answer.is_null() { String::new() } else { text(answer) })
}

fn run_node(config: Config, autofix: bool, catchup_only: bool) -> Result<(), Exit> {
    let me = config.me().clone();
    log::start("arakoon", &me.log_sinks, &me.log_level)?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]).map_err(|error| error.to_string())?;
    log::info(&format!("{} starts; this is a stand-in, not arakoon", me.contact.name));
    for (path, code, what) in [
        (&me.home, exit::HOME_DIRECTORY, "home"),
        (&me.tlog_dir, exit::TLOG_DIRECTORY, "tlog_dir"),
        (&me.tlx_dir, exit::TLX_DIRECTORY, "tlx_dir"),
        (&me.head_dir, exit::HEAD_DIRECTORY, "head_dir"),
    ] {
        if !limits::is_writable_directory(path) {
            return Err(Exit::new(code, format!("{what} {} is not a directory that I can write", path.display())));
        }
    }
    limits::warn_of_few_files(FILES);
    fs_err::OpenOptions::new().create(true).append(true).open(&me.crash_log).map_err(|error| error.to_string())?;
    let plugins = plugin::load(&me.home, &config.plugins)?;
    let node = Arc::new(Node::open(config, autofix)?);
    if catchup_only {
        catch_up(&node)?;
        return node.close().map_err(|error| Exit::from(error.to_string()));
    }
    let peers = lines::listen(&me.contact.ips, me.messaging_port)?;
    let clients = lines::listen(&me.contact.ips, me.contact.port)?;
    let desk = Arc::new(Desk { node: Arc::clone(&node), plugins, turn: Mutex::new(()) });
    let own = Arc::clone(&node);
    lines::serve(peers, move |request: &Value| own.hear(request));
    lines::serve(clients, move |request: &Value| desk.answer(request));
    node.join();
    for signal in signals.forever() {
        match signal {
            SIGUSR1 => log::reopen(),
            SIGHUP => log::info("SIGHUP"),
            _ => break,
        }
    }
    log::info("stops");
    node.close().map_err(|error| Exit::from(error.to_string()))
}

/// Takes what the others have committed, without taking part.
fn catch_up(node: &Node) -> Result<(), Exit> {
    let mut last = "there is no other node".to_owned();
    for other in node.others() {
        match catch_up_from(node, other) {
            Ok(count) => {
                log::info(&format!("caught up: {count} entries from {}", node.config.members[other].contact.name));
                return Ok(());
            }
            Err(error) => last = error,
        }
    }
    Err(Exit::from(last))
}

fn catch_up_from(node: &Node, other: usize) -> Result<u64, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut line = election::connect(&node.config.members[other]).map_err(failed)?;
    let mut after = 0;
    loop {
        let request = json!({"cluster": node.config.id, "op": "committed", "message": after});
        let answer = line.ask(&request).map_err(failed)?;
        let entries: Vec<Entry> = serde_json::from_value(answer["value"].clone()).map_err(|error| error.to_string())?;
        let count = entries.len();
        let mut state = node.lock();
        for entry in entries {
            after += 1;
            if state.term_at(after) != entry.term {
                state.cut(after - 1).map_err(failed)?;
                state.append(vec![entry]).map_err(failed)?;
            }
        }
        if after > state.commit {
            state.commit_to(after);
        }
        if count < BATCH {
            return Ok(after);
        }
    }
}
