//! A lab of its own for one test: an inventory in a temporary directory, the real program, containers that go away.

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A lab of its own. Dropping it removes its containers, volumes and network.
pub(crate) struct TestLab {
    directory: tempfile::TempDir,
    name: String,
}

/// What a run of the program gave.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl TestLab {
    /// A lab whose inventory is `body` after a `[lab]` table. `{root}` in it is the repository.
    pub(crate) fn new(body: &str) -> Self {
        let name = format!("it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let lab = Self { directory: tempfile::tempdir().unwrap(), name };
        lab.inventory(body);
        lab
    }

    /// Replaces the inventory.
    pub(crate) fn inventory(&self, body: &str) {
        let text = format!("[lab]\nname = \"{}\"\nrecipes = [\"recipes\", \"{{root}}/recipes\"]\n\n{body}", self.name);
        self.write("lab.toml", &text.replace("{root}", env!("CARGO_MANIFEST_DIR")));
    }

    /// Writes a file below the inventory's directory.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }

    /// A recipe of this name.
    pub(crate) fn recipe(&self, name: &str, text: &str) {
        self.write(&format!("recipes/{name}/recipe.star"), text);
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// The name of a host's container.
    pub(crate) fn container(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    /// The address of a host's container on the lab's network.
    pub(crate) fn address(&self, host: &str) -> String {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let output = docker(&["inspect", "--format", format, &self.container(host)]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// What a host's container shows as its key.
    pub(crate) fn host_key(&self, host: &str) -> String {
        let text = fs_err::read_to_string(self.keys().join("hosts").join(format!("{host}.pub"))).unwrap();
        text.split(' ').take(2).collect::<Vec<_>>().join(" ").trim().to_owned()
    }

    /// The private key that opens every container of the lab.
    pub(crate) fn login_key(&self) -> PathBuf {
        self.keys().join("id_ed25519")
    }

    /// A generated password, by its name in the key ring: `login.agent`, `secret.etcd.root`.
    pub(crate) fn password(&self, name: &str) -> String {
        fs_err::read_to_string(self.keys().join("passwords").join(name)).unwrap().trim().to_owned()
    }

    fn keys(&self) -> PathBuf {
        self.path("keys").join(&self.name)
    }

    /// The program with these words; `LAB` among them stands for the inventory's path.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let inventory = self.path("lab.toml");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovs-cuisine"));
        command
            .args(words.iter().map(|word| if *word == "LAB" { inventory.as_os_str() } else { word.as_ref() }))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Run {
        Run::of(&self.command(words).output().unwrap())
    }

    /// Runs and insists on an exit status.
    pub(crate) fn expect(&self, status: i32, words: &[&str]) -> Run {
        let run = self.run(words);
        assert_eq!(run.status, status, "{words:?}\n--- stdout\n{}\n--- stderr\n{}", run.stdout, run.stderr);
        run
    }

    /// Runs with `--json` and gives the events.
    pub(crate) fn events(&self, status: i32, words: &[&str]) -> Vec<Value> {
        let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        self.expect(status, &words).events()
    }

    /// Runs a shell command in a host's container, past everything of ours; gives its standard output.
    pub(crate) fn inside(&self, host: &str, command: &str) -> String {
        let output = docker(&["exec", &self.container(host), "sh", "-c", command]);
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for TestLab {
    fn drop(&mut self) {
        let label = format!("label=ovs-cuisine.lab={}", self.name);
        for (list, remove) in [
            (vec!["ps", "-aq", "--filter"], vec!["rm", "-f", "-v"]),
            (vec!["network", "ls", "-q", "--filter"], vec!["network", "rm"]),
            (vec!["volume", "ls", "-q", "--filter"], vec!["volume", "rm", "-f"]),
        ] {
            let found = docker(&list.into_iter().chain([label.as_str()]).collect::<Vec<_>>());
            let ids = String::from_utf8_lossy(&found.stdout).into_owned();
            let ids: Vec<&str> = ids.split_whitespace().collect();
            if !ids.is_empty() {
                docker(&remove.into_iter().chain(ids).collect::<Vec<_>>());
            }
        }
    }
}

impl Run {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Standard output as JSON lines.
    pub(crate) fn events(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// The run's summary.
pub(crate) fn summary(events: &[Value]) -> &Value {
    events.iter().find(|event| event["event"] == "run-finished").expect("the run says how it ended")
}

/// The engine's own client: what tests see past our program.
pub(crate) fn docker(words: &[&str]) -> Output {
    Command::new("docker").args(words).stdin(Stdio::null()).output().unwrap()
}
