//! Runs, told by events: a plan of everything, a first deploy, a second one, one that goes wrong, a hostile host.

use ovs_cuisine::{
    control::event::{
        ChangeSet, ComponentSummary, ConfigChange, HostPhase, HostSummary, Problem, RunEvent, RunKind, Status,
        StepProgress, Summary, Transfer, TransferProgress,
    },
    plan::{
        Action, Change, Detail, Diff, Distribution, Facts, FailureKind, InitSystem, OpFailure, Outcome, PackageManager,
        Source, StepId, Tally,
    },
    tree::Digest,
};

pub(super) fn run_started(kind: RunKind, hosts: &[&str], components: &[&str]) -> RunEvent {
    RunEvent::RunStarted {
        kind,
        lab: "demo".parse().unwrap(),
        hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        components: components.iter().map(|component| component.parse().unwrap()).collect(),
    }
}

fn source(line: u32) -> Source {
    Source { file: "recipes/agent/recipe.star".to_owned(), line }
}

pub(super) fn step(place: (&str, &str), title: &str, line: u32, progress: StepProgress) -> RunEvent {
    RunEvent::Step {
        component: place.0.parse().unwrap(),
        host: place.1.parse().unwrap(),
        step: StepId(line),
        title: title.to_owned(),
        source: source(line),
        ignored: title.ends_with("|| true"),
        progress,
    }
}

fn ended(outcome: Outcome, changes: Vec<Change>) -> StepProgress {
    let diff = if changes.is_empty() { None } else { Some(Diff { changes }) };
    StepProgress::Finished { outcome, diff, micros: 1_250_000 }
}

fn output(line: &str, stderr: bool) -> StepProgress {
    StepProgress::Output { stderr, line: line.to_owned() }
}

fn host(name: &str, phase: HostPhase) -> RunEvent {
    RunEvent::Host { host: name.parse().unwrap(), phase }
}

fn attribute(name: &str, before: Option<&str>, after: Option<&str>) -> Detail {
    Detail::Attribute { name: name.to_owned(), before: before.map(str::to_owned), after: after.map(str::to_owned) }
}

fn text(before: &str, after: &str) -> Detail {
    Detail::Text { before: before.to_owned(), after: after.to_owned() }
}

fn reason(text: &str) -> Detail {
    Detail::Reason { text: text.to_owned() }
}

fn facts() -> Facts {
    Facts {
        hostname: "node-1".to_owned(),
        distribution: Distribution {
            id: "ubuntu".to_owned(),
            like: vec!["debian".to_owned()],
            version: "24.04".to_owned(),
            codename: "noble".to_owned(),
        },
        arch: "x86_64".to_owned(),
        kernel: "6.8.0".to_owned(),
        cpus: 4,
        memory: 8 << 30,
        init: InitSystem::Runit,
        packages: PackageManager::Apt,
        addresses: vec!["172.18.0.2".parse().unwrap()],
        user: "root".to_owned(),
        uid: 0,
        home: "/root".to_owned(),
        boot_id: "b".to_owned(),
        machine_id: String::new(),
        container: true,
        state_dir: "/var/lib/ovs-cuisine".to_owned(),
    }
}

fn ready(name: &str) -> RunEvent {
    host(name, HostPhase::Ready { facts: Box::new(facts()), millis: 310 })
}

fn finished(component: &str, status: Status, millis: u64) -> RunEvent {
    RunEvent::ComponentFinished { component: component.parse().unwrap(), status, millis }
}

fn host_end(name: &str, status: Status, tally: Tally) -> HostSummary {
    HostSummary { host: name.parse().unwrap(), status, tally, messages: 4, transfer: Transfer::default() }
}

fn component_end(name: &str, status: Status, healthy: Option<bool>, millis: u64) -> ComponentSummary {
    ComponentSummary { component: name.parse().unwrap(), hosts: Vec::new(), status, healthy, millis }
}

fn summary(kind: RunKind, hosts: Vec<HostSummary>, components: Vec<ComponentSummary>) -> Summary {
    Summary {
        kind,
        hosts,
        components,
        containers_changed: 0,
        keys_changed: 0,
        transfer: Transfer::default(),
        millis: 1_810,
        interrupted: false,
    }
}

