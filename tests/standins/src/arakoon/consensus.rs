//! What a node of a cluster knows and promises: Raft's rules, without snapshots and changes of membership.
//!
//! Source of the rules: "In Search of an Understandable Consensus Algorithm", Ongaro and Ousterhout, figure 2.

use std::{
    io,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    config::Config,
    disk::{Change, Disk, Entry, Promise, Store},
    exit::Exit,
};
use crate::{lines::locked, log};

/// A master of which nobody hears for so long may be replaced.
pub(crate) const SILENCE: Duration = Duration::from_millis(600);
/// A master that has no majority for so long is none. Shorter than [`SILENCE`], so that it knows first.
const LEASE: Duration = Duration::from_millis(500);
/// How long a master without majority waits for it to come back before it gives up.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long a client's call may wait for a majority.
const WAIT: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Role {
    Slave,
    Candidate,
    Master,
}

/// What the master knows of another node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) next: u64,
    pub(crate) matched: u64,
    /// When the last message was sent that it has answered.
    pub(crate) answered: Option<Instant>,
}

/// The state of a node. Whoever changes it holds the lock.
pub(crate) struct State {
    pub(crate) role: Role,
    pub(crate) promise: Promise,
    pub(crate) log: Vec<Entry>,
    pub(crate) commit: u64,
    pub(crate) store: Store,
    pub(crate) master: Option<usize>,
    pub(crate) heard: Instant,
    pub(crate) progress: Vec<Progress>,
    /// The entry that the master must have committed before it may answer.
    pub(crate) ready: u64,
    pub(crate) disk: Disk,
}

/// A node of a cluster.
pub(crate) struct Node {
    pub(crate) config: Config,
    state: Mutex<State>,
    changed: Condvar,
}

impl Node {
    /// Takes up what the disk holds.
    pub(crate) fn open(config: Config, autofix: bool) -> Result<Self, Exit> {
        let (disk, log, promise) = Disk::open(config.me(), autofix)?;
        let progress = Progress { next: 1, matched: 0, answered: None };
        let state = State {
            role: Role::Slave,
            promise,
            log,
            commit: 0,
            store: Store::new(),
            master: None,
            heard: Instant::now(),
            progress: vec![progress; config.members.len()],
            ready: 0,
            disk,
        };
        let node = Self { config, state: Mutex::new(state), changed: Condvar::new() };
        Ok(node)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Waits for a change of the state, at most so long.
    pub(crate) fn wait<'a>(&self, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0
    }

    pub(crate) fn tell(&self) {
        self.changed.notify_all();
    }

    pub(crate) fn majority(&self) -> usize {
        self.config.members.len() / 2 + 1
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.me().contact.name
    }

    /// The other nodes.
    pub(crate) fn others(&self) -> impl Iterator<Item = usize> {
        (0..self.config.members.len()).filter(|member| *member != self.config.own)
    }

    /// Whether a majority has answered within this time.
    pub(crate) fn has_majority(&self, state: &State, within: Duration) -> bool {
        let fresh = |other: &usize| state.progress[*other].answered.is_some_and(|sent| sent.elapsed() < within);
        self.others().filter(fresh).count() + 1 >= self.majority()
    }

    /// Takes this node's place at the head of the cluster, for the term it was elected in.
    pub(crate) fn lead(&self, state: &mut State) -> io::Result<()> {
        state.role = Role::Master;
        state.master = Some(self.config.own);
        let next = state.log.len() as u64 + 1;
        // The voters have just been heard; the lease begins with the first answers.
        state.progress.fill(Progress { next, matched: 0, answered: None });
        state.heard = Instant::now();
        state.append(vec![Entry { term: state.promise.term, changes: Vec::new() }])?;
        state.ready = next;
        log::info(&format!("{} is the master of term {}", self.name(), state.promise.term));
        self.advance(state);
        self.tell();
        Ok(())
    }

    /// A master that has lost its majority is none any more.
    pub(crate) fn step_down_if_alone(&self, state: &mut State) {
        if state.role == Role::Master && state.heard.elapsed() > PATIENCE && !self.has_majority(state, PATIENCE) {
            log::warning("no quorum: no longer the master");
            state.follow(None);
            self.tell();
        }
    }

