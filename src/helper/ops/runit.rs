//! Services under runit: `/etc/sv/NAME` defines one, a link in runsvdir's directory has it supervised, a file `down` in
//! it keeps it from starting by itself. See runsv(8), runsvdir(8) and sv(8).

use std::{
    fmt::Write,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::service_ensure::{Manager, ServiceFile, Status};
use crate::{
    helper::{
        failure::{OrFail, bad_input},
        gather::{find_program, runsvdir, runsvdir_process},
        machine::Machine,
        process::Job,
        replace::{Attributes, replace_link, replace_with},
    },
    plan::{Action, FailureKind, MemoryLock, OpFailure, ServiceDefinition},
};

/// Where services are defined.
const DEFINITIONS: &str = "/etc/sv";
/// Where runsvdir looks, when its command line does not tell.
const USUAL: [&str; 3] = ["/etc/service", "/var/service", "/etc/runit/runsvdir/default"];
/// How long until runsvdir, which looks every 5 s, has noticed a new service.
const NOTICE: Duration = Duration::from_secs(15);
/// Seconds that a service waits for those that it needs, before it tries anew.
const OTHERS: u32 = 30;
/// How much of a log's end is read.
const LOG_BYTES: u64 = 16 * 1024;

/// runit, with the directory that its runsvdir supervises.
#[derive(Debug)]
pub(super) struct Runit {
    supervised: PathBuf,
    definitions: PathBuf,
    has_logger: bool,
}

impl Runit {
    /// Finds the directory that is supervised.
    pub(super) fn find() -> Result<Self, OpFailure> {
        let told = runsvdir().and_then(|words| words.into_iter().skip(1).find(|word| word.starts_with('/')));
        let supervised = told.map(PathBuf::from).or_else(|| USUAL.iter().map(PathBuf::from).find(|path| path.is_dir()));
        let supervised = supervised.ok_or_else(|| {
            OpFailure::new(FailureKind::Unsupported, "runit runs, but which directory it supervises cannot be told")
        })?;
        Ok(Self { supervised, definitions: PathBuf::from(DEFINITIONS), has_logger: find_program("svlogd").is_some() })
    }

    fn link(&self, name: &str) -> PathBuf {
        self.supervised.join(name)
    }

    /// The run script: surroundings, then the program in its place.
    fn run_script(&self, definition: &ServiceDefinition) -> String {
        run_script(&self.supervised, definition)
    }

    /// Waits until a `runsv` looks after the service.
    fn wait_until_supervised(&self, name: &str, machine: &Machine<'_>) -> Result<(), OpFailure> {
        let since = Instant::now();
        let ear = ear_of_runsvdir();
        while !is_supervised(&self.link(name)) {
            if let Some(ear) = &ear {
                // Best effort: without it runsvdir looks by itself, every five seconds.
                let _ = fs_err::OpenOptions::new()
                    .write(true)
                    .open(ear)
                    .and_then(|mut pipe| std::io::Write::write_all(&mut pipe, b"."));
            }
            if since.elapsed() > NOTICE {
                let message = format!("runsvdir did not notice the service `{name}` within {} s", NOTICE.as_secs());
                return Err(OpFailure::new(FailureKind::Timeout, message)
                    .hint(format!("see whether `runsvdir {}` runs on the host", self.supervised.display())));
            }
            machine.pause(Duration::from_millis(50))?;
        }
        Ok(())
    }
}

/// What wakes `runsvdir` up before its next look, when it was started with a log: it waits on a pipe that its own standard
/// error leads to (`runsvdir(8)`, `log`), and looks around whenever something comes out of it.
fn ear_of_runsvdir() -> Option<PathBuf> {
    let descriptors = PathBuf::from(format!("/proc/{}/fd", runsvdir_process()?));
    let error = fs_err::read_link(descriptors.join("2")).ok()?;
    // Both ends in the same process: a standard error that goes elsewhere is none of ours to write to.
    let is_own = error.to_string_lossy().starts_with("pipe:")
        && fs_err::read_link(descriptors.join("3")).is_ok_and(|other| other == error);
    is_own.then(|| descriptors.join("2"))
}

impl Manager for Runit {
    fn files(&self, name: &str, definition: &ServiceDefinition) -> Vec<ServiceFile> {
        let folder = self.definitions.join(name);
        let mut files =
            vec![ServiceFile { path: folder.join("run"), mode: 0o755, content: self.run_script(definition) }];
        if self.has_logger {
            let content = log_script(name);
            files.push(ServiceFile { path: folder.join("log/run"), mode: 0o755, content });
        }
        files
    }

    fn status(&self, name: &str, _: &Machine<'_>) -> Result<Status, OpFailure> {
        let link = self.link(name);
        let linked = link.exists();
        let known = linked || self.definitions.join(name).join("run").exists();
        let enabled = linked && !link.join("down").exists();
        let read = |file: &str| fs_err::read_to_string(link.join("supervise").join(file)).unwrap_or_default();
        let state = read("stat");
        let running = state.starts_with("run") && !state.contains("got TERM") && is_supervised(&link);
        let life = read("pid").trim().to_owned();
        Ok(Status { known, running: running && !life.is_empty(), enabled: Some(enabled), life })
    }

    fn reload(&self, _: &Machine<'_>) -> Result<(), OpFailure> {
        Ok(())
    }

    fn set_enabled(&self, name: &str, enabled: bool, machine: &Machine<'_>) -> Result<(), OpFailure> {
        let link = self.link(name);
        let definition = self.definitions.join(name);
        let down = |folder: &Path| folder.join("down");
        let is_new = !link.exists();
        if is_new {
            // Not started by being noticed: whether it starts is decided afterwards.
            replace_with(&down(&definition), Attributes::mode(0o644), b"")?;
            replace_link(&link, &definition.to_string_lossy())?;
        }
        self.wait_until_supervised(name, machine)?;
        let down = down(&link);
        if enabled && down.exists() {
            fs_err::remove_file(&down).or_fail("remove", down.display())?;
        } else if !enabled && !down.exists() {
            replace_with(&down, Attributes::mode(0o644), b"")?;
        }
        Ok(())
    }

    fn act(&self, name: &str, action: Action, patience: u64, machine: &Machine<'_>) -> Result<(), OpFailure> {
        let verb = match action {
            Action::Start => "start",
            Action::Stop => "force-stop",
            Action::Restart => "force-restart",
            Action::Create | Action::Modify | Action::Remove | Action::Run => {
                return Err(bad_input("a service can only be started, stopped and restarted"));
            }
        };
        let link = self.link(name);
        if !link.exists() {
            self.set_enabled(name, false, machine)?;
        }
        self.wait_until_supervised(name, machine)?;
        let path = link.to_string_lossy();
        // `sv` kills what has not done as it was told in that time.
        let job = Job::program("sv", ["-w", &patience.to_string(), verb, &path]);
        let job = job.timeout(Duration::from_secs(patience) + NOTICE);
        let title = format!("sv {verb} {name}");
        let (ended, output) = machine.collect(&job, &title)?;
        // A start that is not yet a run is looked at more closely by the caller.
        if ended.succeeded() || action != Action::Stop {
            return Ok(());
        }
        Err(machine.command_failure(&title, &ended).output(output.lines().map(str::to_owned).collect()))
    }

    fn log_mark(&self, name: &str) -> u64 {
        fs_err::metadata(log_path(name)).map_or(0, |found| found.len())
    }

    fn log_tail(&self, name: &str, mark: u64, _: &Machine<'_>) -> Vec<String> {
        let Ok(mut file) = fs_err::File::open(log_path(name)) else { return Vec::new() };
        let length = file.metadata().map_or(0, |found| found.len());
        // A log that got shorter was rotated: all of it is new.
        let from = if mark > length { 0 } else { mark }.max(length.saturating_sub(LOG_BYTES));
        let mut bytes = Vec::new();
        if file.seek(SeekFrom::Start(from)).and_then(|_| file.take(LOG_BYTES).read_to_end(&mut bytes)).is_err() {
            return Vec::new();
        }
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].iter().map(|line| (*line).to_owned()).collect()
    }
}

