//! A real sshd on loopback, in its own mount and process namespaces: its users, homes and temporary directories exist
//! nowhere else, and when it is dropped nothing of it is left.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use ovs_cuisine::control::link::{HostKeys, Identity, Target};
use tempfile::TempDir;

/// Where sshd sees its directory: `/tmp` is its own.
pub(super) const INSIDE: &str = "/run/it";

/// A user of the sshd besides root.
pub(super) struct User {
    pub(super) name: &'static str,
    pub(super) shell: &'static str,
}

/// How to start an sshd.
#[derive(Default)]
pub(super) struct Options {
    /// More lines of `sshd_config`.
    pub(super) config: String,
    /// Key types that the host has; ed25519 when empty.
    pub(super) host_keys: Vec<&'static str>,
    pub(super) users: Vec<User>,
    /// Shell lines run in the namespaces, as root, before sshd begins.
    pub(super) before: String,
    /// Files to copy into sshd's directory.
    pub(super) files: Vec<PathBuf>,
    /// Content of the users' shell start files.
    pub(super) noise: String,
    /// Content of `/etc/sudoers`.
    pub(super) sudoers: String,
}

/// A running sshd.
pub(super) struct Sshd {
    child: Child,
    directory: TempDir,
    pub(super) port: u16,
}

impl Sshd {
    pub(super) fn start() -> Self {
        Self::with(&Options::default())
    }

    pub(super) fn with(options: &Options) -> Self {
        let mut last = String::new();
        // Another process may take the free port before sshd does.
        for _ in 0..5 {
            match Self::try_start(options) {
                Ok(sshd) => return sshd,
                Err(log) => last = log,
            }
        }
        panic!("sshd does not start:\n{last}");
    }

