//! From a target to an authenticated connection, phase by phase.

use std::{
    borrow::Cow,
    collections::HashMap,
    io,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
    time::Duration,
};

use rand::RngExt as _;
use russh::{Limits, Preferred, cipher, client};
use tokio::{
    net::{TcpStream, lookup_host},
    sync::Semaphore,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    auth::Credentials,
    connection::{Connection, SessionError, State, Watcher, why_ended},
    error::{LinkErrorKind, Phase},
    host_key::{CheckError, Expectation},
    remote_text::one_line,
    socket::{Carrier, Greeting, Socket},
    target::Target,
    tunnel::Tunnel,
};

/// Handshakes at once with one server. More than sshd's `MaxStartups` (10 by default) are dropped at random.
const HANDSHAKES_AT_ONCE: usize = 8;
/// Flow control window of a channel in bytes: fills a link of 100 ms at 1 Gbit/s.
const WINDOW: u32 = 16 * 1024 * 1024;
/// The largest that russh takes.
const PACKET: u32 = 65_535;
/// Messages that wait for a channel's reader before the whole connection waits.
const CHANNEL_BUFFER: usize = 256;
/// RFC 4253 section 9 recommends new keys after a gigabyte or an hour.
const REKEY_BYTES: usize = 1 << 30;
const REKEY_AFTER: Duration = Duration::from_secs(3600);
/// Keepalives without answer before the peer is dead; together with the interval it takes (count + 1) times that.
const KEEPALIVES: usize = 2;
/// Shortest and longest pause before another try.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Which failures are tried again, and until when.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// A server that hangs up before its banner: it has too many logins under way.
    Busy(Instant),
    /// A machine that is starting: also while nothing listens.
    Starting(Instant),
}

impl Patience {
    fn allows(self, kind: &LinkErrorKind, at: Instant) -> bool {
        let (until, again) = match self {
            Self::Busy(until) => (until, is_busy(kind)),
            Self::Starting(until) => (until, is_busy(kind) || is_starting(kind)),
        };
        again && at < until
    }
}

fn is_busy(kind: &LinkErrorKind) -> bool {
    matches!(kind, LinkErrorKind::Closed { phase: Phase::Dial | Phase::Banner, .. })
}

fn is_starting(kind: &LinkErrorKind) -> bool {
    match kind {
        LinkErrorKind::Refused { .. } | LinkErrorKind::DialBehind { .. } | LinkErrorKind::Dial { .. } => true,
        LinkErrorKind::Deadline { phase, .. } => matches!(phase, Phase::Dial | Phase::Banner),
        LinkErrorKind::Closed { phase, .. } => matches!(phase, Phase::KeyExchange),
        _ => false,
    }
}

/// Turns at one server, shared by all connections of this process. Forgotten when nobody uses them.
fn turns(endpoint: String) -> Arc<Semaphore> {
    static TURNS: LazyLock<Mutex<HashMap<String, Weak<Semaphore>>>> = LazyLock::new(Mutex::default);
    let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    turns.retain(|_, turns| turns.strong_count() > 0);
    if let Some(found) = turns.get(&endpoint).and_then(Weak::upgrade) {
        return found;
    }
    let made = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
    turns.insert(endpoint, Arc::downgrade(&made));
    made
}

/// Connects to a target, through `via` when there is a jump host. `way` names the chain of jump hosts.
pub(super) async fn connect(
    target: &Target,
    via: Option<Arc<Connection>>,
    way: &str,
    patience: Patience,
) -> Result<Connection, LinkErrorKind> {
    // Before anything is sent: a key that cannot be read needs no network to be noticed.
    let credentials = Credentials::of(target)?;
    let turns = turns(format!("{way}{}:{}", target.address, target.port));
    let mut pause = PAUSE.0;
    loop {
        let expectation = Arc::new(Expectation::of(target)?);
        // Each holder has deadlines, so this wait has an end. Closed never: nobody closes it.
        let turn = turns.acquire().await;
        let result = attempt(target, via.clone(), expectation, &credentials).await;
        drop(turn);
        match result {
            Err(kind) if patience.allows(&kind, Instant::now()) => {
                // Spread out, so that those who were turned away together do not come back together.
                sleep(jittered(pause)).await;
                pause = (pause * 2).min(PAUSE.1);
            }
            result => return result,
        }
    }
}

/// Half to one and a half times a pause. Apart, because the generator must not live across an await.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.5))
}

