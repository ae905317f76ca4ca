//! Errors of the interpreter, told as ours: with a place, the line that stands there, and the calls that led to it.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use starlark::{ErrorKind, codemap::FileSpan};

use super::{
    bounds::{Bounds, Watch},
    error::{Fault, Frame, MAX_FRAMES, Place, RecipeError, RecipeErrorKind},
    veil::Veil,
};
use crate::plan::Source;

/// The file name of a recipe that was given on the command line.
pub(super) const EXPRESSION: &str = "-e";

/// What [`super::Library::expression`] puts before and into each line of its source.
pub(super) const EXPRESSION_HEAD: &str = "def deploy(ctx):\n";
/// See [`EXPRESSION_HEAD`].
pub(super) const EXPRESSION_INDENT: &str = "    ";

/// What the interpreter calls "Immutable".
const FROZEN: &str = "this value cannot be changed any more";

/// What is known about an evaluation besides its error.
#[derive(Default, Clone, Copy)]
pub(super) struct Circumstances<'a> {
    pub(super) watch: Option<&'a Watch>,
    /// The recipe's function that was called.
    pub(super) function: Option<&'a str>,
    pub(super) veil: Option<&'a Veil>,
    pub(super) bounds: Bounds,
}

/// Tells an error of the interpreter as ours.
pub(super) fn diagnose(error: &starlark::Error, around: Circumstances<'_>) -> RecipeError {
    let Fault { kind, message, hint } = fault_of(error, around.bounds);
    let scrub = |text: &str| around.veil.map_or_else(|| text.to_owned(), |veil| veil.scrub(text));
    let mut frames: Vec<Frame> = error
        .call_stack()
        .frames
        .iter()
        .map(|frame| Frame { function: frame.name.clone(), source: frame.location.as_ref().map(source_of) })
        .collect();
    // Errors of limits have no place of their own: they rise between two statements.
    let span = error.span().cloned().or_else(|| around.watch.and_then(Watch::last));
    let message = match innermost(&frames).or(around.function) {
        Some(function) if around.watch.is_some() && kind == RecipeErrorKind::Limit => format!("`{function}` {message}"),
        _ => message,
    };
    let place = span.as_ref().map(|span| place_of(span, &scrub));
    // The call of a native function that failed is the place itself.
    if frames.last().is_some_and(|frame| {
        frame.source.is_some() && frame.source.as_ref() == place.as_ref().map(|place| &place.source)
    }) {
        frames.pop();
    }
    let mut told = RecipeError::new(kind, scrub(&message)).in_place(place).with_frames(shortened(frames));
    if let Some(hint) = hint.or_else(|| hint_for(&message)) {
        told = told.with_hint(scrub(&hint));
    }
    told
}

/// Several errors of one file as one, of this kind.
pub(super) fn diagnose_all(errors: &[starlark::Error], kind: RecipeErrorKind) -> Option<RecipeError> {
    let mut told = errors.iter().map(|error| diagnose(error, Circumstances::default()).of_kind(kind));
    let first = told.next()?;
    Some(first.with_others(told.take(MAX_FRAMES).collect()))
}

/// The line and file of a span, as the operator would name them.
pub(super) fn source_of(span: &FileSpan) -> Source {
    let resolved = span.resolve_span();
    let line = u32::try_from(resolved.begin.line + 1).unwrap_or(u32::MAX);
    let file = span.filename().to_owned();
    let line = if file == EXPRESSION { line.saturating_sub(1) } else { line };
    Source { file, line }
}

