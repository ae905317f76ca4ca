//! Failures as people read them: `error:`, `because:`, the output's tail, the recipe line, `hint:`.

use std::fmt::Write as _;

use super::paint::{BOLD, CYAN, RED, clean, output_line, paint};
use crate::{
    control::event::Problem,
    plan::{OpFailure, Source},
};

/// Most lines of output that a failure shows.
const TAIL: usize = 20;

/// A problem in lines, each ended by a newline, coloured; see [`super::plain`].
///
/// ```text
/// error: node-1: cannot connect
/// because: connection refused
/// hint: start sshd
/// ```
pub fn problem_text(problem: &Problem) -> String {
    let mut text = String::new();
    part(&mut text, "error", &problem.error, true);
    for cause in &problem.because {
        part(&mut text, "because", cause, false);
    }
    tail(&mut text, &problem.output_tail);
    hint(&mut text, problem.hint.as_deref());
    text
}

/// A step that failed: `who` names hosts, `what` the step and its component.
pub(super) fn step_failure_text(who: &str, what: &str, failure: &OpFailure, source: Option<&Source>) -> String {
    let mut text = String::new();
    part(&mut text, "error", &format!("{who}: {what} failed"), true);
    part(&mut text, "because", &failure.message, false);
    tail(&mut text, &failure.output_tail);
    if let Some(source) = source {
        part(&mut text, "at", &source.to_string(), false);
    }
    hint(&mut text, failure.hint.as_deref());
    text
}

fn part(text: &mut String, label: &str, content: &str, loud: bool) {
    let label = paint(if loud { RED.bold() } else { BOLD }, &format!("{label}:"));
    let mut lines = content.lines();
    let _ = writeln!(text, "{label} {}", clean(lines.next().unwrap_or_default()));
    for line in lines {
        let _ = writeln!(text, "    {}", clean(line));
    }
}

fn tail(text: &mut String, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(text, "{}", paint(BOLD, "output:"));
    for line in &lines[lines.len().saturating_sub(TAIL)..] {
        let _ = writeln!(text, "    {}", output_line(line));
    }
}

fn hint(text: &mut String, hint: Option<&str>) {
    if let Some(hint) = hint {
        let label = paint(CYAN.bold(), "hint:");
        let _ = writeln!(text, "{label} {}", clean(hint));
    }
}
