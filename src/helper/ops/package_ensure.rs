//! `package_ensure`: packages installed or absent, by dpkg and apt.
//!
//! One `dpkg-query` answers for all packages of a step; apt is only called when something has to change.

use std::{
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use super::{Finding, Obstacle, Operation, ownership::attribute, quiet_install::QuietInstall};
use crate::{
    helper::{
        failure::{OrFail, bad_input},
        foreseen::Foreseen,
        lock::make_state_dir,
        machine::Machine,
        process::{Collected, Job, run},
        stop::Stop,
    },
    plan::{
        Action, Change, Detail, Diff, FailureKind, InitSystem, OpFailure, PackageEnsure, PackageManager, PackageState,
    },
};

/// How old package lists may be before something is installed from them.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);
/// How long apt may take. Large packages over slow lines take their time.
const APT_TIME: Duration = Duration::from_secs(30 * 60);
/// How long to wait for another apt, in seconds.
const LOCK_TIME: u32 = 120;
/// Translated descriptions are a third of the download, and nobody reads them on a host.
const REFRESH: [&str; 4] = ["-q", "-o", "Acquire::Languages=none", "update"];
/// What `dpkg-query` prints of each package: name, architecture, state, version, what it provides.
const FORMAT: &str = "${Package}\\t${Architecture}\\t${db:Status-Abbrev}\\t${Version}\\t${Provides}\\n";

/// One wanted package: `name`, `name:architecture`, either with `=version`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    name: String,
    version: Option<String>,
}

/// A package that dpkg knows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    name: String,
    architecture: String,
    /// Unpacked and configured; what is half-way is not installed.
    installed: bool,
    version: String,
    provides: Vec<String>,
}

/// What has to be installed or removed: the op's own words, and the version that is there.
#[derive(Debug)]
pub(crate) struct PackageChange {
    packages: Vec<(String, Option<String>)>,
}

impl Operation for PackageEnsure {
    type Change = PackageChange;

