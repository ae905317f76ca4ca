//! Signals as events that a loop can wait for, beside its own times.

use std::{
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use signal_hook::iterator::Signals;

/// Signals that have arrived and were not yet looked at.
pub(crate) struct Arrived(Receiver<i32>);

impl Arrived {
    /// Catches these signals from now on.
    pub(crate) fn of(wanted: &[i32]) -> Result<Self, String> {
        let mut signals = Signals::new(wanted).map_err(|error| error.to_string())?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || signals.forever().try_for_each(|signal| sender.send(signal)));
        Ok(Self(receiver))
    }

    /// The next signal, or none within this time.
    pub(crate) fn next(&self, most: Duration) -> Option<i32> {
        match self.0.recv_timeout(most) {
            Ok(signal) => Some(signal),
            Err(RecvTimeoutError::Timeout) => None,
            // The catching thread only ends with the program.
            Err(RecvTimeoutError::Disconnected) => {
                thread::park_timeout(most);
                None
            }
        }
    }
}
