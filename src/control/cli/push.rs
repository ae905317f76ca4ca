//! `push`: a component's trees, and what reacts to them.

use std::sync::Arc;

use super::{
    args,
    failure::{Exit, Failure},
    output::style,
    run::{Lab, run},
};
use crate::control::{
    drive::{Mode, Scope},
    event::RunKind,
};

pub(super) async fn push(args: args::Push, verbose: u8) -> Result<Exit, Failure> {
    let lab = Lab::load(&args.inventory)?;
    let chosen = lab.hosts(args.on.as_deref())?;
    let names = lab.inventory.select_components(std::slice::from_ref(&args.component), false)?;
    let components: Vec<_> = names.iter().filter_map(|name| lab.inventory.components.get(name)).cloned().collect();
    let hosts: Vec<_> =
        chosen.into_iter().filter(|host| components.iter().any(|component| component.hosts.contains(host))).collect();
    if hosts.is_empty() {
        let on = args.on.as_deref().unwrap_or_default();
        return Err(Failure::bad_input(format!("component `{}` is on none of the hosts `{on}`", args.component))
            .hint("`ovs-cuisine inventory show` lists its hosts"));
    }
    let mode = if args.check { Mode::Check } else { Mode::Apply };
    let components = components.into_iter().map(Arc::new).collect();
    let mut request = lab.bare_request(RunKind::Push, mode, &args.options, components, hosts);
    request.scope = Scope::Push { watch: args.watch, rollback: args.rollback };
    let summary = run(request, style(&args.options, args.diff, verbose)).await?;
    Ok(Exit::of(&summary))
}
