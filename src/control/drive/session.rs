//! One host from hello to goodbye: its link, its helper, and the requests that share the channel.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc},
    task::{AbortHandle, JoinHandle},
};
use tokio_util::sync::CancellationToken;

use super::{
    HostError,
    ahead::{HostMemory, manifests, places},
    meter::{Meter, Said},
    sources::Sources,
};
use crate::{
    control::{
        event::Transfer,
        link::{HelperProgram, HelperReceiver, HelperSender, Link, Stream, Target},
    },
    plan::{Answer, Facts, Holding, LabName, Offer, OpFailure, Outcome, Plan, Question, StepId, Tally},
    tree::{Care, Demand, Digest, Supply},
    wire::{FromHelper, MAX_SUPPLIES, Mode, NearHello, PROTOCOL, StepEvent, StepReport, ToHelper},
};

/// Messages of one request that may wait: the helper batches its reports, so a few suffice.
const INBOX: usize = 64;
/// Supply messages between the reader of files and the channel: 16 × 256 KiB is the promised 4 MiB in flight.
const SUPPLIES_IN_FLIGHT: usize = 16;
/// A copy of so many bytes keeps the host busy for a while.
const LONG_COPY: u64 = 1024 * 1024;
/// How long the helper may take to answer questions; its own per-command limits are shorter.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// After a cancel the helper must end the plan within this time, else the session counts as lost.
pub(super) const CANCEL_DEADLINE: Duration = Duration::from_millis(1500);
/// How long a plan waits for another run to let go of the host.
const LOCK_WAIT: Duration = Duration::from_secs(30);

pub(super) enum Inbound {
    Steps(Vec<StepReport>),
    Demand(Demand),
    Answers(Vec<Answer>),
    Done(Tally),
    Offered(Result<Offer, OpFailure>),
    Supply(Supply),
}

type Requests = Arc<Mutex<Routes>>;

#[derive(Default)]
struct Routes {
    open: HashMap<u32, mpsc::Sender<Inbound>>,
    /// Why the channel ended, once it has.
    lost: Option<Arc<str>>,
}

/// One host whose helper answers. Dropping it ends the helper.
pub struct HostSession {
    link: Link,
    facts: Arc<Facts>,
    /// What components of labs had there when it was connected to.
    holdings: Vec<Holding>,
    memory: Arc<HostMemory>,
    meter: Arc<Meter>,
    sender: HelperSender,
    routes: Requests,
    next_request: AtomicU32,
    /// The helper runs one plan at a time; a second one waits here, not on the wire.
    plan_turn: AsyncMutex<()>,
    receiving: AbortHandle,
    ended: CancellationToken,
    millis: u64,
}

impl Drop for HostSession {
    fn drop(&mut self) {
        self.receiving.abort();
    }
}

/// How a plan ended on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanEnd {
    /// How many steps ended in which way.
    pub tally: Tally,
    /// Whether it was cancelled before its end.
    pub cancelled: bool,
}

