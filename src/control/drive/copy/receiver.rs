//! The child that puts what a host says into place on this machine.

use std::{
    ffi::OsStr,
    io::{self, Write},
    os::fd::{AsRawFd, OwnedFd},
    process::Stdio,
    time::Duration,
};

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::CopyError;
use crate::{
    control::link::HelperProgram,
    wire::{self, FrameDecoder, FromHelper, ToHelper},
};

/// Bytes read at once.
const READ: usize = 64 * 1024;
/// How long the child may take to sweep what it has begun when a copy is given up.
const FAREWELL: Duration = Duration::from_secs(2);

/// The program in memory, where nobody can replace it.
#[derive(Debug)]
pub(super) struct Program(OwnedFd);

impl Program {
    /// Unpacks it.
    pub(super) fn load() -> Result<Self, CopyError> {
        let content = HelperProgram::native()?.content()?;
        let make = || -> io::Result<OwnedFd> {
            let fd = memfd_create("cuisine-helper", MemfdFlags::CLOEXEC)?;
            let mut file = std::fs::File::from(fd);
            file.write_all(&content)?;
            Ok(file.into())
        };
        Ok(Self(make().map_err(CopyError::Receiver)?))
    }
}

/// A child that puts one copy into place. Dropping it kills it.
pub(super) struct Receiver {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    decoder: FrameDecoder,
}

impl Receiver {
    /// Starts the child.
    pub(super) fn start(program: &Program) -> Result<Self, CopyError> {
        // The path leads to the program in the child too: the descriptor is closed by its start, not before.
        let path = format!("/proc/self/fd/{}", program.0.as_raw_fd());
        let mut command = Command::new(path);
        // In a group of its own: an interrupt from the terminal is for us, and the child is told to sweep.
        let command = command.arg0(OsStr::new("cuisine-helper")).arg("receive").process_group(0).kill_on_drop(true);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(CopyError::Receiver)?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = output.ok_or(CopyError::Protocol("the child has no output"))?;
        Ok(Self { child, input, output, decoder: FrameDecoder::default() })
    }

    /// Sends a message; whether the child still takes any. One that does not has said why, or will.
    pub(super) async fn send(&mut self, message: &ToHelper) -> Result<bool, CopyError> {
        let frame = if message.is_packed() { wire::encode_packed(message) } else { wire::encode(message) };
        let frame = frame.map_err(|_| CopyError::Protocol("a message for the child is too long"))?;
        let Some(input) = &mut self.input else { return Ok(false) };
        Ok(input.write_all(&frame).await.is_ok())
    }

    /// The next message of the child; none when it has ended.
    pub(super) async fn next(&mut self) -> Result<Option<FromHelper>, CopyError> {
        let mut buffer = vec![0; READ];
        loop {
            let broken = |error: wire::FrameError| CopyError::Receiver(io::Error::other(error));
            if let Some(frame) = self.decoder.next_frame().map_err(broken)? {
                return wire::decode(&frame).map(Some).map_err(broken);
            }
            match self.output.read(&mut buffer).await.map_err(CopyError::Receiver)? {
                0 => return Ok(None),
                count => self.decoder.push(&buffer[..count]),
            }
        }
    }

    /// Ends the child: it sees the end of its input and sweeps what it has begun.
    pub(super) async fn close(mut self) {
        drop(self.input.take());
        // Killed when it takes longer; the next copy to the same place is not hindered by what is left.
        let _ = tokio::time::timeout(FAREWELL, self.child.wait()).await;
    }
}
