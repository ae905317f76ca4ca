//! Reports of steps on their way to the near side. Quiet steps wait for company, so that a plan in which nothing
//! changes costs as many messages whether it has five steps or two hundred.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::outbox::Outbox;
use crate::{
    plan::{Change, Detail, Diff, Outcome, StepId},
    wire::{FromHelper, StepEvent, StepReport, Stream},
};

/// How many lines of output may wait.
const MAX_LINES: usize = 50;
/// How long a line of output may wait.
const MAX_WAIT: Duration = Duration::from_millis(100);
/// How many bytes of diffs and output may wait, roughly; far below the longest message.
const MAX_BYTES: usize = 1024 * 1024;

/// Collects the reports of one plan.
pub(crate) struct Batch {
    request: u32,
    outbox: Outbox,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reports: Vec<StepReport>,
    bytes: usize,
    lines: usize,
    /// When the oldest line that waits was written.
    oldest_line: Option<Instant>,
    current: Option<Current>,
}

struct Current {
    step: StepId,
    since: Instant,
    announced: bool,
}

impl Batch {
    /// An empty batch for the plan with this number.
    pub(crate) fn new(request: u32, outbox: Outbox) -> Self {
        Self { request, outbox, state: Mutex::default() }
    }

    /// A step begins. Says nothing yet.
    pub(crate) fn begin(&self, step: StepId) {
        self.lock().current = Some(Current { step, since: Instant::now(), announced: false });
    }

    /// The step that began is being applied: says so at once.
    pub(crate) fn announce(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.announce();
        self.flush_locked(&mut state)
    }

    /// Says that the step that began takes long, once, when it has run for longer than `patience`.
    pub(crate) fn nudge(&self, patience: Duration) -> io::Result<()> {
        let mut state = self.lock();
        let late = state.current.as_ref().is_some_and(|step| !step.announced && step.since.elapsed() >= patience);
        if late {
            state.announce();
            return self.flush_locked(&mut state);
        }
        Ok(())
    }

    /// A line of output of the step that began.
    pub(crate) fn output(&self, stream: Stream, line: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.announce();
        let Some(step) = state.current.as_ref().map(|current| current.step) else { return Ok(()) };
        state.lines += 1;
        state.bytes += line.len();
        state.oldest_line.get_or_insert_with(Instant::now);
        state.reports.push(StepReport { step, event: StepEvent::Output { stream, line: line.to_owned() } });
        if state.lines >= MAX_LINES || state.bytes >= MAX_BYTES { self.flush_locked(&mut state) } else { Ok(()) }
    }

    /// Sends output that has waited long enough.
    pub(crate) fn tick(&self) -> io::Result<()> {
        let mut state = self.lock();
        if state.oldest_line.is_some_and(|since| since.elapsed() >= MAX_WAIT) {
            self.flush_locked(&mut state)
        } else {
            Ok(())
        }
    }

    /// The step has ended.
    pub(crate) fn finish(&self, step: StepId, outcome: Outcome, diff: Option<Diff>) -> io::Result<()> {
        let mut state = self.lock();
        let elapsed =
            state.current.take().filter(|current| current.step == step).map(|current| current.since.elapsed());
        let micros = elapsed.unwrap_or_default().as_micros().try_into().unwrap_or(u64::MAX);
        state.bytes += diff.as_ref().map_or(0, weight);
        state.reports.push(StepReport { step, event: StepEvent::Finished { outcome, diff, micros } });
        if state.bytes >= MAX_BYTES { self.flush_locked(&mut state) } else { Ok(()) }
    }

    /// Sends all that waits.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.flush_locked(&mut self.lock())
    }

    /// Sends while it holds the lock, so that reports stay in order.
    fn flush_locked(&self, state: &mut State) -> io::Result<()> {
        let reports = std::mem::take(&mut state.reports);
        (state.bytes, state.lines, state.oldest_line) = (0, 0, None);
        if reports.is_empty() {
            return Ok(());
        }
        self.outbox.send(&FromHelper::Steps { request: self.request, reports })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn announce(&mut self) {
        if let Some(current) = &mut self.current
            && !current.announced
        {
            current.announced = true;
            self.reports.push(StepReport { step: current.step, event: StepEvent::Started });
        }
    }
}

/// Roughly how many bytes a diff takes on the wire.
fn weight(diff: &Diff) -> usize {
    let detail = |detail: &Detail| match detail {
        Detail::Text { before, after } => before.len() + after.len(),
        Detail::Tree { paths, .. } => paths.iter().map(String::len).sum(),
        Detail::Reason { text } => text.len(),
        Detail::Attribute { name, before, after } => {
            name.len() + [before, after].into_iter().flatten().map(String::len).sum::<usize>()
        }
        Detail::Opaque { .. } | Detail::SecretContent => 64,
    };
    let change = |change: &Change| change.target.len() + change.details.iter().map(detail).sum::<usize>();
    diff.changes.iter().map(change).sum()
}
