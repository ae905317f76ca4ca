//! What the v2 API does to keys, in transactions of the v3 API. See `v2store/store.go`.

use etcd_client::{
    Compare, CompareOp, DeleteOptions, Error, GetOptions, GetResponse, KeyValue, ResponseHeader, SortOrder, SortTarget,
    Txn, TxnOp, TxnOpResponse, TxnResponse,
};

use super::{
    answer::{
        COMPARE_FAILED, DIRECTORY_NOT_EMPTY, Event, INTERNAL, KEY_NOT_FOUND, NODE_EXISTS, NOT_A_DIRECTORY, NOT_A_FILE,
        Node, ROOT_READ_ONLY, Refusal,
    },
    gate::{Gate, Repeat, Trouble},
    listing::{Leaf, Listing, directory},
    query::Query,
};
use crate::launch::etcd::LARGEST_ANSWER;

/// How often a change is tried that other hands keep getting ahead of.
const ATTEMPTS: usize = 50;
/// Keys that are asked for at once.
const PAGE: i64 = 500;
/// The most bytes of keys and values that one listing may hold.
const LARGEST_LISTING: usize = 16 << 20;

/// The v2 store.
pub(super) struct Store<'a> {
    gate: &'a Gate,
}

/// What stands at a path.
#[derive(Debug)]
enum Place {
    File(Leaf),
    /// Keys lie below it; the oldest is that old. `is_empty`: only its own mark does.
    Directory {
        created: i64,
        is_empty: bool,
    },
    /// Nothing; this is the first part that is missing.
    Missing(String),
    /// Nothing, because this part of the path is a file.
    Blocked(String),
}

/// A look at a path.
struct Look {
    revision: i64,
    place: Place,
    /// That there is still nothing below the path; none where the login may not look.
    nothing_below: Option<Compare>,
}

/// What a change becomes when etcd takes it.
struct Change {
    guards: Vec<Compare>,
    ops: Vec<TxnOp>,
}

impl<'a> Store<'a> {
    pub(super) fn new(gate: &'a Gate) -> Self {
        Self { gate }
    }

    /// A key's value, or what is in a directory.
    pub(super) async fn get(&self, query: &Query) -> Result<Event, Refusal> {
        let look = self.look(&query.path, !query.is_quorum).await?;
        let node = match look.place {
            Place::File(leaf) => leaf.node(&query.path),
            Place::Directory { .. } => self.listing(query, look.revision).await?.node(&query.path, query.is_recursive),
            // The root is always there.
            Place::Missing(_) if query.path == "/" => directory("/", 0),
            place => return Err(absent(place, look.revision)),
        };
        Ok(Event::new("get", node, None, look.revision))
    }

    /// `PUT`: set, create, update or compare and swap, as the query says.
    pub(super) async fn put(&self, query: &Query) -> Result<Event, Refusal> {
        let compares = query.prev_index > 0 || !query.prev_value.is_empty();
        for _ in 0..ATTEMPTS {
            let event = match query.prev_exist {
                Some(false) => self.create(query, &query.path).await?,
                Some(true) if !compares => self.update(query).await?,
                None if !compares => self.set(query).await?,
                _ => self.compare_and_swap(query).await?,
            };
            if let Some(event) = event {
                return Ok(event);
            }
        }
        Err(overtaken())
    }

    /// `POST`: a key with a name that comes after all others of the directory.
    pub(super) async fn post(&self, query: &Query) -> Result<Event, Refusal> {
        for _ in 0..ATTEMPTS {
            let look = self.look(&query.path, false).await?;
            match look.place {
                Place::File(_) => return Err(Refusal::new(NOT_A_DIRECTORY, &query.path, look.revision)),
                Place::Blocked(cause) => return Err(Refusal::new(NOT_A_DIRECTORY, cause, look.revision)),
                Place::Directory { .. } | Place::Missing(_) => {}
            }
            let parent = below(&query.path);
            let path = format!("{parent}{:020}", look.revision + 1);
            // Nobody has added anything since: so the order of names is that of the additions.
            let unchanged = Compare::mod_revision(parent, CompareOp::Less, look.revision + 1).with_prefix();
            let change = Change { guards: vec![unchanged], ops: vec![new_key(query, &path)] };
            if let Some(revision) = self.commit(change).await? {
                return Ok(made("create", query, &path, revision, None));
            }
        }
        Err(overtaken())
    }

