//! A whole run: containers, connections, recipes, the graph of components, and the summary.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::AtomicBool},
};

use futures::future::join_all;
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{
    DriveError, Events, Fleet,
    component::{Preparation, look_at, run_component},
    containers::{self, ContainerReport},
    error::problem,
    fleet::DEFAULT_JOBS,
    graph::run_graph,
    holdings::Wishes,
    leaving::Departures,
    ledger::Ledger,
    ports::PortBook,
    push::PushTally,
    sources::Sources,
    store::Stores,
};
use crate::{
    control::{
        event::{HostPhase, RunEvent, RunKind, Status, Summary},
        inventory::{Access, Component, Host, Inventory},
        lab::ContainerStatus,
        link::Keyring,
        recipe::{Keyspace, Library, Params, Recipe, RecipeError, Scene},
    },
    plan::{ComponentName, HostName},
    wire::Mode,
};

/// What is known of addresses before anything runs.
pub(super) static NO_IPS: BTreeMap<HostName, IpAddr> = BTreeMap::new();

/// What a run is to do.
pub struct Request {
    /// The lab.
    pub inventory: Arc<Inventory>,
    /// Its recipes.
    pub library: Arc<Library>,
    /// Recipes by component that do not come from the library: a one-line expression.
    pub recipes: HashMap<ComponentName, Arc<Recipe>>,
    /// What people call it.
    pub kind: RunKind,
    /// Which components take part, in any order; none for `up`.
    pub components: Vec<Arc<Component>>,
    /// Which hosts take part.
    pub hosts: Vec<HostName>,
    /// Whether to stop at the diff.
    pub mode: Mode,
    /// Which part of its recipes it runs.
    pub scope: Scope,
    /// Components whose services are not to run.
    pub safe: HashSet<ComponentName>,
    /// Whether containers and components that the inventory no longer has are removed. For runs of the whole lab.
    pub prune: bool,
    /// At most so many hosts at once.
    pub jobs: Option<usize>,
    /// Where caches live; none when there is no such place.
    pub cache: Option<PathBuf>,
    /// The lab's containers, when somebody looked at them just before: the engine is not asked again for their addresses.
    pub containers: Option<Vec<ContainerStatus>>,
}

/// Which part of its components' recipes a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything: containers, keys, steps and probes.
    Whole,
    /// The keys in etcd only.
    Keys,
    /// The probes only, on running hosts, without waiting for what is not ready yet.
    Health,
    /// On running hosts only: trees, and what reacts to their change.
    Push {
        /// Go on with every later change of the trees until the run is cancelled.
        watch: bool,
        /// Go back to the release before, where trees have releases.
        rollback: bool,
    },
}

/// A component's recipe with its parameters bound.
pub(super) struct Bound {
    pub(super) recipe: Arc<Recipe>,
    pub(super) params: Params,
    /// What the component has in etcd.
    pub(super) keyspace: Keyspace,
}

/// What the tasks of one run share.
pub(super) struct Crew {
    pub(super) inventory: Arc<Inventory>,
    pub(super) keyring: Arc<Keyring>,
    pub(super) fleet: Arc<Fleet>,
    pub(super) sources: Arc<Sources>,
    pub(super) events: Events,
    pub(super) ledger: Ledger,
    pub(super) stores: Stores,
    pub(super) mode: Mode,
    pub(super) scope: Scope,
    safe: HashSet<ComponentName>,
    pub(super) prune: bool,
    /// What is left to do for hosts that left components.
    pub(super) departures: Mutex<Departures>,
    /// What recipes ask for that hosts keep record of.
    pub(super) wishes: Wishes,
    /// Which services listen on what.
    pub(super) ports: PortBook,
    /// What the running push has brought so far.
    pub(super) pushed: PushTally,
    /// Whether hosts may rely on what they kept of a tree since the push before.
    pub(super) follows: AtomicBool,
    pub(super) cancel: CancellationToken,
    /// Hosts that are worked on at once.
    pub(super) permits: Semaphore,
    hosts: HashSet<HostName>,
    bound: HashMap<ComponentName, Arc<Bound>>,
    /// How preparing hosts for a component went; filled once, by whoever comes first.
    pub(super) prepared: HashMap<ComponentName, OnceCell<Preparation>>,
    /// Parameters of all components, as recipes see them.
    pub(super) params: BTreeMap<ComponentName, Params>,
    pub(super) addresses: BTreeMap<HostName, String>,
    /// The same as numbers; looked up when the containers run.
    pub(super) ips: OnceLock<BTreeMap<HostName, IpAddr>>,
    /// The containers as they were seen before the run.
    seen: Option<Vec<ContainerStatus>>,
    absent: Mutex<HashMap<HostName, String>>,
    benched: Mutex<HashSet<HostName>>,
}

