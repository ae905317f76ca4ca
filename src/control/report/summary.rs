//! How a run ended: tables of hosts and components, and the line of counts.

use super::{
    table::{Cell, Column, Table, Tone},
    words::{bytes, duration, plural},
};
use crate::{
    control::event::{ComponentSummary, HostSummary, RunKind, Status, Summary, Transfer},
    plan::Tally,
};

/// A column of counts: its name and where its number is.
type Count = (&'static str, fn(&Tally) -> u32);

/// Counts that most runs do not have; one that no host has gets no column.
const RARE: [Count; 4] = [
    ("unknown", |tally| tally.unknown),
    ("skipped", |tally| tally.skipped),
    ("failed", |tally| tally.failed),
    ("not attempted", |tally| tally.not_attempted),
];

/// Rates are told of transfers that took so many milliseconds: those of shorter ones say nothing about a link.
const RATED: u64 = 500;

/// The tables of a run that changes hosts.
pub(super) fn tables(summary: &Summary) -> Vec<Table> {
    let mut tables = Vec::new();
    if !summary.hosts.is_empty() {
        tables.push(host_table(&summary.hosts));
    }
    if !summary.components.is_empty() {
        tables.push(component_table(&summary.components));
    }
    tables
}

fn host_table(hosts: &[HostSummary]) -> Table {
    let seen = |(_, count): &&Count| hosts.iter().any(|host| count(&host.tally) > 0);
    let rare: Vec<&Count> = RARE.iter().filter(seen).collect();
    let columns =
        [Column::Text("host"), Column::Text("status"), Column::Number("changed"), Column::Number("unchanged")];
    let mut table = Table::new(columns.into_iter().chain(rare.iter().map(|(name, _)| Column::Number(name))));
    for host in hosts {
        let counts = [host.tally.changed, host.tally.unchanged].into_iter();
        let counts = counts.chain(rare.iter().map(|(_, count)| count(&host.tally)));
        let cells = [host.host.to_string().into(), status_cell(host.status)].into_iter();
        table.row(cells.chain(counts.map(|count| count.to_string().into())));
    }
    table
}

fn component_table(components: &[ComponentSummary]) -> Table {
    let columns = [Column::Text("component"), Column::Text("status"), Column::Text("health"), Column::Number("time")];
    let mut table = Table::new(columns);
    for component in components {
        let health = match component.healthy {
            Some(true) => Cell::new("healthy", Tone::Good),
            Some(false) => Cell::new("not healthy", Tone::Bad),
            None => "not probed".into(),
        };
        let time = duration(component.millis).into();
        table.row([component.component.to_string().into(), status_cell(component.status), health, time]);
    }
    table
}

fn status_cell(status: Status) -> Cell {
    let tone = match status {
        Status::Unchanged => Tone::Good,
        Status::Changed | Status::Unknown | Status::NotAttempted | Status::Interrupted => Tone::Notable,
        Status::Unreachable | Status::Failed => Tone::Bad,
    };
    Cell::new(status_word(status), tone)
}

/// A status in words.
pub(super) fn status_word(status: Status) -> &'static str {
    match status {
        Status::Unchanged => "unchanged",
        Status::Changed => "changed",
        Status::Unknown => "unknown",
        Status::NotAttempted => "not attempted",
        Status::Unreachable => "unreachable",
        Status::Failed => "failed",
        Status::Interrupted => "interrupted",
    }
}