fn tally(changed: u32, unchanged: u32) -> Tally {
    Tally { changed, unchanged, ..Tally::default() }
}

const MOTD_OLD: &str = "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n";
const MOTD_NEW: &str = "one\ntwo\nthree\nfour\nFIVE\nsix\nseven\neight\nnine\nten";

/// Every kind of change that a plan can find, hosts interleaved as they answer.
pub(super) fn plan_of_everything() -> Vec<RunEvent> {
    let agent = |name| ("agent", name);
    let digest = |text: &str| Digest::of(text.as_bytes());
    let would = |changes| ended(Outcome::WouldChange, changes);
    let summary = Summary {
        containers_changed: 1,
        keys_changed: 3,
        ..summary(
            RunKind::Plan,
            vec![
                host_end("etcd", Status::Unchanged, tally(0, 3)),
                host_end(
                    "node-1",
                    Status::Changed,
                    Tally { changed: 8, unchanged: 41, unknown: 1, skipped: 1, ..Tally::default() },
                ),
                host_end("node-2", Status::Changed, tally(1, 0)),
                host_end("node-3", Status::Unknown, Tally::default()),
            ],
            vec![component_end("agent", Status::Changed, None, 20)],
        )
    };
    vec![
        run_started(RunKind::Plan, &["etcd", "node-1", "node-2", "node-3"], &["etcd", "agent"]),
        RunEvent::Container {
            host: "node-3".parse().unwrap(),
            action: Action::Create,
            why: "does not exist".to_owned(),
            done: false,
            millis: 0,
        },
        RunEvent::ComponentUnknown {
            component: "agent".parse().unwrap(),
            host: "node-3".parse().unwrap(),
            why: "the host does not exist yet".to_owned(),
        },
        step(
            agent("node-2"),
            "dir_ensure /opt/agent",
            7,
            would(vec![Change::new(Action::Create, "/opt/agent").with(attribute("mode", None, Some("0755")))]),
        ),
        step(("etcd", "etcd"), "package_ensure etcd-server", 3, ended(Outcome::NoChange, vec![])),
        step(
            agent("node-1"),
            "file_write /etc/motd",
            12,
            would(vec![
                Change::new(Action::Modify, "/etc/motd")
                    .with(text(MOTD_OLD, MOTD_NEW))
                    .with(attribute("mode", Some("0644"), Some("0755")))
                    .with(attribute("owner", Some("ovs"), None)),
            ]),
        ),
        step(
            agent("node-1"),
            "file_write /etc/agent.conf",
            14,
            would(vec![
                Change::new(Action::Create, "/etc/agent.conf").with(text("", "port = 8500\n")).with(attribute(
                    "mode",
                    None,
                    Some("0640"),
                )),
            ]),
        ),
        step(
            agent("node-1"),
            "file_write /etc/agent.key",
            15,
            would(vec![Change::new(Action::Modify, "/etc/agent.key").with(Detail::SecretContent)]),
        ),
        step(
            agent("node-1"),
            "file_write /opt/agent/logo.png",
            16,
            would(vec![Change::new(Action::Modify, "/opt/agent/logo.png").with(Detail::Opaque {
                before: Some((1_258_291, digest("old"))),
                after: Some((1_300_000, digest("new"))),
            })]),
        ),
        step(
            agent("node-1"),
            "file_remove /etc/old",
            17,
            would(vec![Change::new(Action::Remove, "/etc/old").with(text("gone\n", ""))]),
        ),
        step(
            agent("node-1"),
            "package_ensure libev4 htop",
            18,
            would(vec![
                Change::new(Action::Create, "package htop").with(attribute("version", None, Some("3.2.2-2"))),
                Change::new(Action::Modify, "package libev4").with(attribute(
                    "version",
                    Some("4.33-1"),
                    Some("4.33-2"),
                )),
            ]),
        ),
        step(
            agent("node-1"),
            "sync /opt/agent",
            20,
            would(vec![
                Change::new(Action::Modify, "/opt/agent").with(Detail::Tree {
                    created: 12,
                    modified: 1,
                    removed: 20,
                    bytes: 34_567,
                    paths: std::iter::once("~bin/agent".to_owned())
                        .chain((0..12).map(|index| format!("+lib/{index}.py")))
                        .chain((0..20).map(|index| format!("-old/{index}.py")))
                        .collect(),
                }),
            ]),
        ),
        step(
            agent("node-1"),
            "service_ensure agent",
            22,
            would(vec![
                Change::new(Action::Restart, "service agent").with(reason("restarted because /opt/agent changes")),
            ]),
        ),
        step(
            agent("node-1"),
            "run make install",
            24,
            ended(
                Outcome::Unknown { why: "its guard needs /opt/agent/Makefile, which an earlier step makes".to_owned() },
                vec![],
            ),
        ),
        step(
            agent("node-1"),
            "run ldconfig",
            25,
            ended(
                Outcome::Skipped { why: "no step that it depends on changes".to_owned(), because: Some(StepId(3)) },
                vec![],
            ),
        ),
        RunEvent::Config {
            component: "agent".parse().unwrap(),
            changes: vec![
                ConfigChange {
                    key: "/ovs/agent/config".to_owned(),
                    action: Action::Modify,
                    before: Some("{\n  \"port\": 8500\n}".to_owned()),
                    after: Some("{\n  \"port\": 8501\n}".to_owned()),
                },
                ConfigChange {
                    key: "/ovs/agent/password".to_owned(),
                    action: Action::Modify,
                    before: Some("***".to_owned()),
                    after: Some("***".to_owned()),
                },
                ConfigChange {
                    key: "/ovs/agent/stale".to_owned(),
                    action: Action::Remove,
                    before: Some("x".to_owned()),
                    after: None,
                },
            ],
            applied: false,
        },
        RunEvent::Warning { host: Some("node-2".parse().unwrap()), text: "the clock is 42 s behind".to_owned() },
        RunEvent::RunFinished(summary),
    ]
}

