//! Copies by hand, to hosts and from them, over the same sync engine as everything else.
//!
//! What a host says is never written by this process: a child of its own, the same program that works on hosts, puts it
//! into place and believes nothing before its hash fits.

mod download;
mod error;
mod landing;
mod operand;
mod receiver;
mod upload;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

pub use self::error::CopyError;
use super::{DriveError, Events, Fleet, HostSession, fleet::DEFAULT_JOBS, sources::Sources};
use crate::{
    control::inventory::Inventory,
    plan::{ComponentName, Detail, Diff, HostName, Op, Outcome, Plan, Put, Source, Step, StepId},
    wire::{Mode, StepEvent, StepReport},
};

/// What is to be copied where.
pub struct CopyRequest {
    /// The lab.
    pub inventory: Arc<Inventory>,
    /// The hosts that take part.
    pub hosts: Vec<HostName>,
    /// To them or from them.
    pub direction: CopyDirection,
    /// Whether directories are copied.
    pub recursive: bool,
    /// Whether to stop at the diff.
    pub mode: Mode,
    /// At most so many hosts at once.
    pub jobs: Option<usize>,
    /// Where caches live; none when there is no such place.
    pub cache: Option<PathBuf>,
}

/// To hosts or from them. Paths on hosts may be relative to the home directory of the helper's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyDirection {
    /// To each host.
    Upload {
        /// A file or directory here.
        source: PathBuf,
        /// Where to on each host.
        dest: String,
    },
    /// From each host.
    Download {
        /// A file or directory there.
        source: String,
        /// Where to here: from one host as cp(1) does, from several into a directory for each, named after it.
        dest: PathBuf,
    },
}

/// What came of a copy to or from one host.
#[derive(Debug)]
pub struct CopyReport {
    /// Which host.
    pub host: HostName,
    /// What was copied, or why it was not.
    pub end: Result<Copied, CopyError>,
    /// How long it took in milliseconds, connecting included.
    pub millis: u64,
}

/// What was copied, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copied {
    /// Regular files of the source.
    pub files: u64,
    /// Sum of their sizes in bytes.
    pub bytes: u64,
    /// Whether something was changed (in a check: would be).
    pub is_changed: bool,
    /// Entries made new.
    pub created: u64,
    /// Entries whose content or attributes changed.
    pub modified: u64,
    /// The first changed paths, each prefixed with `+` or `~`.
    pub paths: Vec<String>,
    /// Bytes of content that had to be sent, before compression.
    pub sent: u64,
    /// Sockets, pipes and devices that were left out: the first ones.
    pub skipped: Vec<String>,
    /// How many were left out.
    pub skipped_count: u64,
}

/// Copies to or from every host; `on_report` sees each as soon as it is done. A failure at one host stops no other. An
/// error means that the copy could not begin and that nothing was changed anywhere.
pub async fn copy(
    request: CopyRequest,
    cancel: CancellationToken,
    mut on_report: impl FnMut(CopyReport),
) -> Result<(), CopyError> {
    let direction = Direction::prepare(&request).await?;
    let keyring = super::open_keyring(&request.inventory).map_err(|error| CopyError::Start(Box::new(error)))?;
    let (events, mut inbox) = Events::channel();
    // Nothing is shown of connections but how they failed, which the error says too.
    tokio::spawn(async move { while inbox.recv().await.is_some() {} });
    let inventory = Arc::clone(&request.inventory);
    let fleet = Fleet::new(inventory, keyring, events, request.jobs, cancel.clone());
    let work = Work { fleet: &fleet, direction: &direction, request: &request, cancel: &cancel };
    let jobs = request.jobs.unwrap_or(DEFAULT_JOBS).max(1);
    let mut reports = stream::iter(&request.hosts).map(|host| work.host(host)).buffer_unordered(jobs);
    while let Some(report) = reports.next().await {
        on_report(report);
    }
    drop(reports);
    fleet.close().await;
    direction.finish().await;
    Ok(())
}

