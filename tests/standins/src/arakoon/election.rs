//! How a cluster finds its master, and how the master keeps the others up to date.

use std::{
    io,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    config::Member,
    consensus::{Node, Role, SILENCE},
    peer::{Append, BATCH, Verdict, Vote},
};
use crate::{lines::Line, log};

/// How often the master shows that it lives.
const BEAT: Duration = Duration::from_millis(100);
/// How much later each next node stands for election, so that they do not stand against each other.
const STAGGER: Duration = Duration::from_millis(250);
/// How long one node waits for another.
const WAIT: Duration = Duration::from_millis(400);

impl Node {
    /// Begins to take part: stands for election when it is time, and serves the others when it is master.
    pub(crate) fn join(self: &Arc<Self>) {
        for other in self.others() {
            let node = Arc::clone(self);
            thread::spawn(move || node.feed(other));
        }
        let node = Arc::clone(self);
        thread::spawn(move || node.watch());
    }

    fn watch(&self) {
        let rank = u32::try_from(self.config.rank(self.config.own)).unwrap_or(u32::MAX);
        let patience = if self.config.members.len() == 1 { Duration::ZERO } else { SILENCE + STAGGER * (rank + 1) };
        loop {
            let mut state = self.lock();
            self.step_down_if_alone(&mut state);
            if state.role == Role::Master || state.heard.elapsed() < patience {
                let left = patience.saturating_sub(state.heard.elapsed()).max(BEAT);
                drop(self.wait(state, left));
                continue;
            }
            drop(state);
            if let Err(error) = self.stand(false) {
                log::error(&format!("election: {error}"));
            }
            // Also a failed attempt gives the others their turn.
            let mut state = self.lock();
            if state.role != Role::Master {
                state.heard = Instant::now();
            }
        }
    }

    /// The master has asked this node to take over.
    pub(crate) fn stand_now(&self) {
        if let Err(error) = self.stand(true) {
            log::error(&format!("election: {error}"));
        }
    }

    fn stand(&self, handed_over: bool) -> io::Result<()> {
        let (term, last, last_term) = {
            let state = self.lock();
            (state.promise.term + 1, state.log.len() as u64, state.last_term())
        };
        let vote = |trial| Vote { term, candidate: self.name().to_owned(), last, last_term, trial, handed_over };
        // Asking first keeps a node that was cut off from disturbing a master that the others follow.
        if !self.poll(&vote(true)) {
            return Ok(());
        }
        {
            let mut state = self.lock();
            if state.promise.term + 1 != term || state.role == Role::Master {
                return Ok(());
            }
            state.enter(term, Some(self.name().to_owned()))?;
            state.role = Role::Candidate;
            state.master = None;
        }
        let elected = self.poll(&vote(false));
        let mut state = self.lock();
        if state.promise.term == term && state.role == Role::Candidate {
            if elected {
                return self.lead(&mut state);
            }
            state.follow(None);
        }
        Ok(())
    }

    /// Whether a majority agrees, this node included.
    fn poll(&self, vote: &Vote) -> bool {
        let (sender, verdicts) = mpsc::channel();
        let mut asked = 0;
        for other in self.others() {
            let request = json!({"cluster": self.config.id, "op": "vote", "message": vote});
            let (sender, member) = (sender.clone(), self.config.members[other].clone());
            asked += 1;
            thread::spawn(move || {
                let verdict = connect(&member).and_then(|mut line| verdict(&mut line, &request));
                sender.send(verdict.is_ok_and(|verdict| verdict.agreed)).ok();
            });
        }
        let mut agreed = 1;
        for _ in 0..asked {
            if agreed >= self.majority() {
                break;
            }
            // Each question ends by itself within a bounded time.
            agreed += usize::from(verdicts.recv().unwrap_or(false));
        }
        agreed >= self.majority()
    }

