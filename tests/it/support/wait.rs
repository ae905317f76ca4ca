//! Waiting for what other processes do. What is waited for always comes, or the test has failed.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// After this long it will not come.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(5);

/// What is there in the end.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(since.elapsed() < PATIENCE, "never came: {what}");
        sleep(PAUSE);
    }
}

/// Comes back when it is so.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_for(what, || is_so().then_some(()));
}
