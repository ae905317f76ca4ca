//! The way from the near side: reads messages and hands each to who waits for it.

use std::{
    collections::HashMap,
    io::Read,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{SyncSender, TrySendError},
    },
};

use super::{offers::Offers, stop::Stop, supply::SupplyGate};
use crate::{
    plan::{Plan, Question},
    tree::Larder,
    wire::{self, FrameError, MAX_SUPPLIES, Mode, NearHello, PROTOCOL, ToHelper},
};

/// A plan that waits for its turn.
pub(crate) struct QueuedPlan {
    pub(crate) request: u32,
    pub(crate) mode: Mode,
    pub(crate) plan: Plan,
    /// What came ahead of it.
    pub(crate) larder: Larder,
    pub(crate) stop: Stop,
}

/// Questions that wait for an answer.
pub(crate) struct QueuedQuestions {
    pub(crate) request: u32,
    pub(crate) questions: Vec<Question>,
}

/// Plans that wait or run, so that each can be cancelled. Clones share their state.
#[derive(Clone, Default)]
pub(crate) struct Running {
    stops: Arc<Mutex<HashMap<u32, Stop>>>,
}

impl Running {
    /// The plan with this number is done.
    pub(crate) fn remove(&self, request: u32) {
        self.lock().remove(&request);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Stop>> {
        self.stops.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why the near side is no longer listened to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InboxError {
    /// The stream is broken or is not of this protocol.
    #[error("cannot read a message: {0}")]
    Frame(#[from] FrameError),
    /// The first message is not a hello.
    #[error("the near side did not say hello")]
    NoHello,
    /// The near side is of another build.
    #[error("the near side speaks protocol {0}, this helper {PROTOCOL}")]
    Protocol(u32),
    /// A message that is not allowed at this point.
    #[error("the near side sent {0}")]
    Unexpected(&'static str),
}

/// Reads the near side's hello. None when the stream ends before it.
pub(crate) fn read_hello(input: &mut impl Read) -> Result<Option<NearHello>, InboxError> {
    match wire::read_message(input)? {
        Some(ToHelper::Hello(hello)) if hello.protocol == PROTOCOL => Ok(Some(hello)),
        Some(ToHelper::Hello(hello)) => Err(InboxError::Protocol(hello.protocol)),
        Some(_) => Err(InboxError::NoHello),
        None => Ok(None),
    }
}

/// Hands messages on.
pub(crate) struct Inbox {
    pub(crate) plans: SyncSender<QueuedPlan>,
    pub(crate) questions: SyncSender<QueuedQuestions>,
    pub(crate) gate: SupplyGate,
    pub(crate) offers: Offers,
    pub(crate) running: Running,
    pub(crate) stop: Stop,
}

impl Inbox {
    /// Reads until the near side says goodbye or the stream ends.
    pub(crate) fn read(&self, input: &mut impl Read) -> Result<(), InboxError> {
        let mut came_ahead: Option<(u32, Larder)> = None;
        while let Some(message) = wire::read_message(input)? {
            match message {
                ToHelper::Bye => return Ok(()),
                ToHelper::Hello(_) => return Err(InboxError::Unexpected("a second hello")),
                ToHelper::Ahead { request, ahead } => {
                    let larder = Larder::of(ahead).ok_or(InboxError::Unexpected("too much ahead of a plan"))?;
                    came_ahead = Some((request, larder));
                }
                ToHelper::Plan { request, mode, plan } => {
                    let larder = came_ahead.take().filter(|(of, _)| *of == request).map(|(_, larder)| larder);
                    self.queue(request, mode, plan, larder.unwrap_or_default())?;
                }
                ToHelper::Ask { request, questions } => self
                    .questions
                    .try_send(QueuedQuestions { request, questions })
                    .map_err(|_| InboxError::Unexpected("too many questions at once"))?,
                ToHelper::Supply { request, supply } => {
                    if !self.gate.deliver(request, vec![supply]) {
                        return Err(InboxError::Unexpected("content that was not demanded"));
                    }
                }
                ToHelper::Supplies { request, supplies } => {
                    if supplies.len() > MAX_SUPPLIES {
                        return Err(InboxError::Unexpected("too many messages at once"));
                    }
                    if !self.gate.deliver(request, supplies) {
                        return Err(InboxError::Unexpected("content that was not demanded"));
                    }
                }
                ToHelper::Cancel { request } => {
                    // A plan that is done already needs no cancelling.
                    if let Some(stop) = self.running.lock().get(&request) {
                        stop.end_plan();
                    }
                    self.offers.withdraw(request);
                }
                ToHelper::Fetch { request, path, recursive } => {
                    if !self.offers.make(request, path, recursive) {
                        return Err(InboxError::Unexpected("too many offers at once, or two with one number"));
                    }
                }
                ToHelper::Demand { request, demand } => {
                    if !self.offers.demand(request, demand) {
                        return Err(InboxError::Unexpected("two demands at once"));
                    }
                }
            }
        }
        Ok(())
    }

    fn queue(&self, request: u32, mode: Mode, plan: Plan, larder: Larder) -> Result<(), InboxError> {
        let stop = self.stop.for_plan();
        if self.running.lock().insert(request, stop.clone()).is_some() {
            return Err(InboxError::Unexpected("two plans with one number"));
        }
        self.plans.try_send(QueuedPlan { request, mode, plan, larder, stop }).map_err(|error| match error {
            TrySendError::Full(_) => InboxError::Unexpected("too many plans at once"),
            TrySendError::Disconnected(_) => InboxError::Unexpected("a plan after the end"),
        })
    }
}
