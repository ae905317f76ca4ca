//! A channel as a byte stream.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use russh::{ChannelStream, client};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Handle,
};

use super::connection::Channel;

/// A channel's data in both directions; closed when dropped, wherever that happens.
pub(super) struct Tunnel {
    /// Some until dropped.
    stream: Option<ChannelStream<client::Msg>>,
    /// russh closes the channel with a task of its own, and would panic on a thread that has no runtime.
    runtime: Handle,
}

impl Tunnel {
    /// Must be called within a runtime.
    pub(super) fn new(channel: Channel) -> Self {
        Self { stream: Some(channel.into_stream()), runtime: Handle::current() }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut ChannelStream<client::Msg>>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _within = self.runtime.enter();
        self.stream = None;
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            // russh takes this for an error.
            return Poll::Ready(Ok(0));
        }
        self.stream()?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(context)
    }
}
