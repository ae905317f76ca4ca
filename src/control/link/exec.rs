//! One command on a host, from start to its exit status.

use std::{cmp::min, sync::Arc, time::Duration};

use russh::ChannelMsg;
use tokio::time::{Instant, timeout_at};

use super::{
    connection::{CloseOnDrop, Connection, Ending},
    error::{LinkErrorKind, Phase},
};

/// The most that is kept of each output stream, in bytes.
const MOST_OUTPUT: usize = 16 * 1024 * 1024;
/// How long a program's children may keep its output open in silence after it ended, and how long in all.
const LEFT_OPEN: Duration = Duration::from_secs(2);
const DRAINED_WITHIN: Duration = Duration::from_secs(60);
/// Extended data of this type is standard error (RFC 4254 section 5.2).
pub(super) const STDERR: u32 = 1;

/// What a command did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit status; 128 + n when signal n ended it; none when it is unknown because the connection was lost.
    pub status: Option<i32>,
    /// The signal that ended it, without `SIG`.
    pub signal: Option<String>,
    /// Standard output, at most 16 MiB.
    pub stdout: Vec<u8>,
    /// Standard error, at most 16 MiB.
    pub stderr: Vec<u8>,
    /// Whether some output was dropped because there was too much.
    pub truncated: bool,
}

impl ExecOutput {
    fn keep(&mut self, is_error: bool, data: &[u8]) {
        let kept = if is_error { &mut self.stderr } else { &mut self.stdout };
        let room = MOST_OUTPUT.saturating_sub(kept.len());
        kept.extend_from_slice(&data[..data.len().min(room)]);
        self.truncated |= data.len() > room;
    }
}

/// Runs a command without input and reads until its channel is closed. Servers leave the order of exit status and end
/// of data to chance, and count a session (`MaxSessions`) until its channel is closed.
pub(super) async fn run(connection: &Connection, command: &str) -> Result<ExecOutput, LinkErrorKind> {
    let channel = connection.open_session().await?;
    let (mut reader, writer) = channel.split();
    let writer = Arc::new(writer);
    let _close = CloseOnDrop(Arc::clone(&writer));
    let broken = |error: russh::Error| connection.lost_while(Phase::Open, &error);
    writer.exec(true, command).await.map_err(broken)?;
    writer.eof().await.map_err(broken)?;
    let (mut output, mut ending) = (ExecOutput::default(), Ending::default());
    let mut last = None;
    loop {
        let next = match last {
            // A background child that keeps the output open must not keep us.
            Some(last) => match timeout_at(min(last, Instant::now() + LEFT_OPEN), reader.wait()).await {
                Ok(next) => next,
                Err(_) => break,
            },
            None => reader.wait().await,
        };
        let Some(message) = next else { break };
        ending.observe(&message);
        if ending.is_known() && last.is_none() {
            last = Some(Instant::now() + DRAINED_WITHIN);
        }
        match message {
            ChannelMsg::Data { data } => output.keep(false, &data),
            ChannelMsg::ExtendedData { data, ext: STDERR } => output.keep(true, &data),
            ChannelMsg::Failure => return Err(LinkErrorKind::ExecRefused),
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    (output.status, output.signal) = (ending.status, ending.signal);
    Ok(output)
}
