//! The demo lab: its inventory, its recipes and the samples that they push.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use ovs_cuisine::{
    control::{
        inventory::{Component, Inventory},
        recipe::{Keyspace, Library, Refusal, Scene, Surroundings},
    },
    plan::{
        Answer, ComponentName, Distribution, Facts, HostName, InitSystem, OnChange, Op, PackageManager, Question,
        Secret,
    },
    tree::{Digest, TreeSummary},
};
use serde_json::Value;

use super::{names, root};
use crate::support::wait::wait_for;

fn lab() -> Inventory {
    Inventory::load(&root().join("inventory/demo.toml")).unwrap()
}

#[test]
fn the_demo_lab_is_what_the_readme_says() {
    let inventory = lab();
    assert_eq!(names(&inventory.hosts.keys().collect::<Vec<_>>()), "etcd controller node-1 node-2");
    assert_eq!(names(&inventory.order()), "etcd controller node");
    assert!(inventory.lab.keys.ends_with("keys/demo"));
    assert_eq!(inventory.lab.recipes, [root().join("recipes")]);
    for component in inventory.components.values() {
        if let Some(build) = component.params.get("build") {
            let tree = inventory.directory().join(build.value.as_str().unwrap());
            assert!(tree.is_dir(), "{} pushes {}", component.name, tree.display());
        }
    }
}