    /// Keeps one other node up to date for as long as this one is master.
    fn feed(&self, other: usize) {
        let member = &self.config.members[other];
        let mut line = None;
        loop {
            let Some(append) = self.next_for(other) else {
                drop(self.wait(self.lock(), BEAT));
                continue;
            };
            let sent = Instant::now();
            let request = json!({"cluster": self.config.id, "op": "append", "message": append});
            let answer = match line.take().map_or_else(|| connect(member), Ok) {
                Ok(mut open) => verdict(&mut open, &request).inspect(|_| line = Some(open)),
                Err(error) => Err(error),
            };
            let more = match answer {
                Ok(verdict) => self.note(other, &append, &verdict, sent),
                Err(error) => {
                    log::debug(&format!("{}: {error}", member.contact.name));
                    false
                }
            };
            if !more {
                self.rest(other, line.is_some());
            }
        }
    }

    /// Waits for the next beat, or for something that the other node has not heard. Every answer of any node wakes all, so
    /// waking up is no reason to speak.
    fn rest(&self, other: usize, connected: bool) {
        let until = Instant::now() + BEAT;
        let mut state = self.lock();
        loop {
            let news = connected && state.role == Role::Master && state.progress[other].next <= state.log.len() as u64;
            let left = until.saturating_duration_since(Instant::now());
            if news || left.is_zero() {
                return;
            }
            state = self.wait(state, left);
        }
    }

    /// What the other node should hear next; nothing unless this node is master.
    fn next_for(&self, other: usize) -> Option<Append> {
        let state = self.lock();
        if state.role != Role::Master {
            return None;
        }
        let before = state.progress[other].next - 1;
        Some(Append {
            term: state.promise.term,
            master: self.name().to_owned(),
            before,
            before_term: state.term_at(before),
            entries: state.after(before, BATCH).to_vec(),
            commit: state.commit,
        })
    }

    /// Takes in an answer. True when there is more to be sent at once.
    fn note(&self, other: usize, append: &Append, verdict: &Verdict, sent: Instant) -> bool {
        let mut state = self.lock();
        if verdict.term > state.promise.term {
            // Somebody is in a later term: this node's was not for good.
            if state.enter(verdict.term, None).is_ok() {
                state.follow(None);
            }
            return false;
        }
        if state.role != Role::Master || state.promise.term != append.term {
            return false;
        }
        let end = state.log.len() as u64;
        let progress = &mut state.progress[other];
        progress.answered = Some(sent);
        if verdict.agreed {
            progress.matched = progress.matched.max(verdict.last);
            progress.next = verdict.last + 1;
        } else {
            progress.next = verdict.last.min(progress.next.saturating_sub(2)) + 1;
        }
        let behind = progress.next <= end;
        let better = !behind && self.config.preferred.contains(&self.config.members[other].contact.name);
        self.advance(&mut state);
        self.tell();
        drop(state);
        if better && self.config.rank(other) < self.config.rank(self.config.own) {
            self.hand_over(other);
        }
        behind
    }

    /// A preferred master that has caught up takes over.
    fn hand_over(&self, other: usize) {
        let member = self.config.members[other].clone();
        log::info(&format!("handing over to the preferred master {}", member.contact.name));
        let request = json!({"cluster": self.config.id, "op": "stand"});
        let mut state = self.lock();
        state.follow(None);
        drop(state);
        thread::spawn(move || connect(&member).and_then(|mut line| line.ask(&request)).ok());
    }
}

pub(crate) fn connect(member: &Member) -> io::Result<Line> {
    Line::connect(&member.contact.ips[0], member.messaging_port, WAIT)
}

fn verdict(line: &mut Line, request: &serde_json::Value) -> io::Result<Verdict> {
    let answer = line.ask(request)?;
    if answer["ok"] != true {
        return Err(io::Error::other(answer["error"].as_str().unwrap_or("refused").to_owned()));
    }
    serde_json::from_value(answer["value"].clone()).map_err(io::Error::other)
}
