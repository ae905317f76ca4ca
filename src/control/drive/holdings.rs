//! What components have on hosts, as these have recorded it, against what their recipes ask for now: the rest goes.
//!
//! Nothing is guessed by its name. A service is taken away only when its host has recorded that it was defined for this
//! component of this lab, or when etcd knows its launch there; and only in a run that has evaluated the whole of the
//! component for that host, or that sees the host or the component off.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use indexmap::IndexMap;

use super::{
    HostSession,
    component::run_steps,
    run::{Crew, Scope},
};
use crate::{
    control::{
        event::{RunEvent, Status},
        inventory::{Component, FailurePolicy, RecipeRef},
    },
    plan::{ComponentName, Holding, HostName, HostPath, Leftovers, NOTES, Op, Plan, Source, Step, StepId},
};

/// What recipes ask for on a host that is recorded there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Declared {
    services: BTreeSet<String>,
    notes: BTreeSet<HostPath>,
}

/// What the recipes of this run ask for, by component and host.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    declared: Mutex<BTreeMap<(ComponentName, HostName), Declared>>,
    /// Services that etcd knows to be a component's on a host and that no plan has any more.
    vouched: Mutex<BTreeMap<(ComponentName, HostName), BTreeSet<String>>>,
}

impl Wishes {
    /// Takes note of what a plan asks for. A component may have several plans on a host.
    pub(super) fn note(&self, plan: &Plan) {
        let mut all = lock(&self.declared);
        let declared = all.entry((plan.component.clone(), plan.host.clone())).or_default();
        for step in &plan.steps {
            match &step.op {
                Op::ServiceEnsure(service) => drop(declared.services.insert(service.name.clone())),
                Op::FileWrite(file) if is_note(&file.path) => drop(declared.notes.insert(file.path.clone())),
                _ => {}
            }
        }
    }

    /// Takes note of services that etcd knows and that no plan has any more.
    pub(super) fn vouch(&self, component: &ComponentName, host: &HostName, services: BTreeSet<String>) {
        lock(&self.vouched).insert((component.clone(), host.clone()), services);
    }

    /// What a component has on a host and does not ask for there; none when nobody has evaluated what it asks for.
    fn left(&self, holding: Option<&Holding>, component: &ComponentName, host: &HostName) -> Option<Leftovers> {
        let key = (component.clone(), host.clone());
        let declared = lock(&self.declared).get(&key).cloned()?;
        let vouched = lock(&self.vouched).get(&key).cloned().unwrap_or_default();
        let mut left = leftovers(holding, vouched);
        left.services.retain(|name| !declared.services.contains(name));
        left.vouched.retain(|name| !declared.services.contains(name));
        left.notes.retain(|path| !declared.notes.contains(path));
        Some(left)
    }
}

/// Everything that a component has on a host.
fn leftovers(holding: Option<&Holding>, vouched: BTreeSet<String>) -> Leftovers {
    let recorded = holding.into_iter().flat_map(|holding| holding.services.iter().cloned());
    let services: BTreeSet<String> = recorded.chain(vouched.iter().cloned()).collect();
    Leftovers {
        services: services.into_iter().collect(),
        vouched: vouched.into_iter().collect(),
        notes: holding.map(|holding| holding.notes.clone()).unwrap_or_default(),
    }
}

/// Whether a file is a note of what a service was started with.
fn is_note(path: &HostPath) -> bool {
    path.as_path().parent().is_some_and(|folder| folder == std::path::Path::new(NOTES))
}

