//! One login at one member at a time: dials, retries, moves to the next member.

use std::{future::Future, io, time::Duration};

use etcd_client::{Certificate, Channel, Client, ConnectOptions, Error, TlsOptions};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Status, transport::Endpoint};

use super::{
    access::{Dial, StoreAccess},
    error::ConfigError,
};

/// Dialling, TLS, HTTP/2 and login at one member: when it is the only one, and when there are others to turn to.
const CONNECT: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(2));
/// One call to a member that is connected, likewise. An election takes etcd 1 s.
const CALL: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(3));
/// All attempts of one call together: a member that restarts is back within it.
const PATIENCE: Duration = Duration::from_secs(10);
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
}

struct State {
    client: Option<Client>,
    /// The member that is tried next.
    member: usize,
    /// Whether calls carry a login.
    login: bool,
}

impl Connection {
    pub(super) fn new(access: StoreAccess, dial: Dial) -> Self {
        Self { access, dial, state: Mutex::new(State { client: None, member: 0, login: true }) }
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
        let deadline = Instant::now() + PATIENCE;
        let mut pause = PAUSES.0;
        let mut logins = 0;
        loop {
            let error = match self.attempt(&call).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            match Meaning::of(&error) {
                Meaning::Unavailable if Instant::now() + pause < deadline => {
                    self.forget(true).await;
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
                // Every login or role that anybody makes meanwhile ends all tokens, so the next one may be stale, too.
                Meaning::StaleToken if logins < MOST_LOGINS && Instant::now() < deadline => {
                    logins += 1;
                    self.forget(false).await;
                }
                _ => return Err(error),
            }
        }
    }

    async fn attempt<T, F, Fut>(&self, call: &F) -> Result<T, Error>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let client = self.client().await?;
        timeout(self.limit(CALL), call(client)).await.unwrap_or_else(|_| Err(too_slow("answer in time")))
    }

    /// A client that is connected and logged in. The login costs etcd 50 ms and more (bcrypt), so it is kept.
    pub(super) async fn client(&self) -> Result<Client, Error> {
        let mut state = self.state.lock().await;
        if let Some(client) = &state.client {
            return Ok(client.clone());
        }
        let (host, port) = &self.access.endpoints[state.member % self.access.endpoints.len()];
        let connecting = self.connect(host, *port, state.login);
        let client =
            timeout(self.limit(CONNECT), connecting).await.unwrap_or_else(|_| Err(too_slow("accept us in time")))?;
        state.client = Some(client.clone());
        Ok(client)
    }

    /// The client as it is, if there is one: for cleaning up without waiting.
    pub(super) fn connected(&self) -> Option<Client> {
        self.state.try_lock().ok().and_then(|state| state.client.clone())
    }

    fn limit(&self, (alone, with_others): (Duration, Duration)) -> Duration {
        if self.access.endpoints.len() == 1 { alone } else { with_others }
    }

    async fn forget(&self, next_member: bool) {
        let mut state = self.state.lock().await;
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
            Meaning::Unavailable => ConfigError::Unreachable { endpoints, source: error.into() },
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
