//! Runs one plan, step by step: the step's condition, then its check, then, when the plan is applied, its change.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

use super::{
    accounts::Accounts,
    batch::Batch,
    failure::OrFail,
    foreseen::Foreseen,
    holdings::{Records, Thing},
    lock::HostLock,
    machine::{Holder, Machine, Reaction, cancelled},
    ops::{Finding, Obstacle, Operation},
    outbox::Outbox,
    pending::Pending,
    ports::{ON_ITS_WAY, Ports, Wanted},
    started::{Started, Trees},
    stop::Stop,
    supply::{ChannelSupplier, SupplyGate},
    tree::HeldTrees,
};
use crate::{
    plan::{
        Detail, Diff, Facts, FailureKind, HostPath, LabName, NOTES, Op, OpFailure, Outcome, Plan, ServiceEnsure, Step,
        StepId, Tally,
    },
    tree::Larder,
    wire::{FromHelper, Mode},
};

/// How long a step may be quiet before the near side hears that it is at work.
const PATIENCE: Duration = Duration::from_secs(1);
/// What people read when a reaction is made up for.
const INTERRUPTED: &str = "an earlier run was interrupted before this reaction";

/// What all plans of one helper share.
pub(crate) struct Session {
    /// Which lab the near side speaks for.
    pub(crate) lab: LabName,
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
    /// What is kept of synced directories between plans.
    pub(crate) trees: HeldTrees,
}

impl Session {
    /// A session in which quiet steps are announced after a second.
    pub(crate) fn new(lab: LabName, facts: Facts, accounts: Accounts, outbox: Outbox, gate: SupplyGate) -> Self {
        let (owner, lock_wait) = (String::new(), Duration::ZERO);
        let trees = HeldTrees::default();
        Self { lab, facts, accounts, outbox, gate, owner, lock_wait, patience: PATIENCE, trees }
    }