async fn attempt(
    target: &Target,
    via: Option<Arc<Connection>>,
    expectation: Arc<Expectation>,
    credentials: &Credentials,
) -> Result<Connection, LinkErrorKind> {
    let phase = target.timeouts.phase;
    let carrier = match &via {
        Some(via) => {
            let channel = via.open_tcp(&target.address, target.port, Phase::Dial).await?;
            Carrier::Channel(Box::new(Tunnel::new(channel)))
        }
        None => Carrier::Tcp(dial(target).await?),
    };
    let greeting = Arc::new(Greeting::default());
    let (state, cut) = (State::new(), CancellationToken::new());
    // Cuts the session when this attempt fails or is cancelled: russh's own task would stay for ever.
    let guard = cut.clone().drop_guard();
    let stall = target.timeouts.keepalive * u32::try_from(KEEPALIVES + 1).unwrap_or(u32::MAX);
    let socket = Socket::new(carrier, Arc::clone(&greeting), cut.clone(), stall);
    let config = Arc::new(config(target, &expectation));
    let watcher = Watcher::new(expectation, Arc::clone(&state));
    let mut handshake = Box::pin(client::connect_stream(config, socket, watcher));
    let late = |phase_name| LinkErrorKind::Deadline { phase: phase_name, after: phase };
    let early = tokio::select! {
        // The handshake first: it moves the bytes in which the banner is seen.
        biased;
        done = &mut handshake => Some(done),
        () = greeting.banner() => None,
        () = sleep(phase) => return Err(late(Phase::Banner)),
    };
    let done = match early {
        Some(done) => done,
        None => timeout(phase, handshake).await.map_err(|_| late(Phase::KeyExchange))?,
    };
    let mut handle = done.map_err(|error| handshake_problem(error, &greeting, target))?;
    let login = credentials.log_in(&mut handle, &state, target);
    timeout(phase, login).await.map_err(|_| late(Phase::Authentication))??;
    guard.disarm();
    Ok(Connection::new(handle, state, cut, phase, via))
}

fn handshake_problem(error: SessionError, greeting: &Greeting, target: &Target) -> LinkErrorKind {
    let error = match error {
        SessionError::Ssh(error) => error,
        SessionError::HostKey(CheckError::Problem(problem)) => return LinkErrorKind::HostKey(Box::new(problem)),
        SessionError::HostKey(CheckError::File(error)) => return LinkErrorKind::KnownHosts(error),
    };
    let not_ssh = || LinkErrorKind::NotSsh { address: target.address.clone(), port: target.port };
    match error {
        russh::Error::Version => not_ssh(),
        russh::Error::NoCommonAlgo { kind, theirs, .. } => LinkErrorKind::NoCommonAlgorithm {
            what: format!("{kind:?}").to_lowercase(),
            theirs: one_line(&theirs.join(", ")),
        },
        error if greeting.has_banner() => LinkErrorKind::Closed { phase: Phase::KeyExchange, why: why_ended(&error) },
        error => match greeting.text() {
            text if text.is_empty() => LinkErrorKind::Closed { phase: Phase::Banner, why: why_ended(&error) },
            // What sshd says instead of a banner when it turns a client away.
            text if text.starts_with("Exceeded MaxStartups") || text.starts_with("Not allowed at this time") => {
                LinkErrorKind::Closed { phase: Phase::Banner, why: format!("the server said `{text}`") }
            }
            _ => not_ssh(),
        },
    }
}

/// Opens a TCP connection to the first address of the target that answers.
async fn dial(target: &Target) -> Result<TcpStream, LinkErrorKind> {
    let (address, port) = (target.address.as_str(), target.port);
    let after = target.timeouts.phase;
    let deadline = Instant::now() + after;
    let late = || LinkErrorKind::Deadline { phase: Phase::Dial, after };
    let resolved = timeout_at(deadline, lookup_host((address, port))).await.map_err(|_| late())?;
    let addresses: Vec<_> =
        resolved.map_err(|source| LinkErrorKind::Resolve { address: address.to_owned(), source })?.collect();
    let mut last = None;
    for (index, socket_address) in addresses.iter().enumerate() {
        // An address that does not answer must not use up the time of the others.
        let left = u32::try_from(addresses.len() - index).unwrap_or(1);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        match timeout(share, TcpStream::connect(socket_address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = Some(error),
            Err(_) => last = Some(io::ErrorKind::TimedOut.into()),
        }
    }
    let address = address.to_owned();
    Err(match last {
        None => LinkErrorKind::Resolve { address, source: io::ErrorKind::NotFound.into() },
        Some(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => LinkErrorKind::Refused { address, port },
            io::ErrorKind::TimedOut => late(),
            io::ErrorKind::ConnectionReset => {
                LinkErrorKind::Closed { phase: Phase::Dial, why: "connection reset by peer".to_owned() }
            }
            _ => LinkErrorKind::Dial { address, port, source: error },
        },
    })
}

fn config(target: &Target, expectation: &Expectation) -> client::Config {
    client::Config {
        limits: Limits::new(REKEY_BYTES, REKEY_BYTES, REKEY_AFTER),
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        channel_buffer_size: CHANNEL_BUFFER,
        preferred: Preferred {
            key: Cow::Owned(expectation.algorithms()),
            host_key_certificates: Cow::Owned(expectation.certificate_algorithms()),
            cipher: Cow::Owned(ciphers()),
            ..Preferred::DEFAULT
        },
        keepalive_interval: Some(target.timeouts.keepalive),
        keepalive_max: KEEPALIVES,
        ..client::Config::default()
    }
}

/// The fastest first: AES-GCM where the CPU has AES instructions, ChaCha20 elsewhere.
fn ciphers() -> Vec<cipher::Name> {
    let (aes, chacha) = (cipher::AES_256_GCM, cipher::CHACHA20_POLY1305);
    let first = if has_aes() { [aes, chacha] } else { [chacha, aes] };
    [first.as_slice(), &[cipher::AES_128_GCM, cipher::AES_256_CTR, cipher::AES_192_CTR, cipher::AES_128_CTR]].concat()
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}
