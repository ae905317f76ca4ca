//! One component from evaluation to health: keys first, then its hosts, then its probes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use futures::future::{BoxFuture, join_all};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    HostError, HostSession,
    error::{chain, problem},
    evaluate::Part,
    ledger::{elapsed, worst},
    ports::error_of,
    push::{pushed_part, reduced},
    run::{Crew, Scope},
};
use crate::{
    control::{
        event::{HostPhase, Problem, RunEvent, Status, StepProgress},
        inventory::{Component, FailurePolicy},
        recipe::Evaluation,
    },
    plan::{HostName, Op, Outcome, Plan, Tally},
    wire::{Mode, StepEvent, StepReport, Stream},
};

/// What evaluation gave for one host of a component.
pub(super) enum Evaluated {
    /// A plan for a host that answers.
    Ready(Arc<HostSession>, Box<Evaluation>),
    /// Plan mode: the host does not exist yet.
    Absent,
    /// The host failed, or is out of the run.
    Out(Status),
    /// The recipe failed for the host.
    Refused,
}

/// Brings one component to its recipe's state, or in check mode says how it differs.
pub(super) async fn run_component(crew: Arc<Crew>, component: Arc<Component>) -> Status {
    let started = Instant::now();
    let hosts = crew.hosts_of(&component);
    crew.events.send(RunEvent::ComponentStarted { component: component.name.clone(), hosts: hosts.clone() }).await;
    let (status, healthy) = Box::pin(run_parts(&crew, &component, &hosts)).await;
    let millis = elapsed(started);
    crew.ledger.component(&component.name, status, healthy, millis);
    crew.events.send(RunEvent::ComponentFinished { component: component.name.clone(), status, millis }).await;
    status
}

async fn run_parts(crew: &Arc<Crew>, component: &Arc<Component>, hosts: &[HostName]) -> (Status, Option<bool>) {
    let prepared = crew.prepared(component).await;
    let mut evaluations = evaluate_all(crew, component, hosts).await;
    for (host, status) in prepared.iter().filter(|(_, status)| **status >= Status::NotAttempted) {
        evaluations.insert(host.clone(), Evaluated::Out(*status));
    }
    crew.note_plans(&mut evaluations);
    if let Some(error) = error_of(crew.ports.clashes(Some(&component.name))) {
        crew.component_failed(component, None, problem(&error, error.hint())).await;
        return (Status::Failed, None);
    }
    let is_store = crew.is_store(component);
    // A store cannot hold keys before it runs; everything else has its keys before its hosts are touched.
    let mut keys = Status::Unchanged;
    if crew.scope == Scope::Keys {
        return (crew.configure(component, &evaluations).await, None);
    }
    if !is_store && !crew.is_push() {
        if crew.mode == Mode::Apply
            && let Some(status) = stands_in_the_way(&evaluations)
        {
            return (status, None);
        }
        keys = crew.configure(component, &evaluations).await;
        if keys >= Status::NotAttempted {
            return (keys, None);
        }
    }
    let mut statuses = HashMap::new();
    let mut healthy = None;
    for (host, end) in apply_all(crew, component, evaluations).await {
        if let Some(host_healthy) = end.healthy {
            healthy = Some(healthy.unwrap_or(true) && host_healthy);
        }
        let before = prepared.get(&host).copied().unwrap_or(Status::Unchanged);
        statuses.insert(host, end.status.max(before));
    }
    let status = worst(&statuses);
    if status == Status::Failed && !is_store {
        crew.look_for_cause(component).await;
    }
    if is_store && status < Status::NotAttempted && !crew.is_push() {
        keys = crew.open_store(component).await;
    }
    (status.max(keys), healthy)
}

/// Why a component's keys are not even written: its recipe refused a host, or no host of it can be worked on. Services
/// would follow keys whose other half never comes.
fn stands_in_the_way(evaluations: &BTreeMap<HostName, Evaluated>) -> Option<Status> {
    let out = |evaluated: &Evaluated| match evaluated {
        Evaluated::Out(status) => Some(*status),
        Evaluated::Refused => Some(Status::Failed),
        Evaluated::Ready(..) | Evaluated::Absent => None,
    };
    let is_refused = evaluations.values().any(|evaluated| matches!(evaluated, Evaluated::Refused));
    let none_is_left = !evaluations.is_empty() && evaluations.values().all(|evaluated| out(evaluated).is_some());
    let worst = evaluations.values().filter_map(out).max();
    worst.filter(|_| is_refused || none_is_left)
}

