//! What containers and builds write, made fit for people's terminals.

/// A line is cut off here, in characters.
pub(super) const LONGEST_LINE: usize = 4096;

/// The line without control characters: a container must not be able to steer the terminal that shows its log.
pub(super) fn printable(line: &str) -> String {
    let shown = line.chars().filter(|c| !c.is_control() || *c == '\t').take(LONGEST_LINE);
    shown.collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal_and_nothing_is_endless() {
        assert_eq!(printable("\u{1b}[2Jok\tyes\r\n"), "[2Jok\tyes");
        assert_eq!(printable(&"x".repeat(10_000)).len(), LONGEST_LINE);
    }
}
