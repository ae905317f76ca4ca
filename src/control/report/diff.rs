//! Diffs as people read them: a marker, what differs, how, and unified diffs of texts.

use std::{fmt::Write as _, time::Duration};

use anstyle::Style;
use similar::{ChangeTag, TextDiff};

use super::{
    paint::{CYAN, DIM, GREEN, RED, YELLOW, clean, paint},
    words::{bytes, plural},
};
use crate::{
    control::event::ConfigChange,
    plan::{Action, Detail, Diff},
};

/// Lines around a change.
const CONTEXT: usize = 3;
/// A diff that takes longer is finished coarsely; texts are at most 256 KiB a side.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longer lines are cut: a minified file must not bury the rest.
const LONGEST_LINE: usize = 2000;
/// Paths of a tree shown; all that came with `-v`.
const PATHS: usize = 20;
/// What stands for a secret value.
const SECRET: &str = "***";

/// What an action looks like at the beginning of a line, coloured.
pub(super) fn marker(action: Action) -> String {
    let (style, sign) = match action {
        Action::Create => (GREEN, "+"),
        Action::Modify => (YELLOW, "~"),
        Action::Remove => (RED, "-"),
        Action::Run | Action::Start | Action::Stop | Action::Restart => (CYAN, ">"),
    };
    paint(style, sign)
}

/// What a whole diff does: what all its changes do, else it modifies.
pub(super) fn overall(diff: Option<&Diff>) -> Action {
    let mut actions = diff.iter().flat_map(|diff| &diff.changes).map(|change| change.action);
    let first = actions.next().unwrap_or(Action::Modify);
    if actions.all(|action| action == first) { first } else { Action::Modify }
}

/// The changes of one step, below its line. `title` is on that line, so it is not said twice.
pub(super) fn diff_text(diff: &Diff, title: &str, indent: usize, verbosity: u8) -> String {
    let mut text = String::new();
    let alone = diff.changes.len() == 1;
    for change in &diff.changes {
        let is_said = alone && said(title, &change.target) && verb(change.action).is_empty();
        if !is_said {
            let verb = verb(change.action);
            line(&mut text, indent, &format!("{} {verb}{}", marker(change.action), clean(&change.target)));
        }
        let indent = if is_said { indent } else { indent + 4 };
        for detail in &change.details {
            detail_text(&mut text, detail, indent, verbosity);
        }
    }
    text
}

fn said(title: &str, target: &str) -> bool {
    title.split_once(' ').is_some_and(|(_, subject)| subject == target)
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Create | Action::Modify | Action::Remove | Action::Run => "",
        Action::Start => "start ",
        Action::Stop => "stop ",
        Action::Restart => "restart ",
    }
}

fn detail_text(text: &mut String, detail: &Detail, indent: usize, verbosity: u8) {
    match detail {
        Detail::Text { before, after } => unified(text, before, after, indent),
        Detail::Opaque { before, after } => {
            let before = before.map(|(size, digest)| format!("{} ({})", bytes(size), digest.short()));
            let after = after.map(|(size, digest)| format!("{} ({})", bytes(size), digest.short()));
            attribute(text, "content", before.as_deref(), after.as_deref(), indent);
        }
        Detail::SecretContent => line(text, indent, "content differs (secret)"),
        Detail::Attribute { name, before, after } => {
            attribute(text, name, before.as_deref(), after.as_deref(), indent);
        }
        Detail::Reason { text: reason } => line(text, indent, &clean(reason)),
        Detail::Tree { created, modified, removed, bytes: size, paths } => {
            let size = bytes(*size);
            line(
                text,
                indent,
                &format!("{created} created, {modified} modified, {removed} removed; {size} of content"),
            );
            let shown = if verbosity > 0 { paths.len() } else { PATHS };
            for path in paths.iter().take(shown) {
                let style = match path.chars().next() {
                    Some('+') => GREEN,
                    Some('-') => RED,
                    _ => YELLOW,
                };
                line(text, indent, &paint(style, &clean(path)));
            }
            let entries = (created + modified + removed).max(paths.len() as u64);
            let more = entries.saturating_sub(paths.len().min(shown) as u64);
            if more > 0 {
                line(text, indent, &format!("and {}", plural(more, "more path", "more paths")));
            }
        }
    }
}

fn attribute(text: &mut String, name: &str, before: Option<&str>, after: Option<&str>, indent: usize) {
    let value = match (before, after) {
        (None, Some(after)) => clean(after).into_owned(),
        (Some(before), after) => format!("{} → {}", clean(before), clean(after.unwrap_or("none"))),
        (None, None) => String::new(),
    };
    line(text, indent, format!("{} {value}", clean(name)).trim_end());
}

/// Keys of etcd that differ, with unified diffs, coloured; see [`super::plain`]. Empty when nothing differs.
pub fn config_changes_text(changes: &[ConfigChange]) -> String {
    let mut text = String::new();
    for change in changes {
        line(&mut text, 0, &format!("{} {}", marker(change.action), clean(&change.key)));
        let (before, after) = (change.before.as_deref(), change.after.as_deref());
        if before == Some(SECRET) || after == Some(SECRET) {
            line(&mut text, 4, if before.is_some() && after.is_some() { "value differs (secret)" } else { "secret" });
        } else {
            unified(&mut text, before.unwrap_or_default(), after.unwrap_or_default(), 4);
        }
    }
    text
}

/// A unified diff: `--- before`, `+++ after`, hunks with three lines of context.
fn unified(text: &mut String, before: &str, after: &str, indent: usize) {
    if before == after {
        return;
    }
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(before, after);
    line(text, indent, &paint(RED, "--- before"));
    line(text, indent, &paint(GREEN, "+++ after"));
    for hunk in diff.unified_diff().context_radius(CONTEXT).iter_hunks() {
        line(text, indent, &paint(CYAN, &hunk.header().to_string()));
        for change in hunk.iter_changes() {
            let (sign, style) = match change.tag() {
                ChangeTag::Delete => ('-', RED),
                ChangeTag::Insert => ('+', GREEN),
                ChangeTag::Equal => (' ', Style::new()),
            };
            let content = change.value().trim_end_matches('\n');
            line(text, indent, paint(style, &format!("{sign}{}", shorten(content))).trim_end_matches(' '));
            if change.missing_newline() {
                line(text, indent, &paint(DIM, "\\ No newline at end of file"));
            }
        }
    }
}

fn shorten(content: &str) -> String {
    let Some((end, _)) = content.char_indices().nth(LONGEST_LINE) else {
        return clean(content).into_owned();
    };
    let (head, rest) = content.split_at(end);
    format!("{} … {}", clean(head), plural(rest.chars().count() as u64, "more character", "more characters"))
}

fn line(text: &mut String, indent: usize, content: &str) {
    let _ = writeln!(text, "{:indent$}{content}", "");
}
