//! The lab's configuration store during a run: which component provides it, how it is reached, what is written to it.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
    time::Duration,
};

use indexmap::IndexMap;
use tokio::{sync::OnceCell, task::JoinSet, time::timeout};

use super::{
    DriveError, Fleet,
    component::Evaluated,
    error::{chain, problem},
    run::{Bound, Crew, NO_IPS, addresses},
    session::CANCEL_DEADLINE,
};
use crate::{
    control::{
        config::{BoxFuture, Comparison, ConfigError, Dial, Grant, LoginMode, Store, StoreAccess, Stream, Value, Wish},
        event::{ConfigChange, Problem, RunEvent, Status},
        inventory::{Component, Inventory},
        link::Keyring,
        recipe::{Keyspace, Library, Refusal, Scene, StoreSpec, Surroundings},
    },
    plan::{Action, Answer, ComponentName, HostName, LaunchDescription, Question, Secret},
    tree::{Digest, TreeSummary},
    wire::Mode,
};

/// How long one host of a store may take to answer before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_secs(3);

/// Makes the etcd links of one component's services.
#[derive(Clone)]
pub(super) struct LinkMaker {
    access: StoreAccess,
    user: ComponentName,
    password: Secret<String>,
}

impl LinkMaker {
    /// The etcd link of a launch node, with the component's login.
    pub(super) fn link(&self, node: &str) -> Result<Secret<String>, String> {
        self.access.etcd_link(self.user.as_str(), &self.password, node).map_err(|error| chain(&error))
    }
}

/// A store and where it runs.
pub struct StoreHandle {
    spec: StoreSpec,
    endpoints: Vec<(String, u16)>,
    /// Its hosts, each with the address that endpoints name it by.
    hosts: Vec<(HostName, String)>,
    open: OnceCell<Arc<Store>>,
}

impl StoreHandle {
    fn access(&self) -> StoreAccess {
        StoreAccess {
            endpoints: self.endpoints.clone(),
            user: self.spec.user.clone(),
            password: self.spec.password.clone(),
            ca: self.spec.ca.clone(),
        }
    }

    /// The store, logged in. Reached through the SSH link of a member's own host or, when that is gone, of another one;
    /// found anew after each loss.
    pub(super) async fn store(&self, fleet: &Arc<Fleet>, inventory: &Inventory) -> Result<&Arc<Store>, ConfigError> {
        let access = self.access();
        let dial = dial(Arc::clone(fleet), self.hosts.clone());
        let open = || async {
            self.reach(fleet).await;
            Ok(Arc::new(Store::open(access, dial, &inventory.lab.name).await?))
        };
        self.open.get_or_try_init(open).await
    }

    /// Connects to its hosts, until one answers: a dial has less time than a first connection may take. The next one is
    /// begun with when the first takes long.
    async fn reach(&self, fleet: &Arc<Fleet>) {
        let mut connecting: JoinSet<bool> = JoinSet::new();
        for (host, _) in &self.hosts {
            let (fleet, host) = (Arc::clone(fleet), host.clone());
            connecting.spawn(async move { fleet.session(&host).await.is_ok() });
            if let Ok(Some(Ok(true))) = timeout(HEAD_START, connecting.join_next()).await {
                return connecting.detach_all();
            }
        }
        while let Some(answered) = connecting.join_next().await {
            if matches!(answered, Ok(true)) {
                return connecting.detach_all();
            }
        }
    }

    /// Whether it does not answer just now, as an error. A store that this run has not used yet is not asked.
    async fn is_silent(&self) -> Option<ConfigError> {
        self.open.get()?.look().await.err().filter(ConfigError::is_unreachable)
    }
}

/// `host:port`; gives the text back when it is not that.
fn split_endpoint(endpoint: &str) -> Result<(String, u16), String> {
    let parts = endpoint.rsplit_once(':').and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
    parts.ok_or_else(|| endpoint.to_owned())
}

