//! What a node keeps: a transaction log in `tlog_dir`, the store's counter and the vote in `home`.

use std::{
    collections::BTreeMap,
    io::{Seek as _, SeekFrom, Write as _},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{
    config::Member,
    exit::{self, Exit},
};

/// A key and its new value; without a value the key goes.
pub(crate) type Change = (String, Option<String>);

/// The keys and values of a cluster.
pub(crate) type Store = BTreeMap<String, String>;

/// One step of the log. Without changes it only shows that a majority is there.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Entry {
    pub(crate) term: u64,
    pub(crate) changes: Vec<Change>,
}

/// An entry as it lies in the log, with its place in the history of the cluster. Logs of earlier versions have none.
#[derive(Deserialize, Serialize)]
struct Line<E> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    i: Option<u64>,
    #[serde(flatten)]
    entry: E,
}

/// What must not be forgotten between two runs, beside the log.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Promise {
    pub(crate) term: u64,
    pub(crate) voted: Option<String>,
    /// How many entries the store had taken in.
    pub(crate) applied: u64,
}

/// The last line of a log whose node was stopped in order.
const CLOSED: &str = "closed\n";

/// The files of a node.
pub(crate) struct Disk {
    log: fs_err::File,
    /// Where each entry begins, and where the next one will.
    starts: Vec<u64>,
    store: PathBuf,
    fsync: bool,
}

impl Disk {
    /// Opens or makes the files, and gives what they hold.
    ///
    /// With `autofix` a log that was not closed loses its torn end; without, the node ends with 42.
    pub(crate) fn open(member: &Member, autofix: bool) -> Result<(Self, Vec<Entry>, Promise), Exit> {
        let tlog = member.tlog_dir.join("000.tlog");
        let failed = |error: std::io::Error| Exit::new(exit::OTHER, error.to_string());
        let text = match fs_err::read_to_string(&tlog) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error)),
        };
        let (first, entries, starts) = entries(&text, autofix)?;
        let store = member.home.join(format!("{}.db", member.contact.name));
        let promise = promise(&store)?;
        let last = first + entries.len() as u64;
        if promise.applied > last {
            let text = format!("store is at {}, tlogs end at {last}", promise.applied);
            return Err(Exit::new(exit::STORE_AHEAD_OF_TLOGS, text));
        }
        if promise.applied < first {
            let text = format!("store counter is too low: store is at {}, tlogs begin after {first}", promise.applied);
            return Err(Exit::new(exit::STORE_COUNTER_TOO_LOW, text));
        }
        if first > 0 {
            let text =
                format!("tlogs begin after {first}, and the store of this stand-in keeps no values: it needs them all");
            return Err(Exit::new(exit::OTHER, text));
        }
        let log = fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(&tlog).map_err(failed)?;
        let mut disk = Self { log, starts, store, fsync: member.fsync };
        disk.cut(entries.len()).map_err(failed)?;
        Ok((disk, entries, promise))
    }

    fn end(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Forgets the entries from this count on.
    pub(crate) fn cut(&mut self, count: usize) -> std::io::Result<()> {
        self.starts.truncate(count + 1);
        self.log.set_len(self.end())
    }

    pub(crate) fn append(&mut self, entries: &[Entry]) -> std::io::Result<()> {
        let mut text = String::new();
        let mut starts = Vec::new();
        for entry in entries {
            let i = Some((self.starts.len() + starts.len()) as u64 - 1);
            text.push_str(&serde_json::to_string(&Line { i, entry })?);
            text.push('\n');
            starts.push(self.end() + text.len() as u64);
        }
        self.log.seek(SeekFrom::Start(self.end()))?;
        self.log.write_all(text.as_bytes())?;
        if self.fsync {
            self.log.sync_data()?;
        }
        self.starts.extend(starts);
        Ok(())
    }

    /// Replaces the promise as a whole: half of one would break the vote.
    pub(crate) fn keep(&self, promise: &Promise) -> std::io::Result<()> {
        let beside = self.store.with_extension("db.new");
        let mut file = fs_err::File::create(&beside)?;
        file.write_all(serde_json::to_string(promise)?.as_bytes())?;
        if self.fsync {
            file.sync_data()?;
        }
        fs_err::rename(&beside, &self.store)
    }

    /// Marks the log as ended in order.
    pub(crate) fn close(&mut self) -> std::io::Result<()> {
        self.log.seek(SeekFrom::Start(self.end()))?;
        self.log.write_all(CLOSED.as_bytes())?;
        self.log.sync_data()
    }
}

