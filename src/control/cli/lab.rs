//! `up`, `down` and `ps`: the containers by themselves.

use std::{collections::HashMap, sync::Arc};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    args,
    failure::{Exit, Failure},
    output::{self, style},
    run::{Lab, cancel_at_interrupt, run, show_events},
};
use crate::{
    control::{
        drive::{self, Down, Events, Fleet, Mode, Scope},
        event::{HostPhase, RunEvent, RunKind, StepProgress, Summary, Transfer},
        inventory::{Access, Component, Host},
        lab::ContainerStatus,
        report::clean,
    },
    plan::{ComponentName, HostName, Outcome},
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
    let question = || format!("Remove the volumes of lab {} and all data in them?", lab.inventory.lab.name);
    if args.volumes && !args.yes && !output::confirmed(&question())? {
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

pub(super) async fn ps(args: args::Ps) -> Result<Exit, Failure> {
    let lab = Lab::load(&args.inventory)?;
    let keyring = drive::open_keyring(&lab.inventory)?;
    let (events, _inbox) = Events::channel();
    let fleet = Arc::new(Fleet::new(lab.inventory.clone(), keyring, events, None, CancellationToken::new()));
    let containers = drive::ps(&fleet, &lab.inventory).await?;
    let places: Vec<Place> = lab.inventory.hosts.values().map(|host| Place::of(host, &containers)).collect();
    let known = if args.containers { Vitals::default() } else { vitals(&lab, &places, containers).await? };
    let mut rows = Vec::new();
    for Place { host, state, address, image } in places {
        let components: Vec<_> =
            lab.inventory.components.values().filter(|component| component.hosts.contains(&host)).collect();
        if args.json {
            let health: serde_json::Map<String, serde_json::Value> = components
                .iter()
                .map(|component| (component.name.to_string(), known.word(&component.name, &host).into()))
                .collect();
            let names: Vec<_> = components.iter().map(|component| &component.name).collect();
            let line = json!({
                "schema": 1, "host": host, "state": state, "address": address, "image": image, "components": names,
                "health": health, "problems": known.problems(&host),
            });
            output::result(&format!("{line}\n"))?;
            continue;
        }
        let shown = |component: &&Component| match known.word(&component.name, &host) {
            "unknown" => component.name.to_string(),
            word => format!("{} ({word})", component.name),
        };
        let components: Vec<_> = components.iter().map(shown).collect();
        rows.push(vec![host.to_string(), state, address, components.join(", "), image]);
    }
    if !args.json {
        output::result(&output::table(&["HOST", "STATE", "ADDRESS", "COMPONENTS", "IMAGE"], rows))?;
        for (component, host, why) in &known.failed {
            output::progress(&format!("{component} on {host} is not healthy: {}", clean(why)));
        }
    }
    Ok(Exit::Done)
}

/// A host and where it is.
struct Place {
    host: HostName,
    state: String,
    address: String,
    image: String,
}

impl Place {
    fn of(host: &Host, containers: &[ContainerStatus]) -> Self {
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
        Self { host: host.name.clone(), state, address, image }
    }

    /// Whether it can be asked anything.
    fn runs(&self) -> bool {
        matches!(self.state.as_str(), "ssh" | "running")
    }
}

/// How components are, as their probes tell.
#[derive(Debug, Default)]
struct Vitals {
    healthy: HashMap<(ComponentName, HostName), bool>,
    /// What a probe said that failed.
    failed: Vec<(ComponentName, HostName, String)>,
    lost: HashMap<HostName, String>,
}

impl Vitals {
    fn event(&mut self, event: RunEvent) {
        match event {
            RunEvent::Health { component, host, healthy, .. } => {
                self.healthy.insert((component, host), healthy);
            }
            RunEvent::Step {
                component,
                host,
                title,
                progress: StepProgress::Finished { outcome: Outcome::Failed(failure), .. },
                ..
            } => self.failed.push((component, host, format!("{title}: {}", failure.message))),
            RunEvent::Host { host, phase: HostPhase::Lost { problem } } => {
                self.lost.insert(host, problem.error);
            }
            _ => {}
        }
    }

    fn word(&self, component: &ComponentName, host: &HostName) -> &'static str {
        match self.healthy.get(&(component.clone(), host.clone())) {
            Some(true) => "healthy",
            Some(false) => "unhealthy",
            None if self.lost.contains_key(host) => "unreachable",
            None => "unknown",
        }
    }

    fn problems(&self, host: &HostName) -> Vec<&str> {
        let probes = self.failed.iter().filter(|(_, where_, _)| where_ == host).map(|(.., why)| why.as_str());
        self.lost.get(host).map(String::as_str).into_iter().chain(probes).collect()
    }
}

/// Asks the hosts that run how their components are.
async fn vitals(lab: &Lab, places: &[Place], containers: Vec<ContainerStatus>) -> Result<Vitals, Failure> {
    let hosts: Vec<HostName> = places.iter().filter(|place| place.runs()).map(|place| place.host.clone()).collect();
    let components = lab.inventory.components.values().cloned().map(Arc::new).collect();
    let options = args::RunOptions { jobs: None, json: false, plain: true };
    let mut request = lab.bare_request(RunKind::Health, Mode::Apply, &options, components, hosts);
    request.scope = Scope::Health;
    request.containers = Some(containers);
    let cancel = CancellationToken::new();
    let (events, mut inbox) = Events::channel();
    let watcher = tokio::spawn(cancel_at_interrupt(cancel.clone()));
    let told = async {
        let mut vitals = Vitals::default();
        while let Some(event) = inbox.recv().await {
            vitals.event(event);
        }
        vitals
    };
    let (ended, vitals) = tokio::join!(drive::run(request, events, cancel), told);
    watcher.abort();
    ended?;
    Ok(vitals)
}
