//! Finds out what this host is. Reads files of the kernel and of the distribution only; starts no program but `getent`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    path::{Path, PathBuf},
};

use super::accounts::{Accounts, User};
use crate::plan::{Distribution, Facts, InitSystem, PackageManager, Principal};

/// Gathers the facts. What cannot be found out is empty.
pub(crate) fn gather(accounts: &Accounts) -> Facts {
    let system = rustix::system::uname();
    let text = |value: &std::ffi::CStr| value.to_string_lossy().into_owned();
    let uid = rustix::process::geteuid().as_raw();
    let user = accounts.user(&Principal::Id(uid)).ok().flatten();
    let home = home(user.as_ref());
    Facts {
        hostname: text(system.nodename()),
        distribution: distribution(
            &read("/etc/os-release").or_else(|| read("/usr/lib/os-release")).unwrap_or_default(),
        ),
        arch: text(system.machine()),
        kernel: text(system.release()),
        cpus: std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        memory: memory(&read("/proc/meminfo").unwrap_or_default()),
        init: init(),
        packages: if find_program("apt-get").is_some() { PackageManager::Apt } else { PackageManager::None },
        addresses: addresses(),
        user: user.map_or_else(|| uid.to_string(), |user| user.name),
        uid,
        state_dir: state_dir(uid, &home, std::env::var_os("XDG_STATE_HOME").map(PathBuf::from)).display().to_string(),
        home,
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        machine_id: line("/etc/machine-id"),
        container: is_container(),
    }
}

/// The program's full path in the directories where commands are looked for.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let runs = |path: &Path| {
        fs_err::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_absolute() && runs(path));
    }
    super::process::PATH.split(':').map(|directory| Path::new(directory).join(name)).find(|path| runs(path))
}

fn read(path: &str) -> Option<String> {
    fs_err::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn line(path: &str) -> String {
    read(path).unwrap_or_default().trim().to_owned()
}

fn home(user: Option<&User>) -> String {
    match user {
        Some(user) if user.home.starts_with('/') => user.home.clone(),
        _ => "/".to_owned(),
    }
}

fn state_dir(uid: u32, home: &str, xdg_state_home: Option<PathBuf>) -> PathBuf {
    if uid == 0 {
        return PathBuf::from("/var/lib/ovs-cuisine");
    }
    // The XDG specification wants relative paths ignored.
    let base = xdg_state_home.filter(|path| path.is_absolute());
    base.unwrap_or_else(|| Path::new(home).join(".local/state")).join("ovs-cuisine")
}

/// From `os-release(5)`.
fn distribution(text: &str) -> Distribution {
    let value = |key: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
    };
    Distribution {
        id: value("ID"),
        like: value("ID_LIKE").split_whitespace().map(str::to_owned).collect(),
        version: value("VERSION_ID"),
        codename: value("VERSION_CODENAME"),
    }
}

/// `MemTotal` of `/proc/meminfo` in bytes.
fn memory(text: &str) -> u64 {
    let kib =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.unwrap_or(0u64).saturating_mul(1024)
}

/// The service manager. Containers may put a tiny init before it (`docker run --init`), which is looked through.
fn init() -> InitSystem {
    match init_named(&line("/proc/1/comm")) {
        InitSystem::None if runsvdir().is_some() => InitSystem::Runit,
        found => found,
    }
}

fn init_named(command: &str) -> InitSystem {
    match command {
        "systemd" => InitSystem::Systemd,
        // `runit` may be named `init` by a link; its sockets tell, and the running `runsvdir` does.
        "runit" | "runsvdir" | "runit-init" => InitSystem::Runit,
        _ => InitSystem::None,
    }
}

