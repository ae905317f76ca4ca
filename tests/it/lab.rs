//! Containers on the real engine. Each test has its own lab, which is removed at its end, also after a panic.

mod addresses;

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Command, Output},
    sync::Mutex,
    time::{Duration, Instant},
};

use bollard::{Docker, models::ContainerCreateBody, query_parameters as query};
use ovs_cuisine::{
    control::{
        inventory::{self, Inventory},
        lab::{Endpoint, Engine, ImageProgress, LabError, State, UpEvent, UpReport},
        link::Keyring,
    },
    plan::{Action, HostName},
};
use tempfile::TempDir;

/// For everything that has to become true; far longer than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(10);

/// A lab on the real engine. `{}` in its text stands for what must be different in each run.
struct Lab {
    name: String,
    directory: TempDir,
    engine: Engine,
    docker: Docker,
    keyring: Keyring,
}

impl Lab {
    async fn new(tag: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let engine = Engine::connect(&inventory::Engine::Default, TIMEOUT).await.unwrap();
        Self {
            name: format!("t{}-{tag}", std::process::id()),
            engine,
            docker: Docker::connect_with_defaults().unwrap(),
            keyring: Keyring::open(&directory.path().join("keys")).unwrap(),
            directory,
        }
    }

    fn inventory(&self, hosts: &str) -> Inventory {
        let text = format!("[lab]\nname = \"{}\"\n{hosts}", self.name);
        Inventory::parse(&text, &self.directory.path().join("inventory.toml")).unwrap()
    }

    async fn try_up(&self, inventory: &Inventory) -> (Result<UpReport, LabError>, Vec<UpEvent>) {
        let events = Mutex::new(Vec::new());
        let hosts: Vec<HostName> = inventory.hosts.keys().cloned().collect();
        let on_event = |event| events.lock().unwrap().push(event);
        let result = self.engine.up(inventory, &hosts, &self.keyring, on_event).await;
        let mut events = events.into_inner().unwrap();
        events.sort_by(|one, other| one.host.cmp(&other.host));
        (result, events)
    }

    /// Brings the lab up and gives what was done: host, action and why.
    async fn up(&self, inventory: &Inventory) -> Vec<(String, Action, String)> {
        let (result, events) = self.try_up(inventory).await;
        let report = result.unwrap().into_result().unwrap();
        assert_eq!(report.created.len() + report.recreated.len() + report.started.len(), events.len());
        events.into_iter().map(|event| (event.host.to_string(), event.action, event.why)).collect()
    }

    async fn states(&self, inventory: &Inventory) -> Vec<State> {
        let hosts: Vec<HostName> = inventory.hosts.keys().cloned().collect();
        let survey = self.engine.foresee(inventory, &hosts, &self.keyring).await.unwrap();
        survey.sights.into_iter().map(|sight| sight.state).collect()
    }

    async fn id(&self, host: &str) -> Option<String> {
        let name = format!("{}-{host}", self.name);
        self.docker.inspect_container(&name, None).await.ok().and_then(|found| found.id)
    }

    async fn endpoint(&self, inventory: &Inventory, host: &str) -> Endpoint {
        self.engine.endpoint(&inventory.lab.name, &name(host)).await.unwrap()
    }

