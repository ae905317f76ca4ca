//! What clients ask over `client_port`.

use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::{
    consensus::{Node, Role},
    plugin::Plugin,
};
use crate::lines::{self, Answer, answered};

/// How far a node may be behind and still count as up to date.
const NEAR: u64 = 5;

/// A node and its plugins, as clients see them.
pub(crate) struct Desk {
    pub(crate) node: std::sync::Arc<Node>,
    pub(crate) plugins: Vec<Plugin>,
    /// Plugins read, decide and write; one at a time, so that nothing changes between.
    pub(crate) turn: Mutex<()>,
}

impl Desk {
    /// Answers a client.
    pub(crate) fn answer(&self, request: &Value) -> Value {
        if request["cluster"] != json!(self.node.config.id) {
            return answered(Err(format!("wrong cluster: this is {}", self.node.config.id)));
        }
        let mut answer = answered(self.decide(request));
        if answer["error"] == "not master"
            && let Ok(master) = self.node.who_master()
        {
            answer["master"] = json!(master);
        }
        answer
    }

    fn decide(&self, request: &Value) -> Answer {
        let op = lines::text(request, "op")?;
        let key = || lines::text(request, "key").map(str::to_owned);
        match op {
            "hello" => Ok(json!(format!("{}, node {}", super::plugin::BUILD, self.node.name()))),
            "who_master" => self.node.who_master().map(Value::String),
            "state" => Ok(json!(self.state())),
            "nop" => self.node.propose(Vec::new()).map(|()| Value::Null),
            "get" => self.node.as_master()?.store.get(&key()?).map(|value| json!(value)).ok_or("not found".to_owned()),
            "exists" => Ok(json!(self.node.as_master()?.store.contains_key(&key()?))),
            "prefix" => {
                let prefix = key()?;
                let state = self.node.as_master()?;
                let found = state.store.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
                Ok(found.map(|(key, value)| json!([key, value])).collect())
            }
            "set" => {
                let value = lines::text(request, "value")?.to_owned();
                self.node.propose(vec![(key()?, Some(value))]).map(|()| Value::Null)
            }
            "test_and_set" => self.test_and_set(key()?, request),
            "delete" => self.delete(key()?),
            "statistics" => self.statistics(),
            "expect_progress_possible" => Ok(json!(self.expects_progress()?)),
            _ => self.plugin(op, request),
        }
    }

    /// Writes when the value is the expected one, null for none; gives the value that was there.
    fn test_and_set(&self, key: String, request: &Value) -> Answer {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.node.as_master()?.store.get(&key).map_or(Value::Null, |value| json!(value));
        if before == request["expected"] {
            self.node.propose(vec![(key, Some(lines::text(request, "value")?.to_owned()))])?;
        }
        Ok(before)
    }

    fn delete(&self, key: String) -> Answer {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.node.as_master()?.store.contains_key(&key) {
            return Err("not found".to_owned());
        }
        self.node.propose(vec![(key, None)]).map(|()| Value::Null)
    }

    fn plugin(&self, op: &str, request: &Value) -> Answer {
        let plugin = self.plugins.iter().find(|plugin| op.starts_with(plugin.prefix));
        let plugin = plugin.ok_or_else(|| format!("unknown op {op}"))?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (value, changes) = (plugin.answer)(&self.node.as_master()?.store, request)?;
        if !changes.is_empty() {
            self.node.propose(changes)?;
        }
        Ok(value)
    }

    fn state(&self) -> &'static str {
        match self.node.lock().role {
            Role::Master => "Stable_master",
            Role::Candidate => "Election_suggest",
            Role::Slave => "Slave_steady_state",
        }
    }

    /// Whether enough of the others are so far that the cluster can go on.
    fn expects_progress(&self) -> Result<bool, String> {
        let state = self.node.as_master()?;
        let near = |other: &usize| state.progress[*other].matched + NEAR >= state.commit;
        Ok(self.node.others().filter(near).count() + 1 >= self.node.majority())
    }

    fn statistics(&self) -> Answer {
        let state = self.node.as_master()?;
        let mut nodes = Map::new();
        for (place, member) in self.node.config.members.iter().enumerate() {
            let own = place == self.node.config.own;
            let matched = if own { state.log.len() as u64 } else { state.progress[place].matched };
            nodes.insert(member.contact.name.clone(), json!(matched));
        }
        Ok(json!({"term": state.promise.term, "i": state.commit, "keys": state.store.len(), "node_is": nodes}))
    }
}
