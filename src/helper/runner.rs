//! Runs one plan, step by step: the step's condition, then its check, then, when the plan is applied, its change.

use std::{
    collections::BTreeSet,
    io,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use super::{
    accounts::Accounts,
    batch::Batch,
    failure::OrFail,
    foreseen::Foreseen,
    lock::HostLock,
    machine::{Machine, Reaction, cancelled},
    ops::{Finding, Obstacle, Operation},
    outbox::Outbox,
    pending::Pending,
    stop::Stop,
    supply::{ChannelSupplier, SupplyGate},
};
use crate::{
    plan::{Detail, Diff, Facts, FailureKind, Op, OpFailure, Outcome, Plan, Step, StepId, Tally},
    wire::{FromHelper, Mode},
};

/// How long a step may be quiet before the near side hears that it is at work.
const PATIENCE: Duration = Duration::from_secs(1);
/// What people read when a reaction is made up for.
const INTERRUPTED: &str = "an earlier run was interrupted before this reaction";

/// What all plans of one helper share.
pub(crate) struct Session {
    pub(crate) facts: Facts,
    pub(crate) accounts: Accounts,
    pub(crate) outbox: Outbox,
    pub(crate) gate: SupplyGate,
    /// Who takes the host's lock, for people.
    pub(crate) owner: String,
    /// How long to wait for the host's lock.
    pub(crate) lock_wait: Duration,
    /// How long a step may be quiet.
    pub(crate) patience: Duration,
}

impl Session {
    /// A session in which quiet steps are announced after a second.
    pub(crate) fn new(facts: Facts, accounts: Accounts, outbox: Outbox, gate: SupplyGate) -> Self {
        let (owner, lock_wait) = (String::new(), Duration::ZERO);
        Self { facts, accounts, outbox, gate, owner, lock_wait, patience: PATIENCE }
    }

    /// Runs a plan to its end and sends `Done`. The error is that the near side cannot be reached.
    pub(crate) fn run(&self, request: u32, mode: Mode, plan: &Plan, stop: &Stop) -> io::Result<()> {
        let batch = Batch::new(request, self.outbox.clone());
        let (finished, alarm) = channel::<()>();
        let tally = thread::scope(|scope| {
            let batch = &batch;
            scope.spawn(move || {
                // An error means that nobody listens; the runner meets it too.
                while alarm.recv_timeout(self.patience / 4) == Err(RecvTimeoutError::Timeout) {
                    let _ = batch.nudge(self.patience);
                }
            });
            let tally = Runner::new(self, request, mode, plan, stop, batch).run();
            drop(finished);
            tally
        })?;
        batch.flush()?;
        self.outbox.send(&FromHelper::Done { request, tally })
    }
}

/// What later steps have to know of a step that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Became {
    /// It changed nothing.
    Quiet,
    /// It changed something, or in a check would.
    Changed,
    /// A check could not tell.
    Unclear,
}

/// Whether a step is due at all.
enum Condition {
    /// It is; the reason is only given when it is not plain.
    Due(Option<String>),
    Unclear(String),
    Skipped {
        why: String,
        because: StepId,
    },
}

struct Runner<'a> {
    session: &'a Session,
    request: u32,
    mode: Mode,
    plan: &'a Plan,
    stop: &'a Stop,
    batch: &'a Batch,
    foreseen: Foreseen,
    became: Vec<Became>,
    /// Reactions that are due, on disk.
    pending: Option<Pending>,
    /// Those of them that an earlier run left.
    interrupted: BTreeSet<StepId>,
    tally: Tally,
}

impl<'a> Runner<'a> {
    fn new(session: &'a Session, request: u32, mode: Mode, plan: &'a Plan, stop: &'a Stop, batch: &'a Batch) -> Self {
        Self {
            session,
            request,
            mode,
            plan,
            stop,
            batch,
            foreseen: Foreseen::default(),
            became: Vec::with_capacity(plan.steps.len()),
            pending: None,
            interrupted: BTreeSet::new(),
            tally: Tally::default(),
        }
    }

    fn run(mut self) -> io::Result<Tally> {
        let Some(first) = self.plan.steps.first() else { return Ok(self.tally) };
        let prepared = self.prepare();
        let mut going = prepared.is_ok();
        // Held until the last step has ended.
        let _lock = match prepared {
            Ok(lock) => lock,
            Err(failure) => {
                self.batch.begin(first.id);
                self.finish(first, Outcome::Failed(failure), None)?;
                None
            }
        };
        for step in &self.plan.steps[usize::from(!going)..] {
            if !going || self.stop.is_set() {
                self.finish(step, Outcome::NotAttempted, None)?;
                continue;
            }
            self.batch.begin(step.id);
            let (outcome, diff) = self.step(step);
            going = step.ignore_errors || !matches!(outcome, Outcome::Failed(_));
            self.finish(step, outcome, diff)?;
        }
        Ok(self.tally)
    }

