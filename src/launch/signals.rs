//! Signals that reach the launcher and are meant for the process.

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use super::failure::Failure;

/// Signals that reach the launcher.
pub(super) struct Signals {
    inbox: tokio::sync::mpsc::UnboundedReceiver<Signal>,
}

impl Signals {
    /// Catches all signals that are passed on. They come from outside, one at a time: the queue cannot grow without
    /// somebody flooding a process of their own.
    pub(super) fn catch() -> Result<Self, Failure> {
        let kinds = [
            (SignalKind::terminate(), Signal::TERM),
            (SignalKind::interrupt(), Signal::INT),
            (SignalKind::quit(), Signal::QUIT),
            (SignalKind::hangup(), Signal::HUP),
            (SignalKind::user_defined1(), Signal::USR1),
            (SignalKind::user_defined2(), Signal::USR2),
        ];
        let (outbox, inbox) = tokio::sync::mpsc::unbounded_channel();
        for (kind, meaning) in kinds {
            let mut stream = signal(kind).map_err(|source| Failure::System { what: "catch signals", source })?;
            let outbox = outbox.clone();
            tokio::spawn(async move { while stream.recv().await.is_some() && outbox.send(meaning).is_ok() {} });
        }
        Ok(Self { inbox })
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> Signal {
        match self.inbox.recv().await {
            Some(signal) => signal,
            // The senders live as long as the runtime.
            None => std::future::pending().await,
        }
    }

    /// The next signal that asks us to end; others mean nothing while there is no process.
    pub(super) async fn ending(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if ends(signal) {
                return signal;
            }
        }
    }
}

/// Whether a signal asks the service to end.
pub(super) fn ends(signal: Signal) -> bool {
    [Signal::TERM, Signal::INT, Signal::QUIT].contains(&signal)
}