    /// `DELETE`: a key, a directory, or a key that is compared first.
    pub(super) async fn delete(&self, query: &Query) -> Result<Event, Refusal> {
        let compares = query.prev_index > 0 || !query.prev_value.is_empty();
        for _ in 0..ATTEMPTS {
            let event = if compares { self.compare_and_delete(query).await? } else { self.remove(query).await? };
            if let Some(event) = event {
                return Ok(event);
            }
        }
        Err(overtaken())
    }

    async fn set(&self, query: &Query) -> Result<Option<Event>, Refusal> {
        let path = &query.path;
        let look = self.look_to_change(path).await?;
        let mut guards: Vec<Compare> = look.nothing_below.into_iter().collect();
        let before = match look.place {
            Place::File(leaf) => Some(leaf),
            Place::Missing(_) => None,
            Place::Directory { .. } => return Err(Refusal::new(NOT_A_FILE, path, look.revision)),
            place @ Place::Blocked(_) => return Err(absent(place, look.revision)),
        };
        guards.push(as_seen(path, before.as_ref()));
        let mut ops = vec![new_key(query, path)];
        if query.is_dir && before.is_some() {
            ops.push(TxnOp::delete(path.as_str(), None));
        }
        let revision = self.commit(Change { guards, ops }).await?;
        Ok(revision.map(|revision| made("set", query, path, revision, before.as_ref())))
    }

    async fn create(&self, query: &Query, path: &str) -> Result<Option<Event>, Refusal> {
        let look = self.look_to_change(path).await?;
        match look.place {
            Place::Missing(_) => {}
            place @ Place::Blocked(_) => return Err(absent(place, look.revision)),
            Place::File(_) | Place::Directory { .. } => return Err(Refusal::new(NODE_EXISTS, path, look.revision)),
        }
        let mut guards: Vec<Compare> = look.nothing_below.into_iter().collect();
        guards.push(as_seen(path, None));
        let revision = self.commit(Change { guards, ops: vec![new_key(query, path)] }).await?;
        Ok(revision.map(|revision| made("create", query, path, revision, None)))
    }

    async fn update(&self, query: &Query) -> Result<Option<Event>, Refusal> {
        let path = &query.path;
        let look = self.look_to_change(path).await?;
        let before = file(look.place, path, look.revision)?;
        self.swap("update", query, &before).await
    }

    async fn compare_and_swap(&self, query: &Query) -> Result<Option<Event>, Refusal> {
        let look = self.look_to_change(&query.path).await?;
        let before = file(look.place, &query.path, look.revision)?;
        compare(query, &before, look.revision)?;
        self.swap("compareAndSwap", query, &before).await
    }

    async fn swap(&self, action: &'static str, query: &Query, before: &Leaf) -> Result<Option<Event>, Refusal> {
        let path = query.path.as_str();
        let ops = vec![TxnOp::put(path, query.value.as_str(), None)];
        let revision = self.commit(Change { guards: vec![as_seen(path, Some(before))], ops }).await?;
        let file = Query { is_dir: false, ..query.clone() };
        Ok(revision.map(|revision| made(action, &file, path, revision, Some(before))))
    }

    async fn compare_and_delete(&self, query: &Query) -> Result<Option<Event>, Refusal> {
        let path = query.path.as_str();
        let look = self.look(path, false).await?;
        let before = file(look.place, path, look.revision)?;
        compare(query, &before, look.revision)?;
        self.delete_file("compareAndDelete", path, &before).await
    }

