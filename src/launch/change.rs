//! What a service is, and what a change of it asks for.

use std::collections::BTreeSet;

use rustix::process::Signal;

use super::failure::Failure;
use crate::plan::{LaunchDescription, LaunchFile, OnChange};

/// A description and the contents of its files, in its order. Not printable: contents hold secrets.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) description: LaunchDescription,
    pub(super) contents: Vec<Vec<u8>>,
}

/// What a change asks for, after the files are rendered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing: the process reads its files by itself, or they are as before.
    Nothing,
    /// The process gets these signals, each once.
    Signals(Vec<Signal>),
    /// The process is stopped and started again.
    Restart,
}

impl Service {
    /// The files with their contents.
    pub(super) fn files(&self) -> impl Iterator<Item = (&LaunchFile, &Vec<u8>)> {
        self.description.files.iter().zip(&self.contents)
    }

    /// What it takes to get from an older state to this one.
    pub(super) fn effect_since(&self, old: &Self) -> Effect {
        let (before, now) = (&old.description, &self.description);
        let same_process = before.argv == now.argv
            && before.environment == now.environment
            && before.user == now.user
            && before.directory == now.directory;
        if !same_process {
            return Effect::Restart;
        }
        let mut signals = Vec::new();
        for (file, content) in self.files() {
            let same = |(other, bytes): (&LaunchFile, &Vec<u8>)| {
                other.path == file.path && other.mode == file.mode && bytes == content
            };
            if old.files().any(same) {
                continue;
            }
            match file.on_change.as_ref().unwrap_or(&now.on_change) {
                OnChange::Restart => return Effect::Restart,
                OnChange::Ignore => {}
                OnChange::Signal(name) => signals.extend(signal(name)),
            }
        }
        signals.dedup();
        if signals.is_empty() { Effect::Nothing } else { Effect::Signals(signals) }
    }

    /// Files of an older state that this one does not have.
    pub(super) fn dropped_since<'a>(&'a self, old: &'a Self) -> impl Iterator<Item = &'a LaunchFile> {
        let kept: BTreeSet<&str> = self.description.files.iter().map(|file| file.path.as_str()).collect();
        old.description.files.iter().filter(move |file| !kept.contains(file.path.as_str()))
    }
}

/// A description from its JSON, refused unless it can be carried out.
pub(super) fn parse(key: &str, json: &[u8]) -> Result<LaunchDescription, Failure> {
    let bad = |why: String| Failure::Description { key: key.to_owned(), why };
    let description: LaunchDescription = serde_json::from_slice(json).map_err(|error| bad(quoteless(&error)))?;
    let stop = Some(&description.stop_command).filter(|argv| !argv.is_empty()).map(|argv| ("stop_command", argv));
    let before = description.before_start.iter().map(|argv| ("before_start", argv));
    for (name, argv) in before.chain(stop).chain([("argv", &description.argv)]) {
        match argv.first() {
            None => return Err(bad(format!("`{name}` is empty"))),
            Some(program) if !program.starts_with('/') => {
                return Err(bad(format!("its program `{program}` is not an absolute path")));
            }
            Some(_) => {}
        }
        if argv.iter().any(|word| word.contains('\0')) {
            return Err(bad(format!("`{name}` holds a NUL character")));
        }
    }
    let bad_name = |name: &str| name.is_empty() || name.contains(['=', '\0']);
    if let Some(name) = description.environment.keys().find(|name| bad_name(name)) {
        return Err(bad(format!("`{}` is not a name for an environment variable", name.escape_debug())));
    }
    if description.environment.values().any(|value| value.contains('\0')) {
        return Err(bad("its environment holds a NUL character".to_owned()));
    }
    let mut paths = BTreeSet::new();
    for file in &description.files {
        if !paths.insert(file.path.as_str()) || file.path.as_str() == "/" {
            return Err(bad(format!("file `{}` is named twice or is no file", file.path)));
        }
    }
    let actions = description.files.iter().filter_map(|file| file.on_change.as_ref()).chain([&description.on_change]);
    for action in actions {
        if let OnChange::Signal(name) = action
            && signal(name).is_none()
        {
            return Err(bad(format!("`{name}` is not a signal that can be sent on a change")));
        }
    }
    Ok(description)
}

