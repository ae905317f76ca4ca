//! Ports that services of a host listen on: two that want the same are told before anything is made, and one that moves
//! away in this run leaves its port to the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::future::join_all;

use super::{DriveError, component::Evaluated, run::Crew};
use crate::{
    control::{
        event::Problem,
        inventory::{Access, Component, Container, Init},
        recipe::{Refusal, Surroundings},
    },
    plan::{
        Answer, ComponentName, Distribution, Facts, HostName, InitSystem, ListenPort, Op, PackageManager, Plan,
        Question, Secret,
    },
    tree::{Digest, TreeSummary},
};

/// A service that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Opening {
    component: ComponentName,
    host: HostName,
    service: String,
    ports: Vec<ListenPort>,
    running: bool,
    /// Its plan was applied in this run: it has the ports that it wants.
    applied: bool,
}

/// Who listens on what, as far as this run has evaluated its recipes.
#[derive(Debug, Default)]
pub(super) struct PortBook(Mutex<Vec<Opening>>);

/// One of two services that want the same port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimant {
    /// Its component.
    pub component: ComponentName,
    /// Its name.
    pub service: String,
    /// What it wants.
    pub port: ListenPort,
}

/// Two services of one host that want the same port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash {
    /// Which hosts, in order.
    pub hosts: Vec<HostName>,
    /// The one that was declared first.
    pub one: Claimant,
    /// The other.
    pub other: Claimant,
}

impl PortBook {
    /// Takes note of the services of a plan; what was known of that component on that host before is forgotten.
    pub(super) fn note(&self, plan: &Plan) {
        let mut found: Vec<Opening> = Vec::new();
        for step in &plan.steps {
            let Op::ServiceEnsure(service) = &step.op else { continue };
            match found.iter_mut().find(|known| known.service == service.name) {
                // A recipe may speak of a service more than once.
                Some(known) => {
                    known.ports.extend(service.ports.iter().cloned());
                    known.running = service.running;
                }
                None => found.push(Opening {
                    component: plan.component.clone(),
                    host: plan.host.clone(),
                    service: service.name.clone(),
                    ports: service.ports.clone(),
                    running: service.running,
                    applied: false,
                }),
            }
        }
        let mut all = self.lock();
        let place = all.iter().position(|known| known.component == plan.component && known.host == plan.host);
        all.retain(|known| known.component != plan.component || known.host != plan.host);
        let place = place.unwrap_or(all.len()).min(all.len());
        all.splice(place..place, found);
    }

    /// The component's services on a host have the ports that they want.
    pub(super) fn applied(&self, component: &ComponentName, host: &HostName) {
        for known in self.lock().iter_mut().filter(|known| known.component == *component && known.host == *host) {
            known.applied = true;
        }
    }

    /// Services of a host that leave their ports to others in this run: their own turn is still to come, and then they
    /// have other ports or do not run. What declares no ports may have any, and leaves none.
    fn yielding(&self, host: &HostName, service: &str) -> BTreeSet<String> {
        let all = self.lock();
        let others = all.iter().filter(|known| known.host == *host && known.service != service && !known.applied);
        others.filter(|known| !known.running || !known.ports.is_empty()).map(|known| known.service.clone()).collect()
    }

