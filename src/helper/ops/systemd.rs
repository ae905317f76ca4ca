//! Services under systemd: a unit in `/etc/systemd/system`. See systemd.service(5) and systemctl(1).

use std::{fmt::Write, path::PathBuf, time::Duration};

use super::service_ensure::{MARK, Manager, SETTLE, ServiceFile, Status};
use crate::{
    helper::{
        failure::{OrFail, bad_input},
        machine::Machine,
        process::Job,
    },
    plan::{Action, MemoryLock, OpFailure, ServiceDefinition},
};

/// How long systemctl may take; its own default for a stop is 90 s.
const TIME: Duration = Duration::from_secs(120);
/// Seconds that a service may take to stop whose definition is not at hand; its unit knows better.
const LONGEST_STOP: u64 = 600;

/// systemd as process 1.
#[derive(Debug)]
pub(super) struct Systemd;

impl Manager for Systemd {
    fn files(&self, name: &str, definition: &ServiceDefinition) -> Vec<ServiceFile> {
        let path = unit_path(name);
        vec![ServiceFile { path, mode: 0o644, content: unit_file(definition), restarts: true, is_told: true }]
    }

    fn status(&self, name: &str, machine: &Machine<'_>) -> Result<Status, OpFailure> {
        let properties =
            "--property=LoadState,ActiveState,SubState,UnitFileState,MainPID,NRestarts,NeedDaemonReload,Type";
        let job = systemctl(&["show", properties, &unit(name)]);
        let (ended, output) = machine.collect(&job, "systemctl show")?;
        if ended.succeeded() { Ok(status_of(&output)) } else { Err(machine.command_failure("systemctl show", &ended)) }
    }

    fn reload(&self, machine: &Machine<'_>) -> Result<(), OpFailure> {
        machine.must_run(&systemctl(&["daemon-reload"]), "systemctl daemon-reload")
    }

    fn set_enabled(&self, name: &str, enabled: bool, machine: &Machine<'_>) -> Result<(), OpFailure> {
        let verb = if enabled { "enable" } else { "disable" };
        machine.must_run(&systemctl(&["--quiet", verb, &unit(name)]), &format!("systemctl {verb} {name}"))
    }

    fn act(&self, name: &str, action: Action, patience: u64, machine: &Machine<'_>) -> Result<(), OpFailure> {
        let verb = match action {
            Action::Start => "start",
            Action::Stop => "stop",
            Action::Restart => "restart",
            Action::Create | Action::Modify | Action::Remove | Action::Run => {
                return Err(bad_input("a service can only be started, stopped and restarted"));
            }
        };
        let job = systemctl(&[verb, &unit(name)]).timeout(TIME + Duration::from_secs(patience));
        machine.must_run(&job, &format!("systemctl {verb} {name}"))
    }

    fn patience(&self, _: &str) -> u64 {
        LONGEST_STOP
    }

    fn own_definition(&self, name: &str) -> Option<PathBuf> {
        let path = unit_path(name);
        fs_err::read_to_string(&path).is_ok_and(|text| text.contains(MARK)).then_some(path)
    }

    fn remove(&self, name: &str, machine: &Machine<'_>) -> Result<(), OpFailure> {
        let job = systemctl(&["--quiet", "disable", "--now", &unit(name)]);
        machine
            .must_run(&job.timeout(Duration::from_secs(LONGEST_STOP)), &format!("systemctl disable --now {name}"))?;
        let path = unit_path(name);
        fs_err::remove_file(&path).or_fail("remove", path.display())?;
        self.reload(machine)?;
        // One that had failed would be remembered; that there is nothing to forget is no failure.
        machine.collect(&systemctl(&["reset-failed", &unit(name)]), "systemctl reset-failed").map(drop)
    }

    fn log_mark(&self, _: &str) -> u64 {
        // journalctl takes seconds; one that has begun is as near as it gets.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |now| now.as_secs())
    }

    fn log_tail(&self, name: &str, mark: u64, machine: &Machine<'_>) -> Vec<String> {
        let (unit, since) = (unit(name), format!("@{mark}"));
        let arguments = ["--no-pager", "--output=cat", "--lines=20", "--since", &since, "--unit", &unit];
        let found = machine.collect(&Job::program("journalctl", arguments), "journalctl");
        found.map_or_else(|_| Vec::new(), |(_, output)| output.lines().map(str::to_owned).collect())
    }
}

fn unit_path(name: &str) -> PathBuf {
    PathBuf::from(format!("/etc/systemd/system/{name}.service"))
}

fn unit(name: &str) -> String {
    format!("{name}.service")
}

/// A unit's name inside of a unit, where `%` begins a specifier.
fn unit_name(name: &str) -> String {
    unit(name).replace('%', "%%")
}

fn systemctl(arguments: &[&str]) -> Job {
    Job::program("systemctl", [&["--no-ask-password", "--no-pager"], arguments].concat()).timeout(TIME)
}

/// Reads what `systemctl show` prints.
fn status_of(output: &str) -> Status {
    let value = |name: &str| {
        output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default().to_owned()
    };
    // `activating (auto-restart)` is a service that has just died.
    let running = matches!(value("ActiveState").as_str(), "active" | "reloading");
    let enabled = match value("UnitFileState").as_str() {
        "enabled" | "enabled-runtime" => Some(true),
        "disabled" | "" | "masked" | "masked-runtime" | "bad" => Some(false),
        // Static, generated and the like: there is nothing to enable.
        _ => None,
    };
    Status {
        known: value("LoadState") != "not-found",
        running,
        enabled,
        life: format!("{} {}", value("MainPID"), value("NRestarts")),
        stale: value("NeedDaemonReload") == "yes",
        // Of the other types systemd only knows that there is a process; see `Type=` in systemd.service(5).
        trial: match value("Type").as_str() {
            "notify" | "notify-reload" | "forking" | "dbus" => Duration::ZERO,
            _ => SETTLE,
        },
    }
}

