//! Counts what became of hosts and components, for the summary and the exit code.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use indexmap::IndexMap;

use super::meters::Meters;
use crate::{
    control::event::{ComponentSummary, HostSummary, RunKind, Status, Summary},
    plan::{ComponentName, HostName, Outcome, Tally},
};

/// Counts what became of hosts and components. One per run, shared by its tasks.
#[derive(Debug)]
pub(super) struct Ledger {
    started: Instant,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    hosts: IndexMap<HostName, HostPage>,
    components: IndexMap<ComponentName, ComponentSummary>,
    containers_changed: u32,
    keys_changed: u32,
}

#[derive(Debug, Default)]
struct HostPage {
    tally: Tally,
    status: Option<Status>,
    unknown: bool,
    messages: u64,
}

impl Ledger {
    /// A ledger for these hosts and components, in the order in which the summary shows them.
    pub(super) fn new(hosts: &[HostName], components: &[(ComponentName, Vec<HostName>)]) -> Self {
        let components = components.iter().map(|(component, hosts)| {
            let summary = ComponentSummary {
                component: component.clone(),
                hosts: hosts.clone(),
                status: Status::NotAttempted,
                healthy: None,
                millis: 0,
            };
            (component.clone(), summary)
        });
        let pages = Pages {
            hosts: hosts.iter().map(|host| (host.clone(), HostPage::default())).collect(),
            components: components.collect(),
            ..Pages::default()
        };
        Self { started: Instant::now(), pages: Mutex::new(pages) }
    }

    /// Counts a step's outcome.
    pub(super) fn step(&self, host: &HostName, outcome: &Outcome) {
        self.pages().hosts.entry(host.clone()).or_default().tally.add(outcome);
    }

    /// Says that something about a host cannot be told in plan.
    pub(super) fn unknown(&self, host: &HostName) {
        self.pages().hosts.entry(host.clone()).or_default().unknown = true;
    }

    /// Says that a host ended badly; the worst status stays.
    pub(super) fn host_failed(&self, host: &HostName, status: Status) {
        let mut pages = self.pages();
        let page = pages.hosts.entry(host.clone()).or_default();
        page.status = page.status.max(Some(status));
    }

    /// Notes how many messages a host's channel carried.
    pub(super) fn messages(&self, host: &HostName, messages: u64) {
        self.pages().hosts.entry(host.clone()).or_default().messages = messages;
    }

    /// Counts containers that were (or would be) changed.
    pub(super) fn containers_changed(&self, count: u32) {
        self.pages().containers_changed += count;
    }

    /// Counts keys that were (or would be) changed.
    pub(super) fn keys_changed(&self, count: u32) {
        self.pages().keys_changed += count;
    }

    /// Notes how a component ended.
    pub(super) fn component(&self, component: &ComponentName, status: Status, healthy: Option<bool>, millis: u64) {
        if let Some(page) = self.pages().components.get_mut(component) {
            page.status = status;
            page.healthy = healthy;
            page.millis = millis;
        }
    }

    /// The whole, at the end.
    pub(super) fn summary(&self, kind: RunKind, interrupted: bool, meters: &Meters) -> Summary {
        let pages = self.pages();
        let hosts = pages.hosts.iter().map(|(host, page)| HostSummary {
            host: host.clone(),
            status: page.status.unwrap_or_else(|| page.calm_status()),
            tally: page.tally,
            messages: page.messages,
            transfer: meters.total(host),
        });
        Summary {
            kind,
            hosts: hosts.collect(),
            components: pages.components.values().cloned().collect(),
            containers_changed: pages.containers_changed,
            keys_changed: pages.keys_changed,
            transfer: meters.whole(),
            millis: elapsed(self.started),
            interrupted,
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HostPage {
    fn calm_status(&self) -> Status {
        if self.tally.changed > 0 {
            Status::Changed
        } else if self.unknown || self.tally.unknown > 0 {
            Status::Unknown
        } else {
            Status::Unchanged
        }
    }
}

/// Milliseconds since then.
pub(super) fn elapsed(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// What a component's status is, given those of its hosts.
pub(super) fn worst(statuses: &HashMap<HostName, Status>) -> Status {
    statuses.values().copied().max().unwrap_or(Status::Unchanged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_status_stays() {
        let host: HostName = "a".parse().unwrap();
        let ledger = Ledger::new(std::slice::from_ref(&host), &[]);
        let status = || ledger.summary(RunKind::Deploy, false, &Meters::of([])).hosts[0].status;
        ledger.step(&host, &Outcome::Changed);
        assert_eq!(status(), Status::Changed);
        ledger.host_failed(&host, Status::Failed);
        ledger.host_failed(&host, Status::NotAttempted);
        assert_eq!(status(), Status::Failed);
    }
}
