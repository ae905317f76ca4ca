//! A client of a cluster: finds the master and asks it.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::config::{Cluster, Contact};
use crate::lines::{self, Answer};

const WAIT: Duration = Duration::from_secs(5);
/// How long a node has to say who is master.
const LOOK: Duration = Duration::from_secs(1);
/// How long a cluster has to find a master while a client waits.
const PATIENCE: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(100);

/// Asks one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) cluster: Cluster,
}

impl Client {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }

    /// Asks a node of the cluster, master or not.
    pub(crate) fn ask_node(&self, node: &Contact, request: &Value, wait: Duration) -> Answer {
        let mut request = request.clone();
        request["cluster"] = json!(self.cluster.id);
        let mut answer = Err(format!("{} has no ip", node.name));
        for ip in &node.ips {
            answer = lines::call(ip, node.port, &request, wait);
            if answer.is_ok() {
                break;
            }
        }
        answer
    }

    /// The master of which the first node knows that knows one.
    pub(crate) fn master(&self) -> Result<String, String> {
        let mut last = "no node answers".to_owned();
        for node in &self.cluster.nodes {
            match self.ask_node(node, &json!({"op": "who_master"}), LOOK) {
                Ok(name) => return name.as_str().map(str::to_owned).ok_or_else(|| "no name".to_owned()),
                // A node that answers knows more than one that does not.
                Err(error) if error == "no quorum" || last != "no quorum" => last = error,
                Err(_) => {}
            }
        }
        Err(last)
    }

    /// Asks the master, and waits a little for one to be found.
    pub(crate) fn call(&self, request: &Value) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.call_once(request);
            let again = matches!(&answer, Err(error) if self.is_passing(error));
            if !again || Instant::now() >= deadline {
                return answer;
            }
            // An election says nothing to clients when it is over.
            thread::sleep(PAUSE);
        }
    }

    fn is_passing(&self, error: &str) -> bool {
        error == "not master" || (error == "no quorum" && self.cluster.nodes.len() > 1)
    }

    /// Asks the master as it is now.
    pub(crate) fn call_once(&self, request: &Value) -> Answer {
        let master = self.master()?;
        let node = self.cluster.nodes.iter().find(|node| node.name == master);
        let node = node.ok_or_else(|| format!("master {master} is not in the configuration"))?;
        self.ask_node(node, request, WAIT)
    }

    /// The value of a key, or nothing.
    pub(crate) fn get(&self, key: &str) -> Result<Option<String>, String> {
        match self.call(&json!({"op": "get", "key": key})) {
            Ok(value) => Ok(value.as_str().map(str::to_owned)),
            Err(error) if error == "not found" => Ok(None),
            Err(error) => Err(error),
        }
    }
}