    async fn delete_file(&self, action: &'static str, path: &str, before: &Leaf) -> Result<Option<Event>, Refusal> {
        let ops = vec![TxnOp::delete(path, None)];
        let revision = self.commit(Change { guards: vec![as_seen(path, Some(before))], ops }).await?;
        let prev_node = before.node(path);
        Ok(revision.map(|revision| {
            let node = Node { value: None, modified_index: revision, ..prev_node.clone() };
            Event::new(action, node, Some(prev_node), revision)
        }))
    }

    async fn remove(&self, query: &Query) -> Result<Option<Event>, Refusal> {
        let path = query.path.as_str();
        let look = self.look_to_change(path).await?;
        let (created, is_empty) = match look.place {
            Place::File(leaf) => return self.delete_file("delete", path, &leaf).await,
            Place::Directory { created, is_empty } => (created, is_empty),
            place => return Err(absent(place, look.revision)),
        };
        if !query.is_dir && !query.is_recursive {
            return Err(Refusal::new(NOT_A_FILE, path, look.revision));
        }
        if !is_empty && !query.is_recursive {
            return Err(Refusal::new(DIRECTORY_NOT_EMPTY, path, look.revision));
        }
        let mark = below(path);
        let change = if query.is_recursive {
            Change { guards: Vec::new(), ops: vec![TxnOp::delete(mark, Some(DeleteOptions::new().with_prefix()))] }
        } else {
            let unchanged = Compare::mod_revision(mark.as_str(), CompareOp::Less, look.revision + 1).with_prefix();
            Change { guards: vec![unchanged], ops: vec![TxnOp::delete(mark, None)] }
        };
        let revision = self.commit(change).await?;
        let prev_node = directory(path, created);
        Ok(revision.map(|revision| {
            let node = Node { modified_index: revision, ..prev_node.clone() };
            Event::new("delete", node, Some(prev_node), revision)
        }))
    }

    /// The revision of a change; none when a guard did not hold.
    async fn commit(&self, change: Change) -> Result<Option<i64>, Trouble> {
        let txn = Txn::new().when(change.guards).and_then(change.ops);
        let answer = self.gate.call(Repeat::No, async |client| client.kv_client().txn(txn.clone()).await).await?;
        Ok(answer.succeeded().then(|| answer.header().map_or(0, ResponseHeader::revision)))
    }

    async fn look_to_change(&self, path: &str) -> Result<Look, Refusal> {
        let look = self.look(path, false).await?;
        if path == "/" {
            return Err(Refusal::new(ROOT_READ_ONLY, "/", look.revision));
        }
        Ok(look)
    }

    /// What stands at a path. `may_be_old`: what the member knows is good enough, as in v2 without `quorum`.
    async fn look(&self, path: &str, may_be_old: bool) -> Result<Look, Refusal> {
        let (revision, exact, inside) = match self.both(path, may_be_old).await {
            Ok((revision, exact, inside)) => (revision, exact, Some(inside)),
            // A login that may not read both may read one: its prefix, or a key of another's.
            Err(Trouble::Denied) => self.one_of_both(path, may_be_old).await?,
            Err(trouble) => return Err(trouble.into()),
        };
        let nothing_below = inside.is_some().then(|| nothing_below(path));
        let inside = inside.unwrap_or_default();
        let place = match (inside.first(), exact) {
            (Some(oldest), _) => {
                let mark = below(path);
                let is_empty = inside.iter().all(|kv| kv.key() == mark.as_bytes());
                Place::Directory { created: oldest.create_revision(), is_empty }
            }
            (None, Some(kv)) => Place::File(Leaf::of(&kv)),
            (None, None) => self.first_missing(path, may_be_old).await?,
        };
        Ok(Look { revision, place, nothing_below })
    }

