//! Open vStorage on hosts that are there already, `inventory/ovs-host.toml`: a volumedriver that mounts on a machine reached
//! by SSH, QEMU there and on another one by the edge, and mounts that containers and machine share.
//!
//! The machines are containers that the test itself starts, with systemd, an SSH key of its own and FUSE: the program knows
//! them by their addresses only.

use std::{net::TcpStream, path::Path, process::Command};

use crate::{
    ovs_lab::{changed, standin_lab},
    support::{
        lab::{TestLab, docker, summary},
        wait::wait_for,
    },
};

/// Machines of a test, which go when it ends.
struct Machines {
    names: Vec<String>,
}

impl Machines {
    /// Starts machines that take this key.
    fn start(lab: &TestLab, names: &[&str], key: &Path) -> Self {
        let mut machines = Self { names: Vec::new() };
        for name in names {
            let name = lab.container(name);
            // What a lab's container with systemd and FUSE gets, too.
            let mut words = vec!["create", "--name", &name, "--hostname", &name, "--cgroupns", "private"];
            words.extend(["--cap-add", "SYS_ADMIN", "--device", "/dev/fuse", "--env", "OVS_CUISINE_KEEP=sys_admin"]);
            words.extend(["--tmpfs", "/run:exec", "--tmpfs", "/run/lock", "--stop-signal", "SIGRTMIN+3"]);
            words.push("ovs-cuisine/ssh:systemd");
            done(&words);
            machines.names.push(name.clone());
            for (from, to) in [("authorized_keys", "/root/.ssh/"), ("ssh_host_ed25519_key", "/etc/ssh/")] {
                let tar = format!(
                    "tar -C {} -c --owner=0 --group=0 {from} | docker cp - {name}:{to}",
                    key.parent().unwrap().display()
                );
                let copied = Command::new("sh").args(["-c", &tar]).output().unwrap();
                assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
            }
            done(&["start", &name]);
        }
        for name in names {
            machines_answer(lab, name);
        }
        machines
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for name in &self.names {
            docker(&["rm", "-f", "-v", name]);
        }
    }
}

/// Waits until sshd takes connections: the machine has to boot.
fn machines_answer(lab: &TestLab, name: &str) {
    wait_for("sshd", || TcpStream::connect((lab.address(name), 22)).ok());
}