/// What is wrong with a JSON text, without the values that serde likes to quote: they may be secret.
fn quoteless(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let named = ["unknown field", "missing field", "unknown variant"].iter().any(|start| text.starts_with(start));
    if named {
        return text;
    }
    format!("it is not the JSON of a launch description, line {} column {}", error.line(), error.column())
}

/// A signal by its name, with or without `SIG`.
pub(super) fn signal(name: &str) -> Option<Signal> {
    Some(match name.strip_prefix("SIG").unwrap_or(name) {
        "HUP" => Signal::HUP,
        "INT" => Signal::INT,
        "QUIT" => Signal::QUIT,
        "TERM" => Signal::TERM,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        "ALRM" => Signal::ALARM,
        "CONT" => Signal::CONT,
        "WINCH" => Signal::WINCH,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(json: &str, contents: &[&str]) -> Service {
        let description = parse("/n/description", json.as_bytes()).unwrap();
        assert_eq!(description.files.len(), contents.len());
        Service { description, contents: contents.iter().map(|text| text.as_bytes().to_vec()).collect() }
    }

    const TWO: &str = r#"{"argv":["/bin/x"],"files":[{"path":"/run/a","key":"/n/a"},
        {"path":"/run/b","key":"/n/b","on_change":{"signal":"HUP"}}]}"#;

    #[test]
    fn each_file_asks_for_its_own_effect() {
        let old = service(TWO, &["1", "1"]);
        assert_eq!(service(TWO, &["1", "1"]).effect_since(&old), Effect::Nothing);
        assert_eq!(service(TWO, &["1", "2"]).effect_since(&old), Effect::Signals(vec![Signal::HUP]));
        assert_eq!(service(TWO, &["2", "1"]).effect_since(&old), Effect::Restart);
        assert_eq!(service(TWO, &["2", "2"]).effect_since(&old), Effect::Restart);
        let ignoring = TWO.replace(r#"{"signal":"HUP"}"#, r#""ignore""#);
        assert_eq!(service(&ignoring, &["1", "2"]).effect_since(&old), Effect::Nothing);
    }

    #[test]
    fn what_the_process_is_started_with_asks_for_a_restart() {
        let old = service(r#"{"argv":["/bin/x"]}"#, &[]);
        for json in [
            r#"{"argv":["/bin/x","y"]}"#,
            r#"{"argv":["/bin/x"],"environment":{"A":"1"}}"#,
            r#"{"argv":["/bin/x"],"user":"ovs"}"#,
            r#"{"argv":["/bin/x"],"directory":"/tmp"}"#,
        ] {
            assert_eq!(service(json, &[]).effect_since(&old), Effect::Restart, "{json}");
        }
        let patient = service(r#"{"argv":["/bin/x"],"stop_timeout":99}"#, &[]);
        assert_eq!(patient.effect_since(&old), Effect::Nothing);
    }

    #[test]
    fn files_that_are_gone_are_known() {
        let (old, new) = (service(TWO, &["1", "1"]), service(r#"{"argv":["/bin/x"]}"#, &[]));
        let dropped: Vec<&str> = new.dropped_since(&old).map(|file| file.path.as_str()).collect();
        assert_eq!(dropped, ["/run/a", "/run/b"]);
    }

    #[test]
    fn bad_descriptions_are_refused_without_their_values() {
        for bad in [
            "canary",
            r#"{"argv":"canary"}"#,
            r#"{"argv":[]}"#,
            r#"{"argv":["relative"]}"#,
            r#"{"argv":["/bin/x"],"before_start":[[]]}"#,
            r#"{"argv":["/bin/x"],"before_start":[["relative"]]}"#,
            r#"{"argv":["/bin/x"],"stop_command":["relative"]}"#,
            r#"{"argv":["/bin/x"],"nope":"canary"}"#,
            r#"{"argv":["/bin/x"],"environment":{"A=B":"canary"}}"#,
            r#"{"argv":["/bin/x"],"environment":{"A":["canary"]}}"#,
            r#"{"argv":["/bin/x"],"on_change":{"signal":"KILL"}}"#,
            r#"{"argv":["/bin/x"],"files":[{"path":"/a","key":"k"},{"path":"/a","key":"l"}]}"#,
        ] {
            let error = parse("/n/description", bad.as_bytes()).unwrap_err();
            assert_eq!(error.code(), 65, "{bad}");
            assert!(error.line().contains("/n/description") && !error.line().contains("canary"), "{}", error.line());
        }
    }
}