async fn evaluate_all(
    crew: &Arc<Crew>,
    component: &Arc<Component>,
    hosts: &[HostName],
) -> BTreeMap<HostName, Evaluated> {
    let one = |host: &HostName| -> BoxFuture<'static, (HostName, Evaluated)> {
        let (crew, component, host) = (Arc::clone(crew), Arc::clone(component), host.clone());
        Box::pin(async move {
            let evaluated = evaluate(&crew, &component, &host).await;
            (host, evaluated)
        })
    };
    join_all(hosts.iter().map(one)).await.into_iter().collect()
}

async fn evaluate(crew: &Arc<Crew>, component: &Arc<Component>, host: &HostName) -> Evaluated {
    if let Some(why) = crew.absent(host) {
        let (component, host_name) = (component.name.clone(), host.clone());
        crew.events.send(RunEvent::ComponentUnknown { component, host: host_name, why }).await;
        crew.ledger.unknown(host);
        return Evaluated::Absent;
    }
    if crew.is_benched(host) {
        return Evaluated::Out(Status::NotAttempted);
    }
    let session = match crew.fleet.session(host).await {
        Ok(session) => session,
        Err(error) => {
            let status = crew.host_lost(component, host, &error);
            return Evaluated::Out(status);
        }
    };
    match crew.evaluate(component, host, &session).await {
        Ok(mut evaluation) => {
            if crew.is_safe(component) {
                evaluation.plan = kept_still(evaluation.plan);
            }
            if crew.is_push() {
                evaluation.plan = pushed_part(evaluation.plan, crew.is_rollback());
                crew.spare(&mut evaluation.plan);
                crew.pushed.planned(&evaluation.plan);
            }
            Evaluated::Ready(session, Box::new(evaluation))
        }
        Err(failure) => {
            crew.component_failed(component, Some(host), failure).await;
            Evaluated::Refused
        }
    }
}

/// How a component ended on one host.
struct HostEnd {
    status: Status,
    healthy: Option<bool>,
}

impl HostEnd {
    fn of(status: Status) -> Self {
        Self { status, healthy: None }
    }
}

async fn apply_all(
    crew: &Arc<Crew>,
    component: &Arc<Component>,
    evaluations: BTreeMap<HostName, Evaluated>,
) -> Vec<(HostName, HostEnd)> {
    let serving = crew.serving(component, &evaluations).await;
    let (first, then): (Vec<_>, Vec<_>) = evaluations.into_iter().partition(|(host, _)| !serving.contains(host));
    // A rolling change stops at the first host that fails: the rest still serve.
    let stop = CancellationToken::new();
    let mut ends = apply_some(crew, component, first, Semaphore::MAX_PERMITS, &stop).await;
    let at_once = component.serial.map_or(Semaphore::MAX_PERMITS, |serial| serial.max(1) as usize);
    ends.extend(apply_some(crew, component, then, at_once, &stop).await);
    ends
}

async fn apply_some(
    crew: &Arc<Crew>,
    component: &Arc<Component>,
    evaluations: Vec<(HostName, Evaluated)>,
    at_once: usize,
    stop: &CancellationToken,
) -> Vec<(HostName, HostEnd)> {
    let turns = Arc::new(Semaphore::new(at_once));
    let stops_rest = component.serial.is_some() || component.on_failure == FailurePolicy::StopAll;
    let work = evaluations.into_iter().map(|(host, evaluated)| -> BoxFuture<'static, (HostName, HostEnd)> {
        let (crew, component) = (Arc::clone(crew), Arc::clone(component));
        let (turns, stop) = (Arc::clone(&turns), stop.clone());
        Box::pin(async move {
            let _turn = turns.acquire().await;
            let end = match evaluated {
                Evaluated::Out(status) => HostEnd::of(status),
                Evaluated::Refused => HostEnd::of(Status::Failed),
                Evaluated::Absent => HostEnd::of(Status::Unknown),
                Evaluated::Ready(..) if stop.is_cancelled() || crew.cancel.is_cancelled() => {
                    HostEnd::of(Status::NotAttempted)
                }
                Evaluated::Ready(session, evaluation) => {
                    apply(&crew, &component, &host, &session, evaluation.plan).await
                }
            };
            if stops_rest && end.status >= Status::NotAttempted {
                stop.cancel();
            }
            (host, end)
        })
    });
    join_all(work).await
}

