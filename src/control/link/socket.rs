//! The byte stream below an SSH connection: answers at once, never waits for ever, can be cut.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    time::{Instant, Sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Stream;

/// Bytes before the banner that are kept for messages.
const GREETING_BYTES: usize = 256;

/// What carries the bytes.
pub(super) enum Carrier {
    /// Our own TCP connection.
    Tcp(TcpStream),
    /// A channel of the connection to a jump host.
    Channel(Box<dyn Stream>),
}

/// What came before the server's first SSH line (RFC 4253 section 4.2).
#[derive(Debug, Default)]
pub(super) struct Greeting {
    seen: Notify,
    state: Mutex<GreetingState>,
}

#[derive(Debug, Default)]
struct GreetingState {
    /// How much of `SSH-` this line has matched; none when the line is another one.
    matched: Option<usize>,
    begun: bool,
    done: bool,
    text: Vec<u8>,
}

impl Greeting {
    const MARK: &'static [u8] = b"SSH-";

    /// Waits for the banner.
    pub(super) async fn banner(&self) {
        self.seen.notified().await;
    }

    pub(super) fn has_banner(&self) -> bool {
        self.state().done
    }

    /// What came instead of a banner.
    pub(super) fn text(&self) -> String {
        super::remote_text::one_line(&String::from_utf8_lossy(&self.state().text))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, GreetingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, bytes: &[u8]) {
        let mut state = self.state();
        if state.done {
            return;
        }
        if !state.begun {
            state.begun = true;
            state.matched = Some(0);
        }
        for &byte in bytes {
            if state.text.len() < GREETING_BYTES {
                state.text.push(byte);
            }
            state.matched = match state.matched {
                _ if byte == b'\n' => Some(0),
                Some(count) if Self::MARK.get(count) == Some(&byte) => Some(count + 1),
                _ => None,
            };
            if state.matched == Some(Self::MARK.len()) {
                state.done = true;
                self.seen.notify_one();
                return;
            }
        }
    }
}

/// A carrier with `TCP_NODELAY` and re-armed `TCP_QUICKACK` (sshd sends small writes with Nagle's algorithm: without the
/// latter the first channel costs 40 ms), that fails when a write makes no progress or when it is cut.
pub(super) struct Socket {
    carrier: Carrier,
    greeting: Option<Arc<Greeting>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Longest time without progress of a write. The session above does not look at its timers while it writes.
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub(super) fn new(carrier: Carrier, greeting: Arc<Greeting>, cut: CancellationToken, stall: Duration) -> Self {
        if let Carrier::Tcp(stream) = &carrier {
            // Slower without, but not wrong.
            let _ = stream.set_nodelay(true);
        }
        let cut = Box::pin(cut.cancelled_owned());
        Self { carrier, greeting: Some(greeting), cut, stall, stalled: None }
    }

    fn check_cut(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }

    /// Passes a write's result on, or fails when it has been pending for too long.
    fn watch<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let stall = self.stall;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + stall)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_cut(context)?;
        let before = buffer.filled().len();
        let result = match &mut self.carrier {
            Carrier::Tcp(stream) => {
                let result = Pin::new(&mut *stream).poll_read(context, buffer);
                if result.is_ready() {
                    // The kernel disarms it by itself.
                    let _ = rustix::net::sockopt::set_tcp_quickack(&*stream, true);
                }
                result
            }
            Carrier::Channel(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        if let Some(greeting) = &self.greeting {
            greeting.push(&buffer.filled()[before..]);
            if greeting.has_banner() {
                self.greeting = None;
            }
        }
        result
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check_cut(context)?;
        let result = match &mut self.carrier {
            Carrier::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Carrier::Channel(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        self.watch(context, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_cut(context)?;
        match &mut self.carrier {
            Carrier::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Carrier::Channel(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Its error would hide why the session ended: russh reports it instead of the reason.
        let result = match &mut self.carrier {
            Carrier::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Carrier::Channel(stream) => Pin::new(stream).poll_shutdown(context),
        };
        self.watch(context, result).map(|_| Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn greeting_of(pieces: &[&str]) -> Greeting {
        let greeting = Greeting::default();
        for piece in pieces {
            greeting.push(piece.as_bytes());
        }
        greeting
    }

    #[test]
    fn the_banner_is_found_in_any_pieces() {
        assert!(greeting_of(&["SSH-2.0-x\r\n"]).has_banner());
        assert!(greeting_of(&["hello\r\nS", "SH", "-"]).has_banner());
        assert!(!greeting_of(&["xSSH-2.0\n", "SS", "\nH-"]).has_banner());
        assert_eq!(greeting_of(&["HTTP/1.1 400\r\n"]).text(), "HTTP/1.1 400");
    }

    #[tokio::test]
    async fn a_write_without_progress_fails() {
        let (near, _far) = tokio::io::duplex(16);
        let mut socket = Socket::new(
            Carrier::Channel(Box::new(near)),
            Arc::default(),
            CancellationToken::new(),
            Duration::from_millis(20),
        );
        let error = socket.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_cut_ends_a_read() {
        let (near, _far) = tokio::io::duplex(16);
        let cut = CancellationToken::new();
        let mut socket =
            Socket::new(Carrier::Channel(Box::new(near)), Arc::default(), cut.clone(), Duration::from_secs(30));
        let reading = tokio::spawn(async move { socket.read_u8().await });
        cut.cancel();
        assert_eq!(reading.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
