//! Text that a host wrote, made fit to be shown: bounded, and without what a terminal would obey.

use std::collections::VecDeque;

/// Lines kept of an output.
const TAIL_LINES: usize = 20;
/// Longest line shown, in bytes.
const LINE_BYTES: usize = 1024;

/// One line of a host's text: control characters become spaces, the end is cut.
pub(super) fn one_line(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let plain = plain.trim();
    match plain.char_indices().find(|(at, _)| *at >= LINE_BYTES) {
        Some((at, _)) => format!("{}...", &plain[..at]),
        None => plain.to_owned(),
    }
}

/// The last lines of an output, whatever its length.
#[derive(Debug, Default)]
pub(super) struct Tail {
    lines: VecDeque<String>,
    open: Vec<u8>,
}

impl Tail {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            // What is cut off here is past what is shown of a line.
            let room = (LINE_BYTES + 1).saturating_sub(self.open.len());
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            self.open.extend_from_slice(&text[..text.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = one_line(&String::from_utf8_lossy(&self.open));
        self.open.clear();
        if !line.is_empty() {
            self.lines.push_back(line);
        }
        if self.lines.len() > TAIL_LINES {
            self.lines.pop_front();
        }
    }

    /// The lines so far, an unfinished one included.
    pub(super) fn lines(&mut self) -> Vec<String> {
        self.end_line();
        self.lines.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_not_commanded() {
        assert_eq!(one_line("\u{1b}[2Jred\r\n alert\u{7}"), "[2Jred   alert");
        assert!(one_line(&"ä".repeat(5000)).len() <= LINE_BYTES + 4);
    }

    #[test]
    fn the_tail_is_bounded() {
        let mut tail = Tail::default();
        for number in 0..100 {
            tail.push(format!("line {number}\n").as_bytes());
        }
        tail.push(b"unfin");
        tail.push(b"ished");
        let lines = tail.lines();
        assert_eq!((lines.len(), lines[0].as_str(), lines[19].as_str()), (20, "line 81", "unfinished"));
        let mut tail = Tail::default();
        for _ in 0..1000 {
            tail.push(&[b'x'; 4096]);
        }
        assert!(tail.open.len() <= LINE_BYTES + 1);
    }
}
