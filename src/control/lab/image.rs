//! Builds the bare SSH images, with runit or systemd: from a base that the engine can get, or from a root file system where no registry is in reach.

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    time::Duration,
};

use bollard::{
    body_full, body_try_stream,
    query_parameters::{BuildImageOptionsBuilder, CreateImageOptionsBuilder},
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};

use super::{Engine, LabError, output::printable, reader::ImageView, rootfs};
use crate::control::inventory::Init;

/// The tag of the bare SSH image, and what an inventory uses when it says nothing else.
pub const SSH_IMAGE: &str = "ovs-cuisine/ssh:latest";

/// The tag of the same image with systemd, and what an inventory uses for `init = "systemd"`.
pub const SYSTEMD_IMAGE: &str = "ovs-cuisine/ssh:systemd";

/// The tag of an imported root file system, the base of the SSH image where nothing can be pulled.
pub const ROOTFS_IMAGE: &str = "ovs-cuisine/rootfs:latest";

/// The base image when nothing else is said; also the default in the Dockerfile.
pub const DEFAULT_BASE: &str = "ubuntu:24.04";

/// For a whole build: the base may have to be pulled, and packages come over the network.
const BUILD: Duration = Duration::from_secs(30 * 60);

/// So many lines of a failed build are shown.
const TAIL: usize = 20;

/// A file of a build context: name, mode, content.
type ContextFile = (&'static str, u32, &'static [u8]);

/// The build contexts, carried in this program so that an image can be built anywhere.
const CONTEXT: [ContextFile; 4] = [
    ("Dockerfile", 0o644, include_bytes!("../../../images/ssh/Dockerfile")),
    ("runit-init", 0o755, include_bytes!("../../../images/ssh/runit-init")),
    ("ssh.run", 0o755, include_bytes!("../../../images/ssh/ssh.run")),
    ("sshd_config", 0o644, include_bytes!("../../../images/ssh/sshd_config")),
];

const SYSTEMD_CONTEXT: [ContextFile; 2] = [
    ("Dockerfile", 0o644, include_bytes!("../../../images/ssh-systemd/Dockerfile")),
    ("systemd-init", 0o755, include_bytes!("../../../images/ssh-systemd/systemd-init")),
];

/// How far an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageProgress {
    /// A line of the build's output.
    Line(String),
    /// So many bytes of a root file system were sent.
    Sent(u64),
}

impl Engine {
    /// Builds the bare SSH image from a base image and gives its id. The engine pulls the base when it does not have it. That
    /// with systemd is built on that with runit, whose tag is then the base.
    ///
    /// A failing step is an error with its output.
    pub async fn build_image(
        &self,
        init: Init,
        base: &str,
        tag: &str,
        on_progress: impl Fn(ImageProgress) + Send + Sync,
    ) -> Result<String, LabError> {
        let failed = |message: String, output_tail| LabError::Build { image: tag.to_owned(), message, output_tail };
        let files: &[ContextFile] = match init {
            Init::Runit => &CONTEXT,
            Init::Systemd => &SYSTEMD_CONTEXT,
        };
        let context = context(files).map_err(|error| failed(error.to_string(), Vec::new()))?;
        let options = BuildImageOptionsBuilder::new()
            .dockerfile("Dockerfile")
            .t(tag)
            .buildargs(&HashMap::from([("BASE", base)]))
            .rm(true)
            .forcerm(true)
            .build();
        let output = self.docker().build_image(options, None, Some(body_full(context)));
        let lines = output.map(|item| item.map(|info| info.stream.or(info.status).unwrap_or_default()));
        let mut tail = VecDeque::new();
        let action = format!("build image `{tag}`");
        let drained = self.drain(&action, lines, |line| {
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(line.to_owned());
            on_progress(ImageProgress::Line(line.to_owned()));
        });
        match drained.await {
            Ok(()) => self.image_of(tag).await,
            Err(LabError::Api { source, .. }) => Err(failed(source.message, tail.into())),
            Err(error) => Err(error),
        }
    }

    /// Imports a root file system, a directory or a tar archive (plain, gzip, bzip2 or xz), and gives the image's id. Its
    /// tag, usually [`ROOTFS_IMAGE`], is then the base for [`Engine::build_image`]. A directory is packed with its owners
    /// and modes, which only root can read wholly.
    pub async fn import_rootfs(
        &self,
        path: &Path,
        tag: &str,
        on_progress: impl Fn(ImageProgress) + Send + Sync,
    ) -> Result<String, LabError> {
        let unreadable = |source| LabError::Rootfs { path: path.to_owned(), source };
        let (archive, packing) = rootfs::archive(path).map_err(unreadable)?;
        let options = CreateImageOptionsBuilder::new().from_src("-").repo(tag).build();
        let sent = packing.sent();
        let output = self.docker().create_image(Some(options), Some(body_try_stream(archive)), None);
        let lines = output.map(|item| item.map(|info| info.status.unwrap_or_default()));
        let import = self.drain("import a root file system", lines, |line| {
            on_progress(ImageProgress::Line(line.to_owned()));
        });
        tokio::pin!(import);
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        let imported = loop {
            tokio::select! {
                result = &mut import => break result,
                _ = tick.tick() => on_progress(ImageProgress::Sent(sent.bytes())),
            }
        };
        // When packing failed, the engine's complaint about half an archive says less than the reason.
        packing.result().await.map_err(unreadable)?;
        imported?;
        self.image_of(tag).await
    }

    /// Reads a stream of progress to its end: an error may be its very last item.
    async fn drain(
        &self,
        action: &str,
        output: impl Stream<Item = Result<String, bollard::errors::Error>> + Send,
        mut on_line: impl FnMut(&str) + Send,
    ) -> Result<(), LabError> {
        let drained = async {
            tokio::pin!(output);
            while let Some(piece) = output.next().await {
                for line in piece?.lines().map(printable).filter(|line| !line.is_empty()) {
                    on_line(&line);
                }
            }
            Ok(())
        };
        self.call(action, BUILD, drained).await
    }

    async fn image_of(&self, tag: &str) -> Result<String, LabError> {
        let action = format!("look at image `{tag}`");
        self.read::<ImageView>(&action, &format!("/images/{tag}/json")).await.map(|image| image.id)
    }
}

fn context(files: &[ContextFile]) -> std::io::Result<Bytes> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, mode, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_size(content.len() as u64);
        // No time of ours: the engine's build cache compares it.
        header.set_mtime(0);
        tar.append_data(&mut header, name, *content)?;
    }
    tar.into_inner().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_base_is_the_dockerfiles() {
        for (files, base) in [(&CONTEXT[..], DEFAULT_BASE), (&SYSTEMD_CONTEXT, SSH_IMAGE)] {
            assert!(String::from_utf8_lossy(files[0].2).contains(&format!("ARG BASE={base}\n")));
        }
    }

    #[test]
    fn every_file_that_the_dockerfile_copies_is_in_the_context() {
        for files in [&CONTEXT[..], &SYSTEMD_CONTEXT] {
            let dockerfile = String::from_utf8_lossy(files[0].2);
            let copied: Vec<&str> = dockerfile
                .lines()
                .filter_map(|line| line.strip_prefix("COPY "))
                .filter_map(|line| line.split_whitespace().next())
                .collect();
            assert_eq!(copied.len(), files.len() - 1);
            assert!(copied.iter().all(|name| files.iter().any(|file| file.0 == *name)), "{copied:?}");
        }
    }
}