pub(super) fn clean_plan() -> Vec<RunEvent> {
    let same = |place| step(place, "file_write /etc/motd", 12, ended(Outcome::NoChange, vec![]));
    let hosts =
        vec![host_end("etcd", Status::Unchanged, tally(0, 21)), host_end("node-1", Status::Unchanged, tally(0, 23))];
    vec![
        run_started(RunKind::Plan, &["etcd", "node-1"], &["etcd", "agent"]),
        same(("etcd", "etcd")),
        same(("agent", "node-1")),
        RunEvent::Config { component: "agent".parse().unwrap(), changes: vec![], applied: false },
        RunEvent::RunFinished(summary(RunKind::Plan, hosts, vec![component_end("agent", Status::Unchanged, None, 20)])),
    ]
}

pub(super) fn first_deploy() -> Vec<RunEvent> {
    let etcd = ("etcd", "etcd");
    let agent = ("agent", "controller");
    let changed = |changes| ended(Outcome::Changed, changes);
    vec![
        run_started(RunKind::Deploy, &["etcd", "controller"], &["etcd", "agent"]),
        RunEvent::Container {
            host: "etcd".parse().unwrap(),
            action: Action::Create,
            why: "does not exist".to_owned(),
            done: true,
            millis: 640,
        },
        host("etcd", HostPhase::Connecting),
        host("etcd", HostPhase::Bootstrapping { bytes: 690_176, of: 690_176 }),
        ready("etcd"),
        RunEvent::ComponentStarted { component: "etcd".parse().unwrap(), hosts: vec!["etcd".parse().unwrap()] },
        RunEvent::Planned { component: "etcd".parse().unwrap(), host: "etcd".parse().unwrap(), steps: 3 },
        step(etcd, "package_ensure etcd-server", 3, StepProgress::Started),
        step(etcd, "package_ensure etcd-server", 3, output("Setting up \u{1b}[1metcd-server\u{1b}[0m ...\r", false)),
        step(
            etcd,
            "package_ensure etcd-server",
            3,
            changed(vec![Change::new(Action::Create, "package etcd-server").with(attribute(
                "version",
                None,
                Some("3.4.23"),
            ))]),
        ),
        step(etcd, "file_write /etc/motd", 5, ended(Outcome::NoChange, vec![])),
        step(
            etcd,
            "service_ensure etcd",
            7,
            changed(vec![
                Change::new(Action::Create, "/etc/sv/etcd/run").with(text("", "#!/bin/sh\nexec etcd\n")),
                Change::new(Action::Start, "service etcd"),
            ]),
        ),
        RunEvent::Health {
            component: "etcd".parse().unwrap(),
            host: "etcd".parse().unwrap(),
            healthy: true,
            probes: 1,
        },
        finished("etcd", Status::Changed, 2_400),
        RunEvent::Config {
            component: "agent".parse().unwrap(),
            changes: vec![ConfigChange {
                key: "/ovs/agent/config".to_owned(),
                action: Action::Create,
                before: None,
                after: Some("{\"port\": 8500}\n".to_owned()),
            }],
            applied: true,
        },
        step(
            agent,
            "run ldconfig",
            9,
            ended(Outcome::Skipped { why: "no step that it depends on changed".to_owned(), because: None }, vec![]),
        ),
        finished("agent", Status::Unchanged, 90),
        RunEvent::RunFinished(Summary {
            containers_changed: 1,
            keys_changed: 1,
            transfer: Transfer { helper_bytes: 690_176, ..Transfer::default() },
            millis: 12_700,
            ..summary(
                RunKind::Deploy,
                vec![
                    HostSummary {
                        transfer: Transfer { helper_bytes: 690_176, ..Transfer::default() },
                        ..host_end("etcd", Status::Changed, tally(2, 1))
                    },
                    host_end("controller", Status::Unchanged, Tally { skipped: 1, ..tally(0, 12) }),
                ],
                vec![
                    component_end("etcd", Status::Changed, Some(true), 2_400),
                    component_end("agent", Status::Unchanged, None, 90),
                ],
            )
        }),
    ]
}

