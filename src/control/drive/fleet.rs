//! All hosts of a run: each is connected to at most once, when first needed, and a dead one stops no other.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{DriveError, Events, HostError, HostSession, error::problem, meters::Meters, target::target_of};
use crate::{
    control::{
        event::{HostPhase, RunEvent},
        inventory::{Access, Inventory},
        lab::Engine,
        link::{Keyring, Target},
    },
    plan::HostName,
};

/// How long a container that was just started may take until it lets us in.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// How long the engine may take to answer its first call.
pub const ENGINE_DEADLINE: Duration = Duration::from_secs(10);
/// Hosts that are connected to or worked on at once, unless `-j` says otherwise.
pub(super) const DEFAULT_JOBS: usize = 32;

type Connection = Result<Arc<HostSession>, Arc<HostError>>;

/// All hosts of a run.
pub struct Fleet {
    inventory: Arc<Inventory>,
    keyring: Arc<Keyring>,
    engine: OnceCell<Arc<Engine>>,
    connections: HashMap<HostName, Mutex<Arc<OnceCell<Connection>>>>,
    fresh: Mutex<HashSet<HostName>>,
    permits: Semaphore,
    meters: Meters,
    events: Events,
    owner: String,
    cancel: CancellationToken,
}

impl Fleet {
    /// A fleet that is not connected to anything yet. At most `jobs` hosts are connected to at once.
    pub fn new(
        inventory: Arc<Inventory>,
        keyring: Arc<Keyring>,
        events: Events,
        jobs: Option<usize>,
        cancel: CancellationToken,
    ) -> Self {
        let connections = inventory.hosts.keys().map(|host| (host.clone(), Mutex::default())).collect();
        let meters = Meters::of(inventory.hosts.keys());
        Self {
            inventory,
            keyring,
            engine: OnceCell::new(),
            connections,
            fresh: Mutex::default(),
            permits: Semaphore::new(jobs.unwrap_or(DEFAULT_JOBS).max(1)),
            meters,
            events,
            owner: owner(),
            cancel,
        }
    }

    /// The engine that the lab's containers run on.
    pub async fn engine(&self) -> Result<&Arc<Engine>, DriveError> {
        let connect = || async { Ok(Arc::new(Engine::connect(&self.inventory.lab.engine, ENGINE_DEADLINE).await?)) };
        self.engine.get_or_try_init(connect).await
    }

    /// What travels to its hosts.
    pub(super) fn meters(&self) -> &Meters {
        &self.meters
    }

