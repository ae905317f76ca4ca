//! One login at one member: reading a service and waiting for its changes.

use std::{future::Future, io, time::Duration};

use etcd_client::{
    Certificate, Channel, Client, ConnectOptions, Error, GetOptions, ResponseHeader, TlsOptions, WatchOptions,
};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tonic::{Code, Status, transport::Endpoint};

use super::{change::Service, failure::Failure, merge::merge, resolve};
use crate::plan::{EtcdLink, LaunchDescription, LaunchFile};

/// Looking up, connecting, TLS and login.
const CONNECT: Duration = Duration::from_secs(10);
/// One call to a member that is connected.
pub(super) const CALL: Duration = Duration::from_secs(8);
/// Pings while something is watched: a member that vanished without a word is noticed after PING + CALL. etcd refuses
/// pings that come more often than every 5 s.
const PING: Duration = Duration::from_secs(10);
/// The largest description plus files that any sane service has.
pub(super) const LARGEST_ANSWER: usize = 64 << 20;

/// One login at one member. Copies share the connection.
#[derive(Clone)]
pub(super) struct Session {
    client: Client,
    place: String,
    user: String,
}

/// What a service is at one revision, or why its keys cannot be used.
pub(super) struct Reading {
    pub(super) revision: i64,
    /// The keys that were looked at: a change of any of them is worth another reading.
    pub(super) keys: Vec<String>,
    pub(super) service: Result<Service, Failure>,
}

