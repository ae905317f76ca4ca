//! Hosts that left a component, and components that left the lab: seen off before their keys go.
//!
//! etcd tells who was there: the launch descriptions below a component's prefix name their hosts; so do the hosts, which
//! record what was defined there and for whom. A host that the inventory no longer gives the component is drained
//! (`drain(ctx)` of the recipe, on a host that stays), its services are stopped and taken away, and its keys go with the
//! next write. The container of a host that is gone from the inventory is stopped; `--prune` removes it.
//!
//! What a component needs goes after it: a volumedriver that is drained writes through the proxy beside it. So containers
//! are stopped when every component has seen off whoever left it, and so are services that another one leaves behind needs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    component::{Evaluated, run_steps},
    evaluate::Part,
    ledger::elapsed,
    run::{Crew, Scope},
};
use crate::{
    control::{
        config::{Comparison, LoginMode, Wish},
        event::{ConfigChange, Problem, RunEvent, Status},
        inventory::Component,
        recipe::Keyspace,
    },
    plan::{Action, ComponentName, HostName, LaunchDescription},
    wire::Mode,
};

/// How names of components begin that no inventory has: recipes and commands run by hand.
pub const AD_HOC: &str = "ad-hoc.";

/// Hosts and the services that they run for a component.
pub(super) type Leavers = BTreeMap<HostName, BTreeSet<String>>;

/// What is left to do for hosts that left, when all components have had their turn.
#[derive(Debug, Default)]
pub(super) struct Departures {
    /// Hosts that are no longer in the inventory: their containers are stopped.
    hosts: BTreeSet<HostName>,
    /// What components have on hosts of the inventory that others need there until they have left, too.
    services: Vec<(ComponentName, HostName, BTreeSet<String>)>,
    /// Components that have seen off whoever left them.
    seen_off: BTreeSet<ComponentName>,
}

/// The hosts and services that launch descriptions below a prefix are for.
fn launched<'k>(prefix: &str, keys: impl Iterator<Item = &'k str>) -> Leavers {
    let mut found = Leavers::new();
    for key in keys {
        let node = key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix("launch/"));
        let Some((host, rest)) = node.and_then(|node| node.split_once('/')) else { continue };
        let Some((service, LaunchDescription::KEY)) = rest.rsplit_once('/') else { continue };
        if let Ok(host) = host.parse() {
            found.entry(host).or_default().insert(service.to_owned());
        }
    }
    found
}

/// The same for keys of a component whose prefix nobody knows any more.
fn launched_anywhere(keys: &[String]) -> Leavers {
    let mut found = Leavers::new();
    for key in keys {
        let Some(prefix) = key.find("launch/").map(|at| &key[..at]) else { continue };
        for (host, services) in launched(prefix, std::iter::once(key.as_str())) {
            found.entry(host).or_default().extend(services);
        }
    }
    found
}

impl Crew {
    /// Hosts that etcd or they themselves know the component on and that the inventory no longer gives it. In etcd these
    /// are those whose launch descriptions are about to be removed; of hosts that stay it takes note which services go.
    pub(super) fn leavers(&self, component: &Component, keyspace: &Keyspace, comparison: &Comparison) -> Leavers {
        let mut found = self.leavers_without_keys(component);
        if !self.sees_off(component) {
            return found;
        }
        let removed = comparison.changes().iter().filter(|change| change.action == Action::Remove);
        for (host, services) in launched(keyspace.prefix(), removed.map(|change| change.key.as_str())) {
            if component.hosts.contains(&host) {
                self.wishes.vouch(&component.name, &host, services);
            } else {
                found.insert(host, services);
            }
        }
        found
    }

    /// The same for a component that keeps no keys: only hosts know.
    pub(super) fn leavers_without_keys(&self, component: &Component) -> Leavers {
        if !self.sees_off(component) {
            return Leavers::new();
        }
        self.recorded_leavers(component).into_iter().map(|host| (host, BTreeSet::new())).collect()
    }

    /// Whether this run looks for hosts that left a component: a run of the whole, and a component of the inventory's.
    fn sees_off(&self, component: &Component) -> bool {
        self.scope == Scope::Whole && self.inventory.components.contains_key(&component.name)
    }

