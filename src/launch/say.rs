//! What the launcher has to say, on standard error: the service manager's log.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

/// How often a trouble that stays is told again.
const AGAIN: Duration = Duration::from_secs(10);

/// One line on standard error. A log that cannot be written to must not stop the service.
pub(super) fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "ovs-launch: {text}");
}

/// Tells a trouble at once and then every ten seconds while it stays.
#[derive(Default)]
pub(super) struct Reminder {
    told: Option<(Instant, String)>,
}

impl Reminder {
    /// Says it, unless the same was said a moment ago.
    pub(super) fn say(&mut self, text: String) {
        if self.told.as_ref().is_some_and(|(at, told)| at.elapsed() < AGAIN && *told == text) {
            return;
        }
        say(&text);
        self.told = Some((Instant::now(), text));
    }

    /// The trouble is over: says so when one was told.
    pub(super) fn over(&mut self, text: &str) {
        if self.told.take().is_some() {
            say(text);
        }
    }
}
