//! The line that an event is worth while a run goes on.

use super::{
    diff::{marker, overall},
    paint::{GREEN, RED, YELLOW, clean, output_line, paint},
    summary::status_word,
    words::{bytes, duration, plural},
};
use crate::{
    control::event::{ChangeSet, HostPhase, RunEvent, RunKind, Status, StepProgress},
    plan::{Action, Facts, HostName, Outcome},
};

/// Durations of steps are said from this many milliseconds on.
const LONG: u64 = 1000;

/// The line for an event, and the host that it is about. None when it says nothing at this verbosity.
///
/// A plan says only what is wrong: the rest comes in order at its end.
pub(super) fn live(event: &RunEvent, kind: RunKind, verbosity: u8) -> Option<(Option<&HostName>, String)> {
    let chatty = verbosity > 0;
    if kind == RunKind::Push && !chatty && !speaks_in_push(event) {
        return None;
    }
    match event {
        RunEvent::RunStarted { kind: RunKind::Deploy, lab, hosts, components } => {
            let components = plural(components.len() as u64, "component", "components");
            let hosts = plural(hosts.len() as u64, "host", "hosts");
            Some((None, format!("Deploying {lab}: {components} on {hosts}.")))
        }
        RunEvent::Container { host, action, why, done: true, millis } => {
            Some((Some(host), container_line(*action, why, *millis)))
        }
        RunEvent::Granted { host, what, privileged } => Some((Some(host), granted(what, *privileged))),
        RunEvent::Host { host, phase } => phase_line(phase, chatty).map(|text| (Some(host), text)),
        RunEvent::ComponentStarted { component, hosts } if chatty => {
            Some((None, format!("{component}: begins on {}", plural(hosts.len() as u64, "host", "hosts"))))
        }
        RunEvent::Planned { component, host, steps } if chatty => {
            Some((Some(host), format!("{component}: {}", plural(u64::from(*steps), "step", "steps"))))
        }
        RunEvent::Step { component, host, title, ignored, progress, .. }
            if kind != RunKind::Plan && kind != RunKind::Exec =>
        {
            let note = if *ignored { " (ignored)" } else { "" };
            step_line(title, progress, note, chatty).map(|text| (Some(host), format!("{component}: {text}")))
        }
        RunEvent::Config { component, changes, applied: true } if !changes.is_empty() => {
            let keys = plural(changes.len() as u64, "key", "keys");
            Some((None, format!("{component}: {} {keys} changed in etcd", marker(Action::Modify))))
        }
        RunEvent::ComponentFailed { component, host, problem } => {
            let text = format!("{component}: {} {}", paint(RED, "!"), clean(&problem.error));
            Some((host.as_ref(), text))
        }
        RunEvent::ComponentUnknown { component, host, why } if kind != RunKind::Plan => {
            Some((Some(host), format!("{component}: {} cannot be told: {}", paint(YELLOW, "?"), clean(why))))
        }
        RunEvent::Health { component, host, healthy, probes } if chatty || !healthy => {
            let probes = plural(u64::from(*probes), "probe", "probes");
            Some((Some(host), format!("{component}: {} ({probes})", health_word(*healthy))))
        }
        RunEvent::ComponentFinished { component, status, millis }
            if chatty || (matches!(kind, RunKind::Deploy | RunKind::Lab) && *status != Status::Unchanged) =>
        {
            Some((None, format!("{component}: {} after {}", status_word(*status), duration(*millis))))
        }
        RunEvent::InSync { component, hosts, sources } => {
            let hosts = plural(hosts.len() as u64, "host", "hosts");
            Some((None, format!("{component}: in sync on {hosts}, watching {}", clean(&sources.join(", ")))))
        }
        RunEvent::Leaving { component, host, done } => {
            Some((Some(host), format!("{component}: {} {}", marker(Action::Remove), leaving_words(*done))))
        }
        RunEvent::Warning { host, text } => {
            Some((host.as_ref(), format!("{} {}", paint(YELLOW.bold(), "warning:"), clean(text))))
        }
        _ => None,
    }
}

/// `granted /dev/fuse, SYS_ADMIN (not privileged)`
fn granted(what: &[String], privileged: bool) -> String {
    if privileged {
        return "granted every device and capability (privileged)".to_owned();
    }
    format!("granted {} (not privileged)", clean(&what.join(", ")))
}

fn container_line(action: Action, why: &str, millis: u64) -> String {
    format!("{} container {} ({}), {}", marker(action), container_word(action), clean(why), duration(millis))
}

