//! The protocol of all stand-ins: over TCP, one JSON object a line, each way.
//!
//! An answer is `{"ok":true,"value":...}` or `{"ok":false,"error":"..."}`. Only stand-ins speak it.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream, ToSocketAddrs as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

/// More than a fragment of an object in base64, and than any list of a lab.
const LONGEST_LINE: u64 = 32 << 20;

/// The value or the error of one call.
pub(crate) type Answer = Result<Value, String>;

/// A lock whose holder died is still a lock: state changes are whole before a panic can happen.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens on each address; none means all of them.
pub(crate) fn listen(ips: &[String], port: u16) -> Result<Vec<TcpListener>, String> {
    let all = ["0.0.0.0".to_owned()];
    let ips = if ips.is_empty() { &all } else { ips };
    let bind = |ip: &String| {
        let place = if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
        TcpListener::bind(&place).map_err(|error| format!("cannot listen on {place}: {error}"))
    };
    ips.iter().map(bind).collect()
}

/// Answers everybody who connects, each in a thread of its own, for as long as the program lives.
pub(crate) fn serve<H>(listeners: Vec<TcpListener>, handle: H)
where
    H: Fn(&Value) -> Value + Send + Sync + 'static,
{
    let handle = Arc::new(handle);
    for listener in listeners {
        let handle = Arc::clone(&handle);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let handle = Arc::clone(&handle);
                // A broken connection concerns only the one who broke it.
                thread::spawn(move || answer_all(&stream, handle.as_ref()).ok());
            }
        });
    }
}

fn answer_all(stream: &TcpStream, handle: &impl Fn(&Value) -> Value) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(line) = read_line(&mut reader)? {
        let answer = match serde_json::from_str(&line) {
            Ok(request) => handle(&request),
            Err(error) => refused(&format!("not a request: {error}")),
        };
        write_line(stream, &answer)?;
    }
    Ok(())
}

fn read_line(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<String>> {
    let mut line = String::new();
    reader.take(LONGEST_LINE).read_line(&mut line)?;
    if line.ends_with('\n') { Ok(Some(line)) } else { Ok(None) }
}

fn write_line(mut stream: &TcpStream, value: &Value) -> io::Result<()> {
    let mut line = value.to_string();
    line.push('\n');
    stream.write_all(line.as_bytes())
}

/// An answer in the form that goes over the wire.
pub(crate) fn answered(answer: Answer) -> Value {
    match answer {
        Ok(value) => json!({"ok": true, "value": value}),
        Err(error) => refused(&error),
    }
}

fn refused(error: &str) -> Value {
    json!({"ok": false, "error": error})
}

/// One end of a connection that asks.
pub(crate) struct Line {
    stream: TcpStream,
}

impl Line {
    /// Connects within `wait`; the same time is then granted to each answer.
    pub(crate) fn connect(host: &str, port: u16, wait: Duration) -> io::Result<Self> {
        let mut last = io::Error::other(format!("{host} has no address"));
        for address in (host, port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, wait) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(wait))?;
                    stream.set_write_timeout(Some(wait))?;
                    stream.set_nodelay(true)?;
                    return Ok(Self { stream });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Asks and waits for the whole answer, `ok` or not.
    pub(crate) fn ask(&mut self, request: &Value) -> io::Result<Value> {
        write_line(&self.stream, request)?;
        // Requests and answers alternate, so nothing of a next answer can be in the reader.
        let line = read_line(&mut BufReader::new(&self.stream))?;
        let line = line.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        serde_json::from_str(&line).map_err(io::Error::other)
    }
}

/// One call over a connection of its own.
pub(crate) fn call(host: &str, port: u16, request: &Value, wait: Duration) -> Answer {
    let answer = Line::connect(host, port, wait).and_then(|mut line| line.ask(request));
    let answer = answer.map_err(|error| format!("{host}:{port}: {error}"))?;
    if answer["ok"] == true {
        return Ok(answer["value"].clone());
    }
    Err(answer["error"].as_str().unwrap_or("no reason given").to_owned())
}

/// A member of a request that must be a text.
pub(crate) fn text<'a>(request: &'a Value, member: &str) -> Result<&'a str, String> {
    request[member].as_str().ok_or_else(|| format!("{member} is missing"))
}
