//! What people and programs read of a run: progress, diffs, summaries, failures, JSON lines. Folds events and prints;
//! knows nothing of how a run is driven.
//!
//! Results (plans, diffs, summaries, output of commands) go to standard output, everything else to standard error.
//! Nothing that a host says reaches the terminal before [`paint::clean`] has made it harmless.

mod diff;
mod failure;
mod follow;
mod human;
mod json;
mod ledger;
mod lines;
mod paint;
mod rate;
mod screen;
mod status;
mod style;
mod summary;
mod table;
mod transfers;
mod words;

pub use diff::config_changes_text;
pub use failure::problem_text;
pub use follow::{Reporter, follow, reporter, reporter_to};
pub use json::JSON_SCHEMA;
pub use paint::{clean, plain};
pub use style::{ColorWhen, ReportKind, ReportStyle, Sinks};
pub use table::{Cell, Column, Table, Tone};
pub use words::{ago, bytes, duration, plural};
