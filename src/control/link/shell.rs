//! A shell or command on a host, with our own terminal or streams.

use std::{
    env,
    io::{self, IsTerminal as _},
    os::fd::AsFd as _,
    sync::Arc,
    thread,
};

use bytes::Bytes;
use russh::{ChannelMsg, ChannelReadHalf};
use rustix::{
    event::{PollFd, PollFlags, poll},
    termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr},
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use super::{
    connection::{CloseOnDrop, Connection, Ending, Writer},
    error::{LinkErrorKind, Phase},
    exec::STDERR,
};

/// Pieces of input that wait to be sent.
const INPUT_PIECES: usize = 16;
const PIECE: usize = 16 * 1024;
/// Locale variables that sshd takes over in most distributions (`AcceptEnv LANG LC_*`).
const LOCALE: [&str; 3] = ["LANG", "LC_ALL", "LC_CTYPE"];

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Characters in a row.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// What a shell or command on a host is connected to.
pub struct ShellStreams {
    /// Its input; the end of it when the sender is dropped.
    pub input: mpsc::Receiver<Bytes>,
    /// Takes its output.
    pub output: Box<dyn AsyncWrite + Send + Unpin>,
    /// Takes its errors. With a terminal they are part of the output.
    pub errors: Box<dyn AsyncWrite + Send + Unpin>,
    /// The far side gets a terminal of this size.
    pub terminal: Option<TerminalSize>,
    /// New sizes of the terminal.
    pub resized: mpsc::Receiver<TerminalSize>,
}

/// Runs a shell, or a command, with these streams until it ends, and gives its exit status.
pub(super) async fn run(
    connection: &Connection,
    command: Option<&str>,
    streams: ShellStreams,
) -> Result<i32, LinkErrorKind> {
    let channel = connection.open_session().await?;
    let (reader, writer) = channel.split();
    let writer = Arc::new(writer);
    let _close = CloseOnDrop(Arc::clone(&writer));
    begin(&writer, command, streams.terminal).await.map_err(|error| connection.lost_while(Phase::Open, &error))?;
    let ShellStreams { input, output, errors, resized, .. } = streams;
    let outputs = Outputs { output, errors };
    let ending = tokio::select! {
        ending = outputs.take_from(reader) => ending?,
        never = send(&writer, input, resized) => match never {},
    };
    match (ending.status, &ending.signal) {
        (Some(status), _) => Ok(status),
        (None, Some(_)) => Ok(128),
        (None, None) => {
            let why = connection.state().why_lost();
            Err(LinkErrorKind::Lost { why: why.unwrap_or_else(|| "the server closed the session".to_owned()) })
        }
    }
}

async fn begin(writer: &Writer, command: Option<&str>, terminal: Option<TerminalSize>) -> Result<(), russh::Error> {
    if let Some(size) = terminal {
        let name = env::var("TERM").unwrap_or_else(|_| "xterm".to_owned());
        writer.request_pty(true, &name, size.columns.into(), size.rows.into(), 0, 0, &[]).await?;
    }
    for variable in LOCALE {
        if let Ok(value) = env::var(variable) {
            writer.set_env(false, variable, value).await?;
        }
    }
    match command {
        Some(command) => writer.exec(true, command).await,
        None => writer.request_shell(true).await,
    }
}

/// Passes input and sizes on, for ever: the far side decides when it is over.
async fn send(
    writer: &Writer,
    mut input: mpsc::Receiver<Bytes>,
    mut resized: mpsc::Receiver<TerminalSize>,
) -> std::convert::Infallible {
    let send_input = async {
        while let Some(bytes) = input.recv().await {
            if writer.data_bytes(bytes).await.is_err() {
                break;
            }
        }
        let _ = writer.eof().await;
        std::future::pending().await
    };
    let send_sizes = async {
        while let Some(size) = resized.recv().await {
            let _ = writer.window_change(size.columns.into(), size.rows.into(), 0, 0).await;
        }
        std::future::pending().await
    };
    tokio::select! {
        never = send_input => never,
        never = send_sizes => never,
    }
}