impl HostSession {
    /// Connects, places the helper when it is missing and starts it. `ready_within` is for machines that are still
    /// starting: refused and reset connections are tried again until then. `meter` counts what
    /// travels, the helper included.
    pub(super) async fn open(
        target: Arc<Target>,
        ready_within: Option<Duration>,
        lab: &LabName,
        owner: &str,
        meter: Arc<Meter>,
    ) -> Result<Self, HostError> {
        let started = Instant::now();
        let link = match ready_within {
            Some(deadline) => Link::connect_when_ready(target, deadline).await?,
            None => Link::connect(target).await?,
        };
        let hello = NearHello {
            protocol: PROTOCOL,
            owner: owner.to_owned(),
            lock_wait_ms: u64::try_from(LOCK_WAIT.as_millis()).unwrap_or(u64::MAX),
            lab: lab.clone(),
        };
        let program = HelperProgram::embedded()?;
        let channel = link.start_helper(&program, hello, |bytes| meter.placing(bytes, program.size())).await?;
        let facts = Arc::new(channel.facts().clone());
        let memory = Arc::new(HostMemory::of(&channel.hello().trees));
        let holdings = channel.hello().holdings.clone();
        let (sender, receiver) = channel.split();
        meter.attach(sender.gauge());
        let routes = Requests::default();
        let ended = CancellationToken::new();
        let receiving = tokio::spawn({
            let (routes, guard) = (Arc::clone(&routes), ended.clone().drop_guard());
            async move {
                route(receiver, routes).await;
                drop(guard);
            }
        });
        let receiving = receiving.abort_handle();
        Ok(Self {
            link,
            facts,
            holdings,
            memory,
            meter,
            sender,
            routes,
            next_request: AtomicU32::new(1),
            plan_turn: AsyncMutex::new(()),
            receiving,
            ended,
            millis: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// What has travelled to the host so far.
    pub(super) fn transfer(&self) -> Transfer {
        self.meter.total()
    }

    /// What the host is.
    pub fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }

    /// What components of labs had there when it was connected to, as the host has recorded it.
    pub(super) fn holdings(&self) -> &[Holding] {
        &self.holdings
    }

    /// From dialling to hello in milliseconds.
    pub fn millis(&self) -> u64 {
        self.millis
    }

    /// Comes back when the helper or the connection has ended.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Whether the helper and the connection are there, as far as is known.
    pub(super) fn is_alive(&self) -> bool {
        !self.ended.is_cancelled()
    }

    /// Messages sent and received over the helper channel so far.
    pub fn messages(&self) -> u64 {
        let traffic = self.sender.traffic();
        traffic.sent_messages + traffic.received_messages
    }

    /// A stream to a port that the host can reach.
    pub async fn tunnel(&self, host: &str, port: u16) -> Result<Box<dyn Stream>, HostError> {
        Ok(self.link.tunnel(host, port).await?)
    }

    /// Asks read-only questions; answers come in order.
    pub async fn ask(&self, questions: Vec<Question>) -> Result<Vec<Answer>, HostError> {
        let count = questions.len();
        let (request, mut inbox) = self.register()?;
        self.sender.send(&ToHelper::Ask { request, questions }).await?;
        let answer = tokio::time::timeout(ANSWER_DEADLINE, inbox.recv()).await;
        self.unregister(request);
        match answer {
            Err(_) => Err(HostError::Silent { seconds: ANSWER_DEADLINE.as_secs() }),
            Ok(Some(Inbound::Answers(answers))) if answers.len() == count => Ok(answers),
            Ok(Some(_)) => Err(HostError::Protocol("answers do not fit the questions")),
            Ok(None) => Err(self.lost()),
        }
    }

    /// Checks or applies a plan. `care` says how closely the host looks at synced directories. `on_reports` sees what happens to its steps, in order.
    pub(super) async fn run_plan<'r>(
        &self,
        plan: Plan,
        mode: Mode,
        care: Care,
        sources: &Arc<Sources>,
        cancel: &CancellationToken,
        mut on_reports: impl FnMut(Vec<StepReport>) -> BoxFuture<'r, ()> + Send,
    ) -> Result<PlanEnd, HostError> {
        let _turn = self.plan_turn.lock().await;
        let (request, mut inbox) = self.register()?;
        let guard = RequestGuard { session: self, request };
        let _metered = PlanGuard(&self.meter);
        let places = places(&plan);
        let lists = manifests(&plan);
        let plan = if places.is_empty() { plan } else { self.send_ahead(request, mode, care, plan, sources).await? };
        self.sender.send(&ToHelper::Plan { request, mode, plan }).await?;
        let mut supplying: Option<JoinHandle<()>> = None;
        let mut cancelled = false;
        let deadline = tokio::time::sleep(Duration::MAX);
        tokio::pin!(deadline);
        let end = loop {
            tokio::select! {
                () = cancel.cancelled(), if !cancelled => {
                    cancelled = true;
                    self.sender.send(&ToHelper::Cancel { request }).await?;
                    deadline.as_mut().reset(tokio::time::Instant::now() + CANCEL_DEADLINE);
                }
                () = &mut deadline => break Err(HostError::Silent { seconds: CANCEL_DEADLINE.as_secs() }),
                inbound = inbox.recv() => match inbound {
                    None => break Err(self.lost()),
                    Some(Inbound::Steps(reports)) => {
                        if mode == Mode::Apply {
                            self.learn(&places, &reports, sources);
                        }
                        if reports.iter().any(|report| matches!(report.event, StepEvent::Finished { .. })) {
                            self.meter.step_ended();
                        }
                        on_reports(reports).await;
                    }
                    Some(Inbound::Demand(demand)) => {
                        if let Some(previous) = supplying.take() {
                            previous.abort();
                        }
                        supplying = Some(self.supply(request, demand, &lists, Arc::clone(sources)));
                    }
                    Some(Inbound::Done(tally)) => break Ok(PlanEnd { tally, cancelled }),
                    Some(Inbound::Answers(_)) => break Err(HostError::Protocol("answers to a plan")),
                    Some(Inbound::Offered(_) | Inbound::Supply(_)) => {
                        break Err(HostError::Protocol("an offer in answer to a plan"));
                    }
                },
            }
        };
        if let Some(supplying) = supplying {
            supplying.abort();
        }
        self.meter.plan_ended(matches!(end, Ok(PlanEnd { cancelled: false, .. })));
        drop(guard);
        end
    }

    /// Sends what the host probably lacks of a plan's trees; gives the plan back.
    async fn send_ahead(
        &self,
        request: u32,
        mode: Mode,
        care: Care,
        plan: Plan,
        sources: &Arc<Sources>,
    ) -> Result<Plan, HostError> {
        let (sources, memory) = (Arc::clone(sources), Arc::clone(&self.memory));
        let guess = move || (sources.ahead(&plan, &memory, mode, care), plan);
        let (ahead, plan) = match tokio::task::spawn_blocking(guess).await {
            Ok(guessed) => guessed,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        if !ahead.is_empty() {
            let message = ToHelper::Ahead { request, ahead };
            let count = |framed| {
                if let ToHelper::Ahead { ahead, .. } = &message {
                    self.meter.ahead(ahead, framed);
                }
            };
            self.sender.send_counted(&message, count).await?;
        }
        Ok(plan)
    }

    /// Takes note of the trees that a plan has just made equal to their sources.
    fn learn(&self, places: &HashMap<StepId, (String, Digest)>, reports: &[StepReport], sources: &Arc<Sources>) {
        let is_made = |event: &StepEvent| matches!(event, StepEvent::Finished { outcome: Outcome::Changed, .. });
        let made = reports.iter().filter(|report| is_made(&report.event));
        let made: Vec<_> = made.filter_map(|report| places.get(&report.step).cloned()).collect();
        for (_, manifest) in &made {
            let (sources, manifest) = (Arc::clone(sources), *manifest);
            tokio::task::spawn_blocking(move || sources.delivered(manifest));
        }
        self.memory.learn(made);
    }

    /// Sends a message to the helper.
    pub(super) async fn send(&self, message: &ToHelper) -> Result<(), HostError> {
        Ok(self.sender.send(message).await?)
    }

    /// Says goodbye: the helper ends. The link closes when the last owner of the session is gone.
    pub async fn close(self: Arc<Self>) {
        // The helper also ends when the channel does; this only spares it an error.
        let _ = self.sender.send(&ToHelper::Bye).await;
    }

    fn supply(&self, request: u32, demand: Demand, lists: &HashSet<Digest>, sources: Arc<Sources>) -> JoinHandle<()> {
        self.meter.demanded(&demand, lists);
        let (parts, mut outbox) = mpsc::channel::<Vec<Supply>>(SUPPLIES_IN_FLIGHT);
        let reader = tokio::task::spawn_blocking(move || {
            let mut bundle = Vec::new();
            let send =
                |bundle: &mut Vec<Supply>| parts.blocking_send(std::mem::take(bundle)).map_err(std::io::Error::other);
            sources.answer(&demand, &mut |supply| {
                let is_work = gives_work(&supply);
                bundle.push(supply);
                if is_work || bundle.len() == MAX_SUPPLIES { send(&mut bundle) } else { Ok(()) }
            })?;
            if bundle.is_empty() { Ok(()) } else { send(&mut bundle) }
        });
        let (sender, meter) = (self.sender.clone(), Arc::clone(&self.meter));
        tokio::spawn(async move {
            while let Some(supplies) = outbox.recv().await {
                let said: Vec<Said> = supplies.iter().map(Said::by).collect();
                let message = ToHelper::Supplies { request, supplies };
                if sender.send_counted(&message, |framed| meter.supplied(&said, framed)).await.is_err() {
                    // The router sees the loss too and says why.
                    return;
                }
            }
            if let Ok(Err(error)) = reader.await {
                let supply = Supply::Gone { why: error.to_string() };
                let _ = sender.send(&ToHelper::Supply { request, supply }).await;
            }
        })
    }

    fn register(&self) -> Result<(u32, mpsc::Receiver<Inbound>), HostError> {
        self.register_for(INBOX)
    }

    /// Opens a request of which so many messages may wait.
    pub(super) fn register_for(&self, messages: usize) -> Result<(u32, mpsc::Receiver<Inbound>), HostError> {
        let request = self.next_request.fetch_add(1, Ordering::Relaxed);
        let (sender, inbox) = mpsc::channel(messages);
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = &routes.lost {
            return Err(HostError::Lost { why: why.to_string() });
        }
        routes.open.insert(request, sender);
        Ok((request, inbox))
    }

    pub(super) fn unregister(&self, request: u32) {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).open.remove(&request);
    }

    pub(super) fn lost(&self) -> HostError {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let why = routes.lost.as_deref().unwrap_or("the helper ended").to_owned();
        HostError::Lost { why }
    }
}

/// Whether a message is worth a frame: it carries much, or has the host copy much.
fn gives_work(supply: &Supply) -> bool {
    matches!(supply, Supply::Copy { len, .. } if *len >= LONG_COPY) || supply.is_packed()
}

/// Forgets a request however its future ends.
pub(super) struct RequestGuard<'a> {
    pub(super) session: &'a HostSession,
    pub(super) request: u32,
}

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        self.session.unregister(self.request);
    }
}