/// Whether a `runsv` holds the reading end of the service's `supervise/ok`; what `sv` itself looks at.
fn is_supervised(link: &Path) -> bool {
    openat(CWD, link.join("supervise/ok"), OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).is_ok()
}

fn log_path(name: &str) -> PathBuf {
    Path::new("/var/log").join(name).join("current")
}

/// runit knows no dependencies; run scripts wait for others by themselves, as its FAQ advises: `sv start` starts what is
/// needed, `sv check` waits for what only goes first. Neither notices when the other ends later.
fn run_script(supervised: &Path, definition: &ServiceDefinition) -> String {
    let mut script = String::from("#!/bin/sh\n");
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = writeln!(script, "{text}");
    };
    line(format_args!("# {}", definition.description.replace(['\n', '\r'], " ")));
    line(format_args!("# Written by ovs-cuisine; changes made by hand are overwritten."));
    line(format_args!("exec 2>&1"));
    let path = |name: &str| quoted(&supervised.join(name).to_string_lossy());
    for name in &definition.binds_to {
        let told = format!("waits for the service {name}, which does not run");
        line(format_args!("sv -w {OTHERS} start {} >/dev/null || {{ echo {}; exit 1; }}", path(name), quoted(&told)));
    }
    for name in &definition.after {
        line(format_args!("sv -w {OTHERS} check {} >/dev/null 2>&1 || true", path(name)));
    }
    if let Some(limit) = definition.limit_nofile {
        line(format_args!("ulimit -n {limit} || exit 1"));
    }
    match definition.limit_memlock {
        // The shell counts in units of 1024 bytes.
        Some(MemoryLock::Bytes(bytes)) => line(format_args!("ulimit -l {} || exit 1", bytes.div_ceil(1024))),
        Some(MemoryLock::Unlimited) => line(format_args!("ulimit -l unlimited || exit 1")),
        None => {}
    }
    let directory = definition.directory.as_ref().map_or("/", |directory| directory.as_str());
    line(format_args!("cd {} || exit 1", quoted(directory)));
    if let Some(user) = &definition.user {
        line(format_args!("export HOME=~{user} USER={user} LOGNAME={user}"));
    }
    for (name, value) in &definition.environment {
        line(format_args!("export {name}={}", quoted(value)));
    }
    let argv: Vec<String> = definition.argv.iter().map(|word| quoted(word)).collect();
    match &definition.user {
        // chpst knows no supplementary groups but those it is told: all that the user is in.
        Some(user) => line(format_args!("exec chpst -u \"{user}:$(id -Gn {user} | tr ' ' ':')\" {}", argv.join(" "))),
        None => line(format_args!("exec {}", argv.join(" "))),
    }
    script
}

