//! Who holds the lab's lock: in words for people, and so that the same machine can tell whether that process still runs.

use std::{
    collections::BTreeSet,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

/// Where a process is: numbers of processes mean something within one boot and one PID namespace only.
static PLACE: LazyLock<Option<String>> = LazyLock::new(|| {
    let boot = fs_err::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs_err::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{}/{}", boot.trim(), namespace.display()))
});

/// Who we are, for the run that has to wait for us: `alice@laptop (process 4711)`.
pub(super) fn owner() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "somebody".to_owned());
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{user}@{machine} (process {})", std::process::id())
}

/// Marks of this process that are in use.
static MARKS: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

fn marks() -> MutexGuard<'static, BTreeSet<u64>> {
    MARKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One holder of a lock; gone when dropped.
pub(super) struct Mark(u64);

impl Mark {
    /// Another one than all before it.
    pub(super) fn new() -> Self {
        let mark = rand::random();
        marks().insert(mark);
        Self(mark)
    }

    /// The lock's value: a line for people and one for [`is_gone`].
    pub(super) fn value(&self) -> String {
        let process = std::process::id();
        match (&*PLACE, started(process)) {
            (Some(place), Some(start)) => format!("{}\n{place} {process} {start} {}", owner(), self.0),
            _ => owner(),
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        marks().remove(&self.0);
    }
}

/// Who wrote this value, for people.
pub(super) fn name(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let line: String = text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect();
    if line.is_empty() { "another run".to_owned() } else { line }
}

/// Whether whoever wrote this value does not hold the lock any more: its process has ended, or is this one and let go of
/// it without etcd having heard. False when that cannot be told.
pub(super) fn is_gone(value: &[u8]) -> bool {
    let text = String::from_utf8_lossy(value);
    let words: Vec<&str> = text.split_once('\n').map_or_else(Vec::new, |(_, mark)| mark.split(' ').collect());
    let [place, process, start, mark] = words[..] else { return false };
    let (Ok(process), Ok(mark)) = (process.parse::<u32>(), mark.parse::<u64>()) else { return false };
    if Some(place) != PLACE.as_deref() {
        return false;
    }
    match started(process) {
        Some(found) if found == start => process == std::process::id() && !marks().contains(&mark),
        _ => true,
    }
}

/// When a process started, in ticks since the boot (proc(5), field 22 of `stat`): with its number it is one of a kind.
/// None when there is no such process.
fn started(process: u32) -> Option<String> {
    let stat = fs_err::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(process: u32, start: &str) -> Vec<u8> {
        format!("me@here\n{} {process} {start} 1", PLACE.as_deref().unwrap()).into_bytes()
    }

    #[test]
    fn processes_of_this_machine_are_known_to_have_ended() {
        let parent = std::os::unix::process::parent_id();
        let start = started(parent).unwrap();
        assert!(!is_gone(&marked(parent, &start)), "the one that runs the test runs");
        assert!(is_gone(&marked(parent, &format!("{start}0"))), "another process with the same number");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let (process, start) = (child.id(), started(child.id()).unwrap());
        child.wait().unwrap();
        assert!(is_gone(&marked(process, &start)));
    }

    #[test]
    fn this_process_knows_what_it_holds() {
        let mark = Mark::new();
        let value = mark.value();
        assert_eq!(name(value.as_bytes()), owner());
        assert!(!is_gone(value.as_bytes()), "{value}");
        drop(mark);
        assert!(is_gone(value.as_bytes()), "left behind: {value}");
    }

    #[test]
    fn nobody_knows_of_other_machines_and_older_versions() {
        for value in ["", "somebody@elsewhere", "a@b\n", "a@b\nx", "a@b\nother/pid:[1] 1 1 1", "a@b\n   "] {
            assert!(!is_gone(value.as_bytes()), "{value:?}");
        }
        assert_eq!((name(b""), name(b"a@\x1bb\nrest")), ("another run".to_owned(), "a@b".to_owned()));
    }
}
