//! An inventory for people (tables) and for programs (JSON). Neither shows a secret.

use comfy_table::{Table, presets};
use serde::Serialize;

use super::model::{Access, Component, FailurePolicy, Host, Inventory, Jump, PortMapping, RecipeRef, SshAccess};
use crate::plan::ComponentName;

/// Version of the JSON's shape; a member that changes or goes away raises it.
const SHAPE: u32 = 1;

/// What stands where there is nothing.
const NOTHING: &str = "-";

#[derive(Serialize)]
struct Shown<'a> {
    version: u32,
    #[serde(flatten)]
    inventory: &'a Inventory,
    order: Vec<ComponentName>,
}

impl Inventory {
    /// The whole inventory as JSON: `version`, every member of [`Inventory`] and the `order` of its components. Values
    /// under names that tell a secret are `***`.
    pub fn to_json(&self) -> serde_json::Value {
        // Names are keys and numbers are finite, so there is nothing that JSON could refuse.
        serde_json::to_value(Shown { version: SHAPE, inventory: self, order: self.order() }).unwrap_or_default()
    }

    /// The inventory as tables for people, whole lines: hosts, groups, and components in the order in which they are deployed.
    pub fn show(&self) -> String {
        let subnet = self.lab.subnet.map(|subnet| format!(" Subnet {subnet}."));
        let title = format!(
            "Lab {}: {}, {}.{}",
            self.lab.name,
            plural(self.hosts.len(), "host"),
            plural(self.components.len(), "component"),
            subnet.unwrap_or_default()
        );
        let mut parts = vec![title];
        if !self.hosts.is_empty() {
            parts.push(table(
                &["HOST", "KIND", "REACHED BY", "PORTS", "GROUPS", "COMPONENTS"],
                self.hosts.values().map(|host| self.host_row(host)),
            ));
        }
        if !self.groups.is_empty() {
            let rows = self.groups.values().map(|group| {
                vec![group.name.to_string(), list(&group.hosts), list(&group.vars.keys().collect::<Vec<_>>())]
            });
            parts.push(table(&["GROUP", "HOSTS", "VARIABLES"], rows));
        }
        if !self.components.is_empty() {
            let order = self.order();
            let rows = order.iter().filter_map(|name| self.components.get(name)).map(component_row);
            parts.push(table(&["COMPONENT", "RECIPE", "HOSTS", "NEEDS", "RULES", "PARAMETERS"], rows));
        }
        parts.join("\n\n") + "\n"
    }

    fn host_row(&self, host: &Host) -> Vec<String> {
        let components: Vec<&ComponentName> = self
            .components
            .values()
            .filter(|component| component.hosts.contains(&host.name))
            .map(|component| &component.name)
            .collect();
        let (kind, reached, ports) = match &host.access {
            Access::Container(container) => {
                let ports: Vec<String> = container.ports.iter().map(port).collect();
                let address = container.address.map(|address| format!(" at {address}")).unwrap_or_default();
                ("container", format!("{} as {}{address}", container.image, container.user), list(&ports))
            }
            Access::Ssh(access) => ("ssh", way(access), NOTHING.to_owned()),
        };
        vec![host.name.to_string(), kind.to_owned(), reached, ports, list(&host.groups), list(&components)]
    }
}

fn component_row(component: &Component) -> Vec<String> {
    let recipe = match &component.recipe {
        RecipeRef::Named(name) => name.clone(),
        RecipeRef::Path(path) => path.display().to_string(),
    };
    let failure = match component.on_failure {
        FailurePolicy::StopAll => Some("failure stops all".to_owned()),
        FailurePolicy::StopHost => None,
        FailurePolicy::Continue => Some("failure stops nothing".to_owned()),
    };
    let serial = component.serial.map(|serial| format!("{serial} at once"));
    let rules: Vec<String> = serial.into_iter().chain(failure).collect();
    let params: Vec<String> =
        component.params.iter().map(|(name, value)| format!("{name} = {}", value.shown())).collect();
    vec![
        component.name.to_string(),
        recipe,
        list(&component.hosts),
        list(&component.needs),
        list(&rules),
        if params.is_empty() { NOTHING.to_owned() } else { params.join("\n") },
    ]
}

/// `admin@rack1.lab:22, sudo, through bastion`.
fn way(access: &SshAccess) -> String {
    let mut way = format!("{}@{}:{}", access.user, access.address, access.port);
    if access.sudo {
        way.push_str(", sudo");
    }
    if !access.jump.is_empty() {
        let hops: Vec<&str> = access.jump.iter().map(|Jump { name, .. }| name.as_str()).collect();
        way.push_str(", through ");
        way.push_str(&hops.join(", "));
    }
    way
}

/// `127.0.0.1:8080 to 80`, `any port of 127.0.0.1 to 80`.
fn port(mapping: &PortMapping) -> String {
    let PortMapping { address, host, container, udp } = mapping;
    let protocol = if *udp { "/udp" } else { "" };
    match host {
        Some(host) => format!("{} to {container}{protocol}", std::net::SocketAddr::new(*address, *host)),
        None => format!("any port of {address} to {container}{protocol}"),
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    match items {
        [] => NOTHING.to_owned(),
        items => items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn plural(count: usize, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}