    /// Services of one host that want the same port; of one component, or of all.
    pub(super) fn clashes(&self, of: Option<&ComponentName>) -> Vec<Clash> {
        let all = self.lock();
        let mut by_host: BTreeMap<&HostName, Vec<&Opening>> = BTreeMap::new();
        for opening in all.iter().filter(|opening| opening.running && !opening.ports.is_empty()) {
            by_host.entry(&opening.host).or_default().push(opening);
        }
        let mut clashes: Vec<Clash> = Vec::new();
        for (host, openings) in by_host {
            for (index, one) in openings.iter().enumerate() {
                for other in &openings[index + 1..] {
                    let concerns = of.is_none_or(|name| one.component == *name || other.component == *name);
                    if concerns && one.service != other.service {
                        one.clashes_with(other, host, &mut clashes);
                    }
                }
            }
        }
        clashes
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Opening>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opening {
    fn claims(&self, port: &ListenPort) -> Claimant {
        Claimant { component: self.component.clone(), service: self.service.clone(), port: port.clone() }
    }

    /// Adds what both want; what is wanted on several hosts is one clash.
    fn clashes_with(&self, other: &Self, host: &HostName, clashes: &mut Vec<Clash>) {
        for (own, theirs) in self.ports.iter().flat_map(|own| other.ports.iter().map(move |theirs| (own, theirs))) {
            if !own.clashes(theirs) {
                continue;
            }
            let (one, other) = (self.claims(own), other.claims(theirs));
            match clashes.iter_mut().find(|known| known.one == one && known.other == other) {
                Some(known) => known.hosts.push(host.clone()),
                None => clashes.push(Clash { hosts: vec![host.clone()], one, other }),
            }
        }
    }
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hosts, one, other } = self;
        let names: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
        let hosts = if names.len() == 1 { "host" } else { "hosts" };
        let port = if one.port == other.port || one.port.address == other.port.address {
            format!("port {}", one.port)
        } else {
            format!("ports {} and {} are the same: the first", one.port, other.port)
        };
        write!(
            f,
            "{hosts} {}: {port} is wanted by service `{}` of component `{}` and by service `{}` of component `{}`",
            names.join(", "),
            one.service,
            one.component,
            other.service,
            other.component
        )
    }
}

impl Clash {
    /// What to do, in one line.
    pub fn hint(&self) -> String {
        let parameter = |claimant: &Claimant| {
            claimant.port.parameter.as_ref().map(|name| format!("`{name}` of component `{}`", claimant.component))
        };
        let mut told: Vec<String> = [&self.one, &self.other].into_iter().filter_map(parameter).collect();
        told.dedup();
        match told.as_slice() {
            [] => "put one of them on another host: their recipes have no parameter for it".to_owned(),
            names => format!("change the parameter {}", names.join(" or ")),
        }
    }
}

/// Clashes as one error; none when there are none.
pub(super) fn error_of(clashes: Vec<Clash>) -> Option<DriveError> {
    if clashes.is_empty() { None } else { Some(DriveError::PortsClash(clashes)) }
}

impl Crew {
    /// Refuses a lab whose services want the same ports, before any of its containers is made. What depends on what a
    /// machine turns out to be is found by the preflight; here each container is taken for what its inventory says.
    pub(super) async fn foresee_ports(self: &Arc<Self>, components: &[Arc<Component>]) -> Result<(), DriveError> {
        let each = components.iter().flat_map(|component| {
            let hosts = self.hosts_of(component).into_iter();
            hosts.filter_map(move |host| match &self.inventory.hosts.get(&host)?.access {
                Access::Container(container) => Some((component, foreseen_facts(&host, container), host)),
                Access::Ssh(_) => None,
            })
        });
        let plans = join_all(each.map(|(component, facts, host)| self.foresee(component, host, facts))).await;
        let book = PortBook::default();
        plans.iter().flatten().for_each(|plan| book.note(plan));
        error_of(book.clashes(None)).map_or(Ok(()), Err)
    }

    /// Takes note of what these plans ask for, and has services given way by those that leave their ports to them in this run.
    pub(super) fn note_plans(&self, evaluations: &mut BTreeMap<HostName, Evaluated>) {
        for evaluated in evaluations.values() {
            if let Evaluated::Ready(_, evaluation) = evaluated {
                self.ports.note(&evaluation.plan);
                self.wishes.note(&evaluation.plan);
            }
        }
        for (host, evaluated) in evaluations {
            let Evaluated::Ready(_, evaluation) = evaluated else { continue };
            for step in &mut evaluation.plan.steps {
                if let Op::ServiceEnsure(service) = &mut step.op
                    && !service.ports.is_empty()
                {
                    let mut yields = self.ports.yielding(host, &service.name);
                    yields.extend(self.outgoing(host));
                    yields.remove(&service.name);
                    service.yields = yields.into_iter().collect();
                }
            }
        }
    }

