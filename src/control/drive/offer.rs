//! Content of a host that this side fetches: the roles of a plan, reversed.

use std::time::Duration;

use tokio::{sync::mpsc, time::timeout};

use super::{
    HostError, HostSession,
    session::{Inbound, RequestGuard},
};
use crate::{
    plan::{HostPath, Offer, OpFailure},
    tree::{Demand, MAX_NAMED, Supply},
    wire::ToHelper,
};

/// Messages of content that may wait. A host that sends without being asked waits after so many.
const SUPPLIES: usize = 8;
/// How long a host may take to look at what it is asked for: it reads all of it once.
const LOOK_DEADLINE: Duration = Duration::from_secs(3600);
/// How long a host may take for the next message of an answer: it may have a large file to read first.
const SUPPLY_DEADLINE: Duration = Duration::from_secs(300);

/// Longest text about one entry in bytes: a path and a few words.
const MAX_NAME: usize = 4096 + 128;

/// Something that a host offers. It lasts until it is dropped or withdrawn.
pub(super) struct OpenOffer<'s> {
    pub(super) offer: Offer,
    inbox: mpsc::Receiver<Inbound>,
    guard: RequestGuard<'s>,
}

impl HostSession {
    /// Asks for what is at a path; `recursive` says whether it may be a directory. The inner error is the host's answer.
    pub(super) async fn fetch(
        &self,
        path: HostPath,
        recursive: bool,
    ) -> Result<Result<OpenOffer<'_>, OpFailure>, HostError> {
        let (request, mut inbox) = self.register_for(SUPPLIES)?;
        let guard = RequestGuard { session: self, request };
        self.send(&ToHelper::Fetch { request, path, recursive }).await?;
        match timeout(LOOK_DEADLINE, inbox.recv()).await {
            Err(_) => Err(HostError::Silent { seconds: LOOK_DEADLINE.as_secs() }),
            Ok(Some(Inbound::Offered(Ok(offer)))) => Ok(Ok(OpenOffer { offer: bounded(offer), inbox, guard })),
            Ok(Some(Inbound::Offered(Err(failure)))) => Ok(Err(failure)),
            Ok(Some(_)) => Err(HostError::Protocol("something else than an offer")),
            Ok(None) => Err(self.lost()),
        }
    }
}

/// An offer without what no honest host says at such length.
fn bounded(mut offer: Offer) -> Offer {
    offer.skipped.truncate(MAX_NAMED);
    for named in &mut offer.skipped {
        if let Some((at, _)) = named.char_indices().take_while(|(at, _)| *at <= MAX_NAME).last()
            && named.len() > MAX_NAME
        {
            named.truncate(at);
        }
    }
    offer
}

impl OpenOffer<'_> {
    /// Demands content. The whole answer has to be taken before the next demand.
    pub(super) async fn demand(&self, demand: Demand) -> Result<(), HostError> {
        let request = self.guard.request;
        self.guard.session.send(&ToHelper::Demand { request, demand }).await
    }

    /// The next message of the answer.
    pub(super) async fn next_supply(&mut self) -> Result<Supply, HostError> {
        match timeout(SUPPLY_DEADLINE, self.inbox.recv()).await {
            Err(_) => Err(HostError::Silent { seconds: SUPPLY_DEADLINE.as_secs() }),
            Ok(Some(Inbound::Supply(supply))) => Ok(supply),
            Ok(Some(_)) => Err(HostError::Protocol("something else than content")),
            Ok(None) => Err(self.guard.session.lost()),
        }
    }

    /// Tells the host that nothing more is wanted.
    pub(super) async fn withdraw(self) -> Result<(), HostError> {
        let request = self.guard.request;
        self.guard.session.send(&ToHelper::Cancel { request }).await
    }
}
