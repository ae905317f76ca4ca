//! The second half of starting a process: the launcher runs itself once more, becomes the user, and then the process.
//!
//! Between fork and exec only unsafe code can run; a second program can do it all safely. It sets the supplementary
//! groups (the standard library can only drop them) and asks the kernel to end the process with the launcher.

use std::{ffi::OsString, io, os::unix::process::CommandExt as _, process::Command};

use rustix::{
    process::{Gid, Signal, Uid, getppid, set_parent_process_death_signal},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use super::{account::Account, say::say};

/// The identity as it stands in the second half's arguments: `PARENT:UID:GID,GID...`, or `PARENT` to stay who we are.
pub(super) fn identity(account: Option<&Account>) -> String {
    let parent = std::process::id();
    match account {
        None => parent.to_string(),
        Some(account) => {
            let groups: Vec<String> = account.groups.iter().map(u32::to_string).collect();
            format!("{parent}:{}:{}", account.uid, groups.join(","))
        }
    }
}

/// Becomes the user and then the process. Returns only on failure, with the exit code that a shell would use.
pub(super) fn become_process(identity: &str, argv: &[OsString]) -> u8 {
    if let Err(error) = take(identity) {
        say(format_args!("cannot become the process's user: {error}"));
        return 126;
    }
    let Some((program, arguments)) = argv.split_first() else {
        return 126;
    };
    let error = Command::new(program).args(arguments).exec();
    say(format_args!("cannot run `{}`: {error}", program.display()));
    if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
}

/// This program has one thread here, so what is set for the thread is set for the process.
fn take(identity: &str) -> io::Result<()> {
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, "bad identity");
    let mut parts = identity.split(':');
    let parent: i32 = parts.next().and_then(|text| text.parse().ok()).ok_or_else(bad)?;
    if let Some(uid) = parts.next() {
        let uid = Uid::from_raw(uid.parse().map_err(|_| bad())?);
        let groups = parts.next().ok_or_else(bad)?.split(',').map(|gid| gid.parse().map(Gid::from_raw));
        let groups = groups.collect::<Result<Vec<Gid>, _>>().map_err(|_| bad())?;
        let gid = *groups.first().ok_or_else(bad)?;
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
    }
    // After the change of user: the kernel forgets it then. It survives the exec.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The launcher may have died before that; then nobody would ever end the process.
    if getppid().map(rustix::process::Pid::as_raw_pid) != Some(parent) {
        return Err(io::Error::other("the launcher has ended"));
    }
    Ok(())
}