fn dial(fleet: Arc<Fleet>, hosts: Vec<(HostName, String)>) -> Dial {
    Arc::new(move |address, port| -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let (fleet, mut hosts) = (Arc::clone(&fleet), hosts.clone());
        Box::pin(async move {
            // A member is as alive as its host: another host's link would only wait for the same one. Hosts that answer
            // come before those that have to be connected to again.
            hosts.sort_by_key(|(host, known_as)| (fleet.living(host).is_none(), *known_as != address));
            let mut last = io::Error::other("the store has no host");
            for (host, _) in &hosts {
                let tunnel = match fleet.session_again(host).await {
                    Ok(session) => session.tunnel(&address, port).await.map_err(|error| chain(&error)),
                    Err(error) => Err(chain(&*error)),
                };
                match tunnel {
                    Ok(stream) => return Ok(Box::new(stream) as Box<dyn Stream>),
                    Err(why) => last = io::Error::other(format!("through host {host}: {why}")),
                }
            }
            Err(last)
        })
    })
}

/// What was found of a component in its store.
struct Looked<'s> {
    store: &'s Arc<Store>,
    /// How its login differs, or differed.
    login: Vec<ConfigChange>,
    comparison: Comparison,
}

/// Why keys were not looked at.
enum Unseen {
    Store(DriveError),
    Ports(Box<Problem>),
}

impl From<DriveError> for Unseen {
    fn from(error: DriveError) -> Self {
        Self::Store(error)
    }
}

impl From<ConfigError> for Unseen {
    fn from(error: ConfigError) -> Self {
        Self::Store(error.into())
    }
}

/// The stores of an inventory, by the component that provides them.
pub(super) struct Stores(IndexMap<ComponentName, StoreHandle>);

impl Stores {
    /// Finds the stores: components whose recipe defines `store(ctx)`.
    pub(super) fn of(
        inventory: &Inventory,
        keyring: &Arc<Keyring>,
        bound: &HashMap<ComponentName, Arc<Bound>>,
        addresses: &BTreeMap<HostName, String>,
    ) -> Result<Self, DriveError> {
        let mut stores = IndexMap::new();
        for component in inventory.components.values() {
            let Some(bound) = bound.get(&component.name).filter(|bound| bound.recipe.has_store()) else { continue };
            let scene = Scene {
                inventory,
                component,
                params: &bound.params,
                addresses,
                ips: &NO_IPS,
                components: &BTreeMap::new(),
                keyspace: &bound.keyspace,
                leaving: &[],
            };
            let surroundings = StoreSurroundings { keyring, component: &component.name };
            if let Some(spec) = bound.recipe.store(&scene, &surroundings)? {
                let endpoints: Result<_, _> = spec.endpoints.iter().map(|endpoint| split_endpoint(endpoint)).collect();
                let endpoints = endpoints
                    .map_err(|endpoint| DriveError::BadEndpoint { component: component.name.clone(), endpoint })?;
                let address = |host: &HostName| addresses.get(host).cloned().unwrap_or_default();
                let hosts = component.hosts.iter().map(|host| (host.clone(), address(host))).collect();
                let handle = StoreHandle { spec, endpoints, hosts, open: OnceCell::new() };
                stores.insert(component.name.clone(), handle);
            }
        }
        Ok(Self(stores))
    }

