//! How ASDs are found where multicast reaches: a datagram to 239.1.2.3:8123.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use serde_json::{Value, json};

use crate::log;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const PORT: u16 = 8123;
const LARGEST: usize = 8192;

/// Says who is there. Networks without multicast are common, so a failure is only logged.
pub(crate) fn announce(asd: &Value) {
    let sent =
        UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(asd.to_string().as_bytes(), (GROUP, PORT)));
    if let Err(error) = sent {
        log::debug(&format!("multicast: {error}"));
    }
}

/// Listens for ASDs; nothing when the port is taken.
pub(crate) fn listen() -> Option<UdpSocket> {
    let socket = UdpSocket::bind(("0.0.0.0", PORT)).and_then(|socket| {
        socket.join_multicast_v4(&GROUP, &Ipv4Addr::UNSPECIFIED)?;
        Ok(socket)
    });
    socket.inspect_err(|error| log::info(&format!("no discovery: {error}"))).ok()
}

/// The next ASD that says it is there, with the address it speaks from when it names none.
pub(crate) fn heard(socket: &UdpSocket, most: Option<Duration>) -> Option<Value> {
    let mut buffer = [0; LARGEST];
    socket.set_read_timeout(most).ok()?;
    let (size, from) = socket.recv_from(&mut buffer).ok()?;
    let mut asd: Value = serde_json::from_slice(&buffer[..size]).ok()?;
    if asd["ips"].as_array().is_none_or(Vec::is_empty) {
        asd["ips"] = json!([from.ip().to_string()]);
    }
    Some(asd)
}
