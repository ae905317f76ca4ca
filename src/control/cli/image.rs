//! `image build`: the bare SSH image.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    args,
    failure::{Exit, Failure},
    output,
};
use crate::control::{
    drive,
    inventory::Engine as Address,
    lab::{DEFAULT_BASE, Engine, ImageProgress, ROOTFS_IMAGE},
    report::{self, clean},
};

pub(super) async fn image(args: args::Image) -> Result<Exit, Failure> {
    let args::Image::Build { base, rootfs, tag, engine } = args;
    let address = engine.map_or(Address::Default, Address::Address);
    let engine = Engine::connect(&address, drive::ENGINE_DEADLINE).await?;
    let progress = Progress::default();
    let base = match rootfs {
        Some(path) => {
            engine.import_rootfs(&path, ROOTFS_IMAGE, |event| progress.show(event)).await?;
            ROOTFS_IMAGE.to_owned()
        }
        None => base.unwrap_or_else(|| DEFAULT_BASE.to_owned()),
    };
    let id = engine.build_image(&base, &tag, |event| progress.show(event)).await?;
    output::result(&format!("{tag} {id}\n"))?;
    Ok(Exit::Done)
}

/// Lines of the build as they come, and now and then how much of a root file system was sent.
#[derive(Default)]
struct Progress {
    shown: AtomicU64,
}

impl Progress {
    /// Bytes between two lines about what was sent.
    const EVERY: u64 = 32 * 1024 * 1024;

    fn show(&self, event: ImageProgress) {
        match event {
            ImageProgress::Line(line) => output::progress(&clean(&line)),
            ImageProgress::Sent(bytes) => {
                let shown = self.shown.load(Ordering::Relaxed);
                if bytes >= shown + Self::EVERY {
                    self.shown.store(bytes, Ordering::Relaxed);
                    output::progress(&format!("sent {}", report::bytes(bytes)));
                }
            }
        }
    }
}
