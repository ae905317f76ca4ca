//! The management port: XML-RPC over HTTP, as far as `StorageRouterClient` needs it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use super::{takeover, volumes::Volumes};

const LONGEST: u64 = 1 << 20;

/// Serves one connection at a time in a thread each.
pub(crate) fn serve(listeners: Vec<TcpListener>, volumes: &Arc<Volumes>) {
    for listener in listeners {
        let volumes = Arc::clone(volumes);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let volumes = Arc::clone(&volumes);
                // Who does not speak HTTP gets no answer.
                thread::spawn(move || answer(&stream, &volumes).ok());
            }
        });
    }
}

fn answer(mut stream: &TcpStream, volumes: &Volumes) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream).take(LONGEST);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let lower = line.trim().to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if lower.is_empty() {
            break;
        }
    }
    let mut body = String::new();
    reader.take(length).read_to_string(&mut body)?;
    let method = body.split_once("<methodName>").and_then(|(_, rest)| rest.split_once("</methodName>"));
    let body = match method.map(|(name, rest)| called(name, &texts(rest), volumes)) {
        Some(Ok(value)) => format!("<params><param><value>{value}</value></param></params>"),
        Some(Err(error)) => fault(&error),
        None => fault("no method"),
    };
    let body = format!("<?xml version=\"1.0\"?><methodResponse>{body}</methodResponse>");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n", body.len());
    write!(stream, "{head}Connection: close\r\n\r\n{body}")
}

/// The parameters of a call, as far as they are texts.
fn texts(body: &str) -> Vec<String> {
    let inner = |part: &str| part.split_once("</string>").map(|(text, _)| plain(text));
    body.split("<string>").skip(1).filter_map(inner).collect()
}

/// The value that a method gives.
fn called(method: &str, parameters: &[String], volumes: &Volumes) -> Result<String, String> {
    match (method, parameters) {
        ("volumesList", _) => {
            let one = |name: String| format!("<value><string>{}</string></value>", escaped(&name));
            let names: String = volumes.list()?.into_iter().map(one).collect();
            Ok(format!("<array><data>{names}</data></array>"))
        }
        ("volumeInfo", [name, ..]) => {
            let keeper = escaped(&volumes.keeper(name)?);
            let member = format!("<name>vrouter_id</name><value><string>{keeper}</string></value>");
            Ok(format!("<struct><member>{member}</member></struct>"))
        }
        ("volumeMigrate", [name, node, ..]) if volumes.is_own(node) => {
            takeover::take(volumes, name).map(|()| "<boolean>1</boolean>".to_owned())
        }
        ("volumeMigrate", _) => Err("the stand-in is asked at the node that takes the volume".to_owned()),
        ("updateClusterNodeConfigs", _) => volumes.refresh().map(|()| "<boolean>1</boolean>".to_owned()),
        _ => Err("unknown method".to_owned()),
    }
}

fn fault(text: &str) -> String {
    format!(
        "<fault><value><struct><member><name>faultCode</name><value><int>-1</int></value></member><member>\
         <name>faultString</name><value><string>{}</string></value></member></struct></value></fault>",
        escaped(text)
    )
}

fn plain(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
