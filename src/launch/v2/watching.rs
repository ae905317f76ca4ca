//! Waiting for the next change of a key or of what lies below it: the v2 API's long poll.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use etcd_client::{Error, EventType, GetOptions, WatchOptions, WatchResponse, WatchStream};
use tokio::time::{sleep, timeout};
use tonic::Code;

use super::{
    answer::{Event, INDEX_CLEARED, Node, Refusal, line},
    gate::{Gate, Repeat, Trouble},
    listing::{Leaf, directory},
    query::Query,
    store::below,
};
use crate::launch::{
    etcd::{CALL, Session, within},
    failure::Failure,
};

/// After this time an empty answer is given, as etcd does (`defaultWatchTimeout`).
const LONGEST: Duration = Duration::from_secs(300);
/// Pause before a watch that broke is set up again.
const PAUSE: Duration = Duration::from_millis(200);

/// A wait for one event.
pub(super) struct Wait {
    gate: Arc<Gate>,
    path: String,
    is_recursive: bool,
    /// The first revision that counts.
    from: i64,
    open: Option<Open>,
}

/// A watch at one member.
struct Open {
    session: Session,
    number: u64,
    stream: WatchStream,
    /// Came while it was set up.
    early: Vec<Event>,
}

impl Wait {
    /// Sets the watch up. Gives the store's revision too.
    pub(super) async fn begin(gate: Arc<Gate>, query: &Query) -> Result<(Self, i64), Refusal> {
        let mut wait = Self {
            gate,
            path: query.path.clone(),
            is_recursive: query.is_recursive,
            from: query.wait_index,
            open: None,
        };
        let mut attempt = wait.set_up().await;
        // A session may have broken long ago without anybody noticing.
        if matches!(attempt, Err(Broken::Trouble(Trouble::Away(_)))) {
            attempt = wait.set_up().await;
        }
        let revision = attempt.map_err(|broken| match broken {
            Broken::Trouble(trouble) => Refusal::from(trouble),
            Broken::Cleared(oldest) => {
                let cause = format!("the requested history has been cleared [{oldest}/{}]", query.wait_index);
                Refusal::new(INDEX_CLEARED, cause, oldest)
            }
        })?;
        Ok((wait, revision))
    }

    /// The event's line, or nothing when none came in time.
    pub(super) async fn end(mut self) -> Bytes {
        let event = timeout(LONGEST, self.event()).await.ok().flatten();
        event.map_or_else(Bytes::new, |event| Bytes::from(line(&event)))
    }

    /// The next event; none when its history is gone or the login may no longer look.
    async fn event(&mut self) -> Option<Event> {
        loop {
            let result = match &mut self.open {
                None => match self.set_up().await {
                    Ok(_) => continue,
                    Err(broken) => Err(broken),
                },
                Some(open) if !open.early.is_empty() => return Some(open.early.remove(0)),
                Some(open) => match open.stream.message().await {
                    Ok(Some(message)) if !message.canceled() => Ok(message),
                    Ok(Some(message)) => Err(cause_of_end(&message)),
                    Ok(None) => Err(Broken::Trouble(Trouble::Away(String::new()))),
                    Err(error) => Err(Broken::Trouble(open.session.failure("", error).into())),
                },
            };
            match result {
                Ok(message) => {
                    let events = self.events(&message);
                    if let Some(open) = &mut self.open {
                        open.early = events;
                    }
                }
                Err(Broken::Trouble(Trouble::Away(_))) => {
                    self.give_up().await;
                    sleep(PAUSE).await;
                }
                Err(_) => return None,
            }
        }
    }

    /// The key itself, and what lies below it. A login may be allowed only one of them.
    fn ranges(&self, from: i64) -> Vec<(String, WatchOptions)> {
        let options = WatchOptions::new().with_prev_key().with_start_revision(from);
        let mut ranges = Vec::new();
        if self.is_recursive {
            ranges.push((below(&self.path), options.clone().with_prefix()));
        }
        if self.path != "/" {
            ranges.push((self.path.clone(), options));
        }
        ranges
    }

    async fn set_up(&mut self) -> Result<i64, Broken> {
        let result = self.try_to_set_up().await;
        // Some versions of etcd tell a watch whose token has expired that it lacks a permission. A reading knows one
        // from the other, and renews the token.
        if matches!(result, Err(Broken::Trouble(Trouble::Denied))) && self.may_look().await {
            return self.try_to_set_up().await;
        }
        result
    }

    async fn may_look(&self) -> bool {
        for (key, _) in self.ranges(0) {
            let options = GetOptions::new().with_limit(1).with_keys_only();
            let options = if key.ends_with('/') { options.with_prefix() } else { options };
            let get =
                async |client: etcd_client::Client| client.kv_client().get(key.as_str(), Some(options.clone())).await;
            if self.gate.call(Repeat::Yes, get).await.is_ok() {
                return true;
            }
        }
        false
    }