    /// Says that a container was just started: its sshd may need a moment.
    pub(super) fn expect_start(&self, host: &HostName) {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner).insert(host.clone());
    }

    /// The session of a host; connects when this is the first call for it. A failure stays a failure for the run.
    pub async fn session(&self, host: &HostName) -> Connection {
        let Some(cell) = self.cell(host) else { return Err(Arc::new(HostError::NoContainer)) };
        cell.get_or_init(|| self.connect(host)).await.clone()
    }

    /// The session of a host when it is open and alive.
    pub(super) fn living(&self, host: &HostName) -> Option<Arc<HostSession>> {
        match self.cell(host)?.get() {
            Some(Ok(session)) if session.is_alive() => Some(Arc::clone(session)),
            _ => None,
        }
    }

    /// Connects again to a host that was lost, or was never reached; whether it answers now. Says nothing of a failure:
    /// it is one of many attempts.
    pub(super) async fn reconnect(&self, host: &HostName) -> bool {
        let Some(place) = self.connections.get(host) else { return false };
        let session = match self.open(host).await {
            Ok(session) => session,
            Err(error) => {
                tracing::debug!(%host, "not back yet: {}", super::error::chain(&error));
                return false;
            }
        };
        let phase = HostPhase::Ready { facts: Box::new((**session.facts()).clone()), millis: session.millis() };
        *place.lock().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(OnceCell::new_with(Some(Ok(Arc::new(session)))));
        self.events.send(RunEvent::Host { host: host.clone(), phase }).await;
        true
    }

    /// The session of a host that answers, a new one when the first was lost or never came about. Who calls while another
    /// call connects waits for that; it goes on when its callers do not wait any more.
    pub(super) async fn session_again(self: &Arc<Self>, host: &HostName) -> Connection {
        let Some(place) = self.connections.get(host) else { return Err(Arc::new(HostError::NoContainer)) };
        let cell = {
            let mut known = place.lock().unwrap_or_else(PoisonError::into_inner);
            let is_dead = match known.get() {
                Some(Ok(session)) => !session.is_alive(),
                Some(Err(_)) => true,
                None => false,
            };
            if is_dead {
                *known = Arc::default();
            }
            Arc::clone(&known)
        };
        let (fleet, name) = (Arc::clone(self), host.clone());
        let connecting = tokio::spawn(async move {
            let connect = || async { fleet.open(&name).await.map(Arc::new).map_err(Arc::new) };
            cell.get_or_init(connect).await.clone()
        });
        connecting.await.unwrap_or_else(|error| Err(Arc::new(HostError::Lost { why: error.to_string() })))
    }

    fn cell(&self, host: &HostName) -> Option<Arc<OnceCell<Connection>>> {
        Some(Arc::clone(&self.connections.get(host)?.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Sessions that are open now.
    pub fn open_sessions(&self) -> Vec<(HostName, Arc<HostSession>)> {
        let open = self.connections.keys().filter_map(|host| match self.cell(host)?.get() {
            Some(Ok(session)) => Some((host.clone(), Arc::clone(session))),
            _ => None,
        });
        open.collect()
    }

    /// Says goodbye to all hosts.
    pub async fn close(&self) {
        let goodbyes = self.open_sessions().into_iter().map(|(_, session)| session.close());
        // A host that does not answer a goodbye must not hold up the end of the run.
        let _ = tokio::time::timeout(Duration::from_millis(500), futures::future::join_all(goodbyes)).await;
    }

    async fn connect(&self, host: &HostName) -> Connection {
        let _permit = self.permits.acquire().await;
        self.events.send(RunEvent::Host { host: host.clone(), phase: HostPhase::Connecting }).await;
        let opened = tokio::select! {
            opened = self.open(host) => opened,
            () = self.cancel.cancelled() => Err(HostError::Lost { why: "the run was interrupted".to_owned() }),
        };
        let phase = match &opened {
            Ok(session) => HostPhase::Ready { facts: Box::new((**session.facts()).clone()), millis: session.millis() },
            Err(error) => HostPhase::Lost { problem: self.explain(host, error).await },
        };
        self.events.send(RunEvent::Host { host: host.clone(), phase }).await;
        opened.map(Arc::new).map_err(Arc::new)
    }

    /// How to reach a host; a container's address is looked up at the engine each time.
    pub async fn target(&self, host: &HostName) -> Result<Target, DriveError> {
        let definition = self.inventory.hosts.get(host).ok_or_else(|| DriveError::NoContainer(host.clone()))?;
        let endpoint = match &definition.access {
            Access::Container(_) => Some(self.engine().await?.endpoint(&self.inventory.lab.name, host).await?),
            Access::Ssh(_) => None,
        };
        target_of(definition, &self.keyring, endpoint.as_ref())
    }

    async fn open(&self, host: &HostName) -> Result<HostSession, HostError> {
        let target = self.target(host).await.map_err(|error| match error {
            DriveError::NoContainer(_) => HostError::NoContainer,
            error => HostError::NoWay(Box::new(error)),
        })?;
        let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner).contains(host);
        let Some(meter) = self.meters.get(host).map(Arc::clone) else { return Err(HostError::NoContainer) };
        let ready_within = fresh.then_some(READY_DEADLINE);
        let lab = &self.inventory.lab.name;
        let opened = HostSession::open(Arc::new(target), ready_within, lab, &self.owner, Arc::clone(&meter)).await;
        if let Some(of) = meter.placed() {
            let phase = HostPhase::Bootstrapping { bytes: of, of };
            self.events.send(RunEvent::Host { host: host.clone(), phase }).await;
        }
        opened
    }

    /// A container that does not let us in says why in its log.
    async fn explain(&self, host: &HostName, error: &HostError) -> crate::control::event::Problem {
        let mut shown = problem(error, error.hint());
        let is_container =
            self.inventory.hosts.get(host).is_some_and(|host| matches!(host.access, Access::Container(_)));
        if let (true, Some(engine)) = (is_container, self.engine.get()) {
            shown.output_tail = engine.log_tail(&self.inventory.lab.name, host, 20).await.unwrap_or_default();
        }
        shown
    }
}

/// Who holds a host's lock, for people: `alice@laptop, process 4711`.
fn owner() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "somebody".to_owned());
    let machine = rustix::system::uname();
    format!("{user}@{}, process {}", machine.nodename().to_string_lossy(), std::process::id())
}
