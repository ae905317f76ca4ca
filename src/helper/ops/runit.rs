//! Services under runit: `/etc/sv/NAME` defines one, a link in runsvdir's directory has it supervised, a file `down` in
//! it keeps it from starting by itself. See runsv(8), runsvdir(8) and sv(8).
//!
//! runit knows no bonds between services. A file `bonds` in a definition names those that it is bound to; every definition
//! of ours has scripts that look for itself in the `bonds` of others: `finish`, which runsv runs when the service has
//! ended, stops what is bound to it, and `control/u`, which it runs before each start, has it come back.

use std::{
    collections::BTreeSet,
    fmt::Write,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::{
    service_ensure::{MARK, Manager, PAUSE, SETTLE, STOP_TIME, ServiceFile, Status},
    supervised::Supervised,
};
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
/// After so long runsvdir has not taken notice of the date that it was given.
const UNHEARD: Duration = Duration::from_secs(4);
/// Seconds that a service waits for those that it needs, before it tries anew.
const OTHERS: u32 = 30;
/// Seconds that a service of an earlier version, whose definition does not tell, may take to stop.
const LONGEST_STOP: u64 = 120;
/// The file of a definition that names what it is bound to, and the time that it may take to stop.
const BONDS: &str = "bonds";
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

    /// What happens when the service has ended: those bound to it end too.
    fn finish_script(&self, name: &str) -> String {
        FINISH_SCRIPT.replace("{bound}", &self.bound_script(name)).replace("{name}", name)
    }

    /// What happens before it starts: those bound to it are to run again. They wait for it by themselves.
    fn return_script(&self, name: &str) -> String {
        RETURN_SCRIPT.replace("{bound}", &self.bound_script(name)).replace("{name}", name)
    }

    /// The part that finds who is bound to it.
    fn bound_script(&self, name: &str) -> String {
        BOUND_SCRIPT
            .replace("{mark}", MARK)
            .replace("{supervised}", &quoted(&self.supervised.to_string_lossy()))
            .replace("{definitions}", &quoted(&self.definitions.to_string_lossy()))
            .replace("{name}", name)
    }

    /// Seconds that what is bound to a service may take to stop: it is not down before.
    fn time_of_bound(&self, name: &str) -> u64 {
        let entries = fs_err::read_dir(&self.definitions).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let all: Vec<(String, String)> = names
            .filter_map(|name| {
                let bonds = fs_err::read_to_string(self.definitions.join(&name).join(BONDS)).ok()?;
                Some((name, bonds))
            })
            .collect();
        time_of_bound(name, &all, &mut BTreeSet::new())
    }

    /// Adds a service to those that are supervised, such that runsvdir takes it at once.
    ///
    /// runsvdir tells by the directory's date of change, in seconds, whether it has to look, and waits another second when
    /// that is the present one: more may come. So the directory gets a date that is past, and not the one it had.
    fn supervise(&self, name: &str, definition: &Path) -> Result<(), OpFailure> {
        self.let_know(|| replace_link(&self.link(name), &definition.to_string_lossy()))
    }

    /// Changes what is supervised, such that runsvdir looks at once.
    fn let_know(&self, change: impl FnOnce() -> Result<(), OpFailure>) -> Result<(), OpFailure> {
        let before = fs_err::metadata(&self.supervised).and_then(|found| found.modified());
        change()?;
        if let Some(past) = before.ok().and_then(|before| before.checked_sub(Duration::from_secs(1))) {
            // Best effort: it only takes longer otherwise.
            let _ = self.date(past);
        }
        Ok(())
    }

    /// Sets the supervised directory's date of change.
    fn date(&self, date: SystemTime) -> io::Result<()> {
        fs_err::File::open(&self.supervised)?.set_modified(date)
    }

    /// Stops a service, with what is bound to it; one that does not end in that many seconds is killed.
    fn stop(&self, name: &str, patience: u64, machine: &Machine<'_>) -> Result<(), OpFailure> {
        let link = self.link(name);
        let patience = Duration::from_secs(patience + self.time_of_bound(name));
        tell(&link, "down", machine)?;
        if stays_down_within(&link, patience, machine)? {
            return Ok(());
        }
        tell(&link, "kill", machine)?;
        if stays_down_within(&link, NOTICE, machine)? {
            return Ok(());
        }
        let message = format!("service `{name}` did not stop within {} s, not even by force", patience.as_secs());
        Err(OpFailure::new(FailureKind::Timeout, message))
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
            if since.elapsed() > UNHEARD {
                // Best effort, too: a date that it has not seen, whatever it was told by `age`.
                let _ = self.date(SystemTime::now());
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

/// Tells the supervisor of a service what is wanted; does not wait for it.
fn tell(link: &Path, verb: &str, machine: &Machine<'_>) -> Result<(), OpFailure> {
    let job = Job::program("sv", [verb, &link.to_string_lossy()]).timeout(NOTICE);
    let title = format!("sv {verb} {}", link.display());
    let (ended, output) = machine.collect(&job, &title)?;
    if ended.succeeded() {
        return Ok(());
    }
    Err(machine.command_failure(&title, &ended).output(output.lines().map(str::to_owned).collect()))
}

fn stays_down_within(link: &Path, patience: Duration, machine: &Machine<'_>) -> Result<bool, OpFailure> {
    let since = Instant::now();
    loop {
        // Without a supervisor nobody starts it either.
        if !is_supervised(link) || Supervised::read(link).is_some_and(Supervised::stays_down) {
            return Ok(true);
        }
        if since.elapsed() >= patience {
            return Ok(false);
        }
        machine.pause(PAUSE)?;
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
        let file = |path: &str, mode, content| {
            let (restarts, is_told) = (path == "run", matches!(path, "run" | "log/run"));
            ServiceFile { path: folder.join(path), mode, content, restarts, is_told }
        };
        let mut files = vec![
            file("run", 0o755, self.run_script(definition)),
            file(BONDS, 0o644, bonds(definition)),
            file("finish", 0o755, self.finish_script(name)),
            file("control/u", 0o755, self.return_script(name)),
        ];
        if self.has_logger {
            files.push(file("log/run", 0o755, log_script(name)));
        }
        files
    }

    fn status(&self, name: &str, _: &Machine<'_>) -> Result<Status, OpFailure> {
        let link = self.link(name);
        let linked = link.exists();
        let known = linked || self.definitions.join(name).join("run").exists();
        let enabled = linked && !link.join("down").exists();
        let supervised = Supervised::read(&link).filter(|_| is_supervised(&link));
        let running = supervised.is_some_and(Supervised::runs);
        let life = supervised.map(Supervised::life).unwrap_or_default();
        // runsv knows that there is a process, and no more.
        Ok(Status { known, running, enabled: Some(enabled), life, stale: false, trial: SETTLE })
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
            self.supervise(name, &definition)?;
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
        let link = self.link(name);
        if !link.exists() {
            self.set_enabled(name, false, machine)?;
        }
        self.wait_until_supervised(name, machine)?;
        match action {
            Action::Start => tell(&link, "up", machine),
            Action::Stop => self.stop(name, patience, machine),
            // Not `sv restart`: of a service that has come back by itself a moment ago it believes that this was the
            // restart, and comes back while the real one is still to come.
            Action::Restart => {
                self.stop(name, patience, machine)?;
                tell(&link, "up", machine)
            }
            Action::Create | Action::Modify | Action::Remove | Action::Run => {
                Err(bad_input("a service can only be started, stopped and restarted"))
            }
        }
    }

    fn patience(&self, name: &str) -> u64 {
        let bonds = fs_err::read_to_string(self.definitions.join(name).join(BONDS)).unwrap_or_default();
        patience_of(&bonds).unwrap_or(LONGEST_STOP)
    }

    fn own_definition(&self, name: &str) -> Option<PathBuf> {
        let folder = self.definitions.join(name);
        fs_err::read_to_string(folder.join("run")).is_ok_and(|text| text.contains(MARK)).then_some(folder)
    }

    fn remove(&self, name: &str, machine: &Machine<'_>) -> Result<(), OpFailure> {
        let (link, definition) = (self.link(name), self.definitions.join(name));
        let is_linked = link.exists();
        if is_linked && is_supervised(&link) {
            self.act(name, Action::Stop, self.patience(name), machine)?;
        }
        // Before its runsv ends: runsvdir would start another one.
        if is_linked {
            self.let_know(|| fs_err::remove_file(&link).or_fail("remove", link.display()))?;
        }
        if is_supervised(&definition) {
            // It ends its log, and itself.
            let path = definition.to_string_lossy();
            let wait = STOP_TIME.to_string();
            let job = Job::program("sv", ["-w", &wait, "force-shutdown", &path]).timeout(NOTICE + NOTICE);
            machine.collect(&job, &format!("sv force-shutdown {name}"))?;
        }
        fs_err::remove_dir_all(&definition).or_fail("remove", definition.display())
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

/// Finds who is bound to the service: `$bound`, and the longest of their times to stop, `$patience`. Names of services hold
/// nothing that a shell would split or expand.
const BOUND_SCRIPT: &str = "\
#!/bin/sh
# {mark}
own=$PWD patience=0 bound=
cd {supervised} || exit 0
for bonds in {definitions}/*/bonds; do
    grep -qxF 'binds-to {name}' \"$bonds\" 2>/dev/null || continue
    other=${bonds%/bonds}
    other=./${other##*/}
    [ -p \"$other/supervise/ok\" ] || continue
    read -r _ seconds <\"$bonds\"
    [ \"$seconds\" -le \"$patience\" ] || patience=$seconds
    bound=\"$bound $other\"
done
[ -n \"$bound\" ] || exit 0
";

const FINISH_SCRIPT: &str = "\
{bound}# {name} has ended: what is bound to it does not run without.
sv -w \"$patience\" force-stop $bound >/dev/null 2>&1
exit 0
";

const RETURN_SCRIPT: &str = "\
{bound}# {name} starts: what is bound to it comes back, unless it does not start by itself. A start that changes nothing is none.
case $(cat \"$own/supervise/stat\" 2>/dev/null) in down*) ;; *) exit 0 ;; esac
for other in $bound; do
    [ -e \"$other/down\" ] || sv up \"$other\" >/dev/null 2>&1
done
exit 0
";

/// How long a service with these bonds may take to stop, in seconds.
fn patience_of(bonds: &str) -> Option<u64> {
    bonds.lines().find_map(|line| line.strip_prefix("patience ")?.parse().ok())
}

/// The longest of the times to stop of what is bound to a service, with what is bound to that. `all` are services with
/// their bonds; those in `seen` are counted already.
fn time_of_bound(name: &str, all: &[(String, String)], seen: &mut BTreeSet<String>) -> u64 {
    if !seen.insert(name.to_owned()) {
        return 0;
    }
    let wanted = format!("binds-to {name}");
    let bound = all.iter().filter(|(_, bonds)| bonds.lines().any(|line| line == wanted));
    bound
        .map(|(other, bonds)| patience_of(bonds).unwrap_or(STOP_TIME) + time_of_bound(other, all, seen))
        .max()
        .unwrap_or_default()
}

/// What a service is bound to, and how long it may take to stop.
fn bonds(definition: &ServiceDefinition) -> String {
    let mut text = format!("patience {}\n", definition.stop_timeout.unwrap_or(STOP_TIME));
    for name in &definition.binds_to {
        text.extend(["binds-to ", name, "\n"]);
    }
    text
}

/// runit knows no dependencies; run scripts wait for others by themselves, as its FAQ advises: `sv start` starts what is
/// needed, `sv check` waits for what only goes first.
fn run_script(supervised: &Path, definition: &ServiceDefinition) -> String {
    let mut script = String::from("#!/bin/sh\n");
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = writeln!(script, "{text}");
    };
    line(format_args!("# {}", definition.description.replace(['\n', '\r'], " ")));
    line(format_args!("# {MARK}"));
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
    fn what_is_bound_to_a_service_has_its_time_too() {
        let bonds = |name: &str, seconds: u64, to: &[&str]| {
            let binds_to = to.iter().map(|name| (*name).to_owned()).collect();
            let definition =
                ServiceDefinition { stop_timeout: Some(seconds), binds_to, ..ServiceDefinition::default() };
            (name.to_owned(), super::bonds(&definition))
        };
        let chain = [bonds("base", 1, &[]), bonds("middle", 20, &["base"]), bonds("end", 300, &["middle", "base"])];
        let time = |name: &str| time_of_bound(name, &chain, &mut BTreeSet::new());
        assert_eq!(["base", "middle", "end", "stranger"].map(time), [320, 300, 0, 0]);
        let ring = [bonds("one", 5, &["other"]), bonds("other", 7, &["one"])];
        assert_eq!(time_of_bound("one", &ring, &mut BTreeSet::new()), 12);
    }

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