    /// Refuses components that keep configuration but need no store, and prefixes that lie within each other: a login
    /// that may read one would read the other.
    pub(super) fn check(
        &self,
        inventory: &Inventory,
        components: &[Arc<Component>],
        bound: &HashMap<ComponentName, Arc<Bound>>,
    ) -> Result<(), DriveError> {
        for component in components {
            let keeps = bound.get(&component.name).is_some_and(|bound| bound.recipe.has_config());
            if keeps && self.of_component(inventory, component).is_none() {
                let candidate = self.0.keys().next().cloned();
                return Err(DriveError::NoStore { component: component.name.clone(), candidate });
            }
        }
        let prefixes: Vec<_> =
            components.iter().filter_map(|component| Some((component, bound.get(&component.name)?))).collect();
        for (index, (one, one_bound)) in prefixes.iter().enumerate() {
            for (other, other_bound) in &prefixes[index + 1..] {
                if let Some(prefix) = overlap(&one_bound.keyspace, &other_bound.keyspace) {
                    return Err(DriveError::PrefixesOverlap {
                        one: one.name.clone(),
                        other: other.name.clone(),
                        prefix: prefix.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// All stores.
    pub(super) fn handles(&self) -> impl Iterator<Item = &StoreHandle> {
        self.0.values()
    }

    /// The store that a component writes to: its own, or the nearest one among what it needs.
    fn of_component(&self, inventory: &Inventory, component: &Component) -> Option<(&ComponentName, &StoreHandle)> {
        let mut seen = Vec::new();
        let mut next = vec![component.name.clone()];
        while let Some(name) = next.pop() {
            if let Some((name, store)) = self.0.get_key_value(&name) {
                return Some((name, store));
            }
            if seen.contains(&name) {
                continue;
            }
            let known = inventory.components.get(&name).unwrap_or(component);
            next.extend(known.needs.iter().cloned());
            seen.push(name);
        }
        // An ad-hoc recipe needs nothing by itself; the lab's only store is then the one that is meant.
        let is_ad_hoc = !inventory.components.contains_key(&component.name);
        if is_ad_hoc && self.0.len() == 1 { self.0.first() } else { None }
    }

    /// What makes the etcd links of a component's services.
    pub(super) fn link_maker(
        &self,
        inventory: &Inventory,
        keyring: &Keyring,
        component: &Component,
    ) -> Result<LinkMaker, DriveError> {
        let Some((_, store)) = self.of_component(inventory, component) else {
            let candidate = self.0.keys().next().cloned();
            return Err(DriveError::NoStore { component: component.name.clone(), candidate });
        };
        let access = store.access();
        let password = login_password(keyring, &component.name)?;
        Ok(LinkMaker { access, user: component.name.clone(), password })
    }
}

/// A prefix of one component that lies within a prefix of another, or the other way round.
fn overlap<'k>(one: &'k Keyspace, other: &Keyspace) -> Option<&'k String> {
    let meets = |a: &str, b: &str| a.starts_with(b) || b.starts_with(a);
    one.prefixes.iter().find(|prefix| other.prefixes.iter().any(|theirs| meets(prefix, theirs)))
}

/// The password of a component's etcd login; made at first use.
fn login_password(keyring: &Keyring, component: &ComponentName) -> Result<Secret<String>, DriveError> {
    Ok(keyring.password(&format!("login.{component}"))?)
}

/// What `store(ctx)` may ask: secrets only.
struct StoreSurroundings<'a> {
    keyring: &'a Arc<Keyring>,
    component: &'a ComponentName,
}

const NOT_HERE: &str = "store(ctx) may ask for secrets only";

impl Surroundings for StoreSurroundings<'_> {
    fn ask(&self, _: Question) -> Result<Answer, String> {
        Err(NOT_HERE.to_owned())
    }

    fn tree(&self, _: &std::path::Path, _: &[String], _: bool) -> Result<TreeSummary, Refusal> {
        Err(NOT_HERE.to_owned().into())
    }

    fn blob(&self, _: &std::path::Path) -> Result<(Digest, u64), String> {
        Err(NOT_HERE.to_owned())
    }

    fn secret(&self, of: Option<&ComponentName>, name: &str) -> Result<Secret<String>, String> {
        super::surroundings::component_secret(self.keyring, of.unwrap_or(self.component), name)
    }

    fn launcher(&self) -> Result<(Digest, u64), String> {
        Err(NOT_HERE.to_owned())
    }

    fn etcd_link(&self, _: &str) -> Result<Secret<String>, String> {
        Err(NOT_HERE.to_owned())
    }
}

impl Crew {
    /// Compares a component's keys with etcd and, when applying, writes them and its login.
    pub(super) async fn configure(
        self: &Arc<Self>,
        component: &Arc<Component>,
        evaluations: &BTreeMap<HostName, Evaluated>,
    ) -> Status {
        let ended = tokio::select! {
            ended = self.configure_or(component, evaluations) => ended,
            () = self.interrupted() => return Status::Interrupted,
        };
        match ended {
            Ok(status) => status,
            Err(shown) => {
                self.component_failed(component, None, *shown).await;
                Status::Failed
            }
        }
    }

    /// Comes back when the run was interrupted and what it had begun with etcd had time to end.
    async fn interrupted(&self) {
        self.cancel.cancelled().await;
        tokio::time::sleep(CANCEL_DEADLINE).await;
    }

    async fn configure_or(
        self: &Arc<Self>,
        component: &Arc<Component>,
        evaluations: &BTreeMap<HostName, Evaluated>,
    ) -> Result<Status, Box<Problem>> {
        let keys = self.wanted_keys(component, evaluations).await.map_err(Box::new)?;
        let Some((name, handle)) = self.stores.of_component(&self.inventory, component) else {
            if keys.is_empty() {
                self.see_off(component, &self.leavers_without_keys(component), evaluations).await?;
                return Ok(Status::Unchanged);
            }
            let candidate = self.stores.0.keys().next().cloned();
            let error = DriveError::NoStore { component: component.name.clone(), candidate };
            return Err(Box::new(problem(&error, error.hint())));
        };
        let Some(bound) = self.bound(&component.name) else { return Ok(Status::Unchanged) };
        // An ad-hoc run has never written keys, so there are none of its own to take away either.
        if keys.is_empty() && !self.inventory.components.contains_key(&component.name) {
            return Ok(Status::Unchanged);
        }
        if self.mode == Mode::Check
            && let Some(why) = self.why_not_comparable(handle, evaluations)
        {
            return Ok(self.keys_unknown(component, &why).await);
        }
        let wants_none = keys.is_empty();
        let Looked { store, login, comparison } = match self.look_at_keys(component, handle, keys, evaluations).await {
            Ok(looked) => looked,
            // In plan the store may legitimately be down: that is not an error but something that cannot be told.
            Err(Unseen::Ports(problem)) => return Err(problem),
            Err(Unseen::Store(DriveError::Config(error))) if self.mode == Mode::Check && error.is_of_access() => {
                return Ok(self.keys_unknown(component, &chain(&error)).await);
            }
            Err(Unseen::Store(DriveError::Config(error))) if wants_none && error.is_unreachable() => {
                let text = format!(
                    "{}; {component} keeps nothing there, and what it may have kept before stays until the next deploy",
                    chain(&error),
                    component = component.name
                );
                self.events.send(RunEvent::Warning { host: None, text }).await;
                return Ok(Status::Unchanged);
            }
            Err(Unseen::Store(DriveError::Config(error))) => return Err(Box::new(store_problem(name, &error))),
            Err(Unseen::Store(error)) => return Err(Box::new(problem(&error, error.hint()))),
        };
        let leavers = self.leavers(component, &bound.keyspace, &comparison);
        self.see_off(component, &leavers, evaluations).await?;
        let mut changes = login;
        changes.extend(key_changes(&comparison));
        let count = u32::try_from(changes.len()).unwrap_or(u32::MAX);
        let applied = self.mode == Mode::Apply;
        if applied {
            store.apply(comparison).await.map_err(|error| Box::new(store_problem(name, &error)))?;
        }
        self.ledger.keys_changed(count);
        self.events.send(RunEvent::Config { component: component.name.clone(), changes, applied }).await;
        Ok(if count == 0 { Status::Unchanged } else { Status::Changed })
    }

    /// Reaches the store, compares the component's keys, asks whether its services can have their ports, and sees to its login.
    async fn look_at_keys<'s>(
        &self,
        component: &Component,
        handle: &'s StoreHandle,
        keys: BTreeMap<String, Value>,
        evaluations: &BTreeMap<HostName, Evaluated>,
    ) -> Result<Looked<'s>, Unseen> {
        let keyspace = self.bound(&component.name).map(|bound| bound.keyspace.clone()).unwrap_or_default();
        let store = handle.store(&self.fleet, &self.inventory).await?;
        let keeps_keys = !keys.is_empty();
        let wish = self.wish(store, component, &keyspace, keys, evaluations).await?;
        let comparison = store.compare(&wish).await?;
        // Only when something is about to be written: what runs as it should has its ports.
        if self.mode == Mode::Apply && !comparison.is_empty() {
            self.expect_ports(component, evaluations).await.map_err(Unseen::Ports)?;
        }
        // Who keeps nothing in etcd needs no login there.
        let login = if keeps_keys { self.ensure_login(store, component, &keyspace).await? } else { Vec::new() };
        Ok(Looked { store, login, comparison })
    }

