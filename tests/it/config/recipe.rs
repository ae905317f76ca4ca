//! The etcd recipe: what it asks for is run here as the helper would run it, in a directory of the test's own.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use ovs_cuisine::{
    control::{
        config::{ConfigError, LoginMode, Store, StoreAccess},
        inventory::Inventory,
        recipe::{Keyspace, Library, Recipe, Refusal, Scene, StoreSpec, Surroundings},
    },
    plan::{
        Answer, ComponentName, Content, Distribution, Facts, FileWrite, HostName, InitSystem, Op, PackageManager, Plan,
        Question, Run, Secret, ServiceEnsure,
    },
    tree::{Digest, TreeSummary},
};

use super::server::{dial, free_port, lab};

const PASSWORD: &str = "made-up-canary-of-some-length";

/// Knows secrets only.
struct Outside;

impl Surroundings for Outside {
    fn ask(&self, _: Question) -> Result<Answer, String> {
        Err("no host here".to_owned())
    }
    fn tree(&self, _: &Path, _: &[String], _: bool) -> Result<TreeSummary, Refusal> {
        Err("no tree here".to_owned().into())
    }
    fn blob(&self, _: &Path) -> Result<(Digest, u64), String> {
        Err("no blob here".to_owned())
    }
    fn secret(&self, _: Option<&ComponentName>, name: &str) -> Result<Secret<String>, String> {
        Ok(Secret::new(if name == "root" { PASSWORD.to_owned() } else { format!("{PASSWORD}-{name}") }))
    }
    fn launcher(&self) -> Result<(Digest, u64), String> {
        Err("no launcher here".to_owned())
    }
    fn etcd_link(&self, _: &str) -> Result<Secret<String>, String> {
        Err("no link here".to_owned())
    }
}

/// A lab whose etcd component has these parameters, on this machine.
struct Kitchen {
    directory: tempfile::TempDir,
    plan: Plan,
    store: StoreSpec,
}

