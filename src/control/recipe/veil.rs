//! Secrets inside Starlark texts.
//!
//! A recipe handles secrets as ordinary texts: it joins them, formats them, puts them into JSON. So that none is seen
//! and none is forgotten, the text that the recipe gets is a marker, random for each evaluation. Whatever is built
//! from it holds the marker too; where a value leaves the recipe, markers are replaced and the value becomes a secret.

use std::{
    ops::RangeInclusive,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::error::Fault;
use crate::plan::Secret;

/// Markers are made of Tangut ideographs. They are letters, so that `repr()` and JSON leave them as they are; they
/// have no case; and no recipe uses them for anything else, so that even one of them tells that a secret was here.
const LETTERS: RangeInclusive<char> = '\u{17000}'..='\u{187F7}';
/// Number of [`LETTERS`].
const COUNT: u32 = 0x187F7 - 0x17000 + 1;
/// Random letters of a marker: 75 bits. One more letter says which secret it is.
const TAG: usize = 6;

/// The secrets of one evaluation.
pub(super) struct Veil {
    tag: [char; TAG],
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
    /// Letters of a marker that are not a marker.
    Debris,
}

impl Veil {
    pub(super) fn new() -> Self {
        Self { tag: std::array::from_fn(|_| letter(rand::random::<u32>() % COUNT)), hidden: Mutex::default() }
    }

    /// The marker for a secret; the same for the same secret.
    pub(super) fn hide(&self, secret: Secret<String>) -> Result<String, Fault> {
        let mut hidden = self.hidden();
        let index = hidden.iter().position(|known| *known == secret).unwrap_or(hidden.len());
        let number = u32::try_from(index).ok().filter(|number| *number < COUNT);
        let number = number.ok_or_else(|| Fault::evaluation("too many secrets"))?;
        if index == hidden.len() {
            hidden.push(secret);
        }
        Ok(self.tag.into_iter().chain([letter(number)]).collect())
    }

    /// Whether a text holds a secret or a piece of one.
    pub(super) fn covers(&self, text: &str) -> bool {
        text.contains(is_letter) && !self.hidden().is_empty()
    }

    /// Replaces markers by what they stand for.
    pub(super) fn lift(&self, text: &str) -> Result<Lifted, Fault> {
        if !self.covers(text) {
            return Ok(Lifted::Plain(text.to_owned()));
        }
        let mut lifted = String::new();
        for piece in self.pieces(text) {
            match piece {
                Piece::Text(part) => lifted.push_str(part),
                Piece::Marker(index) => lifted.push_str(self.secret(index)?.expose()),
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
                    quoted.push_str(&self.hide(Secret::new(quote(self.secret(index)?.expose())))?);
                }
                Piece::Debris => return Err(cut()),
            }
        }
        Ok(quoted)
    }

    /// Applies a rule to the whole text, secrets included; what comes out is again covered if the text was.
    pub(super) fn transform(&self, text: &str, rule: impl Fn(&str) -> String) -> Result<String, Fault> {
        match self.lift(text)? {
            Lifted::Plain(text) => Ok(rule(&text)),
            Lifted::Secret(secret) => self.hide(Secret::new(rule(secret.expose()))),
        }
    }

    fn hidden(&self) -> MutexGuard<'_, Vec<Secret<String>>> {
        self.hidden.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn secret(&self, index: usize) -> Result<Secret<String>, Fault> {
        self.hidden().get(index).cloned().ok_or_else(cut)
    }

    fn pieces<'t>(&self, text: &'t str) -> Vec<Piece<'t>> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(is_letter) {
            let (before, run) = rest.split_at(at);
            let end = run.find(|c| !is_letter(c)).unwrap_or(run.len());
            let (run, after) = run.split_at(end);
            pieces.push(Piece::Text(before));
            self.markers(run, &mut pieces);
            rest = after;
        }
        pieces.push(Piece::Text(rest));
        pieces
    }

    /// The markers in a run of letters; what is left over is debris.
    fn markers(&self, run: &str, pieces: &mut Vec<Piece<'_>>) {
        let letters: Vec<char> = run.chars().collect();
        let mut letters = letters.as_slice();
        while let Some((marker, rest)) = letters.split_at_checked(TAG + 1) {
            if marker[..TAG] != self.tag {
                break;
            }
            let index = u32::from(marker[TAG]) - u32::from(*LETTERS.start());
            pieces.push(Piece::Marker(usize::try_from(index).unwrap_or(usize::MAX)));
            letters = rest;
        }
        if !letters.is_empty() {
            pieces.push(Piece::Debris);
        }
    }
}

fn is_letter(c: char) -> bool {
    LETTERS.contains(&c)
}

fn letter(number: u32) -> char {
    char::from_u32(u32::from(*LETTERS.start()) + number).unwrap_or(*LETTERS.start())
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
        let marker = veil.hide(Secret::new("s3'\"cret".to_owned())).unwrap();
        (veil, marker)
    }

    #[test]
    fn what_is_built_from_a_secret_is_secret() {
        let (veil, marker) = veil();
        let text = format!("a{marker}{marker}b{}c", marker.to_uppercase());
        let lifted = veil.lift(&text).unwrap();
        assert_eq!(lifted.into_secret().expose(), "as3'\"crets3'\"cretbs3'\"cretc");
        assert_eq!(veil.scrub(&text), "a******b***c");
        assert_eq!(veil.lift("plain").unwrap(), Lifted::Plain("plain".to_owned()));
    }

    #[test]
    fn every_piece_of_a_cut_secret_is_an_error_and_is_not_shown() {
        let (veil, marker) = veil();
        let letters: Vec<char> = marker.chars().collect();
        for start in 0..letters.len() {
            for end in start + 1..=letters.len() {
                let piece: String = letters[start..end].iter().collect();
                assert_eq!(veil.lift(&piece).is_err(), piece != marker, "{start}..{end}");
                assert_eq!(veil.scrub(&format!("<{piece}>")), "<***>");
            }
        }
        let unknown: String = letters[..TAG].iter().copied().chain([letter(77)]).collect();
        assert!(veil.lift(&unknown).is_err(), "a marker that was never given out");
    }

    #[test]
    fn markers_survive_json() {
        let (_, marker) = veil();
        assert_eq!(serde_json::Value::from(marker.as_str()).to_string(), format!("\"{marker}\""));
        assert!(marker.chars().all(char::is_alphanumeric));
    }

    #[test]
    fn without_secrets_there_are_no_markers() {
        let veil = Veil::new();
        assert_eq!(veil.lift("\u{17000}").unwrap(), Lifted::Plain("\u{17000}".to_owned()));
    }

    #[test]
    fn one_secret_has_one_marker() {
        let (veil, marker) = veil();
        assert_eq!(veil.hide(Secret::new("s3'\"cret".to_owned())).unwrap(), marker);
        assert_ne!(veil.hide(Secret::new("other".to_owned())).unwrap(), marker);
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
