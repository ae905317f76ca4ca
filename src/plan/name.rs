//! Names and small values that are valid once they exist.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is not a name, path, mode or principal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct NameError {
    text: String,
    expected: &'static str,
}

impl NameError {
    fn new(text: &str, expected: &'static str) -> Self {
        Self { text: text.to_owned(), expected }
    }
}

fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        $(#[$doc])*
        ///
        /// 1 to 63 ASCII letters, digits, `-`, `_` and `.`, beginning with a letter or digit.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                if is_name(text) { Ok(Self(text.to_owned())) } else { Err(NameError::new(text, $expected)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type! {
    /// The name of a machine reached by SSH, unique in its lab.
    HostName, "a host name (1 to 63 letters, digits, `-`, `_` or `.`)"
}
name_type! {
    /// The name of a component, unique in its lab.
    ComponentName, "a component name (1 to 63 letters, digits, `-`, `_` or `.`)"
}
name_type! {
    /// The name of a group of hosts.
    GroupName, "a group name (1 to 63 letters, digits, `-`, `_` or `.`)"
}
name_type! {
    /// The name of a lab: everything one inventory describes.
    LabName, "a lab name (1 to 63 letters, digits, `-`, `_` or `.`)"
}

/// An absolute path on a host, without `..`, `.` and empty parts, at most 4095 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPath(String);

impl HostPath {
    /// The path as text; always begins with `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path for use on the machine that it is a path of.
    pub fn as_path(&self) -> &std::path::Path {
        std::path::Path::new(&self.0)
    }
}

impl FromStr for HostPath {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = text.starts_with('/') && text.len() < 4096 && !text.contains('\0');
        if !fits || text.split('/').any(|part| part == "..") {
            return Err(NameError::new(text, "an absolute path without `..`"));
        }
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        Ok(Self(format!("/{}", parts.join("/"))))
    }
}

impl TryFrom<String> for HostPath {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<HostPath> for String {
    fn from(path: HostPath) -> Self {
        path.0
    }
}

impl fmt::Display for HostPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Permission bits of a file: at most `0o7777`, written in octal (`0644`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Mode(u32);

impl Mode {
    /// The bits.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Mode {
    type Error = NameError;

    fn try_from(bits: u32) -> Result<Self, NameError> {
        if bits <= 0o7777 { Ok(Self(bits)) } else { Err(NameError::new(&format!("{bits:o}"), "a mode up to 7777")) }
    }
}

impl From<Mode> for u32 {
    fn from(mode: Mode) -> Self {
        mode.0
    }
}

impl FromStr for Mode {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        u32::from_str_radix(digits, 8)
            .ok()
            .and_then(|bits| Self::try_from(bits).ok())
            .ok_or_else(|| NameError::new(text, "an octal mode such as `0644`"))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// A user or group: a name, or a number taken as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Principal {
    /// A name that the host must know.
    Name(String),
    /// A numeric id.
    Id(u32),
}

impl FromStr for Principal {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        let fits = (1..=256).contains(&text.len())
            && !text.starts_with('-')
            && !text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | '/' | ','));
        if fits { Ok(Self::Name(text.to_owned())) } else { Err(NameError::new(text, "a user or group name or number")) }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.pad(name),
            Self::Id(id) => write!(f, "{id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_their_alphabet() {
        assert!("arakoon-1".parse::<HostName>().is_ok());
        for bad in ["", "-a", "a b", "a/b", &"x".repeat(64)] {
            assert!(bad.parse::<HostName>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn host_paths_are_absolute_and_plain() {
        assert_eq!("/a//b/./c/".parse::<HostPath>().unwrap().as_str(), "/a/b/c");
        assert_eq!("/".parse::<HostPath>().unwrap().as_str(), "/");
        for bad in ["a", "", "/a/../b", "/a\0b"] {
            assert!(bad.parse::<HostPath>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!("0644".parse::<Mode>().unwrap().bits(), 0o644);
        assert_eq!("0644".parse::<Mode>().unwrap().to_string(), "0644");
        assert!("9".parse::<Mode>().is_err());
        assert!("17777".parse::<Mode>().is_err());
    }

    #[test]
    fn principals_are_names_or_numbers() {
        assert_eq!("0".parse::<Principal>().unwrap(), Principal::Id(0));
        assert_eq!("ovs".parse::<Principal>().unwrap(), Principal::Name("ovs".into()));
        assert!("-x".parse::<Principal>().is_err());
        assert!("a:b".parse::<Principal>().is_err());
    }
}
