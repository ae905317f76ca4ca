//! The ini dialect of arakoon: sections of `key = value` lines, lists split on comma, space or tab.

use std::collections::BTreeMap;

/// The sections of an ini text, each with its members.
#[derive(Debug)]
pub(crate) struct Ini(BTreeMap<String, BTreeMap<String, String>>);

impl Ini {
    /// Reads a text. Comments begin with `#` or `;`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut sections: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let mut current = None;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                current = Some(name.trim().to_owned());
                sections.entry(name.trim().to_owned()).or_default();
            } else if let (Some(section), Some((key, value))) = (&current, line.split_once('=')) {
                let members = sections.entry(section.clone()).or_default();
                members.insert(key.trim().to_owned(), value.trim().to_owned());
            } else {
                return Err(format!("line {}: neither a section nor a member", number + 1));
            }
        }
        Ok(Self(sections))
    }

    /// One section.
    pub(crate) fn section(&self, name: &str) -> Result<Section<'_>, String> {
        let members = self.0.get(name).ok_or_else(|| format!("no section [{name}]"))?;
        Ok(Section { name: name.to_owned(), members })
    }
}

/// The members of one section.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    name: String,
    members: &'a BTreeMap<String, String>,
}

impl Section<'_> {
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.members.get(key).map(String::as_str)
    }

    pub(crate) fn required(&self, key: &str) -> Result<&str, String> {
        self.get(key).ok_or_else(|| format!("no member {key} in section [{}]", self.name))
    }

    pub(crate) fn list(&self, key: &str) -> Vec<String> {
        split(self.get(key).unwrap_or(""))
    }

    pub(crate) fn required_list(&self, key: &str) -> Result<Vec<String>, String> {
        let list = split(self.required(key)?);
        if list.is_empty() { Err(format!("{key} in section [{}] is empty", self.name)) } else { Ok(list) }
    }

    pub(crate) fn required_port(&self, key: &str) -> Result<u16, String> {
        let text = self.required(key)?;
        text.parse().map_err(|_| format!("{key} in section [{}]: `{text}` is not a port", self.name))
    }

    /// A whole number, or nothing.
    pub(crate) fn check_number(&self, key: &str) -> Result<(), String> {
        match self.get(key).map(str::parse::<u64>) {
            None | Some(Ok(_)) => Ok(()),
            Some(Err(_)) => Err(format!("{key} in section [{}] is not a number", self.name)),
        }
    }

    /// Booleans are lower case.
    pub(crate) fn boolean(&self, key: &str, default: bool) -> Result<bool, String> {
        match self.get(key) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => Err(format!("{key} in section [{}]: `{other}` is not true or false", self.name)),
        }
    }
}

fn split(text: &str) -> Vec<String> {
    text.split([',', ' ', '\t']).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_split_on_comma_space_and_tab() {
        let ini = Ini::parse("# c\n[global]\ncluster = a, b\tc\nfsync = True\n").unwrap();
        let global = ini.section("global").unwrap();
        assert_eq!(global.list("cluster"), ["a", "b", "c"]);
        assert!(global.boolean("fsync", true).is_err());
        assert!(ini.section("a").is_err());
        assert!(Ini::parse("x = 1").is_err());
    }
}
