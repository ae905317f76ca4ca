//! From a channel of events to a report.

use std::{
    io,
    time::{Duration, Instant},
};

use indicatif::ProgressDrawTarget;
use tokio::sync::mpsc;

use super::{
    human::HumanReporter,
    json::JsonReporter,
    screen::{DrawnScreen, PlainScreen, REDRAWS},
    style::{ReportKind, ReportStyle, Sinks},
};
use crate::control::event::{RunEvent, Summary};

/// How often a reporter hears that time has passed: often enough for a clock that shows seconds.
const TICK: Duration = Duration::from_millis(250);

/// Shows a run. Given every event in order.
///
/// A reporter never stops a run: when its output cannot be written (`| head`), it goes quiet and says so in `finish`.
pub trait Reporter: Send {
    /// Takes the next event.
    fn event(&mut self, event: &RunEvent, now: Instant);

    /// Time has passed; nothing else may have happened.
    fn tick(&mut self, now: Instant);

    /// Ends the report, also one without `RunFinished`: takes down what was drawn and flushes. The first error of
    /// writing, if there was one.
    fn finish(&mut self) -> io::Result<()>;
}

/// The reporter for a style on standard output and standard error.
pub fn reporter(style: ReportStyle) -> Box<dyn Reporter> {
    reporter_to(style, Sinks::standard(style.color))
}

/// The reporter for a style on other sinks.
pub fn reporter_to(style: ReportStyle, sinks: Sinks) -> Box<dyn Reporter> {
    let terminal = sinks.terminal;
    let now = Instant::now();
    match style.kind {
        ReportKind::Json => Box::new(JsonReporter::new(sinks.results)),
        ReportKind::Progress | ReportKind::Auto if terminal => {
            let target = ProgressDrawTarget::stderr_with_hz(REDRAWS);
            Box::new(HumanReporter::new(style, DrawnScreen::new(sinks, target), now))
        }
        ReportKind::Progress | ReportKind::Auto | ReportKind::Plain => {
            Box::new(HumanReporter::new(style, PlainScreen::new(sinks), now))
        }
    }
}

/// Shows all events of a channel until every sender is gone. Gives the run's summary, if it came.
pub async fn follow(mut inbox: mpsc::Receiver<RunEvent>, reporter: &mut dyn Reporter) -> Option<Summary> {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut summary = None;
    loop {
        tokio::select! {
            event = inbox.recv() => match event {
                Some(event) => {
                    reporter.event(&event, Instant::now());
                    if let RunEvent::RunFinished(end) = event {
                        summary = Some(end);
                    }
                }
                None => break,
            },
            _ = ticks.tick() => reporter.tick(Instant::now()),
        }
    }
    summary
}
