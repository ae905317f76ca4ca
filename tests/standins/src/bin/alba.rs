//! Stand-in for `alba`.

fn main() -> std::process::ExitCode {
    ovs_standins::alba_main(&std::env::args().skip(1).collect::<Vec<_>>())
}