/// What is known before any host is connected to.
enum Direction {
    Upload(upload::Upload),
    Download(download::Download),
}

impl Direction {
    async fn prepare(request: &CopyRequest) -> Result<Self, CopyError> {
        Ok(match &request.direction {
            CopyDirection::Upload { source, dest } => {
                let is_shared = request.hosts.len() > 1;
                let sources = Arc::new(Sources::new(request.cache.clone(), is_shared));
                Self::Upload(upload::Upload::prepare(source, dest, request.recursive, sources).await?)
            }
            CopyDirection::Download { source, dest } => {
                Self::Download(download::Download::prepare(source, dest, request)?)
            }
        })
    }

    async fn finish(self) {
        if let Self::Upload(upload) = self {
            upload.finish().await;
        }
    }
}

struct Work<'a> {
    fleet: &'a Fleet,
    direction: &'a Direction,
    request: &'a CopyRequest,
    cancel: &'a CancellationToken,
}

impl Work<'_> {
    async fn host(&self, host: &HostName) -> CopyReport {
        let started = Instant::now();
        let end = self.copy(host).await;
        // What fails after an interrupt fails because of it.
        let end = end.map_err(|error| if self.cancel.is_cancelled() { CopyError::Interrupted } else { error });
        let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        CopyReport { host: host.clone(), end, millis }
    }

    async fn copy(&self, host: &HostName) -> Result<Copied, CopyError> {
        if self.cancel.is_cancelled() {
            return Err(CopyError::Interrupted);
        }
        let session: Arc<HostSession> = self.fleet.session(host).await.map_err(CopyError::Host)?;
        match self.direction {
            Direction::Upload(upload) => upload.run(host, &session, self.request.mode, self.cancel).await,
            Direction::Download(download) => download.run(host, &session, self.request.mode, self.cancel).await,
        }
    }
}

/// A plan that holds nothing but one copy.
fn plan_of(host: &HostName, put: Put) -> Result<Plan, CopyError> {
    let component: ComponentName = "ad-hoc.cp".parse().map_err(|_| CopyError::Protocol("the plan cannot be named"))?;
    let step = Step {
        id: StepId(0),
        key: "put".to_owned(),
        op: Op::Put(put),
        source: Source { file: "command line".to_owned(), line: 0 },
        only_if_changed: Vec::new(),
        sensitive: false,
        ignore_errors: false,
    };
    Ok(Plan { component, host: host.clone(), steps: vec![step] })
}

/// How the one step of a plan ended.
#[derive(Debug, Default)]
struct StepEnd(Mutex<Option<(Outcome, Option<Diff>)>>);

impl StepEnd {
    fn note(&self, reports: Vec<StepReport>) {
        for report in reports {
            if let StepEvent::Finished { outcome, diff, .. } = report.event {
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((outcome, diff));
            }
        }
    }

    /// What was copied of something that holds so many files and bytes.
    fn copied(&self, files: u64, bytes: u64) -> Result<Copied, CopyError> {
        let end = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (outcome, diff) = end.ok_or(CopyError::Protocol("no word of how the copy ended"))?;
        let mut copied = Copied { files, bytes, ..Copied::default() };
        match outcome {
            Outcome::NoChange => return Ok(copied),
            Outcome::Changed | Outcome::WouldChange => copied.is_changed = true,
            Outcome::Failed(failure) => return Err(CopyError::Refused(failure)),
            Outcome::Unknown { .. } | Outcome::Skipped { .. } | Outcome::NotAttempted => {
                return Err(CopyError::Protocol("a copy that was not attempted"));
            }
        }
        for detail in diff.iter().flat_map(|diff| &diff.changes).flat_map(|change| &change.details) {
            if let Detail::Tree { created, modified, paths, .. } = detail {
                (copied.created, copied.modified) = (*created, *modified);
                copied.paths.clone_from(paths);
            }
        }
        Ok(copied)
    }
}

impl From<DriveError> for CopyError {
    fn from(error: DriveError) -> Self {
        Self::Start(Box::new(error))
    }
}