    fn check(&self, machine: &mut Machine<'_>) -> Result<Finding<PackageChange>, Obstacle> {
        if machine.facts.packages == PackageManager::None {
            return Err(OpFailure::new(FailureKind::Unsupported, "the host has no package manager that is known here")
                .hint("package_ensure needs apt (Debian, Ubuntu); use run(...) with the host's own package manager")
                .into());
        }
        let wanted = self.packages.iter().map(|text| Wanted::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let known = query(machine.stop)?;
        let mut packages = Vec::new();
        for (text, wanted) in self.packages.iter().zip(&wanted) {
            let installed = wanted.installed(&known);
            let differs = match self.state {
                PackageState::Present => !wanted.is_satisfied(&known),
                PackageState::Absent => installed.is_some(),
            };
            if differs {
                packages.push((text.clone(), installed.map(|package| package.version.clone())));
            }
        }
        Ok(if packages.is_empty() { Finding::Same } else { Finding::Differs(PackageChange { packages }) })
    }

    fn describe(&self, change: &PackageChange, _: &Machine<'_>) -> Diff {
        let changes = change.packages.iter().map(|(text, installed)| {
            let name = text.split('=').next().unwrap_or(text);
            let target = format!("package {name}");
            let version = text.split_once('=').map(|(_, version)| version.to_owned());
            match (self.state, installed) {
                (PackageState::Absent, installed) => {
                    let gone = Detail::Attribute { name: "version".to_owned(), before: installed.clone(), after: None };
                    Change::new(Action::Remove, target).with(gone)
                }
                (PackageState::Present, Some(before)) => Change::new(Action::Modify, target).with(attribute(
                    "version",
                    Some(before.clone()),
                    version.unwrap_or_else(|| "newest".to_owned()),
                )),
                (PackageState::Present, None) => match version {
                    Some(version) => Change::new(Action::Create, target).with(attribute("version", None, version)),
                    None => Change::new(Action::Create, target),
                },
            }
        });
        Diff { changes: changes.collect() }
    }

    fn foresee(&self, _: &PackageChange, _: &mut Foreseen) {}

    fn apply(&self, change: PackageChange, machine: &mut Machine<'_>) -> Result<(), OpFailure> {
        mend_dpkg(machine)?;
        let names: Vec<&str> = change.packages.iter().map(|(text, _)| text.as_str()).collect();
        if self.state == PackageState::Absent {
            let names: Vec<&str> = names.iter().map(|text| text.split('=').next().unwrap_or(text)).collect();
            return apt(machine, &[&["remove"], names.as_slice()].concat());
        }
        let refreshed = if self.refresh || lists_are_old(&machine.state_dir()) { refresh(machine)? } else { false };
        if !refreshed && !unknown(machine, &names)?.is_empty() {
            refresh(machine)?;
        }
        let unknown = unknown(machine, &names)?;
        if !unknown.is_empty() {
            let message = format!("no package source of the host offers {}", quoted(&unknown));
            return Err(
                bad_input(message).hint("is the name right for this distribution, and its package source set up?")
            );
        }
        // A package's service would start outside of the service manager, which the recipe has not asked for.
        let _quiet = (machine.facts.init != InitSystem::Systemd).then(QuietInstall::begin).transpose()?;
        apt(machine, &[&["install", "--no-install-recommends", "--allow-downgrades"], names.as_slice()].concat())
    }
}

impl Wanted {
    /// apt would take other texts for options, patterns or requests to remove.
    fn parse(text: &str) -> Result<Self, OpFailure> {
        let (name, version) = text.split_once('=').map_or((text, None), |(name, version)| (name, Some(version)));
        let plain = |text: &str, others: &[char]| {
            text.starts_with(|first: char| first.is_ascii_alphanumeric())
                && text.chars().all(|letter| letter.is_ascii_alphanumeric() || others.contains(&letter))
        };
        let fits = plain(name, &['+', '-', '.', ':']) && !name.ends_with('-');
        if fits && version.is_none_or(|version| plain(version, &['+', '-', '.', ':', '~'])) {
            return Ok(Self { name: name.to_owned(), version: version.map(str::to_owned) });
        }
        Err(bad_input(format!("`{text}` is not the name of a package")).hint("write `name` or `name=version`"))
    }

    /// The installed package of this name.
    fn installed<'a>(&self, known: &'a [Known]) -> Option<&'a Known> {
        let (name, architecture) = self.name.split_once(':').map_or((self.name.as_str(), None), |(n, a)| (n, Some(a)));
        let fits = |package: &&Known| {
            package.installed
                && package.name == name
                && architecture.is_none_or(|wanted| wanted == package.architecture || package.architecture == "all")
        };
        known.iter().find(fits)
    }

    /// Whether it is installed in the wanted version, or, for a virtual package, something that provides it.
    fn is_satisfied(&self, known: &[Known]) -> bool {
        match (self.installed(known), &self.version) {
            (Some(package), Some(version)) => package.version == *version,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => known.iter().any(|package| package.installed && package.provides.contains(&self.name)),
        }
    }
}

/// Whether a package, or something that provides it, is installed.
pub(crate) fn package_is_installed(name: &str, stop: &Stop) -> Result<bool, OpFailure> {
    Ok(Wanted::parse(name)?.is_satisfied(&query(stop)?))
}

/// All that dpkg knows, in one call.
fn query(stop: &Stop) -> Result<Vec<Known>, OpFailure> {
    let mut output = Collected::default();
    let job = Job::program("dpkg-query", ["--show", "--showformat", FORMAT]);
    let ended = run(&job, stop, &mut output).or_fail("run", "dpkg-query")?;
    // A host on which nothing is installed makes it fail; that is told from real failures by what it says.
    if ended.succeeded() || ended.tail.iter().any(|line| line.contains("no packages found")) {
        return Ok(output.0.lines().filter_map(known_of).collect());
    }
    Err(OpFailure::new(FailureKind::Command, "`dpkg-query` failed").output(ended.tail))
}