/// A span as a place, its line underlined.
pub(super) fn place_of(span: &FileSpan, scrub: &dyn Fn(&str) -> String) -> Place {
    let resolved = span.resolve_span();
    let source = source_of(span);
    let cut = if source.file == EXPRESSION { EXPRESSION_INDENT.len() } else { 0 };
    let line = span.file.source_line(resolved.begin.line);
    let from = resolved.begin.column.saturating_sub(cut);
    let to =
        if resolved.end.line == resolved.begin.line { resolved.end.column.saturating_sub(cut) } else { usize::MAX };
    let text = scrub(line.get(cut..).unwrap_or(line));
    let byte = |column: usize| text.char_indices().nth(column).map_or(text.len(), |(at, _)| at);
    let underlined = byte(from)..byte(to).max(byte(from));
    let column = u32::try_from(from + 1).unwrap_or(u32::MAX);
    let snippet = Snippet::source(text.as_str())
        .line_start(usize::try_from(source.line).unwrap_or(1))
        .path(source.file.as_str())
        .annotation(AnnotationKind::Primary.span(underlined));
    let snippet = Renderer::plain().render(&[Group::with_level(Level::ERROR).element(snippet)]);
    Place { source, column, snippet }
}

/// Family, message and hint of an interpreter's error.
fn fault_of(error: &starlark::Error, bounds: Bounds) -> Fault {
    let evaluation = |error: &dyn std::fmt::Display| match error.to_string().as_str() {
        "Immutable" => Fault::evaluation(FROZEN),
        text => Fault::evaluation(plainly(text)),
    };
    match error.kind() {
        ErrorKind::Native(cause) => match cause.downcast_ref::<Fault>() {
            Some(fault) => Fault { kind: fault.kind, message: fault.message.clone(), hint: fault.hint.clone() },
            None => evaluation(cause),
        },
        ErrorKind::StackOverflow(_) => bounds.too_deep(),
        ErrorKind::Parser(cause) => Fault::new(RecipeErrorKind::Syntax, plainly(&cause.to_string())),
        ErrorKind::Scope(cause) => Fault::new(RecipeErrorKind::Type, plainly(&cause.to_string())),
        ErrorKind::Fail(cause) => evaluation(&cause.to_string().trim()),
        _ => {
            let text = error.without_diagnostic().to_string();
            // The interpreter's own type for these is private.
            if text.starts_with("Execution duration limit") {
                bounds.too_long()
            } else if text.starts_with("Heap memory limit") {
                bounds.too_large()
            } else {
                evaluation(&text)
            }
        }
    }
}

/// A message of the interpreter in our manner: one line, lower case.
fn plainly(text: &str) -> String {
    let line = text.trim().trim_end_matches('.').lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let mut chars = line.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if first.is_ascii_uppercase() && second.is_ascii_lowercase() => {
            format!("{}{}", first.to_ascii_lowercase(), &line[1..])
        }
        _ => line,
    }
}

fn hint_for(message: &str) -> Option<String> {
    let lacks = |name: &str| message.contains(&format!("has no attribute `{name}`"));
    if lacks("host") || lacks("facts") {
        return Some("ctx.host and ctx.facts are known only in deploy(ctx) and health(ctx)".to_owned());
    }
    if lacks("changed") {
        return Some(
            "whether a step changes anything is not known while the plan is made; give its handle to restart_on or \
             only_if_changed of a later step"
                .to_owned(),
        );
    }
    (message == FROZEN).then(|| {
        "values of a file's top level are shared by all hosts and cannot be changed; make a new one".to_owned()
    })
}

/// The recipe's function that was running.
fn innermost(frames: &[Frame]) -> Option<&str> {
    frames.last().map(|frame| frame.function.as_str()).filter(|name| !name.is_empty())
}

/// At most [`MAX_FRAMES`] frames: the outermost and the innermost ones.
fn shortened(frames: Vec<Frame>) -> Vec<Frame> {
    if frames.len() <= MAX_FRAMES {
        return frames;
    }
    let head = MAX_FRAMES / 2 - 1;
    let tail = MAX_FRAMES - head - 1;
    let left_out = frames.len() - head - tail;
    let gap = Frame { function: format!("... {left_out} more calls ..."), source: None };
    let mut shown: Vec<Frame> = frames[..head].to_vec();
    shown.push(gap);
    shown.extend_from_slice(&frames[frames.len() - tail..]);
    shown
}
