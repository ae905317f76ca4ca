//! Containers keep their addresses: on the real engine, with subnets that nothing else uses.

use std::{collections::BTreeMap, net::Ipv4Addr, process::Command};

use bollard::{
    models::{ContainerCreateBody, HostConfig, Ipam, IpamConfig, NetworkCreateRequest},
    query_parameters as query,
};
use ipnet::Ipv4Net;
use ovs_cuisine::{
    control::{
        inventory::{Engine::Address, Inventory},
        lab::{Engine, LabError, State},
    },
    plan::Action,
};

use super::{Lab, TIMEOUT, done, name};
use crate::support::listener::EngineListener;

/// Subnets of these tests: of a block for measurements of networks (RFC 2544), which no lab gets by itself. Each process
/// of the test runner, and each test in it, has others.
fn subnet(number: u32, length: u8) -> Ipv4Net {
    let block = Ipv4Addr::new(198, 18, 0, 0).to_bits() + (std::process::id() % 0x200) * 0x100 + number * 0x20;
    Ipv4Net::new(Ipv4Addr::from_bits(block), length).unwrap()
}

fn nth(net: Ipv4Net, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(net.network().to_bits() + number)
}

impl Lab {
    fn inventory_in(&self, subnet: Ipv4Net, hosts: &str) -> Inventory {
        self.inventory(&format!("subnet = \"{subnet}\"\n{hosts}"))
    }

    /// The addresses of the lab's hosts, as far as they are known.
    async fn addresses(&self, inventory: &Inventory) -> BTreeMap<String, Ipv4Addr> {
        let listed = self.engine.ps(inventory).await.unwrap();
        let address = |text: Option<String>| text.and_then(|text| text.parse().ok());
        listed.into_iter().filter_map(|item| Some((item.host.to_string(), address(item.address)?))).collect()
    }

    /// As if somebody had removed these containers, all at once.
    fn lose(&self, hosts: &[&str]) {
        let containers = hosts.iter().map(|host| format!("{}-{host}", self.name));
        assert!(Command::new("docker").args(["rm", "-f"]).args(containers).output().unwrap().status.success());
    }

    async fn subnet(&self) -> Ipv4Net {
        let found = self.docker.inspect_network(&self.name, None).await.unwrap();
        let config = found.ipam.unwrap().config.unwrap();
        config[0].subnet.as_ref().unwrap().parse().unwrap()
    }

    /// A network that is not the lab's.
    async fn create_network(&self, name: &str, subnet: Option<Ipv4Net>, labels: &[(&str, &str)]) {
        let config =
            subnet.map(|subnet| vec![IpamConfig { subnet: Some(subnet.to_string()), ..IpamConfig::default() }]);
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            ipam: Some(Ipam { config, ..Ipam::default() }),
            labels: Some(labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()),
            ..NetworkCreateRequest::default()
        };
        self.docker.create_network(request).await.unwrap();
    }

    /// A container that is not the lab's, running on a network; nothing says which address it gets.
    async fn run_stranger(&self, name: &str, network: &str) {
        let options = query::CreateContainerOptionsBuilder::new().name(name).build();
        let host_config = HostConfig { network_mode: Some(network.to_owned()), ..HostConfig::default() };
        let image = Some("ovs-cuisine/ssh:latest".to_owned());
        let body = ContainerCreateBody { image, host_config: Some(host_config), ..ContainerCreateBody::default() };
        self.docker.create_container(Some(options), body).await.unwrap();
        self.docker.start_container(name, None::<query::StartContainerOptions>).await.unwrap();
    }

    async fn refused(&self, inventory: &Inventory) -> LabError {
        let (result, events) = self.try_up(inventory).await;
        assert!(events.is_empty(), "nothing is done before it is told");
        result.unwrap_err()
    }
}

/// Removes a network when the test ends, also after a panic. Declared before the lab, it goes after the lab's containers.
struct Network(String);

impl Network {
    fn new(tag: &str) -> Self {
        Self(format!("t{}-{tag}", std::process::id()))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(Command::new("docker").args(["network", "rm", &self.0]).output());
    }
}

