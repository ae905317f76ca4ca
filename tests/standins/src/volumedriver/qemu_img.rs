//! Stand-in for a `qemu-img` with the block driver `openvstorage`: raw images, as files or by the edge.

use std::{io::Write as _, os::unix::fs::FileExt as _, process::ExitCode, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::lines;

/// Where the edge is unless the name says otherwise.
const PORT: u16 = 21321;
/// What is moved at once, in bytes.
const STEP: u64 = 1 << 20;
const WAIT: Duration = Duration::from_secs(10);

const USAGE: &str = "this stand-in knows: info [-f raw] [--output=json] IMAGE; create [-q] [-f raw] IMAGE SIZE; \
                     convert [-n] [-f raw] [-O raw] IMAGE IMAGE; --version";

/// A raw image.
#[derive(Debug, PartialEq)]
enum Image {
    File(String),
    Volume { host: String, port: u16, name: String },
}

impl Image {
    /// `openvstorage+tcp:HOST[:PORT]/VOLUME[:snapshot-timeout=N]`, or a path.
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("Could not open '{text}': {why}"));
        if text.starts_with("openvstorage:") || text.starts_with("openvstorage+rdma:") {
            return wrong("the stand-in has no transport but tcp");
        }
        let Some(rest) = text.strip_prefix("openvstorage+tcp:") else { return Ok(Self::File(text.to_owned())) };
        let Some((place, volume)) = rest.split_once('/') else { return wrong("it names no volume") };
        let (host, port) = place.rsplit_once(':').map_or((place, Ok(PORT)), |(host, port)| (host, port.parse()));
        let Ok(port) = port else { return wrong("the port is no number") };
        let (name, option) = volume.split_once(':').unwrap_or((volume, "snapshot-timeout=120"));
        let seconds = option.strip_prefix("snapshot-timeout=").and_then(|seconds| seconds.parse::<u32>().ok());
        match (host, name, seconds) {
            ("", ..) => wrong("it names no host"),
            (_, "", _) => wrong("it names no volume"),
            (.., None) => wrong("the only option is snapshot-timeout"),
            _ => Ok(Self::Volume { host: host.to_owned(), port, name: name.to_owned() }),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::File(path) => path.clone(),
            Self::Volume { host, port, name } => format!("openvstorage+tcp:{host}:{port}/{name}"),
        }
    }

    /// Asks the edge about the volume.
    fn ask(&self, mut request: Value) -> Result<Value, String> {
        let Self::Volume { host, port, name } = self else { return Err("a file has no edge".to_owned()) };
        request["volume"] = json!(name);
        lines::call(host, *port, &request, WAIT).map_err(|error| format!("Could not open '{}': {error}", self.name()))
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> String {
        format!("Could not open '{}': {error}", self.name())
    }

    fn size(&self) -> Result<u64, String> {
        match self {
            Self::File(path) => Ok(fs_err::metadata(path).map_err(|error| self.failed(&error))?.len()),
            Self::Volume { .. } => self.ask(json!({"op": "size"}))?.as_u64().ok_or_else(|| self.failed(&"no size")),
        }
    }

    fn create(&self, size: u64) -> Result<(), String> {
        match self {
            Self::File(path) => {
                let made = fs_err::File::create(path).and_then(|file| file.set_len(size));
                made.map_err(|error| self.failed(&error))
            }
            Self::Volume { .. } => self.ask(json!({"op": "create", "size": size})).map(drop),
        }
    }

    fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => {
                let mut data = vec![0; usize::try_from(length).map_err(|error| self.failed(&error))?];
                let file = fs_err::File::open(path).map_err(|error| self.failed(&error))?;
                file.file().read_exact_at(&mut data, offset).map_err(|error| self.failed(&error))?;
                Ok(data)
            }
            Self::Volume { .. } => {
                let data = self.ask(json!({"op": "read", "offset": offset, "length": length}))?;
                STANDARD.decode(data.as_str().unwrap_or("")).map_err(|error| self.failed(&error))
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), String> {
        match self {
            Self::File(path) => {
                let file = fs_err::OpenOptions::new().write(true).open(path).map_err(|error| self.failed(&error))?;
                file.file().write_all_at(data, offset).map_err(|error| self.failed(&error))
            }
            Self::Volume { .. } => {
                self.ask(json!({"op": "write", "offset": offset, "data": STANDARD.encode(data)})).map(drop)
            }
        }
    }
}

