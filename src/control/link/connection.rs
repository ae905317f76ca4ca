//! One SSH connection: what is known about its end, and opening channels on it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use russh::{
    ChannelMsg, ChannelOpenFailure, ChannelWriteHalf, Disconnect,
    client::{self, DisconnectReason, Handle},
    keys::PublicKeyOrCertificate,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    error::{LinkErrorKind, Phase},
    host_key::{CheckError, Expectation},
    remote_text::one_line,
};

/// How long a server may take to notice that a session is over, and how often it is asked.
const SESSION_FREED_WITHIN: Duration = Duration::from_secs(1);
const SESSION_PAUSE: Duration = Duration::from_millis(20);

/// A channel of a connection.
pub(super) type Channel = russh::Channel<client::Msg>;
/// The sending half of a channel.
pub(super) type Writer = ChannelWriteHalf<client::Msg>;

/// What the session says about itself.
#[derive(Debug)]
pub(super) struct State {
    /// Why the connection ended; none while it lives.
    lost: watch::Sender<Option<String>>,
    opens: Mutex<Opens>,
    described: watch::Sender<u64>,
}

/// Channel opens under way. The reason of a refused one comes apart from the refusal and without saying whose it is,
/// so it is only told when no other open was under way.
#[derive(Debug, Default)]
struct Opens {
    under_way: usize,
    overlapped: bool,
    description: Option<String>,
}

impl State {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { lost: watch::Sender::new(None), opens: Mutex::default(), described: watch::Sender::new(0) })
    }

    fn set_lost(&self, why: impl FnOnce() -> String) {
        self.lost.send_if_modified(|lost| {
            let first = lost.is_none();
            if first {
                *lost = Some(why());
            }
            first
        });
    }

    /// Why the connection ended, if it did.
    pub(super) fn why_lost(&self) -> Option<String> {
        self.lost.borrow().clone()
    }

    /// Waits for the connection's end and says why.
    pub(super) async fn lost(&self) -> String {
        let mut lost = self.lost.subscribe();
        // The sender is in self, so it cannot be gone.
        match lost.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    fn opens(&self) -> std::sync::MutexGuard<'_, Opens> {
        self.opens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends an open's entry in [`Opens`] also when it is cancelled.
struct Opening<'a>(&'a State);

impl<'a> Opening<'a> {
    fn begin(state: &'a State) -> Self {
        let mut opens = state.opens();
        opens.under_way += 1;
        if opens.under_way == 1 {
            (opens.overlapped, opens.description) = (false, None);
        } else {
            opens.overlapped = true;
        }
        drop(opens);
        Self(state)
    }

    /// The server's reason for a refusal, when it is surely this open's.
    async fn reason(&self, patience: Duration) -> Option<String> {
        let mut described = self.0.described.subscribe();
        let arrived = described.wait_for(|_| {
            let opens = self.0.opens();
            opens.overlapped || opens.description.is_some()
        });
        let _ = timeout(patience, arrived).await;
        let opens = self.0.opens();
        opens.description.clone().filter(|_| !opens.overlapped)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opens().under_way -= 1;
    }
}

/// Hears what the session has to say.
#[derive(Debug)]
pub(super) struct Watcher {
    expectation: Arc<Expectation>,
    state: Arc<State>,
}

/// Why a session ended by itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error(transparent)]
    HostKey(#[from] CheckError),
}

impl Watcher {
    pub(super) fn new(expectation: Arc<Expectation>, state: Arc<State>) -> Self {
        Self { expectation, state }
    }
}

impl client::Handler for Watcher {
    type Error = SessionError;

    async fn check_server_key(&mut self, offered: &PublicKeyOrCertificate) -> Result<bool, SessionError> {
        self.expectation.check(offered)?;
        Ok(true)
    }

