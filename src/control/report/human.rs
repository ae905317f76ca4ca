//! A run for people: a line for whatever happens, and at the end what it came to.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{
    diff::config_changes_text,
    follow::Reporter,
    ledger::{Ledger, indented, step_text},
    lines,
    paint::{BOLD, DIM, clean, paint},
    screen::Screen,
    status::Status,
    style::ReportStyle,
    summary,
    words::{duration, plural},
};
use crate::{
    control::event::{ChangeSet, RunEvent, RunKind, Status as End, StepProgress, Summary},
    plan::{HostName, Outcome},
};

/// Status lines are composed at most so often.
const REFRESH: Duration = Duration::from_millis(66);

/// Folds events to lines on a screen.
pub(super) struct HumanReporter<S> {
    style: ReportStyle,
    screen: S,
    ledger: Ledger,
    status: Status,
    drawn: Option<Instant>,
    /// The header of the diff shown last, so that it is not said again for the next step of the same place.
    header: String,
    /// The failures of a push that were said last: a watch tries again and again.
    said: Vec<String>,
    /// Whether a watched push was last said to be in sync, with no trouble since.
    is_calm: bool,
}

impl<S: Screen> HumanReporter<S> {
    pub(super) fn new(style: ReportStyle, screen: S, now: Instant) -> Self {
        Self {
            style,
            screen,
            ledger: Ledger::new(style.verbosity),
            status: Status::new(now),
            drawn: None,
            header: String::new(),
            said: Vec::new(),
            is_calm: false,
        }
    }

    fn line(&mut self, host: Option<&HostName>, text: &str) {
        let line = self.prefixed(host, text);
        self.screen.progress(&line);
    }

    /// `host | text`, the bar below the bar of other hosts.
    fn prefixed(&self, host: Option<&HostName>, text: &str) -> String {
        let width = self.ledger.width;
        match host {
            Some(host) => format!(
                "{}{}{text}\n",
                paint(DIM, &format!("{host:<width$} |")),
                if text.is_empty() { "" } else { " " }
            ),
            None => format!("{text}\n"),
        }
    }

    /// Output of commands: a result when the run is for its sake, else progress.
    fn output(&mut self, host: &HostName, line: &str, stderr: bool) {
        let kind = self.ledger.kind();
        let for_its_sake = matches!(kind, RunKind::Exec | RunKind::Recipe);
        if kind == RunKind::Plan || (!for_its_sake && self.screen.draws() && self.style.verbosity == 0) {
            return; // A plan's probes are nobody's business; the status shows a deploy's last line.
        }
        let text = lines::output(line, for_its_sake);
        let text = self.prefixed(Some(host), &text);
        if for_its_sake && !stderr { self.screen.result(&text) } else { self.screen.progress(&text) }
    }

    fn show(&mut self, event: &RunEvent) {
        if let RunEvent::Step { host, progress: StepProgress::Output { stderr, line }, .. } = event {
            return self.output(host, line, *stderr);
        }
        if self.style.diff && self.ledger.kind() != RunKind::Plan && self.show_diff(event) {
            return;
        }
        match event {
            RunEvent::ChangeSet(set) => {
                self.is_calm &= set.failed.is_empty();
                return self.change_set(set);
            }
            RunEvent::Warning { .. } => self.is_calm = false,
            // Said at the beginning and after trouble: after a change, the change's line says it.
            RunEvent::InSync { .. } if std::mem::replace(&mut self.is_calm, true) => return,
            _ => {}
        }
        if let Some((host, text)) = lines::live(event, self.ledger.kind(), self.style.verbosity) {
            self.line(host, &text);
        }
    }

    /// With `--diff`: what was changed, as a plan shows it, when it was changed.
    fn show_diff(&mut self, event: &RunEvent) -> bool {
        let (header, text) = match event {
            RunEvent::Config { component, changes, applied: true } if !changes.is_empty() => {
                (format!("{component}, configuration in etcd"), indented(&config_changes_text(changes), 2))
            }
            RunEvent::Step {
                component,
                host,
                title,
                source,
                progress: StepProgress::Finished { outcome: outcome @ Outcome::Changed, diff, .. },
                ..
            } => {
                let text = step_text(title, source, outcome, diff.as_ref(), self.style.verbosity);
                (format!("{component} on {host}"), text.unwrap_or_default())
            }
            _ => return false,
        };
        let blank = if self.header.is_empty() { "" } else { "\n" };
        let head = if self.header == header { String::new() } else { format!("{blank}{}\n", paint(BOLD, &header)) };
        self.screen.result(&format!("{head}{text}"));
        self.header = header;
        true
    }