pub(super) fn second_deploy() -> Vec<RunEvent> {
    vec![
        run_started(RunKind::Deploy, &["etcd", "controller"], &["etcd", "agent"]),
        host("etcd", HostPhase::Connecting),
        ready("etcd"),
        step(("etcd", "etcd"), "file_write /etc/motd", 5, ended(Outcome::NoChange, vec![])),
        finished("etcd", Status::Unchanged, 40),
        RunEvent::RunFinished(summary(
            RunKind::Deploy,
            vec![
                host_end("etcd", Status::Unchanged, tally(0, 20)),
                host_end("controller", Status::Unchanged, tally(0, 24)),
            ],
            vec![
                component_end("etcd", Status::Unchanged, Some(true), 40),
                component_end("agent", Status::Unchanged, Some(true), 35),
            ],
        )),
    ]
}

/// A push that takes long enough to be watched.
pub(super) fn long_push() -> Vec<RunEvent> {
    const MIB: u64 = 1024 * 1024;
    let progress = |host: &str, files: u64, millis: u64, ended: bool| {
        RunEvent::Transfer(TransferProgress {
            host: host.parse().unwrap(),
            files,
            files_wanted: 12,
            bytes: files * MIB,
            bytes_wanted: 12 * MIB,
            reused_bytes: files * 4096,
            sent_bytes: files * 300_000,
            millis,
            ended,
        })
    };
    let transfer = |hosts: u64| Transfer {
        files: hosts * 12,
        bytes: hosts * 12 * MIB,
        reused_bytes: hosts * 12 * 4096,
        sent_bytes: hosts * 12 * 300_000,
        helper_bytes: 0,
        millis: 1_500,
    };
    let host_end = |name| HostSummary { transfer: transfer(1), ..host_end(name, Status::Changed, tally(1, 0)) };
    let names = ["node-1", "node-2"];
    let mut events = vec![run_started(RunKind::Push, &names, &["agent"])];
    events.extend(names.map(|name| step(("agent", name), "sync /opt/agent", 20, StepProgress::Started)));
    events.extend(names.map(|name| progress(name, 2, 400, false)));
    events.extend(names.map(|name| progress(name, 7, 650, false)));
    events.extend(names.map(|name| step(("agent", name), "sync /opt/agent", 20, ended(Outcome::Changed, vec![]))));
    events.extend(names.map(|name| progress(name, 12, 1_450, true)));
    events.push(RunEvent::ChangeSet(ChangeSet {
        component: "agent".parse().unwrap(),
        applied: true,
        hosts: names.map(|name| name.parse().unwrap()).to_vec(),
        failed: Vec::new(),
        created: 12,
        modified: 0,
        removed: 0,
        bytes: 12 * MIB,
        paths: vec!["+lib/0".to_owned()],
        restarted: vec!["agent".to_owned()],
        millis: 1_700,
    }));
    events.push(finished("agent", Status::Changed, 1_700));
    events.push(RunEvent::RunFinished(Summary {
        transfer: transfer(2),
        ..summary(
            RunKind::Push,
            names.map(host_end).to_vec(),
            vec![component_end("agent", Status::Changed, None, 1_700)],
        )
    }));
    events
}