fn unit_file(definition: &ServiceDefinition) -> String {
    let mut unit = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = writeln!(unit, "{text}");
    };
    line(format_args!("# {MARK}"));
    line(format_args!("[Unit]"));
    line(format_args!("Description={}", definition.description.replace(['\n', '\r'], " ").replace('%', "%%")));
    line(format_args!("Wants=network-online.target"));
    let needed: Vec<String> = definition.binds_to.iter().map(|name| unit_name(name)).collect();
    let after: Vec<String> = definition.after.iter().map(|name| unit_name(name)).collect();
    let all = [vec!["network-online.target".to_owned()], needed.clone(), after].concat();
    line(format_args!("After={}", all.join(" ")));
    if !needed.is_empty() {
        line(format_args!("BindsTo={}", needed.join(" ")));
    }
    line(format_args!("\n[Service]"));
    let argv: Vec<String> = definition.argv.iter().map(|word| quoted(word).replace('$', "$$")).collect();
    line(format_args!("ExecStart={}", argv.join(" ")));
    if let Some(user) = &definition.user {
        line(format_args!("User={user}"));
    }
    if let Some(directory) = &definition.directory {
        line(format_args!("WorkingDirectory={}", directory.as_str().replace('%', "%%")));
    }
    for (name, value) in &definition.environment {
        line(format_args!("Environment={}", quoted(&format!("{name}={value}"))));
    }
    if let Some(limit) = definition.limit_nofile {
        line(format_args!("LimitNOFILE={limit}"));
    }
    match definition.limit_memlock {
        Some(MemoryLock::Bytes(bytes)) => line(format_args!("LimitMEMLOCK={bytes}")),
        Some(MemoryLock::Unlimited) => line(format_args!("LimitMEMLOCK=infinity")),
        None => {}
    }
    if let Some(seconds) = definition.stop_timeout {
        line(format_args!("TimeoutStopSec={seconds}"));
    }
    line(format_args!("Restart=always"));
    line(format_args!("RestartSec=1"));
    line(format_args!("\n[Install]"));
    // A service that it is bound to takes it along when it comes back: by itself it would stay down.
    line(format_args!("WantedBy={}", [vec!["multi-user.target".to_owned()], needed].concat().join(" ")));
    unit
}

/// A word in double quotes, with C escapes and without specifiers; systemd.syntax(7).
fn quoted(word: &str) -> String {
    let mut text = String::from("\"");
    for letter in word.chars() {
        match letter {
            '"' | '\\' => text.extend(['\\', letter]),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '%' => text.push_str("%%"),
            _ => text.push(letter),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_holds_what_the_definition_says() {
        let definition = ServiceDefinition {
            argv: vec!["/opt/x/bin/x".into(), "50% \"$A\"".into()],
            user: Some("ovs".into()),
            directory: Some("/opt/x".parse().unwrap()),
            environment: vec![("A".into(), "b c$d".into())],
            limit_nofile: Some(4096),
            limit_memlock: Some(MemoryLock::Unlimited),
            binds_to: vec!["base".into()],
            after: vec!["db".into()],
            stop_timeout: Some(100),
            description: "The x service".into(),
        };
        let unit = unit_file(&definition);
        assert!(unit.contains("ExecStart=\"/opt/x/bin/x\" \"50%% \\\"$$A\\\"\"\n"), "{unit}");
        assert!(unit.contains("Environment=\"A=b c$d\"\n"), "{unit}");
        assert!(unit.contains("User=ovs\nWorkingDirectory=/opt/x\n") && unit.contains("LimitNOFILE=4096\n"), "{unit}");
        assert!(unit.contains("LimitMEMLOCK=infinity\nTimeoutStopSec=100\n"), "{unit}");
        assert!(unit.contains("After=network-online.target base.service db.service\nBindsTo=base.service\n"), "{unit}");
        assert!(unit.contains("WantedBy=multi-user.target base.service\n"), "{unit}");
    }

    #[test]
    fn a_service_that_died_does_not_run() {
        let status = |active: &str, unit_file: &str| {
            status_of(&format!(
                "LoadState=loaded\nActiveState={active}\nSubState=x\nUnitFileState={unit_file}\nMainPID=7\nNRestarts=0\n"
            ))
        };
        assert_eq!(
            status("active", "enabled"),
            Status {
                known: true,
                running: true,
                enabled: Some(true),
                life: "7 0".into(),
                trial: SETTLE,
                ..Status::default()
            }
        );
        assert!(!status("activating", "enabled").running && !status("failed", "enabled").running);
        assert_eq!(status("active", "static").enabled, None);
        let told = status_of("LoadState=loaded\nActiveState=active\nType=notify\nNeedDaemonReload=yes\n");
        assert!(told.trial.is_zero() && told.stale && status("active", "enabled").trial == SETTLE);
        assert!(!status_of("LoadState=not-found\nActiveState=inactive\nUnitFileState=\n").known);
    }
}
