//! Waiting for the next change of a key or of what lies below it: the v2 API's long poll.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use etcd_client::{Error, EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::time::{sleep, timeout};

use super::{
    answer::{Event, INDEX_CLEARED, Node, Refusal, line},
    gate::{Gate, Trouble},
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
                    Ok(Some(message)) => Err(open.broken(&message)),
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
        let (mut waiting, mut denied, mut revision, mut early) = (1, None, 0, Vec::new());
        for (key, options) in ranges {
            stream.watch(key, Some(options)).await.map_err(broken)?;
            waiting += 1;
        }
        let all = waiting;
        let mut denials = 0;
        while waiting > 0 {
            let Some(message) = stream.message().await.map_err(broken)? else {
                return Err(Broken::Trouble(Trouble::Away("the member ended the watch".to_owned())));
            };
            revision = message.header().map_or(revision, etcd_client::ResponseHeader::revision);
            if message.canceled() {
                match cause_of_end(&message) {
                    Broken::Trouble(Trouble::Denied) => denials += 1,
                    other => denied = Some(other),
                }
            }
            waiting -= usize::from(message.created());
            early.extend(self.events(&message));
            if let Some(broken) = denied.take() {
                return Err(broken);
            }
        }
        if denials == all {
            return Err(Broken::Trouble(Trouble::Denied));
        }
        if self.from == 0 {
            // Whatever happens to the watch: nothing after this moment is missed.
            self.from = revision + 1;
        }
        self.open = Some(Open { session: session.clone(), number, stream, early });
        Ok(revision)
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
        events.filter(|event| is_seen(&event.node.key)).collect()
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

impl Open {
    #[expect(clippy::unused_self, reason = "reads as what the watch broke of")]
    fn broken(&self, message: &WatchResponse) -> Broken {
        cause_of_end(message)
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
        return Some(Event { action: "set", node: node_of(&Leaf::of(kv)), prev_node: before, index });
    }
    let created_index = before.as_ref().map_or(0, |before| before.created_index);
    let node = Node { key: path.to_owned(), dir: is_mark, modified_index: index, created_index, ..Node::default() };
    Some(Event { action: "delete", node, prev_node: before, index })
}
