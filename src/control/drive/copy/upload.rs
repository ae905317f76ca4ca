//! From here to hosts: one plan with one copy, answered from the source as a sync is.

use std::{os::unix::ffi::OsStrExt, path::Path, sync::Arc};

use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use super::{
    Copied, CopyError, HostSession, StepEnd,
    operand::{host_path, means_directory, name_of},
    plan_of,
};
use crate::{
    control::{drive::sources::Sources, event::Transfer},
    plan::{HostName, Landing, OfferKind, Put},
    tree::{Care, Root, ScanError, Skipped, SourceTree},
    wire::Mode,
};

/// A source that was scanned and where it goes.
pub(super) struct Upload {
    sources: Arc<Sources>,
    tree: SourceTree,
    kind: OfferKind,
    name: Option<Vec<u8>>,
    skipped: Skipped,
    dest: String,
}

impl Upload {
    /// Scans the source, once for all hosts.
    pub(super) async fn prepare(
        source: &Path,
        dest: &str,
        recursive: bool,
        sources: Arc<Sources>,
    ) -> Result<Self, CopyError> {
        let (path, dest) = (source.to_path_buf(), dest.to_owned());
        let scan = move || {
            let (tree, kind, skipped) = scan(&path, recursive, &sources)?;
            sources.offer(&tree);
            let name = name_of(path.as_os_str().as_bytes()).map(<[u8]>::to_vec);
            Ok(Self { sources, tree, kind, name, skipped, dest })
        };
        match tokio::task::spawn_blocking(scan).await {
            Ok(prepared) => prepared,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    pub(super) async fn run(
        &self,
        host: &HostName,
        session: &HostSession,
        mode: Mode,
        cancel: &CancellationToken,
    ) -> Result<Copied, CopyError> {
        let is_directory = means_directory(self.dest.as_bytes());
        let put = Put {
            dest: host_path(&self.dest, session.facts())?,
            landing: if is_directory { Landing::Inside } else { Landing::Either },
            name: self.name.clone(),
            kind: self.kind,
            tree: self.tree.summary().clone(),
            special_bits: true,
        };
        let (plan, end) = (plan_of(host, put)?, StepEnd::default());
        let before = session.transfer();
        let on_reports = |reports| {
            end.note(reports);
            std::future::ready(()).boxed()
        };
        let ended = session.run_plan(plan, mode, Care::Whole, &self.sources, cancel, on_reports).await?;
        if ended.cancelled {
            return Err(CopyError::Interrupted);
        }
        let summary = self.tree.summary();
        let mut copied = end.copied(summary.files, summary.bytes)?;
        let fresh = |transfer: Transfer| transfer.bytes.saturating_sub(transfer.reused_bytes);
        copied.sent = fresh(session.transfer()).saturating_sub(fresh(before));
        copied.skipped.clone_from(&self.skipped.first);
        copied.skipped_count = self.skipped.count;
        Ok(copied)
    }

    /// Waits until what was sent is kept for the next time.
    pub(super) async fn finish(self) {
        // Without it the next copy is slower, nothing else.
        let _ = tokio::task::spawn_blocking(move || self.sources.finish_keeping()).await;
    }
}

fn scan(path: &Path, recursive: bool, sources: &Sources) -> Result<(SourceTree, OfferKind, Skipped), CopyError> {
    let failed = |source: std::io::Error| ScanError::Open { path: path.to_path_buf(), source: source.kind().into() };
    let found = fs_err::metadata(path).map_err(failed)?;
    let shown = path.display();
    if found.is_dir() {
        if !recursive {
            return Err(CopyError::usage(format!("`{shown}` is a directory"), "copy directories with -r"));
        }
        let mtime = Root::open(path).and_then(|root| root.status()).map_err(failed)?.mtime;
        let (tree, skipped) = SourceTree::whole(path, sources.index(path).as_deref())?;
        Ok((tree, OfferKind::Directory { mtime }, skipped))
    } else if found.is_file() {
        Ok((SourceTree::file(path)?, OfferKind::File, Skipped::default()))
    } else {
        let hint = "only files, directories and links can be copied";
        Err(CopyError::usage(format!("cannot copy `{shown}`: it is a device, socket or pipe"), hint))
    }
}
