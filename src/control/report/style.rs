//! How a run is shown, and where to.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

/// How a run is shown, as the operator asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReportStyle {
    /// In which form.
    pub kind: ReportKind,
    /// Show diffs of what was changed. A plan always shows them.
    pub diff: bool,
    /// 0 shows what changes; 1 also what does not, and how hosts are reached.
    pub verbosity: u8,
    /// When to colour.
    pub color: ColorWhen,
}

/// In which form a run is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReportKind {
    /// [`Self::Progress`] when standard error is a terminal, else [`Self::Plain`].
    #[default]
    Auto,
    /// A line for whatever happens.
    Plain,
    /// The same above a few lines that say what is going on now.
    Progress,
    /// One JSON object a line on standard output; `docs/json-events.md` describes them.
    Json,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColorWhen {
    /// On a terminal, unless `NO_COLOR` or `TERM=dumb` forbid it.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Where a report is written to.
pub struct Sinks {
    /// Results: standard output.
    pub results: Box<dyn Write + Send>,
    /// Everything else: standard error.
    pub progress: Box<dyn Write + Send>,
    /// Whether results may be coloured.
    pub results_color: bool,
    /// Whether progress may be coloured.
    pub progress_color: bool,
    /// Whether progress is a terminal, so that lines can be redrawn.
    pub terminal: bool,
}

impl fmt::Debug for Sinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sinks")
            .field("results_color", &self.results_color)
            .field("progress_color", &self.progress_color)
            .field("terminal", &self.terminal)
            .finish_non_exhaustive()
    }
}

impl Sinks {
    /// The program's own standard output and standard error.
    pub fn standard(color: ColorWhen) -> Self {
        Self {
            results: Box::new(io::stdout()),
            progress: Box::new(io::stderr()),
            results_color: color.applies(&io::stdout()),
            progress_color: color.applies(&io::stderr()),
            terminal: io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
        }
    }
}

impl ColorWhen {
    /// Whether a stream is coloured.
    pub fn applies(self, stream: &impl anstream::stream::RawStream) -> bool {
        match self {
            Self::Auto => anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never,
            Self::Always => true,
            Self::Never => false,
        }
    }
}