/// Runs the engine's client and insists.
fn done(words: &[&str]) -> String {
    let output = docker(words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn keys(lab: &TestLab) -> std::path::PathBuf {
    let key = lab.path("login/id_ed25519");
    fs_err::create_dir_all(key.parent().unwrap()).unwrap();
    for file in [key.clone(), lab.path("login/ssh_host_ed25519_key")] {
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file).status().unwrap();
        assert!(made.success());
    }
    fs_err::copy(lab.path("login/id_ed25519.pub"), lab.path("login/authorized_keys")).unwrap();
    key
}

#[test]
fn a_volumedriver_and_qemu_on_machines_reached_by_ssh() {
    let lab = standin_lab("ovs-host");
    let key = keys(&lab);
    let _machines = Machines::start(&lab, &["vm-1", "vm-2"], &key);
    lab.edit("~/.ssh/id_ed25519", &key.display().to_string());
    for (name, example) in [("vm-1", "192.0.2.21"), ("vm-2", "192.0.2.22")] {
        lab.edit(example, &lab.address(name));
    }
    let events = lab.events(0, &["deploy", "LAB"]);
    for component in summary(&events)["components"].as_array().unwrap() {
        assert_eq!(component["healthy"], true, "{component}");
    }
    assert_eq!(changed(&lab.events(0, &["deploy", "LAB"])), Vec::<String>::new());
    lab.expect(0, &["plan", "LAB", "--exit-code"]);

    blocks_cross_between_mount_and_edge(&lab);
    what_the_machine_is(&lab);
    the_shared_mount_comes_back(&lab);
    health_tells_what_is_wrong(&lab);
}

fn blocks_cross_between_mount_and_edge(lab: &TestLab) {
    let disk = format!("openvstorage+tcp:{}:26203/disk1", lab.address("vm-1"));
    assert_eq!(lab.inside("vm-1", "stat -f -c %T /mnt/vp; stat -c %s /mnt/vp/disk1.raw"), "fuseblk\n67108864\n");
    lab.inside(
        "vm-1",
        "printf 'on the mount' | dd of=/mnt/vp/disk1.raw bs=1 seek=40960 conv=notrunc,fsync status=none",
    );
    for host in ["vm-1", "vm-2"] {
        lab.inside(host, &format!("qemu-img convert -f raw -O raw {disk} /var/tmp/image"));
        let read = lab.inside(host, "dd if=/var/tmp/image bs=1 skip=40960 count=12 status=none");
        assert_eq!(read, "on the mount", "{host}");
    }
    // And back: a machine without the mount writes, the mount has it.
    lab.inside("vm-2", "printf 'by the edge' | dd of=/var/tmp/image bs=1 seek=81920 conv=notrunc status=none");
    lab.inside("vm-2", &format!("qemu-img convert -n -f raw -O raw /var/tmp/image {disk}"));
    let read = lab.inside("vm-1", "dd if=/mnt/vp/disk1.raw bs=1 skip=81920 count=11 status=none");
    assert_eq!(read, "by the edge");
    lab.inside("vm-2", &format!("qemu-img create {} 4M", disk.replace("disk1", "made-by-vm-2")));
    assert_eq!(lab.inside("vm-1", "stat -c %s /mnt/vp/made-by-vm-2.raw").trim(), "4194304");
}

fn what_the_machine_is(lab: &TestLab) {
    for host in ["vm-1", "vm-2"] {
        assert_eq!(lab.inside(host, "cat /etc/modules-load.d/ovs-cuisine.conf"), "fuse\n");
        assert_eq!(lab.inside(host, "grep -cx user_allow_other /etc/fuse.conf"), "1\n");
        assert_eq!(lab.inside(host, "findmnt -n -o PROPAGATION /mnt/ovs").trim(), "shared");
        assert_eq!(lab.inside(host, "systemctl is-enabled ovs-shared-mnt-ovs").trim(), "enabled");
        let definition = lab.inside(host, "cat /etc/ovs-cuisine/disks/disk1.xml");
        assert!(definition.contains(&format!("<host name='{}' port='26203'", lab.address("vm-1"))), "{definition}");
    }
    // A login has the limits; the engine's own are the machine's hard ones here, so they may be lower.
    let wanted = "* - nofile 65536\nroot - nofile 65536\n* - memlock unlimited\nroot - memlock unlimited\n";
    assert_eq!(lab.inside("vm-1", "cat /etc/security/limits.d/ovs-cuisine.conf"), wanted);
}

fn the_shared_mount_comes_back(lab: &TestLab) {
    // Somebody unmounts it: the next deploy finds out and mends just that.
    lab.inside("vm-2", "umount /mnt/ovs");
    let events = lab.events(0, &["deploy", "LAB", "--only", "machines"]);
    let mended = changed(&events);
    assert!(
        mended.len() == 1 && mended[0].starts_with("vm-2: run /usr/local/lib/ovs-cuisine/shared-mount up /mnt/ovs"),
        "{mended:?}"
    );
    // A boot.
    done(&["restart", &lab.container("vm-2")]);
    wait_for("the mount after a boot", || {
        let shown = docker(&["exec", &lab.container("vm-2"), "findmnt", "-n", "-o", "PROPAGATION", "/mnt/ovs"]);
        (String::from_utf8_lossy(&shown.stdout).trim() == "shared").then_some(())
    });
    machines_answer(lab, "vm-2");
    lab.edit(&old_address(lab), &lab.address("vm-2"));
    assert_eq!(changed(&lab.events(0, &["deploy", "LAB", "--only", "machines"])), Vec::<String>::new());
}

/// The address of vm-2 as the inventory has it: a container may get another one at its next start.
fn old_address(lab: &TestLab) -> String {
    let text = fs_err::read_to_string(lab.path("lab.toml")).unwrap();
    let (_, rest) = text.split_once("[host.vm-2]\nssh = { address = \"").unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

fn health_tells_what_is_wrong(lab: &TestLab) {
    // One that is private is not seen by containers, whatever the unit says; only trying it tells.
    lab.inside("vm-2", "mount --make-private /mnt/ovs");
    let plan = lab.run(&["plan", "LAB", "--only", "machines", "--exit-code"]);
    assert_eq!(plan.status, 10, "{plan:?}");
    lab.expect(0, &["deploy", "LAB", "--only", "machines"]);
    // One that would hide what is mounted below it: the reason is the machine's own.
    lab.inside("vm-2", "mkdir -p /srv/busy/data && mount -t tmpfs none /srv/busy/data");
    lab.edit("volumedriver = \"vd\"", "volumedriver = \"vd\"\nshared = \"/srv/busy\"");
    let busy = lab.expect(40, &["deploy", "LAB", "--only", "machines"]);
    assert!(busy.stderr.contains("/srv/busy cannot become a shared mount") && busy.stderr.contains("vm-2"), "{busy:?}");
    lab.edit("shared = \"/srv/busy\"\n", "");
    lab.edit("volumedriver = \"vd\"", "volumedriver = \"vd\"\ndisks = [\"absent\"]");
    let run = lab.expect(40, &["deploy", "LAB", "--only", "machines"]);
    assert!(run.stderr.contains("Could not open") && run.stderr.contains("26203/absent"), "{run:?}");
}

/// A directory of the machine whose mounts are shared, made by the recipe's own program; it goes when the test ends.
struct Shared(tempfile::TempDir);

impl Shared {
    fn program(mode: &str, directory: &Path) -> std::process::Output {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/vm-host/shared-mount");
        Command::new(program).arg(mode).arg(directory).output().unwrap()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let path = self.0.path();
        let mounts = fs_err::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut below: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        below.retain(|place| Path::new(place).starts_with(path));
        for place in below.iter().rev() {
            Command::new("umount").args(["-l", place]).status().ok();
        }
    }
}

#[test]
fn what_a_container_mounts_is_seen_on_the_machine_and_in_another_container() {
    let shared = Shared(tempfile::tempdir().unwrap());
    let path = shared.0.path();
    if let Err(why) = may_mount(path) {
        eprintln!("not run: this machine may not mount: {why}");
        return;
    }
    for _ in 0..2 {
        let up = Shared::program("up", path);
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    }
    let mounts = fs_err::read_to_string("/proc/self/mounts").unwrap();
    assert_eq!(mounts.matches(&format!(" {} ", path.display())).count(), 1, "twice up is once mounted");
    let probe = Shared::program("probe", path);
    assert!(probe.status.success(), "{}", String::from_utf8_lossy(&probe.stderr));
    assert_eq!(fs_err::read_dir(path).unwrap().count(), 0, "the probe leaves nothing");

    // What is mounted below would be hidden: told, and nothing is done.
    let below = tempfile::tempdir_in(path).unwrap();
    let inner = below.path().join("inner");
    fs_err::create_dir(&inner).unwrap();
    assert!(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&inner).status().unwrap().success());
    let covered = Shared::program("up", below.path());
    assert!(Command::new("umount").arg(&inner).status().unwrap().success());
    assert!(String::from_utf8_lossy(&covered.stderr).contains("cannot become a shared mount"), "{covered:?}");
    drop(below);

    let lab = standin_lab("ovs-host");
    let body = format!(
        "[host.one]\ncontainer = {{ fuse = true, volumes = [\"{0}:/mnt:rshared\", \"storage:/mnt/storage\"] }}\n\n\
         [host.two]\ncontainer = {{ volumes = [\"{0}:/mnt/ovs:rslave\"] }}\n\n\
         [component.etcd]\nrecipe = \"etcd\"\nhosts = [\"one\"]\n\n\
         [component.voldrv]\nrecipe = \"arakoon\"\nhosts = [\"one\"]\nneeds = [\"etcd\"]\n\
         params = {{ build = \"standins/arakoon\", cluster = \"voldrv\", type = \"SD\", client_port = 26404 }}\n\n\
         [component.vd]\nrecipe = \"volumedriver\"\nhosts = [\"one\"]\nneeds = [\"voldrv\"]\n\n\
         [component.vd.params]\nbuild = \"standins/volumedriver\"\nvpool = \"vp\"\nproxy = \"\"\n\
         disks = {{ disk1 = \"16MiB\" }}\ncache_size = \"1GiB\"\ntrigger_gap = \"128MB\"\nbackoff_gap = \"256MB\"\nopen_files = 8192\n\
         limit_memlock = \"\"\npython = \"/usr/bin/python3\"\npython_packages = [\"python3\"]\n\n\
         [component.machine]\nrecipe = \"vm-host\"\nhosts = [\"one\"]\nneeds = [\"vd\"]\n\
         params = {{ shared = \"/srv/shared\", qemu_packages = [], volumedriver = \"vd\" }}\n",
        path.display()
    );
    lab.inventory(&body);
    lab.expect(0, &["deploy", "LAB"]);
    lab.inside("one", "printf inside | dd of=/mnt/vp/disk1.raw bs=1 seek=4096 conv=notrunc,fsync status=none");
    let outside = path.join("vp/disk1.raw");
    assert_eq!(&fs_err::read(&outside).unwrap()[4096..4102], b"inside");
    let read = "dd if=/mnt/ovs/vp/disk1.raw bs=1 skip=4096 count=6 status=none";
    assert_eq!(lab.inside("two", read), "inside");
    // A volumedriver that restarts mounts anew, and is seen anew.
    lab.inside("one", "sv -w 60 restart ovs-volumedriver_vp");
    wait_for("the mount in the other container", || {
        let shown = docker(&["exec", &lab.container("two"), "sh", "-c", read]);
        (shown.stdout == b"inside").then_some(())
    });
    // A machine without systemd has a service that keeps the shared mount.
    lab.inside("one", "umount /srv/shared");
    assert_eq!(changed(&lab.events(0, &["deploy", "LAB", "--only", "machine"])).len(), 1);
    assert_eq!(changed(&lab.events(0, &["deploy", "LAB", "--only", "machine"])), Vec::<String>::new());
    lab.expect(0, &["down", "LAB", "--volumes", "--yes"]);
}

/// Whether a mount can be made here at all, tried where nothing else is.
fn may_mount(path: &Path) -> Result<(), String> {
    let tried = Command::new("unshare").args(["--mount", "mount", "--bind"]).args([path, path]).output();
    let tried = tried.map_err(|error| error.to_string())?;
    if tried.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&tried.stderr).into_owned()) }
}