    /// Sees hosts off: drained by one that stays, then their services stopped and taken away. An error leaves their keys
    /// where they are. In check mode it says what would go.
    pub(super) async fn see_off(
        self: &Arc<Self>,
        component: &Arc<Component>,
        leavers: &Leavers,
        evaluations: &BTreeMap<HostName, Evaluated>,
    ) -> Result<(), Box<Problem>> {
        for host in leavers.keys() {
            let (component, host) = (component.name.clone(), host.clone());
            self.events.send(RunEvent::Leaving { component, host, done: self.mode == Mode::Apply }).await;
        }
        if self.mode == Mode::Apply && !leavers.is_empty() {
            self.drain(component, leavers, evaluations).await?;
        }
        for (host, services) in leavers {
            if !self.inventory.hosts.contains_key(host) {
                self.departures().hosts.insert(host.clone());
            } else if self.mode == Mode::Apply && self.is_needed_there(&component.name, host) {
                self.departures().services.push((component.name.clone(), host.clone(), services.clone()));
            } else if self.absent(host).is_none() {
                // A host that does not exist yet has nothing.
                self.clear_all(&component.name, host, services).await;
            }
        }
        self.departures().seen_off.insert(component.name.clone());
        Ok(())
    }

    fn departures(&self) -> MutexGuard<'_, Departures> {
        self.departures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a component that leaves a host, too, needs this one.
    fn is_needed_there(&self, component: &ComponentName, host: &HostName) -> bool {
        let others = self.inventory.components.values().filter(|other| other.name != *component);
        let mut leave = others.filter(|other| self.recorded_leavers(other).contains(host));
        leave.any(|other| self.needs(other, component))
    }

    /// Whether a component needs another, itself or by what it needs.
    fn needs(&self, component: &Component, wanted: &ComponentName) -> bool {
        let further = |need| self.inventory.components.get(need).is_some_and(|next| self.needs(next, wanted));
        component.needs.iter().any(|need| need == wanted || further(need))
    }

    async fn drain(
        self: &Arc<Self>,
        component: &Arc<Component>,
        leavers: &Leavers,
        evaluations: &BTreeMap<HostName, Evaluated>,
    ) -> Result<(), Box<Problem>> {
        if !self.bound(&component.name).is_some_and(|bound| bound.recipe.has_drain()) {
            return Ok(());
        }
        let stays = evaluations.iter().find_map(|(host, evaluated)| match evaluated {
            Evaluated::Ready(session, _) => Some((host, session)),
            _ => None,
        });
        let names: Vec<_> = leavers.keys().map(HostName::as_str).collect();
        let wrong = |error: String, hint: &str| {
            let (because, output_tail) = (Vec::new(), Vec::new());
            Box::new(Problem { error, because, output_tail, hint: Some(hint.to_owned()) })
        };
        let Some((host, session)) = stays else {
            let error = format!("{} cannot leave: no host that stays answers", names.join(", "));
            return Err(wrong(error, "deploy again when one does, or give them back to the component"));
        };
        let part = Part::Drain(Arc::new(leavers.keys().cloned().collect()));
        let Some(plan) = self.evaluate_part(part, component, host, session).await.map_err(Box::new)? else {
            return Ok(());
        };
        match run_steps(self, component, host, session, plan, Mode::Apply).await {
            status if status < Status::NotAttempted => Ok(()),
            _ => {
                let error = format!("{} could not be drained; nothing of them was removed", names.join(", "));
                Err(wrong(error, "mend what failed, or give them back to the component"))
            }
        }
    }

    /// After everything else: containers of hosts that left are stopped, or removed with all that the inventory no
    /// longer has when that was asked for. `ended` is how components went.
    pub(super) async fn clear_away(self: &Arc<Self>, ended: &HashMap<ComponentName, Status>) {
        if self.scope != Scope::Whole || self.mode != Mode::Apply || self.cancel.is_cancelled() {
            return;
        }
        let Departures { hosts, services, seen_off } = std::mem::take(&mut *self.departures());
        if hosts.is_empty() && services.is_empty() && !self.prune {
            return;
        }
        let is_missing =
            |(name, status): &(&ComponentName, &Status)| **status >= Status::NotAttempted && !seen_off.contains(*name);
        let missing: BTreeSet<&str> = ended.iter().filter(is_missing).map(|(name, _)| name.as_str()).collect();
        if !missing.is_empty() {
            let names: Vec<&str> = missing.into_iter().collect();
            let text = "what the inventory no longer has is left as it is: hosts that left may be needed by";
            self.warn(format!("{text} {} until these are deployed", names.join(", "))).await;
            return;
        }
        // Backwards: who needs something had its turn after it.
        for (component, host, services) in services.iter().rev() {
            self.clear_all(component, host, services).await;
        }
        if hosts.is_empty() && !self.prune {
            return;
        }
        if let Err(error) = self.clear_containers(&hosts).await {
            self.warn(super::error::chain(&error)).await;
        }
        if self.prune
            && let Err(error) = self.forget_components().await
        {
            self.warn(super::error::chain(&error)).await;
        }
    }

