//! One login at one member at a time: dials, retries, moves to the next member.

use std::{
    future::Future,
    io,
    sync::{Mutex as StdMutex, PoisonError},
    time::Duration,
};

use etcd_client::{Certificate, Channel, Client, ConnectOptions, Error, TlsOptions};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Status, transport::Endpoint};

use super::{
    access::{Dial, StoreAccess},
    cause::innermost,
    error::ConfigError,
};

/// Dialling, TLS, HTTP/2 and login at one member: when it is the only one, and when there are others to turn to.
const CONNECT: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(2));
/// One call to a member that is connected, likewise. An election takes etcd 1 s.
const CALL: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(3));
/// How long an outage is borne, counted once for all calls: a member that restarts is back within it, and a run whose
/// components all wait for an etcd that is gone does not wait again for each of them.
const PATIENCE: Duration = Duration::from_secs(10);
/// One attempt when patience has run out.
const BRIEF: Duration = Duration::from_secs(2);
/// Logins within one call. Each takes etcd 50 ms and more.
const MOST_LOGINS: u32 = 30;
/// First and longest pause between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// etcd's servers refuse pings that come more often than every 5 s.
const PING: Duration = Duration::from_secs(10);

/// What an etcd error means to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nobody there, or not now: worth another attempt.
    Unavailable,
    /// TLS does not come about: a wrong CA or host name is not cured by waiting.
    Tls,
    /// The token is of no use any more: worth a new login.
    StaleToken,
    /// Wrong user or password.
    LoginRefused,
    /// Authentication is switched off.
    AuthOff,
    /// Authentication is on and we came without a login.
    LoginMissing,
    /// The login lacks permission.
    Denied,
    /// The thing named exists already.
    Exists,
    /// The thing named does not exist.
    Missing,
    /// Any other answer.
    Answer,
}

impl Meaning {
    pub(super) fn of(error: &Error) -> Self {
        match error {
            error if is_tls(error) => Self::Tls,
            Error::GRpcStatus(status) => Self::of_status(status),
            Error::TransportError(_) | Error::IoError(_) => Self::Unavailable,
            _ => Self::Answer,
        }
    }

    // The texts are etcd's own: api/v3rpc/rpctypes/error.go. Services built on etcd's own client (lock) lose the code.
    fn of_status(status: &Status) -> Self {
        let says = |text: &str| status.message().contains(text);
        match status.code() {
            _ if says("authentication is not enabled") => Self::AuthOff,
            _ if says("authentication failed") => Self::LoginRefused,
            _ if says("user name is empty") => Self::LoginMissing,
            _ if says("invalid auth token") || says("revision of auth store is old") => Self::StaleToken,
            _ if says("permission denied") => Self::Denied,
            _ if says("already exists") || says("already granted") => Self::Exists,
            _ if says("not found") || says("is not granted to the user") || says("not granted to the role") => {
                Self::Missing
            }
            Code::Unauthenticated => Self::StaleToken,
            Code::PermissionDenied => Self::Denied,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Self::Unavailable,
            // A stream that breaks under a call surfaces as one of these, with the transport's error as its source.
            Code::Unknown | Code::Internal if std::error::Error::source(status).is_some() => Self::Unavailable,
            _ => Self::Answer,
        }
    }
}

/// One login at one member at a time.
pub(super) struct Connection {
    access: StoreAccess,
    dial: Dial,
    state: Mutex<State>,
    outage: StdMutex<Option<Outage>>,
}

struct State {
    client: Option<Client>,
    /// Counts clients: who fails forgets the client that failed, not the one that somebody else has made since.
    generation: u64,
    /// The member that is tried next.
    member: usize,
    /// Whether calls carry a login.
    login: bool,
}

/// Nobody answers, as far as the calls so far can tell.
struct Outage {
    /// When the first attempt that failed began.
    since: Instant,
    /// When the last one failed.
    last: Instant,
    /// Whether that took long: nobody refused it, nobody answered.
    is_silent: bool,
    why: String,
}

impl Outage {
    fn patience_left(&self) -> Duration {
        (self.since + PATIENCE).saturating_duration_since(Instant::now())
    }

    fn error(&self) -> Error {
        Error::GRpcStatus(Status::unavailable(self.why.clone()))
    }
}

impl Connection {
    pub(super) fn new(access: StoreAccess, dial: Dial) -> Self {
        let state = State { client: None, generation: 0, member: 0, login: true };
        Self { access, dial, state: Mutex::new(state), outage: StdMutex::default() }
    }

    pub(super) fn access(&self) -> &StoreAccess {
        &self.access
    }