impl Kitchen {
    fn new(hosts: &str, params: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("ovs-cuisine-recipe-").tempdir().unwrap();
        let data = directory.path().join("data");
        fs_err::create_dir(&data).unwrap();
        let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
        let text = format!(
            "[lab]\nname = \"lab\"\nrecipes = [\"{}\"]\n\n[host.\"{hosts}\"]\ncontainer = {{ image = \"x\" }}\n\n\
             [component.etcd]\nrecipe = \"etcd\"\nhosts = [\"etcd*\"]\nparams = {{ data = \"{}\", {params} }}\n",
            recipes.display(),
            data.display()
        );
        let inventory = Inventory::parse(&text, &directory.path().join("lab.toml")).unwrap();
        let component = &inventory.components[0];
        let recipe = Library::new(vec![recipes]).load(&component.recipe).unwrap();
        let bound = recipe.bind(component, inventory.directory()).unwrap();
        // A single member is this machine; several would be others.
        let address =
            |host: &HostName| if inventory.hosts.len() == 1 { "localhost".to_owned() } else { host.to_string() };
        let addresses: BTreeMap<HostName, String> =
            inventory.hosts.keys().map(|host| (host.clone(), address(host))).collect();
        let keyspace = Keyspace { prefixes: vec!["/ovs/etcd/".to_owned()], ..Keyspace::default() };
        let scene = Scene {
            inventory: &inventory,
            component,
            params: &bound,
            addresses: &addresses,
            ips: &BTreeMap::new(),
            components: &BTreeMap::new(),
            keyspace: &keyspace,
            leaving: &[],
        };
        let plan = deploy(&recipe, &scene);
        assert_eq!(deploy(&recipe, &scene), plan, "the same plan each time");
        let store = recipe.store(&scene, &Outside).unwrap().unwrap();
        Self { directory, plan, store }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn file(&self, path: &str) -> Option<&FileWrite> {
        self.plan.steps.iter().find_map(|step| match &step.op {
            Op::FileWrite(op) if op.path.as_str() == path => Some(op),
            _ => None,
        })
    }

    fn bootstrap(&self) -> &Run {
        let found = self.plan.steps.iter().find_map(|step| match &step.op {
            Op::Run(run) if run.stdin.is_some() => Some(run),
            _ => None,
        });
        found.unwrap()
    }

    fn service(&self) -> &ServiceEnsure {
        let found = self.plan.steps.iter().find_map(|step| match &step.op {
            Op::ServiceEnsure(service) => Some(service),
            _ => None,
        });
        found.unwrap()
    }

    /// Runs the step that switches authentication on, with the files where the test may write them.
    fn run_bootstrap(&self) -> Output {
        let run = self.bootstrap();
        let script = self.place("/usr/local/lib/ovs-cuisine/etcd-bootstrap");
        let command = run.command.expose().replace("/usr/local/lib/ovs-cuisine/etcd-bootstrap", &script);
        let mut child = Command::new("sh")
            .args(["-c", &command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(run.stdin.as_ref().unwrap().expose().as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Writes a file of the plan into the test's directory and says where.
    fn place(&self, path: &str) -> String {
        use std::os::unix::fs::PermissionsExt as _;
        let place = self.directory.path().join(path.rsplit('/').next().unwrap());
        let content = match &self.file(path).unwrap().content {
            Content::Inline(bytes) => bytes.clone(),
            Content::Secret(bytes) => bytes.expose().clone(),
            Content::Blob { .. } => panic!("{path} is small"),
        };
        fs_err::write(&place, content).unwrap();
        fs_err::set_permissions(&place, std::fs::Permissions::from_mode(0o700)).unwrap();
        place.display().to_string()
    }

    /// Starts the service as it is defined.
    fn serve(&self) -> Served {
        let argv = self
            .service()
            .definition
            .as_ref()
            .unwrap()
            .argv
            .iter()
            .map(|word| if word.starts_with("/etc/etcd/") { self.place(word) } else { word.clone() });
        let argv: Vec<String> = argv.collect();
        let child = Command::new(&argv[0]).args(&argv[1..]).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Served(child)
    }

    fn access(&self) -> StoreAccess {
        let (host, port) = self.store.endpoints[0].rsplit_once(':').unwrap();
        StoreAccess {
            endpoints: vec![(host.to_owned(), port.parse().unwrap())],
            user: self.store.user.clone(),
            password: self.store.password.clone(),
            ca: self.store.ca.clone(),
        }
    }

    async fn open(&self) -> Result<Store, ConfigError> {
        Store::open(self.access(), dial(), &lab()).await
    }
}

fn deploy(recipe: &Recipe, scene: &Scene<'_>) -> Plan {
    let host = scene.inventory.hosts.keys().next().unwrap();
    recipe.deploy(scene, host, &facts(), &Outside).unwrap().plan
}

struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ports() -> String {
    format!("listen = \"127.0.0.1\", client_port = {}, peer_port = {}", free_port(), free_port())
}

#[tokio::test]
async fn etcd_is_never_open_to_all() {
    let kitchen = Kitchen::new("etcd", &ports());
    let command = kitchen.bootstrap().command.expose();
    assert!(!command.contains("canary") && !command.contains("0.0.0.0"), "{command}");
    let shown = format!("{:?}{}", kitchen.plan, serde_json::to_string(&kitchen.plan).unwrap());
    assert!(!shown.contains("canary"), "{shown}");

    let output = kitchen.run_bootstrap();
    let log = fs_err::read_to_string(kitchen.data().join("bootstrap.log")).unwrap();
    assert!(output.status.success(), "{log}");
    assert!(kitchen.data().join("authentication-enabled").exists());
    assert!(!log.contains("canary") && output.stdout.is_empty() && output.stderr.is_empty());

    let served = kitchen.serve();
    let store = kitchen.open().await.unwrap();
    assert!(store.auth_enabled(), "on from the first moment");
    assert_eq!(store.ensure_auth(LoginMode::Apply).await.unwrap(), None);
    drop(served);
    // Once more, as after a marker that was lost: nothing changes, and another password is refused in words.
    fs_err::remove_file(kitchen.data().join("authentication-enabled")).unwrap();
    assert!(kitchen.run_bootstrap().status.success());
    let _served = kitchen.serve();
    assert!(kitchen.open().await.unwrap().auth_enabled());
}

#[tokio::test]
async fn a_bootstrap_that_was_cut_off_is_finished() {
    let kitchen = Kitchen::new("etcd", &ports());
    // As left by a run with another password that ended before authentication was enabled.
    let script = r#"for try in $(seq 200); do printf 'other\n' | etcdctl --endpoints "$0" user add root --interactive=false && exit; sleep 0.1; done; exit 1"#;
    {
        let _served = kitchen.serve();
        let endpoint = format!("http://{}", kitchen.store.endpoints[0]);
        let added = Command::new("sh").args(["-c", script, &endpoint]).env("ETCDCTL_API", "3").output().unwrap();
        assert!(added.status.success());
    }
    assert!(kitchen.run_bootstrap().status.success());
    let _served = kitchen.serve();
    assert!(kitchen.open().await.unwrap().auth_enabled());
}

#[tokio::test]
async fn tls_is_one_parameter() {
    let kitchen = Kitchen::new("etcd", &format!("{}, tls = true", ports()));
    assert!(matches!(kitchen.file("/etc/etcd/key.pem").unwrap().content, Content::Secret(_)));
    assert!(kitchen.run_bootstrap().status.success());
    let _served = kitchen.serve();
    assert!(kitchen.open().await.unwrap().auth_enabled());
    let plain = StoreAccess { ca: None, ..kitchen.access() };
    assert!(Store::open(plain, dial(), &lab()).await.is_err());
}

#[test]
fn several_hosts_are_one_cluster() {
    let kitchen = Kitchen::new("etcd-[1-3]", "tls = true");
    let argv = kitchen.service().definition.as_ref().unwrap().argv.join(" ");
    let cluster = "--initial-cluster etcd-1=https://etcd-1:2380,etcd-2=https://etcd-2:2380,etcd-3=https://etcd-3:2380";
    for part in [cluster, "--listen-peer-urls https://0.0.0.0:2380", "--peer-client-cert-auth", "--name etcd-1"] {
        assert!(argv.contains(part), "{part}: {argv}");
    }
    assert_eq!(kitchen.store.endpoints, ["etcd-1:2379", "etcd-2:2379", "etcd-3:2379"]);
}

fn facts() -> Facts {
    Facts {
        hostname: "etcd".to_owned(),
        distribution: Distribution {
            id: "debian".to_owned(),
            like: Vec::new(),
            version: "12".to_owned(),
            codename: "bookworm".to_owned(),
        },
        arch: "x86_64".to_owned(),
        kernel: "6".to_owned(),
        cpus: 1,
        memory: 1 << 30,
        init: InitSystem::Runit,
        packages: PackageManager::Apt,
        addresses: Vec::new(),
        user: "root".to_owned(),
        uid: 0,
        home: "/root".to_owned(),
        boot_id: String::new(),
        machine_id: String::new(),
        container: true,
        state_dir: "/var/lib/ovs-cuisine".to_owned(),
    }
}