/// Runs a request. What goes wrong on hosts is in the events and in the summary; an error means that the run could
/// not begin and that nothing was changed on any host.
pub async fn run(request: Request, events: Events, cancel: CancellationToken) -> Result<Summary, DriveError> {
    let kind = request.kind;
    let components = request.components.clone();
    let hosts = request.hosts.clone();
    let crew = Arc::new(Crew::prepare(request, events.clone(), cancel.clone())?);
    let lab = crew.inventory.lab.name.clone();
    let names = components.iter().map(|component| component.name.clone()).collect();
    events.send(RunEvent::RunStarted { kind, lab, hosts: hosts.clone(), components: names }).await;
    let over = CancellationToken::new();
    let telling = tokio::spawn({
        let (fleet, events, over) = (Arc::clone(&crew.fleet), events.clone(), over.clone());
        async move { fleet.meters().tell(&events, &over).await }
    });
    let ended = crew.run(&components, &hosts).await;
    let last = Arc::clone(&crew);
    // What goes wrong there is no failure of the run.
    let written = tokio::task::spawn_blocking(move || last.write_down());
    let _ = tokio::join!(crew.fleet.close(), written);
    over.cancel();
    // Its last words come before the summary; that it panicked is no failure of the run.
    let _ = telling.await;
    ended?;
    let summary = crew.ledger.summary(kind, cancel.is_cancelled(), crew.fleet.meters());
    events.send(RunEvent::RunFinished(summary.clone())).await;
    Ok(summary)
}

impl Crew {
    /// Loads every recipe and binds every parameter, so that bad input stops the run before anything is touched.
    fn prepare(request: Request, events: Events, cancel: CancellationToken) -> Result<Self, DriveError> {
        let Request {
            inventory, library, mut recipes, components, hosts, mode, scope, safe, prune, jobs, cache, ..
        } = request;
        let keyring = super::open_keyring(&inventory)?;
        let addresses = addresses(&inventory);
        let loaded = load(&inventory, &library, &mut recipes, &components)?;
        let params: BTreeMap<_, _> =
            loaded.iter().map(|(component, _, params)| (component.name.clone(), params.clone())).collect();
        let mut bound = HashMap::new();
        for (component, recipe, own) in loaded {
            let scene = Scene {
                inventory: &inventory,
                component: &component,
                params: &own,
                addresses: &addresses,
                ips: &NO_IPS,
                components: &params,
                keyspace: &Keyspace::default(),
                leaving: &[],
            };
            let keyspace = recipe.keyspace(&scene)?;
            bound.insert(component.name.clone(), Arc::new(Bound { recipe, params: own, keyspace }));
        }
        let sources = Arc::new(Sources::new(cache, hosts.len() > 1));
        let fleet = Fleet::new(Arc::clone(&inventory), Arc::clone(&keyring), events.clone(), jobs, cancel.clone());
        let ledger = ledger(&hosts, &components);
        let stores = Stores::of(&inventory, &keyring, &bound, &addresses)?;
        stores.check(&inventory, &components, &bound)?;
        Ok(Self {
            inventory,
            keyring,
            fleet: Arc::new(fleet),
            sources,
            events,
            ledger,
            stores,
            mode,
            scope,
            safe,
            prune,
            departures: Mutex::default(),
            wishes: Wishes::default(),
            ports: PortBook::default(),
            pushed: PushTally::default(),
            follows: AtomicBool::new(false),
            cancel,
            permits: Semaphore::new(jobs.unwrap_or(DEFAULT_JOBS).max(1)),
            hosts: hosts.into_iter().collect(),
            prepared: components.iter().map(|component| (component.name.clone(), OnceCell::new())).collect(),
            bound,
            params,
            addresses,
            ips: OnceLock::new(),
            seen: request.containers,
            absent: Mutex::default(),
            benched: Mutex::default(),
        })
    }

