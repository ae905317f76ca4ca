//! Who listens on the ports of this machine, from the kernel's tables (proc(5): `/proc/net/tcp` and its like, and the
//! descriptors of processes), and which service that is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{
    failure::bad_input,
    process::{Collected, Job, run},
    stop::Stop,
};
use crate::plan::{InitSystem, ListenPort, OpFailure};

/// How long a service that is on its way to another port may still have its old one.
pub(crate) const ON_ITS_WAY: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);
/// Generations from a process up to its supervisor; more is a loop of a table that changes while it is read.
const GENERATIONS: usize = 64;

/// What a service wants to listen on.
pub(crate) struct Wanted<'w> {
    /// Its name.
    pub(crate) service: &'w str,
    /// Its ports.
    pub(crate) ports: &'w [ListenPort],
    /// Services that leave theirs to it.
    pub(crate) yields: &'w [String],
    /// Whether it runs, as far as its manager knows.
    pub(crate) is_running: bool,
}

/// A process that has a port which a service wants.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    port: ListenPort,
    /// None when this login may not look into it.
    process: Option<(u32, String)>,
    /// The service that it belongs to.
    service: Option<String>,
}

/// A listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Socket {
    address: IpAddr,
    number: u16,
    udp: bool,
    inode: u64,
}

/// What is known of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    parent: u32,
    session: u32,
    command: String,
}

/// The machine's sockets and processes.
pub(crate) struct Ports<'p> {
    proc: &'p Path,
    init: InitSystem,
}

impl Ports<'static> {
    /// Those of this machine.
    pub(crate) fn of_machine(init: InitSystem) -> Self {
        Self { proc: Path::new("/proc"), init }
    }
}