async fn apply(
    crew: &Arc<Crew>,
    component: &Arc<Component>,
    host: &HostName,
    session: &Arc<HostSession>,
    plan: Plan,
) -> HostEnd {
    let steps = u32::try_from(plan.steps.len()).unwrap_or(u32::MAX);
    crew.events.send(RunEvent::Planned { component: component.name.clone(), host: host.clone(), steps }).await;
    let mut status = run_steps(crew, component, host, session, plan, crew.mode).await;
    if status < Status::NotAttempted {
        // Afterwards: what goes may be needed until then, as an ASD is by whoever moves what it holds elsewhere.
        status = status.max(crew.clear_leftovers(component, host, session).await);
    }
    if status < Status::NotAttempted && crew.mode == Mode::Apply {
        crew.ports.applied(&component.name, host);
    }
    // A push that brought nothing restarted nothing, so there is nothing to probe.
    let is_idle = crew.is_push() && status == Status::Unchanged;
    if status >= Status::NotAttempted || crew.mode == Mode::Check || is_idle || crew.is_safe(component) {
        return HostEnd::of(status);
    }
    match probe(crew, component, host, session).await {
        None => HostEnd::of(status),
        Some(true) => HostEnd { status, healthy: Some(true) },
        Some(false) => HostEnd { status: crew.bench(component, host, Status::Failed), healthy: Some(false) },
    }
}

/// Probes one component on its hosts.
pub(super) async fn look_at(crew: Arc<Crew>, component: Arc<Component>) {
    let one = |host: HostName| {
        let (crew, component) = (&crew, &component);
        async move {
            let Ok(session) = crew.fleet.session(&host).await else { return };
            probe(crew, component, &host, &session).await;
        }
    };
    join_all(crew.hosts_of(&component).into_iter().map(one)).await;
}

/// How long a probe that only looks may wait, in milliseconds: somebody watches.
const GLANCE: u64 = 5000;

fn without_patience(plan: &mut Plan) {
    for step in &mut plan.steps {
        match &mut step.op {
            Op::WaitPort(wait) => wait.timeout_ms = wait.timeout_ms.min(GLANCE),
            Op::Run(run) => run.timeout_ms = run.timeout_ms.min(GLANCE),
            _ => {}
        }
    }
}

/// A plan without what starts services of its own or needs them to run: safe mode puts everything else into place.
fn kept_still(plan: Plan) -> Plan {
    let mut stands_still = false;
    reduced(plan, |step| match &mut step.op {
        Op::ServiceEnsure(service) if service.definition.is_some() => {
            (service.running, service.enabled, stands_still) = (false, false, true);
            true
        }
        // Whatever comes after the first service that stands still may need it.
        Op::WaitPort(_) | Op::Run(_) => !stands_still,
        _ => true,
    })
}

/// Runs the health probes; none when the recipe has none.
async fn probe(
    crew: &Arc<Crew>,
    component: &Arc<Component>,
    host: &HostName,
    session: &Arc<HostSession>,
) -> Option<bool> {
    let plan = match crew.evaluate_part(Part::Health, component, host, session).await {
        Ok(plan) => {
            let mut plan = plan?;
            if crew.scope == Scope::Health {
                without_patience(&mut plan);
            }
            plan
        }
        Err(failure) => {
            crew.component_failed(component, Some(host), failure).await;
            return Some(false);
        }
    };
    let probes = u32::try_from(plan.steps.len()).unwrap_or(u32::MAX);
    let status = run_steps(crew, component, host, session, plan, Mode::Apply).await;
    let healthy = status < Status::NotAttempted;
    let (component, host) = (component.name.clone(), host.clone());
    crew.events.send(RunEvent::Health { component, host, healthy, probes }).await;
    Some(healthy)
}

pub(super) async fn run_steps(
    crew: &Arc<Crew>,
    component: &Arc<Component>,
    host: &HostName,
    session: &Arc<HostSession>,
    plan: Plan,
    mode: Mode,
) -> Status {
    let _permit = crew.permits.acquire().await;
    let titles = plan.clone();
    let failed = AtomicBool::new(false);
    let (steps, has_failed) = (&titles, &failed);
    let show = move |reports: Vec<StepReport>| -> BoxFuture<'_, ()> {
        Box::pin(async move {
            for report in reports {
                has_failed.fetch_or(ends_plan(steps, &report), Ordering::Relaxed);
                forward(crew, component, host, steps, report).await;
            }
        })
    };
    let end = session.run_plan(plan, mode, crew.care(), &crew.sources, &crew.cancel, show).await;
    crew.ledger.messages(host, session.messages());
    match end {
        Ok(end) if end.cancelled => crew.bench(component, host, Status::Interrupted),
        Ok(_) if failed.into_inner() => crew.bench(component, host, Status::Failed),
        Ok(end) => calm(&end.tally),
        Err(error) => {
            let shown = problem(&error, error.hint());
            let phase = HostPhase::Lost { problem: shown };
            crew.events.send(RunEvent::Host { host: host.clone(), phase }).await;
            crew.host_lost(component, host, &error)
        }
    }
}

