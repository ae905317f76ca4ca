//! The far side's program: `cuisine-helper serve NONCE` speaks on standard input and output.

use std::process::ExitCode;

fn main() -> ExitCode {
    ovs_cuisine::helper::main(std::env::args_os().skip(1))
}