/// Removes a container that is not the lab's. Declared after the lab, it goes before the lab's network.
struct Stranger(String);

impl Drop for Stranger {
    fn drop(&mut self) {
        drop(Command::new("docker").args(["rm", "-f", &self.0]).output());
    }
}

#[tokio::test]
async fn containers_that_are_lost_at_once_come_back_with_their_addresses_in_any_order() {
    let lab = Lab::new("kept").await;
    let inventory = lab.inventory("[host.\"n-[1-4]\"]\ncontainer = {}\n[host.etcd]\ncontainer = {}\n");
    assert!(lab.addresses(&inventory).await.is_empty(), "there is no network yet");
    lab.up(&inventory).await;
    let (before, subnet) = (lab.addresses(&inventory).await, lab.subnet().await);
    assert_eq!((before.len(), subnet.prefix_len()), (5, 20));
    assert!(before.values().all(|address| subnet.contains(address)));

    lab.lose(&["n-1", "n-3", "etcd"]);
    assert_eq!(lab.addresses(&inventory).await, before, "told before they are back");
    for host in ["n-3", "etcd", "n-1"] {
        let report = lab.engine.up(&inventory, &[name(host)], &lab.keyring, |_| {}).await.unwrap();
        assert_eq!(report.into_result().unwrap().created, [name(host)]);
    }
    assert_eq!(lab.addresses(&inventory).await, before);
    // One more host, one less, and everything lost with the network: a lab is made anew as it was.
    let other = lab.inventory("[host.\"n-[2-5]\"]\ncontainer = {}\n[host.etcd]\ncontainer = {}\n");
    lab.up(&other).await;
    let grown = lab.addresses(&other).await;
    assert!(before.iter().all(|(host, address)| grown[host] == *address));
    lab.engine.down(&inventory.lab.name, None, false, |_| {}).await.unwrap();
    lab.up(&inventory).await;
    assert_eq!((lab.addresses(&inventory).await, lab.subnet().await), (before, subnet));
}

#[tokio::test]
async fn nobody_takes_the_address_of_a_container_that_is_stopped_or_lost() {
    let lab = Lab::new("stranger").await;
    let inventory = lab.inventory("[host.\"n-[1-2]\"]\ncontainer = {}\n");
    lab.up(&inventory).await;
    let before = lab.addresses(&inventory).await;
    lab.engine.stop(&inventory.lab.name, &name("n-1")).await.unwrap();
    assert_eq!(lab.addresses(&inventory).await, before, "also told while it does not run");
    lab.lose(&["n-2"]);
    let stranger = Stranger(format!("{}.stranger", lab.name));
    lab.run_stranger(&stranger.0, &lab.name).await;
    let created = lab.up(&inventory).await;
    assert_eq!(created, [done("n-1", Action::Start, "is stopped"), done("n-2", Action::Create, "does not exist")]);
    assert_eq!(lab.addresses(&inventory).await, before);
    let stays = lab.engine.down(&inventory.lab.name, None, false, |_| {}).await.unwrap();
    let expected = format!("network {} stays: a container that is not the lab's is on it", lab.name);
    assert_eq!(stays, Some(expected));
    drop(stranger);
    assert_eq!(lab.engine.down(&inventory.lab.name, None, false, |_| {}).await.unwrap(), None);
    assert!(!lab.has_network().await);
}

