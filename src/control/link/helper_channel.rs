//! The one channel to a running helper: frames in, frames out, and how it ended.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use russh::{ChannelMsg, ChannelReadHalf};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::timeout,
};

use super::{
    connection::{CloseOnDrop, Ending, State, Writer},
    error::{LinkError, LinkErrorKind},
    exec::STDERR,
    remote_text::{Tail, one_line},
    target::Target,
};
use crate::{
    plan::Facts,
    wire::{self, FrameDecoder, FromHelper, HelperHello, ToHelper},
};

/// Bytes that may wait to be sent. More would only fill memory: the host takes them no faster.
const SENDING: usize = 4 * 1024 * 1024;
/// Bytes that may wait to be received before the whole connection waits; more than two of the longest frames.
const RECEIVING: usize = 2 * wire::MAX_FRAME + 1024 * 1024;
/// How long the end of the channel may take to be known after sending failed.
const END_KNOWN_WITHIN: Duration = Duration::from_secs(2);
/// How long a program that said its last word may take to close its output.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// What went over a helper channel so far, both hellos included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages to the helper.
    pub sent_messages: u64,
    /// Bytes to the helper, frame headers included.
    pub sent_bytes: u64,
    /// Those of them that no longer wait in the queue: the connection took them. What the host's SSH server has not
    /// taken yet (at most its window, 2 MiB with OpenSSH) is among them.
    pub written_bytes: u64,
    /// Messages from the helper.
    pub received_messages: u64,
    /// Bytes from the helper, frame headers included.
    pub received_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    sent_messages: AtomicU64,
    sent_bytes: AtomicU64,
    written_bytes: AtomicU64,
    received_messages: AtomicU64,
    received_bytes: AtomicU64,
}

impl Counters {
    fn traffic(&self) -> Traffic {
        Traffic {
            sent_messages: self.sent_messages.load(Ordering::Relaxed),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
            received_messages: self.received_messages.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
        }
    }
}

/// How a channel ended.
type End = Result<(), LinkError>;

/// What all parts of a channel share.
#[derive(Debug)]
struct Shared {
    target: Arc<Target>,
    counters: Counters,
    /// Whether the helper was told that it is finished.
    dismissed: AtomicBool,
    end: watch::Sender<Option<End>>,
}

impl Shared {
    fn error(&self, kind: LinkErrorKind) -> LinkError {
        kind.of(&self.target)
    }

    /// Why nothing more can be sent.
    async fn end_error(&self) -> LinkError {
        let mut end = self.end.subscribe();
        let known = timeout(END_KNOWN_WITHIN, end.wait_for(Option::is_some)).await;
        match known {
            Ok(Ok(end)) => match &*end {
                Some(Err(error)) => error.clone(),
                _ => self.error(LinkErrorKind::HelperEnded { status: Some(0), signal: None, stderr: Vec::new() }),
            },
            _ => self.error(LinkErrorKind::Lost { why: "the helper takes no more messages".to_owned() }),
        }
    }
}

/// The one channel to a running helper.
#[derive(Debug)]
pub struct HelperChannel {
    hello: HelperHello,
    sender: HelperSender,
    receiver: HelperReceiver,
}

/// The sending half of a helper channel. When the last one is gone the helper sees the end of its input and ends.
#[derive(Debug, Clone)]
pub struct HelperSender {
    queue: mpsc::UnboundedSender<(Bytes, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    shared: Arc<Shared>,
}

/// Reads what went over a helper channel; does not keep it open.
#[derive(Debug, Clone)]
pub struct Gauge(Arc<Shared>);

impl Gauge {
    /// What went over the channel so far.
    pub fn traffic(&self) -> Traffic {
        self.0.counters.traffic()
    }
}

/// Where a message is in the stream to the helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framed {
    /// Bytes of its frame, header included.
    pub len: u64,
    /// Where the frame ends: it is written when so many bytes are.
    pub end: u64,
}

/// The receiving half of a helper channel. Messages that arrive after it is gone are dropped.
#[derive(Debug)]
pub struct HelperReceiver {
    queue: mpsc::UnboundedReceiver<(FromHelper, Option<OwnedSemaphorePermit>)>,
    shared: Arc<Shared>,
}

/// A channel on which a preamble was just seen.
pub(super) struct Begun {
    pub(super) reader: ChannelReadHalf,
    pub(super) writer: Arc<Writer>,
    pub(super) close: CloseOnDrop,
    /// What came after the preamble.
    pub(super) first: Vec<u8>,
    pub(super) stderr: Tail,
    /// The exit status of a helper that ended at once may come before its output.
    pub(super) ending: Ending,
    pub(super) state: Arc<State>,
}