fn leaving_words(done: bool) -> &'static str {
    if done { "leaves" } else { "would leave" }
}

fn health_word(healthy: bool) -> String {
    if healthy { paint(GREEN, "healthy") } else { paint(RED, "not healthy") }
}

/// What a push says by itself; the rest is in the line of the change set, failures before it.
fn speaks_in_push(event: &RunEvent) -> bool {
    matches!(event, RunEvent::InSync { .. } | RunEvent::Warning { .. })
}

/// `agent: +1 ~2 -1, 12.0 KiB in 14 ms to 2 hosts, restarted agent`
pub(super) fn change_set(set: &ChangeSet) -> String {
    let counts = [(Action::Create, set.created), (Action::Modify, set.modified), (Action::Remove, set.removed)];
    let counts: Vec<String> = counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(action, count)| format!("{}{count}", marker(*action)))
        .collect();
    let what =
        if counts.is_empty() { "no files".to_owned() } else { format!("{}, {}", counts.join(" "), bytes(set.bytes)) };
    let hosts = plural(set.hosts.len() as u64, "host", "hosts");
    let (to, restarted) = if set.applied { ("to", "restarted") } else { ("would go to", "would restart") };
    let mut text = format!("{}: {what} in {} {to} {hosts}", set.component, duration(set.millis));
    if !set.restarted.is_empty() {
        text = format!("{text}, {restarted} {}", clean(&set.restarted.join(", ")));
    }
    if !set.failed.is_empty() {
        let failed: Vec<&str> = set.failed.iter().map(HostName::as_str).collect();
        text = format!("{text}, {} {}", paint(RED, "not"), failed.join(", "));
    }
    text
}

fn container_word(action: Action) -> &'static str {
    match action {
        Action::Create => "created",
        Action::Modify => "recreated",
        Action::Remove => "removed",
        Action::Run | Action::Start => "started",
        Action::Stop => "stopped",
        Action::Restart => "restarted",
    }
}

fn phase_line(phase: &HostPhase, chatty: bool) -> Option<String> {
    match phase {
        HostPhase::Lost { problem } => Some(format!("{} {}", paint(RED, "!"), clean(&problem.error))),
        HostPhase::Bootstrapping { bytes: size, of } if chatty && size == of => {
            Some(format!("placed the helper, {}", bytes(*size)))
        }
        HostPhase::Ready { facts, millis } if chatty => {
            Some(format!("connected in {}: {}", duration(*millis), what_it_is(facts)))
        }
        _ => None,
    }
}

fn what_it_is(facts: &Facts) -> String {
    let system = [facts.distribution.id.as_str(), facts.distribution.version.as_str()];
    let system = system.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let cpus = plural(u64::from(facts.cpus), "CPU", "CPUs");
    clean(&format!("{system}, {}, {cpus}, {}", facts.arch, bytes(facts.memory))).into_owned()
}

/// `ignored` is said of a failure that stops nothing.
fn step_line(title: &str, progress: &StepProgress, ignored: &str, chatty: bool) -> Option<String> {
    let title = clean(title);
    let (outcome, diff, micros) = match progress {
        StepProgress::Finished { outcome, diff, micros } => (outcome, diff, *micros),
        StepProgress::Started if chatty => return Some(format!("… {title}")),
        StepProgress::Started | StepProgress::Output { .. } => return None,
    };
    let millis = micros / 1000;
    let time = if millis >= LONG { format!(", {}", duration(millis)) } else { String::new() };
    let (sign, note) = match outcome {
        Outcome::Changed | Outcome::WouldChange => (marker(overall(diff.as_ref())), String::new()),
        Outcome::Failed(failure) => (paint(RED, "!"), format!("{ignored}: {}", clean(&failure.message))),
        Outcome::Unknown { why } => (paint(YELLOW, "?"), format!(": cannot be told: {}", clean(why))),
        Outcome::NoChange if chatty => (" ".to_owned(), ": no change".to_owned()),
        Outcome::Skipped { why, .. } if chatty => (" ".to_owned(), format!(": skipped, {}", clean(why))),
        Outcome::NotAttempted if chatty => (" ".to_owned(), ": not attempted".to_owned()),
        Outcome::NoChange | Outcome::Skipped { .. } | Outcome::NotAttempted => return None,
    };
    Some(format!("{sign} {title}{note}{time}"))
}

/// A line of a command's output. `alone`: nothing else is on these lines; else it is set apart.
pub(super) fn output(line: &str, alone: bool) -> String {
    let line = output_line(line);
    if alone { line } else { format!("    {line}") }
}
