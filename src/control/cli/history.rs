//! `config history` and `config rollback`: what was written to etcd, and going back.

use serde_json::json;

use super::{
    args,
    config::{Opened, opened},
    failure::{Exit, Failure},
    output,
    run::Lab,
};
use crate::{
    control::{
        config::{KeyChange, Rollback, Target, Written},
        event::ConfigChange,
        report::{ago, config_changes_text, plural},
    },
    plan::ComponentName,
};

/// Writes of one run, as one row.
struct Run<'w> {
    name: String,
    writes: Vec<&'w Written>,
}

pub(super) async fn history(args: args::History) -> Result<Exit, Failure> {
    let lab = Lab::load(&args.inventory)?;
    let only = chosen(&lab, &args.only)?;
    let Opened { fleet, store } = opened(&lab).await?;
    let mut written = store.written().await?;
    fleet.close().await;
    written.retain(|write| only.is_empty() || only.contains(&write.component));
    if args.json {
        for write in &written {
            let entry = &write.entry;
            let line = json!({
                "schema": 1, "revision": write.revision, "run": entry.run, "component": write.component,
                "number": entry.number, "at": entry.at, "by": entry.by, "keys": entry.count, "back_to": entry.back_to,
            });
            output::result(&format!("{line}\n"))?;
        }
        return Ok(Exit::Done);
    }
    if written.is_empty() {
        output::progress("nothing was written yet");
        return Ok(Exit::Done);
    }
    let mut runs = runs(&written);
    runs.reverse();
    let rows = runs.iter().take(args.lines).map(row).collect();
    output::result(&output::table(&["RUN", "REVISION", "WHEN", "KEYS", "COMPONENTS", "BY"], rows))?;
    Ok(Exit::Done)
}

/// Oldest first. A run's writes need not stand together: another one may have written in between.
fn runs(written: &[Written]) -> Vec<Run<'_>> {
    let mut runs: Vec<Run<'_>> = Vec::new();
    for write in written {
        let name = &write.entry.run;
        match runs.iter_mut().find(|run| run.name == *name && !name.is_empty()) {
            Some(run) => run.writes.push(write),
            None => runs.push(Run { name: name.clone(), writes: vec![write] }),
        }
    }
    runs.sort_by_key(|run| run.writes.iter().map(|write| write.revision).max());
    runs
}

fn row(run: &Run<'_>) -> Vec<String> {
    let last = run.writes.iter().max_by_key(|write| write.revision);
    let (revision, at, by) = last.map_or((0, 0, ""), |write| (write.revision, write.entry.at, write.entry.by.as_str()));
    let mut components: Vec<&str> = run.writes.iter().map(|write| write.component.as_str()).collect();
    components.sort_unstable();
    components.dedup();
    let back_to = run.writes.iter().find_map(|write| write.entry.back_to);
    let note = back_to.map_or_else(String::new, |revision| format!(" (back to {revision})"));
    vec![
        if run.name.is_empty() { "-".to_owned() } else { run.name.clone() },
        revision.to_string(),
        ago(at),
        run.writes.iter().map(|write| write.entry.count).sum::<usize>().to_string(),
        format!("{}{note}", components.join(" ")),
        by.to_owned(),
    ]
}

pub(super) async fn rollback(args: args::Rollback) -> Result<Exit, Failure> {
    let lab = Lab::load(&args.inventory)?;
    let only = chosen(&lab, &args.only)?;
    let target = match args.to.as_deref() {
        None => Target::BeforeLast,
        Some(text) => text.parse().map_or_else(|_| Target::Run(text.to_owned()), Target::Revision),
    };
    let Opened { fleet, store } = opened(&lab).await?;
    let rollback = store.prepare_rollback(&target, &only, &lab.inventory.lab.prefix).await?;
    let ended = carry_out(&store, rollback, &args).await;
    fleet.close().await;
    ended
}

async fn carry_out(
    store: &crate::control::config::Store,
    rollback: Rollback,
    args: &args::Rollback,
) -> Result<Exit, Failure> {
    let target = rollback.target();
    let components: Vec<ComponentName> = rollback.changes().map(|(component, _)| component.clone()).collect();
    let mut count = 0;
    for (component, changes) in rollback.changes() {
        let shown: Vec<ConfigChange> = changes.iter().map(shown).collect();
        count += shown.len();
        output::result(&format!("{component}\n{}", config_changes_text(&shown)))?;
    }
    if count == 0 {
        output::result(&format!("everything is as it was at revision {target}\n"))?;
        return Ok(Exit::Done);
    }
    let keys = plural(count as u64, "key", "keys");
    if args.check {
        output::result(&format!("{keys} to go back to revision {target}.\n"))?;
        return Ok(Exit::Done);
    }
    if !args.yes && !output::confirmed(&format!("Take {keys} back to revision {target}?"))? {
        return Err(
            Failure::refused("nothing was rolled back: it was not confirmed").hint("say yes when asked, or give --yes")
        );
    }
    let applied = store.roll_back(rollback).await?;
    output::result(&format!("{keys} back at what revision {target} had (revision {})\n", applied.revision))?;
    let names: Vec<&str> = components.iter().map(ComponentName::as_str).collect();
    output::progress(&format!(
        "services follow now; the next deploy of {} sets the keys to what its recipe wants then",
        names.join(", ")
    ));
    Ok(Exit::Done)
}

fn shown(change: &KeyChange) -> ConfigChange {
    let (key, before, after) = (change.key.clone(), change.before.clone(), change.after.clone());
    ConfigChange { key, action: change.action, before, after }
}

/// The components that `--only` names; none for all that the history knows.
fn chosen(lab: &Lab, only: &[String]) -> Result<Vec<ComponentName>, Failure> {
    if only.is_empty() {
        return Ok(Vec::new());
    }
    Ok(lab.inventory.select_components(only, false)?.into_iter().collect())
}