fn log_script(name: &str) -> String {
    format!("#!/bin/sh\nmkdir -p -m 0750 /var/log/{name} && exec svlogd -tt /var/log/{name}\n")
}

/// A word for the shell: as it is when it is harmless, else in single quotes.
fn quoted(word: &str) -> String {
    let harmless = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=@%+,".contains(letter);
    if !word.is_empty() && word.chars().all(harmless) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_script_holds_what_the_definition_says() {
        let definition = ServiceDefinition {
            argv: vec!["/opt/x/bin/x".into(), "-c".into(), "a b's".into()],
            user: Some("ovs".into()),
            directory: Some("/opt/x".parse().unwrap()),
            environment: vec![("A".into(), "$HOME".into())],
            limit_nofile: Some(4096),
            limit_memlock: Some(MemoryLock::Bytes(2049)),
            binds_to: vec!["base".into()],
            after: vec!["d@b".into()],
            stop_timeout: None,
            description: "The x\nservice".into(),
        };
        assert_eq!(
            run_script(Path::new("/etc/service"), &definition),
            "#!/bin/sh\n# The x service\n# Written by ovs-cuisine; changes made by hand are overwritten.\nexec 2>&1\n\
             sv -w 30 start /etc/service/base >/dev/null || { echo 'waits for the service base, which does not run'; exit 1; }\n\
             sv -w 30 check /etc/service/d@b >/dev/null 2>&1 || true\n\
             ulimit -n 4096 || exit 1\nulimit -l 3 || exit 1\ncd /opt/x || exit 1\nexport HOME=~ovs USER=ovs LOGNAME=ovs\nexport A='$HOME'\n\
             exec chpst -u \"ovs:$(id -Gn ovs | tr ' ' ':')\" /opt/x/bin/x -c 'a b'\\''s'\n"
        );
    }
}