impl Crew {
    /// What a host has recorded of a component of this lab.
    fn holding<'s>(&self, component: &ComponentName, session: &'s HostSession) -> Option<&'s Holding> {
        let lab = &self.inventory.lab.name;
        session.holdings().iter().find(|holding| holding.lab == *lab && holding.component == *component)
    }

    /// Hosts of this run that have something of a component on record and are none of its hosts.
    pub(super) fn recorded_leavers(&self, component: &Component) -> BTreeSet<HostName> {
        let others = self.inventory.hosts.keys().filter(|host| self.is_in_run(host) && !component.hosts.contains(host));
        let has = |host: &&HostName| {
            self.fleet.living(host).is_some_and(|session| self.holding(&component.name, &session).is_some())
        };
        others.filter(has).cloned().collect()
    }

    /// Services on record on a host that this run takes away: no plan of their component has them, or it is no longer
    /// one of that host.
    pub(super) fn outgoing(&self, host: &HostName) -> BTreeSet<String> {
        let Some(session) = self.fleet.living(host) else { return BTreeSet::new() };
        if self.scope != Scope::Whole {
            return BTreeSet::new();
        }
        let of_lab = session.holdings().iter().filter(|holding| holding.lab == self.inventory.lab.name);
        of_lab.flat_map(|holding| self.leaving_of(holding, host)).collect()
    }

    fn leaving_of(&self, holding: &Holding, host: &HostName) -> Vec<String> {
        match self.inventory.components.get(&holding.component) {
            None if self.prune => holding.services.clone(),
            Some(component) if self.takes_part(&component.name) && !component.hosts.contains(host) => {
                holding.services.clone()
            }
            Some(component) if self.takes_part(&component.name) => {
                let left = self.wishes.left(Some(holding), &component.name, host);
                left.map(|left| left.services).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    /// Takes away what a component no longer has on a host that stays its own. Only after its recipe was evaluated.
    pub(super) async fn clear_leftovers(
        self: &Arc<Self>,
        component: &Arc<Component>,
        host: &HostName,
        session: &Arc<HostSession>,
    ) -> Status {
        // What somebody runs by hand is no component: the next one must not take it away.
        if self.scope != Scope::Whole || !self.inventory.components.contains_key(&component.name) {
            return Status::Unchanged;
        }
        let holding = self.holding(&component.name, session);
        match self.wishes.left(holding, &component.name, host) {
            Some(left) if !left.is_empty() => {
                let plan = plan_of(&component.name, host, left);
                run_steps(self, component, host, session, plan, self.mode).await
            }
            _ => Status::Unchanged,
        }
    }

    /// Takes away all that a component has on a host that is its own no longer. That the host cannot be reached is told and
    /// stops nothing: without their keys the services end with their next start.
    pub(super) async fn clear_all(
        self: &Arc<Self>,
        component: &ComponentName,
        host: &HostName,
        vouched: &BTreeSet<String>,
    ) -> Status {
        let session = match self.fleet.session(host).await {
            Ok(session) => session,
            Err(error) => {
                let text = format!("services of {component} were not removed: {}", super::error::chain(&*error));
                self.events.send(RunEvent::Warning { host: Some(host.clone()), text }).await;
                return Status::Unchanged;
            }
        };
        let left = leftovers(self.holding(component, &session), vouched.clone());
        if left.is_empty() {
            return Status::Unchanged;
        }
        let gone = Arc::new(Component {
            name: component.clone(),
            recipe: RecipeRef::Named(component.to_string()),
            hosts: vec![host.clone()],
            needs: Vec::new(),
            serial: None,
            on_failure: FailurePolicy::Continue,
            params: IndexMap::new(),
            source: from_inventory(),
        });
        run_steps(self, &gone, host, &session, plan_of(component, host, left), self.mode).await
    }

    /// Components of this lab that hosts of this run have on record and that the inventory no longer has.
    pub(super) fn forgotten(&self) -> Vec<(ComponentName, HostName)> {
        let hosts = self.inventory.hosts.keys().filter(|host| self.is_in_run(host));
        let mut found = Vec::new();
        for host in hosts {
            let Some(session) = self.fleet.living(host) else { continue };
            let of_lab = session.holdings().iter().filter(|holding| holding.lab == self.inventory.lab.name);
            let gone = of_lab.filter(|holding| !self.inventory.components.contains_key(&holding.component));
            found.extend(gone.map(|holding| (holding.component.clone(), host.clone())));
        }
        found
    }
}

/// A step that no recipe asked for.
fn plan_of(component: &ComponentName, host: &HostName, left: Leftovers) -> Plan {
    let op = Op::Leftovers(left);
    let step = Step {
        id: StepId(0),
        key: format!("leaving:{}", op.name()),
        op,
        source: from_inventory(),
        only_if_changed: Vec::new(),
        sensitive: false,
        ignore_errors: false,
    };
    Plan { component: component.clone(), host: host.clone(), steps: vec![step] }
}

fn from_inventory() -> Source {
    Source { file: "inventory".to_owned(), line: 0 }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Content, FileWrite, ServiceEnsure};

    fn plan(services: &[&str], notes: &[&str]) -> Plan {
        let service = |name: &&str| {
            Op::ServiceEnsure(ServiceEnsure {
                name: (*name).to_owned(),
                definition: None,
                running: true,
                enabled: true,
                restart_on: Vec::new(),
                ports: Vec::new(),
                yields: Vec::new(),
            })
        };
        let note = |path: &&str| {
            let content = Content::Inline(Vec::new());
            Op::FileWrite(FileWrite { path: path.parse().unwrap(), content, mode: None, owner: None, group: None })
        };
        let ops = services.iter().map(service).chain(notes.iter().map(note));
        let steps = ops.map(|op| Step {
            id: StepId(0),
            key: op.subject(),
            op,
            source: from_inventory(),
            only_if_changed: Vec::new(),
            sensitive: false,
            ignore_errors: false,
        });
        Plan { component: "vd".parse().unwrap(), host: "one".parse().unwrap(), steps: steps.collect() }
    }

    #[test]
    fn what_is_on_record_and_in_no_plan_is_left() {
        let (component, host): (ComponentName, HostName) = ("vd".parse().unwrap(), "one".parse().unwrap());
        let holding = Holding {
            lab: "lab".parse().unwrap(),
            component: component.clone(),
            services: vec!["iscsi".into(), "vd".into()],
            notes: vec!["/opt/ovs-cuisine/started/a".parse().unwrap(), "/opt/ovs-cuisine/started/b".parse().unwrap()],
        };
        let wishes = Wishes::default();
        assert_eq!(wishes.left(Some(&holding), &component, &host), None, "nobody knows what it asks for");
        wishes.note(&plan(&["vd"], &["/opt/ovs-cuisine/started/a", "/etc/other"]));
        let left = wishes.left(Some(&holding), &component, &host).unwrap();
        assert_eq!((left.services, left.vouched, left.notes.len()), (vec!["iscsi".to_owned()], Vec::new(), 1));
        // Another plan of the same component, such as prepare(ctx)'s.
        wishes.note(&plan(&["iscsi"], &["/opt/ovs-cuisine/started/b"]));
        assert!(wishes.left(Some(&holding), &component, &host).unwrap().is_empty());
        // What was made before hosts kept record is known to etcd.
        wishes.vouch(&component, &host, ["old".to_owned(), "vd".to_owned()].into());
        let left = wishes.left(None, &component, &host).unwrap();
        assert_eq!((left.services, left.vouched), (vec!["old".to_owned()], vec!["old".to_owned()]));
    }
}
