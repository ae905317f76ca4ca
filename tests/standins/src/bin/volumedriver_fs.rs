//! Stand-in for `volumedriver_fs`.

fn main() -> std::process::ExitCode {
    ovs_standins::volumedriver_main(&std::env::args().skip(1).collect::<Vec<_>>())
}