    /// The whole keys that a component wants: those of `config(ctx)` and the launch descriptions of its hosts.
    async fn wanted_keys(
        self: &Arc<Self>,
        component: &Arc<Component>,
        evaluations: &BTreeMap<HostName, Evaluated>,
    ) -> Result<BTreeMap<String, Value>, Problem> {
        let config = self.evaluate_config(component).await.map_err(|error| problem(&error, error.hint()))?;
        let mut keys: BTreeMap<String, Value> =
            config.into_iter().map(|(key, value)| (key, Value { bytes: value.bytes, secret: value.secret })).collect();
        for evaluated in evaluations.values() {
            let Evaluated::Ready(_, evaluation) = evaluated else { continue };
            for launch in &evaluation.launches {
                let bytes = description(&launch.description).map_err(|error| problem(&error, None))?;
                keys.insert(launch.key.clone(), Value { bytes, secret: false });
            }
        }
        Ok(keys)
    }

    /// Adds what is in etcd for hosts that are not looked at in this run: their launch descriptions stay.
    async fn wish(
        &self,
        store: &Store,
        component: &Component,
        keyspace: &Keyspace,
        mut keys: BTreeMap<String, Value>,
        evaluations: &BTreeMap<HostName, Evaluated>,
    ) -> Result<Wish, ConfigError> {
        let looked_at = |host: &HostName| matches!(evaluations.get(host), Some(Evaluated::Ready(..)));
        for host in component.hosts.iter().filter(|host| !looked_at(host)) {
            for entry in store.get(&LaunchDescription::node(keyspace.prefix(), host, "")).await? {
                keys.entry(entry.key).or_insert(Value { bytes: entry.value, secret: false });
            }
        }
        Ok(Wish { component: component.name.clone(), prefixes: keyspace.prefixes.clone(), keys })
    }

