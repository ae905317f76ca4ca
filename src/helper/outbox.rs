//! The way to the near side: whole messages, one at a time, from any thread.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError, TryLockError},
};

use crate::wire::{self, FromHelper};

/// Sends messages to the near side. Clones share the stream.
#[derive(Clone)]
pub(crate) struct Outbox {
    stream: Arc<Mutex<Box<dyn Write + Send>>>,
}

impl Outbox {
    /// An outbox that writes to this stream.
    pub(crate) fn new(stream: Box<dyn Write + Send>) -> Self {
        Self { stream: Arc::new(Mutex::new(stream)) }
    }

    /// Sends one message. Blocks while the near side does not read.
    pub(crate) fn send(&self, message: &FromHelper) -> io::Result<()> {
        let frame = if message.is_packed() { wire::encode_packed(message) } else { wire::encode(message) };
        let frame = frame.map_err(io::Error::other)?;
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(&frame)?;
        stream.flush()
    }

    /// Sends the reason why the helper ends, unless a message is being sent this moment: it may be what failed.
    pub(crate) fn last_words(&self, why: String) {
        let Ok(frame) = wire::encode(&FromHelper::Fault { why }) else { return };
        let mut stream = match self.stream.try_lock() {
            Ok(stream) => stream,
            Err(TryLockError::Poisoned(stream)) => stream.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        // Nobody is left to hear of an error.
        let _ = stream.write_all(&frame).and_then(|()| stream.flush());
    }
}