    async fn try_to_set_up(&mut self) -> Result<i64, Broken> {
        let (number, session) = self.gate.session().await.map_err(Broken::Trouble)?;
        let result = within(CALL, async { Ok::<_, Error>(self.watch(&session, number).await) }).await;
        let result = result.unwrap_or_else(|error| Err(Broken::from(session.failure("", error))));
        if matches!(result, Err(Broken::Trouble(Trouble::Away(_)))) {
            self.gate.leave(number).await;
        }
        result
    }

    async fn watch(&mut self, session: &Session, number: u64) -> Result<i64, Broken> {
        let broken = |error| Broken::from(session.failure("", error));
        let mut ranges = self.ranges(self.from).into_iter();
        let Some((key, options)) = ranges.next() else {
            return Err(Broken::Trouble(Trouble::Away("there is nothing to watch".to_owned())));
        };
        let mut client = session.client();
        let mut stream = client.watch(key, Some(options)).await.map_err(broken)?;
        let mut all = 1;
        for (key, options) in ranges {
            stream.watch(key, Some(options)).await.map_err(broken)?;
            all += 1;
        }
        let (mut created, mut denied, mut revision, mut early) = (0, 0, 0, Vec::new());
        while created < all || self.from > 0 && self.from <= revision && self.is_cleared(session).await? {
            let Some(message) = stream.message().await.map_err(broken)? else {
                return Err(Broken::Trouble(Trouble::Away("the member ended the watch".to_owned())));
            };
            revision = message.header().map_or(revision, etcd_client::ResponseHeader::revision);
            if message.canceled() {
                match cause_of_end(&message) {
                    Broken::Trouble(Trouble::Denied) => denied += 1,
                    other => return Err(other),
                }
            }
            created += usize::from(message.created());
            early.extend(self.events(&message));
        }
        if denied == all {
            return Err(Broken::Trouble(Trouble::Denied));
        }
        if self.from == 0 {
            // Whatever happens to the watch: nothing after this moment is missed.
            self.from = revision + 1;
        }
        self.open = Some(Open { session: session.clone(), number, stream, early });
        Ok(revision)
    }

    /// Whether the history that is asked for is gone. The watch will say so too, but only after it was granted; and
    /// when the history is there and holds nothing of interest, it says nothing at all.
    async fn is_cleared(&self, session: &Session) -> Result<bool, Broken> {
        let options = GetOptions::new().with_revision(self.from).with_limit(1).with_keys_only();
        let key = if self.is_recursive { below(&self.path) } else { self.path.clone() };
        match session.client().kv_client().get(key, Some(options)).await {
            Err(Error::GRpcStatus(status)) if status.code() == Code::OutOfRange => Ok(true),
            // Not its business: the watch tells whether the login may look.
            Err(Error::GRpcStatus(status)) if status.code() == Code::PermissionDenied => Ok(false),
            Err(error) => Err(session.failure("", error).into()),
            Ok(_) => Ok(false),
        }
    }

    async fn give_up(&mut self) {
        if let Some(open) = self.open.take() {
            self.gate.leave(open.number).await;
        }
    }

    /// What a message tells, as far as it is not hidden.
    fn events(&self, message: &WatchResponse) -> Vec<Event> {
        let is_seen = |path: &str| {
            let inner = path.strip_prefix(self.path.as_str()).unwrap_or_default();
            !inner.split('/').any(|part| part.starts_with('_'))
        };
        let events = message.events().iter().filter_map(event);
        events.filter(|event| event.node.as_ref().is_some_and(|node| is_seen(&node.key))).collect()
    }
}

/// Why a watch ended.
enum Broken {
    /// For this reason.
    Trouble(Trouble),
    /// The history that was asked for is gone; this is the oldest revision that is there.
    Cleared(i64),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Trouble(failure.into())
    }
}

fn cause_of_end(message: &WatchResponse) -> Broken {
    if message.compact_revision() > 0 {
        Broken::Cleared(message.compact_revision())
    } else if message.cancel_reason().contains("permission denied") {
        Broken::Trouble(Trouble::Denied)
    } else {
        Broken::Trouble(Trouble::Away(message.cancel_reason().to_owned()))
    }
}

/// A change of a key, as the v2 API tells it. Which of `set`, `create`, `update` and `compareAndSwap` it was, v3 does
/// not keep.
fn event(event: &etcd_client::Event) -> Option<Event> {
    let kv = event.kv()?;
    let key = std::str::from_utf8(kv.key()).ok()?;
    let (path, is_mark) = key.strip_suffix('/').map_or((key, false), |path| (path, true));
    let node_of = |leaf: &Leaf| {
        let mut node = if is_mark { directory(path, leaf.created) } else { leaf.node(path) };
        node.modified_index = leaf.modified;
        node
    };
    let before = event.prev_kv().map(|kv| node_of(&Leaf::of(kv)));
    let index = kv.mod_revision();
    if event.event_type() == EventType::Put {
        return Some(Event::new("set", node_of(&Leaf::of(kv)), before, index));
    }
    let created_index = before.as_ref().map_or(0, |before| before.created_index);
    let node = Node { key: path.to_owned(), dir: is_mark, modified_index: index, created_index, ..Node::default() };
    Some(Event::new("delete", node, before, index))
}