    async fn warn(&self, text: String) {
        self.events.send(RunEvent::Warning { host: None, text }).await;
    }

    async fn clear_containers(&self, departed: &BTreeSet<HostName>) -> Result<(), super::DriveError> {
        let engine = self.fleet.engine().await?;
        let lab = &self.inventory.lab.name;
        for container in engine.ps(&self.inventory).await?.into_iter().filter(|container| !container.in_inventory) {
            let started = Instant::now();
            let is_running = container.state == "running";
            let action = match (self.prune, departed.contains(&container.host)) {
                (true, _) => Action::Remove,
                (false, true) if is_running => Action::Stop,
                _ => continue,
            };
            // A graceful end first: databases want to close their files.
            if is_running {
                engine.stop(lab, &container.host).await?;
            }
            if action == Action::Remove {
                engine.remove(lab, &container.host).await?;
            }
            self.ledger.containers_changed(1);
            let (host, why, millis) = (container.host, "no longer in the inventory".to_owned(), elapsed(started));
            self.events.send(RunEvent::Container { host, action, why, done: true, millis }).await;
        }
        Ok(())
    }

    /// Removes keys and logins of components that the inventory no longer has, and their services.
    async fn forget_components(self: &Arc<Self>) -> Result<(), super::DriveError> {
        let mut cleared = BTreeSet::new();
        let ended = self.forget_keys(&mut cleared).await;
        // Those that kept no keys, or that keep them no longer.
        for (name, host) in self.forgotten() {
            if !name.as_str().starts_with(AD_HOC) && !cleared.contains(&(name.clone(), host.clone())) {
                self.clear_all(&name, &host, &BTreeSet::new()).await;
            }
        }
        ended
    }

    async fn forget_keys(
        self: &Arc<Self>,
        cleared: &mut BTreeSet<(ComponentName, HostName)>,
    ) -> Result<(), super::DriveError> {
        for handle in self.stores.handles() {
            let store = handle.store(&self.fleet, &self.inventory).await?;
            for (name, keys) in store.components().await? {
                // What somebody ran by hand was never in the inventory.
                if self.inventory.components.contains_key(&name) || name.as_str().starts_with(AD_HOC) {
                    continue;
                }
                let services = launched_anywhere(&keys);
                for (host, services) in services.iter().filter(|(host, _)| self.inventory.hosts.contains_key(*host)) {
                    self.clear_all(&name, host, services).await;
                    cleared.insert((name.clone(), host.clone()));
                }
                let wish = Wish { component: name.clone(), prefixes: Vec::new(), keys: BTreeMap::new() };
                let comparison = store.compare(&wish).await?;
                let mut changes = super::store::key_changes(&comparison);
                store.apply(comparison).await?;
                let login = store.drop_login(&name, LoginMode::Apply).await?;
                changes.extend(login.map(|change| ConfigChange {
                    key: format!("login {}", change.user),
                    action: Action::Remove,
                    before: Some(change.details.join(", ")),
                    after: None,
                }));
                store.forget(&name).await?;
                self.ledger.keys_changed(u32::try_from(changes.len()).unwrap_or(u32::MAX));
                self.events.send(RunEvent::Config { component: name, changes, applied: true }).await;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launch_descriptions_tell_hosts_and_services() {
        let keys = [
            "/ovs/agent/agent.ini",
            "/ovs/agent/launch/node-1/agent/description",
            "/ovs/agent/launch/node-1/watcher/description",
            "/ovs/agent/launch/node-2/agent/description",
            "/ovs/agent/launch/node-3/agent/other",
            "/ovs/other/launch/node-4/agent/description",
        ];
        let found = launched("/ovs/agent/", keys.into_iter());
        let names: Vec<_> = found.iter().map(|(host, services)| (host.as_str(), services.len())).collect();
        assert_eq!(names, [("node-1", 2), ("node-2", 1)]);
        let anywhere = launched_anywhere(&keys.map(str::to_owned));
        let names: Vec<_> = anywhere.iter().map(|(host, services)| (host.as_str(), services.len())).collect();
        assert_eq!(names, [("node-1", 2), ("node-2", 1), ("node-4", 1)]);
    }
}
