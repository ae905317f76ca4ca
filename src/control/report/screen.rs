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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;

    /// A terminal that keeps whole lines above the cursor and the lines that are redrawn below.
    #[derive(Debug, Clone, Default)]
    struct Terminal(Arc<Mutex<Grid>>);

    #[derive(Debug, Default)]
    struct Grid {
        lines: Vec<String>,
        row: usize,
    }

    const WIDTH: u16 = 24;

    impl Grid {
        fn line(&mut self) -> &mut String {
            if self.lines.len() <= self.row {
                self.lines.resize(self.row + 1, String::new());
            }
            &mut self.lines[self.row]
        }

        fn put(&mut self, text: &str) {
            for c in text.chars() {
                // Like a real one: a full line wraps when the next character comes.
                if c == '\n' || self.line().chars().count() == usize::from(WIDTH) {
                    self.row += 1;
                }
                if c != '\n' {
                    self.line().push(c);
                }
            }
        }
    }

    impl Terminal {
        fn shows(&self) -> String {
            let lines: Vec<String> =
                self.0.lock().unwrap().lines.iter().map(|line| line.trim_end().to_owned()).collect();
            lines.join("\n").trim_end().to_owned()
        }
    }

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            WIDTH
        }

        fn move_cursor_up(&self, n: usize) -> io::Result<()> {
            let mut grid = self.0.lock().unwrap();
            grid.row = grid.row.saturating_sub(n);
            Ok(())
        }

        fn move_cursor_down(&self, n: usize) -> io::Result<()> {
            self.0.lock().unwrap().row += n;
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().put(&format!("{text}\n"));
            Ok(())
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().put(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            self.0.lock().unwrap().line().clear();
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Write for Terminal {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().put(&String::from_utf8_lossy(bytes));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_go_above_the_status_and_the_status_goes_away() {
        let terminal = Terminal::default();
        let sinks = Sinks {
            results: Box::new(terminal.clone()),
            progress: Box::new(terminal.clone()),
            results_color: false,
            progress_color: false,
            terminal: true,
        };
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 255);
        let mut screen = DrawnScreen::new(sinks, target);
        let draw = |screen: &mut DrawnScreen, lines: &[&str]| {
            let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            screen.status(&lines);
            screen.bars.iter().for_each(ProgressBar::force_draw);
        };
        draw(&mut screen, &["node-1 connecting", "Deploying demo, which is a long line"]);
        assert_eq!(terminal.shows(), "node-1 connecting\nDeploying demo, which is");
        screen.progress("etcd | done\n");
        screen.result("a result\n");
        draw(&mut screen, &["Deploying demo"]);
        assert_eq!(terminal.shows(), "etcd | done\na result\nDeploying demo");
        screen.finish().unwrap();
        assert_eq!(terminal.shows(), "etcd | done\na result");
    }
}
