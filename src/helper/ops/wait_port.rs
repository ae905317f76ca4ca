//! `wait_port`: a TCP port that accepts connections.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::{Finding, Obstacle, Operation};
use crate::{
    helper::{
        failure::{bad_input, cause},
        foreseen::Foreseen,
        machine::Machine,
        process::Job,
    },
    plan::{Action, Change, Diff, FailureKind, OpFailure, WaitPort},
};

/// How long one try may take. On the way there may be a firewall that swallows what it does not like.
const TRY: Duration = Duration::from_secs(1);
/// How long to wait between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// The port is not open yet; apply waits for it.
#[derive(Debug)]
pub(crate) struct Closed;

impl Operation for WaitPort {
    type Change = Closed;

    fn check(&self, machine: &mut Machine<'_>) -> Result<Finding<Closed>, Obstacle> {
        let found = self.addresses(machine).and_then(|addresses| self.connect(&addresses, TRY));
        Ok(match found {
            Ok(()) => Finding::Same,
            Err(why) => {
                let why = format!("nothing accepts connections on {}:{} now ({why})", self.address, self.port);
                Finding::Unknown { why, change: Closed }
            }
        })
    }

    fn describe(&self, _: &Closed, _: &Machine<'_>) -> Diff {
        Diff::of(Change::new(Action::Run, format!("wait for {}:{}", self.address, self.port)))
    }

    fn foresee(&self, _: &Closed, _: &mut Foreseen) {}

    fn apply(&self, _: Closed, machine: &mut Machine<'_>) -> Result<(), OpFailure> {
        let started = Instant::now();
        let timeout = Duration::from_millis(self.timeout_ms);
        loop {
            let left = timeout.saturating_sub(started.elapsed());
            // Names are looked up anew: they may appear while we wait.
            let tried = self.addresses(machine).and_then(|addresses| self.connect(&addresses, TRY.min(left)));
            let Err(why) = tried else { return Ok(()) };
            if started.elapsed() >= timeout {
                let seconds = timeout.as_secs_f64();
                let message =
                    format!("nothing accepted connections on {}:{} within {seconds} s: {why}", self.address, self.port);
                return Err(OpFailure::new(FailureKind::Timeout, message)
                    .hint("see whether the service runs, and what its log says"));
            }
            machine.pause(PAUSE)?;
        }
    }

    fn is_change(&self) -> bool {
        false
    }
}

impl WaitPort {
    fn addresses(&self, machine: &Machine<'_>) -> Result<Vec<IpAddr>, String> {
        if let Ok(address) = self.address.parse() {
            return Ok(vec![address]);
        }
        let hosts = fs_err::read_to_string("/etc/hosts").unwrap_or_default();
        let local = in_hosts(&hosts, &self.address);
        if !local.is_empty() {
            return Ok(local);
        }
        if !is_host_name(&self.address) {
            return Err(bad_input(format!("`{}` is not a host name", self.address)).message);
        }
        let job = Job::program("getent", ["ahosts", &self.address]).timeout(Duration::from_secs(10));
        let (_, output) = machine.collect(&job, "getent ahosts").map_err(|failure| failure.message)?;
        let mut found: Vec<IpAddr> =
            output.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
        found.dedup();
        if found.is_empty() { Err(format!("the name `{}` is not known", self.address)) } else { Ok(found) }
    }

    /// Whether any address accepts a connection.
    fn connect(&self, addresses: &[IpAddr], time: Duration) -> Result<(), String> {
        // A timeout of zero is refused by the standard library.
        let time = time.max(Duration::from_millis(1));
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in addresses {
            match TcpStream::connect_timeout(&SocketAddr::new(*address, self.port), time) {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(cause(&last))
    }
}

/// Addresses of a name in `hosts(5)`.
fn in_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    let line = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    };
    hosts.lines().filter_map(line).collect()
}

fn is_host_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_the_hosts_file() {
        let hosts = "127.0.0.1 localhost\n172.18.0.2\tetcd etcd.lab # the store\n# 10.0.0.1 ghost\n";
        assert_eq!(in_hosts(hosts, "etcd.lab"), ["172.18.0.2".parse::<IpAddr>().unwrap()]);
        assert!(in_hosts(hosts, "ghost").is_empty());
    }
}