    /// Begins to scan the trees that components asked for the last time: connecting takes longer.
    pub(super) fn foresee_trees(&self, components: &[Arc<Component>]) {
        for component in components {
            for key in self.sources.usual(self.inventory.directory(), &component.name).trees() {
                let sources = Arc::clone(&self.sources);
                tokio::task::spawn_blocking(move || sources.foresee(&key));
            }
        }
    }

    /// Writes down what later runs are quicker with. Blocks.
    fn write_down(&self) {
        for (component, trees) in self.sources.asked() {
            self.sources.usual(self.inventory.directory(), &component).remember(&trees);
        }
        self.sources.write_down();
    }

    async fn run(self: &Arc<Self>, components: &[Arc<Component>], hosts: &[HostName]) -> Result<(), DriveError> {
        if let Scope::Push { watch, .. } = self.scope {
            self.look_up_addresses().await;
            return self.push(components, watch).await;
        }
        if self.scope == Scope::Health {
            self.look_up_addresses().await;
            self.probe_all(components, hosts).await;
            return Ok(());
        }
        self.foresee_trees(components);
        self.foresee_ports(components).await?;
        let containers = match self.mode {
            Mode::Check => {
                containers::compare(&self.fleet, &self.inventory, &self.keyring, hosts, &self.events).await?
            }
            Mode::Apply => containers::ensure(&self.fleet, &self.inventory, &self.keyring, hosts, &self.events).await?,
        };
        self.ledger.containers_changed(containers.changed);
        lock(&self.absent).extend(containers.absent.iter().cloned());
        for (host, error) in &containers.failed {
            self.ledger.host_failed(host, Status::Failed);
            self.put_on_bench(host);
            let phase = HostPhase::Lost { problem: problem(error, error.hint()) };
            self.events.send(RunEvent::Host { host: host.clone(), phase }).await;
        }
        let present = hosts.iter().filter(|host| self.absent(host).is_none() && !self.is_benched(host));
        join_all(present.map(|host| self.reach(host))).await;
        self.clean_up(&containers).await?;
        self.look_up_addresses().await;
        self.preflight(components).await?;
        let prepared = self.prepare_hosts(components);
        let ended = run_graph(components, &self.cancel, |component| run_component(Arc::clone(self), component));
        let ((), ended) = tokio::join!(prepared, ended);
        for component in components {
            if ended.get(&component.name) == Some(&Status::NotAttempted) {
                self.not_attempted(component).await;
            }
        }
        self.clear_away(&ended).await;
        Ok(())
    }

    /// Says that a component was never begun.
    pub(super) async fn not_attempted(&self, component: &Component) {
        let (status, healthy, millis) = (Status::NotAttempted, None, 0);
        self.ledger.component(&component.name, status, healthy, millis);
        self.events.send(RunEvent::ComponentFinished { component: component.name.clone(), status, millis }).await;
    }

    /// Probes components on hosts that run, and changes nothing.
    async fn probe_all(self: &Arc<Self>, components: &[Arc<Component>], hosts: &[HostName]) {
        join_all(hosts.iter().map(|host| self.reach(host))).await;
        join_all(components.iter().map(|component| look_at(Arc::clone(self), Arc::clone(component)))).await;
    }

    /// Finds the numeric addresses of hosts. One that has none is told nowhere: a recipe that needs it says so.
    async fn look_up_addresses(&self) {
        let mut found = BTreeMap::new();
        for host in self.inventory.hosts.values() {
            if let Access::Ssh(access) = &host.access
                && let Ok(mut all) = tokio::net::lookup_host((access.address.as_str(), access.port)).await
                && let Some(first) = all.next()
            {
                found.insert(host.name.clone(), first.ip());
            }
        }
        let containers = match &self.seen {
            Some(seen) => Ok(seen.clone()),
            None => containers::ps(&self.fleet, &self.inventory).await,
        };
        match containers {
            Ok(containers) => found.extend(containers::addresses(containers)),
            Err(error) => tracing::debug!("addresses of containers: {}", super::error::chain(&error)),
        }
        // Once for a run: keys must not change while it goes on.
        let _ = self.ips.set(found);
    }

    pub(super) async fn reach(&self, host: &HostName) {
        match self.fleet.session(host).await {
            Ok(session) => self.ledger.messages(host, session.messages()),
            Err(error) => {
                let interrupted = self.cancel.is_cancelled();
                tracing::debug!(%host, "not reached: {}", super::error::chain(&*error));
                self.ledger.host_failed(host, if interrupted { Status::Interrupted } else { Status::Unreachable });
            }
        }
    }