    /// Takes the lock when the plan is applied, and finds out which reactions are due.
    fn prepare(&mut self) -> Result<Option<HostLock>, OpFailure> {
        validate(self.plan)?;
        let state_dir = std::path::Path::new(&self.session.facts.state_dir);
        let lock = match self.mode {
            Mode::Check => None,
            Mode::Apply => Some(HostLock::take(state_dir, &self.session.owner, self.session.lock_wait, self.stop)?),
        };
        let pending =
            Pending::read(state_dir, &self.plan.component).or_fail("read", state_dir.join("pending").display())?;
        let due = self.plan.steps.iter().filter(|step| pending.is_due(&step.key)).map(|step| step.id);
        self.interrupted = due.collect();
        self.pending = Some(pending);
        Ok(lock)
    }

    fn finish(&mut self, step: &Step, outcome: Outcome, diff: Option<Diff>) -> io::Result<()> {
        self.tally.add(&outcome);
        self.batch.finish(step.id, outcome, diff)
    }

    fn step(&mut self, step: &Step) -> (Outcome, Option<Diff>) {
        let (outcome, diff, became) = match self.condition(step) {
            Condition::Skipped { why, because } => {
                (Outcome::Skipped { why, because: Some(because) }, None, Became::Quiet)
            }
            Condition::Unclear(why) => (Outcome::Unknown { why }, None, Became::Unclear),
            Condition::Due(reason) => {
                let (outcome, mut diff, became) = self.dispatch(step);
                if let (Some(text), Some(change)) = (reason, diff.as_mut().and_then(|diff| diff.changes.first_mut())) {
                    change.details.push(Detail::Reason { text });
                }
                (outcome, diff, became)
            }
        };
        self.became.push(became);
        match self.settle(step, &outcome) {
            Ok(()) => (outcome, diff),
            Err(failure) => (Outcome::Failed(failure), diff),
        }
    }

    /// The reaction has been made: its marker goes.
    fn settle(&mut self, step: &Step, outcome: &Outcome) -> Result<(), OpFailure> {
        let done = matches!(outcome, Outcome::NoChange | Outcome::Changed | Outcome::Skipped { .. });
        match &mut self.pending {
            Some(pending) if done && self.mode == Mode::Apply => {
                pending.clear(&step.key).or_fail("clear the pending reaction of", step.title())
            }
            _ => Ok(()),
        }
    }

    fn condition(&self, step: &Step) -> Condition {
        let Some(because) = step.only_if_changed.first().copied() else { return Condition::Due(None) };
        if self.any_became(&step.only_if_changed, Became::Changed).is_some() {
            return Condition::Due(None);
        }
        if self.interrupted.contains(&step.id) {
            return Condition::Due(Some(INTERRUPTED.to_owned()));
        }
        if let Some(unclear) = self.any_became(&step.only_if_changed, Became::Unclear) {
            return Condition::Unclear(format!("depends on whether `{}` changes anything", self.title(unclear)));
        }
        let titles: Vec<String> = step.only_if_changed.iter().map(|id| format!("`{}`", self.title(*id))).collect();
        Condition::Skipped { why: format!("{} changed nothing", titles.join(" and ")), because }
    }

    /// What the steps that a service restarts on call for.
    fn reaction(&self, step: &Step) -> Reaction {
        let Op::ServiceEnsure(service) = &step.op else { return Reaction::None };
        if let Some(changed) = self.any_became(&service.restart_on, Became::Changed) {
            return Reaction::Due(format!("`{}` changes", self.title(changed)));
        }
        if self.interrupted.contains(&step.id) {
            return Reaction::Due(INTERRUPTED.to_owned());
        }
        match self.any_became(&service.restart_on, Became::Unclear) {
            Some(unclear) => {
                Reaction::Perhaps(format!("depends on whether `{}` changes anything", self.title(unclear)))
            }
            None => Reaction::None,
        }
    }

    fn any_became(&self, steps: &[StepId], wanted: Became) -> Option<StepId> {
        steps.iter().copied().find(|id| self.became.get(id.0 as usize) == Some(&wanted))
    }

    fn title(&self, id: StepId) -> String {
        self.plan.steps.get(id.0 as usize).map(Step::title).unwrap_or_default()
    }

    fn dispatch(&mut self, step: &Step) -> (Outcome, Option<Diff>, Became) {
        match &step.op {
            Op::FileWrite(op) => self.perform(op, step),
            Op::FileLink(op) => self.perform(op, step),
            Op::FileRemove(op) => self.perform(op, step),
            Op::DirEnsure(op) => self.perform(op, step),
            Op::DirRemove(op) => self.perform(op, step),
            Op::PackageEnsure(op) => self.perform(op, step),
            Op::UserEnsure(op) => self.perform(op, step),
            Op::GroupEnsure(op) => self.perform(op, step),
            Op::SshAuthorize(op) => self.perform(op, step),
            Op::ServiceEnsure(op) => self.perform(op, step),
            Op::Run(op) => self.perform(op, step),
            Op::Sync(op) => self.perform(op, step),
            Op::WaitPort(op) => self.perform(op, step),
        }
    }