fn known_of(line: &str) -> Option<Known> {
    let mut fields = line.split('\t');
    let (name, architecture, state, version) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let provides = fields.next().unwrap_or_default().split(',');
    Some(Known {
        name: name.to_owned(),
        architecture: architecture.to_owned(),
        // Wanted state (install or hold), then actual state; see dpkg-query(1), `db:Status-Abbrev`.
        installed: state.as_bytes().get(1) == Some(&b'i'),
        version: version.to_owned(),
        provides: provides.filter_map(|one| one.split_whitespace().next()).map(str::to_owned).collect(),
    })
}

/// Finishes what an interrupted dpkg left; apt refuses to work before.
fn mend_dpkg(machine: &Machine<'_>) -> Result<(), OpFailure> {
    let interrupted = fs_err::read_dir("/var/lib/dpkg/updates").is_ok_and(|mut entries| entries.next().is_some());
    if !interrupted {
        return Ok(());
    }
    let job = noninteractive("dpkg", &["--configure", "-a", "--force-confdef", "--force-confold"]);
    machine.must_run(&job, "dpkg --configure -a")
}

fn noninteractive(program: &str, arguments: &[&str]) -> Job {
    Job::program(program, arguments.iter().copied())
        .timeout(APT_TIME)
        .variable("DEBIAN_FRONTEND", "noninteractive")
        .variable("APT_LISTCHANGES_FRONTEND", "none")
        .variable("NEEDRESTART_SUSPEND", "1")
}

fn apt(machine: &Machine<'_>, arguments: &[&str]) -> Result<(), OpFailure> {
    let lock = format!("DPkg::Lock::Timeout={LOCK_TIME}");
    let options = [
        "-q",
        "-y",
        "-o",
        &lock,
        "-o",
        "Dpkg::Options::=--force-confdef",
        "-o",
        "Dpkg::Options::=--force-confold",
        "-o",
        "Dpkg::Use-Pty=0",
    ];
    let job = noninteractive("apt-get", &[&options, arguments].concat());
    let title = format!("apt-get {}", arguments.join(" "));
    let ended = machine.run(&job, &title)?;
    if ended.succeeded() {
        return Ok(());
    }
    let failure = machine.command_failure(&title, &ended);
    let says = |words: &str| ended.tail.iter().any(|line| line.contains(words));
    if failure.hint.is_some() {
        Err(failure)
    } else if says("Could not get lock") || says("Unable to acquire the dpkg frontend lock") {
        Err(failure.hint(format!("another package manager is at work; it was waited for {LOCK_TIME} s")))
    } else if says("Unable to fetch") || says("Failed to fetch") || says("Temporary failure resolving") {
        Err(failure.hint("the host cannot reach its package source; see /etc/apt/sources.list and its proxy settings"))
    } else {
        Err(failure)
    }
}

/// Fetches the package lists. A refresh that fails is only a failure when there are no lists at all: what is wanted may
/// well be in the old ones. Whether it succeeded.
fn refresh(machine: &Machine<'_>) -> Result<bool, OpFailure> {
    let mut tries = 0;
    let (failure, ended) = loop {
        let ended = machine.run(&noninteractive("apt-get", &REFRESH), "apt-get update")?;
        if ended.succeeded() {
            remember_refresh(&machine.state_dir())?;
            return Ok(true);
        }
        // apt waits for dpkg's lock but not for that of the lists.
        let locked = ended.tail.iter().any(|line| line.contains("Could not get lock"));
        if !locked || tries >= LOCK_TIME {
            break (machine.command_failure("apt-get update", &ended), ended);
        }
        tries += 1;
        machine.pause(Duration::from_secs(1))?;
    };
    if newest_list().is_some() {
        return Ok(false);
    }
    let resolving = ended.tail.iter().any(|line| line.contains("resolving") || line.contains("Failed to fetch"));
    Err(if resolving {
        failure.hint("the host cannot reach its package source; see /etc/apt/sources.list")
    } else {
        failure
    })
}

