//! What is going on right now, host by host: the lines below the output on a terminal, and the heartbeat of silent
//! steps.

use std::time::{Duration, Instant};

use indexmap::IndexMap;

use super::{
    paint::{BOLD, DIM, clean, output_line, paint},
    transfers::Transfers,
    words::{bytes_of, duration, plural},
};
use crate::{
    control::event::{HostPhase, RunEvent, RunKind, StepProgress},
    plan::{ComponentName, HostName},
};

/// A step that is silent for so long is said to be alive.
const SILENCE: Duration = Duration::from_secs(30);
/// Hosts shown at once; the rest is counted.
const MOST_HOSTS: usize = 12;

/// What is going on right now.
#[derive(Debug)]
pub(super) struct Status {
    kind: RunKind,
    lab: String,
    begun: Instant,
    components: usize,
    finished: usize,
    width: usize,
    /// Hosts that are being connected to: what is happening, and since when.
    links: IndexMap<HostName, (String, Instant)>,
    work: IndexMap<(HostName, ComponentName), Work>,
    transfers: Transfers,
}

/// One component's plan on one host.
#[derive(Debug)]
struct Work {
    done: u32,
    steps: u32,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    title: String,
    since: Instant,
    /// When it last gave a sign of life, or we said that it is silent.
    heard: Instant,
    last_line: String,
}

impl Status {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            kind: RunKind::Deploy,
            lab: String::new(),
            begun: now,
            components: 0,
            finished: 0,
            width: 0,
            links: IndexMap::new(),
            work: IndexMap::new(),
            transfers: Transfers::default(),
        }
    }

    pub(super) fn event(&mut self, event: &RunEvent, now: Instant) {
        match event {
            RunEvent::RunStarted { kind, lab, hosts, components } => {
                self.kind = *kind;
                self.lab = lab.to_string();
                self.begun = now;
                self.components = components.len();
                self.width = hosts.iter().map(|host| host.as_str().len()).max().unwrap_or_default();
            }
            RunEvent::Host { host, phase } => self.link(host, phase, now),
            RunEvent::Planned { component, host, steps } => {
                let work = Work { done: 0, steps: *steps, running: None };
                self.work.insert((host.clone(), component.clone()), work);
            }
            RunEvent::Step { component, host, title, progress, .. } => {
                self.step(&(host.clone(), component.clone()), title, progress, now);
            }
            RunEvent::Transfer(progress) => self.transfers.see(progress, now),
            RunEvent::ComponentFinished { component, .. } => {
                self.finished += 1;
                self.work.retain(|(_, name), _| name != component);
            }
            RunEvent::RunFinished(_) => {
                self.links.clear();
                self.work.clear();
                self.transfers.clear();
            }
            _ => {}
        }
    }

    fn link(&mut self, host: &HostName, phase: &HostPhase, now: Instant) {
        let what = match phase {
            HostPhase::Connecting => "connecting".to_owned(),
            HostPhase::Bootstrapping { bytes, of } => format!("placing the helper, {}", bytes_of(*bytes, *of)),
            HostPhase::Ready { .. } => {
                self.links.shift_remove(host);
                return;
            }
            HostPhase::Lost { .. } => {
                self.links.shift_remove(host);
                self.work.retain(|(name, _), _| name != host);
                self.transfers.over(host);
                return;
            }
        };
        match self.links.get_mut(host) {
            Some((old, _)) => *old = what,
            None => {
                self.links.insert(host.clone(), (what, now));
            }
        }
    }

    fn step(&mut self, place: &(HostName, ComponentName), title: &str, progress: &StepProgress, now: Instant) {
        let work = self.work.entry(place.clone()).or_insert(Work { done: 0, steps: 0, running: None });
        match progress {
            StepProgress::Started => {
                let title = clean(title).into_owned();
                work.running = Some(Running { title, since: now, heard: now, last_line: String::new() });
            }
            StepProgress::Output { line, .. } => {
                if let Some(running) = &mut work.running {
                    running.heard = now;
                    running.last_line = output_line(line);
                }
            }
            StepProgress::Finished { .. } => {
                work.running = None;
                work.done += 1;
                // What travelled for a step is there when the step ends; the last word about it may come later.
                self.transfers.over(&place.0);
                if work.steps > 0 && work.done >= work.steps {
                    self.work.shift_remove(place);
                }
            }
        }
    }

    /// Steps that have been silent for long, said once for each such time: the host and a line without its name.
    pub(super) fn silent(&mut self, now: Instant) -> Vec<(HostName, String)> {
        let mut lines = Vec::new();
        for ((host, component), work) in &mut self.work {
            let Some(running) = &mut work.running else { continue };
            if now.duration_since(running.heard) >= SILENCE {
                running.heard = now;
                let time = millis(now.duration_since(running.since));
                lines.push((host.clone(), format!("{component}: {} is still running after {time}", running.title)));
            }
        }
        lines
    }

    /// A line for each host at work, and one for the whole run; none before it begins.
    pub(super) fn lines(&self, now: Instant) -> Vec<String> {
        if self.lab.is_empty() {
            return Vec::new();
        }
        let width = self.width;
        let mut lines = Vec::new();
        for (host, (what, since)) in &self.links {
            lines.push(format!("{} {what}{}", paint(BOLD, &format!("{host:<width$}")), clock(now, *since)));
        }
        for ((host, component), work) in &self.work {
            if self.links.contains_key(host) {
                continue;
            }
            let transfer = self.transfers.of_host(host, now);
            let host = paint(BOLD, &format!("{host:<width$}"));
            if let Some(transfer) = transfer {
                let title = work.running.as_ref().map_or("", |running| running.title.as_str());
                lines.push(format!("{host} {transfer}  {}", paint(DIM, &format!("{component} {title}"))));
                continue;
            }
            let steps = if work.steps > 0 { format!(" {}/{}", work.done, work.steps) } else { String::new() };
            let doing = work.running.as_ref().map_or_else(String::new, |running| {
                let last = if running.last_line.is_empty() {
                    String::new()
                } else {
                    paint(DIM, &format!("  {}", running.last_line))
                };
                format!("  {}{}{last}", running.title, clock(now, running.since))
            });
            lines.push(format!("{host} {component}{steps}{doing}"));
        }
        if lines.len() > MOST_HOSTS {
            let more = (lines.len() - MOST_HOSTS) as u64;
            lines.truncate(MOST_HOSTS);
            lines.push(format!("and {}", plural(more, "more host", "more hosts")));
        }
        lines.push(self.whole(now));
        lines
    }

    fn whole(&self, now: Instant) -> String {
        let doing = match self.kind {
            RunKind::Deploy => "Deploying",
            RunKind::Plan => "Planning",
            RunKind::Recipe | RunKind::Exec => "Running on",
            RunKind::Lab | RunKind::Health => "Preparing",
            RunKind::Push => "Pushing to",
        };
        let done = if self.components > 1 {
            format!(", {} of {} components done", self.finished, self.components)
        } else {
            String::new()
        };
        let transfers = self.transfers.whole(now).map_or_else(String::new, |whole| format!(": {whole}"));
        format!("{doing} {}{done}, {}{transfers}", self.lab, millis(now.duration_since(self.begun)))
    }
}

