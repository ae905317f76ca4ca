//! What people and programs read of a run: progress, diffs, summaries, failures, JSON lines. Folds events and prints;
//! knows nothing of how a run is driven.
//!
//! Results (plans, diffs, summaries, output of commands) go to standard output, everything else to standard error.
//! Nothing that a host says reaches the terminal before [`paint::clean`] has made it harmless.

mod failure;
mod follow;
mod json;
mod paint;
mod style;
mod words;

pub use failure::problem_text;
pub use follow::{Reporter, follow, reporter, reporter_to};
pub use paint::{clean, plain};
pub use style::{ColorWhen, ReportKind, ReportStyle, Sinks};
pub use words::{bytes, duration, plural};