impl Ports<'_> {
    /// That nobody else has what a service wants; gives the services that have it and leave it to this one. A service on
    /// its way to another port is given so much time. The failure names who has which port.
    pub(crate) fn expect(
        &self,
        wanted: &Wanted<'_>,
        patience: Duration,
        stop: &Stop,
    ) -> Result<Vec<String>, OpFailure> {
        let since = Instant::now();
        loop {
            let holders = self.holders(wanted, stop);
            let (yielding, others): (Vec<Holder>, Vec<Holder>) = holders
                .into_iter()
                .partition(|holder| holder.service.as_ref().is_some_and(|name| wanted.yields.contains(name)));
            if others.is_empty() {
                let names: BTreeSet<String> = yielding.into_iter().filter_map(|holder| holder.service).collect();
                return Ok(names.into_iter().collect());
            }
            let may_leave = others.iter().all(|holder| holder.service.is_some());
            if !may_leave || since.elapsed() >= patience || stop.is_set() {
                return Err(taken(wanted, &others));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Whether a service itself listens on all of these ports.
    pub(crate) fn are_of(&self, service: &str, ports: &[ListenPort]) -> bool {
        let sockets = self.sockets(ports);
        let of = |port: &ListenPort| -> BTreeSet<u64> {
            let of_port = sockets.iter().filter(|socket| socket.is_in_the_way_of(port));
            of_port.map(|socket| socket.inode).collect()
        };
        // Most looks end here: it does not listen yet.
        if ports.iter().any(|port| of(port).is_empty()) {
            return false;
        }
        let processes = self.processes();
        let users = self.users(&processes, &sockets.iter().map(|socket| socket.inode).collect());
        let is_own = |pid: &u32| self.service_of(*pid, &processes).as_deref() == Some(service);
        let has = |inode: &u64| users.get(inode).is_some_and(|pids| pids.iter().any(is_own));
        ports.iter().all(|port| of(port).iter().any(has))
    }

    /// Who else has what a service wants: one for each port.
    fn holders(&self, wanted: &Wanted<'_>, stop: &Stop) -> Vec<Holder> {
        let sockets = self.sockets(wanted.ports);
        if sockets.is_empty() {
            return Vec::new();
        }
        let processes = self.processes();
        let mut users = self.users(&processes, &sockets.iter().map(|socket| socket.inode).collect());
        let mut holders = Vec::new();
        for port in wanted.ports {
            let of_port = sockets.iter().filter(|socket| socket.is_in_the_way_of(port));
            let found: Vec<(Option<u32>, Option<String>)> = of_port
                .flat_map(|socket| match users.remove(&socket.inode) {
                    Some(pids) => {
                        let of = |pid: u32| (Some(pid), self.service_of(pid, &processes));
                        let found: Vec<_> = pids.iter().map(|pid| of(*pid)).collect();
                        users.insert(socket.inode, pids);
                        found
                    }
                    None => vec![(None, None)],
                })
                .collect();
            let is_own = |(pid, service): &(Option<u32>, Option<String>)| match pid {
                // Who cannot look into other processes cannot tell: what runs may have it.
                None => wanted.is_running,
                Some(1) => self.is_opened_for(wanted.service, stop),
                Some(_) => service.as_deref() == Some(wanted.service),
            };
            if found.is_empty() || found.iter().any(is_own) {
                continue;
            }
            if let Some((pid, service)) = found.into_iter().next() {
                let command = |pid: u32| processes.get(&pid).map_or_else(String::new, |known| known.command.clone());
                let process = pid.map(|pid| (pid, command(pid)));
                holders.push(Holder { port: port.clone(), process, service });
            }
        }
        holders
    }

    /// Sockets that somebody listens at and that would be in the way of one of these ports.
    fn sockets(&self, ports: &[ListenPort]) -> Vec<Socket> {
        let mut found = Vec::new();
        for (table, udp) in [("tcp", false), ("tcp6", false), ("udp", true), ("udp6", true)] {
            if ports.iter().any(|port| port.udp == udp) {
                // A kernel without IPv6 has no such table.
                let text = fs_err::read_to_string(self.proc.join("net").join(table)).unwrap_or_default();
                found.extend(text.lines().filter_map(|line| socket(line, udp)));
            }
        }
        found.retain(|socket| ports.iter().any(|port| socket.is_in_the_way_of(port)));
        found
    }

    fn processes(&self) -> BTreeMap<u32, Process> {
        let entries = fs_err::read_dir(self.proc).into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        // One that ends meanwhile is passed over.
        pids.filter_map(|pid: u32| {
            let stat = fs_err::read(self.proc.join(pid.to_string()).join("stat")).ok()?;
            Some((pid, process(&String::from_utf8_lossy(&stat))?))
        })
        .collect()
    }

    /// The processes that have these sockets, by inode.
    fn users(&self, processes: &BTreeMap<u32, Process>, inodes: &BTreeSet<u64>) -> BTreeMap<u64, Vec<u32>> {
        let mut users: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for pid in processes.keys() {
            let descriptors = fs_err::read_dir(self.proc.join(pid.to_string()).join("fd")).into_iter().flatten();
            for descriptor in descriptors.flatten() {
                let Ok(target) = fs_err::read_link(descriptor.path()) else { continue };
                let inode =
                    target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
                if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                    let pids = users.entry(inode).or_default();
                    if pids.last() != Some(pid) {
                        pids.push(*pid);
                    }
                }
            }
        }
        users
    }

    /// The service that a process belongs to, as its supervisor knows it.
    fn service_of(&self, pid: u32, processes: &BTreeMap<u32, Process>) -> Option<String> {
        match self.init {
            InitSystem::Systemd => {
                unit_of(&fs_err::read_to_string(self.proc.join(pid.to_string()).join("cgroup")).ok()?)
            }
            InitSystem::Runit => {
                let supervisor = supervisor_of(pid, processes)?;
                let words = fs_err::read(self.proc.join(supervisor.to_string()).join("cmdline")).ok()?;
                let name = words.split(|byte| *byte == 0).nth(1)?;
                let name = String::from_utf8_lossy(name).into_owned();
                name.rsplit('/').next().filter(|name| !name.is_empty()).map(str::to_owned)
            }
            InitSystem::None => None,
        }
    }

    /// Whether systemd itself listens for a service, and starts it when somebody connects: systemd.socket(5).
    fn is_opened_for(&self, service: &str, stop: &Stop) -> bool {
        if self.init != InitSystem::Systemd {
            return false;
        }
        let unit = format!("{service}.service");
        let words = ["show", "--value", "--property=TriggeredBy", &unit];
        let mut output = Collected::default();
        let job = Job::program("systemctl", words).timeout(Duration::from_secs(10));
        run(&job, stop, &mut output).is_ok_and(|ended| ended.succeeded()) && output.0.contains(".socket")
    }
}

impl Socket {
    fn is_in_the_way_of(&self, port: &ListenPort) -> bool {
        self.number == port.number && self.udp == port.udp && port.meets(Some(self.address))
    }
}

/// One line of a kernel's table: number, local address, remote address, state ... inode in the tenth column.
fn socket(line: &str, udp: bool) -> Option<Socket> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let (address, number) = columns.get(1)?.split_once(':')?;
    // TCP listens in state 10; a datagram socket that is connected to nobody is in state 7.
    let listens = if udp { "07" } else { "0A" };
    if *columns.get(3)? != listens {
        return None;
    }
    Some(Socket {
        address: address_of(address)?,
        number: u16::from_str_radix(number, 16).ok()?,
        udp,
        inode: columns.get(9)?.parse().ok()?,
    })
}

