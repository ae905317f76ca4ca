//! Results on standard output, everything else on standard error.

use std::{
    error::Error,
    io::{self, IsTerminal as _, Write},
    process::ExitCode,
};

use anstyle::{AnsiColor, Style};
use tracing_subscriber::{EnvFilter, fmt::time::uptime};

use super::{
    args::RunOptions,
    failure::{Failure, Shown},
};
use crate::control::report::{ColorWhen, ReportKind, ReportStyle};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const DIM: Style = Style::new().dimmed();
const HINT: Style = AnsiColor::Cyan.on_default();

/// Writes a result to standard output. A reader that has gone away (`| head`) is not an error.
pub(super) fn result(text: &str) -> Result<(), Failure> {
    match anstream::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::internal("cannot write to standard output", error))
        }
        _ => Ok(()),
    }
}

/// Asks on the terminal; no terminal means no.
pub(super) fn confirmed(question: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    let failed = |error| Failure::internal("cannot ask on the terminal", error);
    let mut stderr = anstream::stderr();
    write!(stderr, "{question} [y/N] ").map_err(failed)?;
    stderr.flush().map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Shows why the run stopped; gives the exit status.
pub(super) fn fail(failure: &Failure) -> ExitCode {
    problem(failure);
    failure.exit.into()
}

/// Shows a failure that does not end the command.
pub(super) fn problem(failure: &Failure) {
    // Standard error is all there is to tell it to.
    let _ = anstream::stderr().write_all(render(failure).as_bytes());
}

/// A text with styles on standard error.
pub(super) fn diagnostic(text: &str) {
    let _ = anstream::stderr().write_all(text.as_bytes());
}

/// A line of progress on standard error.
pub(super) fn progress(line: &str) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// Whether what goes to standard error is coloured.
pub(super) fn stderr_color() -> bool {
    ColorWhen::Auto.applies(&io::stderr())
}

/// Rows under a head, columns aligned, no lines around them.
pub(super) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(head.to_vec()).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let trimmed = table.lines().map(|line| format!("{}\n", line.trim_end()));
    trimmed.collect()
}

/// How a run is shown.
pub(super) fn style(options: &RunOptions, diff: bool, verbosity: u8) -> ReportStyle {
    let kind = match (options.json, options.plain) {
        (true, _) => ReportKind::Json,
        (false, true) => ReportKind::Plain,
        (false, false) => ReportKind::Auto,
    };
    ReportStyle { kind, diff, verbosity, color: ColorWhen::Auto }
}

fn render(failure: &Failure) -> String {
    let text = match &failure.error {
        Shown::Rendered(rendered) => format!("{}\n", rendered.trim_end()),
        Shown::Chain(error) => {
            let mut text = format!("{ERROR}error:{ERROR:#} {error}\n");
            let mut source = error.source();
            while let Some(cause) = source {
                text.push_str(&format_cause(cause));
                source = cause.source();
            }
            text
        }
    };
    match &failure.hint {
        Some(hint) => format!("{text}{HINT}hint:{HINT:#} {hint}\n"),
        None => text,
    }
}

fn format_cause(cause: &dyn Error) -> String {
    format!("{DIM}because:{DIM:#} {cause}\n")
}

/// Logs our own rooms at `-vv` and above; libraries only on demand, because they trace what they are given.
pub(super) fn start_logging(verbose: u8, trace_all: bool) {
    let filter = match (verbose, trace_all) {
        (_, true) => "trace",
        (0 | 1, false) => "ovs_cuisine=warn",
        (2, false) => "ovs_cuisine=debug",
        (_, false) => "ovs_cuisine=trace",
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(io::stderr)
        .with_timer(uptime())
        .finish();
    // Only fails when a subscriber is set already, which a process of ours never does.
    let _ = tracing::subscriber::set_global_default(subscriber);
    if trace_all {
        tracing::warn!("libraries log what they handle: this output may hold secrets");
    }
}
