//! What the near side fetches from this host: a scan that writes nothing, then answers to demands for its content.

use std::{
    collections::HashMap,
    error::Error as _,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use super::{
    failure::{bad_input, io_failure},
    outbox::Outbox,
    stop::Stop,
};
use crate::{
    plan::{FailureKind, HostPath, Offer, OfferKind, OpFailure},
    tree::{Contents, Demand, HashError, Root, ScanError, Skipped, SourceTree, WalkError},
    wire::FromHelper,
};

/// How many offers may be open. The near side fetches one thing at a time.
const MAX_OFFERS: usize = 8;

/// Offers that are open. Clones share their state.
#[derive(Clone)]
pub(crate) struct Offers {
    open: Arc<Mutex<HashMap<u32, Open>>>,
    outbox: Outbox,
    stop: Stop,
}

struct Open {
    demands: SyncSender<Demand>,
    stop: Stop,
}

impl Offers {
    /// Offers whose answers go to `outbox`; none is answered after `stop`.
    pub(crate) fn new(outbox: Outbox, stop: Stop) -> Self {
        Self { open: Arc::default(), outbox, stop }
    }

    /// Begins to look at a path; the answer follows. False when too many offers are open or the number is taken.
    pub(crate) fn make(&self, request: u32, path: HostPath, recursive: bool) -> bool {
        let mut open = self.lock();
        if open.len() >= MAX_OFFERS || open.contains_key(&request) {
            return false;
        }
        // One may be asked while the end of the one before is still on its way.
        let (demands, queue) = sync_channel(1);
        let stop = self.stop.for_plan();
        open.insert(request, Open { demands, stop: stop.clone() });
        let offers = self.clone();
        thread::spawn(move || {
            offers.serve(request, &path, recursive, &queue, &stop);
            offers.lock().remove(&request);
        });
        true
    }

    /// Passes a demand on. False when more are open than may be.
    pub(crate) fn demand(&self, request: u32, demand: Demand) -> bool {
        match self.lock().get(&request).map(|open| open.demands.try_send(demand)) {
            Some(Err(TrySendError::Full(_))) => false,
            // An offer that is over needs no answers.
            Some(Ok(()) | Err(TrySendError::Disconnected(_))) | None => true,
        }
    }

    /// The near side wants nothing more of an offer.
    pub(crate) fn withdraw(&self, request: u32) {
        if let Some(open) = self.lock().remove(&request) {
            open.stop.end_plan();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, request: u32, path: &HostPath, recursive: bool, demands: &Receiver<Demand>, stop: &Stop) {
        let (offer, contents) = match look(path, recursive) {
            Ok((offer, contents)) => (Ok(offer), Some(contents)),
            Err(failure) => (Err(failure), None),
        };
        let told = self.outbox.send(&FromHelper::Offered { request, offer });
        let (Ok(()), Some(contents)) = (told, contents) else { return };
        for demand in demands {
            let answered = contents.answer(&demand, &mut |supply| {
                if stop.is_set() {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                self.outbox.send(&FromHelper::Supply { request, supply })
            });
            if answered.is_err() {
                return;
            }
        }
    }
}

/// Looks at what a path leads to.
fn look(path: &HostPath, recursive: bool) -> Result<(Offer, Contents), OpFailure> {
    let found = fs_err::metadata(path.as_path()).map_err(|error| {
        let failure = io_failure("copy", path, &error);
        if error.kind() == io::ErrorKind::NotFound { failure.hint("see what is there with `ls`") } else { failure }
    })?;
    let (tree, kind, skipped) = if found.is_dir() {
        if !recursive {
            return Err(bad_input(format!("`{path}` is a directory")).hint("copy directories with -r"));
        }
        let root = Root::open(path.as_path()).and_then(|root| root.status());
        let mtime = root.map_err(|error| io_failure("open", path, &error))?.mtime;
        let (tree, skipped) = SourceTree::whole(path.as_path(), None).map_err(|error| scan_failure(&error))?;
        (tree, OfferKind::Directory { mtime }, skipped)
    } else if found.is_file() {
        let tree = SourceTree::file(path.as_path()).map_err(|error| scan_failure(&error))?;
        (tree, OfferKind::File, Skipped::default())
    } else {
        return Err(bad_input(format!("cannot copy `{path}`: it is a device, socket or pipe"))
            .hint("only files, directories and links can be copied"));
    };
    let mut contents = Contents::new();
    contents.add_tree(&tree);
    let tree = tree.summary().clone();
    Ok((Offer { kind, tree, skipped: skipped.first, skipped_count: skipped.count }, contents))
}

fn scan_failure(error: &ScanError) -> OpFailure {
    let failure = match error {
        ScanError::Open { path, source }
        | ScanError::Walk(WalkError::Read { path, source })
        | ScanError::File { path, source: HashError::Read(source) } => io_failure("read", path.display(), source),
        other => {
            let mut text = other.to_string();
            let mut cause = other.source();
            while let Some(inner) = cause {
                text = format!("{text}: {inner}");
                cause = inner.source();
            }
            OpFailure::new(FailureKind::Io, text)
        }
    };
    if failure.hint.is_some() { failure } else { failure.hint("run again when nothing changes it") }
}