/// Whether this report is of a failure that is not to be ignored.
fn ends_plan(plan: &Plan, report: &StepReport) -> bool {
    let failed = matches!(report.event, StepEvent::Finished { outcome: Outcome::Failed(_), .. });
    failed && !plan.steps.get(report.step.0 as usize).is_some_and(|step| step.ignore_errors)
}

fn calm(tally: &Tally) -> Status {
    if tally.changed > 0 {
        Status::Changed
    } else if tally.unknown > 0 {
        Status::Unknown
    } else {
        Status::Unchanged
    }
}

async fn forward(
    crew: &Arc<Crew>,
    component: &Arc<Component>,
    host: &HostName,
    plan: &Plan,
    StepReport { step, event }: StepReport,
) {
    // A helper that names a step that the plan does not have is not believed.
    let Some(definition) = plan.steps.get(step.0 as usize) else { return };
    let progress = match event {
        StepEvent::Started => StepProgress::Started,
        StepEvent::Output { .. } if definition.sensitive => return,
        StepEvent::Output { stream, line } => StepProgress::Output { stderr: stream == Stream::Stderr, line },
        StepEvent::Finished { outcome, diff, micros } => {
            crew.ledger.step(host, &outcome);
            if crew.is_push() {
                crew.pushed.step(host, definition, &outcome, diff.as_ref());
            }
            StepProgress::Finished { outcome, diff, micros }
        }
    };
    let event = RunEvent::Step {
        component: component.name.clone(),
        host: host.clone(),
        step,
        title: definition.title(),
        source: definition.source.clone(),
        ignored: definition.ignore_errors,
        progress,
    };
    crew.events.send(event).await;
}

/// How preparing hosts for a component went, by host.
pub(super) type Preparation = HashMap<HostName, Status>;

/// Prepares one host for a component.
async fn prepare(crew: &Arc<Crew>, component: &Arc<Component>, host: &HostName) -> Status {
    if crew.absent(host).is_some() || crew.is_benched(host) {
        return Status::Unchanged;
    }
    // That it cannot be reached is told when its turn comes.
    let Ok(session) = crew.fleet.session(host).await else { return Status::Unchanged };
    match crew.evaluate_part(Part::Prepare, component, host, &session).await {
        Ok(None) => Status::Unchanged,
        Ok(Some(plan)) => {
            crew.wishes.note(&plan);
            run_steps(crew, component, host, &session, plan, crew.mode).await
        }
        Err(failure) => {
            crew.component_failed(component, Some(host), failure).await;
            Status::Failed
        }
    }
}

impl Crew {
    /// Prepares the hosts of all components, whatever these need: packages are installed while others start.
    pub(super) async fn prepare_hosts(self: &Arc<Self>, components: &[Arc<Component>]) {
        join_all(components.iter().map(|component| self.prepared(component))).await;
    }

    /// How preparing the hosts of a component went; does it when nobody has begun.
    async fn prepared(self: &Arc<Self>, component: &Arc<Component>) -> Preparation {
        let has_part = self.bound(&component.name).is_some_and(|bound| bound.recipe.has_prepare());
        let Some(cell) = self.prepared.get(&component.name).filter(|_| has_part && self.scope == Scope::Whole) else {
            return Preparation::new();
        };
        let all = || async {
            let hosts = self.hosts_of(component);
            let one = |host: HostName| async move {
                let status = prepare(self, component, &host).await;
                (host, status)
            };
            join_all(hosts.into_iter().map(one)).await.into_iter().collect()
        };
        cell.get_or_init(all).await.clone()
    }

    /// Whether only trees and what reacts to them are brought to the hosts.
    pub(super) fn is_push(&self) -> bool {
        matches!(self.scope, Scope::Push { .. })
    }

    /// Notes that a host fell out, and how.
    pub(super) fn host_lost(&self, component: &Component, host: &HostName, error: &HostError) -> Status {
        tracing::debug!(%host, "lost: {}", chain(error));
        let status = if self.cancel.is_cancelled() { Status::Interrupted } else { Status::Unreachable };
        self.bench(component, host, status)
    }

    /// Notes that a host ended badly in a component; it gets nothing more unless the policy says so.
    pub(super) fn bench(&self, component: &Component, host: &HostName, status: Status) -> Status {
        self.ledger.host_failed(host, status);
        self.pushed.failed(host);
        if component.on_failure != FailurePolicy::Continue {
            self.put_on_bench(host);
        }
        status
    }

    /// Says what failed outside a step.
    pub(super) async fn component_failed(&self, component: &Component, host: Option<&HostName>, problem: Problem) {
        if let Some(host) = host {
            self.bench(component, host, Status::Failed);
        }
        let event = RunEvent::ComponentFailed { component: component.name.clone(), host: host.cloned(), problem };
        self.events.send(event).await;
    }
}