#[test]
fn every_inventory_of_the_repository_is_good_and_its_parameters_fit() {
    let mut seen = 0;
    for entry in fs_err::read_dir(root().join("inventory")).unwrap() {
        let path = entry.unwrap().path();
        let inventory = Inventory::load(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let library = Library::new(inventory.lab.recipes.clone());
        for component in inventory.components.values() {
            let bound =
                library.load(&component.recipe).and_then(|recipe| recipe.bind(component, inventory.directory()));
            bound.unwrap_or_else(|error| panic!("{}, {}: {error}", path.display(), component.name));
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} components");
}

/// An outside that has every tree and answers no question.
struct Anywhere;

impl Surroundings for Anywhere {
    fn ask(&self, question: Question) -> Result<Answer, String> {
        Err(format!("{question:?} is not answered"))
    }

    fn tree(&self, source: &Path, _ignore: &[String], xattrs: bool) -> Result<TreeSummary, Refusal> {
        if !source.join("VERSION").is_file() {
            return Err(format!("{} is no sample", source.display()).into());
        }
        let digest = Digest::of(source.as_os_str().as_encoded_bytes());
        let origin = source.display().to_string();
        Ok(TreeSummary {
            origin,
            root: digest,
            manifest: digest,
            manifest_size: 1,
            files: 1,
            bytes: 1,
            ignore: Vec::new(),
            xattrs,
        })
    }

    fn blob(&self, file: &Path) -> Result<(Digest, u64), String> {
        Err(format!("{} is not read", file.display()))
    }

    fn secret(&self, _: Option<&ComponentName>, name: &str) -> Result<Secret<String>, String> {
        Err(format!("`{name}` is not made up"))
    }

    fn launcher(&self) -> Result<(Digest, u64), String> {
        Ok((Digest::of(b"ovs-launch"), 10))
    }

    fn etcd_link(&self, node: &str) -> Result<Secret<String>, String> {
        Ok(Secret::new(format!("etcd://demo:canary@etcd:2379{node}")))
    }
}

fn facts(host: &HostName) -> Facts {
    Facts {
        hostname: host.to_string(),
        distribution: Distribution {
            id: "debian".into(),
            like: Vec::new(),
            version: "12".into(),
            codename: "bookworm".into(),
        },
        arch: "x86_64".into(),
        kernel: "6.1".into(),
        cpus: 1,
        memory: 1 << 30,
        init: InitSystem::Runit,
        packages: PackageManager::Apt,
        addresses: Vec::new(),
        user: "root".into(),
        uid: 0,
        home: "/root".into(),
        boot_id: "boot".into(),
        machine_id: "machine".into(),
        container: true,
        state_dir: "/var/lib/ovs-cuisine".into(),
    }
}

/// Configuration of a component, and the launches and ops of its first host.
fn evaluated(inventory: &Inventory, component: &Component) -> (BTreeMap<String, String>, String, Vec<Op>) {
    let recipe = Library::new(inventory.lab.recipes.clone()).load(&component.recipe).unwrap();
    let params = recipe.bind(component, inventory.directory()).unwrap();
    let prefix = format!("{}{}/", inventory.lab.prefix, component.name);
    let addresses = BTreeMap::new();
    let keyspace = Keyspace { prefixes: vec![prefix.clone()], ..Keyspace::default() };
    let scene = Scene {
        inventory,
        component,
        params: &params,
        addresses: &addresses,
        ips: &BTreeMap::new(),
        components: &BTreeMap::new(),
        keyspace: &keyspace,
        leaving: &[],
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let config = recipe.config(&scene, &Anywhere).unwrap();
    let config: BTreeMap<_, _> = config.into_iter().map(|(key, value)| (key, text(value.bytes))).collect();
    let host = &component.hosts[0];
    let evaluation = recipe.deploy(&scene, host, &facts(host), &Anywhere).unwrap();
    let [launch] = evaluation.launches.as_slice() else { panic!("{} starts one service", component.name) };
    let [file] = launch.description.files.as_slice() else { panic!("{} has one file", component.name) };
    let relative = file.key.strip_prefix(&inventory.lab.prefix).unwrap();
    assert!(config.contains_key(relative), "{} reads {relative}, which is not written", component.name);
    assert!(launch.description.argv.contains(&file.path.to_string()));
    assert!(recipe.health(&scene, host, &facts(host), &Anywhere).unwrap().is_some());
    let reaction = match &launch.description.on_change {
        OnChange::Signal(signal) => signal.clone(),
        other => format!("{other:?}"),
    };
    (config, reaction, evaluation.plan.steps.into_iter().map(|step| step.op).collect())
}

#[test]
fn the_recipes_of_the_demo_lab_make_plans() {
    let inventory = lab();
    let component = |name: &str| inventory.components.values().find(|known| known.name.as_str() == name).unwrap();

    let (config, reaction, ops) = evaluated(&inventory, component("controller"));
    let ini = "[framework]\nlab = demo\ntitle = Open vStorage demo lab\nport = 8080\nstale_after = 30\n";
    assert_eq!(config, BTreeMap::from([("controller/framework.ini".to_owned(), ini.to_owned())]));
    assert_eq!(reaction, "Restart");
    assert!(ops.iter().any(|op| matches!(op, Op::Sync(sync) if sync.dest.as_str() == "/opt/framework")));

    let (config, reaction, ops) = evaluated(&inventory, component("node"));
    assert_eq!(names(&config.keys().collect::<Vec<_>>()), "node/config/node-1.ini node/config/node-2.ini");
    let ini = "[agent]\nnode = node-2\nport = 8081\ninterval = 5\nmessage = hello from etcd\n\
               controller = controller\ncontroller_port = 8080\n";
    assert_eq!(config["node/config/node-2.ini"], ini);
    assert_eq!(reaction, "HUP");
    assert!(ops.iter().any(|op| matches!(op, Op::ServiceEnsure(_))));
}

/// The samples of the demo lab, started by hand: they know nothing but their configuration, and find each other.
#[test]
fn the_samples_of_the_demo_lab_find_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (controller, node) = (free(), free());
    let write = |name: &str, text: String| {
        let path = directory.path().join(name);
        fs_err::write(&path, text).unwrap();
        path
    };
    let framework = format!("[framework]\ntitle = Say \"hello\"\nport = {controller}\nstale_after = 30\n");
    let agent = |message: &str| {
        format!(
            "[agent]\nnode = node-1\nport = {node}\ninterval = 1\ncontroller = 127.0.0.1\n\
             controller_port = {controller}\nmessage = {message}\n"
        )
    };
    let _framework = Sample::start("framework", &write("framework.ini", framework));
    let agent_process = Sample::start("agent", &write("agent.ini", agent("first")));

    let status = |port, path: &str| get(port, path).and_then(|body| serde_json::from_str::<Value>(&body).ok());
    let seen = wait_for("the first message", || {
        status(controller, "/status.json").filter(|seen| seen["nodes"][0]["message"] == "first")
    });
    assert_eq!(seen["nodes"][0]["node"], "node-1");
    assert_eq!(seen["nodes"][0]["state"], "alive");
    assert_eq!(seen["config"]["title"], "Say \"hello\"");
    assert!(wait_for("the page", || get(controller, "/")).contains("node-1       alive"));
    assert_eq!(wait_for("the health page", || get(node, "/health")), "ok\n");

    write("agent.ini", agent("second"));
    rustix::process::kill_process(rustix::process::Pid::from_child(&agent_process.0), rustix::process::Signal::HUP)
        .unwrap();
    wait_for("the second message", || {
        status(controller, "/status.json").filter(|seen| seen["nodes"][0]["message"] == "second")
    });
    assert_eq!(wait_for("the status", || status(node, "/"))["reloads"], 1);

    let library = |sample: &str| {
        let directory = root().join("examples").join(sample).join("lib/Demo");
        ["Http.pm", "Ini.pm", "Json.pm"].map(|file| fs_err::read_to_string(directory.join(file)).unwrap())
    };
    assert_eq!(library("framework"), library("agent"), "each tree is pushed whole, so each has its copy");
}

/// A sample that runs until the test ends.
struct Sample(Child);

impl Sample {
    fn start(name: &str, config: &Path) -> Self {
        let program = root().join("examples").join(name).join("bin").join(name);
        Self(Command::new("perl").arg(program).arg("--config").arg(config).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The body of a page of this machine; none while nothing answers.
fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.0 200").then(|| body.to_owned())
}
