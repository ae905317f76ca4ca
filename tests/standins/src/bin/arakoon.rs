//! Stand-in for `arakoon`.

fn main() -> std::process::ExitCode {
    ovs_standins::arakoon_main(&std::env::args().skip(1).collect::<Vec<_>>())
}
