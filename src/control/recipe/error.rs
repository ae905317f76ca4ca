//! What may be wrong with a recipe or its parameters, and where.

use std::{error::Error, fmt, io};

use super::Refusal;
use crate::plan::Source;

/// Longest traceback that is shown. A runaway recursion has hundreds of frames that say nothing new.
pub(super) const MAX_FRAMES: usize = 10;

/// The family of a [`RecipeError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecipeErrorKind {
    /// No recipe of that name.
    Unknown,
    /// Not well-formed Starlark.
    Syntax,
    /// A name, argument or type that cannot be right, found without running.
    Type,
    /// It went wrong while it ran.
    Evaluation,
    /// It ran for too long, called too deep or took too much memory.
    Limit,
    /// A parameter is missing, unknown or of the wrong type.
    Param,
    /// A file of the recipe cannot be read.
    Io,
    /// A template cannot be rendered.
    Template,
}

/// What is wrong with a recipe or its parameters, and where.
///
/// Its `Display` is what a compiler would print: the message, the line with the offending part underlined, and at
/// most ten frames of the calls that led there.
pub struct RecipeError(Box<Inner>);

struct Inner {
    kind: RecipeErrorKind,
    message: String,
    place: Option<Place>,
    frames: Vec<Frame>,
    hint: Option<String>,
    cause: Option<io::Error>,
    others: Vec<RecipeError>,
}

/// A place in a file with the line that stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// File and line.
    pub source: Source,
    /// Column in characters, from 1; 0 when there is none.
    pub column: u32,
    /// The line underlined, ready to print; empty when the text is not at hand.
    pub snippet: String,
}

/// One call that led to an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The function that was called.
    pub function: String,
    /// The line that called it.
    pub source: Option<Source>,
}

impl RecipeError {
    pub(super) fn new(kind: RecipeErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            place: None,
            frames: Vec::new(),
            hint: None,
            cause: None,
            others: Vec::new(),
        }))
    }

    pub(super) fn of_kind(mut self, kind: RecipeErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    pub(super) fn at(mut self, source: Source) -> Self {
        self.0.place = Some(Place { source, column: 0, snippet: String::new() });
        self
    }

    pub(super) fn in_place(mut self, place: Option<Place>) -> Self {
        self.0.place = place;
        self
    }

    pub(super) fn with_frames(mut self, frames: Vec<Frame>) -> Self {
        self.0.frames = frames;
        self
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    pub(super) fn with_cause(mut self, cause: io::Error) -> Self {
        self.0.cause = Some(cause);
        self
    }

    /// One error that tells all of these; none when there are none.
    pub fn joined(errors: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut all = errors.into_iter().flat_map(|mut error| {
            let others = std::mem::take(&mut error.0.others);
            std::iter::once(error).chain(others)
        });
        let first = all.next()?;
        Some(first.with_others(all.collect()))
    }

    pub(super) fn with_others(mut self, others: Vec<RecipeError>) -> Self {
        self.0.others = others;
        self
    }

    /// The family.
    pub fn kind(&self) -> RecipeErrorKind {
        self.0.kind
    }

    /// What is wrong, in one line, without the place.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// File and line, when there is one: of the recipe, or of the inventory for a parameter.
    pub fn source(&self) -> Option<&Source> {
        self.0.place.as_ref().map(|place| &place.source)
    }

    /// The place with its snippet.
    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }

    /// The calls that led there, outermost first; at most ten.
    pub fn frames(&self) -> &[Frame] {
        &self.0.frames
    }

    /// What to do about it, in one line.
    pub fn hint(&self) -> Option<String> {
        self.0.hint.clone()
    }

    /// Further errors that were found in the same file.
    pub fn others(&self) -> &[RecipeError] {
        &self.0.others
    }
}

impl fmt::Display for RecipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some(place) = &self.0.place {
            if place.snippet.is_empty() {
                write!(f, "\n --> {}", place.source)?;
            } else {
                write!(f, "\n{}", place.snippet)?;
            }
        }
        if self.0.frames.len() > 1 {
            f.write_str("\ncalled through:")?;
            for frame in &self.0.frames {
                match &frame.source {
                    Some(source) => write!(f, "\n  {source}: {}", frame.function)?,
                    None => write!(f, "\n  {}", frame.function)?,
                }
            }
        }
        for other in &self.0.others {
            write!(f, "\n\n{other}")?;
            if let Some(hint) = &other.0.hint {
                write!(f, "\nhint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for RecipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl Error for RecipeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.cause.as_ref().map(|cause| cause as &(dyn Error + 'static))
    }
}

/// What a function of ours found wrong with its arguments. The interpreter adds the place.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Fault {
    pub(super) kind: RecipeErrorKind,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Fault {
    pub(super) fn new(kind: RecipeErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    pub(super) fn evaluation(message: impl Into<String>) -> Self {
        Self::new(RecipeErrorKind::Evaluation, message)
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self::evaluation(why)
    }
}

impl From<Refusal> for Fault {
    fn from(Refusal { why, hint }: Refusal) -> Self {
        Self { hint, ..Self::evaluation(why) }
    }
}

impl From<Fault> for starlark::Error {
    fn from(fault: Fault) -> Self {
        Self::new_native(fault)
    }
}

impl From<Fault> for RecipeError {
    fn from(fault: Fault) -> Self {
        let error = Self::new(fault.kind, fault.message);
        match fault.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}