/// The last line of a run. `unknown_parts` counts components on hosts that could not be looked at.
///
/// Changes are steps, containers and keys in etcd together; when others than steps are among them, they are told apart.
pub(super) fn counts(summary: &Summary, unknown_parts: u32) -> String {
    let interrupted = if summary.interrupted { "Interrupted: " } else { "" };
    if summary.kind == RunKind::Lab {
        let changed = plural(u64::from(summary.containers_changed), "container", "containers");
        return format!("{interrupted}{changed} changed in {}.", duration(summary.millis));
    }
    let mut tally = Tally::default();
    summary.hosts.iter().for_each(|host| tally += host.tally);
    let changed = tally.changed + summary.containers_changed + summary.keys_changed;
    let unknown = tally.unknown + unknown_parts;
    let is_plan = summary.kind == RunKind::Plan;
    let mut parts = vec![
        format!("{changed} {}{}", if is_plan { "to change" } else { "changed" }, kinds(summary, &tally)),
        format!("{} unchanged", tally.unchanged),
    ];
    let lost = summary.hosts.iter().filter(|host| host.status == Status::Unreachable).count() as u64;
    let components = summary.components.iter().filter(|component| component.status == Status::Failed).count() as u64;
    // What failed outside steps, such as keys that could not be written, is a component's failure alone.
    let failed = match (tally.failed, components) {
        (0, 1..) => format!("{} failed", plural(components, "component", "components")),
        (steps, _) => format!("{steps} failed"),
    };
    let optional = [
        (is_plan || unknown > 0, format!("{unknown} unknown")),
        (is_plan || tally.skipped > 0, format!("{} skipped", tally.skipped)),
        (!is_plan || u64::from(tally.failed) + components > 0, failed),
        (tally.not_attempted > 0, format!("{} not attempted", tally.not_attempted)),
        (lost > 0, format!("{} unreachable", plural(lost, "host", "hosts"))),
    ];
    parts.extend(optional.into_iter().filter(|(shown, _)| *shown).map(|(_, text)| text));
    let time = if is_plan { String::new() } else { format!(" in {}", duration(summary.millis)) };
    format!("{interrupted}{}{time}.", parts.join(", "))
}

/// `Sent 143 files, 12.40 MiB, to 3 hosts: 1.90 MiB on the wire, 9.00 MiB reused, 41.00 MiB/s.`, and
/// `Sent the helper to 2 hosts, 9.48 MiB.` None when nothing travelled.
pub(super) fn sent(summary: &Summary) -> Option<String> {
    let whole = &summary.transfer;
    let hosts = |has: fn(&Transfer) -> bool| {
        let count = summary.hosts.iter().filter(|host| has(&host.transfer)).count();
        plural(count as u64, "host", "hosts")
    };
    let mut sentences = Vec::new();
    if whole.files + whole.bytes > 0 {
        let mut parts = vec![format!("{} on the wire", bytes(whole.sent_bytes))];
        if whole.reused_bytes > 0 {
            parts.push(format!("{} reused", bytes(whole.reused_bytes)));
        }
        if whole.millis >= RATED {
            let rate = u128::from(whole.bytes) * 1000 / u128::from(whole.millis);
            parts.push(format!("{}/s", bytes(u64::try_from(rate).unwrap_or(u64::MAX))));
        }
        let (files, hosts) = (plural(whole.files, "file", "files"), hosts(|host| host.files + host.bytes > 0));
        sentences.push(format!("Sent {files}, {}, to {hosts}: {}.", bytes(whole.bytes), parts.join(", ")));
    }
    if whole.helper_bytes > 0 {
        let hosts = hosts(|host| host.helper_bytes > 0);
        sentences.push(format!("Sent the helper to {hosts}, {}.", bytes(whole.helper_bytes)));
    }
    (!sentences.is_empty()).then(|| sentences.join(" "))
}

/// ` (2 steps, 1 container, 3 keys)` when other things than steps changed.
fn kinds(summary: &Summary, tally: &Tally) -> String {
    if summary.containers_changed + summary.keys_changed == 0 {
        return String::new();
    }
    let kinds = [
        (tally.changed, "step", "steps"),
        (summary.containers_changed, "container", "containers"),
        (summary.keys_changed, "key in etcd", "keys in etcd"),
    ];
    let texts: Vec<String> =
        kinds.iter().filter(|kind| kind.0 > 0).map(|(count, one, many)| plural(u64::from(*count), one, many)).collect();
    format!(" ({})", texts.join(", "))
}

/// Whether a plan found everything as wanted and could tell.
pub(super) fn is_clean(summary: &Summary, unknown_parts: u32) -> bool {
    let quiet = |status| status == Status::Unchanged;
    unknown_parts == 0
        && !summary.interrupted
        && summary.containers_changed + summary.keys_changed == 0
        && summary.hosts.iter().all(|host| quiet(host.status) && host.tally.changed + host.tally.unknown == 0)
        && summary.components.iter().all(|component| quiet(component.status))
}