/// How many entries came before the first one, the entries, and where each begins.
fn entries(text: &str, autofix: bool) -> Result<(u64, Vec<Entry>, Vec<u64>), Exit> {
    let (body, closed) = text.strip_suffix(CLOSED).map_or((text, text.is_empty()), |body| (body, true));
    if !closed && !autofix {
        return Err(Exit::new(exit::TLOG_NOT_CLOSED, "tlog 000.tlog was not properly closed"));
    }
    let mut found: Vec<Entry> = Vec::new();
    let mut starts = vec![0];
    let (mut end, mut first) = (0, None);
    for line in body.split_inclusive('\n') {
        match serde_json::from_str::<Line<Entry>>(line) {
            Ok(Line { i, entry }) if line.ends_with('\n') => {
                let place = found.len() as u64;
                let before = *first.get_or_insert(i.unwrap_or(0));
                if i.is_some_and(|i| i != before + place) {
                    let text = format!("tlog 000.tlog is corrupt at byte {end}: entry {} is missing", before + place);
                    return Err(Exit::new(exit::OTHER, text));
                }
                found.push(entry);
            }
            // Only the last line can be torn by a crash.
            _ if end + line.len() == body.len() && !closed => break,
            _ => return Err(Exit::new(exit::OTHER, format!("tlog 000.tlog is corrupt at byte {end}"))),
        }
        end += line.len();
        starts.push(end as u64);
    }
    Ok((first.unwrap_or(0), found, starts))
}

fn promise(store: &PathBuf) -> Result<Promise, Exit> {
    match fs_err::read_to_string(store) {
        Ok(text) => serde_json::from_str(&text)
            .map_err(|error| Exit::new(exit::CORRUPT_STORE, format!("{}: corrupt: {error}", store.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Promise::default()),
        Err(error) => Err(Exit::new(exit::OTHER, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "{\"term\":1,\"changes\":[[\"a\",\"b\"]]}\n";

    #[test]
    fn a_log_that_was_not_closed_needs_autofix() {
        let closed = format!("{ONE}{CLOSED}");
        assert_eq!(entries(&closed, false).unwrap().1.len(), 1);
        assert_eq!(entries(ONE, false).unwrap_err().code, exit::TLOG_NOT_CLOSED);
        let torn = format!("{ONE}{}", &ONE[..10]);
        let (first, found, starts) = entries(&torn, true).unwrap();
        assert_eq!((first, found.len(), starts), (0, 1, vec![0, ONE.len() as u64]));
        assert_eq!(entries(&format!("x\n{ONE}"), true).unwrap_err().code, exit::OTHER);
    }

    #[test]
    fn entries_are_where_they_say() {
        let line = |i: u64| format!("{{\"i\":{i},\"term\":1,\"changes\":[]}}\n");
        let log = |places: &[u64]| places.iter().map(|i| line(*i)).collect::<String>() + CLOSED;
        let (first, found, starts) = entries(&log(&[3, 4]), false).unwrap();
        assert_eq!((first, found.len(), starts), (3, 2, vec![0, 30, 60]));
        let gap = entries(&log(&[0, 2]), true).unwrap_err();
        assert_eq!((gap.code, gap.text.contains("entry 1 is missing")), (exit::OTHER, true), "{}", gap.text);
    }
}
