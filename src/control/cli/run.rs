//! What all commands that run something share: the request, the report, Ctrl-C.

use std::{path::Path, sync::Arc};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    args::{RunOptions, Selection},
    failure::Failure,
};
use crate::{
    control::{
        drive::{self, Events, Mode, Request, Scope},
        event::{RunEvent, RunKind, Summary},
        inventory::{Component, Inventory},
        recipe::Library,
        report::{self, ReportStyle},
    },
    plan::HostName,
};

/// An inventory and its recipes.
pub(super) struct Lab {
    pub(super) inventory: Arc<Inventory>,
    pub(super) library: Arc<Library>,
}

impl Lab {
    /// Reads an inventory.
    pub(super) fn load(path: &Path) -> Result<Self, Failure> {
        let inventory = Inventory::load(path)?;
        let library = Library::new(inventory.lab.recipes.clone());
        Ok(Self { inventory: Arc::new(inventory), library: Arc::new(library) })
    }

    /// The hosts that an expression names; all when there is none.
    pub(super) fn hosts(&self, on: Option<&str>) -> Result<Vec<HostName>, Failure> {
        match on {
            Some(expression) => Ok(self.inventory.select(expression)?),
            None => Ok(self.inventory.hosts.keys().cloned().collect()),
        }
    }

    /// A request for the components and hosts that a selection names.
    pub(super) fn request(
        &self,
        selection: &Selection,
        kind: RunKind,
        mode: Mode,
        options: &RunOptions,
    ) -> Result<Request, Failure> {
        let chosen = self.hosts(selection.on.as_deref())?;
        let components: Vec<Arc<Component>> = self
            .inventory
            .select_components(&selection.only, false)?
            .iter()
            .filter_map(|name| self.inventory.components.get(name))
            .filter(|component| component.hosts.iter().any(|host| chosen.contains(host)))
            .map(|component| Arc::new(component.clone()))
            .collect();
        // With `--only`, hosts of other components are left alone altogether.
        let hosts = if selection.only.is_empty() {
            chosen
        } else {
            chosen
                .into_iter()
                .filter(|host| components.iter().any(|component| component.hosts.contains(host)))
                .collect()
        };
        Ok(self.bare_request(kind, mode, options, components, hosts))
    }

    /// A request for these components and hosts.
    pub(super) fn bare_request(
        &self,
        kind: RunKind,
        mode: Mode,
        options: &RunOptions,
        components: Vec<Arc<Component>>,
        hosts: Vec<HostName>,
    ) -> Request {
        Request {
            inventory: Arc::clone(&self.inventory),
            library: Arc::clone(&self.library),
            recipes: std::collections::HashMap::new(),
            kind,
            components,
            hosts,
            mode,
            scope: Scope::Whole,
            safe: std::collections::HashSet::new(),
            prune: false,
            jobs: options.jobs,
            cache: cache(),
            containers: None,
        }
    }
}

/// Runs a request, shows it, and stops it at Ctrl-C.
pub(super) async fn run(request: Request, style: ReportStyle) -> Result<Summary, Failure> {
    let cancel = CancellationToken::new();
    let (events, inbox) = Events::channel();
    let shown = tokio::spawn(show_events(inbox, style));
    let watcher = tokio::spawn(cancel_at_interrupt(cancel.clone()));
    let ended = drive::run(request, events, cancel).await;
    watcher.abort();
    // The report sees the end of its inbox when the run drops the sender.
    let _ = shown.await;
    Ok(ended?)
}

/// Shows events until every sender is gone.
pub(super) async fn show_events(inbox: mpsc::Receiver<RunEvent>, style: ReportStyle) {
    let mut reporter = report::reporter(style);
    report::follow(inbox, &mut *reporter).await;
    if let Err(error) = reporter.finish() {
        tracing::debug!("the report could not be written: {error}");
    }
}

/// The first Ctrl-C (or TERM) stops the run cleanly; the second one ends the process, as everywhere.
pub(super) async fn cancel_at_interrupt(cancel: CancellationToken) {
    let mut terminate = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(signal) => signal,
        Err(error) => {
            tracing::warn!("cannot wait for SIGTERM: {error}");
            return;
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    cancel.cancel();
    let _ = tokio::signal::ctrl_c().await;
    tracing::warn!("interrupted twice: not waiting for hosts");
    #[expect(clippy::exit, reason = "what waits for hosts does not end by itself, and the operator has asked twice")]
    std::process::exit(i32::from(super::failure::Exit::Interrupted.code()));
}

/// Where caches live.
pub(super) fn cache() -> Option<std::path::PathBuf> {
    directories::ProjectDirs::from("", "", "ovs-cuisine").map(|dirs| dirs.cache_dir().to_owned())
}