    /// From now on with or without login; the next call connects anew.
    pub(super) async fn use_login(&self, login: bool) {
        let mut state = self.state.lock().await;
        state.login = login;
        state.client = None;
    }

    /// Makes a call, again and again while nobody answers, at the next member each time. Calls must bear being made
    /// twice: when an answer is lost, nobody knows whether the first one counted.
    pub(super) async fn call<T, F, Fut>(&self, what: &str, call: F) -> Result<T, ConfigError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        self.raw(call).await.map_err(|error| self.explain(what, error))
    }

    /// The same with etcd's own error, for callers to whom some errors are answers.
    pub(super) async fn raw<T, F, Fut>(&self, call: F) -> Result<T, Error>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let begun = Instant::now();
        let mut pause = PAUSES.0;
        let mut logins = 0;
        loop {
            let error = match self.attempt(&call).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            match Meaning::of(&error) {
                Meaning::Unavailable if pause < self.patience_left() => {
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
                // Every login or role that anybody makes meanwhile ends all tokens, so the next one may be stale, too.
                Meaning::StaleToken if logins < MOST_LOGINS && begun.elapsed() < PATIENCE => logins += 1,
                _ => return Err(error),
            }
        }
    }

    /// One attempt and no more, within a moment: for a look whether etcd answers.
    pub(super) async fn look<T, F, Fut>(&self, what: &str, call: F) -> Result<T, ConfigError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let looked = timeout(BRIEF, self.attempt(&call)).await.unwrap_or_else(|_| Err(too_slow("answer in time")));
        looked.map_err(|error| self.explain(what, error))
    }

    async fn attempt<T, F, Fut>(&self, call: &F) -> Result<T, Error>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let (client, generation) = self.client().await?;
        let begun = Instant::now();
        let answer = timeout(self.limit(CALL), call(client)).await.unwrap_or_else(|_| Err(too_slow("answer in time")));
        match answer.as_ref().err().map(Meaning::of) {
            Some(Meaning::Unavailable) => {
                if let Err(error) = &answer {
                    self.note_failure(begun, error);
                }
                self.forget(generation, true).await;
            }
            Some(Meaning::StaleToken) => self.forget(generation, false).await,
            _ => *self.outage() = None,
        }
        answer
    }

    /// A client that is connected and logged in, and its number. The login costs etcd 50 ms and more (bcrypt), so it is
    /// kept. Who waits while somebody else tries to connect shares what comes of it.
    async fn client(&self) -> Result<(Client, u64), Error> {
        let begun = Instant::now();
        let mut state = self.state.lock().await;
        if let Some(client) = &state.client {
            return Ok((client.clone(), state.generation));
        }
        if let Some(error) = self.known_failure(begun) {
            return Err(error);
        }
        let begun = Instant::now();
        let (host, port) = &self.access.endpoints[state.member % self.access.endpoints.len()];
        let connecting = self.connect(host, *port, state.login);
        let limit = self.limit(CONNECT).min(self.patience_left().max(BRIEF));
        let connected = timeout(limit, connecting).await.unwrap_or_else(|_| Err(too_slow("accept us in time")));
        match &connected {
            Ok(client) => {
                state.client = Some(client.clone());
                state.generation += 1;
                // Without a login nothing has travelled yet.
                if state.login {
                    *self.outage() = None;
                }
            }
            Err(error) if Meaning::of(error) == Meaning::Unavailable => {
                self.note_failure(begun, error);
                state.member = state.member.wrapping_add(1);
            }
            Err(_) => *self.outage() = None,
        }
        Ok((connected?, state.generation))
    }

    fn outage(&self) -> std::sync::MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is left of the patience that all calls share.
    fn patience_left(&self) -> Duration {
        self.outage().as_ref().map_or(PATIENCE, Outage::patience_left)
    }

    fn note_failure(&self, begun: Instant, error: &Error) {
        let mut outage = self.outage();
        let (why, is_silent) = (innermost(error), begun.elapsed() >= BRIEF / 2);
        match &mut *outage {
            // One that nobody has looked at for a while may have been over in between.
            Some(known) if known.last.elapsed() < PATIENCE => {
                (known.last, known.is_silent, known.why) = (Instant::now(), is_silent, why);
            }
            _ => *outage = Some(Outage { since: begun, last: Instant::now(), is_silent, why }),
        }
    }

    /// The failure of an attempt that was under way after `begun`, or of one so short ago that it is no use to wait for
    /// another.
    fn known_failure(&self, begun: Instant) -> Option<Error> {
        let outage = self.outage();
        let known = outage.as_ref()?;
        let is_shared = known.last >= begun;
        let is_fresh = known.is_silent && known.patience_left().is_zero() && known.last.elapsed() < BRIEF;
        (is_shared || is_fresh).then(|| known.error())
    }

    /// The client as it is, if there is one: for cleaning up without waiting.
    pub(super) fn connected(&self) -> Option<Client> {
        self.state.try_lock().ok().and_then(|state| state.client.clone())
    }

    fn limit(&self, (alone, with_others): (Duration, Duration)) -> Duration {
        if self.access.endpoints.len() == 1 { alone } else { with_others }
    }

    /// Lets go of the client with this number, if it is still the one in use.
    async fn forget(&self, generation: u64, next_member: bool) {
        let mut state = self.state.lock().await;
        if state.generation != generation || state.client.is_none() {
            return;
        }
        state.client = None;
        if next_member {
            state.member = state.member.wrapping_add(1);
        }
    }

    async fn connect(&self, host: &str, port: u16, login: bool) -> Result<Client, Error> {
        let scheme = if self.access.ca.is_some() { "https" } else { "http" };
        let shown = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{shown}:{port}"))?
            .connect_timeout(self.limit(CONNECT))
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(CALL.0)
            .keep_alive_while_idle(false);
        if let Some(ca) = &self.access.ca {
            let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca)).domain_name(host).assume_http2(true);
            endpoint = endpoint.tls_config(tls)?;
        }
        let (dial, host) = (self.dial.clone(), host.to_owned());
        let connector = tower::service_fn(move |_| {
            let opening = dial(host.clone(), port);
            async move { Ok::<_, io::Error>(TokioIo::new(opening.await?)) }
        });
        let channel = Channel::Tonic(endpoint.connect_with_connector_lazy(connector));
        let mut options = ConnectOptions::new();
        if login {
            options = options
                .with_user(self.access.user.clone(), self.access.password.expose().clone())
                .with_auto_token_refresh(true);
        }
        Client::from_channel(channel, Some(options)).await
    }

    /// What an error means to a person.
    pub(super) fn explain(&self, what: &str, error: Error) -> ConfigError {
        let endpoints = self.access.endpoints_text();
        match Meaning::of(&error) {
            Meaning::Tls => ConfigError::Tls { endpoints, source: error.into() },
            Meaning::Unavailable => ConfigError::Unreachable { endpoints, what: what.to_owned(), source: error.into() },
            Meaning::LoginRefused | Meaning::StaleToken => {
                ConfigError::LoginRefused { endpoints, user: self.access.user.clone() }
            }
            Meaning::AuthOff => ConfigError::AuthOff { endpoints },
            Meaning::Denied => ConfigError::Denied { user: self.access.user.clone(), what: what.to_owned() },
            _ => ConfigError::Etcd { what: what.to_owned(), source: error.into() },
        }
    }
}