impl Session {
    /// Connects to a member and logs in.
    pub(super) async fn open(link: &EtcdLink, ca: Option<&str>, member: usize) -> Result<Self, Failure> {
        let (host, port) = link.endpoints()[member % link.endpoints().len()].clone();
        let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let (place, user) = (format!("{shown}:{port}"), link.user().to_owned());
        let connecting = async {
            let scheme = if ca.is_some() { "https" } else { "http" };
            let mut endpoint = Endpoint::from_shared(format!("{scheme}://{place}"))?
                .connect_timeout(CONNECT)
                .http2_keep_alive_interval(PING)
                .keep_alive_timeout(CALL)
                .keep_alive_while_idle(false);
            if let Some(ca) = ca {
                let tls =
                    TlsOptions::new().ca_certificate(Certificate::from_pem(ca)).domain_name(&host).assume_http2(true);
                endpoint = endpoint.tls_config(tls)?;
            }
            let connector = tower::service_fn(move |_| {
                let host = host.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(resolve::dial(&host, port).await?)) }
            });
            let channel = Channel::Tonic(endpoint.connect_with_connector_lazy(connector));
            let options = ConnectOptions::new()
                .with_user(link.user(), link.password().expose().as_str())
                // A member that lost its cluster must not keep us waiting for changes that it will never see.
                .with_require_leader(true)
                .with_auto_token_refresh(true);
            Client::from_channel(channel, Some(options)).await
        };
        match within(CONNECT, connecting).await {
            Ok(client) => Ok(Self { client, place, user }),
            Err(error) => Err(failure(place, user, "", error)),
        }
    }

    /// The description and all files that it names, from one revision.
    pub(super) async fn read(&mut self, node: &str) -> Result<Reading, Failure> {
        let key = format!("{node}/{}", LaunchDescription::KEY);
        let (revision, value) = self.get(&key, 0).await?;
        let mut reading =
            Reading { revision, keys: vec![key.clone()], service: Err(Failure::Missing { key: key.clone() }) };
        let Some(value) = value else {
            return Ok(reading);
        };
        let description = match super::change::parse(&key, &value) {
            Ok(description) => description,
            Err(error) => {
                reading.service = Err(error);
                return Ok(reading);
            }
        };
        reading.keys.extend(description.files.iter().map(|file| file.key.clone()));
        let mut contents = Vec::new();
        for file in &description.files {
            match self.content(file, revision).await {
                Ok(Some(content)) => contents.push(content),
                Ok(None) => {
                    reading.service = Err(Failure::Missing { key: file.key.clone() });
                    return Ok(reading);
                }
                Err(error @ Failure::Merge { .. }) => {
                    reading.service = Err(error);
                    return Ok(reading);
                }
                Err(error) => return Err(error),
            }
        }
        reading.service = Ok(Service { description, contents });
        Ok(reading)
    }

    /// What a file holds at a revision; none without its key.
    async fn content(&mut self, file: &LaunchFile, revision: i64) -> Result<Option<Vec<u8>>, Failure> {
        let key = file.key.as_str();
        if !file.is_merged() {
            return Ok(self.get(key, revision).await?.1);
        }
        let options = GetOptions::new().with_prefix().with_revision(revision);
        let mut store = self.client.kv_client().max_decoding_message_size(LARGEST_ANSWER);
        let mut answer = within(CALL, store.get(key, Some(options))).await.map_err(|error| self.failure(key, error))?;
        let keys: Vec<_> = answer.take_kvs().into_iter().map(etcd_client::KeyValue::into_key_value).collect();
        merge(key, &keys)
    }

    /// A key at a revision (0: the newest), and the store's revision then.
    async fn get(&mut self, key: &str, revision: i64) -> Result<(i64, Option<Vec<u8>>), Failure> {
        let options = GetOptions::new().with_revision(revision);
        let mut store = self.client.kv_client().max_decoding_message_size(LARGEST_ANSWER);
        let mut answer = within(CALL, store.get(key, Some(options))).await.map_err(|error| self.failure(key, error))?;
        let revision = answer.header().map_or(0, ResponseHeader::revision);
        let value = answer.take_kvs().pop().map(|kv| kv.into_key_value().1);
        Ok((revision, value))
    }

    /// Returns as soon as one of the keys (all below it, when it ends in `/`) has changed after the revision, or may have: its history is gone.
    pub(super) async fn changed(&mut self, keys: &[String], revision: i64) -> Result<(), Failure> {
        let options = |key: &str| {
            let options = WatchOptions::new().with_start_revision(revision + 1);
            Some(if key.ends_with('/') { options.with_prefix() } else { options })
        };
        let Some((first, others)) = keys.split_first() else {
            return Ok(());
        };
        let watching = self.client.watch(first.as_str(), options(first));
        let mut stream = within(CALL, watching).await.map_err(|error| self.failure(first, error))?;
        for key in others {
            stream.watch(key.as_str(), options(key)).await.map_err(|error| self.failure(key, error))?;
        }
        let mut created = 0;
        loop {
            // Only setting it up has a deadline; the change itself may be years away. The pings guard the connection.
            let message =
                if created < keys.len() { within(CALL, stream.message()).await } else { stream.message().await };
            let message = message.map_err(|error| self.failure(first, error))?;
            let Some(message) = message else {
                return Err(self.failure(first, Error::WatchError("the member ended the watch".to_owned())));
            };
            // A watch that etcd cancelled stays open and silent for ever.
            if message.canceled() && message.compact_revision() > 0 {
                return Ok(());
            }
            if message.canceled() {
                let reason = message.cancel_reason().to_owned();
                let denied = reason.contains("permission denied");
                let status = if denied { Status::permission_denied(reason) } else { Status::unavailable(reason) };
                return Err(self.failure(first, Error::GRpcStatus(status)));
            }
            if !message.events().is_empty() {
                return Ok(());
            }
            created += usize::from(message.created());
        }
    }

    /// The client of etcd's own API.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// What an error of that client means.
    pub(super) fn failure(&self, key: &str, error: Error) -> Failure {
        failure(self.place.clone(), self.user.clone(), key, error)
    }
}

/// The call, unless it takes too long.
pub(super) async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = || Error::GRpcStatus(Status::deadline_exceeded("no answer in time"));
    timeout(limit, call).await.unwrap_or_else(|_| Err(late()))
}

/// What etcd's answer means for a launch. The texts are etcd's own (`api/v3rpc/rpctypes/error.go`).
fn failure(place: String, user: String, key: &str, error: Error) -> Failure {
    if let Error::GRpcStatus(status) = &error {
        let says = |text: &str| status.message().contains(text);
        if status.code() == Code::PermissionDenied || says("permission denied") {
            return Failure::Denied { user, key: key.to_owned() };
        }
        if says("authentication failed") || says("user name is empty") {
            return Failure::Refused { place, user };
        }
    }
    Failure::Unreachable { place, source: error.into() }
}
