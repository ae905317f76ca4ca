//! Secrets inside Starlark texts.
//!
//! A recipe handles secrets as ordinary texts: it joins them, formats them, puts them into JSON. So that none is seen
//! and none is forgotten, the text that the recipe gets is a marker, random for each evaluation. Whatever is built
//! from it holds the marker too; where a value leaves the recipe, markers are replaced and the value becomes a secret.

use std::sync::{Mutex, PoisonError};

use super::error::Fault;
use crate::plan::Secret;

/// The secrets of one evaluation.
pub(super) struct Veil {
    /// Twenty random digits, part of every marker. Digits and `~` survive JSON, formatting and changes of case.
    tag: String,
    hidden: Mutex<Vec<Secret<String>>>,
}

/// A text that has left the recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lifted {
    /// No part of it is secret.
    Plain(String),
    /// Some part of it is.
    Secret(Secret<String>),
}

impl Lifted {
    /// Whether some part is secret.
    pub(super) fn is_secret(&self) -> bool {
        matches!(self, Self::Secret(_))
    }

    /// The text as a secret, whether or not it has to be one.
    pub(super) fn into_secret(self) -> Secret<String> {
        match self {
            Self::Plain(text) => Secret::new(text),
            Self::Secret(secret) => secret,
        }
    }
}

/// A part of a text with markers.
enum Piece<'t> {
    Text(&'t str),
    Marker(usize),
    /// The tag without the rest of its marker.
    Debris,
}

impl Veil {
    pub(super) fn new() -> Self {
        Self { tag: format!("{:020}", rand::random::<u64>()), hidden: Mutex::new(Vec::new()) }
    }

    /// The marker for a secret; the same for the same secret.
    pub(super) fn hide(&self, secret: Secret<String>) -> String {
        let mut hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        let index = hidden.iter().position(|known| *known == secret).unwrap_or(hidden.len());
        if index == hidden.len() {
            hidden.push(secret);
        }
        format!("~{}.{index:03}~", self.tag)
    }

    /// Whether a text holds a secret or a piece of one.
    pub(super) fn covers(&self, text: &str) -> bool {
        text.contains(&self.tag)
    }

    /// Replaces markers by what they stand for.
    pub(super) fn lift(&self, text: &str) -> Result<Lifted, Fault> {
        if !self.covers(text) {
            return Ok(Lifted::Plain(text.to_owned()));
        }
        let hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lifted = String::new();
        for piece in self.pieces(text) {
            match piece {
                Piece::Text(part) => lifted.push_str(part),
                Piece::Marker(index) => match hidden.get(index) {
                    Some(secret) => lifted.push_str(secret.expose()),
                    None => return Err(cut()),
                },
                Piece::Debris => return Err(cut()),
            }
        }
        Ok(Lifted::Secret(Secret::new(lifted)))
    }

    /// The text as people may see it.
    pub(super) fn scrub(&self, text: &str) -> String {
        if !self.covers(text) {
            return text.to_owned();
        }
        self.pieces(text)
            .into_iter()
            .map(|piece| match piece {
                Piece::Text(part) => part,
                Piece::Marker(_) | Piece::Debris => "***",
            })
            .collect()
    }

    /// Applies a quoting rule that was already applied to the text around its secrets to the secrets as well.
    pub(super) fn quote_within(&self, text: &str, quote: impl Fn(&str) -> String) -> Result<String, Fault> {
        if !self.covers(text) {
            return Ok(text.to_owned());
        }
        let mut quoted = String::new();
        for piece in self.pieces(text) {
            match piece {
                Piece::Text(part) => quoted.push_str(part),
                Piece::Marker(index) => {
                    let known = self.hidden.lock().unwrap_or_else(PoisonError::into_inner).get(index).cloned();
                    let secret = known.ok_or_else(cut)?;
                    quoted.push_str(&self.hide(Secret::new(quote(secret.expose()))));
                }
                Piece::Debris => return Err(cut()),
            }
        }
        Ok(quoted)
    }

    /// Applies a rule to the whole text, secrets included; what comes out is again covered if the text was.
    pub(super) fn transform(&self, text: &str, rule: impl Fn(&str) -> String) -> Result<String, Fault> {
        Ok(match self.lift(text)? {
            Lifted::Plain(text) => rule(&text),
            Lifted::Secret(secret) => self.hide(Secret::new(rule(secret.expose()))),
        })
    }

    fn pieces<'t>(&self, text: &'t str) -> Vec<Piece<'t>> {
        let mut pieces = Vec::new();
        let mut done = 0;
        for (at, tag) in text.match_indices(&self.tag) {
            let before = &text[done..at];
            let after = &text[at + tag.len()..];
            if let (Some(before), Some(index)) = (before.strip_suffix('~'), index_of(after)) {
                pieces.extend([Piece::Text(before), Piece::Marker(index)]);
                // `.`, three digits, `~`.
                done = at + tag.len() + 5;
            } else {
                pieces.extend([Piece::Text(before), Piece::Debris]);
                done = at + tag.len();
            }
        }
        pieces.push(Piece::Text(&text[done..]));
        pieces
    }
}

/// The index in what follows a marker's tag: `.007~`.
fn index_of(rest: &str) -> Option<usize> {
    let digits = rest.strip_prefix('.')?.get(..3)?;
    rest.get(4..)?.starts_with('~').then(|| digits.parse().ok())?
}

fn cut() -> Fault {
    Fault::evaluation("a secret was cut or changed, so it cannot be told what it stands for")
        .hint("use a secret as a whole: join it with other text, format it, or put it into JSON or a template")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn veil() -> (Veil, String) {
        let veil = Veil::new();
        let marker = veil.hide(Secret::new("s3'\"cret".to_owned()));
        (veil, marker)
    }

    #[test]
    fn what_is_built_from_a_secret_is_secret() {
        let (veil, marker) = veil();
        let text = format!("a{marker}b{}c", marker.to_uppercase());
        let lifted = veil.lift(&text).unwrap();
        assert_eq!(lifted.into_secret().expose(), "as3'\"cretbs3'\"cretc");
        assert_eq!(veil.scrub(&text), "a***b***c");
        assert_eq!(veil.lift("plain ~1.000~").unwrap(), Lifted::Plain("plain ~1.000~".to_owned()));
    }

    #[test]
    fn a_cut_secret_is_an_error_and_is_not_shown() {
        let (veil, marker) = veil();
        let piece = &marker[..marker.len() - 2];
        assert!(veil.lift(piece).is_err());
        assert!(!veil.scrub(piece).contains(&veil.tag));
        assert!(veil.lift(&format!("~{}.777~", veil.tag)).is_err(), "a marker that was never given out");
    }

    #[test]
    fn one_secret_has_one_marker() {
        let (veil, marker) = veil();
        assert_eq!(veil.hide(Secret::new("s3'\"cret".to_owned())), marker);
        assert_ne!(veil.hide(Secret::new("other".to_owned())), marker);
    }

    #[test]
    fn quoting_reaches_the_secret_itself() {
        let (veil, marker) = veil();
        let quoted = veil.quote_within(&format!("\"{marker}\""), |text| text.replace('"', "\\\"")).unwrap();
        assert_eq!(veil.lift(&quoted).unwrap().into_secret().expose(), "\"s3'\\\"cret\"");
        let whole = veil.transform(&format!("x{marker}"), |text| format!("<{text}>")).unwrap();
        assert_eq!(veil.lift(&whole).unwrap().into_secret().expose(), "<xs3'\"cret>");
    }
}
