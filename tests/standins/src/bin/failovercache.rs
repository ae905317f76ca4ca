//! Stand-in for `failovercache`.

fn main() -> std::process::ExitCode {
    ovs_standins::dtl_main(&std::env::args().skip(1).collect::<Vec<_>>())
}
