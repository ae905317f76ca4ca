//! Content on its way from the near side to the plan that demanded it.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use super::{outbox::Outbox, stop::Stop};
use crate::{
    tree::{Demand, Larder, Supplier, Supply},
    wire::FromHelper,
};

/// How many messages of content, or bundles of small ones, may wait: 16 of little more than 256 KiB bound the memory, and
/// keep the disk busy.
const IN_FLIGHT: usize = 16;
/// How long the near side may take for the next message of an answer. It may have a large file to read first, and many
/// hosts to serve; one that is gone is noticed by the end of the stream.
const SILENCE: Duration = Duration::from_secs(300);
/// How often a wait looks whether it should end.
const TICK: Duration = Duration::from_millis(50);

/// Where the reader of the channel leaves content. Clones share their state.
#[derive(Clone, Default)]
pub(crate) struct SupplyGate {
    shared: Arc<(Mutex<Gate>, Condvar)>,
}

#[derive(Default)]
struct Gate {
    request: u32,
    /// Wants of the open demand that are not yet complete.
    wanted: usize,
    /// None when the plan no longer wants the rest of the answer.
    taker: Option<SyncSender<Vec<Supply>>>,
}

impl SupplyGate {
    /// Passes content on; blocks while the plan is slower. False when the plan has not asked for it.
    pub(crate) fn deliver(&self, request: u32, supplies: Vec<Supply>) -> bool {
        let mut gate = self.lock();
        if gate.request != request {
            // The rest of an answer to a plan that is over.
            return true;
        }
        let before = gate.wanted;
        for supply in &supplies {
            if gate.wanted == 0 {
                return false;
            }
            gate.wanted -= usize::from(supply.ends_want());
        }
        if gate.wanted < before {
            self.shared.1.notify_all();
        }
        let taker = gate.taker.clone();
        drop(gate);
        if let Some(taker) = taker {
            // The plan may have given the answer up meanwhile.
            let _ = taker.send(supplies);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the answer to the demand before has passed by, then opens a new one.
    fn open(&self, request: u32, wants: usize, stop: &Stop) -> io::Result<Receiver<Vec<Supply>>> {
        let since = Instant::now();
        let mut gate = self.lock();
        gate.taker = None;
        // Answers carry the number of their plan, so only one of the same plan has to be waited for.
        while gate.request == request && gate.wanted > 0 {
            if stop.is_set() {
                return Err(cancelled());
            }
            if since.elapsed() > SILENCE {
                return Err(silent());
            }
            gate = self.shared.1.wait_timeout(gate, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
        let (sender, receiver) = sync_channel(IN_FLIGHT);
        *gate = Gate { request, wanted: wants, taker: Some(sender) };
        Ok(receiver)
    }

    /// The plan wants no more of an answer.
    fn close(&self) {
        self.lock().taker = None;
    }
}

/// Demands content for one plan over the channel.
pub(crate) struct ChannelSupplier {
    request: u32,
    gate: SupplyGate,
    outbox: Outbox,
    stop: Stop,
    larder: Arc<Larder>,
    answer: Option<Receiver<Vec<Supply>>>,
    /// What has come of it and was not asked for yet.
    at_hand: VecDeque<Supply>,
}

impl ChannelSupplier {
    /// A supplier for the plan with this number; `larder` is what came ahead of it.
    pub(crate) fn new(request: u32, gate: SupplyGate, outbox: Outbox, stop: Stop, larder: Arc<Larder>) -> Self {
        Self { request, gate, outbox, stop, larder, answer: None, at_hand: VecDeque::new() }
    }
}

impl Supplier for ChannelSupplier {
    fn demand(&mut self, demand: Demand) -> io::Result<()> {
        // The receiver goes first: the reader may be waiting to fill it.
        self.answer = None;
        self.at_hand.clear();
        self.answer = Some(self.gate.open(self.request, demand.wants.len(), &self.stop)?);
        self.outbox.send(&FromHelper::Demand { request: self.request, demand })
    }

    fn next_supply(&mut self) -> io::Result<Supply> {
        let answer = self.answer.as_ref().ok_or_else(|| io::Error::other("nothing was demanded"))?;
        let since = Instant::now();
        loop {
            if self.stop.is_set() {
                return Err(cancelled());
            }
            if since.elapsed() > SILENCE {
                return Err(silent());
            }
            if let Some(supply) = self.at_hand.pop_front() {
                return Ok(supply);
            }
            match answer.recv_timeout(TICK) {
                Ok(supplies) => self.at_hand.extend(supplies),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("the answer has ended")),
            }
        }
    }

    fn larder(&self) -> Option<&Larder> {
        Some(&self.larder)
    }
}

impl Drop for ChannelSupplier {
    fn drop(&mut self) {
        self.answer = None;
        self.gate.close();
    }
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the near side sent no content for {} s", SILENCE.as_secs()))
}

fn cancelled() -> io::Error {
    // Not `Interrupted`: readers of the standard library would try again for ever.
    io::Error::new(io::ErrorKind::ConnectionAborted, "the run was cancelled")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Digest, Old, Want};

    fn supplier(gate: &SupplyGate) -> ChannelSupplier {
        ChannelSupplier::new(1, gate.clone(), Outbox::new(Box::new(io::sink())), Stop::default(), Arc::default())
    }

    fn demand(wants: usize) -> Demand {
        Demand { wants: vec![Want { digest: Digest::of(b""), size: 0, old: Old::Nothing }; wants] }
    }

    #[test]
    fn content_reaches_the_plan_that_demanded_it() {
        let gate = SupplyGate::default();
        assert!(!gate.deliver(0, vec![Supply::End]), "nothing was demanded");
        let mut supplier = supplier(&gate);
        supplier.demand(demand(1)).unwrap();
        assert!(gate.deliver(2, vec![Supply::End]), "another plan's is passed over");
        assert!(gate.deliver(1, vec![Supply::Take(3)]) && gate.deliver(1, vec![Supply::End]));
        assert_eq!(supplier.next_supply().unwrap(), Supply::Take(3));
        assert_eq!(supplier.next_supply().unwrap(), Supply::End);
        assert!(!gate.deliver(1, vec![Supply::End]), "the answer was complete");
    }

    #[test]
    fn messages_that_come_together_are_given_one_by_one() {
        let gate = SupplyGate::default();
        let mut supplier = supplier(&gate);
        supplier.demand(demand(2)).unwrap();
        let all = [Supply::Take(1), Supply::End, Supply::Take(2), Supply::End];
        assert!(gate.deliver(1, all[..3].to_vec()) && gate.deliver(1, all[3..].to_vec()));
        for wanted in all {
            assert_eq!(supplier.next_supply().unwrap(), wanted);
        }
        supplier.demand(demand(1)).unwrap();
        assert!(!gate.deliver(1, vec![Supply::End, Supply::Take(1)]), "more than was demanded");
    }

    #[test]
    fn the_rest_of_an_unwanted_answer_passes_by() {
        let gate = SupplyGate::default();
        let mut given_up = supplier(&gate);
        given_up.demand(demand(2)).unwrap();
        assert!(gate.deliver(1, vec![Supply::End]));
        drop(given_up);
        // More than the queue holds: the reader of the channel is not held up.
        for _ in 0..IN_FLIGHT * 2 {
            assert!(gate.deliver(1, vec![Supply::Take(1)]));
        }
        assert!(gate.deliver(1, vec![Supply::End]));
        let mut next = supplier(&gate);
        next.demand(demand(1)).unwrap();
        assert!(gate.deliver(1, vec![Supply::Take(7)]));
        assert_eq!(next.next_supply().unwrap(), Supply::Take(7));
    }

    #[test]
    fn a_cancelled_plan_waits_for_nothing() {
        let gate = SupplyGate::default();
        let stop = Stop::default();
        let mut supplier =
            ChannelSupplier::new(1, gate, Outbox::new(Box::new(io::sink())), stop.clone(), Arc::default());
        supplier.demand(demand(1)).unwrap();
        stop.end_plan();
        assert_eq!(supplier.next_supply().unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