    fn try_start(options: &Options) -> Result<Self, String> {
        let directory = tempfile::Builder::new().prefix("ovs-cuisine-it-link-").tempdir().unwrap();
        let path = directory.path().to_owned();
        open_to_all(&path);
        let port = free_port();
        write_configuration(&path, port, options);
        let child = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"])
            .args(["sh", "-euc", &namespace_script(&path, options)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut sshd = Self { child, directory, port };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !speaks(port) {
            if let Some(status) = sshd.child.try_wait().unwrap() {
                let mut errors = String::new();
                sshd.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
                return Err(format!("{status}\n{errors}{}", sshd.log()));
            }
            assert!(Instant::now() < deadline, "sshd does not answer:\n{}", sshd.log());
            thread::sleep(Duration::from_millis(10));
        }
        Ok(sshd)
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn log(&self) -> String {
        fs_err::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    /// The key that every user accepts.
    pub(super) fn key(&self) -> PathBuf {
        self.path().join("id_ed25519")
    }

    /// A host key's public line, without comment.
    pub(super) fn host_key(&self, kind: &str) -> String {
        let text = fs_err::read_to_string(self.path().join(format!("host_{kind}.pub"))).unwrap();
        text.split(' ').take(2).collect::<Vec<_>>().join(" ").trim().to_owned()
    }

    /// A target that can log in as root.
    pub(super) fn target(&self) -> Target {
        let mut target = Target::new("node-1", "127.0.0.1", "root");
        target.port = self.port;
        target.identities = vec![Identity::KeyFile(self.key())];
        let kinds = ["ed25519", "rsa"].into_iter().filter(|kind| self.path().join(format!("host_{kind}")).exists());
        target.host_keys = HostKeys::Pinned(kinds.map(|kind| self.host_key(kind)).collect());
        target
    }

    /// The same as another user.
    pub(super) fn target_as(&self, user: &str) -> Target {
        Target { user: user.to_owned(), ..self.target() }
    }

    /// A `known_hosts` file with these lines.
    pub(super) fn known_hosts(&self, lines: &[String]) -> PathBuf {
        let path = self.path().join("known_hosts");
        fs_err::write(&path, lines.join("\n") + "\n").unwrap();
        path
    }

    /// Runs shell lines in sshd's namespaces, as root.
    pub(super) fn inside(&self, script: &str) -> String {
        let output = Command::new("nsenter")
            .args(["--mount", "--pid", "--target", &self.namespace_process()])
            .args(["sh", "-euc", script])
            .output()
            .unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The process that is number 1 inside.
    fn namespace_process(&self) -> String {
        let id = self.child.id();
        let children = fs_err::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        children.split_whitespace().next().unwrap().to_owned()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // Number 1 of the process namespace dies with it, and takes all others along.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn open_to_all(path: &Path) {
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn speaks(port: u16) -> bool {
    let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).is_ok_and(|_| line.starts_with("SSH-2.0-"))
}

/// Makes a key pair with ssh-keygen.
pub(super) fn keygen(path: &Path, kind: &str, passphrase: &str) {
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-N", passphrase, "-C", "test", "-f"])
        .arg(path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn write_configuration(path: &Path, port: u16, options: &Options) {
    keygen(&path.join("id_ed25519"), "ed25519", "");
    fs_err::copy(path.join("id_ed25519.pub"), path.join("authorized_keys")).unwrap();
    let mut config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nUseDNS no\nLogLevel VERBOSE\nPrintMotd no\n\
         AuthorizedKeysFile {INSIDE}/authorized_keys\n"
    );
    let kinds = if options.host_keys.is_empty() { vec!["ed25519"] } else { options.host_keys.clone() };
    for kind in kinds {
        let file = path.join(format!("host_{kind}"));
        keygen(&file, kind, "");
        writeln!(config, "HostKey {INSIDE}/host_{kind}").unwrap();
    }
    fs_err::write(path.join("sshd_config"), config + &options.config).unwrap();
    let mut passwd = "root:x:0:0:root:/root:/bin/bash\nsshd:x:105:65534::/run/sshd:/usr/sbin/nologin\n".to_owned();
    for (user, id) in options.users.iter().zip(4001..) {
        writeln!(passwd, "{0}:*:{id}:{id}::/home/{0}:{1}", user.name, user.shell).unwrap();
    }
    fs_err::write(path.join("passwd"), passwd).unwrap();
    for file in &options.files {
        fs_err::copy(file, path.join(file.file_name().unwrap())).unwrap();
    }
    fs_err::write(path.join("sudoers"), &options.sudoers).unwrap();
    fs_err::set_permissions(path.join("sudoers"), std::fs::Permissions::from_mode(0o440)).unwrap();
}

fn namespace_script(path: &Path, options: &Options) -> String {
    let path = path.display();
    let mut script = format!(
        "mount -t proc proc /proc\n\
         for d in /home /root /run /var/lib /var/tmp /dev/shm; do mount -t tmpfs tmpfs $d; done\n\
         mkdir -m 755 /run/sshd {INSIDE}\n\
         mount --bind {path} {INSIDE}\n\
         mount -t tmpfs tmpfs /tmp\n\
         chmod 1777 /tmp /var/tmp /dev/shm\n\
         mount --bind {INSIDE}/passwd /etc/passwd\n\
         if [ -e /etc/sudoers ]; then mount --bind {INSIDE}/sudoers /etc/sudoers; fi\n\
         cd /\n"
    );
    for (user, id) in options.users.iter().zip(4001..) {
        let home = format!("/home/{}", user.name);
        writeln!(script, "mkdir -p {home}/.config/fish; chmod 755 {home}").unwrap();
        if !options.noise.is_empty() {
            for file in [".bashrc", ".tcshrc", ".config/fish/config.fish", ".zshenv"] {
                writeln!(script, "cat > {home}/{file} <<'END'\n{}\nEND", options.noise).unwrap();
            }
        }
        writeln!(script, "chown -R {id}:{id} {home}").unwrap();
    }
    write!(
        script,
        "{}\nexec $(command -v sshd || echo /usr/sbin/sshd) -D -f {INSIDE}/sshd_config -E {INSIDE}/log",
        options.before
    )
    .unwrap();
    script
}

/// Shared between a target and those that connect to it.
pub(super) fn shared(target: Target) -> Arc<Target> {
    Arc::new(target)
}