    /// Commits what a majority has.
    pub(crate) fn advance(&self, state: &mut State) {
        let last = state.log.len() as u64;
        let mut matched: Vec<u64> = self.others().map(|other| state.progress[other].matched).chain([last]).collect();
        matched.sort_unstable();
        let agreed = matched[matched.len() - self.majority()];
        // Only entries of the own term are counted; earlier ones come with them.
        if agreed > state.commit && state.term_at(agreed) == state.promise.term {
            state.commit_to(agreed);
            self.tell();
        }
    }

    /// Waits until this node may answer as master.
    pub(crate) fn as_master(&self) -> Result<MutexGuard<'_, State>, String> {
        let deadline = Instant::now() + WAIT;
        let mut state = self.lock();
        loop {
            if state.role != Role::Master {
                return Err("not master".to_owned());
            }
            if state.commit >= state.ready && self.has_majority(&state, LEASE) {
                return Ok(state);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("no quorum".to_owned());
            }
            // A lease runs out without anybody telling.
            state = self.wait(state, left.min(LEASE));
        }
    }

    /// Writes to a majority, then answers.
    pub(crate) fn propose(&self, changes: Vec<Change>) -> Result<(), String> {
        let mut state = self.as_master()?;
        let term = state.promise.term;
        state.append(vec![Entry { term, changes }]).map_err(|error| error.to_string())?;
        let index = state.log.len() as u64;
        self.advance(&mut state);
        self.tell();
        let deadline = Instant::now() + WAIT;
        while state.commit < index {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.promise.term != term {
                return Err("no quorum".to_owned());
            }
            state = self.wait(state, left);
        }
        if state.term_at(index) == term { Ok(()) } else { Err("no quorum".to_owned()) }
    }

    /// The name of the master, as far as this node can know it.
    pub(crate) fn who_master(&self) -> Result<String, String> {
        let state = self.lock();
        let known = match state.role {
            // Longer than the lease: a hiccup delays answers, but the master stays the same.
            Role::Master => self.has_majority(&state, PATIENCE) && state.commit >= state.ready,
            Role::Slave => state.heard.elapsed() < PATIENCE,
            Role::Candidate => false,
        };
        let master = state.master.filter(|_| known).ok_or("no quorum")?;
        Ok(self.config.members[master].contact.name.clone())
    }

    /// Ends in order: the log is marked as closed.
    pub(crate) fn close(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.promise.applied = state.commit.max(state.promise.applied);
        state.disk.keep(&state.promise)?;
        state.disk.close()
    }
}

impl State {
    pub(crate) fn last_term(&self) -> u64 {
        self.term_at(self.log.len() as u64)
    }

    /// The term of the entry with this number, counted from 1.
    pub(crate) fn term_at(&self, index: u64) -> u64 {
        let place = usize::try_from(index).ok().and_then(|index| index.checked_sub(1));
        place.and_then(|place| self.log.get(place)).map_or(0, |entry| entry.term)
    }

    /// The entries after this number, at most so many.
    pub(crate) fn after(&self, index: u64, most: usize) -> &[Entry] {
        let from = usize::try_from(index).unwrap_or(usize::MAX).min(self.log.len());
        &self.log[from..(from + most).min(self.log.len())]
    }

    pub(crate) fn append(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        self.disk.append(&entries)?;
        self.log.extend(entries);
        Ok(())
    }

    /// Forgets the entries after this number.
    pub(crate) fn cut(&mut self, index: u64) -> io::Result<()> {
        let count = usize::try_from(index).unwrap_or(usize::MAX);
        self.log.truncate(count);
        self.disk.cut(count)
    }

    pub(crate) fn commit_to(&mut self, index: u64) {
        for entry in &self.log[usize::try_from(self.commit).unwrap_or(0)..usize::try_from(index).unwrap_or(0)] {
            for (key, value) in &entry.changes {
                match value {
                    Some(value) => self.store.insert(key.clone(), value.clone()),
                    None => self.store.remove(key),
                };
            }
        }
        self.commit = index;
    }

    /// Becomes a slave of this master.
    pub(crate) fn follow(&mut self, master: Option<usize>) {
        self.role = Role::Slave;
        self.master = master;
        self.heard = Instant::now();
    }

    /// Enters a later term, in which this node has not voted yet.
    pub(crate) fn enter(&mut self, term: u64, voted: Option<String>) -> io::Result<()> {
        let applied = self.commit.max(self.promise.applied);
        self.promise = Promise { term, voted, applied };
        self.disk.keep(&self.promise)
    }
}
