//! Stand-in for `failovercachehelper`.

fn main() -> std::process::ExitCode {
    ovs_standins::dtl_helper_main(&std::env::args().skip(1).collect::<Vec<_>>())
}