/// Words of 32 bits in the machine's order, in hexadecimal.
fn address_of(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let bytes: Vec<u8> = (0..4).map(word).collect::<Option<Vec<_>>>()?.concat();
            let address = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
            Some(address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4))
        }
        _ => None,
    }
}

/// `pid (command) state parent group session ...`; the command may hold blanks and brackets.
fn process(stat: &str) -> Option<Process> {
    let (head, rest) = stat.rsplit_once(')')?;
    let command = head.split_once('(')?.1.to_owned();
    let mut fields = rest.split_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some(Process { parent, session, command })
}

/// The `runsv` above a process, or the one whose session it is still in: what outlives its service's main process is
/// taken in by process 1.
fn supervisor_of(pid: u32, processes: &BTreeMap<u32, Process>) -> Option<u32> {
    let is_supervisor = |pid: &u32| processes.get(pid).is_some_and(|process| process.command == "runsv");
    let mut current = pid;
    for _ in 0..GENERATIONS {
        let Some(process) = processes.get(&current) else { break };
        // Whoever logged in by SSH is no part of sshd's service.
        if current != pid && process.command.starts_with("sshd") {
            return None;
        }
        if is_supervisor(&process.parent) {
            return Some(process.parent);
        }
        current = process.parent;
    }
    processes.get(&pid).map(|process| process.session).filter(is_supervisor)
}

/// The last service in a control group's path: cgroups(7), `0::/system.slice/x.service`.
fn unit_of(text: &str) -> Option<String> {
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::").or_else(|| line.split_once("name=systemd:").map(|(_, path)| path)))?;
    path.split('/').rev().find_map(|part| part.strip_suffix(".service")).map(str::to_owned)
}

