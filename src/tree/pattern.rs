//! A gitignore pattern, read as git reads it (gitignore(5), `dir.c` and `wildmatch.c` of git 2.47) and written for the
//! matcher, whose own globs have braces, no named classes, and no escapes in classes.

use std::{collections::BTreeSet, iter::Peekable, str::Chars};

/// A line without what git does not count as part of it: a closing carriage return, then spaces that no backslash keeps.
pub(super) fn trimmed(line: &str) -> &str {
    let line = line.strip_suffix('\r').unwrap_or(line);
    let text = line.trim_end_matches(' ');
    let backslashes = text.bytes().rev().take_while(|byte| *byte == b'\\').count();
    let is_kept = text.len() < line.len() && backslashes % 2 == 1;
    if is_kept { &line[..=text.len()] } else { text }
}

/// What a line says: whether it takes back in, and the pattern. None when it says nothing.
pub(super) fn stated(line: &str) -> Option<(bool, &str)> {
    let line = trimmed(line);
    if line.starts_with('#') {
        return None;
    }
    let (takes_in, pattern) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest));
    (!pattern.trim_matches('/').is_empty()).then_some((takes_in, pattern))
}

/// Whether a pattern holds for one place and not for a name anywhere below.
pub(super) fn is_anchored(pattern: &str) -> bool {
    pattern.strip_suffix('/').unwrap_or(pattern).contains('/')
}

/// The same line for the matcher, always anchored. None when it says nothing; an error for a pattern that git takes and
/// that can never match anything.
pub(super) fn matcher_line(line: &str) -> Result<Option<String>, &'static str> {
    let Some((takes_in, pattern)) = stated(line) else { return Ok(None) };
    let (body, end) = pattern.strip_suffix('/').map_or((pattern, ""), |body| (body, "/"));
    let depth = if is_anchored(pattern) { "" } else { "**/" };
    let mut out = format!("{}/{depth}", if takes_in { "!" } else { "" });
    let mut rest = body.strip_prefix('/').unwrap_or(body).chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' => push_literal(&mut out, rest.next().ok_or("the backslash at its end escapes nothing")?),
            '[' => push_class(&mut out, &mut rest)?,
            '*' => {
                let mut stars = 1;
                while rest.next_if_eq(&'*').is_some() {
                    stars += 1;
                }
                out.push_str(if stars == 1 { "*" } else { "**" });
            }
            '?' | '/' => out.push(c),
            other => push_literal(&mut out, other),
        }
    }
    // The matcher trims all white space, and a backslash before a closing slash; a group of one keeps them.
    let kept = if out.ends_with(char::is_whitespace) { out.pop().map(String::from) } else { None };
    let kept = kept.or_else(|| out.strip_suffix("\\\\").map(str::len).map(|at| out.split_off(at)));
    if let Some(kept) = kept {
        out.extend(["{", &kept, "}"]);
    }
    out.push_str(end);
    Ok(Some(out))
}

fn push_literal(out: &mut String, c: char) {
    if matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | ',' | '\\' | '!' | '#') {
        out.push('\\');
    }
    out.push(c);
}