#[tokio::test]
async fn an_address_of_the_inventory_is_the_containers_and_a_change_makes_it_anew() {
    let lab = Lab::new("given").await;
    let net = subnet(0, 27);
    let hosts = |one: u32, other: u32| {
        lab.inventory_in(
            net,
            &format!(
                "[host.a]\ncontainer = {{ address = \"{}\" }}\n[host.b]\ncontainer = {{ address = \"{}\" }}\n\
                 [host.c]\ncontainer = {{}}\n",
                nth(net, one),
                nth(net, other)
            ),
        )
    };
    let inventory = hosts(11, 12);
    let foretold = lab.addresses(&inventory).await;
    lab.up(&inventory).await;
    let first = lab.addresses(&inventory).await;
    assert_eq!(foretold, first, "a subnet of the inventory's tells addresses before anything is there");
    assert_eq!((first["a"], first["b"], lab.subnet().await), (nth(net, 11), nth(net, 12), net));
    assert_eq!(lab.up(&inventory).await, []);

    // Both at once: each gets what the other one has.
    let swapped = hosts(12, 11);
    let different = State::Different { why: "address changed".into() };
    assert_eq!(lab.states(&swapped).await, [different.clone(), different, State::Running]);
    let why = "address changed";
    assert_eq!(lab.up(&swapped).await, [done("a", Action::Modify, why), done("b", Action::Modify, why)]);
    let second = lab.addresses(&swapped).await;
    assert_eq!((second["a"], second["b"], second["c"]), (nth(net, 12), nth(net, 11), first["c"]));

    // What is no longer given is kept; what a neighbour has cannot be had, and nothing is touched.
    let free = lab.inventory_in(net, "[host.a]\ncontainer = {}\n");
    assert_eq!(lab.up(&free).await, []);
    let taken = format!(
        "[host.a]\ncontainer = {{ address = \"{}\", memory = \"256MiB\" }}\n[host.c]\ncontainer = {{}}\n",
        first["c"]
    );
    let error = lab.refused(&lab.inventory_in(net, &taken)).await;
    let expected = format!(
        "host `a`: address {} on network `{name}` is already in use by container `{name}-c`",
        first["c"],
        name = lab.name
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(lab.addresses(&swapped).await, second);
}

#[tokio::test]
async fn the_engines_own_payload_has_the_last_word_on_addresses_too() {
    let lab = Lab::new("api").await;
    let net = subnet(1, 27);
    let api = format!(
        "api = {{ NetworkingConfig = {{ EndpointsConfig = {{ {} = {{ IPAMConfig = {{ IPv4Address = \"{}\" }} }} }} }} }}",
        lab.name,
        nth(net, 9)
    );
    let hosts = format!(
        "[host.a]\ncontainer = {{ address = \"{}\", {api} }}\n[host.b]\ncontainer = {{ {api} }}\n",
        nth(net, 8)
    );
    let error = lab.refused(&lab.inventory_in(net, &hosts)).await;
    assert!(matches!(&error, LabError::AddressInUse { address, .. } if *address == nth(net, 9).to_string()), "{error}");
    assert!(!lab.has_network().await);
    let inventory = lab.inventory_in(net, hosts.split("[host.b]").next().unwrap());
    lab.up(&inventory).await;
    assert_eq!(lab.addresses(&inventory).await["a"], nth(net, 9));
    assert_eq!(lab.up(&inventory).await, []);
}

#[tokio::test]
async fn a_subnet_that_something_has_is_refused_before_anything_is_made() {
    let other = Network::new("overlap-other");
    let lab = Lab::new("overlap").await;
    let (taken, wide) = (subnet(2, 28), subnet(2, 27));
    lab.create_network(&other.0, Some(taken), &[]).await;
    let inventory = lab.inventory_in(wide, "[host.a]\ncontainer = { volumes = [\"data:/srv\"] }\n");
    let error = lab.refused(&inventory).await;
    let expected = format!("the lab's subnet {wide} overlaps network `{}` of the engine ({taken})", other.0);
    assert_eq!(error.to_string(), expected);
    let planned = lab.engine.foresee(&inventory, &[name("a")], &lab.keyring).await.unwrap_err();
    assert_eq!(planned.to_string(), expected, "a plan says so, too");
    assert!(!lab.has_network().await && !lab.has_volume("data").await);

    // The engine's default network is a route of this machine as well.
    let bridge = lab.docker.inspect_network("bridge", None).await.unwrap().ipam.unwrap().config.unwrap();
    let bridge: Ipv4Net = bridge[0].subnet.as_ref().unwrap().parse().unwrap();
    let within = Ipv4Net::new(bridge.network(), 24).unwrap();
    let error = lab.refused(&lab.inventory_in(within, "[host.a]\ncontainer = {}\n")).await;
    assert!(error.to_string().ends_with(&format!("overlaps network `bridge` of the engine ({bridge})")), "{error}");
}

#[tokio::test]
async fn a_taken_first_choice_leads_to_the_next_subnet() {
    let other = Network::new("next-other");
    let lab = Lab::new("next").await;
    let inventory = lab.inventory("[host.a]\ncontainer = {}\n");
    lab.up(&inventory).await;
    let first = lab.subnet().await;
    lab.engine.down(&inventory.lab.name, None, true, |_| {}).await.unwrap();
    lab.create_network(&other.0, Some(first), &[]).await;
    lab.up(&inventory).await;
    let second = lab.subnet().await;
    assert_ne!(second, first);
    assert_eq!(second.prefix_len(), first.prefix_len());
    assert_eq!(lab.ssh_ok(&inventory, "a", "echo alive").await, "alive");
}

#[tokio::test]
async fn a_subnet_that_another_run_took_in_the_meantime_is_passed_over() {
    let other = Network::new("race-other");
    let mut lab = Lab::new("race").await;
    let inventory = lab.inventory("[host.a]\ncontainer = {}\n");
    lab.up(&inventory).await;
    let first = lab.subnet().await;
    lab.engine.down(&inventory.lab.name, None, true, |_| {}).await.unwrap();
    lab.create_network(&other.0, Some(first), &[]).await;
    // The list is from before it was made, and the engine is another machine's, whose routes nobody sees.
    let listener = EngineListener::at(&lab.directory.path().join("engine.sock"));
    let look_away = || {
        listener.answer_once("GET /networks ", "200 OK", "[]");
        listener.answer_once("GET /info ", "200 OK", "{\"Name\":\"far away\"}");
    };
    look_away();
    lab.engine = Engine::connect(&Address(listener.address()), TIMEOUT).await.unwrap();
    assert_eq!(lab.up(&inventory).await, [done("a", Action::Create, "does not exist")]);
    assert_ne!(lab.subnet().await, first);
    assert_eq!(listener.count("POST /networks/create "), 2, "one was refused");

    // A subnet of the inventory's has no next one.
    lab.engine.down(&inventory.lab.name, None, true, |_| {}).await.unwrap();
    look_away();
    look_away();
    let given = lab.inventory_in(first, "[host.a]\ncontainer = {}\n");
    let error = lab.refused(&given).await.to_string();
    assert!(error.starts_with(&format!("the lab's subnet {first} overlaps something of the engine's: ")), "{error}");
    assert!(!lab.has_network().await);
}

#[tokio::test]
async fn of_two_networks_that_two_runs_make_at_once_the_first_one_stays() {
    let mut lab = Lab::new("second").await;
    let (net, labels) = (subnet(6, 27), [("ovs-cuisine.lab", lab.name.as_str()), ("ovs-cuisine.subnet", "given")]);
    lab.create_network(&lab.name, Some(net), &labels).await;
    // As seen just before the other run had made it.
    let listener = EngineListener::at(&lab.directory.path().join("engine.sock"));
    listener.answer_once(&format!("GET /networks/{} ", lab.name), "404 Not Found", "{\"message\":\"no such network\"}");
    lab.engine = Engine::connect(&Address(listener.address()), TIMEOUT).await.unwrap();
    let inventory = lab.inventory("[host.a]\ncontainer = {}\n");
    lab.up(&inventory).await;
    let networks = lab.docker.list_networks(None::<query::ListNetworksOptions>).await.unwrap();
    assert_eq!(networks.iter().filter(|network| network.name.as_ref() == Some(&lab.name)).count(), 1);
    assert_eq!(listener.count("POST /networks/create "), 1, "a second one was asked for");
    assert_eq!(lab.subnet().await, net);
    assert!(net.contains(&lab.addresses(&inventory).await["a"]));
}

#[tokio::test]
async fn a_full_subnet_is_told_with_who_is_left_out() {
    let lab = Lab::new("full").await;
    let net = subnet(3, 29);
    let five = lab.inventory_in(net, "[host.\"n-[1-5]\"]\ncontainer = {}\n");
    lab.up(&five).await;
    assert_eq!(lab.addresses(&five).await.len(), 5);
    let moved = lab.inventory_in(net, "[host.\"n-[2-6]\"]\ncontainer = {}\n");
    let error = lab.refused(&moved).await;
    assert_eq!(error.to_string(), format!("host `n-6`: network `{}` has no address left in {net}", lab.name));
    assert!(error.hint().unwrap().contains("--prune"));
    lab.engine.remove(&five.lab.name, &name("n-1")).await.unwrap();
    assert_eq!(lab.up(&moved).await, [done("n-6", Action::Create, "does not exist")]);
}

#[tokio::test]
async fn a_network_of_an_earlier_version_goes_on_and_says_that_it_keeps_no_addresses() {
    let lab = Lab::new("old").await;
    lab.create_network(&lab.name, None, &[("ovs-cuisine.lab", &lab.name)]).await;
    let inventory = lab.inventory("[host.a]\ncontainer = {}\n");
    let (result, _) = lab.try_up(&inventory).await;
    let notice = result.unwrap().into_result().unwrap().notice.unwrap();
    assert!(notice.contains("keeps no addresses") && notice.contains("`ovs-cuisine down` and `up`"), "{notice}");
    let asked = lab.docker.inspect_container(&format!("{}-a", lab.name), None).await.unwrap();
    let asked = asked.network_settings.unwrap().networks.unwrap()[&lab.name].ipam_config.clone();
    assert_eq!(asked.and_then(|asked| asked.ipv4_address), None);
    assert_eq!(lab.up(&inventory).await, [], "a second one changes nothing");
    let survey = lab.engine.foresee(&inventory, &[name("a")], &lab.keyring).await.unwrap();
    assert_eq!((survey.notice, &survey.sights[0].state), (Some(notice), &State::Running));

    // What it has, said in the inventory, makes it a network that keeps addresses, and nobody moves.
    let (net, before) = (lab.subnet().await, lab.addresses(&inventory).await);
    let given = lab.inventory_in(net, &format!("[host.a]\ncontainer = {{ address = \"{}\" }}\n", before["a"]));
    assert_eq!(lab.up(&given).await, [done("a", Action::Modify, "subnet changed")]);
    assert_eq!((lab.subnet().await, lab.addresses(&given).await), (net, before.clone()));
    let survey = lab.engine.foresee(&given, &[name("a")], &lab.keyring).await.unwrap();
    assert_eq!((survey.notice, &survey.sights[0].state), (None, &State::Running));
    lab.lose(&["a"]);
    lab.up(&given).await;
    assert_eq!(lab.addresses(&given).await, before);
}

#[tokio::test]
async fn a_changed_subnet_makes_the_network_and_its_containers_anew_unless_somebody_else_is_on_it() {
    let lab = Lab::new("moved").await;
    let (old, new) = (subnet(4, 28), subnet(4, 27));
    let hosts = "[host.a]\ncontainer = { volumes = [\"data:/srv\"] }\n[host.b]\ncontainer = {}\n";
    let inventory = lab.inventory_in(old, hosts);
    lab.up(&inventory).await;
    lab.ssh_ok(&inventory, "a", "echo kept > /srv/file").await;
    let before = (lab.id("a").await, lab.id("b").await);

    let changed = lab.inventory_in(new, hosts);
    let why = "subnet changed";
    let different = State::Different { why: why.into() };
    assert_eq!(lab.states(&changed).await, [different.clone(), different]);
    let error = lab.engine.up(&changed, &[name("a")], &lab.keyring, |_| {}).await.unwrap_err();
    let expected =
        format!("network `{0}` has subnet {old}, the inventory wants {new}, and container `{0}-b` is on it", lab.name);
    assert_eq!(error.to_string(), expected);
    assert_eq!((lab.id("a").await, lab.id("b").await), before, "nothing was touched");
    assert_eq!(lab.states(&inventory).await, [State::Running, State::Running]);

    let made = lab.up(&changed).await;
    assert_eq!(made, [done("a", Action::Modify, why), done("b", Action::Modify, why)]);
    assert_eq!(lab.subnet().await, new);
    assert_eq!(lab.ssh_ok(&changed, "a", "cat /srv/file").await, "kept");
    assert_eq!(lab.up(&changed).await, []);
    // An inventory that no longer says it takes what is there.
    assert_eq!(lab.up(&lab.inventory(hosts)).await, []);
}

#[tokio::test]
async fn a_stopped_container_whose_network_is_gone_is_made_anew() {
    let lab = Lab::new("gone").await;
    let inventory = lab.inventory("[host.a]\ncontainer = {}\n");
    lab.up(&inventory).await;
    let before = lab.addresses(&inventory).await;
    lab.engine.stop(&inventory.lab.name, &name("a")).await.unwrap();
    lab.docker.remove_network(&lab.name).await.unwrap();
    let why = "network is gone";
    assert_eq!(lab.states(&inventory).await, [State::Different { why: why.into() }]);
    assert_eq!(lab.up(&inventory).await, [done("a", Action::Modify, why)]);
    assert_eq!(lab.addresses(&inventory).await, before);
    assert_eq!(lab.ssh_ok(&inventory, "a", "echo alive").await, "alive");
}

#[tokio::test]
async fn an_address_on_another_network_is_the_engines_to_give() {
    let (laid, loose) = (Network::new("net-laid"), Network::new("net-loose"));
    let lab = Lab::new("net").await;
    let net = subnet(5, 28);
    let (laid, loose) = (&laid.0, &loose.0);
    let on = |network: &str, address: Ipv4Addr| {
        lab.inventory(&format!("[host.a]\ncontainer = {{ network = \"{network}\", address = \"{address}\" }}\n"))
    };
    lab.create_network(laid, Some(net), &[]).await;
    lab.create_network(loose, None, &[]).await;
    let refused = async |inventory: Inventory| {
        let report = lab.try_up(&inventory).await.0.unwrap();
        assert_eq!(lab.id("a").await, None, "what was made for it is removed");
        report.into_result().unwrap_err()
    };
    let error = refused(on(laid, Ipv4Addr::new(172, 31, 255, 7))).await;
    let expected = format!("host `a`: network `{laid}` has no address 172.31.255.7 for a container");
    assert_eq!(error.to_string(), expected);
    let error = refused(on(loose, nth(net, 5))).await;
    let expected = format!("host `a`: network `{loose}` takes no fixed address such as {}", nth(net, 5));
    assert_eq!(error.to_string(), expected);
    assert!(error.hint().unwrap().contains("docker network create --subnet"));

    let inventory = on(laid, nth(net, 7));
    lab.up(&inventory).await;
    assert_eq!(lab.addresses(&inventory).await["a"], nth(net, 7));
    let rival = format!("[host.b]\ncontainer = {{ network = \"{laid}\", address = \"{}\" }}\n", nth(net, 7));
    let report = lab.try_up(&lab.inventory(&rival)).await.0.unwrap();
    let error = report.into_result().unwrap_err();
    assert!(matches!(error, LabError::AddressInUse { holder: None, .. }), "{error}");
    assert!(!lab.has_network().await, "the lab's own network is not made for it");
}

#[tokio::test]
async fn two_runs_of_one_lab_at_once_make_one_network() {
    let lab = Lab::new("twice").await;
    let inventory = lab.inventory("[host.\"n-[1-2]\"]\ncontainer = {}\n");
    let (one, other) = ([name("n-1")], [name("n-2")]);
    // Keys are made first: they are not what this is about.
    lab.engine.foresee(&inventory, &one, &lab.keyring).await.unwrap();
    lab.keyring.lab_key().unwrap();
    let (one, other) = tokio::join!(
        lab.engine.up(&inventory, &one, &lab.keyring, |_| {}),
        lab.engine.up(&inventory, &other, &lab.keyring, |_| {})
    );
    for (report, host) in [(one, "n-1"), (other, "n-2")] {
        assert_eq!(report.unwrap().into_result().unwrap().created, [name(host)]);
    }
    let networks = lab.docker.list_networks(None::<query::ListNetworksOptions>).await.unwrap();
    assert_eq!(networks.iter().filter(|network| network.name.as_ref() == Some(&lab.name)).count(), 1);
    let found = lab.ssh_ok(&inventory, "n-1", "getent hosts n-2").await;
    assert_eq!(found.split_whitespace().next(), Some(&*lab.addresses(&inventory).await["n-2"].to_string()));
}