    /// Runs a command over SSH with the lab's keys and nothing else, the host's key being the only good one. Tries again
    /// while sshd is starting.
    async fn ssh(&self, inventory: &Inventory, host: &str, command: &str) -> Output {
        let Endpoint { address, port } = self.endpoint(inventory, host).await;
        let known = self.directory.path().join("known");
        let pin = self.keyring.host_key(&name(host)).unwrap().public;
        fs_err::write(&known, format!("{host} {pin}\n")).unwrap();
        let key = self.directory.path().join("login");
        fs_err::write(&key, self.keyring.lab_key().unwrap().private.expose()).unwrap();
        assert!(Command::new("chmod").arg("600").arg(&key).status().unwrap().success());
        let begin = Instant::now();
        loop {
            let output = Command::new("ssh")
                .args([
                    "-F",
                    "none",
                    "-o",
                    "BatchMode=yes",
                    "-o",
                    "StrictHostKeyChecking=yes",
                    "-o",
                    "IdentitiesOnly=yes",
                ])
                .args(["-o", "IdentityAgent=none", "-o", "ConnectTimeout=10", "-o", &format!("HostKeyAlias={host}")])
                .args(["-o", &format!("UserKnownHostsFile={}", known.display()), "-p", &port.to_string(), "-i"])
                .arg(&key)
                .args([&format!("root@{address}"), command])
                .output()
                .unwrap();
            let not_yet = ["refused", "reset", "closed"];
            let error = String::from_utf8_lossy(&output.stderr).to_lowercase();
            if begin.elapsed() > PATIENCE || !not_yet.iter().any(|word| error.contains(word)) {
                return output;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn ssh_ok(&self, inventory: &Inventory, host: &str, command: &str) -> String {
        let output = self.ssh(inventory, host, command).await;
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    async fn has_network(&self) -> bool {
        self.docker.inspect_network(&self.name, None).await.is_ok()
    }

    async fn has_volume(&self, name: &str) -> bool {
        self.docker.inspect_volume(&format!("{}-{name}", self.name)).await.is_ok()
    }

    async fn create_foreign(&self, name: &str) {
        let options = query::CreateContainerOptionsBuilder::new().name(name).build();
        let body = ContainerCreateBody { image: Some("ovs-cuisine/ssh:latest".into()), ..Default::default() };
        self.docker.create_container(Some(options), body).await.unwrap();
    }

    async fn remove_foreign(&self, name: &str) {
        let options = query::RemoveContainerOptionsBuilder::new().force(true).build();
        self.docker.remove_container(name, Some(options)).await.unwrap();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let name = self.name.parse().unwrap();
        // A runtime of its own: the test's may be the one that is unwinding.
        let swept = std::thread::spawn(move || {
            tokio::runtime::Runtime::new().unwrap().block_on(async {
                let engine = Engine::connect(&inventory::Engine::Default, TIMEOUT).await?;
                engine.down(&name, None, true, |_| {}).await
            })
        });
        if let Err(error) = swept.join().unwrap() {
            eprintln!("lab {} was not removed: {error}", self.name);
        }
    }
}

fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

fn free_port() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn done(host: &str, action: Action, why: &str) -> (String, Action, String) {
    (host.to_owned(), action, why.to_owned())
}

#[tokio::test]
async fn up_makes_hosts_that_the_first_connection_can_trust_and_a_second_up_changes_nothing() {
    let lab = Lab::new("first").await;
    let inventory = lab.inventory("[host.\"node-[1-2]\"]\ncontainer = { aliases = [\"{host}-alias\"] }\n");
    assert_eq!(lab.states(&inventory).await, [State::Missing, State::Missing]);
    assert!(!lab.directory.path().join("keys").exists(), "looking makes no keys");

    let created = lab.up(&inventory).await;
    let why = "does not exist";
    assert_eq!(created, [done("node-1", Action::Create, why), done("node-2", Action::Create, why)]);
    assert_eq!(lab.states(&inventory).await, [State::Running, State::Running]);
    // Strict: it would fail if the host's key were not the keyring's.
    let hostname = lab.ssh_ok(&inventory, "node-1", "hostname; cat /etc/ssh/ssh_host_ed25519_key.pub").await;
    let public = lab.keyring.host_key(&name("node-1")).unwrap().public;
    assert_eq!(hostname, format!("node-1\n{public}"));
    for other in ["node-2", "node-2-alias"] {
        let found = lab.ssh_ok(&inventory, "node-1", &format!("getent hosts {other}")).await;
        assert_eq!(found.split_whitespace().next(), Some(&*lab.endpoint(&inventory, "node-2").await.address));
    }
    let modes = "stat -c %a:%u:%g /root/.ssh /root/.ssh/authorized_keys /etc/ssh/ssh_host_ed25519_key";
    assert_eq!(lab.ssh_ok(&inventory, "node-2", modes).await, "700:0:0\n600:0:0\n600:0:0");
    let one_key_and_one_sshd =
        "ls /etc/ssh | grep -c 'host_.*_key$'; grep -las 'sshd: .*[[]listener' /proc/[0-9]*/cmdline | wc -l";
    assert_eq!(lab.ssh_ok(&inventory, "node-2", one_key_and_one_sshd).await, "1\n1");

    let before = (lab.id("node-1").await, lab.id("node-2").await);
    assert_eq!(lab.up(&inventory).await, []);
    assert_eq!((lab.id("node-1").await, lab.id("node-2").await), before);
}

#[tokio::test]
async fn labels_tell_whose_a_container_is_and_ps_lists_it_also_when_the_inventory_forgot_it() {
    let lab = Lab::new("labels").await;
    let inventory = lab.inventory("[host.a]\ncontainer = { labels = { team = \"x\" } }\n[host.gone]\ncontainer = {}\n");
    lab.up(&inventory).await;
    let found = lab.docker.inspect_container(&format!("{}-a", lab.name), None).await.unwrap();
    let labels = found.config.unwrap().labels.unwrap();
    let label = |name: &str| labels.get(name).map(String::as_str);
    assert_eq!(label("ovs-cuisine.lab"), Some(&*lab.name));
    assert_eq!((label("ovs-cuisine.host"), label("team")), (Some("a"), Some("x")));
    assert_eq!(label("ovs-cuisine.version"), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(label("ovs-cuisine.spec").map(str::len), Some(64));

    let later = lab.inventory("[host.a]\ncontainer = { labels = { team = \"x\" } }\n[host.new]\ncontainer = {}\n");
    let listed = lab.engine.ps(&later).await.unwrap();
    let shown: Vec<_> =
        listed.iter().map(|item| (item.host.as_str(), item.state.as_str(), item.in_inventory)).collect();
    assert_eq!(shown, [("a", "running", true), ("new", "missing", true), ("gone", "running", false)]);
    assert!(listed[0].ssh_port.is_some() && listed[0].address.is_some());
    let published = TcpStream::connect(("127.0.0.1", listed[0].ssh_port.unwrap()));
    assert!(published.is_ok(), "SSH is published on the loopback address");
    lab.engine.down(&later.lab.name, None, false, |_| {}).await.unwrap();
    assert_eq!(lab.id("gone").await, None);
}

#[tokio::test]
async fn a_changed_spec_makes_a_container_anew_and_keeps_its_volume() {
    let lab = Lab::new("change").await;
    let hosts = "[host.a]\ncontainer = { volumes = [\"data:/srv\"] }\n[host.b]\ncontainer = {}\n";
    let inventory = lab.inventory(hosts);
    lab.up(&inventory).await;
    lab.ssh_ok(&inventory, "a", "echo kept > /srv/file; touch /lost").await;
    let neighbour = lab.id("b").await;

    let changed = hosts.replace("[\"data:/srv\"]", "[\"data:/srv\"], memory = \"256MiB\", environment = { A = \"1\" }");
    let changed = lab.inventory(&changed);
    let why = "environment and memory changed";
    assert_eq!(lab.states(&changed).await, [State::Different { why: why.into() }, State::Running]);
    assert_eq!(lab.up(&changed).await, [done("a", Action::Modify, why)]);
    assert_eq!(lab.ssh_ok(&changed, "a", "cat /srv/file; ls /lost 2>/dev/null || echo gone").await, "kept\ngone");
    assert_eq!(lab.id("b").await, neighbour);
    assert_eq!(lab.id("a.replaced").await, None);

    // The lab's keys are part of what a container is made from.
    let other_keys = Keyring::open(&lab.directory.path().join("other")).unwrap();
    let survey = lab.engine.foresee(&changed, &[name("a")], &other_keys).await.unwrap();
    assert_eq!(survey.sights[0].needs(), Some((Action::Modify, "keys changed".to_owned())));
}

#[tokio::test]
async fn a_tag_that_means_another_image_makes_containers_anew() {
    let lab = Lab::new("image").await;
    let image = format!("{}-image", lab.name);
    let inventory = lab.inventory(&format!("[host.a]\ncontainer = {{ image = \"{image}:1\" }}\n"));
    let tag = |from: String| {
        let options = query::TagImageOptionsBuilder::new().repo(&image).tag("1").build();
        let docker = lab.docker.clone();
        async move { docker.tag_image(&from, Some(options)).await.unwrap() }
    };
    tag("ovs-cuisine/ssh:latest".into()).await;
    lab.up(&inventory).await;
    let options = query::CommitContainerOptionsBuilder::new()
        .container(&format!("{}-a", lab.name))
        .repo(&format!("{image}-next"))
        .build();
    lab.docker.commit_container(options, bollard::models::ContainerConfig::default()).await.unwrap();
    tag(format!("{image}-next")).await;
    let states = lab.states(&inventory).await;
    lab.engine.down(&inventory.lab.name, None, true, |_| {}).await.unwrap();
    for made in [format!("{image}:1"), format!("{image}-next")] {
        lab.docker.remove_image(&made, None::<query::RemoveImageOptions>, None).await.unwrap();
    }
    assert_eq!(states, [State::Different { why: "image changed".into() }]);
}

#[tokio::test]
async fn down_keeps_volumes_unless_told_and_takes_the_network_along() {
    let lab = Lab::new("down").await;
    let hosts = "[host.a]\ncontainer = { volumes = [\"one:/srv\", \"both:/both\"] }\n\
                 [host.b]\ncontainer = { volumes = [\"two:/srv\", \"both:/both\"] }\n";
    let inventory = lab.inventory(hosts);
    lab.up(&inventory).await;
    let lab_name = &inventory.lab.name;
    let events = Mutex::new(Vec::new());
    let on_event = |event: ovs_cuisine::control::lab::DownEvent| events.lock().unwrap().push(event.name);

    lab.engine.down(lab_name, Some(&[name("a")]), true, on_event).await.unwrap();
    assert!(lab.id("a").await.is_none() && lab.id("b").await.is_some());
    assert!(!lab.has_volume("one").await, "only the removed container used it");
    assert!(lab.has_volume("both").await && lab.has_volume("two").await && lab.has_network().await);
    assert_eq!(*events.lock().unwrap(), [format!("{}-a", lab.name), format!("{}-one", lab.name)]);

    lab.engine.down(lab_name, None, false, |_| {}).await.unwrap();
    assert!(lab.id("b").await.is_none() && !lab.has_network().await);
    assert!(lab.has_volume("two").await, "volumes stay unless told");
    lab.engine.down(lab_name, None, true, |_| {}).await.unwrap();
    assert!(!lab.has_volume("two").await && !lab.has_volume("both").await);
    // There is nothing left, and that is no error.
    lab.engine.down(lab_name, None, true, |_| {}).await.unwrap();
}

#[tokio::test]
async fn a_container_that_is_not_ours_is_named_and_not_touched() {
    let lab = Lab::new("foreign").await;
    let inventory = lab.inventory("[host.a]\ncontainer = {}\n[host.b]\ncontainer = {}\n");
    let foreign = format!("{}-a", lab.name);
    lab.create_foreign(&foreign).await;
    let (result, events) = lab.try_up(&inventory).await;
    let removal = lab.engine.remove(&inventory.lab.name, &name("a")).await;
    lab.engine.down(&inventory.lab.name, None, true, |_| {}).await.unwrap();
    let still_there = lab.id("a").await;
    lab.remove_foreign(&foreign).await;

    let error = result.unwrap_err();
    assert!(matches!(&error, LabError::ForeignContainer { name, .. } if *name == foreign), "{error}");
    assert_eq!(error.to_string(), format!("container `{foreign}` is there already and was not made by ovs-cuisine"));
    assert!(matches!(removal, Err(LabError::ForeignContainer { .. })));
    assert!(events.is_empty() && lab.id("b").await.is_none(), "nothing is made beside it");
    assert!(still_there.is_some());
}

#[tokio::test]
async fn two_labs_whose_containers_would_have_one_name_do_not_take_each_others() {
    let one = Lab::new("pair").await;
    let mut other = Lab::new("pair").await;
    other.name = format!("{}-x", one.name);
    let inventory = one.inventory("[host.x-y]\ncontainer = {}\n");
    one.up(&inventory).await;
    let (result, _) = other.try_up(&other.inventory("[host.y]\ncontainer = {}\n")).await;
    let error = result.unwrap_err().to_string();
    assert!(error.ends_with(&format!("is there already and is host `x-y` of lab `{}`", one.name)), "{error}");
    other.engine.down(&other.name.parse().unwrap(), None, true, |_| {}).await.unwrap();
    assert_eq!(one.states(&inventory).await, [State::Running]);
}

#[tokio::test]
async fn bad_input_is_refused_before_anything_is_made() {
    let lab = Lab::new("bad").await;
    let refused = async |container: &str| {
        let inventory = lab.inventory(&format!("[host.good]\ncontainer = {{}}\n[host.bad]\ncontainer = {container}\n"));
        let (result, events) = lab.try_up(&inventory).await;
        assert!(events.is_empty() && lab.id("good").await.is_none() && !lab.has_network().await, "{container}");
        result.unwrap_err()
    };
    let error = refused("{ image = \"no-such/image:1\" }").await;
    assert_eq!(error.to_string(), "host `bad`: the engine has no image `no-such/image:1`");
    assert!(error.hint().unwrap().contains("ovs-cuisine image build"));

    let error = refused("{ api = { HostConfig = { Memry = 1 } } }").await;
    assert_eq!(error.to_string(), "host `bad`: `container.api` has the unknown key `HostConfig.Memry`");
    assert_eq!(error.hint().unwrap(), "did you mean `HostConfig.Memory`?");

    let (_taken, port) = free_port();
    let error = refused(&format!("{{ ports = [\"{port}:80\"] }}")).await;
    assert_eq!(error.to_string(), format!("host `bad`: port {port} on 127.0.0.1 is already in use"));
    let error = refused("{ devices = [\"/dev/no-such-device\"] }").await;
    assert_eq!(error.to_string(), "host `bad`: the engine's machine has no device `/dev/no-such-device`");

    let error = refused("{ api = { HostConfig = { Memory = \"much\" } } }").await;
    assert!(matches!(error, LabError::BadSetting { .. }), "{error}");
}

#[tokio::test]
async fn a_failure_of_one_host_leaves_nothing_of_it_and_does_not_stop_the_others() {
    let lab = Lab::new("port").await;
    let hosts = "[host.good]\ncontainer = {}\n[host.odd]\ncontainer = { user = \"nobody-here\" }\n\
         [host.lost]\ncontainer = { volumes = [\"/no/such/directory:/srv\"] }\n";
    let (result, events) = lab.try_up(&lab.inventory(hosts)).await;
    let mut report = result.unwrap();
    assert_eq!(report.created, [name("good")]);
    assert_eq!(events.len(), 1);
    report.failed.sort_by(|one, other| one.0.cmp(&other.0));
    let shown: Vec<String> = report.failed.iter().map(|(_, error)| error.to_string()).collect();
    assert_eq!(shown[0], format!("cannot create container `{}-lost`", lab.name));
    assert_eq!(shown[1], "host `odd`: image `ovs-cuisine/ssh:latest` has no user `nobody-here`");
    for host in ["odd", "lost"] {
        assert_eq!(lab.id(host).await, None, "what was made for {host} is removed");
    }
}

#[tokio::test]
async fn a_container_that_cannot_be_replaced_is_back_as_it_was() {
    let lab = Lab::new("back").await;
    lab.up(&lab.inventory("[host.a]\ncontainer = {}\n")).await;
    let before = lab.id("a").await;
    let inventory = lab.inventory("[host.a]\ncontainer = { volumes = [\"/no/such/directory:/srv\"] }\n");
    let (result, events) = lab.try_up(&inventory).await;
    let report = result.unwrap();
    assert!(matches!(report.failed[..], [(_, LabError::Api { .. })]) && events.is_empty());
    assert_eq!(lab.id("a").await, before);
    assert_eq!(lab.ssh_ok(&inventory, "a", "echo alive").await, "alive");
    assert_eq!(lab.id("a.replaced").await, None);
}

#[tokio::test]
async fn a_port_of_another_container_is_refused_and_ones_own_is_not() {
    let lab = Lab::new("held").await;
    let port = free_port().1;
    let inventory = lab.inventory(&format!("[host.a]\ncontainer = {{ ports = [\"{port}:80\"] }}\n"));
    lab.up(&inventory).await;
    let both = format!(
        "[host.a]\ncontainer = {{ ports = [\"{port}:80\"], memory = \"256MiB\" }}\n\
         [host.b]\ncontainer = {{ api = {{ HostConfig = {{ PortBindings = {{ \"80/tcp\" = [{{ HostIp = \"127.0.0.1\", HostPort = \"{port}\" }}] }} }} }} }}\n"
    );
    let (result, events) = lab.try_up(&lab.inventory(&both)).await;
    let expected = format!("host `b`: port {port} on 127.0.0.1 is already in use by container `{}-a`", lab.name);
    assert_eq!(result.unwrap_err().to_string(), expected);
    let foreseen = lab.engine.foresee(&lab.inventory(&both), &[name("a"), name("b")], &lab.keyring).await;
    assert_eq!(foreseen.unwrap_err().to_string(), expected);
    let foreseen = lab.engine.foresee(&inventory, &[name("a")], &lab.keyring).await;
    assert_eq!(foreseen.unwrap().sights[0].state, State::Running, "what runs has its port");
    assert!(events.is_empty(), "nothing is done before it is told");
    let alone = both.split_once("[host.b]").unwrap().0.to_owned();
    assert_eq!(lab.up(&lab.inventory(&alone)).await, [done("a", Action::Modify, "memory changed")]);
}

#[tokio::test]
async fn systemd_boots_whole_and_nothing_in_it_may_mount() {
    let lab = Lab::new("systemd").await;
    let inventory = lab.inventory("[host.a]\ncontainer = { init = \"systemd\", memory = \"512MiB\" }\n");
    let (result, events) = lab.try_up(&inventory).await;
    assert!(result.unwrap().into_result().is_ok());
    let grants = events[0].grants.clone().unwrap();
    assert_eq!((grants.what, grants.privileged), (vec!["SYS_ADMIN until systemd begins".to_owned()], false));
    let state = lab.ssh_ok(&inventory, "a", "systemctl is-system-running --wait; systemctl --failed --no-legend").await;
    assert_eq!(state, "running");
    let seen = "cat /proc/1/comm; ps -o comm= -C sshd | sort -u; mount -t tmpfs none /mnt 2>/dev/null || echo refused";
    assert_eq!(lab.ssh_ok(&inventory, "a", seen).await, "systemd\nsshd\nrefused");
    // Bit 21 is SYS_ADMIN; see capability.h.
    let bounds = lab.ssh_ok(&inventory, "a", "grep -h CapBnd /proc/1/status /proc/self/status | cut -f 2").await;
    for bound in bounds.lines() {
        assert_eq!(u64::from_str_radix(bound, 16).unwrap() >> 21 & 1, 0, "{bounds}");
    }
    lab.engine.stop(&inventory.lab.name, &name("a")).await.unwrap();
    let stopped = lab.docker.inspect_container(&format!("{}-a", lab.name), None).await.unwrap().state.unwrap();
    assert_eq!(stopped.exit_code, Some(0), "ended by itself, not killed");
    assert_eq!(lab.up(&inventory).await, [done("a", Action::Start, "is stopped")]);
    assert_eq!(lab.ssh_ok(&inventory, "a", "systemctl is-system-running --wait").await, "running");
}

#[tokio::test]
async fn fuse_is_mounted_with_a_device_and_a_capability_beside_systemd_too() {
    let lab = Lab::new("fuse").await;
    let inventory = lab.inventory(
        "[host.a]\ncontainer = { fuse = true }\n[host.b]\ncontainer = { fuse = true, init = \"systemd\" }\n",
    );
    let (result, events) = lab.try_up(&inventory).await;
    assert!(result.unwrap().into_result().is_ok());
    for (event, host) in events.iter().zip(["a", "b"]) {
        let grants = event.grants.as_ref().unwrap();
        assert!(grants.what.starts_with(&["/dev/fuse".to_owned(), "SYS_ADMIN".to_owned()]) && !grants.privileged);
        let found = lab.docker.inspect_container(&format!("{}-{host}", lab.name), None).await.unwrap();
        assert_ne!(found.host_config.unwrap().privileged, Some(true));
        // Mounting takes an open device and nothing that answers: the kernel asks only when somebody looks.
        let mount = "exec 7<>/dev/fuse && mount -i -t fuse -o fd=7,rootmode=40000,user_id=0,group_id=0 it /mnt && \
                     grep -c ' /mnt fuse ' /proc/mounts";
        assert_eq!(lab.ssh_ok(&inventory, host, mount).await, "1");
    }
}

#[tokio::test]
async fn what_an_ended_run_left_half_done_is_finished_by_the_next() {
    let lab = Lab::new("half").await;
    let inventory = lab.inventory("[host.a]\ncontainer = {}\n");
    lab.up(&inventory).await;
    // As if a run had ended between stepping the old one aside and starting the new one.
    let container = format!("{}-a", lab.name);
    let aside = query::RenameContainerOptionsBuilder::new().name(&format!("{container}.replaced")).build();
    lab.docker.rename_container(&container, aside).await.unwrap();
    let spec = lab.docker.inspect_container(&format!("{container}.replaced"), None).await.unwrap().config.unwrap();
    let options = query::CreateContainerOptionsBuilder::new().name(&container).build();
    let body = ContainerCreateBody { image: spec.image, labels: spec.labels, ..Default::default() };
    lab.docker.create_container(Some(options), body).await.unwrap();

    assert_eq!(lab.up(&inventory).await, [done("a", Action::Modify, "was never started")]);
    assert_eq!(lab.ssh_ok(&inventory, "a", "echo alive").await, "alive");
    assert_eq!(lab.id("a.replaced").await, None);
    // As if it had ended just before creating the new one.
    let aside = query::RenameContainerOptionsBuilder::new().name(&format!("{container}.replaced")).build();
    lab.docker.rename_container(&container, aside).await.unwrap();
    assert_eq!(lab.up(&inventory).await, [done("a", Action::Create, "does not exist")]);
    assert_eq!(lab.id("a.replaced").await, None);
}

#[tokio::test]
async fn a_stopped_or_paused_container_is_started_and_its_address_is_looked_up_again() {
    let lab = Lab::new("stop").await;
    let inventory = lab.inventory("[host.a]\ncontainer = {}\n[host.b]\ncontainer = {}\n");
    lab.up(&inventory).await;
    let (lab_name, a) = (&inventory.lab.name, name("a"));
    lab.ssh_ok(&inventory, "a", "touch /kept").await;
    lab.engine.stop(lab_name, &a).await.unwrap();
    lab.engine.stop(lab_name, &a).await.unwrap();
    assert_eq!(lab.states(&inventory).await, [State::Stopped, State::Running]);
    let error = lab.engine.endpoint(lab_name, &a).await.unwrap_err();
    assert_eq!(error.to_string(), "host `a`: no way to reach its SSH port: its container does not run");

    assert_eq!(lab.up(&inventory).await, [done("a", Action::Start, "is stopped")]);
    assert_eq!(lab.ssh_ok(&inventory, "a", "ls /kept").await, "/kept");
    lab.docker.pause_container(&format!("{}-a", lab.name)).await.unwrap();
    assert_eq!(lab.up(&inventory).await, [done("a", Action::Start, "is stopped")]);
    assert_eq!(lab.ssh_ok(&inventory, "a", "ls /kept").await, "/kept");

    lab.engine.remove(lab_name, &a).await.unwrap();
    lab.engine.remove(lab_name, &a).await.unwrap();
    let error = lab.engine.start(lab_name, &a).await.unwrap_err();
    assert!(matches!(error, LabError::NoContainer { .. }), "{error}");
}

#[tokio::test]
async fn a_stop_ends_services_cleanly_and_soon() {
    let lab = Lab::new("clean").await;
    let inventory = lab.inventory("[host.a]\ncontainer = { volumes = [\"data:/srv\"] }\n");
    lab.up(&inventory).await;
    let run =
        "#!/bin/sh\ntrap 'echo clean > /srv/end; exit 0' TERM\necho up > /srv/begin\nwhile :; do sleep 0.1; done\n";
    let service = format!(
        "mkdir /etc/sv/db && printf '%s' \"$(printf '{}')\" > /etc/sv/db/run && chmod +x /etc/sv/db/run && \
         ln -s /etc/sv/db /etc/service/db && i=0; while [ ! -e /srv/begin ] && [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done; \
         cat /proc/1/comm /srv/begin",
        run.replace('\n', "\\n").replace('\'', "'\\''")
    );
    assert_eq!(lab.ssh_ok(&inventory, "a", &service).await, "runit-init\nup");
    lab.engine.stop(&inventory.lab.name, &name("a")).await.unwrap();
    let stopped = lab.docker.inspect_container(&format!("{}-a", lab.name), None).await.unwrap().state.unwrap();
    assert_eq!(stopped.exit_code, Some(0), "ended by itself, not killed");
    lab.engine.start(&inventory.lab.name, &name("a")).await.unwrap();
    assert_eq!(lab.ssh_ok(&inventory, "a", "cat /srv/end").await, "clean");
}

#[tokio::test]
async fn another_users_keys_are_in_that_users_home() {
    let lab = Lab::new("user").await;
    let inventory = lab.inventory("[host.a]\ncontainer = { user = \"games\" }\n");
    lab.up(&inventory).await;
    let path = "/usr/games/.ssh/authorized_keys";
    let archive: Vec<_> = {
        use futures::StreamExt as _;
        let options = query::DownloadFromContainerOptionsBuilder::new().path(path).build();
        lab.docker.download_from_container(&format!("{}-a", lab.name), Some(options)).collect().await
    };
    let archive: Vec<u8> = archive.into_iter().flat_map(|piece| piece.unwrap().to_vec()).collect();
    let mut archive = tar::Archive::new(&archive[..]);
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    let mut text = String::new();
    entry.read_to_string(&mut text).unwrap();
    assert_eq!(text.trim(), lab.keyring.lab_key().unwrap().public);
    let header = entry.header();
    assert_eq!((header.mode().unwrap() & 0o777, header.uid().unwrap(), header.gid().unwrap()), (0o600, 5, 60));
}

#[tokio::test]
async fn the_log_tells_why_a_container_does_not_answer() {
    let lab = Lab::new("log").await;
    let inventory =
        lab.inventory("[host.a]\ncontainer = { command = [\"sh\", \"-c\", \"echo one; echo two; echo three >&2\"] }\n");
    lab.up(&inventory).await;
    let begin = Instant::now();
    while lab.states(&inventory).await == [State::Running] {
        assert!(begin.elapsed() < PATIENCE, "the command ends at once");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let lab_name = &inventory.lab.name;
    let mut all = lab.engine.log_tail(lab_name, &name("a"), 20).await.unwrap();
    assert_eq!(lab.engine.log_tail(lab_name, &name("a"), 2).await.unwrap().len(), 2);
    // The two streams come in any order.
    all.sort();
    assert_eq!(all, ["one", "three", "two"]);
    assert!(lab.engine.log_tail(lab_name, &name("none"), 20).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_mute_or_too_old_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let connect = |address: String| async move {
        Engine::connect(&inventory::Engine::Address(address), Duration::from_secs(1)).await.map(drop).unwrap_err()
    };
    let path = directory.path().join("docker.sock");
    let address = format!("unix://{}", path.display());
    let error = connect(address.clone()).await;
    assert!(matches!(error, LabError::NotRunning { .. }) && error.hint().is_some(), "{error:?}");

    let mute = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = connect(address.clone()).await;
    assert!(matches!(error, LabError::Timeout { .. }), "{error:?}");
    drop(mute);
    let error = connect(address).await;
    assert!(matches!(error, LabError::NotRunning { .. }), "a socket that nobody listens on: {error:?}");

    let (listener, port) = free_port();
    drop(listener);
    let error = connect(format!("tcp://127.0.0.1:{port}")).await;
    assert!(matches!(error, LabError::Refused { .. }), "{error:?}");

    let (listener, port) = free_port();
    let old = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let read = stream.read(&mut request).unwrap();
        let body = r#"{"Version":"17.03","ApiVersion":"1.26"}"#;
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        String::from_utf8_lossy(&request[..read]).lines().next().map(str::to_owned)
    });
    let error = connect(format!("tcp://127.0.0.1:{port}")).await;
    assert_eq!(old.join().unwrap().as_deref(), Some("GET /version HTTP/1.1"));
    assert!(matches!(error, LabError::TooOld { .. }), "{error:?}");
    assert!(error.to_string().starts_with("docker 17.03 at `tcp://127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn a_root_file_system_becomes_an_image_and_a_failing_build_shows_why() {
    let lab = Lab::new("build").await;
    let root = lab.directory.path().join("root");
    fs_err::create_dir_all(root.join("etc")).unwrap();
    fs_err::write(root.join("etc/big"), vec![0; 1 << 20]).unwrap();
    let tag = format!("{}-rootfs:latest", lab.name);
    let sent = Mutex::new(0);
    let on_progress = |progress| {
        if let ImageProgress::Sent(bytes) = progress {
            *sent.lock().unwrap() = bytes;
        }
    };
    let id = lab.engine.import_rootfs(&root, &tag, on_progress).await.unwrap();
    let made = lab.docker.inspect_image(&tag).await.unwrap();
    // It has no shell, so the first RUN cannot work.
    let built = lab.engine.build_image(inventory::Init::Runit, &tag, &format!("{}-built", lab.name), |_| {}).await;
    lab.docker.remove_image(&tag, None::<query::RemoveImageOptions>, None).await.unwrap();

    assert_eq!(made.id, Some(id));
    assert!(made.size.unwrap() >= 1 << 20);
    match built {
        Err(LabError::Build { message, output_tail, .. }) => {
            assert!(message.contains("/bin/sh"), "{message}");
            assert!(output_tail.iter().any(|line| line.contains("RUN")), "{output_tail:?}");
        }
        other => panic!("{other:?}"),
    }
    let missing = lab.engine.import_rootfs(&root.join("none"), &tag, |_| {}).await;
    assert!(matches!(missing, Err(LabError::Rootfs { .. })));
}