    async fn ensure_login(
        &self,
        store: &Store,
        component: &Component,
        keyspace: &Keyspace,
    ) -> Result<Vec<ConfigChange>, DriveError> {
        let password = login_password(&self.keyring, &component.name)?;
        let mode = if self.mode == Mode::Apply { LoginMode::Apply } else { LoginMode::Check };
        let change = store.ensure_login(&component.name, &grants(keyspace), &password, mode).await?;
        Ok(change.into_iter().map(|change| login_change(&change)).collect())
    }

    /// Why a plan cannot compare keys: the store's or one of the component's machines is not there.
    fn why_not_comparable(&self, handle: &StoreHandle, evaluations: &BTreeMap<HostName, Evaluated>) -> Option<String> {
        if let Some((host, why)) = handle.hosts.iter().find_map(|(host, _)| Some((host, self.absent(host)?))) {
            return Some(format!("{host} keeps them, and {why}"));
        }
        let absent = evaluations.iter().find(|(_, evaluated)| matches!(evaluated, Evaluated::Absent));
        absent.map(|(host, _)| format!("{host} is missing"))
    }

    async fn keys_unknown(&self, component: &Component, why: &str) -> Status {
        for host in self.hosts_of(component).into_iter().take(1) {
            if self.absent(&host).is_none() {
                let why = format!("its keys in etcd cannot be compared: {why}");
                let component = component.name.clone();
                self.ledger.unknown(&host);
                self.events.send(RunEvent::ComponentUnknown { component, host, why }).await;
            }
        }
        Status::Unknown
    }