    /// Asks the hosts of a component, before its keys are written, whether its services can have their ports.
    pub(super) async fn expect_ports(
        &self,
        component: &Component,
        evaluations: &BTreeMap<HostName, Evaluated>,
    ) -> Result<(), Box<Problem>> {
        let asked = evaluations.iter().filter_map(|(host, evaluated)| {
            let Evaluated::Ready(session, evaluation) = evaluated else { return None };
            let questions = questions(&evaluation.plan);
            (!questions.is_empty()).then_some(async move { (host, session.ask(questions).await) })
        });
        let mut refused = Vec::new();
        for (host, answers) in join_all(asked).await {
            // That it does not answer is told when its plan is applied.
            for answer in answers.unwrap_or_default() {
                if let Answer::Failed(failure) = answer {
                    refused.push((host, failure));
                }
            }
        }
        let Some((_, first)) = refused.first() else { return Ok(()) };
        Err(Box::new(Problem {
            error: format!("component {} cannot have its ports; nothing of it was changed", component.name),
            hint: first.hint.clone(),
            because: refused.iter().map(|(host, failure)| format!("host {host}: {}", failure.message)).collect(),
            output_tail: Vec::new(),
        }))
    }
}

/// Whether the services of a plan can have their ports.
fn questions(plan: &Plan) -> Vec<Question> {
    let services = plan.steps.iter().filter_map(|step| match &step.op {
        Op::ServiceEnsure(service) if service.running && !service.ports.is_empty() => Some(service),
        _ => None,
    });
    let question = |service: &crate::plan::ServiceEnsure| Question::Ports {
        service: service.name.clone(),
        ports: service.ports.clone(),
        yields: service.yields.clone(),
    };
    services.map(question).collect()
}

/// What a container will be, as far as the inventory tells.
fn foreseen_facts(host: &HostName, container: &Container) -> Facts {
    Facts {
        hostname: host.to_string(),
        distribution: Distribution {
            id: "ubuntu".to_owned(),
            like: vec!["debian".to_owned()],
            version: String::new(),
            codename: String::new(),
        },
        arch: std::env::consts::ARCH.to_owned(),
        kernel: String::new(),
        cpus: 1,
        memory: 1 << 30,
        init: if container.init == Init::Systemd { InitSystem::Systemd } else { InitSystem::Runit },
        packages: PackageManager::Apt,
        addresses: Vec::new(),
        user: "root".to_owned(),
        uid: 0,
        home: "/root".to_owned(),
        boot_id: String::new(),
        machine_id: String::new(),
        container: true,
        state_dir: String::new(),
    }
}

/// Answers a recipe that is only asked which ports its services want: nothing is read, scanned or made.
pub(super) struct NothingYet;

impl Surroundings for NothingYet {
    fn ask(&self, _: Question) -> Result<Answer, String> {
        Err("there is no host to ask yet".to_owned())
    }

    fn tree(&self, source: &Path, ignore: &[String], xattrs: bool) -> Result<TreeSummary, Refusal> {
        let digest = Digest::of(b"");
        Ok(TreeSummary {
            origin: source.display().to_string(),
            root: digest,
            manifest: digest,
            manifest_size: 0,
            files: 0,
            bytes: 0,
            ignore: ignore.to_vec(),
            xattrs,
        })
    }

    fn blob(&self, _: &Path) -> Result<(Digest, u64), String> {
        Ok((Digest::of(b""), 0))
    }

    fn secret(&self, _: Option<&ComponentName>, name: &str) -> Result<Secret<String>, String> {
        // As long as a real one, and another for each name.
        Ok(Secret::new(format!("not-a-secret-yet-{name}")))
    }