impl HelperChannel {
    /// Takes the channel over: from here on two tasks serve it until it ends.
    pub(super) fn halves(begun: Begun, target: Arc<Target>) -> (HelperSender, HelperReceiver) {
        let end = watch::Sender::new(None);
        let shared = Arc::new(Shared { target, counters: Counters::default(), dismissed: AtomicBool::new(false), end });
        let (to_write, written) = mpsc::unbounded_channel();
        let (to_read, read) = mpsc::unbounded_channel();
        tokio::spawn(write_frames(written, Arc::clone(&begun.writer), Arc::clone(&shared), Arc::clone(&begun.state)));
        tokio::spawn(read_frames(begun, to_read, Arc::clone(&shared)));
        let room = Arc::new(Semaphore::new(SENDING));
        (HelperSender { queue: to_write, room, shared: Arc::clone(&shared) }, HelperReceiver { queue: read, shared })
    }

    pub(super) fn new(hello: HelperHello, sender: HelperSender, receiver: HelperReceiver) -> Self {
        Self { hello, sender, receiver }
    }

    /// What the host is.
    pub fn facts(&self) -> &Facts {
        &self.hello.facts
    }

    /// All that the helper said of the host. A host may say anything.
    pub fn hello(&self) -> &HelperHello {
        &self.hello
    }

    /// Sends a message. Returns when it is queued; at most 4 MiB wait in the queue. May be cancelled at any time.
    pub async fn send(&self, message: &ToHelper) -> Result<(), LinkError> {
        self.sender.send(message).await
    }

    /// The next message; none when the helper ended as it was told to. May be cancelled at any time.
    pub async fn recv(&mut self) -> Result<Option<FromHelper>, LinkError> {
        self.receiver.recv().await
    }

    /// What went over the channel so far.
    pub fn traffic(&self) -> Traffic {
        self.sender.traffic()
    }

    /// Both halves, for two tasks.
    pub fn split(self) -> (HelperSender, HelperReceiver) {
        (self.sender, self.receiver)
    }
}

impl HelperSender {
    /// Sends a message. Returns when it is queued; at most 4 MiB wait in the queue. May be cancelled at any time.
    pub async fn send(&self, message: &ToHelper) -> Result<(), LinkError> {
        self.send_counted(message, |_| {}).await
    }

    /// Like `send`; tells `count` where the message is in the stream right before it is queued, so before any answer to
    /// it can come.
    pub async fn send_counted(&self, message: &ToHelper, count: impl FnOnce(Framed)) -> Result<(), LinkError> {
        let frame = if message.is_packed() { wire::encode_packed(message) } else { wire::encode(message) };
        let frame = frame.map_err(|error| self.shared.error(LinkErrorKind::TooLarge(error)))?;
        // A frame larger than the queue takes all of it.
        let size = u32::try_from(frame.len().min(SENDING)).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.room).acquire_many_owned(size).await else {
            return Err(self.shared.end_error().await);
        };
        let length = frame.len() as u64;
        if matches!(message, ToHelper::Bye) {
            self.shared.dismissed.store(true, Ordering::Release);
        }
        let end = self.shared.counters.sent_bytes.fetch_add(length, Ordering::Relaxed) + length;
        self.shared.counters.sent_messages.fetch_add(1, Ordering::Relaxed);
        count(Framed { len: length, end });
        if self.queue.send((frame.into(), permit)).is_err() {
            return Err(self.shared.end_error().await);
        }
        Ok(())
    }

    /// Reads the channel's counters, also after this sender is gone.
    pub fn gauge(&self) -> Gauge {
        Gauge(Arc::clone(&self.shared))
    }

    /// What went over the channel so far.
    pub fn traffic(&self) -> Traffic {
        self.shared.counters.traffic()
    }
}

impl HelperReceiver {
    /// The next message; none when the helper ended as it was told to. May be cancelled at any time.
    pub async fn recv(&mut self) -> Result<Option<FromHelper>, LinkError> {
        match self.queue.recv().await {
            Some((FromHelper::Fault { why }, _)) => {
                Err(self.shared.error(LinkErrorKind::Fault { why: one_line(&why) }))
            }
            Some((message, _)) => Ok(Some(message)),
            None => match &*self.shared.end.borrow() {
                Some(Err(error)) => Err(error.clone()),
                _ => Ok(None),
            },
        }
    }

