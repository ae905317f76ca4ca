//! Stand-in for a `qemu-img` that knows `openvstorage`.

fn main() -> std::process::ExitCode {
    ovs_standins::qemu_img_main(&std::env::args().skip(1).collect::<Vec<_>>())
}
