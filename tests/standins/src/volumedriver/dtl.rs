//! Stand-ins for `failovercache`, the distributed transaction log, and for the helper that starts it.

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{config::Config, registry};
use crate::{config_url::ConfigUrl, end::end_plainly, limits, lines, log, signals::Arrived};

const PORT: u16 = 23096;
const LONG: Duration = Duration::from_secs(3600);

#[derive(Default)]
struct Arguments {
    path: Option<String>,
    address: Option<String>,
    port: Option<u16>,
    log_sinks: Vec<String>,
    config: Option<String>,
}

impl Arguments {
    fn parse(words: &[String], is_helper: bool) -> Result<Self, String> {
        let mut found = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (flag, attached) =
                word.split_once('=').map_or((word.as_str(), None), |(flag, value)| (flag, Some(value)));
            let mut value = || {
                attached
                    .map(str::to_owned)
                    .or_else(|| words.next().cloned())
                    .ok_or_else(|| format!("{flag} needs a value"))
            };
            match flag {
                "--config" if is_helper => found.config = Some(value()?),
                "--path" if !is_helper => found.path = Some(value()?),
                "--address" if !is_helper => found.address = Some(value()?),
                "--port" if !is_helper => {
                    found.port = Some(value()?.parse().map_err(|_| "--port is not a port".to_owned())?);
                }
                "--transport" if !is_helper => transport(&value()?)?,
                "--logsink" => found.log_sinks.push(value()?),
                "--loglevel" | "--logfilter" => drop(value()?),
                "--logrotation" | "--disable-logging" => {}
                _ => return Err(format!("unrecognised option '{word}'")),
            }
        }
        Ok(found)
    }
}

fn transport(name: &str) -> Result<(), String> {
    match name {
        "TCP" => Ok(()),
        "RSocket" => Err("the stand-in has no RSocket".to_owned()),
        other => Err(format!("transport {other} is neither TCP nor RSocket")),
    }
}

/// Runs `failovercache` with these arguments, without the program's own name.
#[must_use]
pub fn main(words: &[String]) -> ExitCode {
    end_plainly("failovercache", run(words).map(|()| String::new()))
}

/// Runs `failovercachehelper` with these arguments, without the program's own name.
#[must_use]
pub fn helper_main(words: &[String]) -> ExitCode {
    end_plainly("failovercachehelper", help(words).map(|()| String::new()))
}

fn run(words: &[String]) -> Result<(), String> {
    let arguments = Arguments::parse(words, false)?;
    log::start("failovercache", &arguments.log_sinks, "info")?;
    let arrived = Arrived::of(&[SIGTERM, SIGINT, SIGHUP])?;
    log::info("starts; this is a stand-in, not failovercache");
    match &arguments.path {
        Some(path) if !limits::is_writable_directory(Path::new(path)) => {
            return Err(format!("path {path} is not a directory that I can write"));
        }
        Some(_) => {}
        None => log::info("no path: in memory"),
    }
    let ips: Vec<String> = arguments.address.into_iter().collect();
    let listeners = lines::listen(&ips, arguments.port.unwrap_or(PORT))?;
    let answer = |request: &Value| match lines::text(request, "op") {
        Ok("hello") => lines::answered(Ok(json!("failovercache stand-in"))),
        _ => lines::answered(Err("the stand-in keeps no transactions".to_owned())),
    };
    lines::serve(listeners, answer);
    loop {
        match arrived.next(LONG) {
            None | Some(SIGHUP) => {}
            Some(_) => return Ok(()),
        }
    }
}

/// Finds out where the cache of this node belongs, and becomes it.
fn help(words: &[String]) -> Result<(), String> {
    let arguments = Arguments::parse(words, true)?;
    log::start("failovercachehelper", &arguments.log_sinks, "info")?;
    let url = arguments.config.ok_or("the option '--config' is required but missing")?;
    let config = Config::read(&ConfigUrl::of_volumedriver(&url)?)?;
    let nodes = registry::nodes(&config)?;
    let path = config.text("distributed_transaction_log", "dtl_path")?;
    let transport = config.text("distributed_transaction_log", "dtl_transport").unwrap_or("TCP");
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(own.with_file_name("failovercache"));
    command.args(["--path", path, "--address", nodes[0].failovercache_host()]);
    command.args(["--port", &nodes[0].failovercache_port.to_string(), "--transport", transport]);
    for sink in &arguments.log_sinks {
        command.args(["--logsink", sink]);
    }
    Err(format!("failovercache: {}", command.exec()))
}
