//! What the tests share: directories, ports, and processes that end with their test.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(30);

/// The programs under test.
pub(crate) const ARAKOON: &str = env!("CARGO_BIN_EXE_arakoon");
pub(crate) const ALBA: &str = env!("CARGO_BIN_EXE_alba");
pub(crate) const VOLUMEDRIVER: &str = env!("CARGO_BIN_EXE_volumedriver_fs");
pub(crate) const DTL: &str = env!("CARGO_BIN_EXE_failovercache");
pub(crate) const DTL_HELPER: &str = env!("CARGO_BIN_EXE_failovercachehelper");

/// A directory of one test.
pub(crate) struct Stage {
    pub(crate) dir: tempfile::TempDir,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A path below the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text_path(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A directory below the directory, made.
    pub(crate) fn make_dir(&self, name: &str) -> String {
        fs_err::create_dir_all(self.path(name)).unwrap();
        self.text_path(name)
    }

    /// Writes a file and gives its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        fs_err::write(self.path(name), text).unwrap();
        self.text_path(name)
    }
}

/// Ports that nobody listened on a moment ago.
pub(crate) fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listeners = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// A process that is killed when its test ends.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) log: PathBuf,
}

impl Running {
    /// Starts a program whose output goes to this file.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let file = fs_err::OpenOptions::new().create(true).append(true).open(log).unwrap().into_parts().0;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, log: log.to_owned() }
    }

    pub(crate) fn signal(&self, name: &str) {
        let done = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Ends it with this signal and gives its exit code.
    pub(crate) fn end(&mut self, name: &str) -> Option<i32> {
        self.signal(name);
        self.code()
    }

    /// Waits for its end.
    pub(crate) fn code(&mut self) -> Option<i32> {
        let mut code = None;
        until("the process ends", || {
            let status = self.child.try_wait().unwrap();
            code = status.and_then(|status| status.code());
            status.is_some()
        });
        code
    }

    pub(crate) fn said(&self) -> String {
        fs_err::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.said());
        }
    }
}

/// Waits until it is so; there is nothing to await but the answers of a program.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(PAUSE);
    }
}

/// Runs a program to its end.
pub(crate) fn run(program: &str, words: &[&str]) -> Output {
    Command::new(program).args(words).stdin(Stdio::null()).output().unwrap()
}

/// What a successful run printed, without the last newline.
#[track_caller]
pub(crate) fn printed(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap().trim_end_matches('\n').to_owned()
}

/// What a run that failed with this code said.
#[track_caller]
pub(crate) fn failed(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}
