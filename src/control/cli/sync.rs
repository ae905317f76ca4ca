//! `sync explain`: what a tree leaves out, and why.

use super::{
    args,
    failure::{Exit, Failure},
    output,
};
use crate::control::{drive::explain, report::clean};

pub(super) fn sync(args: args::Sync) -> Result<Exit, Failure> {
    let args::Sync::Explain { path, root, ignore } = args;
    let said = explain(&path, root.as_deref(), &ignore).map_err(|error| {
        let hint = error.hint();
        Failure::new(Exit::BadInput, error, hint)
    })?;
    let word = if said.is_ignored { "ignored" } else { "synced" };
    let above = said.because_of.map_or_else(String::new, |above| format!(" with `{above}`"));
    let by = said.rule.map_or_else(|| "no rule matches".to_owned(), |rule| format!("by {rule}"));
    output::result(&format!("{}: {word}{above}, {by}\n", clean(&said.path)))?;
    Ok(Exit::Done)
}
