//! The arguments of `volumedriver_fs`: its own options, and everything else for FUSE.

/// What the command line says.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    pub(crate) config: Option<String>,
    pub(crate) lock_file: Option<String>,
    pub(crate) mountpoint: Option<String>,
    pub(crate) log_sinks: Vec<String>,
    pub(crate) log_level: Option<String>,
    pub(crate) foreground: bool,
    pub(crate) help: bool,
    pub(crate) version: bool,
    /// The words after `-o`, one option each.
    pub(crate) fuse: Vec<String>,
}

/// Mount options of libfuse 2.9 and the kernel, fuse(8). Those with `=` take a value.
const FUSE_OPTIONS: [&str; 60] = [
    "allow_other",
    "allow_root",
    "auto_unmount",
    "default_permissions",
    "nonempty",
    "large_read",
    "hard_remove",
    "use_ino",
    "readdir_ino",
    "direct_io",
    "kernel_cache",
    "auto_cache",
    "noauto_cache",
    "noforget",
    "intr",
    "async_read",
    "sync_read",
    "atomic_o_trunc",
    "big_writes",
    "no_remote_lock",
    "no_remote_flock",
    "no_remote_posix_lock",
    "splice_write",
    "no_splice_write",
    "splice_move",
    "no_splice_move",
    "splice_read",
    "no_splice_read",
    "debug",
    "blkdev",
    "ro",
    "rw",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "noexec",
    "async",
    "sync",
    "atime",
    "noatime",
    "dirsync",
    "fsname=",
    "subtype=",
    "max_read=",
    "umask=",
    "uid=",
    "gid=",
    "entry_timeout=",
    "negative_timeout=",
    "attr_timeout=",
    "ac_attr_timeout=",
    "remember=",
    "intr_signal=",
    "modules=",
    "max_write=",
    "max_readahead=",
    "max_background=",
    "congestion_threshold=",
];

impl Arguments {
    /// Reads the words; `--option=value` is the same as `--option value`.
    pub(crate) fn parse(words: &[String]) -> Result<Self, String> {
        let mut found = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (flag, attached) = match word.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
                _ => (word.as_str(), None),
            };
            let mut value = || {
                attached
                    .clone()
                    .or_else(|| words.next().cloned())
                    .ok_or(format!("the required argument for option '{flag}' is missing"))
            };
            match flag {
                "-C" | "--config" | "--config-file" => found.config = Some(value()?),
                "-L" | "--lock-file" => found.lock_file = Some(value()?),
                "-M" | "--mountpoint" => found.mountpoint = Some(value()?),
                "--logsink" => found.log_sinks.push(value()?),
                "--loglevel" => found.log_level = Some(value()?),
                "--logfilter" => drop(value()?),
                "--logrotation" | "--disable-logging" | "-d" | "-s" => {}
                "--config-help" | "--config-help-markdown" => found.help = true,
                "--version" => found.version = true,
                "-f" => found.foreground = true,
                "-o" => found.fuse_options(&value()?)?,
                _ if flag.starts_with("-o") => found.fuse_options(&flag[2..])?,
                _ if flag.starts_with('-') => return Err(format!("fuse: unknown option `{word}'")),
                _ => return Err(format!("fuse: invalid argument `{word}'")),
            }
        }
        Ok(found)
    }

    fn fuse_options(&mut self, list: &str) -> Result<(), String> {
        for option in list.split(',').filter(|option| !option.is_empty()) {
            let name = option.split_inclusive('=').next().unwrap_or(option);
            if !FUSE_OPTIONS.contains(&name) {
                return Err(format!("fuse: unknown option `{option}'"));
            }
            self.fuse.push(option.to_owned());
        }
        Ok(())
    }

    pub(crate) fn has_fuse(&self, option: &str) -> bool {
        self.fuse.iter().any(|given| given == option)
    }

    /// The number after `name=`; the umask is octal.
    pub(crate) fn fuse_number(&self, name: &str, radix: u32) -> Result<Option<u32>, String> {
        let value = self.fuse.iter().rev().find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
        let parse = |text| {
            u32::from_str_radix(text, radix).map_err(|_| format!("fuse: invalid parameter in option `{name}={text}'"))
        };
        value.map(parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_units_command_line_is_read() {
        let found = parse(
            "-f --config etcd://127.0.0.1:2379/c --lock-file /l --logrotation --mountpoint /mnt/vp1 --logsink console: \
             -o big_writes -o sync_read -o allow_other -o use_ino -o default_permissions -o uid=1001 -o gid=1002 -o umask=0002",
        )
        .unwrap();
        assert!(found.foreground && found.has_fuse("allow_other"));
        assert_eq!((found.fuse_number("uid", 10), found.fuse_number("umask", 8)), (Ok(Some(1001)), Ok(Some(2))));
        assert_eq!(found.mountpoint.as_deref(), Some("/mnt/vp1"));
    }

    #[test]
    fn what_neither_knows_is_an_error() {
        for bad in ["--mount-point /x", "-o bigwrites", "-obig_writes,loud", "/x", "--config"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("-o uid=ovs").unwrap().fuse_number("uid", 10).is_err());
    }
}
