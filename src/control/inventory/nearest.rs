//! The right name nearest to a wrong one.

/// Words that other tools use, and ours for the same idea.
const FOREIGN: [(&str, &str); 11] = [
    ("depends_on", "needs"),
    ("requires", "needs"),
    ("env", "environment"),
    ("ip", "address"),
    ("ipv4_address", "address"),
    ("host", "address"),
    ("hostname", "address"),
    ("identity_file", "key"),
    ("proxy_jump", "jump"),
    ("role", "recipe"),
    ("parameters", "params"),
];

/// The candidate that was most likely meant: our word for another tool's, one typing slip away, or what begins so.
pub(super) fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    let lower = wrong.to_lowercase();
    let foreign = FOREIGN.iter().find(|(theirs, ours)| *theirs == lower && candidates.contains(ours));
    if let Some((_, ours)) = foreign {
        return Some((*ours).to_owned());
    }
    // One slip in three characters, as rustc has it: more would suggest unrelated names.
    let limit = lower.chars().count().max(3) / 3;
    let close = candidates
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), *name))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name);
    let longer = || candidates.iter().copied().find(|name| lower.len() >= 3 && name.to_lowercase().starts_with(&lower));
    close.or_else(longer).map(str::to_owned)
}

/// A question for the help line, or the names that there are when none is near.
pub(super) fn did_you_mean<'a>(
    wrong: &str,
    what: &str,
    candidates: impl IntoIterator<Item = &'a str> + Clone,
) -> Option<String> {
    /// More names than this would bury the message; a container has 25 keys.
    const LISTED: usize = 25;
    if let Some(name) = nearest(wrong, candidates.clone()) {
        return Some(format!("did you mean `{name}`?"));
    }
    let names: Vec<String> = candidates.into_iter().map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => None,
        1 => Some(format!("there is only {}", names.join(""))),
        2..=LISTED => Some(format!("the {what} are {}", names.join(", "))),
        more => Some(format!("the {what} are {} and {} more", names[..LISTED].join(", "), more - LISTED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_beginnings_and_foreign_words_are_understood() {
        let keys = ["image", "environment", "needs", "volumes"];
        for (wrong, right) in [
            ("imgae", Some("image")),
            ("Image", Some("image")),
            ("volume", Some("volumes")),
            ("envir", Some("environment")),
            ("env", Some("environment")),
            ("depends_on", Some("needs")),
            ("colour", None),
        ] {
            assert_eq!(nearest(wrong, keys).as_deref(), right, "{wrong}");
        }
    }

    #[test]
    fn without_a_near_name_the_names_are_listed() {
        assert_eq!(did_you_mean("xyz", "hosts", ["a", "b"]).unwrap(), "the hosts are `a`, `b`");
        assert_eq!(did_you_mean("xyz", "hosts", ["a"]).unwrap(), "there is only `a`");
        assert_eq!(did_you_mean("xyz", "hosts", []), None);
    }
}