    /// The key itself and the first keys below it, at one revision.
    async fn both(&self, path: &str, may_be_old: bool) -> Result<(i64, Option<KeyValue>, Vec<KeyValue>), Trouble> {
        if path == "/" {
            let (revision, inside) = self.oldest_below(path, may_be_old).await?;
            return Ok((revision, None, inside));
        }
        let txn = Txn::new().and_then(vec![
            TxnOp::get(path, Some(options(may_be_old))),
            TxnOp::get(below(path), Some(oldest(may_be_old))),
        ]);
        let answer = self.gate.call(Repeat::Yes, async |client| client.kv_client().txn(txn.clone()).await).await?;
        let revision = answer.header().map_or(0, ResponseHeader::revision);
        let mut found = found(&answer);
        let inside = found.pop().unwrap_or_default();
        Ok((revision, found.pop().unwrap_or_default().pop(), inside))
    }

    async fn one_of_both(
        &self,
        path: &str,
        may_be_old: bool,
    ) -> Result<(i64, Option<KeyValue>, Option<Vec<KeyValue>>), Trouble> {
        match self.oldest_below(path, may_be_old).await {
            Ok((revision, inside)) => return Ok((revision, None, Some(inside))),
            Err(Trouble::Denied) => {}
            Err(trouble) => return Err(trouble),
        }
        let (revision, mut exact) = self.range(path, options(may_be_old)).await?;
        Ok((revision, exact.pop(), None))
    }

    /// Why there is nothing at a path: the first part that is missing, or the part that is a file.
    async fn first_missing(&self, path: &str, may_be_old: bool) -> Result<Place, Trouble> {
        let mut candidate = path;
        while let Some((parent, _)) = candidate.rsplit_once('/').filter(|(parent, _)| !parent.is_empty()) {
            match self.oldest_below(parent, may_be_old).await {
                // Where the login may not look, there is the directory that holds its keys.
                Err(Trouble::Denied) => break,
                Ok((_, inside)) if !inside.is_empty() => break,
                Ok(_) => candidate = parent,
                Err(trouble) => return Err(trouble),
            }
        }
        if candidate == path {
            return Ok(Place::Missing(path.to_owned()));
        }
        let is_file = match self.range(candidate, options(may_be_old).with_keys_only()).await {
            Ok((_, found)) => !found.is_empty(),
            Err(Trouble::Denied) => false,
            Err(trouble) => return Err(trouble),
        };
        let candidate = candidate.to_owned();
        Ok(if is_file { Place::Blocked(candidate) } else { Place::Missing(candidate) })
    }

    /// All that is in a directory, a page at a time.
    async fn listing(&self, query: &Query, revision: i64) -> Result<Listing, Refusal> {
        let folder = below(&query.path);
        let (mut listing, mut bytes) = (Listing::default(), 0);
        let (mut from, end) = (folder.clone().into_bytes(), end_of(&folder));
        loop {
            let page = options(!query.is_quorum).with_range(end.clone()).with_revision(revision).with_limit(PAGE);
            let (_, found) = self.range(from, page).await?;
            let is_last = i64::try_from(found.len()).is_ok_and(|count| count < PAGE);
            let Some(last) = found.last() else { return Ok(listing) };
            from = [last.key(), b"\0"].concat();
            for kv in &found {
                bytes += kv.key().len() + kv.value().len();
                listing.add(&kv.key()[folder.len()..], Leaf::of(kv), query.is_recursive);
            }
            if bytes > LARGEST_LISTING {
                let why = format!("there is more than {} MiB in {}", LARGEST_LISTING >> 20, query.path);
                return Err(Refusal::new(INTERNAL, why, revision));
            }
            if is_last {
                return Ok(listing);
            }
        }
    }

    async fn oldest_below(&self, path: &str, may_be_old: bool) -> Result<(i64, Vec<KeyValue>), Trouble> {
        self.range(below(path), oldest(may_be_old)).await
    }

    async fn range(&self, key: impl Into<Vec<u8>>, options: GetOptions) -> Result<(i64, Vec<KeyValue>), Trouble> {
        let key: Vec<u8> = key.into();
        let get = async |client: etcd_client::Client| -> Result<GetResponse, Error> {
            let mut store = client.kv_client().max_decoding_message_size(LARGEST_ANSWER);
            store.get(key.clone(), Some(options.clone())).await
        };
        let mut answer = self.gate.call(Repeat::Yes, get).await?;
        Ok((answer.header().map_or(0, ResponseHeader::revision), answer.take_kvs()))
    }
}

