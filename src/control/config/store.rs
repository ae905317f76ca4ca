//! The lab's configuration store: opening it, reading from it.

use std::sync::atomic::{AtomicBool, Ordering};

use etcd_client::{Error, GetOptions, GetResponse, KeyValue};

use super::{
    access::{Dial, StoreAccess},
    connection::{Connection, Meaning},
    error::ConfigError,
};
use crate::plan::LabName;

/// Keys read per request.
const PAGE: i64 = 1000;
/// The largest answer taken: a page of the largest values that we write ourselves would not fit into tonic's 4 MiB.
const LARGEST_ANSWER: usize = 256 << 20;

/// The lab's configuration store: one etcd, one login. Cheap calls reconnect and retry by themselves.
pub struct Store {
    pub(super) connection: Connection,
    pub(super) lab: LabName,
    /// One write at a time from this process.
    pub(super) writing: tokio::sync::Mutex<()>,
    /// Logins are made one after another: each step ends the tokens of all.
    pub(super) granting: tokio::sync::Mutex<()>,
    auth: AtomicBool,
}

/// A key as etcd holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The whole key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// The revision of its last change.
    pub revision: i64,
    /// The revision that it was made at.
    pub created: i64,
}

impl Store {
    /// Connects and logs in.
    ///
    /// An etcd whose authentication is off opens too ([`Store::auth_enabled`] is false then): it can be read and
    /// [`Store::ensure_auth`] can switch authentication on, nothing else is written before that. A wrong password is
    /// [`ConfigError::LoginRefused`], nobody there [`ConfigError::Unreachable`] after 10 s.
    pub async fn open(access: StoreAccess, dial: Dial, lab: &LabName) -> Result<Self, ConfigError> {
        if access.endpoints.is_empty() {
            return Err(ConfigError::BadLogin { user: access.user, why: "has no etcd endpoint to go to" });
        }
        if access.user.is_empty() || access.password.expose().is_empty() {
            return Err(ConfigError::BadLogin { user: access.user, why: "needs a name and a password" });
        }
        let connection = Connection::new(access, dial);
        let auth = match connection.raw(|_| async { Ok(()) }).await {
            Ok(()) => true,
            Err(error) if Meaning::of(&error) == Meaning::AuthOff => false,
            Err(error) => return Err(connection.explain("log in", error)),
        };
        if !auth {
            connection.use_login(false).await;
        }
        Ok(Self {
            connection,
            lab: lab.clone(),
            writing: tokio::sync::Mutex::default(),
            granting: tokio::sync::Mutex::default(),
            auth: AtomicBool::new(auth),
        })
    }

    /// Whether etcd's authentication is on, as far as we have seen.
    pub fn auth_enabled(&self) -> bool {
        self.auth.load(Ordering::Relaxed)
    }

    /// Where this store is and who is logged in.
    pub fn access(&self) -> &StoreAccess {
        self.connection.access()
    }

    /// Whether etcd answers right now: one attempt, 2 s. [`ConfigError::Unreachable`] when it does not.
    pub async fn look(&self) -> Result<(), ConfigError> {
        let key = self.own_key("lock");
        let read = |client: etcd_client::Client| {
            let (key, options) = (key.clone(), GetOptions::new().with_keys_only());
            async move { client.kv_client().get(key, Some(options)).await.map(drop) }
        };
        self.connection.look("read", read).await
    }

    /// All keys below a prefix, in order, from one revision. The prefix must end in `/`.
    pub async fn get(&self, prefix: &str) -> Result<Vec<Entry>, ConfigError> {
        Ok(self.get_at(prefix, 0).await?.0)
    }

    /// The same at a revision (0: the newest), and which revision that was.
    pub(super) async fn get_at(&self, prefix: &str, revision: i64) -> Result<(Vec<Entry>, i64), ConfigError> {
        let what = format!("read `{prefix}`");
        let end = range_end(prefix);
        let (mut entries, mut revision, mut start) = (Vec::new(), revision, prefix.to_owned());
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
            let answer = self.range(&what, &start, options).await?;
            if revision == 0 {
                // Later pages come from the revision of the first one: the keys belong together.
                revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            }
            entries.extend(answer.kvs().iter().filter_map(entry));
            match answer.kvs().last() {
                Some(last) if answer.more() => start = format!("{}\0", String::from_utf8_lossy(last.key())),
                _ => return Ok((entries, revision)),
            }
        }
    }

    /// One key, at a revision (0: the newest).
    pub(super) async fn get_one(&self, key: &str, revision: i64) -> Result<Option<Entry>, ConfigError> {
        let answer = self.range(&format!("read `{key}`"), key, GetOptions::new().with_revision(revision)).await?;
        Ok(answer.kvs().first().and_then(entry))
    }

    async fn range(&self, what: &str, key: &str, options: GetOptions) -> Result<GetResponse, ConfigError> {
        self.connection
            .call(what, |client| {
                let (key, options) = (key.to_owned(), options.clone());
                async move {
                    client.kv_client().max_decoding_message_size(LARGEST_ANSWER).get(key, Some(options)).await
                }
            })
            .await
    }

    /// Whether somebody switched authentication on since we opened; then we are logged in.
    pub(super) async fn auth_was_enabled(&self) -> bool {
        if self.auth_is_on().await.is_ok() {
            return true;
        }
        self.connection.use_login(false).await;
        false
    }

    /// Logs in; fails when authentication is off.
    pub(super) async fn auth_is_on(&self) -> Result<(), ConfigError> {
        self.connection.use_login(true).await;
        self.connection.call("log in", |_| async { Ok::<_, Error>(()) }).await?;
        self.auth.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Refuses to write into an etcd that anybody may write to.
    pub(super) fn require_auth(&self) -> Result<(), ConfigError> {
        if self.auth_enabled() {
            return Ok(());
        }
        Err(ConfigError::AuthOff { endpoints: self.access().endpoints_text() })
    }

    /// A key of ours outside the components' prefixes.
    pub(super) fn own_key(&self, rest: &str) -> String {
        format!("/ovs-cuisine/{}/{rest}", self.lab)
    }
}

/// Keys that are not UTF-8 are none of ours and cannot be shown.
fn entry(kv: &KeyValue) -> Option<Entry> {
    let (key, value) = (std::str::from_utf8(kv.key()).ok()?.to_owned(), kv.value().to_vec());
    Some(Entry { key, value, revision: kv.mod_revision(), created: kv.create_revision() })
}

/// The first key after all keys with this prefix, as etcd's own clients compute it.
pub(super) fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}
