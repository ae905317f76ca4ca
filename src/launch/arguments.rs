//! The command line. Seven words: a parser crate would double the program.

use std::{ffi::OsString, net::SocketAddr};

use super::failure::Failure;

/// What to do with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Render, run, follow.
    Serve,
    /// Render and end.
    Once,
    /// Say what would be done.
    Check,
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Something about a link: `etcd://...` or `@FILE`.
    Launch { mode: Mode, link: OsString },
    /// Serve etcd's v2 API at this address with the link's login.
    ServeV2 { address: SocketAddr, link: OsString },
    /// Print the help.
    Help,
    /// Print the version.
    Version,
    /// Second half of starting a process: see [`super::switch`].
    Become { identity: String, argv: Vec<OsString> },
}

pub(super) const HELP: &str = "\
Runs one service from its etcd link: reads its configuration, renders its files, runs its process,
and follows every change.

Usage: ovs-launch [--check | --once] LINK
       ovs-launch --serve-v2 ADDRESS:PORT [--beyond-loopback] LINK

LINK is `etcd://user:password@host:2379/node`, or `@FILE` for a file with that one line, mode 0600
and owned by root or the caller, so that the password stands in no process list.

  --check     say what would be rendered and run, change nothing
  --once      render the files and end
  --serve-v2  serve etcd's v2 HTTP API, with the login of the link, to programs that know no other;
              whoever can connect has that login, so only a loopback address is taken unless
              --beyond-loopback is given too
  --help      this text
  --version   the version

Exit codes: that of the process, or 128 and the number of the signal that ended it; 64 wrong usage,
65 bad or missing description, 66 unreadable link file or CA, 67 unknown user, 69 etcd does not
answer (only with --check and --once: a service waits), 71 operating system, 73 a file cannot be
rendered, 75 a command before the start failed, 77 login or permission refused, 78 link file open to
others, 126 and 127 as in a shell.

Under the name `etcdctl` it does what arakoon and alba ask of that program: `--peers=HOST:PORT get
--quorum PATH` and `--peers=HOST:PORT set PATH VALUE`, with the v2 API.
";

/// The hidden first word of the second half.
pub(super) const BECOME: &str = "--become";

pub(super) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Request, Failure> {
    let mut arguments = arguments.peekable();
    if arguments.peek().is_some_and(|first| first == BECOME) {
        let mut rest = arguments.skip(1);
        let identity = rest.next().and_then(|text| text.into_string().ok());
        let argv: Vec<OsString> = rest.collect();
        return match identity {
            Some(identity) if !argv.is_empty() => Ok(Request::Become { identity, argv }),
            _ => Err(Failure::Usage(format!("`{BECOME}` is for the launcher itself"))),
        };
    }
    let (mut mode, mut link, mut serve, mut beyond) = (Mode::Serve, None, None, false);
    while let Some(argument) = arguments.next() {
        // An argument may be a link with its password: messages quote only what begins with a dash.
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(Request::Help),
            Some("--version" | "-V") => return Ok(Request::Version),
            Some("--check") if mode == Mode::Serve => mode = Mode::Check,
            Some("--once") if mode == Mode::Serve => mode = Mode::Once,
            Some("--check" | "--once") => return Err(usage("only one of `--check` and `--once` can be given")),
            Some("--serve-v2") if serve.is_none() => serve = Some(address(arguments.next().as_ref())?),
            Some("--beyond-loopback") => beyond = true,
            Some(option) if option.starts_with('-') => return Err(usage(&format!("unknown option `{option}`"))),
            _ if link.is_some() => return Err(usage("only one link can be given")),
            _ => link = Some(argument),
        }
    }
    let link = link.ok_or_else(|| usage("the link is missing"))?;
    match serve {
        Some(address) if mode == Mode::Serve && (beyond || address.ip().is_loopback()) => {
            Ok(Request::ServeV2 { address, link })
        }
        Some(_) if mode != Mode::Serve => Err(usage("`--serve-v2` has no `--check` and no `--once`")),
        Some(address) => {
            let why = "whoever can connect has the link's login; `--beyond-loopback` says that this is meant";
            Err(usage(&format!("`{address}` is no loopback address: {why}")))
        }
        None if beyond => Err(usage("`--beyond-loopback` needs `--serve-v2`")),
        None => Ok(Request::Launch { mode, link }),
    }
}

fn address(text: Option<&OsString>) -> Result<SocketAddr, Failure> {
    let parsed = text.and_then(|text| text.to_str()).and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| usage("`--serve-v2` needs an address and a port: `127.0.0.1:2379`"))
}

fn usage(text: &str) -> Failure {
    Failure::Usage(format!("{text}; `ovs-launch --help` says more"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Request, Failure> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn words_are_understood() {
        let launch = |mode| Request::Launch { mode, link: "@/x".into() };
        assert_eq!(read(&["@/x"]).unwrap(), launch(Mode::Serve));
        assert_eq!(read(&["--check", "@/x"]).unwrap(), launch(Mode::Check));
        assert_eq!(read(&["@/x", "--once"]).unwrap(), launch(Mode::Once));
        assert_eq!(read(&["--help"]).unwrap(), Request::Help);
        for (words, address) in [
            (&["--serve-v2", "127.0.0.1:2379", "@/x"][..], "127.0.0.1:2379"),
            (&["@/x", "--serve-v2", "[::1]:1"], "[::1]:1"),
            (&["--beyond-loopback", "--serve-v2", "0.0.0.0:1", "@/x"], "0.0.0.0:1"),
        ] {
            let expected = Request::ServeV2 { address: address.parse().unwrap(), link: "@/x".into() };
            assert_eq!(read(words).unwrap(), expected);
        }
        let argv = vec!["/bin/x".into(), "--help".into()];
        assert_eq!(
            read(&["--become", "-", "/bin/x", "--help"]).unwrap(),
            Request::Become { identity: "-".into(), argv }
        );
    }

    #[test]
    fn wrong_words_are_refused_without_quoting_a_link() {
        for words in [
            &[][..],
            &["--nope"],
            &["a", "b"],
            &["--check", "--once", "x"],
            &["--become", "-"],
            &["--serve-v2", "x"],
            &["--serve-v2", "localhost:1", "x"],
            &["--serve-v2", "127.0.0.1:1"],
            &["--serve-v2", "127.0.0.1:1", "--once", "x"],
            &["--serve-v2", "127.0.0.1:1", "--serve-v2", "127.0.0.1:2", "x"],
            &["--serve-v2", "10.0.0.1:1", "x"],
            &["--serve-v2", "0.0.0.0:1", "x"],
            &["--beyond-loopback", "x"],
        ] {
            assert_eq!(read(words).unwrap_err().code(), 64, "{words:?}");
        }
        let error = read(&["etcd://u:canary@h/n", "etcd://u:canary@h/n"]).unwrap_err();
        assert!(!error.line().contains("canary"));
    }
}