    fn perform<O: Operation>(&mut self, op: &O, step: &Step) -> (Outcome, Option<Diff>, Became) {
        let gate = self.session.gate.clone();
        // Lives as long as the step: content that it no longer wants must not hold the channel up.
        let mut supplier = ChannelSupplier::new(self.request, gate, self.session.outbox.clone(), self.stop.clone());
        let foreseen = std::mem::take(&mut self.foreseen);
        let mut machine = Machine {
            facts: &self.session.facts,
            mode: self.mode,
            stop: self.stop,
            accounts: &self.session.accounts,
            foreseen: &foreseen,
            supplier: &mut supplier,
            batch: self.batch,
            sensitive: step.sensitive,
            reaction: self.reaction(step),
        };
        let found = op.check(&mut machine);
        let (outcome, diff, became, change) = match found {
            Ok(Finding::Same) => (Outcome::NoChange, None, Became::Quiet, None),
            Ok(Finding::Skipped { why }) => (Outcome::Skipped { why, because: None }, None, Became::Quiet, None),
            Ok(Finding::Differs(change)) if machine.is_check() => {
                (Outcome::WouldChange, Some(op.describe(&change, &machine)), Became::Changed, Some(change))
            }
            Ok(Finding::Unknown { why, change }) if machine.is_check() => {
                (Outcome::Unknown { why }, None, Became::Unclear, Some(change))
            }
            Ok(Finding::Differs(change) | Finding::Unknown { change, .. }) => {
                let (outcome, diff, became) = self.apply(op, step, change, &mut machine);
                (outcome, diff, became, None)
            }
            Err(Obstacle::Unclear(why)) => (Outcome::Unknown { why }, None, Became::Unclear, None),
            Err(Obstacle::Failure(failure)) => {
                (Outcome::Failed(or_cancelled(failure, self.stop)), None, Became::Quiet, None)
            }
        };
        self.foreseen = foreseen;
        if let Some(change) = change {
            op.foresee(&change, &mut self.foreseen);
            if became == Became::Unclear || matches!(step.op, Op::PackageEnsure(_) | Op::Run(_)) && op.is_change() {
                self.foreseen.anything(&step.title());
            }
        }
        (outcome, diff, became)
    }

    fn apply<O: Operation>(
        &mut self,
        op: &O,
        step: &Step,
        change: O::Change,
        machine: &mut Machine<'_>,
    ) -> (Outcome, Option<Diff>, Became) {
        if op.is_change()
            && let Err(failure) = self.remember_reactions(step)
        {
            return (Outcome::Failed(failure), None, Became::Quiet);
        }
        let diff = op.describe(&change, machine);
        if self.batch.announce().is_err() {
            self.stop.end_session();
        }
        let applied = if self.stop.is_set() { Err(cancelled()) } else { op.apply(change, machine) };
        match applied {
            Ok(()) if op.is_change() => (Outcome::Changed, Some(diff), Became::Changed),
            Ok(()) => (Outcome::NoChange, None, Became::Quiet),
            // Who knows how far it came: reactions are due.
            Err(failure) => (Outcome::Failed(or_cancelled(failure, self.stop)), Some(diff), Became::Changed),
        }
    }

    /// Stores the reactions that a change calls for, before the change is made.
    fn remember_reactions(&mut self, step: &Step) -> Result<(), OpFailure> {
        let Some(pending) = &mut self.pending else { return Ok(()) };
        // A service reacts to the change of its own definition.
        let reacts = |later: &&Step| reacts_to(later, step.id) || later.id == step.id && is_service(step);
        for later in self.plan.steps.iter().filter(reacts) {
            pending.store(&later.key).or_fail("store the pending reaction of", later.title())?;
        }
        Ok(())
    }
}

fn reacts_to(later: &Step, step: StepId) -> bool {
    let restarts = matches!(&later.op, Op::ServiceEnsure(service) if service.restart_on.contains(&step));
    restarts || later.only_if_changed.contains(&step)
}

fn is_service(step: &Step) -> bool {
    matches!(step.op, Op::ServiceEnsure(_))
}

/// Whatever fails while a run is being cancelled fails because of that.
fn or_cancelled(failure: OpFailure, stop: &Stop) -> OpFailure {
    if stop.is_set() && failure.kind != FailureKind::Cancelled {
        return OpFailure { kind: FailureKind::Cancelled, hint: None, ..failure };
    }
    failure
}

/// That steps are numbered in order and refer to earlier ones only.
fn validate(plan: &Plan) -> Result<(), OpFailure> {
    for (index, step) in plan.steps.iter().enumerate() {
        let restart_on: &[StepId] = match &step.op {
            Op::ServiceEnsure(service) => &service.restart_on,
            _ => &[],
        };
        let refers_back = step.only_if_changed.iter().chain(restart_on).all(|id| id.0 < step.id.0);
        if usize::try_from(step.id.0) != Ok(index) || !refers_back {
            let message = format!("step {} of the plan is out of order or refers to a later one", step.id);
            return Err(OpFailure::new(FailureKind::Internal, message));
        }
    }
    Ok(())
}