    async fn channel_open_failure(
        &mut self,
        _channel: russh::ChannelId,
        _reason: ChannelOpenFailure,
        description: &str,
        _language: &str,
        _session: &mut client::Session,
    ) -> Result<(), SessionError> {
        self.state.opens().description = Some(one_line(description));
        self.state.described.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<SessionError>) -> Result<(), SessionError> {
        self.state.set_lost(|| match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                format!("the server hung up: {}", one_line(&info.message))
            }
            DisconnectReason::Error(SessionError::Ssh(error)) => why_ended(&error),
            DisconnectReason::Error(error @ SessionError::HostKey(_)) => error.to_string(),
        });
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Whatever way the session ended: nobody may wait for it any longer.
        self.state.set_lost(|| "the session ended".to_owned());
    }
}

/// A session's error in words that fit after `connection lost:`.
pub(super) fn why_ended(error: &russh::Error) -> String {
    use std::io::ErrorKind;
    match error {
        russh::Error::KeepaliveTimeout => "the host no longer answers (keepalive timeout)".to_owned(),
        russh::Error::Disconnect | russh::Error::HUP => "the server closed the connection".to_owned(),
        russh::Error::IO(error) => match error.kind() {
            ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
            ErrorKind::ConnectionAborted => "it was closed here".to_owned(),
            ErrorKind::TimedOut => "the host takes no more data".to_owned(),
            _ => one_line(&error.to_string()).to_lowercase(),
        },
        other => one_line(&other.to_string()),
    }
}

/// An authenticated connection. Dropping it ends its session and all its channels at once.
pub(super) struct Connection {
    handle: Handle<Watcher>,
    state: Arc<State>,
    cut: CancellationToken,
    phase: Duration,
    /// The connection below. It must outlive this one.
    _via: Option<Arc<Connection>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("lost", &self.state.why_lost()).finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(
        handle: Handle<Watcher>,
        state: Arc<State>,
        cut: CancellationToken,
        phase: Duration,
        via: Option<Arc<Self>>,
    ) -> Self {
        Self { handle, state, cut, phase, _via: via }
    }

    pub(super) fn state(&self) -> &Arc<State> {
        &self.state
    }

    pub(super) fn is_lost(&self) -> bool {
        self.state.why_lost().is_some() || self.handle.is_closed()
    }

    /// Opens a session channel. sshd still counts sessions (`MaxSessions`) for a moment after their channels are
    /// closed, so a refusal is believed only when it lasts.
    pub(super) async fn open_session(&self) -> Result<Channel, LinkErrorKind> {
        let until = Instant::now() + SESSION_FREED_WITHIN;
        loop {
            match self.try_open_session().await {
                Err(LinkErrorKind::OpenRefused { .. }) if Instant::now() < until => sleep(SESSION_PAUSE).await,
                result => return result,
            }
        }
    }

    async fn try_open_session(&self) -> Result<Channel, LinkErrorKind> {
        let opening = Opening::begin(&self.state);
        match self.within_phase(self.handle.channel_open_session()).await? {
            Ok(channel) => Ok(channel),
            Err(russh::Error::ChannelOpenFailure(reason)) => {
                let why = opening.reason(self.phase).await.filter(|why| !why.is_empty());
                Err(LinkErrorKind::OpenRefused { why: why.unwrap_or_else(|| failure_text(&reason)) })
            }
            Err(error) => Err(self.lost_while(Phase::Open, &error)),
        }
    }

    /// Opens a TCP connection from the far side. `phase` names the deadline: `Dial` for a hop, `Open` for a tunnel.
    pub(super) async fn open_tcp(&self, address: &str, port: u16, phase: Phase) -> Result<Channel, LinkErrorKind> {
        let opening = Opening::begin(&self.state);
        let open = self.handle.channel_open_direct_tcpip(address, u32::from(port), "127.0.0.1", 0);
        let Ok(opened) = timeout(self.phase, open).await else {
            return Err(LinkErrorKind::Deadline { phase, after: self.phase });
        };
        let address = address.to_owned();
        match opened {
            Ok(channel) => Ok(channel),
            Err(russh::Error::ChannelOpenFailure(ChannelOpenFailure::AdministrativelyProhibited)) => {
                Err(LinkErrorKind::ForwardingForbidden { address, port })
            }
            Err(russh::Error::ChannelOpenFailure(reason)) => {
                let why = opening.reason(self.phase).await.filter(|why| !why.is_empty());
                match why {
                    Some(why) if why.to_lowercase().contains("connection refused") => {
                        Err(LinkErrorKind::Refused { address, port })
                    }
                    why => Err(LinkErrorKind::DialBehind {
                        address,
                        port,
                        why: why.unwrap_or_else(|| failure_text(&reason)),
                    }),
                }
            }
            Err(error) => Err(self.lost_while(phase, &error)),
        }
    }