    /// Runs a plan to its end and sends `Done`. The error is that the near side cannot be reached.
    pub(crate) fn run(
        &self,
        request: u32,
        mode: Mode,
        plan: &Plan,
        larder: Arc<Larder>,
        stop: &Stop,
    ) -> io::Result<()> {
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
            let tally = Runner::new(self, request, mode, plan, larder, stop, batch).run();
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
    larder: Arc<Larder>,
    stop: &'a Stop,
    batch: &'a Batch,
    foreseen: Foreseen,
    became: Vec<Became>,
    /// What components have on this host.
    records: Records,
    /// What this component has.
    on_record: BTreeSet<Thing>,
    /// Reactions that are due, on disk.
    pending: Option<Pending>,
    /// Those of them that an earlier run left.
    interrupted: BTreeSet<StepId>,
    /// Steps after which the machine is as they want it.
    in_place: BTreeSet<StepId>,
    tally: Tally,
}

impl<'a> Runner<'a> {
    fn new(
        session: &'a Session,
        request: u32,
        mode: Mode,
        plan: &'a Plan,
        larder: Arc<Larder>,
        stop: &'a Stop,
        batch: &'a Batch,
    ) -> Self {
        Self {
            session,
            request,
            mode,
            plan,
            larder,
            stop,
            batch,
            foreseen: Foreseen::default(),
            became: Vec::with_capacity(plan.steps.len()),
            records: Records::below(std::path::Path::new(&session.facts.state_dir)),
            on_record: BTreeSet::new(),
            pending: None,
            interrupted: BTreeSet::new(),
            in_place: BTreeSet::new(),
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
        let mut refused = if going { self.refused() } else { None };
        for step in &self.plan.steps[usize::from(!going)..] {
            let is_refused = refused.as_ref().is_some_and(|(id, _)| *id == step.id);
            if !going || self.stop.is_set() || refused.is_some() && !is_refused {
                self.finish(step, Outcome::NotAttempted, None)?;
                continue;
            }
            self.batch.begin(step.id);
            let (outcome, diff) = match refused.take() {
                Some((_, failure)) => (Outcome::Failed(failure), None),
                None => self.step(step),
            };
            going = step.ignore_errors || !matches!(outcome, Outcome::Failed(_));
            self.finish(step, outcome, diff)?;
        }
        Ok(self.tally)
    }

    /// The first service whose ports somebody else has, and why. Known before anything is done: a plan that is to be
    /// applied does not begin when it cannot end well.
    fn refused(&self) -> Option<(StepId, OpFailure)> {
        if self.mode == Mode::Check {
            return None;
        }
        self.plan.steps.iter().find_map(|step| {
            let Op::ServiceEnsure(ServiceEnsure { name, running: true, ports, yields, .. }) = &step.op else {
                return None;
            };
            let is_certain = step.only_if_changed.is_empty() && !step.ignore_errors && !ports.is_empty();
            // What runs is asked when its turn comes; who cannot look into other processes does not refuse here.
            let wanted = Wanted { service: name, ports, yields, is_running: true };
            let found = is_certain
                .then(|| Ports::of_machine(self.session.facts.init).expect(&wanted, ON_ITS_WAY, self.stop))?;
            Some((step.id, found.err()?))
        })
    }

    /// Puts on record what a step makes that is to go when the component no longer wants it. Before it is made: what is on
    /// record and not there does no harm.
    fn record(&self, step: &Step) -> Result<(), OpFailure> {
        let thing = match &step.op {
            Op::ServiceEnsure(service) if service.definition.is_some() => Thing::Service(service.name.clone()),
            Op::FileWrite(file) if is_note(&file.path) => Thing::Note(file.path.clone()),
            _ => return Ok(()),
        };
        if self.mode == Mode::Check || self.on_record.contains(&thing) {
            return Ok(());
        }
        self.records.note(&self.session.lab, &self.plan.component, &thing)
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
        self.on_record = self.records.of(&self.session.lab, &self.plan.component)?;
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
                let (outcome, mut diff, became) = match self.record(step) {
                    Ok(()) => self.dispatch(step),
                    Err(failure) => (Outcome::Failed(failure), None, Became::Quiet),
                };
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

    /// The reaction has been made: its marker goes, and what a service runs with now is recorded.
    fn settle(&mut self, step: &Step, outcome: &Outcome) -> Result<(), OpFailure> {
        if matches!(outcome, Outcome::NoChange | Outcome::Changed) {
            self.in_place.insert(step.id);
            if let (Op::ServiceEnsure(service), Mode::Apply) = (&step.op, self.mode) {
                let started = self.started(service)?;
                if service.running { started.store(&self.trees(service)) } else { started.forget() }?;
            }
        }
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

    /// What a service was started with.
    fn started(&self, service: &ServiceEnsure) -> Result<Started, OpFailure> {
        Started::read(std::path::Path::new(&self.session.facts.state_dir), &service.name)
    }

    /// The trees that a service restarts on, as far as they are there.
    fn trees(&self, service: &ServiceEnsure) -> Trees {
        let steps = service.restart_on.iter().filter(|id| self.in_place.contains(id));
        let steps = steps.filter_map(|id| self.plan.steps.get(id.0 as usize));
        let tree = |step: &Step| match &step.op {
            // After a rollback the tree that is there is not the plan's.
            Op::Sync(sync) if !sync.release.is_some_and(|release| release.rollback) => {
                Some((sync.dest.clone(), sync.tree.root))
            }
            _ => None,
        };
        steps.filter_map(tree).collect()
    }

    /// What the steps that a service restarts on call for.
    fn reaction(&self, step: &Step) -> Result<Reaction, OpFailure> {
        let Op::ServiceEnsure(service) = &step.op else { return Ok(Reaction::None) };
        let reaction = self.reaction_to_steps(service, step);
        if matches!(reaction, Reaction::Due(_)) {
            return Ok(reaction);
        }
        let trees = self.trees(service);
        let old = self.started(service)?.differs(&trees).map(|path| format!("`{path}` has changed since its start"));
        Ok(old.map_or(reaction, Reaction::Due))
    }

    fn reaction_to_steps(&self, service: &ServiceEnsure, step: &Step) -> Reaction {
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
            Op::Put(op) => self.perform(op, step),
            Op::Leftovers(op) => self.perform(op, step),
        }
    }

    fn perform<O: Operation>(&mut self, op: &O, step: &Step) -> (Outcome, Option<Diff>, Became) {
        let gate = self.session.gate.clone();
        let reaction = match self.reaction(step) {
            Ok(reaction) => reaction,
            Err(failure) => return (Outcome::Failed(failure), None, Became::Quiet),
        };
        // Lives as long as the step: content that it no longer wants must not hold the channel up.
        let (outbox, larder) = (self.session.outbox.clone(), Arc::clone(&self.larder));
        let mut supplier = ChannelSupplier::new(self.request, gate, outbox, self.stop.clone(), larder);
        let foreseen = std::mem::take(&mut self.foreseen);
        let mut machine = Machine {
            facts: &self.session.facts,
            mode: self.mode,
            stop: self.stop,
            accounts: &self.session.accounts,
            foreseen: &foreseen,
            supplier: &mut supplier,
            trees: &self.session.trees,
            batch: self.batch,
            sensitive: step.sensitive,
            reaction,
            holder: Holder { lab: &self.session.lab, component: &self.plan.component },
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

/// Whether a file is a note of what a service was started with.
fn is_note(path: &HostPath) -> bool {
    path.as_path().parent().is_some_and(|folder| folder == std::path::Path::new(NOTES))
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

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::{
        helper::gather::gather,
        plan::{DirEnsure, DirRemove, FileWrite, Run, RunGuard, Secret, Source},
        wire::{FrameDecoder, StepEvent, decode},
    };

    #[derive(Clone, Default)]
    struct Wire(Arc<Mutex<Vec<u8>>>);

    impl Write for Wire {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn step(index: usize, op: Op) -> Step {
        Step {
            id: StepId(u32::try_from(index).unwrap()),
            key: format!("step {index}"),
            op,
            source: Source { file: "test.star".into(), line: 1 },
            only_if_changed: Vec::new(),
            sensitive: false,
            ignore_errors: false,
        }
    }

    fn plan(ops: Vec<Op>) -> Plan {
        let steps = ops.into_iter().enumerate().map(|(index, op)| step(index, op)).collect();
        Plan { component: "c".parse().unwrap(), host: "h".parse().unwrap(), steps }
    }

    fn directory(path: &std::path::Path) -> Op {
        let path = path.to_str().unwrap().parse().unwrap();
        Op::DirEnsure(DirEnsure { path, mode: None, owner: None, group: None, recursive: false })
    }

    fn command(command: &str, guards: Vec<RunGuard>) -> Op {
        Op::Run(Run {
            command: Secret::new(command.to_owned()),
            sensitive: false,
            guards,
            directory: None,
            environment: Vec::new(),
            user: None,
            timeout_ms: 60_000,
            success: vec![0],
            stdin: None,
            changes: true,
        })
    }

    /// Runs a plan with its state in `state` and gives the messages.
    fn run(plan: &Plan, mode: Mode, state: &std::path::Path) -> Vec<FromHelper> {
        let (wire, stop) = (Wire::default(), Stop::default());
        let accounts = Accounts::new(stop.clone());
        let mut facts = gather(&accounts);
        facts.state_dir = state.display().to_string();
        let lab = "lab".parse().unwrap();
        let mut session =
            Session::new(lab, facts, accounts, Outbox::new(Box::new(wire.clone())), SupplyGate::default());
        session.patience = Duration::from_secs(3600);
        session.run(7, mode, plan, Arc::default(), &stop).unwrap();
        let mut decoder = FrameDecoder::default();
        decoder.push(&wire.0.lock().unwrap());
        std::iter::from_fn(|| decoder.next_frame().unwrap()).map(|frame| decode(&frame).unwrap()).collect()
    }

    fn outcomes(messages: &[FromHelper]) -> Vec<Outcome> {
        let reports = messages.iter().flat_map(|message| match message {
            FromHelper::Steps { reports, .. } => reports.clone(),
            _ => Vec::new(),
        });
        let outcome = |event| match event {
            StepEvent::Finished { outcome, .. } => Some(outcome),
            _ => None,
        };
        reports.filter_map(|report| outcome(report.event)).collect()
    }

    #[test]
    fn two_hundred_quiet_steps_cost_as_many_frames_as_five() {
        let state = tempfile::tempdir().unwrap();
        for mode in [Mode::Check, Mode::Apply] {
            let counts = [5, 200].map(|steps| {
                let messages = run(&plan(vec![directory(state.path()); steps]), mode, state.path());
                assert_eq!(outcomes(&messages), vec![Outcome::NoChange; steps]);
                messages.len()
            });
            assert_eq!(counts, [2, 2], "reports, then done");
        }
    }

    #[test]
    fn a_check_foresees_what_earlier_steps_would_make() {
        let root = tempfile::tempdir().unwrap();
        let (folder, file) = (root.path().join("a/b"), root.path().join("a/b/file"));
        let write = Op::FileWrite(FileWrite {
            path: file.to_str().unwrap().parse().unwrap(),
            content: crate::plan::Content::Inline(b"x".to_vec()),
            mode: None,
            owner: None,
            group: None,
        });
        let alone = run(&plan(vec![write.clone()]), Mode::Check, root.path());
        let Outcome::Failed(failure) = &outcomes(&alone)[0] else { panic!("{alone:?}") };
        assert_eq!(failure.kind, FailureKind::BadInput);
        assert!(failure.hint.as_ref().unwrap().contains("dir_ensure"), "{failure:?}");
        let wanted = plan(vec![directory(&folder), write.clone(), directory(&folder)]);
        let would = [Outcome::WouldChange, Outcome::WouldChange, Outcome::NoChange];
        assert_eq!(outcomes(&run(&wanted, Mode::Check, root.path())), would);
        // A command might make the folder; nobody can tell.
        let unclear = outcomes(&run(&plan(vec![command("true", Vec::new()), write.clone()]), Mode::Check, root.path()));
        assert!(matches!(unclear[1], Outcome::Unknown { .. }), "{unclear:?}");
        assert_eq!(fs_err::read_dir(root.path()).unwrap().count(), 0, "a check writes nothing");
        // What would be gone would be made again.
        run(&wanted, Mode::Apply, root.path());
        let path = folder.to_str().unwrap().parse().unwrap();
        let gone = Op::DirRemove(DirRemove { path, recursive: true });
        let again = outcomes(&run(&plan(vec![gone, directory(&folder), write]), Mode::Check, root.path()));
        assert_eq!(again, [Outcome::WouldChange, Outcome::WouldChange, Outcome::WouldChange]);
    }

    #[test]
    fn steps_after_a_failure_are_not_attempted_unless_it_may_be_ignored() {
        let state = tempfile::tempdir().unwrap();
        let mut wanted =
            plan(vec![command("exit 3", Vec::new()), directory(state.path()), command("false", Vec::new())]);
        let stopped = outcomes(&run(&wanted, Mode::Apply, state.path()));
        assert!(matches!(&stopped[0], Outcome::Failed(failure) if failure.message == "`exit 3` ended with status 3"));
        assert_eq!(stopped[1..], [Outcome::NotAttempted, Outcome::NotAttempted]);
        wanted.steps[0].ignore_errors = true;
        let went_on = outcomes(&run(&wanted, Mode::Apply, state.path()));
        assert!(
            matches!(went_on.as_slice(), [Outcome::Failed(_), Outcome::NoChange, Outcome::Failed(_)]),
            "{went_on:?}"
        );
    }

    #[test]
    fn a_reaction_follows_a_change_and_an_interrupted_one_is_made_up_for_once() {
        let state = tempfile::tempdir().unwrap();
        let (made, reacted) = (state.path().join("made"), state.path().join("reacted"));
        let reaction = format!("test ! -e {0}/broken && echo x >> {1}", state.path().display(), reacted.display());
        let mut wanted = plan(vec![directory(&made), command(&reaction, Vec::new())]);
        wanted.steps[1].only_if_changed = vec![StepId(0)];
        let run = |mode| outcomes(&run(&wanted, mode, state.path()));
        assert_eq!(run(Mode::Check), [Outcome::WouldChange, Outcome::WouldChange]);
        fs_err::write(state.path().join("broken"), "").unwrap();
        assert!(matches!(run(Mode::Apply).as_slice(), [Outcome::Changed, Outcome::Failed(_)]));
        fs_err::remove_file(state.path().join("broken")).unwrap();
        assert_eq!(run(Mode::Check), [Outcome::NoChange, Outcome::WouldChange]);
        assert_eq!(run(Mode::Apply), [Outcome::NoChange, Outcome::Changed]);
        let quiet = run(Mode::Apply);
        assert!(matches!(&quiet[1], Outcome::Skipped { because: Some(StepId(0)), .. }), "{quiet:?}");
        assert_eq!(fs_err::read_to_string(reacted).unwrap(), "x\n");
    }

    #[test]
    fn guards_are_asked_in_a_check_too() {
        let state = tempfile::tempdir().unwrap();
        let verdict =
            |guard| outcomes(&run(&plan(vec![command("true", vec![guard])]), Mode::Check, state.path())).remove(0);
        assert_eq!(verdict(RunGuard::Creates("/etc".parse().unwrap())), Outcome::NoChange);
        assert_eq!(verdict(RunGuard::Unless("true".into())), Outcome::NoChange);
        assert_eq!(verdict(RunGuard::Unless("false".into())), Outcome::WouldChange);
        assert_eq!(verdict(RunGuard::OnlyIf("true".into())), Outcome::WouldChange);
        assert!(matches!(verdict(RunGuard::OnlyIf("false".into())), Outcome::Skipped { because: None, .. }));
        assert!(matches!(verdict(RunGuard::OnlyIf("no-such-program".into())), Outcome::Unknown { .. }));
    }

    #[test]
    fn a_plan_out_of_order_is_refused() {
        let state = tempfile::tempdir().unwrap();
        let mut wanted = plan(vec![directory(state.path()), directory(state.path())]);
        wanted.steps[0].only_if_changed = vec![StepId(1)];
        let refused = outcomes(&run(&wanted, Mode::Apply, state.path()));
        assert!(
            matches!(&refused[0], Outcome::Failed(failure) if failure.kind == FailureKind::Internal),
            "{refused:?}"
        );
    }
}