fn taken(wanted: &Wanted<'_>, holders: &[Holder]) -> OpFailure {
    let told = |holder: &Holder| {
        let process = match &holder.process {
            Some((pid, command)) => format!("`{command}` (process {pid})"),
            None => "a process that cannot be looked into from here".to_owned(),
        };
        let service = holder.service.as_ref().map(|service| format!(" of service `{service}`")).unwrap_or_default();
        format!("port {} is held by {process}{service}", holder.port)
    };
    let message: Vec<String> = holders.iter().map(told).collect();
    let message = format!("service `{}` cannot start: {}", wanted.service, message.join("; "));
    let parameter = holders.iter().find_map(|holder| holder.port.parameter.as_ref());
    let other = match parameter {
        Some(parameter) => format!("change the parameter `{parameter}` of this component"),
        None => "give one of the two another port".to_owned(),
    };
    let first = if holders.iter().any(|holder| holder.service.is_some()) {
        "stop that service (`deploy --prune` takes away what the inventory no longer has)"
    } else {
        "end that process"
    };
    bad_input(message).hint(format!("{first}, or {other}"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let line = "   0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0";
        let found = socket(line, false).unwrap();
        assert_eq!(found, Socket { address: "127.0.0.1".parse().unwrap(), number: 3306, udp: false, inode: 4711 });
        assert_eq!(socket(&line.replace(" 0A ", " 01 "), false), None, "a connection");
        assert_eq!(
            socket("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid", false),
            None
        );
        assert_eq!(address_of("00000000000000000000000001000000"), Some("::1".parse().unwrap()));
        assert_eq!(address_of("0000000000000000FFFF00000100007F"), Some("127.0.0.1".parse().unwrap()));
        let stat = "12 (a) b (c) S 3 12 9 0 -1 4194304";
        assert_eq!(process(stat), Some(Process { parent: 3, session: 9, command: "a) b (c".to_owned() }));
        assert_eq!(unit_of("0::/system.slice/x@1.service/payload\n").as_deref(), Some("x@1"));
        assert_eq!(unit_of("0::/init.scope\n"), None);
    }

    #[test]
    fn a_process_belongs_to_the_supervisor_above_it_or_of_its_session() {
        let process = |parent, session, command: &str| Process { parent, session, command: command.to_owned() };
        let processes: BTreeMap<u32, Process> = [
            (1, process(0, 1, "runit-init")),
            (5, process(1, 5, "runsvdir")),
            (6, process(5, 6, "runsv")),
            (7, process(6, 6, "ovs-launch")),
            (8, process(7, 6, "arakoon")),
            (9, process(1, 6, "tgtd")),
            (20, process(5, 20, "runsv")),
            (21, process(20, 20, "sshd")),
            (22, process(21, 22, "sshd-session")),
            (23, process(22, 23, "nc")),
            (30, process(1, 30, "stray")),
        ]
        .into();
        let found = |pid| supervisor_of(pid, &processes);
        assert_eq!([8, 9, 21, 23, 30, 99].map(found), [Some(6), Some(6), Some(20), None, None, None]);
    }

    #[test]
    fn a_service_has_its_ports_when_it_listens_on_all_of_them_itself() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        };
        let process = |pid: u32, stat: &str, words: &str| {
            write(&format!("{pid}/stat"), stat);
            write(&format!("{pid}/cmdline"), words);
            fs_err::create_dir_all(folder.path().join(format!("{pid}/fd"))).unwrap();
        };
        process(10, "10 (runsv) S 1 10 10", "runsv\0db\0");
        process(11, "11 (db) S 10 10 10", "db\0");
        std::os::unix::fs::symlink("socket:[4711]", folder.path().join("11/fd/3")).unwrap();
        let line = |port: &str, inode: u32| format!("0: 00000000:{port} 00000000:0000 0A 0:0 00:0 0 0 0 {inode} 1\n");
        write("net/tcp", &format!("{}{}", line("0CEA", 4711), line("0CEB", 4712)));
        let ports = Ports { proc: folder.path(), init: InitSystem::Runit };
        let are_of = |service: &str, numbers: &[u16]| {
            ports.are_of(service, &numbers.iter().map(|number| ListenPort::tcp(*number)).collect::<Vec<_>>())
        };
        assert!(are_of("db", &[3306]));
        assert!(!are_of("other", &[3306]), "another service's");
        assert!(!are_of("db", &[3306, 3307]), "somebody's, but not its own");
        assert!(!are_of("db", &[3306, 3308]), "not all of them yet");
    }

    #[test]
    fn a_port_of_a_process_of_this_machine_is_found_with_its_name() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = ListenPort {
            parameter: Some("client_port".into()),
            ..ListenPort::tcp(listener.local_addr().unwrap().port())
        };
        let ports = [port.clone()];
        let wanted = Wanted { service: "x", ports: &ports, yields: &[], is_running: false };
        let ask =
            |wanted: &Wanted<'_>| Ports::of_machine(InitSystem::None).expect(wanted, Duration::ZERO, &Stop::default());
        let failure = ask(&wanted).unwrap_err();
        let me = format!("port {port} is held by `");
        assert!(failure.message.contains(&me), "{failure:?}");
        assert!(failure.message.contains(&format!("(process {})", std::process::id())), "{failure:?}");
        assert!(failure.hint.unwrap().contains("parameter `client_port`"));
        let elsewhere = [ListenPort { address: Some("127.0.0.2".parse().unwrap()), ..port.clone() }];
        assert_eq!(ask(&Wanted { ports: &elsewhere, ..wanted }), Ok(Vec::new()), "another address");
        let other = [ListenPort { udp: true, ..port }];
        assert_eq!(ask(&Wanted { service: "x", ports: &other, yields: &[], is_running: false }), Ok(Vec::new()));
        drop(listener);
        let wanted = Wanted { service: "x", ports: &ports, yields: &[], is_running: false };
        assert_eq!(ask(&wanted), Ok(Vec::new()), "nobody has it now");
    }
}
