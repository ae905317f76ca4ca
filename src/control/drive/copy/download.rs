//! From hosts to here: the host answers the demands of a child on this machine.

use tokio_util::sync::CancellationToken;

use super::{
    Copied, CopyDirection, CopyError, CopyRequest, HostSession, StepEnd,
    landing::Destination,
    operand::{host_path, name_of},
    plan_of,
    receiver::{Program, Receiver},
};
use crate::{
    control::drive::{meter::Said, offer::OpenOffer},
    plan::{HostName, OfferKind, Put},
    tree::{Demand, Digest},
    wire::{FromHelper, Mode, ToHelper},
};

/// The number of the one plan that a child gets.
const REQUEST: u32 = 1;

/// What is fetched and where it lands.
pub(super) struct Download {
    program: Program,
    source: String,
    name: Option<Vec<u8>>,
    destination: Destination,
    recursive: bool,
}

impl Download {
    /// Looks at the destination before any host is asked.
    pub(super) fn prepare(source: &str, dest: &std::path::Path, request: &CopyRequest) -> Result<Self, CopyError> {
        let per_host = request.hosts.len() > 1;
        debug_assert!(matches!(request.direction, CopyDirection::Download { .. }));
        Ok(Self {
            program: Program::load()?,
            source: source.to_owned(),
            name: name_of(source.as_bytes()).map(<[u8]>::to_vec).filter(|name| name != b"~"),
            destination: Destination::prepare(dest, per_host)?,
            recursive: request.recursive,
        })
    }

    pub(super) async fn run(
        &self,
        host: &HostName,
        session: &HostSession,
        mode: Mode,
        cancel: &CancellationToken,
    ) -> Result<Copied, CopyError> {
        let path = host_path(&self.source, session.facts())?;
        let fetched = tokio::select! {
            fetched = session.fetch(path.clone(), self.recursive) => fetched?,
            () = cancel.cancelled() => return Err(CopyError::Interrupted),
        };
        let mut offer = fetched.map_err(CopyError::Refused)?;
        let is_directory = matches!(offer.offer.kind, OfferKind::Directory { .. });
        if is_directory && !self.recursive {
            return Err(CopyError::Protocol("a directory was offered that was not asked for"));
        }
        if self.name.is_none() && !is_directory {
            return Err(CopyError::usage(format!("`{path}` is not a directory"), "leave out the `/.` at the end"));
        }
        let (dest, landing) = self.destination.of(host)?;
        // What the host calls it is for nobody to read, and it leaves nothing out.
        let tree = &mut offer.offer.tree;
        tree.origin = format!("{host}:{path}");
        tree.ignore.clear();
        tree.xattrs = false;
        let put = Put {
            dest,
            landing,
            name: self.name.clone(),
            kind: offer.offer.kind,
            tree: tree.clone(),
            special_bits: false,
        };
        let mut receiver = Receiver::start(&self.program)?;
        let plan = plan_of(host, put)?;
        let relayed = tokio::select! {
            relayed = async {
                receiver.send(&ToHelper::Plan { request: REQUEST, mode, plan }).await?;
                relay(&mut receiver, &mut offer).await
            } => relayed,
            () = cancel.cancelled() => Err(CopyError::Interrupted),
        };
        receiver.close().await;
        let (skipped, skipped_count) = (std::mem::take(&mut offer.offer.skipped), offer.offer.skipped_count);
        // A host that is gone takes no word; what was copied is copied.
        let _ = offer.withdraw().await;
        Ok(Copied { skipped, skipped_count, ..relayed? })
    }
}

/// Passes demands of the child to the host and its answers back, until the child has said how the copy ended.
async fn relay(receiver: &mut Receiver, offer: &mut OpenOffer<'_>) -> Result<Copied, CopyError> {
    let (end, mut sent) = (StepEnd::default(), 0);
    loop {
        match receiver.next().await? {
            Some(FromHelper::Demand { demand, .. }) => answer(demand, receiver, offer, &mut sent).await?,
            Some(FromHelper::Steps { reports, .. }) => end.note(reports),
            Some(FromHelper::Done { .. }) => break,
            Some(_) => return Err(CopyError::Protocol("the child said what it may not say")),
            None => return Err(CopyError::Receiver(std::io::ErrorKind::UnexpectedEof.into())),
        }
    }
    let copied = end.copied(offer.offer.tree.files, offer.offer.tree.bytes)?;
    Ok(Copied { sent, ..copied })
}

/// Passes on the answer to one demand; counts the bytes of content in it.
async fn answer(
    demand: Demand,
    receiver: &mut Receiver,
    offer: &mut OpenOffer<'_>,
    sent: &mut u64,
) -> Result<(), CopyError> {
    let wants: Vec<Digest> = demand.wants.iter().map(|want| want.digest).collect();
    offer.demand(demand).await?;
    let mut open = 0;
    while let Some(digest) = wants.get(open) {
        let supply = offer.next_supply().await?;
        // The manifest, which every copy sends, is none of its content.
        if *digest != offer.offer.tree.manifest {
            *sent = sent.saturating_add(match Said::by(&supply) {
                Said::New(bytes) => bytes,
                _ => 0,
            });
        }
        open += usize::from(supply.ends_want());
        if !receiver.send(&ToHelper::Supply { request: REQUEST, supply }).await? {
            // It wants no more of this; what it says next tells why.
            return Ok(());
        }
    }
    Ok(())
}
