//! Host names with ranges: `arakoon-[1-3]`, `rack[01-12]-n[1,3,5-7]`.

/// A range that names more hosts than this is a slip of the keyboard.
const MOST_NAMES: usize = 1000;

/// Digits of a number in a range; more would not fit any name list.
const MOST_DIGITS: usize = 9;

/// Why a name with ranges cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RangeError {
    /// A bracket without its other half.
    #[error("`{0}` has a bracket without its other half")]
    Unbalanced(String),
    /// Nothing between the brackets, or between two commas.
    #[error("the range in `{0}` is empty")]
    Empty(String),
    /// The last number is smaller than the first.
    #[error("range `[{0}]` runs backwards")]
    Backwards(String),
    /// Not numbers.
    #[error("`[{0}]` is not a range of numbers")]
    NotNumbers(String),
    /// More than [`MOST_NAMES`].
    #[error("`{0}` names more than 1000 hosts")]
    TooMany(String),
}

impl RangeError {
    /// What to write instead.
    pub(super) fn help(&self) -> Option<String> {
        match self {
            Self::Backwards(range) => {
                let (first, last) = range.split_once('-')?;
                Some(format!("write `[{last}-{first}]`"))
            }
            Self::TooMany(_) => None,
            _ => Some("a range is written `name-[1-3]`, `name-[01-12]` or `name-[1,3,5-7]`".to_owned()),
        }
    }
}

/// Whether every bracket pair of a pattern holds only digits, `-` and `,`: a range and not a class of characters.
pub(super) fn has_range(pattern: &str) -> bool {
    let mut insides = pattern.split('[').skip(1).filter_map(|rest| rest.split_once(']')).map(|(inside, _)| inside);
    pattern.contains('[')
        && insides.all(|inside| {
            inside.contains(|c: char| c.is_ascii_digit())
                && inside.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | ','))
        })
}

/// All names of a text with any number of ranges, in order; the text itself when it has none.
pub(super) fn expand(text: &str) -> Result<Vec<String>, RangeError> {
    let mut names = vec![String::new()];
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        let unbalanced = || RangeError::Unbalanced(text.to_owned());
        if before.contains(']') {
            return Err(unbalanced());
        }
        let (inside, tail) = after.split_once(']').ok_or_else(unbalanced)?;
        let numbers = numbers(inside, text)?;
        if names.len().saturating_mul(numbers.len()) > MOST_NAMES {
            return Err(RangeError::TooMany(text.to_owned()));
        }
        names =
            names.iter().flat_map(|name| numbers.iter().map(move |number| format!("{name}{before}{number}"))).collect();
        rest = tail;
    }
    if rest.contains(']') {
        return Err(RangeError::Unbalanced(text.to_owned()));
    }
    for name in &mut names {
        name.push_str(rest);
    }
    Ok(names)
}

/// The numbers between two brackets as they stand in names, zeros in front included.
fn numbers(inside: &str, text: &str) -> Result<Vec<String>, RangeError> {
    let mut all = Vec::new();
    for part in inside.split(',').map(str::trim) {
        if part.is_empty() {
            return Err(RangeError::Empty(text.to_owned()));
        }
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (number(first, part)?, number(last, part)?);
        if from > to {
            return Err(RangeError::Backwards(part.to_owned()));
        }
        let count = usize::try_from(to - from).unwrap_or(MOST_NAMES) + 1;
        if all.len() + count > MOST_NAMES {
            return Err(RangeError::TooMany(text.to_owned()));
        }
        // `[08-12]` keeps its width; `[8-12]` has none.
        let width = if first.starts_with('0') { first.len() } else { 0 };
        all.extend((from..=to).map(|number| format!("{number:0width$}")));
    }
    Ok(all)
}

fn number(digits: &str, part: &str) -> Result<u32, RangeError> {
    let plain = (1..=MOST_DIGITS).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten().ok_or_else(|| RangeError::NotNumbers(part.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_become_names() {
        for (text, names) in [
            ("etcd", vec!["etcd"]),
            ("asd-[1-3]", vec!["asd-1", "asd-2", "asd-3"]),
            ("n[08-10]x", vec!["n08x", "n09x", "n10x"]),
            ("n[1,3,5-6]", vec!["n1", "n3", "n5", "n6"]),
            ("r[1-2]n[1-2]", vec!["r1n1", "r1n2", "r2n1", "r2n2"]),
            ("n[7-7]", vec!["n7"]),
        ] {
            assert_eq!(expand(text).unwrap(), names, "{text}");
        }
    }

    #[test]
    fn bad_ranges_are_told_apart() {
        for (text, message) in [
            ("asd-[3-1]", "range `[3-1]` runs backwards"),
            ("asd-[]", "the range in `asd-[]` is empty"),
            ("asd-[1,,2]", "the range in `asd-[1,,2]` is empty"),
            ("asd-[1-x]", "`[1-x]` is not a range of numbers"),
            ("asd-[-1]", "`[-1]` is not a range of numbers"),
            ("asd-[1-2-3]", "`[1-2-3]` is not a range of numbers"),
            ("asd-[1-9999999999]", "`[1-9999999999]` is not a range of numbers"),
            ("asd-[1-1001]", "`asd-[1-1001]` names more than 1000 hosts"),
            ("a[0-99]b[0-99]", "`a[0-99]b[0-99]` names more than 1000 hosts"),
            ("asd-[1-3", "`asd-[1-3` has a bracket without its other half"),
            ("asd-1-3]", "`asd-1-3]` has a bracket without its other half"),
            ("a]b[1-2]", "`a]b[1-2]` has a bracket without its other half"),
        ] {
            assert_eq!(expand(text).unwrap_err().to_string(), message, "{text}");
        }
        assert_eq!(expand("asd-[3-1]").unwrap_err().help().unwrap(), "write `[1-3]`");
    }

    #[test]
    fn a_thousand_names_are_allowed() {
        assert_eq!(expand("n[1-1000]").unwrap().len(), 1000);
    }

    #[test]
    fn classes_of_characters_are_no_ranges() {
        assert!(has_range("asd-[1-12]"));
        assert!(has_range("asd-[1,3]*"));
        for pattern in ["asd-*", "asd-[ab]", "asd-[!1]", "asd-[a-c]", "asd"] {
            assert!(!has_range(pattern), "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_expanded_or_refused(text in "[a-c0-9\\[\\],-]{0,24}") {
            if let Ok(names) = expand(&text) {
                prop_assert!(!names.is_empty() && names.len() <= MOST_NAMES);
            }
        }

        #[test]
        fn a_range_has_all_its_numbers(first in 0u32..500, count in 1u32..500) {
            let names = expand(&format!("n[{first}-{}]", first + count - 1)).unwrap();
            let expected: Vec<String> = (first..first + count).map(|number| format!("n{number}")).collect();
            prop_assert_eq!(names, expected);
        }
    }
}
