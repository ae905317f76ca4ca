//! What a run has brought so far, kept for the end: changes in the order of the graph, failures, counts.

use std::{collections::HashMap, fmt::Write as _};

use super::{
    diff::{config_changes_text, diff_text, marker, overall},
    failure::{problem_text, step_failure_text},
    paint::{BOLD, DIM, RED, YELLOW, clean, paint},
    words::plural,
};
use crate::{
    control::event::{HostPhase, Problem, RunEvent, RunKind, StepProgress},
    plan::{ComponentName, Diff, HostName, OpFailure, Outcome, Source},
};

/// Everything that the end of a run shows and that its summary does not hold.
#[derive(Debug)]
pub(super) struct Ledger {
    kind: RunKind,
    hosts: HashMap<HostName, usize>,
    components: HashMap<ComponentName, usize>,
    verbosity: u8,
    /// Width of the longest host name, so that lines of all hosts begin alike.
    pub(super) width: usize,
    blocks: Vec<(Place, Block)>,
    failures: Vec<Failure>,
    /// Pairs of component and host that could not be looked at.
    pub(super) unknown: u32,
}

/// Where a block stands in the plan: containers first, then components in the order of the graph, keys before hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    component: Option<usize>,
    host: Option<usize>,
}

#[derive(Debug)]
struct Block {
    header: String,
    text: String,
}

#[derive(Debug)]
struct Failure {
    hosts: Vec<HostName>,
    cause: Cause,
}

#[derive(Debug, PartialEq)]
enum Cause {
    Step { what: String, failure: OpFailure, source: Option<Source> },
    Problem { what: Option<String>, problem: Problem },
}

impl Ledger {
    pub(super) fn new(verbosity: u8) -> Self {
        Self {
            kind: RunKind::Deploy,
            hosts: HashMap::new(),
            components: HashMap::new(),
            verbosity,
            width: 0,
            blocks: Vec::new(),
            failures: Vec::new(),
            unknown: 0,
        }
    }

    pub(super) fn kind(&self) -> RunKind {
        self.kind
    }

    /// Takes what the end has to show of an event.
    pub(super) fn event(&mut self, event: &RunEvent) {
        match event {
            RunEvent::RunStarted { kind, hosts, components, .. } => {
                self.kind = *kind;
                self.width = hosts.iter().map(|host| host.as_str().len()).max().unwrap_or_default();
                self.hosts = hosts.iter().cloned().enumerate().map(|(index, host)| (host, index)).collect();
                self.components = components.iter().cloned().enumerate().map(|(index, name)| (name, index)).collect();
            }
            RunEvent::Container { host, action, why, done: false, .. } => {
                let text = format!("  {} {host} ({})\n", marker(*action), clean(why));
                self.block(None, Some(host), "containers".to_owned(), text);
            }
            RunEvent::Config { component, changes, applied: false } if !changes.is_empty() => {
                let text = indented(&config_changes_text(changes), 2);
                self.block(Some(component), None, format!("{component}, configuration in etcd"), text);
            }
            RunEvent::ComponentUnknown { component, host, why } => {
                self.unknown += 1;
                let text = format!("  {} cannot be told: {}\n", paint(YELLOW, "?"), clean(why));
                self.block(Some(component), Some(host), format!("{component} on {host}"), text);
            }
            RunEvent::Step {
                component,
                host,
                title,
                source,
                ignored,
                progress: StepProgress::Finished { outcome, diff, .. },
                ..
            } => {
                if let (Outcome::Failed(failure), false) = (outcome, *ignored) {
                    self.step_failed(component, host, title, source, failure);
                }
                if self.kind == RunKind::Plan
                    && let Some(text) = step_text(title, source, outcome, diff.as_ref(), self.verbosity)
                {
                    self.block(Some(component), Some(host), format!("{component} on {host}"), text);
                }
            }
            RunEvent::Host { host, phase: HostPhase::Lost { problem } } => {
                self.fail(Some(host), Cause::Problem { what: None, problem: problem.clone() });
            }
            RunEvent::ComponentFailed { component, host, problem } => {
                let cause = Cause::Problem { what: Some(component.to_string()), problem: problem.clone() };
                self.fail(host.as_ref(), cause);
            }
            _ => {}
        }
    }

    fn step_failed(
        &mut self,
        component: &ComponentName,
        host: &HostName,
        title: &str,
        source: &Source,
        failure: &OpFailure,
    ) {
        let mut failure = failure.clone();
        let mut what = clean(title).into_owned();
        let mut source = Some(source.clone());
        if self.kind == RunKind::Exec {
            failure.output_tail.clear(); // It was shown as it came.
            source = None; // The command line is not a place to look up.
        } else {
            let _ = write!(what, " of {component}");
        }
        self.fail(Some(host), Cause::Step { what, failure, source });
    }

