//! The containers of a lab: started when missing, compared in plan, removed by `down`.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

use super::{DriveError, Events, Fleet, HostError, ledger::elapsed};
use crate::{
    control::{
        event::RunEvent,
        inventory::{Access, Inventory},
        lab::{ContainerStatus, DownEvent, Grants, LabError, UpEvent},
        link::Keyring,
    },
    plan::{Action, HostName},
};

/// What of a lab is taken down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down {
    /// Which hosts' containers; all of the lab's, also of hosts that the inventory no longer has, when not given.
    pub hosts: Option<Vec<HostName>>,
    /// Also the named volumes: their data is lost.
    pub volumes: bool,
}

/// What became of the containers of a run's hosts.
#[derive(Debug, Default)]
pub(super) struct ContainerReport {
    /// Containers that were (or would be) changed.
    pub(super) changed: u32,
    /// Hosts that do not exist yet, and why: only in plan.
    pub(super) absent: Vec<(HostName, String)>,
    /// Containers that this run created; removed again when they never let us in.
    pub(super) created: Vec<HostName>,
    /// Hosts whose container could not be started.
    pub(super) failed: Vec<(HostName, LabError)>,
}

/// Hosts among these that are containers.
pub(super) fn container_hosts(inventory: &Inventory, hosts: &[HostName]) -> Vec<HostName> {
    let is_container =
        |host: &&HostName| inventory.hosts.get(*host).is_some_and(|host| matches!(host.access, Access::Container(_)));
    hosts.iter().filter(is_container).cloned().collect()
}

/// Compares the containers with the inventory and writes nothing. What a deploy would refuse is an error here, too.
pub(super) async fn compare(
    fleet: &Fleet,
    inventory: &Inventory,
    keyring: &Keyring,
    hosts: &[HostName],
    events: &Events,
) -> Result<ContainerReport, DriveError> {
    let hosts = container_hosts(inventory, hosts);
    let mut report = ContainerReport::default();
    if hosts.is_empty() {
        return Ok(report);
    }
    let survey = fleet.engine().await?.foresee(inventory, &hosts, keyring).await?;
    tell(survey.notice, events).await;
    for sight in survey.sights {
        let Some((action, why)) = sight.needs() else { continue };
        report.changed += 1;
        let absence = match action {
            Action::Create => "the host does not exist yet".to_owned(),
            Action::Start => "the host does not run".to_owned(),
            _ => format!("the host's container would be made anew: {why}"),
        };
        report.absent.push((sight.host.clone(), absence));
        events.send(RunEvent::Container { host: sight.host, action, why, done: false, millis: 0 }).await;
    }
    Ok(report)
}

/// Starts what is missing and recreates what differs.
pub(super) async fn ensure(
    fleet: &Fleet,
    inventory: &Inventory,
    keyring: &Keyring,
    hosts: &[HostName],
    events: &Events,
) -> Result<ContainerReport, DriveError> {
    let hosts = container_hosts(inventory, hosts);
    let mut report = ContainerReport::default();
    if hosts.is_empty() {
        return Ok(report);
    }
    let engine = fleet.engine().await?;
    let on_event = |event: UpEvent| {
        let UpEvent { host, action, why, millis, grants } = event;
        events.hint(RunEvent::Container { host: host.clone(), action, why, done: true, millis });
        if let Some(Grants { what, privileged }) = grants {
            events.hint(RunEvent::Granted { host, what, privileged });
        }
    };
    let done = engine.up(inventory, &hosts, keyring, on_event).await?;
    tell(done.notice, events).await;
    for host in done.created.iter().chain(&done.recreated).chain(&done.started) {
        fleet.expect_start(host);
        report.changed += 1;
    }
    report.created = done.created;
    report.failed = done.failed;
    Ok(report)
}

/// Says what somebody should know about the lab's network.
async fn tell(notice: Option<String>, events: &Events) {
    if let Some(text) = notice {
        events.send(RunEvent::Warning { host: None, text }).await;
    }
}

/// Removes the containers that this run created and that never let us in, so that a failed start leaves nothing.
pub(super) async fn remove_created(
    fleet: &Fleet,
    inventory: &Inventory,
    created: &[HostName],
    events: &Events,
) -> Result<(), DriveError> {
    for host in created {
        if let Err(error) = fleet.session(host).await {
            // Only what could not be reached: a container that let us in and failed later is worth looking at.
            if matches!(*error, HostError::Link(_)) {
                let started = Instant::now();
                fleet.engine().await?.remove(&inventory.lab.name, host).await?;
                let why = "created by this run and never reachable".to_owned();
                let millis = elapsed(started);
                let event = RunEvent::Container { host: host.clone(), action: Action::Remove, why, done: true, millis };
                events.send(event).await;
            }
        }
    }
    Ok(())
}

/// Removes containers, and volumes when asked; gives the number of containers removed.
pub async fn down(fleet: &Fleet, inventory: &Inventory, down: &Down, events: &Events) -> Result<u32, DriveError> {
    let engine = fleet.engine().await?;
    let removed = AtomicU32::new(0);
    let on_event = |event: DownEvent| match event.host {
        Some(host) => {
            removed.fetch_add(1, Ordering::Relaxed);
            let (action, why) = (event.action, "not wanted any more".to_owned());
            events.hint(RunEvent::Container { host, action, why, done: true, millis: 0 });
        }
        None => {
            events.hint(RunEvent::Warning { host: None, text: format!("volume or network {} removed", event.name) });
        }
    };
    let notice = engine.down(&inventory.lab.name, down.hosts.as_deref(), down.volumes, on_event).await?;
    tell(notice, events).await;
    Ok(removed.into_inner())
}

/// The numeric addresses of a lab's containers, also of those that do not run and keep theirs.
pub(super) fn addresses(containers: Vec<ContainerStatus>) -> BTreeMap<HostName, IpAddr> {
    let numeric = |container: ContainerStatus| Some((container.host, container.address?.parse().ok()?));
    containers.into_iter().filter_map(numeric).collect()
}

/// The containers of a lab as the engine sees them; an engine that nothing is asked of need not answer.
pub async fn ps(fleet: &Fleet, inventory: &Inventory) -> Result<Vec<ContainerStatus>, DriveError> {
    if container_hosts(inventory, &inventory.hosts.keys().cloned().collect::<Vec<_>>()).is_empty() {
        return Ok(Vec::new());
    }
    Ok(fleet.engine().await?.ps(inventory).await?)
}