    async fn within_phase<T>(&self, work: impl Future<Output = T>) -> Result<T, LinkErrorKind> {
        timeout(self.phase, work).await.map_err(|_| LinkErrorKind::Deadline { phase: Phase::Open, after: self.phase })
    }

    /// The connection's own reason when it has one, else the error's.
    pub(super) fn lost_while(&self, phase: Phase, error: &russh::Error) -> LinkErrorKind {
        let why = self.state.why_lost().unwrap_or_else(|| why_ended(error));
        LinkErrorKind::Closed { phase, why }
    }

    /// Ends the connection politely; waits until it is ended, at most `patience`.
    pub(super) async fn close(&self, patience: Duration) {
        let goodbye = async {
            let _ = self.handle.disconnect(Disconnect::ByApplication, "", "").await;
            self.state.lost().await
        };
        let _ = timeout(patience, goodbye).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.state.set_lost(|| "it was closed here".to_owned());
        self.cut.cancel();
    }
}

fn failure_text(reason: &ChannelOpenFailure) -> String {
    match reason {
        ChannelOpenFailure::AdministrativelyProhibited => "administratively prohibited".to_owned(),
        ChannelOpenFailure::ConnectFailed => "connect failed".to_owned(),
        ChannelOpenFailure::UnknownChannelType => "unknown channel type".to_owned(),
        ChannelOpenFailure::ResourceShortage => "resource shortage".to_owned(),
        ChannelOpenFailure::Other { reason, .. } => one_line(reason),
    }
}

/// Closes a channel when dropped. russh itself sends nothing then, and the server would keep the session.
pub(super) struct CloseOnDrop(pub(super) Arc<Writer>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        let writer = Arc::clone(&self.0);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Nothing to do about a failure: then the connection is gone, and the channel with it.
            runtime.spawn(async move { writer.close().await });
        }
    }
}

/// How a remote program ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) status: Option<i32>,
    pub(super) signal: Option<String>,
}

impl Ending {
    /// Takes note when a message says how the program ended.
    pub(super) fn observe(&mut self, message: &ChannelMsg) {
        match message {
            ChannelMsg::ExitStatus { exit_status } => self.status = i32::try_from(*exit_status).ok(),
            ChannelMsg::ExitSignal { signal_name, .. } => {
                let (name, number) = signal(signal_name);
                self.status = number.map(|number| 128 + number);
                self.signal = Some(name);
            }
            _ => {}
        }
    }

    pub(super) fn is_known(&self) -> bool {
        self.status.is_some() || self.signal.is_some()
    }
}

/// A signal's name (RFC 4254 section 6.10) and its number on Linux.
fn signal(signal: &russh::Sig) -> (String, Option<i32>) {
    use russh::Sig;
    let (name, number) = match signal {
        Sig::HUP => ("HUP", 1),
        Sig::INT => ("INT", 2),
        Sig::QUIT => ("QUIT", 3),
        Sig::ILL => ("ILL", 4),
        Sig::ABRT => ("ABRT", 6),
        Sig::FPE => ("FPE", 8),
        Sig::KILL => ("KILL", 9),
        Sig::USR1 => ("USR1", 10),
        Sig::SEGV => ("SEGV", 11),
        Sig::PIPE => ("PIPE", 13),
        Sig::ALRM => ("ALRM", 14),
        Sig::TERM => ("TERM", 15),
        // OpenSSH sends `SIG@openssh.com` for those without a standard name.
        Sig::Custom(name) => return (one_line(name.trim_end_matches("@openssh.com")), None),
    };
    (name.to_owned(), Some(number))
}
