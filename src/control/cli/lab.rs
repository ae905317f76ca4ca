//! `up`, `down` and `ps`: the containers by themselves.

use std::{
    io::{IsTerminal, Write},
    sync::Arc,
};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    args,
    failure::{Exit, Failure},
    output::{self, style},
    run::{Lab, run, show_events},
};
use crate::control::{
    drive::{self, Down, Events, Fleet, Mode},
    event::{RunEvent, RunKind, Summary, Transfer},
    inventory::Access,
};

pub(super) async fn up(args: args::Up, verbose: u8) -> Result<Exit, Failure> {
    let lab = Lab::load(&args.inventory)?;
    let hosts = lab.hosts(args.on.as_deref())?;
    let request = lab.bare_request(RunKind::Lab, Mode::Apply, &args.options, Vec::new(), hosts);
    Ok(Exit::of(&run(request, style(&args.options, false, verbose)).await?))
}

pub(super) async fn down(args: args::Down, verbose: u8) -> Result<Exit, Failure> {
    let lab = Lab::load(&args.inventory)?;
    let hosts = args.on.as_deref().map(|on| lab.hosts(Some(on))).transpose()?;
    if args.volumes && !args.yes && !confirmed(&lab)? {
        return Err(Failure::refused("nothing was removed: removing volumes was not confirmed")
            .hint("say yes when asked, or give --yes"));
    }
    let started = std::time::Instant::now();
    let keyring = drive::open_keyring(&lab.inventory)?;
    let (events, inbox) = Events::channel();
    let shown = tokio::spawn(show_events(inbox, style(&args.options, false, verbose)));
    let lab_name = lab.inventory.lab.name.clone();
    events
        .send(RunEvent::RunStarted {
            kind: RunKind::Lab,
            lab: lab_name,
            hosts: hosts.clone().unwrap_or_default(),
            components: Vec::new(),
        })
        .await;
    let fleet = Fleet::new(lab.inventory.clone(), keyring, events.clone(), args.options.jobs, CancellationToken::new());
    let request = Down { hosts, volumes: args.volumes };
    let removed = drive::down(&fleet, &lab.inventory, &request, &events).await;
    if let Ok(removed) = &removed {
        let summary = Summary {
            kind: RunKind::Lab,
            hosts: Vec::new(),
            components: Vec::new(),
            containers_changed: *removed,
            keys_changed: 0,
            transfer: Transfer::default(),
            millis: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            interrupted: false,
        };
        events.send(RunEvent::RunFinished(summary)).await;
    }
    drop((fleet, events));
    // The report ends when the last sender is gone; a panic in it is not the run's.
    let _ = shown.await;
    removed?;
    Ok(Exit::Done)
}

/// Asks on the terminal; no terminal means no.
fn confirmed(lab: &Lab) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    let failed = |error| Failure::internal("cannot ask on the terminal", error);
    let mut stderr = anstream::stderr();
    write!(stderr, "Remove the volumes of lab {} and all data in them? [y/N] ", lab.inventory.lab.name)
        .map_err(failed)?;
    stderr.flush().map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

pub(super) async fn ps(args: args::Ps) -> Result<Exit, Failure> {
    let lab = Lab::load(&args.inventory)?;
    let keyring = drive::open_keyring(&lab.inventory)?;
    let (events, _inbox) = Events::channel();
    let fleet = Arc::new(Fleet::new(lab.inventory.clone(), keyring, events, None, CancellationToken::new()));
    let containers = drive::ps(&fleet, &lab.inventory).await?;
    let mut rows = Vec::new();
    let mut json = Vec::new();
    for host in lab.inventory.hosts.values() {
        let components: Vec<&str> = lab
            .inventory
            .components
            .values()
            .filter(|component| component.hosts.contains(&host.name))
            .map(|component| component.name.as_str())
            .collect();
        let container = containers.iter().find(|container| container.host == host.name);
        let (state, address, image) = match (&host.access, container) {
            (Access::Ssh(access), _) => {
                ("ssh".to_owned(), format!("{}:{}", access.address, access.port), String::new())
            }
            (Access::Container(_), Some(container)) => {
                (container.state.clone(), container.address.clone().unwrap_or_default(), container.image.clone())
            }
            (Access::Container(wanted), None) => ("missing".to_owned(), String::new(), wanted.image.clone()),
        };
        json.push(json!({
            "schema": 1, "host": host.name, "state": state, "address": address, "image": image, "components": components,
        }));
        rows.push(vec![host.name.to_string(), state, address, components.join(", "), image]);
    }
    if args.json {
        for line in json {
            output::result(&format!("{line}\n"))?;
        }
    } else {
        output::result(&output::table(&["HOST", "STATE", "ADDRESS", "COMPONENTS", "IMAGE"], rows))?;
    }
    Ok(Exit::Done)
}