/// `, 4 s`, from one second on.
fn clock(now: Instant, since: Instant) -> String {
    let time = now.duration_since(since);
    if time < Duration::from_secs(1) { String::new() } else { format!(", {}", millis(time)) }
}

/// A duration in whole seconds, so that a line does not flicker.
fn millis(time: Duration) -> String {
    if time < Duration::from_secs(1) { "0 s".to_owned() } else { duration(time.as_secs() * 1000).replace(".0 s", " s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::{event::TransferProgress, report::paint::plain},
        plan::{Outcome, Source, StepId},
    };

    fn step(host: &str, title: &str, progress: StepProgress) -> RunEvent {
        RunEvent::Step {
            component: "agent".parse().unwrap(),
            host: host.parse().unwrap(),
            step: StepId(0),
            title: title.to_owned(),
            source: Source { file: "recipes/agent/recipe.star".to_owned(), line: 3 },
            ignored: false,
            progress,
        }
    }

    fn started(hosts: &[&str]) -> RunEvent {
        RunEvent::RunStarted {
            kind: RunKind::Deploy,
            lab: "demo".parse().unwrap(),
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            components: vec!["agent".parse().unwrap(), "etcd".parse().unwrap()],
        }
    }

    fn shown(status: &Status, now: Instant) -> Vec<String> {
        status.lines(now).iter().map(|line| plain(line)).collect()
    }

    #[test]
    fn shows_what_each_host_does() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut status = Status::new(begun);
        status.event(&started(&["node-1", "controller"]), begun);
        let host = |phase| RunEvent::Host { host: "controller".parse().unwrap(), phase };
        status.event(&host(HostPhase::Connecting), begun);
        let planned =
            RunEvent::Planned { component: "agent".parse().unwrap(), host: "node-1".parse().unwrap(), steps: 3 };
        status.event(&planned, begun);
        let end = StepProgress::Finished { outcome: Outcome::NoChange, diff: None, micros: 5 };
        status.event(&step("node-1", "file_write /etc/x", end.clone()), at(1));
        status.event(&step("node-1", "run make", StepProgress::Started), at(1));
        let line = "\u{1b}[32mcc x.o\u{1b}[0m".to_owned();
        status.event(&step("node-1", "run make", StepProgress::Output { stderr: false, line }), at(2));
        assert_eq!(
            shown(&status, at(5)),
            [
                "controller connecting, 5 s",
                "node-1     agent 1/3  run make, 4 s  cc x.o",
                "Deploying demo, 0 of 2 components done, 5 s"
            ]
        );
        status.event(&step("node-1", "run make", end.clone()), at(6));
        status.event(&step("node-1", "run test", end), at(6));
        assert_eq!(
            shown(&status, at(6)),
            ["controller connecting, 6 s", "Deploying demo, 0 of 2 components done, 6 s"]
        );
    }

    #[test]
    fn shows_what_travels() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let mut status = Status::new(begun);
        status.event(&started(&["node-1", "node-2"]), begun);
        let host = |phase| RunEvent::Host { host: "node-1".parse().unwrap(), phase };
        status.event(&host(HostPhase::Connecting), begun);
        status.event(&host(HostPhase::Bootstrapping { bytes: 600 << 10, of: 2 << 20 }), begun);
        assert_eq!(shown(&status, begun)[0], "node-1 placing the helper, 600 KiB of 2.0 MiB");
        status.event(&host(HostPhase::Bootstrapping { bytes: 2 << 20, of: 2 << 20 }), begun);
        let end = StepProgress::Finished { outcome: Outcome::Changed, diff: None, micros: 5 };
        for name in ["node-1", "node-2"] {
            status.link(&name.parse().unwrap(), &HostPhase::Lost { problem: problem() }, begun);
            let planned =
                RunEvent::Planned { component: "agent".parse().unwrap(), host: name.parse().unwrap(), steps: 3 };
            status.event(&planned, begun);
            status.event(&step(name, "sync /opt/agent", StepProgress::Started), begun);
            for millis in (500..=3000).step_by(250) {
                let progress = TransferProgress {
                    host: name.parse().unwrap(),
                    files: 3,
                    files_wanted: 14,
                    bytes: millis << 10,
                    bytes_wanted: 12 << 20,
                    reused_bytes: 0,
                    sent_bytes: millis << 9,
                    millis,
                    ended: false,
                };
                status.event(&RunEvent::Transfer(progress), at(millis));
            }
        }
        assert_eq!(
            shown(&status, at(3000)),
            [
                "node-1 2.9 of 12.0 MiB  1000 KiB/s  10 s left  3/14 files  agent sync /opt/agent",
                "node-2 2.9 of 12.0 MiB  1000 KiB/s  10 s left  3/14 files  agent sync /opt/agent",
                "Deploying demo, 0 of 2 components done, 3 s: 5.9 of 24.0 MiB, 2.0 MiB/s, 10 s left",
            ]
        );
        status.event(&step("node-1", "sync /opt/agent", end), at(3000));
        assert_eq!(shown(&status, at(3000))[0], "node-1 agent 1/3");
    }

    fn problem() -> crate::control::event::Problem {
        let error = "lost".to_owned();
        crate::control::event::Problem { error, because: Vec::new(), output_tail: Vec::new(), hint: None }
    }

    #[test]
    fn many_hosts_do_not_fill_the_screen() {
        let now = Instant::now();
        let names: Vec<String> = (0..40).map(|index| format!("node-{index}")).collect();
        let mut status = Status::new(now);
        status.event(&started(&names.iter().map(String::as_str).collect::<Vec<_>>()), now);
        for name in &names {
            let host = name.parse().unwrap();
            status.event(&RunEvent::Host { host, phase: HostPhase::Connecting }, now);
        }
        let lines = shown(&status, now);
        assert_eq!(lines.len(), MOST_HOSTS + 2);
        assert_eq!(lines[MOST_HOSTS], "and 28 more hosts");
    }

    #[test]
    fn a_silent_step_is_said_to_be_alive_every_thirty_seconds() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut status = Status::new(begun);
        status.event(&started(&["node-1"]), begun);
        status.event(&step("node-1", "run make", StepProgress::Started), begun);
        assert_eq!(status.silent(at(29)), []);
        let said = status.silent(at(30));
        assert_eq!(said, [("node-1".parse().unwrap(), "agent: run make is still running after 30 s".to_owned())]);
        assert_eq!(status.silent(at(31)), []);
        let line = "x".to_owned();
        status.event(&step("node-1", "run make", StepProgress::Output { stderr: true, line }), at(50));
        assert_eq!(status.silent(at(79)), [], "output is a sign of life");
        assert_eq!(status.silent(at(80)).len(), 1);
    }
}