fn no_space() -> OpFailure {
    OpFailure::new(FailureKind::NoSpace, "cannot write `/opt/agent/bin`: no space left on device")
        .output((0..25).map(|index| format!("line {index}")).collect())
        .hint("free some space on / and deploy again")
}

pub(super) fn refused() -> Problem {
    Problem {
        error: "cannot connect to 10.0.0.9:22".to_owned(),
        because: vec!["connection refused".to_owned()],
        output_tail: Vec::new(),
        hint: Some("start sshd on the host, or correct `address` in the inventory".to_owned()),
    }
}

pub(super) fn bad_deploy() -> Vec<RunEvent> {
    let mut events = vec![run_started(
        RunKind::Deploy,
        &["node-1", "node-2", "rack-1", "rack-2", "rack-3", "rack-4"],
        &["agent", "ovsdb"],
    )];
    events.extend(["rack-1", "rack-2", "rack-3"].map(|name| host(name, HostPhase::Lost { problem: refused() })));
    events.extend([
        step(("agent", "node-1"), "sync /opt/agent", 20, ended(Outcome::Failed(no_space()), vec![])),
        step(("agent", "node-1"), "service_ensure agent", 22, ended(Outcome::NotAttempted, vec![])),
        step(("agent", "node-2"), "run rm /tmp/x || true", 19, ended(Outcome::Failed(no_space()), vec![])),
        step(("agent", "node-2"), "sync /opt/agent", 20, ended(Outcome::Failed(no_space()), vec![])),
        RunEvent::Health {
            component: "agent".parse().unwrap(),
            host: "node-2".parse().unwrap(),
            healthy: false,
            probes: 2,
        },
        RunEvent::ComponentFailed {
            component: "ovsdb".parse().unwrap(),
            host: None,
            problem: Problem {
                error: "the configuration in etcd changed since it was read".to_owned(),
                because: vec!["`/ovs/arakoon/ovsdb/config` is at revision 42, not 40".to_owned()],
                output_tail: Vec::new(),
                hint: None,
            },
        },
        finished("agent", Status::Failed, 3_000),
        RunEvent::RunFinished(Summary {
            interrupted: true,
            ..summary(
                RunKind::Deploy,
                vec![
                    host_end("node-1", Status::Failed, Tally { failed: 1, not_attempted: 1, ..tally(1, 4) }),
                    host_end("node-2", Status::Failed, Tally { failed: 1, ..tally(0, 4) }),
                    host_end("rack-1", Status::Unreachable, Tally::default()),
                    host_end("rack-2", Status::Unreachable, Tally::default()),
                    host_end("rack-3", Status::Unreachable, Tally::default()),
                    host_end("rack-4", Status::Interrupted, Tally::default()),
                ],
                vec![
                    component_end("agent", Status::Failed, Some(false), 3_000),
                    component_end("ovsdb", Status::NotAttempted, None, 0),
                ],
            )
        }),
    ]);
    events
}

/// etcd is gone when a component needs it: no step failed, and the run did.
pub(super) fn store_lost() -> Vec<RunEvent> {
    vec![
        run_started(RunKind::Deploy, &["node-1"], &["agent"]),
        RunEvent::ComponentFailed { component: "agent".parse().unwrap(), host: None, problem: refused() },
        finished("agent", Status::Failed, 9_000),
        RunEvent::RunFinished(summary(
            RunKind::Deploy,
            vec![host_end("node-1", Status::Unchanged, tally(0, 3))],
            vec![component_end("agent", Status::Failed, None, 9_000)],
        )),
    ]
}

