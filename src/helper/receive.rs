//! Puts a copy into place on the machine of the operator, for `ovs-cuisine cp` from a host. What comes on standard input
//! is what that host says, so this is a process of its own that believes nothing before its hash fits, and that can
//! write below the destination only.

use std::{
    io::{self, BufReader, Read},
    process::ExitCode,
    time::Instant,
};

use super::{command_line::complain, outbox::Outbox, tree::compare_put};
use crate::{
    plan::{Diff, FailureKind, Op, OpFailure, Outcome, Put, Tally},
    tree::{Demand, Supplier, Supply},
    wire::{self, FrameError, FromHelper, Mode, StepEvent, StepReport, ToHelper},
};

/// Reads one plan of copies and carries it out. Success when the plan was read and all that became of it was told.
pub(super) fn receive() -> ExitCode {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let outbox = Outbox::new(Box::new(io::stdout()));
    match converse(&mut BufReader::with_capacity(256 * 1024, io::stdin()), &outbox) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => complain(&why, 1),
    }
}

fn converse(input: &mut impl Read, outbox: &Outbox) -> Result<(), String> {
    let message = wire::read_message(input).map_err(|error| error.to_string())?;
    let Some(ToHelper::Plan { request, mode, plan }) = message else { return Err("no plan came".to_owned()) };
    let mut tally = Tally::default();
    for step in &plan.steps {
        let Op::Put(put) = &step.op else { return Err("the plan holds more than copies".to_owned()) };
        let (started, mut supplier) = (Instant::now(), PipeSupplier { request, input, outbox });
        let (outcome, diff) = if tally.failed > 0 {
            (Outcome::NotAttempted, None)
        } else {
            perform(put, mode, &mut supplier)
                .unwrap_or_else(|failure| (Outcome::Failed(on_this_machine(failure)), None))
        };
        tally.add(&outcome);
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let report = StepReport { step: step.id, event: StepEvent::Finished { outcome, diff, micros } };
        let told = outbox.send(&FromHelper::Steps { request, reports: vec![report] });
        told.map_err(|error| error.to_string())?;
    }
    outbox.send(&FromHelper::Done { request, tally }).map_err(|error| error.to_string())
}

fn perform(put: &Put, mode: Mode, supplier: &mut dyn Supplier) -> Result<(Outcome, Option<Diff>), OpFailure> {
    let Some(change) = compare_put(put, supplier)? else { return Ok((Outcome::NoChange, None)) };
    let diff = Some(change.diff());
    if mode == Mode::Check {
        return Ok((Outcome::WouldChange, diff));
    }
    change.apply(supplier)?;
    Ok((Outcome::Changed, diff))
}

/// The machine is not a host of the inventory: what helps there does not help here.
fn on_this_machine(failure: OpFailure) -> OpFailure {
    match failure.kind {
        FailureKind::Permission => failure.hint("copy to a directory that you may write to"),
        FailureKind::NoSpace => failure.hint("free some space, or copy to another file system; `df -h` shows them"),
        _ => failure,
    }
}

/// Demands content on standard output and gets it on standard input.
struct PipeSupplier<'a, R> {
    request: u32,
    input: &'a mut R,
    outbox: &'a Outbox,
}

impl<R: Read> Supplier for PipeSupplier<'_, R> {
    fn demand(&mut self, demand: Demand) -> io::Result<()> {
        self.outbox.send(&FromHelper::Demand { request: self.request, demand })
    }

    fn next_supply(&mut self) -> io::Result<Supply> {
        match wire::read_message(self.input) {
            Ok(Some(ToHelper::Supply { supply, .. })) => Ok(supply),
            // Who is told to end, or killed, may be in the middle of a message.
            Ok(Some(ToHelper::Cancel { .. } | ToHelper::Bye) | None) | Err(FrameError::Io(_)) => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the copy was cancelled"))
            }
            Ok(Some(_)) => Err(io::Error::other("something else than content came")),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}