    /// What went over the channel so far.
    pub fn traffic(&self) -> Traffic {
        self.shared.counters.traffic()
    }
}

/// Writes whole frames until all senders are gone, then ends the helper's input.
async fn write_frames(
    mut queue: mpsc::UnboundedReceiver<(Bytes, OwnedSemaphorePermit)>,
    writer: Arc<Writer>,
    shared: Arc<Shared>,
    state: Arc<State>,
) {
    let mut end = shared.end.subscribe();
    let write = async {
        while let Some((frame, permit)) = queue.recv().await {
            let length = frame.len() as u64;
            if writer.data_bytes(frame).await.is_err() {
                return;
            }
            shared.counters.written_bytes.fetch_add(length, Ordering::Relaxed);
            drop(permit);
        }
        shared.dismissed.store(true, Ordering::Release);
        let _ = writer.eof().await;
    };
    // russh waits for the window of a channel that is gone, for ever.
    tokio::select! {
        () = write => {}
        _ = state.lost() => {}
        _ = end.wait_for(Option::is_some) => {}
    }
}

/// Reads frames until the channel ends and says how it ended.
async fn read_frames(
    begun: Begun,
    queue: mpsc::UnboundedSender<(FromHelper, Option<OwnedSemaphorePermit>)>,
    shared: Arc<Shared>,
) {
    let Begun { mut reader, writer, close, first, mut stderr, mut ending, state } = begun;
    let mut frames = Frames {
        decoder: FrameDecoder::default(),
        room: Arc::new(Semaphore::new(RECEIVING)),
        held: None,
        queue,
        shared: Arc::clone(&shared),
    };
    let mut result = frames.push(&first).await;
    let mut at_end = false;
    while result.is_ok() {
        let next = if at_end || ending.is_known() {
            // It has ended; only the rest of what it said may still come.
            timeout(CLOSED_WITHIN, reader.wait()).await.unwrap_or_default()
        } else {
            reader.wait().await
        };
        let Some(message) = next else { break };
        ending.observe(&message);
        match message {
            ChannelMsg::Data { data } => result = frames.push(&data).await,
            ChannelMsg::ExtendedData { data, ext: STDERR } => stderr.push(&data),
            ChannelMsg::Eof => at_end = true,
            ChannelMsg::Close => break,
            _ => {}
        }
        if at_end && ending.is_known() {
            break;
        }
    }
    let lost = state.why_lost().filter(|_| !ending.is_known() && !at_end);
    let dismissed = shared.dismissed.load(Ordering::Acquire);
    let end = match (result, lost) {
        (Err(error), _) => Err(shared.error(LinkErrorKind::Frame(error))),
        (Ok(()), Some(why)) => Err(shared.error(LinkErrorKind::Lost { why })),
        (Ok(()), None) if dismissed && matches!(ending.status, Some(0) | None) => Ok(()),
        (Ok(()), None) => Err(shared.error(LinkErrorKind::HelperEnded {
            status: ending.status,
            signal: ending.signal,
            stderr: stderr.lines(),
        })),
    };
    // The end first: the receiver looks at it as soon as the queue is gone.
    shared.end.send_replace(Some(end));
    drop(frames);
    drop((close, writer));
}

/// Frames on their way from the channel to the receiver.
struct Frames {
    decoder: FrameDecoder,
    room: Arc<Semaphore>,
    /// Room taken by bytes that are not a whole message yet.
    held: Option<OwnedSemaphorePermit>,
    queue: mpsc::UnboundedSender<(FromHelper, Option<OwnedSemaphorePermit>)>,
    shared: Arc<Shared>,
}

impl Frames {
    async fn push(&mut self, bytes: &[u8]) -> Result<(), wire::FrameError> {
        self.shared.counters.received_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if let Ok(permit) = Arc::clone(&self.room).acquire_many_owned(size).await {
            match &mut self.held {
                Some(held) => held.merge(permit),
                None => self.held = Some(permit),
            }
        }
        self.decoder.push(bytes);
        while let Some(frame) = self.decoder.next_frame()? {
            let message = wire::decode(&frame)?;
            self.shared.counters.received_messages.fetch_add(1, Ordering::Relaxed);
            // A receiver that is gone wants no messages; the channel is read on all the same.
            let _ = self.queue.send((message, mem::take(&mut self.held)));
        }
        Ok(())
    }
}