/// Ends what a plan's meter counts, also of a plan that nobody waits for any more.
struct PlanGuard<'a>(&'a Meter);

impl Drop for PlanGuard<'_> {
    fn drop(&mut self) {
        self.0.plan_ended(false);
    }
}

/// Gives each message to the request it belongs to, until the channel ends.
async fn route(mut receiver: HelperReceiver, routes: Requests) {
    let why = loop {
        let (request, inbound) = match receiver.recv().await {
            Ok(Some(FromHelper::Steps { request, reports })) => (request, Inbound::Steps(reports)),
            Ok(Some(FromHelper::Demand { request, demand })) => (request, Inbound::Demand(demand)),
            Ok(Some(FromHelper::Done { request, tally })) => (request, Inbound::Done(tally)),
            Ok(Some(FromHelper::Answers { request, answers })) => (request, Inbound::Answers(answers)),
            Ok(Some(FromHelper::Offered { request, offer })) => (request, Inbound::Offered(offer)),
            Ok(Some(FromHelper::Supply { request, supply })) if supply.is_bounded() => {
                (request, Inbound::Supply(supply))
            }
            Ok(Some(FromHelper::Supply { .. })) => {
                break "the host sent more content at once than is allowed".to_owned();
            }
            Ok(Some(FromHelper::Fault { why })) => break format!("the helper gave up: {why}"),
            Ok(Some(FromHelper::Hello(_))) => break "the helper said hello twice".to_owned(),
            Ok(None) => break "the helper ended".to_owned(),
            Err(error) => break super::error::chain(&error),
        };
        let inbox = routes.lock().unwrap_or_else(PoisonError::into_inner).open.get(&request).cloned();
        // A request that nobody waits for any more (cancelled) still gets its last messages; they are dropped.
        if let Some(inbox) = inbox {
            let _ = inbox.send(inbound).await;
        }
    };
    let mut routes = routes.lock().unwrap_or_else(PoisonError::into_inner);
    routes.lost = Some(why.into());
    routes.open.clear();
}