pub(super) fn exec() -> Vec<RunEvent> {
    let failure =
        OpFailure::new(FailureKind::Command, "the command ended with status 3").output(vec!["no such file".to_owned()]);
    vec![
        run_started(RunKind::Exec, &["etcd", "controller"], &["exec"]),
        step(("exec", "etcd"), "run uptime", 0, StepProgress::Started),
        step(("exec", "controller"), "run uptime", 0, output("up 3 days", false)),
        step(("exec", "etcd"), "run uptime", 0, output("no such file", true)),
        step(("exec", "controller"), "run uptime", 0, output("", false)),
        step(("exec", "controller"), "run uptime", 0, ended(Outcome::Changed, vec![])),
        step(("exec", "etcd"), "run uptime", 0, ended(Outcome::Failed(failure), vec![])),
        RunEvent::RunFinished(summary(
            RunKind::Exec,
            vec![
                host_end("etcd", Status::Failed, Tally { failed: 1, ..Tally::default() }),
                host_end("controller", Status::Changed, tally(1, 0)),
            ],
            vec![],
        )),
    ]
}

pub(super) fn lab_up() -> Vec<RunEvent> {
    let container = |name: &str, action, why: &str| RunEvent::Container {
        host: name.parse().unwrap(),
        action,
        why: why.to_owned(),
        done: true,
        millis: 420,
    };
    vec![
        run_started(RunKind::Lab, &["etcd", "controller", "old"], &[]),
        container("etcd", Action::Create, "does not exist"),
        container("controller", Action::Modify, "image changed"),
        container("old", Action::Remove, "not in the inventory"),
        RunEvent::RunFinished(Summary { containers_changed: 3, ..summary(RunKind::Lab, vec![], vec![]) }),
    ]
}

pub(super) fn every_story() -> Vec<RunEvent> {
    [plan_of_everything(), clean_plan(), first_deploy(), second_deploy(), bad_deploy(), long_push(), exec(), lab_up()]
        .concat()
}

/// Puts a title-changing escape, a bell, a line break, a bidirectional override and a carriage return into every text.
pub(super) fn hostile() -> Vec<RunEvent> {
    let evil = "x\u{1b}]0;owned\u{7}\u{1b}[2J\r\n\u{9b}31m\u{202e}y".to_owned();
    let problem = Problem {
        error: evil.clone(),
        because: vec![evil.clone()],
        output_tail: vec![evil.clone()],
        hint: Some(evil.clone()),
    };
    let failure = OpFailure::new(FailureKind::Io, evil.clone()).output(vec![evil.clone()]).hint(evil.clone());
    let change = Change::new(Action::Modify, evil.clone())
        .with(text(&evil, ""))
        .with(attribute(&evil, Some(&evil), Some(&evil)))
        .with(reason(&evil))
        .with(Detail::Tree { created: 1, modified: 0, removed: 0, bytes: 0, paths: vec![evil.clone()] });
    let place = ("agent", "node-1");
    let mut events = Vec::new();
    for kind in [RunKind::Deploy, RunKind::Plan, RunKind::Exec] {
        events.push(run_started(kind, &["node-1"], &["agent"]));
        let mut facts = facts();
        facts.arch.clone_from(&evil);
        facts.distribution.id.clone_from(&evil);
        events.push(host("node-1", HostPhase::Ready { facts: Box::new(facts), millis: 1 }));
        events.push(host("node-1", HostPhase::Lost { problem: problem.clone() }));
        events.push(step(place, &evil, 1, StepProgress::Started));
        events.push(step(place, &evil, 1, output(&evil, true)));
        for outcome in [
            Outcome::Changed,
            Outcome::Unknown { why: evil.clone() },
            Outcome::Skipped { why: evil.clone(), because: None },
            Outcome::Failed(failure.clone()),
        ] {
            events.push(step(place, &evil, 1, ended(outcome, vec![change.clone()])));
        }
        events.push(RunEvent::Config {
            component: "agent".parse().unwrap(),
            changes: vec![ConfigChange {
                key: evil.clone(),
                action: Action::Modify,
                before: Some(evil.clone()),
                after: Some("b".to_owned()),
            }],
            applied: kind == RunKind::Deploy,
        });
        events.push(RunEvent::ComponentFailed {
            component: "agent".parse().unwrap(),
            host: None,
            problem: problem.clone(),
        });
        events.push(RunEvent::Warning { host: None, text: evil.clone() });
        events.push(RunEvent::RunFinished(summary(
            kind,
            vec![host_end("node-1", Status::Failed, tally(0, 0))],
            vec![],
        )));
    }
    events
}
