//! Where lines go: straight out, or above a few lines that are redrawn.

use std::io::{self, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{paint::plain, style::Sinks};

/// Redraws a second; enough for a clock that shows seconds and a line that changes.
pub(super) const REDRAWS: u8 = 15;

/// Takes whole lines, each ended by a newline, coloured.
pub(super) trait Screen: Send {
    /// Text for standard output.
    fn result(&mut self, text: &str);
    /// Text for standard error.
    fn progress(&mut self, text: &str);
    /// Replaces the lines that say what is going on now. None takes them down.
    fn status(&mut self, lines: &[String]);
    /// Whether `status` shows anything.
    fn draws(&self) -> bool;
    /// Flushes; the first error of writing.
    fn finish(&mut self) -> io::Result<()>;
}

/// Writes to the sinks; after the first error nothing more.
#[derive(Debug)]
pub(super) struct PlainScreen {
    sinks: Sinks,
    failed: Option<io::Error>,
}

impl PlainScreen {
    pub(super) fn new(sinks: Sinks) -> Self {
        Self { sinks, failed: None }
    }

    fn write(&mut self, text: &str, result: bool) {
        if self.failed.is_some() || text.is_empty() {
            return;
        }
        let (sink, color) = if result {
            (&mut self.sinks.results, self.sinks.results_color)
        } else {
            (&mut self.sinks.progress, self.sinks.progress_color)
        };
        // One write for whole lines: two programs on one terminal do not cut into each other's lines.
        let written = if color { sink.write_all(text.as_bytes()) } else { sink.write_all(plain(text).as_bytes()) };
        self.failed = written.and_then(|()| sink.flush()).err();
    }
}

impl Screen for PlainScreen {
    fn result(&mut self, text: &str) {
        self.write(text, true);
    }

    fn progress(&mut self, text: &str) {
        self.write(text, false);
    }

    fn status(&mut self, _: &[String]) {}

    fn draws(&self) -> bool {
        false
    }

    fn finish(&mut self) -> io::Result<()> {
        self.failed.take().map_or_else(
            || {
                self.sinks.results.flush()?;
                self.sinks.progress.flush()
            },
            Err,
        )
    }
}

/// Lines above, status below.
#[derive(Debug)]
pub(super) struct DrawnScreen {
    inner: PlainScreen,
    multi: MultiProgress,
    bars: Vec<ProgressBar>,
}

impl DrawnScreen {
    pub(super) fn new(sinks: Sinks, target: ProgressDrawTarget) -> Self {
        Self { inner: PlainScreen::new(sinks), multi: MultiProgress::with_draw_target(target), bars: Vec::new() }
    }

    fn bar(&self) -> ProgressBar {
        let bar = ProgressBar::new_spinner();
        // `wide_msg` cuts at the terminal's width: a line that wraps could not be redrawn.
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        self.multi.add(bar)
    }
}

impl Screen for DrawnScreen {
    fn result(&mut self, text: &str) {
        let inner = &mut self.inner;
        self.multi.suspend(|| inner.result(text));
    }

    fn progress(&mut self, text: &str) {
        let inner = &mut self.inner;
        self.multi.suspend(|| inner.progress(text));
    }

    fn status(&mut self, lines: &[String]) {
        while self.bars.len() < lines.len() {
            let bar = self.bar();
            self.bars.push(bar);
        }
        for bar in self.bars.drain(lines.len()..) {
            bar.finish_and_clear();
            self.multi.remove(&bar);
        }
        for (bar, line) in self.bars.iter().zip(lines) {
            bar.set_message(if self.inner.sinks.progress_color { line.clone() } else { plain(line) });
        }
    }

    fn draws(&self) -> bool {
        true
    }

    fn finish(&mut self) -> io::Result<()> {
        self.status(&[]);
        self.multi.clear()?;
        self.inner.finish()
    }
}