/// The key that a query makes: with its value, or the mark of an empty directory.
fn new_key(query: &Query, path: &str) -> TxnOp {
    if query.is_dir { TxnOp::put(below(path), "", None) } else { TxnOp::put(path, query.value.as_str(), None) }
}

/// The path of what lies in a directory: `/` at its end.
pub(super) fn below(path: &str) -> String {
    if path == "/" { path.to_owned() } else { format!("{path}/") }
}

/// The first key after all those with a prefix that ends in `/`.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    end.pop();
    end.push(b'/' + 1);
    end
}

fn options(may_be_old: bool) -> GetOptions {
    let options = GetOptions::new();
    if may_be_old { options.with_serializable() } else { options }
}

/// The two oldest keys below a directory: enough to know its age, and whether its mark is all there is.
fn oldest(may_be_old: bool) -> GetOptions {
    options(may_be_old).with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend).with_limit(2).with_keys_only()
}

fn nothing_below(path: &str) -> Compare {
    Compare::create_revision(below(path), CompareOp::Equal, 0).with_prefix()
}

/// That a key is as it was seen.
fn as_seen(path: &str, seen: Option<&Leaf>) -> Compare {
    Compare::mod_revision(path, CompareOp::Equal, seen.map_or(0, |leaf| leaf.modified))
}

fn found(answer: &TxnResponse) -> Vec<Vec<KeyValue>> {
    let kvs = |response| match response {
        TxnOpResponse::Get(mut answer) => answer.take_kvs(),
        _ => Vec::new(),
    };
    answer.op_responses().into_iter().map(kvs).collect()
}

/// The event of a key or directory that was made or replaced.
fn made(action: &'static str, query: &Query, path: &str, revision: i64, before: Option<&Leaf>) -> Event {
    // v2 would count a key that is set again as new; v3 does not, and what is answered here is what a later look finds.
    let created = before.map_or(revision, |leaf| leaf.created);
    let leaf = Leaf { value: query.value.as_bytes().to_vec(), created, modified: revision };
    let node = if query.is_dir { directory(path, revision) } else { leaf.node(path) };
    Event::new(action, node, before.map(|leaf| leaf.node(path)), revision)
}

fn absent(place: Place, revision: i64) -> Refusal {
    match place {
        Place::Blocked(cause) => Refusal::new(NOT_A_DIRECTORY, cause, revision),
        Place::Missing(cause) => Refusal::new(KEY_NOT_FOUND, cause, revision),
        Place::File(_) | Place::Directory { .. } => Refusal::new(INTERNAL, "something is there after all", revision),
    }
}

/// The file at a place; anything else is an error.
fn file(place: Place, path: &str, revision: i64) -> Result<Leaf, Refusal> {
    match place {
        Place::File(leaf) => Ok(leaf),
        Place::Directory { .. } => Err(Refusal::new(NOT_A_FILE, path, revision)),
        place => Err(absent(place, revision)),
    }
}

/// Whether a key is as the query says that it was.
fn compare(query: &Query, leaf: &Leaf, revision: i64) -> Result<(), Refusal> {
    let same_index = query.prev_index == 0 || query.prev_index == leaf.modified;
    let same_value = query.prev_value.is_empty() || query.prev_value.as_bytes() == leaf.value;
    let index = format!("[{} != {}]", query.prev_index, leaf.modified);
    let value = format!("[{} != {}]", query.prev_value, String::from_utf8_lossy(&leaf.value));
    let cause = match (same_value, same_index) {
        (true, true) => return Ok(()),
        (true, false) => index,
        (false, true) => value,
        (false, false) => format!("{value} {index}"),
    };
    Err(Refusal::new(COMPARE_FAILED, cause, revision))
}

fn overtaken() -> Refusal {
    Refusal::new(INTERNAL, "other hands change the same keys all the time", 0)
}
