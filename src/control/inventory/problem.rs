//! What is wrong with an inventory: every problem with its place, rendered with the offending text underlined.

use std::{cell::RefCell, fmt, io, ops::Range, path::Path};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// More problems than this are counted, not rendered: nobody reads them, and rendering reads the file for each.
const RENDERED: usize = 100;

/// A range of bytes in the inventory's text.
pub(super) type Span = Range<usize>;

/// One thing that is wrong with an inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong; lower case, names the thing.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    span: Span,
    related: Option<(Span, String)>,
}

/// Gathers problems while an inventory is read, so that all are told at once.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    /// Something wrong at a place.
    pub(super) fn add(&self, span: Span, message: impl Into<String>) {
        self.push(span, message.into(), None, None);
    }

    /// The same with what to do about it.
    pub(super) fn add_with(&self, span: Span, message: impl Into<String>, help: Option<String>) {
        self.push(span, message.into(), help, None);
    }

    /// Something that clashes with another place, which `label` describes.
    pub(super) fn clash(
        &self,
        span: Span,
        message: impl Into<String>,
        help: Option<String>,
        (other, label): (Span, &str),
    ) {
        let related = (other != span).then(|| (other, label.to_owned()));
        self.push(span, message.into(), help, related);
    }

    // A default is read again for every host, so the same problem may come many times.
    fn push(&self, span: Span, message: String, help: Option<String>, related: Option<(Span, String)>) {
        let mut list = self.0.borrow_mut();
        if !list.iter().any(|known| known.span == span && known.message == message) {
            list.push(Problem { line: 0, column: 0, message, help, span, related });
        }
    }

    /// Whether nothing was wrong.
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// All problems in the order of the file, with lines and columns of `text`.
    fn placed(self, text: &str) -> Vec<Problem> {
        let mut list = self.0.into_inner();
        for problem in &mut list {
            problem.span = within(&problem.span, text);
            if let Some((span, _)) = &mut problem.related {
                *span = within(span, text);
            }
            let before = &text[..problem.span.start];
            problem.line = before.matches('\n').count() + 1;
            problem.column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        }
        list.sort_by_key(|problem| (problem.span.start, problem.span.end));
        list
    }
}

/// The span cut to the text and widened to whole characters.
fn within(span: &Span, text: &str) -> Span {
    let (start, mut end) = (boundary(text, span.start), span.end.max(span.start).min(text.len()));
    while !text.is_char_boundary(end) {
        end += 1;
    }
    start..end
}

/// The last place at or before `at` that is not within a character.
fn boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The line of a byte in a text, from 1.
pub(super) fn line_of(text: &str, at: usize) -> u32 {
    let before = &text[..boundary(text, at)];
    u32::try_from(before.matches('\n').count() + 1).unwrap_or(u32::MAX)
}

/// Why an inventory could not be read. Displays as all its problems, rendered without colour; the text is complete, with
/// `error:` and `help:` lines of its own.
#[derive(Debug)]
pub struct InventoryError {
    path: String,
    /// The inventory with its secrets blotted out.
    shown: String,
    problems: Vec<Problem>,
    cause: Option<io::Error>,
}

impl InventoryError {
    /// An inventory whose file cannot be read.
    pub(super) fn unreadable(path: &Path, cause: io::Error) -> Self {
        let help = (cause.kind() == io::ErrorKind::NotFound)
            .then(|| "the first argument of every command about a lab is its inventory".to_owned());
        let problem = Problem {
            line: 0,
            column: 0,
            message: format!("cannot read inventory `{}`", path.display()),
            help,
            span: 0..0,
            related: None,
        };
        Self { path: path.display().to_string(), shown: String::new(), problems: vec![problem], cause: Some(cause) }
    }

    /// An inventory with problems. `blots` are the places of secrets, which are never shown.
    pub(super) fn invalid(path: &Path, text: &str, blots: &[Span], problems: Problems) -> Self {
        let shown = blot(text, blots);
        Self { path: path.display().to_string(), problems: problems.placed(text), shown, cause: None }
    }

    /// What is wrong, in the order of the file; never empty. A file that cannot be read is one problem at line 0.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// One line for all: ``inventory `lab.toml` has 2 problems``.
    pub fn summary(&self) -> String {
        match self.problems.as_slice() {
            [only] if self.cause.is_some() => only.message.clone(),
            [_] => format!("inventory `{}` has 1 problem", self.path),
            all => format!("inventory `{}` has {} problems", self.path, all.len()),
        }
    }

    /// What to do about it, when one thing helps against all.
    pub fn hint(&self) -> Option<String> {
        match self.problems.as_slice() {
            [only] => only.help.clone(),
            _ => None,
        }
    }

    /// Every problem with its line, the offending text underlined, and a last line that counts them.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut blocks: Vec<String> =
            self.problems.iter().take(RENDERED).map(|problem| self.render_one(&renderer, problem)).collect();
        if let Some(more) = self.problems.len().checked_sub(RENDERED).filter(|more| *more > 0) {
            blocks.push(format!("... and {more} more"));
        }
        if self.cause.is_none() {
            blocks.push(self.summary());
        }
        blocks.join("\n\n")
    }

    fn render_one(&self, renderer: &Renderer, problem: &Problem) -> String {
        let title = Level::ERROR.primary_title(&problem.message);
        let help = problem.help.as_deref().map(|help| Level::HELP.message(help));
        if let Some(cause) = &self.cause {
            let cause = Level::NOTE.with_name("because").message(cause.to_string());
            return renderer.render(&[title.element(cause).elements(help)]);
        }
        let related = problem
            .related
            .iter()
            .map(|(span, label)| AnnotationKind::Context.span(span.clone()).label(label.as_str()));
        let snippet = Snippet::source(self.shown.as_str())
            .path(self.path.as_str())
            .annotation(AnnotationKind::Primary.span(problem.span.clone()))
            .annotations(related);
        renderer.render(&[title.element(snippet).elements(help)])
    }
}

/// The text with every character of these places replaced, lines and columns kept.
fn blot(text: &str, blots: &[Span]) -> String {
    text.char_indices()
        .map(|(at, c)| {
            let hidden = blots.iter().any(|blot| blot.contains(&at)) && c != '\n' && c != '\r';
            // As many bytes as before: spans are counted in bytes.
            if hidden { "*".repeat(c.len_utf8()) } else { c.to_string() }
        })
        .collect()
}

impl fmt::Display for InventoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for InventoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| cause as _)
    }
}