/// Runs `qemu-img` with these arguments, without the program's own name.
#[must_use]
pub fn main(words: &[String]) -> ExitCode {
    match run(words) {
        Ok(text) => {
            write!(std::io::stdout(), "{text}").ok();
            ExitCode::SUCCESS
        }
        Err(text) => {
            writeln!(std::io::stderr(), "qemu-img: {text}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<String, String> {
    let (mut plain, mut is_json, mut is_there, mut words) = (Vec::new(), false, false, words.iter());
    while let Some(word) = words.next() {
        match word.as_str() {
            "--version" => return Ok("qemu-img version 2.5.0 (this is a stand-in, not QEMU)\n".to_owned()),
            "-f" | "-O" => match words.next().map(String::as_str) {
                Some("raw") => {}
                other => return Err(format!("Unknown file format '{}': the stand-in has raw", other.unwrap_or(""))),
            },
            "-q" | "--output=human" => {}
            "-n" => is_there = true,
            "--output=json" => is_json = true,
            _ if word.starts_with('-') => return Err(format!("unrecognized option '{word}': {USAGE}")),
            _ => plain.push(word.as_str()),
        }
    }
    match plain[..] {
        ["info", image] => info(&Image::parse(image)?, is_json),
        ["create", image, length] => {
            let image = Image::parse(image)?;
            image.create(bytes(length).ok_or_else(|| format!("Invalid image size specified: {length}"))?)?;
            Ok(format!("Formatting '{}', fmt=raw size={}\n", image.name(), image.size()?))
        }
        ["convert", from, to] => convert(&Image::parse(from)?, &Image::parse(to)?, is_there).map(|()| String::new()),
        _ => Err(USAGE.to_owned()),
    }
}

/// A size as QEMU writes it: `64M` is of powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let shift = match &text[digits.len()..] {
        "" | "b" | "B" => 0,
        "k" | "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn info(image: &Image, is_json: bool) -> Result<String, String> {
    let (name, size) = (image.name(), image.size()?);
    if is_json {
        return Ok(format!("{}\n", json!({"filename": name, "format": "raw", "virtual-size": size})));
    }
    Ok(format!("image: {name}\nfile format: raw\nvirtual size: {size} bytes\n"))
}

/// Copies; blocks of zeros are not written into an image that is new.
fn convert(from: &Image, to: &Image, is_there: bool) -> Result<(), String> {
    let size = from.size()?;
    if !is_there {
        to.create(size)?;
    }
    let mut offset = 0;
    while offset < size {
        let data = from.read(offset, STEP.min(size - offset))?;
        if data.is_empty() {
            return Err(from.failed(&"it ended early"));
        }
        if is_there || data.iter().any(|byte| *byte != 0) {
            to.write(offset, &data)?;
        }
        offset += data.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images_are_those_of_the_driver() {
        let volume = |port| Image::Volume { host: "10.0.0.1".to_owned(), port, name: "disk1".to_owned() };
        assert_eq!(Image::parse("openvstorage+tcp:10.0.0.1:26203/disk1"), Ok(volume(26203)));
        assert_eq!(Image::parse("openvstorage+tcp:10.0.0.1/disk1:snapshot-timeout=5"), Ok(volume(PORT)));
        assert_eq!(Image::parse("/mnt/vp/disk1.raw"), Ok(Image::File("/mnt/vp/disk1.raw".to_owned())));
        for wrong in [
            "openvstorage:disk1",
            "openvstorage+rdma:h:1/disk1",
            "openvstorage+tcp:h:1",
            "openvstorage+tcp:h:x/disk1",
            "openvstorage+tcp:/disk1",
            "openvstorage+tcp:h/",
            "openvstorage+tcp:h/disk1:timeout=1",
        ] {
            assert!(Image::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!((bytes("64M"), bytes("512"), bytes("1x"), bytes("M")), (Some(64 << 20), Some(512), None, None));
    }
}