    /// One line for what a push brought; before it, what failed unless that was the last thing said.
    fn change_set(&mut self, set: &ChangeSet) {
        let failures = self.ledger.take_failures_text();
        if !failures.is_empty() && failures != self.said {
            self.screen.progress(&format!("{}\n", failures.join("\n")));
        }
        if failures.is_empty() || failures != self.said || !set.hosts.is_empty() {
            self.screen.result(&format!("{}\n", lines::change_set(set)));
        }
        if self.style.verbosity > 0 {
            set.paths.iter().for_each(|path| self.line(None, &format!("  {}", clean(path))));
        }
        self.said = failures;
    }

    fn end(&mut self, summary: &Summary) {
        self.screen.status(&[]);
        if !self.header.is_empty() {
            self.screen.result("\n");
        }
        if summary.kind == RunKind::Plan {
            let text = self.ledger.plan_text();
            self.screen.result(&text);
        }
        let failures = self.ledger.failures_text();
        if !failures.is_empty() {
            self.screen.progress(&format!("\n{}\n", failures.join("\n")));
        }
        let counts = summary::counts(summary, self.ledger.unknown);
        match summary.kind {
            RunKind::Plan => {
                let clean = summary::is_clean(summary, self.ledger.unknown);
                self.screen.result(&format!("{}{counts}\n", if clean { "No changes.\n" } else { "" }));
            }
            RunKind::Deploy | RunKind::Recipe => {
                for table in summary::tables(summary) {
                    self.screen.result(&format!("{table}\n\n"));
                }
                self.screen.result(&format!("{counts}\n"));
                self.sent(summary);
            }
            RunKind::Exec => self.screen.progress(&exec_end(summary)),
            RunKind::Lab | RunKind::Health => self.screen.result(&format!("{counts}\n")),
            RunKind::Push => {
                self.sent(summary);
                let is_idle = summary.hosts.iter().all(|host| host.status == End::Unchanged);
                if is_idle && !summary.interrupted {
                    let hosts = plural(summary.hosts.len() as u64, "host", "hosts");
                    self.screen.result(&format!("No changes on {hosts}, {}.\n", duration(summary.millis)));
                }
            }
        }
    }

    fn sent(&mut self, summary: &Summary) {
        if let Some(text) = summary::sent(summary) {
            self.screen.result(&format!("{text}\n"));
        }
    }

    fn draw(&mut self, now: Instant) {
        if self.screen.draws() && self.drawn.is_none_or(|drawn| now.duration_since(drawn) >= REFRESH) {
            self.drawn = Some(now);
            self.screen.status(&self.status.lines(now));
        }
    }
}

/// `2 hosts done, 1 failed in 0.4 s.`
fn exec_end(summary: &Summary) -> String {
    let bad = |host: &&crate::control::event::HostSummary| !matches!(host.status, End::Unchanged | End::Changed);
    let failed = summary.hosts.iter().filter(bad).count();
    let done = plural((summary.hosts.len() - failed) as u64, "host", "hosts");
    let interrupted = if summary.interrupted { "Interrupted: " } else { "" };
    let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    format!("{interrupted}{done} done{failed} in {}.\n", duration(summary.millis))
}

impl<S: Screen> Reporter for HumanReporter<S> {
    fn event(&mut self, event: &RunEvent, now: Instant) {
        self.ledger.event(event);
        self.status.event(event, now);
        if let RunEvent::RunFinished(summary) = event {
            self.end(summary);
        } else {
            self.show(event);
            self.draw(now);
        }
    }

    fn tick(&mut self, now: Instant) {
        let silent = self.status.silent(now);
        if !self.screen.draws() {
            for (host, text) in silent {
                self.line(Some(&host), &text);
            }
        }
        self.draw(now);
    }

    fn finish(&mut self) -> io::Result<()> {
        self.screen.finish()
    }
}
