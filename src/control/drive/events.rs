//! The sending end of a run's events.

use tokio::sync::mpsc;

use crate::control::event::RunEvent;

/// How many events may wait for the report: enough that a burst of steps never makes a host wait for a terminal.
const EVENTS_IN_FLIGHT: usize = 1024;

/// Sends a run's events. Cheap to clone; a report that has gone away stops nothing.
#[derive(Debug, Clone)]
pub struct Events(mpsc::Sender<RunEvent>);

impl Events {
    /// A sender and the inbox for the report.
    pub fn channel() -> (Self, mpsc::Receiver<RunEvent>) {
        let (sender, inbox) = mpsc::channel(EVENTS_IN_FLIGHT);
        (Self(sender), inbox)
    }

    /// Sends one event; waits while the report is behind.
    pub async fn send(&self, event: RunEvent) {
        // A closed inbox means that nobody wants to see the run any more; the run itself goes on.
        let _ = self.0.send(event).await;
    }

    /// Sends an event that may be dropped when the report is behind: progress counters.
    pub fn hint(&self, event: RunEvent) {
        let _ = self.0.try_send(event);
    }
}
