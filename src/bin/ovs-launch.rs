//! Runs one service from its etcd link: `ovs-launch etcd://user:password@host:2379/node` or `ovs-launch @FILE`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ovs_cuisine::launch::main(std::env::args_os())
}
