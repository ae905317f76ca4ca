//! What a recipe may ask of the outside while it is evaluated for one host.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::runtime::Handle;

use super::{Fleet, HostSession, error::chain, sources::Sources, store::LinkMaker, usual::TreeKey};
use crate::{
    control::{
        link::Keyring,
        recipe::{Refusal, Surroundings},
    },
    plan::{Answer, ComponentName, HostName, Question, Secret},
    tree::{Digest, TreeSummary},
};

/// Answers a recipe's questions: live ones through the host's helper, the rest from this machine.
pub(super) struct HostSurroundings {
    /// The runtime that the session lives on; evaluation happens on threads of its own.
    pub(super) runtime: Handle,
    /// None while a component's `config(ctx)` is evaluated, which is about no host in particular.
    pub(super) session: Option<Arc<HostSession>>,
    /// The component's other hosts are asked through it.
    pub(super) fleet: Arc<Fleet>,
    /// The component's hosts, and those that do not exist yet.
    pub(super) hosts: Vec<HostName>,
    pub(super) absent: BTreeSet<HostName>,
    pub(super) sources: Arc<Sources>,
    pub(super) keyring: Arc<Keyring>,
    pub(super) component: ComponentName,
    /// How etcd links are made; the reason why not when the component has no store.
    pub(super) links: Result<LinkMaker, String>,
    /// Set in the preflight: live questions are refused, and this notes that one was asked.
    pub(super) deferred: Option<Arc<AtomicBool>>,
}

impl HostSurroundings {
    /// The host that the evaluation is about; refused where no host is to be asked yet.
    fn asked(&self) -> Result<&Arc<HostSession>, String> {
        if let Some(deferred) = &self.deferred {
            deferred.store(true, Ordering::Relaxed);
            return Err("the host is not asked before its turn".to_owned());
        }
        let session = self.session.as_ref();
        session.ok_or_else(|| "there is no host to ask here; ask in deploy(ctx) or health(ctx)".to_owned())
    }

    fn answer(&self, session: &HostSession, question: Question) -> Result<Answer, String> {
        let answers = self.runtime.block_on(session.ask(vec![question])).map_err(|error| chain(&error))?;
        answers.into_iter().next().ok_or_else(|| "the host gave no answer".to_owned())
    }
}

impl Surroundings for HostSurroundings {
    fn ask(&self, question: Question) -> Result<Answer, String> {
        self.answer(self.asked()?, question)
    }

    fn ask_of(&self, host: &HostName, question: Question) -> Result<Answer, String> {
        self.asked()?;
        if !self.hosts.contains(host) {
            return Err(format!(
                "`{host}` is not a host of component {}, so nothing says when it is ready",
                self.component
            ));
        }
        if self.absent.contains(host) {
            return Ok(Answer::Absent);
        }
        let session =
            self.runtime.block_on(self.fleet.session(host)).map_err(|error| format!("`{host}`: {}", chain(&*error)))?;
        self.answer(&session, question).map_err(|error| format!("`{host}`: {error}"))
    }

    fn tree(&self, source: &Path, ignore: &[String], xattrs: bool) -> Result<TreeSummary, Refusal> {
        let key = TreeKey { source: source.to_owned(), ignore: ignore.to_owned(), xattrs };
        self.sources.tree(&self.component, &key)
    }

    fn blob(&self, file: &Path) -> Result<(Digest, u64), String> {
        self.sources.file(file).map_err(|error| chain(&error))
    }

    fn secret(&self, of: Option<&ComponentName>, name: &str) -> Result<Secret<String>, String> {
        component_secret(&self.keyring, of.unwrap_or(&self.component), name)
    }

    fn launcher(&self) -> Result<(Digest, u64), String> {
        self.sources.launcher().map_err(|error| chain(&error))
    }

    fn etcd_link(&self, node: &str) -> Result<Secret<String>, String> {
        self.links.as_ref().map_err(Clone::clone)?.link(node)
    }
}

/// The generated secret of a component; made at first use.
pub(super) fn component_secret(
    keyring: &Keyring,
    component: &ComponentName,
    name: &str,
) -> Result<Secret<String>, String> {
    keyring.password(&format!("secret.{component}.{name}")).map_err(|error| chain(&error))
}
