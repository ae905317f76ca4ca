//! The arguments of `alba`: a sub-command, options, positional words.

use std::collections::BTreeMap;

/// Options that take a value, under the name that the code uses.
const VALUED: [(&str, &str); 13] = [
    ("--config", "config"),
    ("-h", "host"),
    ("--host", "host"),
    ("-p", "port"),
    ("--port", "port"),
    ("--log-sink", "log-sink"),
    ("--node-id", "node-id"),
    ("--long-id", "long-id"),
    ("--modulo", "modulo"),
    ("--remainder", "remainder"),
    ("--transport", "transport"),
    ("--period", "period"),
    ("--verbose-level", "verbose-level"),
];

/// Options without a value.
const PLAIN: [&str; 8] = [
    "--to-json",
    "--verbose",
    "--all-in-one",
    "--only-rebalance",
    "--no-rebalance",
    "--clear",
    "--allow-overwrite",
    "--version",
];

/// The words after the sub-command.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    options: BTreeMap<String, Vec<String>>,
    pub(crate) words: Vec<String>,
}

impl Arguments {
    /// Reads the words; `--option=value` is the same as `--option value`.
    pub(crate) fn parse(words: &[String]) -> Result<Self, String> {
        let mut found = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (flag, attached) = match word.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
                _ => (word.as_str(), None),
            };
            if let Some((_, name)) = VALUED.iter().find(|(known, _)| *known == flag) {
                let value = attached.or_else(|| words.next().cloned());
                let value = value.ok_or_else(|| format!("option `{flag}' needs an argument"))?;
                found.options.entry((*name).to_owned()).or_default().push(value);
            } else if PLAIN.contains(&flag) {
                found.options.entry(flag.trim_start_matches('-').to_owned()).or_default();
            } else if flag.starts_with('-') {
                return Err(format!("unknown option `{flag}'."));
            } else {
                found.words.push(word.clone());
            }
        }
        Ok(found)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.options.contains_key(name)
    }

    pub(crate) fn all(&self, name: &str) -> &[String] {
        self.options.get(name).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).last().map(String::as_str)
    }

    pub(crate) fn required(&self, name: &str) -> Result<&str, String> {
        self.get(name).ok_or_else(|| format!("required option --{name} is missing"))
    }

    /// The positional word at this place.
    pub(crate) fn word(&self, place: usize, what: &str) -> Result<&str, String> {
        self.words.get(place).map(String::as_str).ok_or_else(|| format!("required argument {what} is missing"))
    }

    pub(crate) fn port(&self, default: u16) -> Result<u16, String> {
        self.get("port").map_or(Ok(default), |text| text.parse().map_err(|_| format!("`{text}' is not a port")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_known_or_refused() {
        let parse = |line: &str| Arguments::parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let found = parse("--config=/a -h ::1 -p 8600 demo --to-json --log-sink console: --log-sink /l").unwrap();
        assert_eq!(
            (found.get("config"), found.port(1).unwrap(), found.word(0, "NS").unwrap()),
            (Some("/a"), 8600, "demo")
        );
        assert_eq!(found.all("log-sink"), ["console:", "/l"]);
        assert!(found.has("to-json") && found.required("long-id").is_err());
        assert!(parse("--loud").is_err() && parse("--config").is_err());
    }
}