    fn block(&mut self, component: Option<&ComponentName>, host: Option<&HostName>, header: String, text: String) {
        let component = component.map(|name| self.components.get(name).copied().unwrap_or(usize::MAX));
        let host = host.map(|name| self.hosts.get(name).copied().unwrap_or(usize::MAX));
        self.blocks.push((Place { component, host }, Block { header, text }));
    }

    fn fail(&mut self, host: Option<&HostName>, cause: Cause) {
        match self.failures.iter_mut().find(|failure| failure.cause == cause) {
            // A host that is lost is lost for each of its components; it is named once.
            Some(failure) => failure.hosts.extend(host.filter(|host| !failure.hosts.contains(host)).cloned()),
            None => self.failures.push(Failure { hosts: host.into_iter().cloned().collect(), cause }),
        }
    }

    /// Everything that would change, by component and host, a blank line after each part.
    pub(super) fn plan_text(&mut self) -> String {
        // Stable: the steps of one component on one host stay in their order.
        self.blocks.sort_by_key(|(place, _)| *place);
        let mut text = String::new();
        let mut header = "";
        for (_, block) in &self.blocks {
            if block.header != header {
                let blank = if text.is_empty() { "" } else { "\n" };
                let _ = writeln!(text, "{blank}{}", paint(BOLD, &block.header));
                header = &block.header;
            }
            text.push_str(&block.text);
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }

    /// The failures so far, which count no more: a watch goes on.
    pub(super) fn take_failures_text(&mut self) -> Vec<String> {
        let text = self.failures_text();
        self.failures.clear();
        text
    }

    /// Every failure, a block each; what failed alike on several hosts is said once.
    pub(super) fn failures_text(&self) -> Vec<String> {
        self.failures.iter().map(failure_text).collect()
    }
}

fn failure_text(failure: &Failure) -> String {
    let who = who(&failure.hosts);
    match &failure.cause {
        Cause::Step { what, failure, source } => step_failure_text(&who, what, failure, source.as_ref()),
        Cause::Problem { what, problem } => {
            let subject = match (what, who.is_empty()) {
                (Some(what), true) => what.clone(),
                (Some(what), false) => format!("{what} on {who}"),
                (None, _) => who,
            };
            problem_text(&Problem { error: format!("{subject}: {}", problem.error), ..problem.clone() })
        }
    }
}

/// `node-1`, `node-1 and node-2`, `node-1, node-2 and 6 more hosts`.
fn who(hosts: &[HostName]) -> String {
    match hosts {
        [] => String::new(),
        [one] => one.to_string(),
        [one, two] => format!("{one} and {two}"),
        [one, two, three] => format!("{one}, {two} and {three}"),
        [one, two, more @ ..] => format!("{one}, {two} and {}", plural(more.len() as u64, "more host", "more hosts")),
    }
}

/// One step of a plan or diff in lines; none when it says nothing at this verbosity.
pub(super) fn step_text(
    title: &str,
    source: &Source,
    outcome: &Outcome,
    diff: Option<&Diff>,
    verbosity: u8,
) -> Option<String> {
    let title = clean(title);
    let (sign, note) = match outcome {
        Outcome::WouldChange | Outcome::Changed => (marker(overall(diff)), String::new()),
        Outcome::Unknown { why } => (paint(YELLOW, "?"), format!(": cannot be told: {}", clean(why))),
        Outcome::NoChange if verbosity > 0 => (" ".to_owned(), ": no change".to_owned()),
        Outcome::Skipped { why, .. } if verbosity > 0 => (" ".to_owned(), format!(": skipped, {}", clean(why))),
        Outcome::NotAttempted if verbosity > 0 => (" ".to_owned(), ": not attempted".to_owned()),
        Outcome::Failed(failure) => (paint(RED, "!"), format!(": {}", clean(&failure.message))),
        Outcome::NoChange | Outcome::Skipped { .. } | Outcome::NotAttempted => return None,
    };
    let place = paint(DIM, &format!("({})", clean(&source.to_string())));
    let mut text = format!("  {sign} {title}{note}  {place}\n");
    if let Some(diff) = diff {
        text.push_str(&diff_text(diff, &title, 6, verbosity));
    }
    Some(text)
}

/// Every line moved to the right.
pub(super) fn indented(text: &str, by: usize) -> String {
    text.lines().fold(String::new(), |mut moved, line| {
        let _ = writeln!(moved, "{:by$}{line}", "");
        moved
    })
}