struct Outputs {
    output: Box<dyn AsyncWrite + Send + Unpin>,
    errors: Box<dyn AsyncWrite + Send + Unpin>,
}

impl Outputs {
    async fn take_from(mut self, mut reader: ChannelReadHalf) -> Result<Ending, LinkErrorKind> {
        let (mut ending, mut at_end) = (Ending::default(), false);
        while let Some(message) = reader.wait().await {
            ending.observe(&message);
            let (sink, data) = match message {
                ChannelMsg::Data { data } => (&mut self.output, data),
                ChannelMsg::ExtendedData { data, ext: STDERR } => (&mut self.errors, data),
                ChannelMsg::Failure => return Err(LinkErrorKind::ExecRefused),
                ChannelMsg::Close => break,
                message => {
                    at_end |= matches!(message, ChannelMsg::Eof);
                    if at_end && ending.is_known() {
                        break;
                    }
                    continue;
                }
            };
            sink.write_all(&data).await.map_err(LinkErrorKind::Terminal)?;
            sink.flush().await.map_err(LinkErrorKind::Terminal)?;
        }
        Ok(ending)
    }
}

/// Connects our standard streams, and our terminal when input comes from one. The terminal is as before afterwards,
/// also after an error, a panic or a termination signal.
pub(super) async fn run_here(connection: &Connection, command: Option<&str>) -> Result<i32, LinkErrorKind> {
    let is_terminal = io::stdin().is_terminal();
    let (sizes, resized) = mpsc::channel(1);
    let (input, _stop) = read_stdin().map_err(LinkErrorKind::Terminal)?;
    let streams = ShellStreams {
        input,
        output: Box::new(tokio::io::stdout()),
        errors: Box::new(tokio::io::stderr()),
        terminal: if is_terminal { window_size() } else { None },
        resized,
    };
    if !is_terminal {
        return run(connection, command, streams).await;
    }
    let mut signals = Signals::listen().map_err(LinkErrorKind::Terminal)?;
    let _raw = RawMode::enter().map_err(LinkErrorKind::Terminal)?;
    let session = run(connection, command, streams);
    tokio::pin!(session);
    loop {
        tokio::select! {
            ended = &mut session => return ended,
            _ = signals.resize.recv() => {
                if let Some(size) = window_size() {
                    // Full only while an earlier size has not been sent; the next signal brings a newer one.
                    let _ = sizes.try_send(size);
                }
            }
            _ = signals.terminate.recv() => return Ok(128 + SignalKind::terminate().as_raw_value()),
            _ = signals.hang_up.recv() => return Ok(128 + SignalKind::hangup().as_raw_value()),
        }
    }
}

/// Signals that matter while the terminal is raw: those that would end us before it is restored.
struct Signals {
    resize: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            resize: signal(SignalKind::window_change())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

fn window_size() -> Option<TerminalSize> {
    let size = tcgetwinsize(io::stdin().as_fd()).ok()?;
    Some(TerminalSize { columns: size.ws_col, rows: size.ws_row })
}

/// The terminal passes every key on while this lives.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin().as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin().as_fd(), OptionalActions::Drain, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing is left to do when the terminal itself is gone.
        let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Drain, &self.0);
    }
}

/// Reads standard input in a thread that ends when the second value is dropped: a read of tokio's own standard input
/// cannot be cancelled and would hold up our exit until the next key.
fn read_stdin() -> io::Result<(mpsc::Receiver<Bytes>, io::PipeWriter)> {
    let (stopped, stop) = io::pipe()?;
    let (sender, receiver) = mpsc::channel(INPUT_PIECES);
    thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let stdin = io::stdin();
        let mut buffer = vec![0; PIECE];
        loop {
            let mut ready = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&stopped, PollFlags::IN)];
            match poll(&mut ready, None) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
                Ok(_) if !ready[1].revents().is_empty() => return,
                Ok(_) => {}
            }
            match rustix::io::read(&stdin, &mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(count) if sender.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() => return,
                Ok(_) => {}
            }
        }
    })?;
    Ok((receiver, stop))
}