/// The command line of the outermost `runsvdir` that runs under process 1, or is process 1 itself.
pub(crate) fn runsvdir() -> Option<Vec<String>> {
    let words = fs_err::read(format!("/proc/{}/cmdline", runsvdir_process()?)).ok()?;
    Some(words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

/// The process of the machine's own `runsvdir`.
pub(crate) fn runsvdir_process() -> Option<u32> {
    let is_first = |pid: u32| {
        let stat = read(&format!("/proc/{pid}/stat")).unwrap_or_default();
        // The command's name may hold blanks and brackets; the fields after it may not: state, parent ...
        let parent =
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)).and_then(|p| p.parse().ok());
        pid == 1 || parent == Some(1u32)
    };
    let mut pids: Vec<u32> = fs_err::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids.into_iter().find(|pid| line(&format!("/proc/{pid}/comm")) == "runsvdir" && is_first(*pid))
}

/// IPv4 first; among those, the one from which the rest of the world is reached first.
fn addresses() -> Vec<IpAddr> {
    let mut v4 = local_v4(&read("/proc/net/fib_trie").unwrap_or_default());
    let first = outward_v4().ok();
    v4.sort_by_key(|address| (Some(*address) != first, *address));
    let v6 = local_v6(&read("/proc/net/if_inet6").unwrap_or_default());
    v4.into_iter().map(IpAddr::V4).chain(v6.into_iter().map(IpAddr::V6)).collect()
}

/// The address that the kernel would use towards the default route. Connecting a datagram socket sends nothing.
fn outward_v4() -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // TEST-NET-1 (RFC 5737): nobody's address.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// The leaves marked `/32 host LOCAL` of the kernel's routing trie, without loopback.
fn local_v4(trie: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = last.filter(|address| !address.is_loopback())
        {
            found.push(address);
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Addresses of `/proc/net/if_inet6` of global scope (`00` in the fourth column).
fn local_v6(table: &str) -> Vec<Ipv6Addr> {
    let address = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [address, _, _, "00", _, interface] = fields.as_slice() else { return None };
        (*interface != "lo").then(|| u128::from_str_radix(address, 16).ok().map(Ipv6Addr::from))?
    };
    table.lines().filter_map(address).collect()
}

/// By the marks that container engines leave.
fn is_container() -> bool {
    let marks = ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"];
    if marks.iter().any(|mark| Path::new(mark).exists()) {
        return true;
    }
    let environment = fs_err::read("/proc/1/environ").unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(b"container="))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::helper::stop::Stop;

    #[test]
    fn os_release_is_understood() {
        let found = distribution(
            "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\nVERSION_CODENAME=noble\nUBUNTU_CODENAME=noble\n",
        );
        assert_eq!((found.id.as_str(), found.version.as_str(), found.codename.as_str()), ("ubuntu", "24.04", "noble"));
        assert_eq!(found.like, ["debian"]);
    }

    #[test]
    fn addresses_are_read_from_the_kernels_tables() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 172.17.0.0\n        /16 link UNICAST\n     |-- 172.17.0.2\n        /32 host LOCAL\nLocal:\n     |-- 172.17.0.2\n        /32 host LOCAL\n";
        assert_eq!(local_v4(trie), [Ipv4Addr::new(172, 17, 0, 2)]);
        let table = "00000000000000000000000000000001 01 80 10 80 lo\nfe80000000000000004200fffe000001 02 40 20 80 eth0\n20010db8000000000000000000000002 02 40 00 80 eth0\n";
        assert_eq!(local_v6(table), ["2001:db8::2".parse::<Ipv6Addr>().unwrap()]);
    }

    #[test]
    fn state_lives_where_its_user_may_write() {
        assert_eq!(state_dir(0, "/root", None), Path::new("/var/lib/ovs-cuisine"));
        assert_eq!(state_dir(5, "/home/x", None), Path::new("/home/x/.local/state/ovs-cuisine"));
        assert_eq!(state_dir(5, "/home/x", Some("/s".into())), Path::new("/s/ovs-cuisine"));
        assert_eq!(state_dir(5, "/home/x", Some("s".into())), Path::new("/home/x/.local/state/ovs-cuisine"));
    }

    #[test]
    fn this_machine_has_a_kernel_memory_and_a_user() {
        let facts = gather(&Accounts::new(Stop::default()));
        assert!(!facts.kernel.is_empty() && facts.memory > 0 && facts.cpus > 0 && !facts.user.is_empty());
    }
}
