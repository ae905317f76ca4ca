//! `deploy` and `plan`.

use super::{
    args,
    failure::{Exit, Failure},
    output::style,
    run::{Lab, run},
};
use crate::control::{
    drive::{Mode, Scope},
    event::{RunKind, Status, Summary},
};

pub(super) async fn deploy(args: args::Deploy, verbose: u8) -> Result<Exit, Failure> {
    let lab = Lab::load(&args.selection.inventory)?;
    let mut request = lab.request(&args.selection, RunKind::Deploy, Mode::Apply, &args.options)?;
    request.prune = args.prune;
    if !args.safe.is_empty() {
        request.safe = lab.inventory.select_components(&args.safe, false)?.into_iter().collect();
    }
    let summary = run(request, style(&args.options, args.diff, verbose)).await?;
    Ok(Exit::of(&summary))
}

pub(super) async fn plan(args: args::Plan, verbose: u8) -> Result<Exit, Failure> {
    compare(args, verbose, Scope::Whole).await
}

/// `config diff`: a plan that looks at keys only.
pub(super) async fn config_diff(args: args::Plan, verbose: u8) -> Result<Exit, Failure> {
    compare(args, verbose, Scope::Keys).await
}

async fn compare(args: args::Plan, verbose: u8, scope: Scope) -> Result<Exit, Failure> {
    let lab = Lab::load(&args.selection.inventory)?;
    let mut request = lab.request(&args.selection, RunKind::Plan, Mode::Check, &args.options)?;
    request.scope = scope;
    let summary = run(request, style(&args.options, true, verbose)).await?;
    let drift = if args.exit_code && differs(&summary) { Exit::Drift } else { Exit::Done };
    Ok(Exit::of(&summary).max(drift))
}

/// Whether a deploy would do anything, or cannot be told to do nothing.
fn differs(summary: &Summary) -> bool {
    summary.containers_changed > 0
        || summary.keys_changed > 0
        || summary.hosts.iter().any(|host| matches!(host.status, Status::Changed | Status::Unknown))
}
