//! `push`: a component's trees, and what reacts to them.

use std::{path::Path, sync::Arc};

use super::{
    args,
    failure::{Exit, Failure},
    output::style,
    run::{Lab, run},
};
use crate::{
    control::{
        drive::{Mode, Scope},
        event::RunKind,
        inventory::{Component, Inventory},
    },
    plan::ComponentName,
};

pub(super) async fn push(args: args::Push, verbose: u8) -> Result<Exit, Failure> {
    let lab = Lab::load(&args.inventory)?;
    let chosen = lab.hosts(args.on.as_deref())?;
    let names = match &args.build {
        Some(build) => built_from(&lab.inventory, build)?,
        None => lab.inventory.select_components(&args.components, false)?,
    };
    let names: Vec<_> = names.iter().filter_map(|name| lab.inventory.components.get(name)).collect();
    if args.watch && names.len() > 1 {
        let names: Vec<_> = names.iter().map(|component| component.name.as_str()).collect();
        return Err(Failure::bad_input(format!("--watch follows one component, not {}", names.join(", ")))
            .hint("start one `push --watch` for each"));
    }
    let hosts: Vec<_> =
        chosen.into_iter().filter(|host| names.iter().any(|component| component.hosts.contains(host))).collect();
    if hosts.is_empty() {
        let on = args.on.as_deref().unwrap_or_default();
        let names: Vec<_> = names.iter().map(|component| format!("`{}`", component.name)).collect();
        return Err(Failure::bad_input(format!("component {} is on none of the hosts `{on}`", names.join(", ")))
            .hint("`ovs-cuisine inventory show` lists its hosts"));
    }
    let mode = if args.check { Mode::Check } else { Mode::Apply };
    let components = names.into_iter().cloned().map(Arc::new).collect();
    let mut request = lab.bare_request(RunKind::Push, mode, &args.options, components, hosts);
    request.scope = Scope::Push { watch: args.watch, rollback: args.rollback };
    let summary = run(request, style(&args.options, args.diff, verbose)).await?;
    Ok(Exit::of(&summary))
}

/// The components that have a directory as a parameter, in the order of the lab.
fn built_from(inventory: &Inventory, build: &Path) -> Result<Vec<ComponentName>, Failure> {
    let wanted = build.canonicalize().map_err(|error| {
        Failure::bad_input(format!("no build at `{}`: {error}", build.display()))
            .hint("--build takes a directory that a component's parameter names")
    })?;
    let names_it = |component: &Component| {
        let texts = component.params.values().filter_map(|given| given.value.as_str());
        texts.into_iter().any(|text| inventory.directory().join(text).canonicalize().is_ok_and(|path| path == wanted))
    };
    let found: Vec<_> = inventory.components.values().filter(|component| names_it(component)).collect();
    if found.is_empty() {
        return Err(Failure::bad_input(format!("no component has `{}` as a parameter", build.display()))
            .hint("`ovs-cuisine inventory show` lists components and their parameters"));
    }
    let is_found = |name: &ComponentName| found.iter().any(|component| component.name == *name);
    Ok(inventory.order().into_iter().filter(is_found).collect())
}
