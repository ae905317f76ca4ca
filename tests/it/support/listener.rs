//! A socket in front of the engine's that notes what the engine is asked, and may answer in its place.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

/// Passes everything on to the engine, and keeps the first line of each request.
pub(crate) struct EngineListener {
    path: PathBuf,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    heard: Vec<String>,
    /// How a request begins, and what is answered to the next one such.
    lies: Vec<(String, String)>,
}

impl EngineListener {
    /// Listens at a path; its threads end with the test's process.
    pub(crate) fn at(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let known: Arc<Mutex<Known>> = Arc::default();
        let shared = Arc::clone(&known);
        thread::spawn(move || {
            for client in listener.incoming() {
                let known = Arc::clone(&shared);
                thread::spawn(move || pass_on(&client.unwrap(), &known));
            }
        });
        Self { path: path.to_owned(), known }
    }

    /// Its address, as `DOCKER_HOST` takes it.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// So many requests began with these words.
    pub(crate) fn count(&self, request: &str) -> usize {
        self.known.lock().unwrap().heard.iter().filter(|line| line.starts_with(request)).count()
    }

    /// The next request that begins so and comes first on its connection is answered with this, and not by the engine.
    pub(crate) fn answer_once(&self, request: &str, status: &str, body: &str) {
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        self.known.lock().unwrap().lies.push((request.to_owned(), answer));
    }
}

/// The engine that the tests talk to.
fn engine() -> UnixStream {
    let given = std::env::var("DOCKER_HOST").unwrap_or_default();
    UnixStream::connect(given.strip_prefix("unix://").unwrap_or("/var/run/docker.sock")).unwrap()
}

fn pass_on(mut client: &UnixStream, known: &Mutex<Known>) {
    let mut piece = [0; 8192];
    let Ok(read @ 1..) = client.read(&mut piece) else { return };
    if let Some(answer) = lie(&note(&piece[..read], known), known) {
        // Who asked may be gone.
        let _ = client.write_all(answer.as_bytes());
        return;
    }
    let engine = engine();
    let (mut from_engine, mut to_client) = (engine.try_clone().unwrap(), client.try_clone().unwrap());
    let back = thread::spawn(move || {
        let _ = std::io::copy(&mut from_engine, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let mut writer = &engine;
    let mut fill = read;
    while writer.write_all(&piece[..fill]).is_ok() {
        match client.read(&mut piece) {
            Ok(read @ 1..) => fill = read,
            _ => break,
        }
        note(&piece[..fill], known);
    }
    let _ = engine.shutdown(Shutdown::Both);
    back.join().unwrap();
}

/// Keeps the first lines of requests in a piece of what was sent.
fn note(piece: &[u8], known: &Mutex<Known>) -> Vec<String> {
    let text = String::from_utf8_lossy(piece);
    let lines: Vec<String> = text.lines().filter(|line| line.ends_with(" HTTP/1.1")).map(str::to_owned).collect();
    known.lock().unwrap().heard.extend(lines.clone());
    lines
}

/// What is to be answered in the engine's place.
fn lie(lines: &[String], known: &Mutex<Known>) -> Option<String> {
    let prepared = &mut known.lock().unwrap().lies;
    let at = prepared.iter().position(|(request, _)| lines.first().is_some_and(|line| line.starts_with(request)))?;
    Some(prepared.remove(at).1)
}