/// Reads a character class after its `[`, as git's `wildmatch.c` does, and writes the characters that it stands for.
fn push_class(out: &mut String, rest: &mut Peekable<Chars<'_>>) -> Result<(), &'static str> {
    const UNCLOSED: &str = "a `[` has no `]`";
    let is_negated = rest.next_if(|c| matches!(c, '!' | '^')).is_some();
    let mut members = BTreeSet::new();
    let mut before: Option<char> = None;
    let mut is_first = true;
    loop {
        let c = rest.next().ok_or(UNCLOSED)?;
        if c == ']' && !is_first {
            break;
        }
        is_first = false;
        let range_start = before.filter(|_| c == '-' && rest.peek().is_some_and(|next| *next != ']'));
        before = if c == '\\' {
            let escaped = rest.next().ok_or(UNCLOSED)?;
            members.insert(escaped);
            Some(escaped)
        } else if let Some(start) = range_start {
            let end = rest.next().ok_or(UNCLOSED)?;
            let end = if end == '\\' { rest.next().ok_or(UNCLOSED)? } else { end };
            members.extend(start..=end);
            None
        } else if let Some(name) = named(c, rest) {
            members.extend(class(&name).ok_or("a class in `[: :]` has an unknown name")?);
            None
        } else {
            members.insert(c);
            Some(c)
        };
    }
    // A slash divides a path and is never matched by a class.
    members.remove(&'/');
    if !members.iter().all(char::is_ascii) {
        return Err("a character class holds more than ASCII");
    }
    if is_negated {
        let is_plain = |c: &&char| !matches!(**c, ']' | '-');
        out.push_str("[!");
        out.extend(members.get(&']'));
        out.push('/');
        out.extend(members.iter().filter(is_plain));
        out.extend(members.get(&'-'));
        out.push(']');
        return Ok(());
    }
    if members.is_empty() {
        return Err("a character class is empty");
    }
    // A group, because the matcher's classes know no escapes.
    for (at, member) in members.into_iter().enumerate() {
        out.push(if at == 0 { '{' } else { ',' });
        push_literal(out, member);
    }
    out.push('}');
    Ok(())
}

/// The name in `[:name:]`, when that is what follows.
fn named(c: char, rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    if c != '[' || rest.peek() != Some(&':') {
        return None;
    }
    let mut ahead = rest.clone();
    ahead.next();
    let mut name = String::new();
    loop {
        match ahead.next()? {
            ']' => break,
            other => name.push(other),
        }
    }
    let name = name.strip_suffix(':')?.to_owned();
    *rest = ahead;
    Some(name)
}

/// The characters of a named class (POSIX, section 9.3.5, in the C locale).
fn class(name: &str) -> Option<impl Iterator<Item = char>> {
    let belongs: fn(&char) -> bool = match name {
        "alnum" => char::is_ascii_alphanumeric,
        "alpha" => char::is_ascii_alphabetic,
        "blank" => |c| matches!(c, ' ' | '\t'),
        "cntrl" => char::is_ascii_control,
        "digit" => char::is_ascii_digit,
        "graph" => char::is_ascii_graphic,
        "lower" => char::is_ascii_lowercase,
        "print" => |c| matches!(c, ' '..='~'),
        "punct" => char::is_ascii_punctuation,
        "space" => |c| matches!(c, ' ' | '\t'..='\r'),
        "upper" => char::is_ascii_uppercase,
        "xdigit" => char::is_ascii_hexdigit,
        _ => return None,
    };
    Some(('\u{1}'..='\u{7f}').filter(belongs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_at_the_end_go_unless_a_backslash_keeps_one() {
        for (line, wanted) in
            [("a  ", "a"), ("a\\  ", "a\\ "), ("a\\\\  ", "a\\\\"), ("a \r", "a"), ("a\t", "a\t"), (" ", "")]
        {
            assert_eq!(trimmed(line), wanted, "{line:?}");
        }
    }

    #[test]
    fn lines_are_written_for_the_matcher() {
        for (line, wanted) in [
            ("*.o", Some("/**/*.o")),
            ("!a/b/", Some("!/a/b/")),
            ("{a,b}", Some("/**/\\{a\\,b\\}")),
            ("a***b", Some("/**/a**b")),
            ("[!a]", Some("/**/[!/a]")),
            ("[]-]", Some("/**/{-,\\]}")),
            ("x\\ ", Some("/**/x{ }")),
            ("x\\\\/", Some("/**/x{\\\\}/")),
            ("[b-a]", Some("/**/{b}")),
            ("# no", None),
            ("!/", None),
            ("", None),
        ] {
            assert_eq!(matcher_line(line).unwrap().as_deref(), wanted, "{line:?}");
        }
        for bad in ["a\\", "[a", "[[:nonsense:]]", "[/]", "[é]"] {
            assert!(matcher_line(bad).is_err(), "{bad:?}");
        }
    }
}
