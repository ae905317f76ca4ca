//! Colour, and the washing of texts that come from elsewhere.
//!
//! Text is composed with colour and stripped when it is written to something that has none. Colour repeats what a word
//! or marker says already.

use std::borrow::Cow;

use anstyle::{AnsiColor, Style};

pub(super) const BOLD: Style = Style::new().bold();
pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const GREEN: Style = AnsiColor::Green.on_default();
pub(super) const YELLOW: Style = AnsiColor::Yellow.on_default();
pub(super) const RED: Style = AnsiColor::Red.on_default();
pub(super) const CYAN: Style = AnsiColor::Cyan.on_default();

/// A text in a style.
pub(super) fn paint(style: Style, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{style}{text}{style:#}") }
}

/// A text without its colours.
pub fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

/// A text from a host or a file, made harmless for a terminal: control characters other than the tab, and characters
/// that reorder or hide others, are shown as escapes (`\u{1b}`).
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_harmful(c) { safe.extend(c.escape_unicode()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

/// A line of a command's output: its colours and cursor movements are taken out, and of a line that redraws itself
/// with carriage returns the last state stays.
pub(super) fn output_line(line: &str) -> String {
    let stripped = plain(line.trim_end_matches(['\r', '\n']));
    let last = stripped.rsplit('\r').find(|part| !part.is_empty()).unwrap_or_default();
    clean(last).into_owned()
}

fn is_harmful(c: char) -> bool {
    // Bidirectional overrides and isolates, and the byte order mark, can make a line read as another one.
    let reorders =
        matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    (c.is_control() && c != '\t') || reorders || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_cannot_steer_the_terminal() {
        assert_eq!(clean("a\tb"), "a\tb");
        assert_eq!(clean("\u{1b}[2Jx\u{7}"), "\\u{1b}[2Jx\\u{7}");
        assert_eq!(clean("a\nb\r"), "a\\u{a}b\\u{d}");
        assert_eq!(clean("user\u{202e}nimda\u{9b}31m"), "user\\u{202e}nimda\\u{9b}31m");
    }

    #[test]
    fn output_keeps_its_text_only() {
        assert_eq!(output_line("\u{1b}[31mred\u{1b}[0m\r\n"), "red");
        assert_eq!(output_line("10%\r50%\r100%\r"), "100%");
        assert_eq!(output_line("a\u{8}b"), "ab");
        assert_eq!(output_line(""), "");
    }

    #[test]
    fn paint_can_be_taken_off() {
        assert_eq!(plain(&paint(RED, "x")), "x");
        assert_eq!(paint(RED, ""), "");
    }
}
