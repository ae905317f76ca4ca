//! Runs a program as another user, or a shell script that no process listing may show. It is this program itself,
//! started again: only a process with a single thread can change who it is without `unsafe`.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, ExitCode},
};

use rustix::{
    fs::MemfdFlags,
    process::{Gid, Uid},
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};

use super::command_line::complain;

/// The hidden first argument.
pub(super) const COMMAND: &str = "become";
/// In place of a program: a script comes on standard input, after its length.
const SCRIPT: &str = "script";
const PROGRAM: &str = "program";
/// What a shell says when it finds a program but cannot run it (POSIX, 2.8.2).
const CANNOT_RUN: u8 = 126;
/// Longest script in bytes.
const MAX_SCRIPT: u64 = 16 * 1024 * 1024;

/// Who a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// User id.
    pub(crate) uid: u32,
    /// Primary group id.
    pub(crate) gid: u32,
    /// Supplementary group ids.
    pub(crate) groups: Vec<u32>,
}

/// The command line that runs `argv` as `identity`, or as the helper's own user.
pub(crate) fn program_arguments(identity: Option<&Identity>, argv: &[String]) -> Vec<String> {
    let mut arguments = head(identity);
    arguments.push(PROGRAM.to_owned());
    arguments.extend_from_slice(argv);
    arguments
}

/// The command line that runs a script, which then has to be the beginning of standard input: see [`frame_script`].
pub(crate) fn script_arguments(identity: Option<&Identity>) -> Vec<String> {
    let mut arguments = head(identity);
    arguments.push(SCRIPT.to_owned());
    arguments
}

/// A script as the beginning of standard input. What follows it is the script's own standard input.
pub(crate) fn frame_script(script: &str) -> Vec<u8> {
    let mut bytes = (script.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(script.as_bytes());
    bytes
}

fn head(identity: Option<&Identity>) -> Vec<String> {
    let who = identity.map_or_else(
        || "-".to_owned(),
        |identity| {
            let groups: Vec<String> = identity.groups.iter().map(u32::to_string).collect();
            format!("{}:{}:{}", identity.uid, identity.gid, groups.join(","))
        },
    );
    vec![COMMAND.to_owned(), who]
}

/// Becomes the user and then the program. Comes back only when that fails.
pub(super) fn run(arguments: &[OsString]) -> ExitCode {
    let error = match take_over(arguments) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    complain(&error.to_string(), CANNOT_RUN)
}

fn take_over(arguments: &[OsString]) -> io::Result<std::convert::Infallible> {
    let [who, what, argv @ ..] = arguments else {
        return Err(io::Error::other("`become` needs an identity and a program"));
    };
    let script = (what == SCRIPT).then(read_script).transpose()?;
    if who != "-" {
        let identity = parse(who).ok_or_else(|| io::Error::other("`become` needs an identity uid:gid:groups"))?;
        assume(&identity)?;
    }
    let mut command = match (&script, argv) {
        (Some(script), []) => {
            let mut command = Command::new("/bin/sh");
            command.arg(format!("/proc/self/fd/{}", script.as_raw_fd()));
            command
        }
        (None, [program, rest @ ..]) => {
            let mut command = Command::new(program);
            command.args(rest);
            command
        }
        _ => return Err(io::Error::other("`become` needs a script or a program")),
    };
    let error = command.exec();
    Err(io::Error::new(error.kind(), format!("cannot run `{}`: {error}", command.get_program().display())))
}

fn parse(who: &OsStr) -> Option<Identity> {
    let mut parts = who.to_str()?.split(':');
    let (uid, gid, groups) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?);
    let groups = groups.split(',').filter(|group| !group.is_empty()).map(|group| group.parse().ok());
    Some(Identity { uid, gid, groups: groups.collect::<Option<_>>()? })
}

/// Groups first and the user last: after that there is no right to change the groups.
fn assume(identity: &Identity) -> io::Result<()> {
    let named = |what: &str, error: rustix::io::Errno| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("cannot set the {what}: {error}"))
    };
    let groups: Vec<Gid> = identity.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    set_thread_groups(&groups).map_err(|error| named("groups", error))?;
    set_thread_gid(Gid::from_raw(identity.gid)).map_err(|error| named("group", error))?;
    set_thread_uid(Uid::from_raw(identity.uid)).map_err(|error| named("user", error))
}

/// Moves the script from standard input into a file without a name, which the shell inherits. Reads not one byte more:
/// the rest belongs to the script.
fn read_script() -> io::Result<OwnedFd> {
    // A file of its own: the standard library's would read ahead.
    let mut input = std::fs::File::from(rustix::io::dup(rustix::stdio::stdin())?);
    let mut length = [0; 8];
    input.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_SCRIPT {
        return Err(io::Error::other("the script is too long"));
    }
    // Without CLOEXEC: the shell opens it by number.
    let script = rustix::fs::memfd_create("script", MemfdFlags::empty())?;
    let mut file = std::fs::File::from(script);
    if io::copy(&mut Read::by_ref(&mut input).take(length), &mut file)? < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    file.flush()?;
    Ok(file.into())
}