    async fn clean_up(&self, containers: &ContainerReport) -> Result<(), DriveError> {
        containers::remove_created(&self.fleet, &self.inventory, &containers.created, &self.events).await
    }

    /// Whether a host is one of this run's.
    pub(super) fn is_in_run(&self, host: &HostName) -> bool {
        self.hosts.contains(host)
    }

    /// Whether a component is one of this run's.
    pub(super) fn takes_part(&self, component: &ComponentName) -> bool {
        self.prepared.contains_key(component)
    }

    /// Hosts of a component that take part in this run, in inventory order.
    pub(super) fn hosts_of(&self, component: &Component) -> Vec<HostName> {
        component.hosts.iter().filter(|host| self.hosts.contains(*host)).cloned().collect()
    }

    /// Whether a component's services are not to run.
    pub(super) fn is_safe(&self, component: &Component) -> bool {
        self.safe.contains(&component.name)
    }

    pub(super) fn is_store(&self, component: &Component) -> bool {
        self.bound.get(&component.name).is_some_and(|bound| bound.recipe.has_store())
    }

    pub(super) fn bound(&self, component: &ComponentName) -> Option<Arc<Bound>> {
        self.bound.get(component).cloned()
    }

    /// Why a host does not exist yet, in plan.
    pub(super) fn absent(&self, host: &HostName) -> Option<String> {
        lock(&self.absent).get(host).cloned()
    }

    /// Hosts that do not exist yet, in plan.
    pub(super) fn absentees(&self) -> BTreeSet<HostName> {
        lock(&self.absent).keys().cloned().collect()
    }

    pub(super) fn is_benched(&self, host: &HostName) -> bool {
        lock(&self.benched).contains(host)
    }

    pub(super) fn put_on_bench(&self, host: &HostName) {
        lock(&self.benched).insert(host.clone());
    }

    /// Every host gets another chance: the next change of a watched tree.
    pub(super) fn clear_bench(&self) {
        lock(&self.benched).clear();
    }
}

/// A component, its recipe, and its parameters bound.
type Loaded = (Arc<Component>, Arc<Recipe>, Params);

/// The recipes of a run's components, and of all others of the lab, with their parameters bound. Stores are looked up in
/// the whole inventory: `--only` must not hide the one that a component writes to. Whatever is wrong with parameters is
/// told at once; of builds, only those of the run's components need be there.
fn load(
    inventory: &Inventory,
    library: &Library,
    given: &mut HashMap<ComponentName, Arc<Recipe>>,
    components: &[Arc<Component>],
) -> Result<Vec<Loaded>, DriveError> {
    let is_new = |component: &&Component| components.iter().all(|known| known.name != component.name);
    let others = inventory.components.values().filter(is_new).map(|component| Arc::new(component.clone()));
    let (mut loaded, mut wrong) = (Vec::new(), Vec::new());
    for (place, component) in components.iter().cloned().chain(others).enumerate() {
        let recipe = match given.remove(&component.name) {
            Some(recipe) => recipe,
            None => library.load(&component.recipe)?,
        };
        let bound = recipe.bind(&component, inventory.directory()).and_then(|params| {
            if place < components.len() {
                recipe.check_layouts(&component, &params)?;
            }
            Ok(params)
        });
        match bound {
            Ok(params) => loaded.push((component, recipe, params)),
            Err(error) => wrong.push(error),
        }
    }
    match RecipeError::joined(wrong) {
        Some(error) => Err(error.into()),
        None => Ok(loaded),
    }
}

/// The account of a run, with each component's hosts that take part.
fn ledger(hosts: &[HostName], components: &[Arc<Component>]) -> Ledger {
    let of_components = |component: &Arc<Component>| {
        let hosts = component.hosts.iter().filter(|host| hosts.contains(host)).cloned().collect();
        (component.name.clone(), hosts)
    };
    Ledger::new(hosts, &components.iter().map(of_components).collect::<Vec<_>>())
}

/// Where hosts find each other: containers by their name on the lab's network, others by their SSH address.
pub(super) fn addresses(inventory: &Inventory) -> BTreeMap<HostName, String> {
    let address = |host: &Host| match &host.access {
        Access::Container(_) => host.name.to_string(),
        Access::Ssh(access) => access.address.clone(),
    };
    inventory.hosts.values().map(|host| (host.name.clone(), address(host))).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