    /// After a store component is deployed: authentication on, then its own keys.
    pub(super) async fn open_store(self: &Arc<Self>, component: &Arc<Component>) -> Status {
        if self.mode == Mode::Check {
            return self.configure(component, &BTreeMap::new()).await;
        }
        let Some((name, handle)) = self.stores.of_component(&self.inventory, component) else {
            return Status::Unchanged;
        };
        let opened = async {
            let store = handle.store(&self.fleet, &self.inventory).await?;
            store.ensure_auth(LoginMode::Apply).await
        };
        match opened.await {
            Ok(change) => {
                let changes: Vec<_> = change.iter().map(login_change).collect();
                let differed = !changes.is_empty();
                if differed {
                    self.ledger.keys_changed(1);
                    let event = RunEvent::Config { component: component.name.clone(), changes, applied: true };
                    self.events.send(event).await;
                }
                let keys = self.configure(component, &BTreeMap::new()).await;
                keys.max(if differed { Status::Changed } else { Status::Unchanged })
            }
            Err(error) => {
                self.component_failed(component, None, store_problem(name, &error)).await;
                Status::Failed
            }
        }
    }

    /// After hosts of a component failed: says so when etcd does not answer any more. Services that start then wait for
    /// it, and a probe that fails knows nothing of that.
    pub(super) async fn look_for_cause(&self, component: &Component) {
        let Some((name, handle)) = self.stores.of_component(&self.inventory, component) else { return };
        if let Some(error) = handle.is_silent().await {
            let mut problem = store_problem(name, &error);
            problem.error = format!("{}; services that start now wait for it", problem.error);
            self.component_failed(component, None, problem).await;
        }
    }
}

/// An error of a store as people see it: what is to be done names the component that provides it.
fn store_problem(store: &ComponentName, error: &ConfigError) -> Problem {
    let hint = if error.is_unreachable() {
        let look = format!("`ovs-cuisine logs INVENTORY component:{store}`");
        Some(format!("see why {store} does not run: {look}; then deploy again: it goes on from what is there"))
    } else {
        error.hint()
    };
    problem(error, hint)
}

/// What a component's login may do.
fn grants(keyspace: &Keyspace) -> Vec<Grant> {
    let reads = keyspace.prefixes.iter().chain(&keyspace.reads);
    // One permission for each range: writing includes reading.
    let reads = reads.filter(|key| !keyspace.writes.contains(key)).map(Grant::read);
    let mut grants: Vec<Grant> = reads.chain(keyspace.writes.iter().map(Grant::write)).collect();
    grants.sort_by(|one, other| one.key.cmp(&other.key));
    grants.dedup_by(|one, other| one.key == other.key);
    grants
}

fn description(description: &LaunchDescription) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = serde_json::to_vec_pretty(description)?;
    bytes.push(b'\n');
    Ok(bytes)
}

pub(super) fn key_changes(comparison: &Comparison) -> Vec<ConfigChange> {
    let shown = |change: &crate::control::config::KeyChange| ConfigChange {
        key: change.key.clone(),
        action: change.action,
        before: change.before.clone(),
        after: change.after.clone(),
    };
    comparison.changes().iter().map(shown).collect()
}

fn login_change(change: &crate::control::config::AuthChange) -> ConfigChange {
    ConfigChange {
        key: format!("login {}", change.user),
        action: if change.action == Action::Create { Action::Create } else { Action::Modify },
        before: None,
        after: Some(change.details.join(", ")),
    }
}

/// The lab's only store, without a run: for looking into it, and for changing a key by hand.
pub async fn store_of(
    fleet: &Arc<Fleet>,
    inventory: &Inventory,
    library: &Library,
    keyring: &Arc<Keyring>,
) -> Result<Arc<Store>, DriveError> {
    let addresses = addresses(inventory);
    let mut bound = HashMap::new();
    for component in inventory.components.values() {
        let recipe = library.load(&component.recipe)?;
        if recipe.has_store() {
            let params = recipe.bind(component, inventory.directory())?;
            bound.insert(component.name.clone(), Arc::new(Bound { recipe, params, keyspace: Keyspace::default() }));
        }
    }
    let stores = Stores::of(inventory, keyring, &bound, &addresses)?;
    let handle = stores.0.values().next().ok_or(DriveError::NoStoreAtAll)?;
    Ok(Arc::clone(handle.store(fleet, inventory).await?))
}
