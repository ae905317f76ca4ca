//! Log lines of a stand-in: to the console, files and redis lists, as `--log-sink` and `log_sinks` name them.

use std::{
    io::Write as _,
    net::TcpStream,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const REDIS_PORT: u16 = 6379;
const REDIS_WAIT: Duration = Duration::from_secs(1);
const LEVELS: [&str; 6] = ["debug", "info", "notice", "warning", "error", "fatal"];

enum Sink {
    Console,
    File { path: String, file: Option<fs_err::File> },
    Redis { address: String, key: String },
}

struct Log {
    program: String,
    level: usize,
    sinks: Vec<Sink>,
}

static LOG: OnceLock<Mutex<Log>> = OnceLock::new();

/// Whether this is a level of arakoon and alba.
pub(crate) fn is_level(text: &str) -> bool {
    LEVELS.contains(&text)
}

/// Opens the sinks: `console:`, a path, or `redis://host[:port]/key`. Without any, the console.
pub(crate) fn start(program: &str, sinks: &[String], level: &str) -> Result<(), String> {
    let mut opened = sinks.iter().map(|sink| open(sink)).collect::<Result<Vec<_>, _>>()?;
    if opened.is_empty() {
        opened.push(Sink::Console);
    }
    let log = Log { program: program.to_owned(), level: place(level), sinks: opened };
    let mut log = Some(log);
    LOG.get_or_init(|| Mutex::new(log.take().unwrap_or_else(|| console(program))));
    Ok(())
}

fn console(program: &str) -> Log {
    Log { program: program.to_owned(), level: 1, sinks: vec![Sink::Console] }
}

fn place(level: &str) -> usize {
    LEVELS.iter().position(|known| *known == level).unwrap_or(1)
}

fn open(sink: &str) -> Result<Sink, String> {
    if sink == "console:" {
        return Ok(Sink::Console);
    }
    if let Some(rest) = sink.strip_prefix("redis://") {
        let (place, key) = rest.split_once('/').ok_or_else(|| format!("{sink}: no key"))?;
        let address = if place.contains(':') { place.to_owned() } else { format!("{place}:{REDIS_PORT}") };
        return Ok(Sink::Redis { address, key: format!("/{key}") });
    }
    let path = sink.strip_prefix("file://").unwrap_or(sink).to_owned();
    let file = append(&path).map_err(|error| format!("cannot open log: {error}"))?;
    Ok(Sink::File { path, file: Some(file) })
}

fn append(path: &str) -> std::io::Result<fs_err::File> {
    fs_err::OpenOptions::new().create(true).append(true).open(path)
}

/// Opens the files anew, after a rotation.
pub(crate) fn reopen() {
    with(|log| {
        for sink in &mut log.sinks {
            if let Sink::File { path, file } = sink {
                *file = append(path).ok();
            }
        }
    });
}

/// Sets the least level that is written.
pub(crate) fn set_level(level: &str) {
    with(|log| log.level = place(level));
}

pub(crate) fn debug(text: &str) {
    write("debug", text);
}

pub(crate) fn info(text: &str) {
    write("info", text);
}

pub(crate) fn warning(text: &str) {
    write("warning", text);
}

pub(crate) fn error(text: &str) {
    write("error", text);
}

fn with(change: impl FnOnce(&mut Log)) {
    let log = LOG.get_or_init(|| Mutex::new(console("stand-in")));
    change(&mut log.lock().unwrap_or_else(PoisonError::into_inner));
}

fn write(level: &str, text: &str) {
    with(|log| {
        if place(level) < log.level {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line =
            format!("{}.{:03} - {} stand-in - {level} - {text}\n", now.as_secs(), now.subsec_millis(), log.program);
        for sink in &mut log.sinks {
            // A log that cannot be written must not end the program.
            let _ignored = match sink {
                Sink::Console => std::io::stderr().write_all(line.as_bytes()),
                Sink::File { file: Some(file), .. } => file.write_all(line.as_bytes()),
                Sink::File { file: None, .. } => Ok(()),
                Sink::Redis { address, key } => push(address, key, line.trim_end()),
            };
        }
    });
}

/// `RPUSH key line` in redis' own protocol.
fn push(address: &str, key: &str, line: &str) -> std::io::Result<()> {
    let address = address.parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, REDIS_WAIT)?;
    write!(stream, "*3\r\n$5\r\nRPUSH\r\n${}\r\n{key}\r\n${}\r\n{line}\r\n", key.len(), line.len())
}
