//! One run at a time on a host. The kernel frees the lock of an owner that died.

use std::{
    io::{Read, Seek, Write},
    os::unix::fs::DirBuilderExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

use super::{
    failure::{OrFail, io_failure},
    stop::Stop,
};
use crate::plan::{FailureKind, OpFailure};

/// How often a held lock is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// Longest text about an owner in bytes.
const MAX_OWNER: u64 = 512;

/// The host's lock, held until dropped.
#[derive(Debug)]
pub(crate) struct HostLock {
    file: std::fs::File,
}

impl Drop for HostLock {
    fn drop(&mut self) {
        // Said aloud: a command that is being started this moment holds a copy of the file until it is running, and
        // would hold the lock with it.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl HostLock {
    /// Takes the lock, waiting for at most `wait`. Fails with [`FailureKind::Locked`], naming the owner.
    pub(crate) fn take(state_dir: &Path, owner: &str, wait: Duration, stop: &Stop) -> Result<Self, OpFailure> {
        make_state_dir(state_dir)?;
        let path = state_dir.join("lock");
        let mut options = fs_err::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        fs_err::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&path).or_fail("open", path.display())?.into_parts().0;
        let until = Instant::now().checked_add(wait);
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(io_failure("lock", path.display(), &error.into())),
            }
            if stop.is_set() {
                return Err(OpFailure::new(
                    FailureKind::Cancelled,
                    "the run was cancelled while it waited for the host's lock",
                ));
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(held(&mut file, wait));
            }
            thread::sleep(RETRY);
        }
        write_owner(&mut file, owner).or_fail("write", path.display())?;
        Ok(Self { file })
    }
}

/// The folder of the helper's state; only its user may look into it.
pub(crate) fn make_state_dir(state_dir: &Path) -> Result<(), OpFailure> {
    if state_dir.is_dir() {
        return Ok(());
    }
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(state_dir).or_fail("create", state_dir.display())
}

fn write_owner(file: &mut std::fs::File, owner: &str) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    let text: String = owner.chars().filter(|letter| !letter.is_control()).take(200).collect();
    write!(file, "{text} (helper process {})", std::process::id())
}

fn held(file: &mut std::fs::File, wait: Duration) -> OpFailure {
    let mut owner = String::new();
    let read = file.rewind().and_then(|()| file.take(MAX_OWNER).read_to_string(&mut owner));
    let owner = if read.is_ok() && !owner.is_empty() { owner.as_str() } else { "another run" };
    OpFailure::new(FailureKind::Locked, format!("the host is locked by {owner}; waited {} s", wait.as_secs()))
        .hint("wait for the other run to end, or stop it: its lock goes with it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is_and_gets_the_lock_when_it_is_free() {
        let state = tempfile::tempdir().unwrap();
        let stop = Stop::default();
        let first = HostLock::take(state.path(), "alice@laptop, run 7f3a", Duration::ZERO, &stop).unwrap();
        let refused = HostLock::take(state.path(), "bob", Duration::ZERO, &stop).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Locked);
        assert!(refused.message.contains("alice@laptop, run 7f3a"), "{}", refused.message);
        drop(first);
        HostLock::take(state.path(), "bob", Duration::ZERO, &stop).unwrap();
    }
}
