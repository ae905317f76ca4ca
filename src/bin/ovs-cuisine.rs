//! The near side's program: provisions machines over SSH.

use std::process::ExitCode;

fn main() -> ExitCode {
    ovs_cuisine::control::cli::main()
}