/// Those of the packages that no source offers.
fn unknown(machine: &Machine<'_>, packages: &[&str]) -> Result<Vec<String>, OpFailure> {
    let names: Vec<&str> = packages.iter().map(|text| text.split('=').next().unwrap_or(text)).collect();
    let job = Job::program("apt-cache", [&["policy"], names.as_slice()].concat());
    let (ended, output) = machine.collect(&job, "apt-cache policy")?;
    if !ended.succeeded() {
        return Err(machine.command_failure("apt-cache policy", &ended));
    }
    // Each known package begins a paragraph of its own: `name:` at the beginning of a line.
    let offered: Vec<&str> =
        output.lines().filter(|line| !line.starts_with(' ')).filter_map(|line| line.strip_suffix(':')).collect();
    Ok(names.into_iter().filter(|name| !is_offered(&offered, name)).map(str::to_owned).collect())
}

/// apt leaves the architecture out when it is the host's own.
fn is_offered(offered: &[&str], name: &str) -> bool {
    offered.contains(&name) || name.split_once(':').is_some_and(|(plain, _)| offered.contains(&plain))
}

fn quoted(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

const LISTS: &str = "/var/lib/apt/lists";

fn lists_are_old(state_dir: &Path) -> bool {
    let stamp = fs_err::metadata(stamp_path(state_dir)).and_then(|found| found.modified()).ok();
    let Some(newest) = newest_list().map(|list| stamp.map_or(list, |stamp| stamp.max(list))) else { return true };
    // A clock that was set back makes them look as if from the future: they are taken for old.
    newest.elapsed().is_ok_and(|age| age > FRESH) || newest > SystemTime::now() + FRESH
}

/// When apt last wrote lists; None when there are none.
fn newest_list() -> Option<SystemTime> {
    let is_list = |name: &std::ffi::OsStr| name.to_string_lossy().contains("_Packages");
    let has_lists = fs_err::read_dir(LISTS).ok()?.flatten().any(|entry| is_list(&entry.file_name()));
    if !has_lists {
        return None;
    }
    fs_err::metadata(LISTS).and_then(|found| found.modified()).ok()
}

/// apt leaves the times of lists alone that have not changed, so we keep our own.
fn remember_refresh(state_dir: &Path) -> Result<(), OpFailure> {
    make_state_dir(state_dir)?;
    let path = stamp_path(state_dir);
    let written: io::Result<()> = fs_err::write(&path, "");
    written.or_fail("write", path.display())
}

fn stamp_path(state_dir: &Path) -> std::path::PathBuf {
    state_dir.join("package-lists-refreshed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<Known> {
        let lines = "libc6\tamd64\tii \t2.36-9\tlibc6-compat (= 2)\n\
                     exim4\tall\tii \t4.96\tmail-transport-agent, default-mta\n\
                     gone\tamd64\trc \t1.0\t\n\
                     half\tamd64\tiF \t1.0\t\n\
                     held\tamd64\thi \t3\t\n";
        lines.lines().filter_map(known_of).collect()
    }

    fn is_satisfied(text: &str) -> bool {
        Wanted::parse(text).unwrap().is_satisfied(&known())
    }

    #[test]
    fn what_is_installed_is_told_from_what_is_not() {
        assert!(
            is_satisfied("libc6")
                && is_satisfied("libc6:amd64")
                && is_satisfied("libc6=2.36-9")
                && is_satisfied("held")
        );
        assert!(!is_satisfied("libc6:i386") && !is_satisfied("libc6=2.36-8"));
        assert!(!is_satisfied("gone") && !is_satisfied("half") && !is_satisfied("never-heard-of"));
    }

    #[test]
    fn a_virtual_package_is_there_when_a_provider_is() {
        assert!(is_satisfied("default-mta") && is_satisfied("libc6-compat"));
        assert!(!is_satisfied("default-mta=1"));
    }

    #[test]
    fn texts_that_apt_would_misread_are_refused() {
        assert!(Wanted::parse("g++").is_ok() && Wanted::parse("a=1:2.3~rc1-4+b5").is_ok());
        for bad in ["", "-y", "foo-", "foo*", "foo bar", "foo=", "foo;x", "foo/stable"] {
            assert_eq!(Wanted::parse(bad).unwrap_err().kind, FailureKind::BadInput, "{bad:?}");
        }
    }
}
