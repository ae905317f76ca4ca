//! What the nodes of a cluster say to each other over `messaging_port`.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    consensus::{Node, Role, SILENCE, State},
    disk::Entry,
};
use crate::{
    lines::{self, Answer},
    log,
};

/// How many entries one message carries.
pub(crate) const BATCH: usize = 256;

/// A node asks to become master.
#[derive(Deserialize, Serialize)]
pub(crate) struct Vote {
    pub(crate) term: u64,
    pub(crate) candidate: String,
    pub(crate) last: u64,
    pub(crate) last_term: u64,
    /// A question only: nothing is promised yet.
    pub(crate) trial: bool,
    /// The master itself has asked for the change.
    pub(crate) handed_over: bool,
}

/// The master sends entries, or none to show that it lives.
#[derive(Deserialize, Serialize)]
pub(crate) struct Append {
    pub(crate) term: u64,
    pub(crate) master: String,
    pub(crate) before: u64,
    pub(crate) before_term: u64,
    pub(crate) entries: Vec<Entry>,
    pub(crate) commit: u64,
}

/// The answer to either.
#[derive(Deserialize, Serialize)]
pub(crate) struct Verdict {
    pub(crate) term: u64,
    pub(crate) agreed: bool,
    /// How many entries the node has.
    pub(crate) last: u64,
}

impl Node {
    /// Answers another node.
    pub(crate) fn hear(&self, request: &Value) -> Value {
        if request["cluster"] != json!(self.config.id) {
            return lines::answered(Err("wrong cluster".to_owned()));
        }
        lines::answered(self.heed(request))
    }

    fn heed(&self, request: &Value) -> Answer {
        let message = request["message"].clone();
        let bad = |error: serde_json::Error| error.to_string();
        let failed = |error: io::Error| error.to_string();
        let verdict = match lines::text(request, "op")? {
            "vote" => self.vote(&serde_json::from_value(message).map_err(bad)?).map_err(failed)?,
            "append" => self.take(&serde_json::from_value(message).map_err(bad)?).map_err(failed)?,
            "stand" => {
                self.stand_now();
                return Ok(Value::Null);
            }
            "committed" => {
                let state = self.lock();
                let after = message.as_u64().unwrap_or(0);
                let count = usize::try_from(state.commit.saturating_sub(after)).unwrap_or(0).min(BATCH);
                return serde_json::to_value(state.after(after, count)).map_err(bad);
            }
            other => return Err(format!("unknown op {other}")),
        };
        serde_json::to_value(verdict).map_err(bad)
    }

    fn vote(&self, vote: &Vote) -> io::Result<Verdict> {
        let mut state = self.lock();
        let verdict =
            |state: &State, agreed| Verdict { term: state.promise.term, agreed, last: state.log.len() as u64 };
        // Whoever still hears its master does not help to replace it.
        let loyal = match state.role {
            Role::Master => true,
            _ => state.master.is_some() && state.heard.elapsed() < SILENCE,
        };
        if vote.term < state.promise.term || (loyal && !vote.handed_over) {
            return Ok(verdict(&state, false));
        }
        let current = (vote.last_term, vote.last) >= (state.last_term(), state.log.len() as u64);
        if vote.trial {
            return Ok(verdict(&state, current));
        }
        if vote.term > state.promise.term {
            state.enter(vote.term, None)?;
            state.follow(None);
        }
        let free = state.promise.voted.as_ref().is_none_or(|voted| *voted == vote.candidate);
        if current && free {
            state.enter(vote.term, Some(vote.candidate.clone()))?;
            state.follow(None);
        }
        Ok(verdict(&state, current && free))
    }

    fn take(&self, append: &Append) -> io::Result<Verdict> {
        let mut state = self.lock();
        let verdict = |state: &State, agreed, last| Verdict { term: state.promise.term, agreed, last };
        let end = state.log.len() as u64;
        if append.term < state.promise.term {
            return Ok(verdict(&state, false, end));
        }
        if append.term > state.promise.term {
            state.enter(append.term, None)?;
        }
        let master = self.config.members.iter().position(|member| member.contact.name == append.master);
        if state.master != master || state.role != Role::Slave {
            log::info(&format!("{} follows {} in term {}", self.name(), append.master, append.term));
        }
        state.follow(master);
        if append.before > end || state.term_at(append.before) != append.before_term {
            let last = end.min(append.before.saturating_sub(1));
            return Ok(verdict(&state, false, last));
        }
        let last = append.before + append.entries.len() as u64;
        let known = append.entries.iter().enumerate();
        let known = known.take_while(|(place, entry)| state.term_at(append.before + *place as u64 + 1) == entry.term);
        let known = known.count();
        if known < append.entries.len() {
            state.cut(append.before + known as u64)?;
            state.append(append.entries[known..].to_vec())?;
        }
        let commit = append.commit.min(last);
        if commit > state.commit {
            state.commit_to(commit);
        }
        self.tell();
        Ok(verdict(&state, true, last))
    }
}
