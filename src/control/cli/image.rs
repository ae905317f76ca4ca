//! `image build`: the bare SSH image.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    args,
    failure::{Exit, Failure},
    output,
};
use crate::control::{
    drive,
    inventory::{Engine as Address, Init},
    lab::{DEFAULT_BASE, Engine, ImageProgress, ROOTFS_IMAGE, SSH_IMAGE, SYSTEMD_IMAGE},
    report::{self, clean},
};

pub(super) async fn image(args: args::Image) -> Result<Exit, Failure> {
    let args::Image::Build { init, base, rootfs, tag, engine } = args;
    let (init_kind, default_base, default_tag) = match init {
        args::Init::Runit => (Init::Runit, DEFAULT_BASE, SSH_IMAGE),
        args::Init::Systemd => (Init::Systemd, SSH_IMAGE, SYSTEMD_IMAGE),
    };
    let address = engine.map_or(Address::Default, Address::Address);
    let engine = Engine::connect(&address, drive::ENGINE_DEADLINE).await?;
    let progress = Progress::default();
    let base = match rootfs {
        Some(path) => {
            if init == args::Init::Systemd {
                let error = "the image with systemd is built on the bare SSH image, not on a root file system";
                let hint =
                    "`ovs-cuisine image build --rootfs ...` first, then `ovs-cuisine image build --init systemd`";
                return Err(Failure::bad_input(error).hint(hint));
            }
            engine.import_rootfs(&path, ROOTFS_IMAGE, |event| progress.show(event)).await?;
            ROOTFS_IMAGE.to_owned()
        }
        None => base.unwrap_or_else(|| default_base.to_owned()),
    };
    let tag = tag.unwrap_or_else(|| default_tag.to_owned());
    let id = engine.build_image(init_kind, &base, &tag, |event| progress.show(event)).await?;
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