    fn launcher(&self) -> Result<(Digest, u64), String> {
        Ok((Digest::of(b""), 0))
    }

    fn etcd_link(&self, node: &str) -> Result<Secret<String>, String> {
        Ok(Secret::new(format!("etcd://nobody:yet@localhost:2379{node}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{ServiceEnsure, Source, Step, StepId};

    fn plan(component: &str, host: &str, services: &[(&str, &[&str], bool)]) -> Plan {
        let step = |(id, (name, ports, running)): (u32, &(&str, &[&str], bool))| Step {
            id: StepId(id),
            key: format!("key {id}"),
            op: Op::ServiceEnsure(ServiceEnsure {
                name: (*name).to_owned(),
                definition: None,
                running: *running,
                enabled: true,
                restart_on: Vec::new(),
                ports: ports
                    .iter()
                    .map(|port| ListenPort { parameter: Some("port".to_owned()), ..port.parse().unwrap() })
                    .collect(),
                yields: Vec::new(),
            }),
            source: Source { file: "recipe.star".to_owned(), line: 1 },
            only_if_changed: Vec::new(),
            sensitive: false,
            ignore_errors: false,
        };
        let steps = (0..).zip(services).map(step).collect();
        Plan { component: component.parse().unwrap(), host: host.parse().unwrap(), steps }
    }

    #[test]
    fn services_of_one_host_that_want_the_same_port_are_told_together_for_all_hosts() {
        let book = PortBook::default();
        for host in ["db-1", "db-2"] {
            book.note(&plan("ovsdb", host, &[("arakoon-ovsdb", &["26402", "26403"], true)]));
            book.note(&plan("extra", host, &[("arakoon-extra", &["26403"], true), ("off", &["26402"], false)]));
        }
        book.note(&plan("far", "db-3", &[("arakoon-far", &["26402"], true)]));
        let clashes = book.clashes(None);
        assert_eq!(clashes.len(), 1, "{clashes:?}");
        assert_eq!(
            clashes[0].to_string(),
            "hosts db-1, db-2: port 26403 is wanted by service `arakoon-ovsdb` of component `ovsdb` and by service \
             `arakoon-extra` of component `extra`"
        );
        assert_eq!(
            clashes[0].hint(),
            "change the parameter `port` of component `ovsdb` or `port` of component `extra`"
        );
        assert!(book.clashes(Some(&"far".parse().unwrap())).is_empty());
        // Evaluated anew, with another port.
        for host in ["db-1", "db-2"] {
            book.note(&plan("extra", host, &[("arakoon-extra", &["26410"], true)]));
        }
        assert!(book.clashes(None).is_empty());
    }

    #[test]
    fn two_services_of_one_component_clash_and_a_service_never_does_with_itself() {
        let book = PortBook::default();
        book.note(&plan(
            "web",
            "one",
            &[("a", &["127.0.0.1:80"], true), ("b", &["80"], true), ("a", &["80/udp"], true)],
        ));
        let clashes = book.clashes(None);
        assert_eq!(clashes.len(), 1, "{clashes:?}");
        assert!(
            clashes[0].to_string().starts_with("host one: ports 127.0.0.1:80 and 80 are the same: the first is wanted")
        );
        assert_eq!(clashes[0].hint(), "change the parameter `port` of component `web`");
    }

    #[test]
    fn who_moves_later_in_a_run_leaves_its_port() {
        let book = PortBook::default();
        let host: HostName = "one".parse().unwrap();
        book.note(&plan("a", "one", &[("a", &["1"], true)]));
        book.note(&plan("b", "one", &[("b", &["2"], true), ("silent", &[], true), ("stopped", &[], false)]));
        let names = |service: &str| book.yielding(&host, service).into_iter().collect::<Vec<_>>();
        assert_eq!(names("a"), ["b", "stopped"]);
        book.applied(&"b".parse().unwrap(), &host);
        assert!(names("a").is_empty(), "it has what it wants now");
        assert_eq!(names("b"), ["a"]);
    }
}
