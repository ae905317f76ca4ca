//! What the program can be asked for on its command line.

use std::{ffi::OsString, io::Write, process::ExitCode};

use super::{become_user, receive, serve};

const HELP: &str = "\
The far side of ovs-cuisine. It is placed on hosts and started by ovs-cuisine itself.

Usage: cuisine-helper serve NONCE     speak the protocol on standard input and output
       cuisine-helper receive         put one copy into place on this machine, from standard input
       cuisine-helper --self-check    print the BLAKE3 digest of this program
       cuisine-helper --version
       cuisine-helper --help
";

/// Runs the program with its arguments (without the program's name) and gives its exit status: 0 when all went well,
/// 1 when the channel broke or a defect was met, 2 for a wrong command line.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let words: Vec<&str> = arguments.iter().map_while(|word| word.to_str()).collect();
    match words.as_slice() {
        ["serve", nonce] if arguments.len() == 2 => serve::serve(nonce),
        ["receive"] if arguments.len() == 1 => receive::receive(),
        [become_user::COMMAND, ..] => become_user::run(&arguments[1..]),
        ["--self-check"] => match self_digest() {
            Ok(digest) => answer(&format!("{digest}\n")),
            Err(error) => complain(&format!("cannot read this program: {error}"), 1),
        },
        ["--version"] => answer(concat!("cuisine-helper ", env!("CARGO_PKG_VERSION"), "\n")),
        ["--help"] => answer(HELP),
        _ => complain("wrong arguments; see `cuisine-helper --help`", 2),
    }
}

/// BLAKE3 of the program file that is running, by which the near side names it.
fn self_digest() -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut fs_err::File::open("/proc/self/exe")?, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn answer(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Says on standard error what went wrong; the near side keeps its last lines.
pub(super) fn complain(why: &str, status: u8) -> ExitCode {
    // A standard error that is gone leaves nobody to tell.
    let _ = writeln!(std::io::stderr(), "cuisine-helper: {why}");
    ExitCode::from(status)
}