fn too_slow(what: &str) -> Error {
    Error::GRpcStatus(Status::deadline_exceeded(format!("the member did not {what}")))
}

/// Whether the transport failed in TLS.
fn is_tls(error: &Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = match error {
        Error::GRpcStatus(status) => std::error::Error::source(status),
        Error::TransportError(error) => Some(error),
        _ => None,
    };
    while let Some(error) = source {
        let text = error.to_string();
        if text.contains("invalid peer certificate") || text.contains("received corrupt message") {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(status: Status) -> Meaning {
        Meaning::of(&Error::GRpcStatus(status))
    }

    #[test]
    fn etcd_answers_are_told_apart() {
        use Meaning::*;
        for (status, expected) in [
            (Status::failed_precondition("etcdserver: authentication is not enabled"), AuthOff),
            (Status::invalid_argument("etcdserver: authentication failed, invalid user ID or password"), LoginRefused),
            (Status::invalid_argument("etcdserver: user name is empty"), LoginMissing),
            (Status::unauthenticated("etcdserver: invalid auth token"), StaleToken),
            (Status::unknown("etcdserver: invalid auth token"), StaleToken),
            (Status::invalid_argument("etcdserver: revision of auth store is old"), StaleToken),
            (Status::permission_denied("etcdserver: permission denied"), Denied),
            (Status::unknown("etcdserver: permission denied"), Denied),
            (Status::failed_precondition("etcdserver: user name already exists"), Exists),
            (Status::failed_precondition("etcdserver: role name not found"), Missing),
            (Status::unavailable("etcdserver: leader changed"), Unavailable),
            (Status::deadline_exceeded(""), Unavailable),
            (Status::invalid_argument("etcdserver: too many operations in txn request"), Answer),
        ] {
            assert_eq!(meaning(status.clone()), expected, "{status:?}");
        }
    }
}
