//! Limits that a service asks for and that its host cannot give: found before its definition is written, because a
//! service manager would only start it in vain again and again, or give it less without a word.

use std::path::Path;

use crate::{
    helper::failure::bad_input,
    plan::{MemoryLock, OpFailure, ServiceDefinition},
};

/// Bit of `CAP_SYS_RESOURCE` in a capability set; capabilities(7). Who has it may raise hard limits.
const SYS_RESOURCE: u32 = 24;

/// What process 1 may give to the services that it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ceiling {
    nofile: u64,
    /// In bytes.
    memlock: u64,
    may_raise: bool,
    /// The kernel's own bound of open files, above which nobody gets.
    nr_open: u64,
}

/// That the host can give a service the limits that it asks for.
pub(super) fn expect(definition: &ServiceDefinition) -> Result<(), OpFailure> {
    if definition.limit_nofile.is_none() && definition.limit_memlock.is_none() {
        return Ok(());
    }
    // Without /proc nothing can be told; then the service manager does.
    Ceiling::of(Path::new("/proc")).map_or(Ok(()), |ceiling| ceiling.expect(definition))
}

impl Ceiling {
    fn of(proc: &Path) -> Option<Self> {
        let read = |path: &str| fs_err::read_to_string(proc.join(path)).ok();
        let (limits, status) = (read("1/limits")?, read("1/status")?);
        // `Max open files            1024                 524288               files`
        let hard = |name: &str| -> Option<u64> {
            let columns = limits.lines().find_map(|line| line.strip_prefix(name))?;
            let hard = columns.split_whitespace().nth(1)?;
            if hard == "unlimited" { Some(u64::MAX) } else { hard.parse().ok() }
        };
        let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        let capabilities = u64::from_str_radix(capabilities.trim(), 16).ok()?;
        Some(Self {
            nofile: hard("Max open files")?,
            memlock: hard("Max locked memory")?,
            may_raise: capabilities >> SYS_RESOURCE & 1 == 1,
            nr_open: read("sys/fs/nr_open").and_then(|text| text.trim().parse().ok()).unwrap_or(u64::MAX),
        })
    }

    fn expect(self, definition: &ServiceDefinition) -> Result<(), OpFailure> {
        let nofile = if self.may_raise { self.nr_open } else { self.nofile.min(self.nr_open) };
        if let Some(wanted) = definition.limit_nofile.filter(|wanted| *wanted > nofile) {
            let message =
                format!("the service asks for {wanted} open files, and its host can give it {nofile} at most");
            return Err(bad_input(message).hint(if wanted > self.nr_open {
                "the kernel's own bound is `sysctl fs.nr_open`, of the machine that the container runs on".to_owned()
            } else {
                give(&format!("nofile = {wanted}"))
            }));
        }
        let (wanted, shown, value) = match definition.limit_memlock {
            None => return Ok(()),
            Some(MemoryLock::Unlimited) => (u64::MAX, "unlimited".to_owned(), "-1".to_owned()),
            Some(MemoryLock::Bytes(bytes)) => (bytes, format!("{bytes} bytes of"), bytes.to_string()),
        };
        if wanted <= self.memlock || self.may_raise {
            return Ok(());
        }
        let most = self.memlock;
        let message =
            format!("the service asks for {shown} locked memory, and its host can give it {most} bytes at most");
        Err(bad_input(message).hint(give(&format!("memlock = {value}"))))
    }
}

fn give(limit: &str) -> String {
    format!("a container gets it from its key in the inventory: ulimits = {{ {limit} }}; then make it anew")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CEILING: Ceiling = Ceiling { nofile: 1024, memlock: 65536, may_raise: false, nr_open: 4096 };

    fn told(ceiling: Ceiling, nofile: Option<u64>, memlock: Option<MemoryLock>) -> Option<(String, String)> {
        let definition =
            ServiceDefinition { limit_nofile: nofile, limit_memlock: memlock, ..ServiceDefinition::default() };
        ceiling.expect(&definition).err().map(|failure| (failure.message, failure.hint.unwrap_or_default()))
    }

    #[test]
    fn what_the_host_cannot_give_is_told() {
        let strong = Ceiling { may_raise: true, ..CEILING };
        assert_eq!(told(CEILING, Some(1024), Some(MemoryLock::Bytes(65536))), None);
        assert_eq!(told(strong, Some(4096), Some(MemoryLock::Unlimited)), None);
        let (message, hint) = told(CEILING, Some(1025), None).unwrap();
        assert!(message.contains("1025 open files") && message.contains("1024 at most"), "{message}");
        assert!(hint.contains("ulimits = { nofile = 1025 }"), "{hint}");
        assert!(told(strong, Some(4097), None).unwrap().1.contains("fs.nr_open"));
        let (message, hint) = told(CEILING, None, Some(MemoryLock::Unlimited)).unwrap();
        assert!(message.contains("unlimited locked memory"), "{message}");
        assert!(hint.contains("ulimits = { memlock = -1 }"), "{hint}");
        assert!(told(CEILING, None, Some(MemoryLock::Bytes(65537))).is_some());
    }

    #[test]
    fn what_process_1_has_is_read() {
        let proc = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(proc.path().join("1")).unwrap();
        fs_err::create_dir_all(proc.path().join("sys/fs")).unwrap();
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max locked memory         65536                unlimited            bytes     \n\
            Max open files            512                  1024                 files     \n";
        fs_err::write(proc.path().join("1/limits"), limits).unwrap();
        fs_err::write(proc.path().join("1/status"), "Name:\tx\nCapEff:\t0000000001000000\n").unwrap();
        fs_err::write(proc.path().join("sys/fs/nr_open"), "4096\n").unwrap();
        let expected = Ceiling { nofile: 1024, memlock: u64::MAX, may_raise: true, nr_open: 4096 };
        assert_eq!(Ceiling::of(proc.path()), Some(expected));
        fs_err::write(proc.path().join("1/status"), "CapEff:\t0000000000a80425fb\n").unwrap();
        assert!(!Ceiling::of(proc.path()).unwrap().may_raise);
    }
}
