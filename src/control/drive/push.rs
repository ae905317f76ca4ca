//! Push: the trees of a component's recipe, and what reacts to their change, brought to hosts that already run.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use futures::future::join_all;

use super::{
    DriveError,
    component::run_component,
    ledger::elapsed,
    run::{Crew, Scope},
};
use crate::{
    control::{
        event::{ChangeSet, RunEvent, Status},
        inventory::{Component, FailurePolicy},
    },
    plan::{Action, ComponentName, Detail, Diff, HostName, MaxDelete, Op, Outcome, Plan, Step, StepId},
    tree::Care,
    wire::Mode,
};

/// Most paths that a change set names.
const MAX_PATHS: usize = 20;

/// The steps of a plan that a push runs: each sync that stands by itself, and whatever reacts to a step that is kept. A
/// rollback keeps only the syncs of trees with releases, and makes them go back.
/// They keep their keys, so that a reaction which an earlier run owes is still paid.
pub(super) fn pushed_part(plan: Plan, rollback: bool) -> Plan {
    reduced(plan, |step| {
        let reacts = !step.only_if_changed.is_empty();
        let is_kept = match &step.op {
            _ if reacts => true,
            Op::Sync(sync) => !rollback || sync.release.is_some(),
            Op::ServiceEnsure(service) => !service.restart_on.is_empty(),
            _ => false,
        };
        if let (Op::Sync(sync), true) = (&mut step.op, rollback)
            && let Some(release) = &mut sync.release
        {
            release.rollback = true;
        }
        is_kept
    })
}

/// The steps of a plan that are kept, numbered anew. What reacts only to steps that are not has nothing to react to and
/// goes too; `keeps` sees the rest, with what it reacts to among the kept.
pub(super) fn reduced(plan: Plan, mut keeps: impl FnMut(&mut Step) -> bool) -> Plan {
    let mut places: HashMap<StepId, StepId> = HashMap::new();
    let mut steps = Vec::new();
    for mut step in plan.steps {
        let reacts = !step.only_if_changed.is_empty();
        renumber(&mut step.only_if_changed, &places);
        if let Op::ServiceEnsure(service) = &mut step.op {
            renumber(&mut service.restart_on, &places);
        }
        if (!reacts || !step.only_if_changed.is_empty()) && keeps(&mut step) {
            let id = StepId(u32::try_from(steps.len()).unwrap_or(u32::MAX));
            places.insert(step.id, id);
            step.id = id;
            steps.push(step);
        }
    }
    Plan { component: plan.component, host: plan.host, steps }
}

fn renumber(ids: &mut Vec<StepId>, places: &HashMap<StepId, StepId>) {
    *ids = ids.iter().filter_map(|id| places.get(id).copied()).collect();
}

/// What the running push has brought so far; taken at its end.
#[derive(Debug, Default)]
pub(super) struct PushTally {
    pages: Mutex<Pages>,
    /// Whether a plan had a tree.
    has_trees: AtomicBool,
}

#[derive(Debug, Default)]
struct Pages {
    hosts: BTreeMap<HostName, Page>,
    restarted: Vec<String>,
}

#[derive(Debug, Default)]
struct Page {
    is_changed: bool,
    has_failed: bool,
    created: u64,
    modified: u64,
    removed: u64,
    bytes: u64,
    paths: Vec<String>,
}

impl PushTally {
    /// Looks at what is about to be pushed.
    pub(super) fn planned(&self, plan: &Plan) {
        let has_trees = plan.steps.iter().any(|step| matches!(step.op, Op::Sync(_)));
        self.has_trees.fetch_or(has_trees, Ordering::Relaxed);
    }

    fn has_trees(&self) -> bool {
        self.has_trees.load(Ordering::Relaxed)
    }

    /// Counts a finished step.
    pub(super) fn step(&self, host: &HostName, step: &Step, outcome: &Outcome, diff: Option<&Diff>) {
        if !matches!(outcome, Outcome::Changed | Outcome::WouldChange) {
            return;
        }
        let mut pages = self.lock();
        if let Op::ServiceEnsure(service) = &step.op
            && diff.is_some_and(starts)
            && !pages.restarted.contains(&service.name)
        {
            pages.restarted.push(service.name.clone());
        }
        let page = pages.hosts.entry(host.clone()).or_default();
        page.is_changed = true;
        for detail in diff.into_iter().flat_map(|diff| &diff.changes).flat_map(|change| &change.details) {
            if let Detail::Tree { created, modified, removed, bytes, paths } = detail {
                page.created += created;
                page.modified += modified;
                page.removed += removed;
                page.bytes += bytes;
                let room = MAX_PATHS.saturating_sub(page.paths.len());
                page.paths.extend(paths.iter().take(room).cloned());
            }
        }
    }

    /// Notes a host that does not get it.
    pub(super) fn failed(&self, host: &HostName) {
        self.lock().hosts.entry(host.clone()).or_default().has_failed = true;
    }

    /// The change set so far; begins anew. None when nothing was changed and nothing failed.
    fn take(&self, component: &ComponentName, applied: bool, since: Instant) -> Option<ChangeSet> {
        let Pages { hosts, restarted } = std::mem::take(&mut *self.lock());
        let named = |wanted: fn(&Page) -> bool| -> Vec<HostName> {
            hosts.iter().filter(|(_, page)| wanted(page)).map(|(host, _)| host.clone()).collect()
        };
        let changed = named(|page| page.is_changed && !page.has_failed);
        let failed = named(|page| page.has_failed);
        if changed.is_empty() && failed.is_empty() {
            return None;
        }
        let most = |count: fn(&Page) -> u64| hosts.values().map(count).max().unwrap_or_default();
        let paths = hosts.values().map(|page| &page.paths).max_by_key(|paths| paths.len());
        Some(ChangeSet {
            component: component.clone(),
            applied,
            hosts: changed,
            failed,
            created: most(|page| page.created),
            modified: most(|page| page.modified),
            removed: most(|page| page.removed),
            bytes: most(|page| page.bytes),
            paths: paths.cloned().unwrap_or_default(),
            restarted,
            millis: elapsed(since),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a service was started or restarted.
fn starts(diff: &Diff) -> bool {
    diff.changes.iter().any(|change| matches!(change.action, Action::Start | Action::Restart))
}

impl Crew {
    /// Pushes the components once, one after another, and when asked goes on with every later change until the run is
    /// cancelled. What comes after a failure is not begun: it may need what failed.
    pub(super) async fn push(self: &Arc<Self>, components: &[Arc<Component>], watch: bool) -> Result<(), DriveError> {
        let mut failed = false;
        for component in self.in_push_order(components) {
            if failed || self.cancel.is_cancelled() {
                self.not_attempted(component).await;
                continue;
            }
            let started = Instant::now();
            self.foresee_trees(std::slice::from_ref(component));
            join_all(self.hosts_of(component).iter().map(|host| self.reach(host))).await;
            let status = self.push_round(component, started).await;
            if status < Status::NotAttempted && !self.sources.has_trees() {
                return Err(DriveError::NothingToPush(component.name.clone()));
            }
            if status < Status::NotAttempted && self.is_rollback() && !self.pushed.has_trees() {
                return Err(DriveError::NoReleases(component.name.clone()));
            }
            failed = status >= Status::NotAttempted && component.on_failure != FailurePolicy::Continue;
            if watch && !self.cancel.is_cancelled() {
                self.watch(component).await;
            }
        }
        Ok(())
    }

    /// The components as their recipes want them pushed: equal ones stay in the order they have.
    fn in_push_order<'c>(&self, components: &'c [Arc<Component>]) -> Vec<&'c Arc<Component>> {
        let turn = |component: &&Arc<Component>| {
            self.bound(&component.name).map_or(0, |bound| bound.recipe.push_order(&bound.params))
        };
        let mut sorted: Vec<_> = components.iter().collect();
        sorted.sort_by_key(turn);
        sorted
    }

    /// Takes the right to delete from syncs of a source that is another directory than before: what it lacks may only
    /// be on its way. Nothing is taken in a first push, which knows of no other directory.
    pub(super) fn spare(&self, plan: &mut Plan) {
        for step in &mut plan.steps {
            if let Op::Sync(sync) = &mut step.op
                && self.sources.is_replaced(sync.tree.manifest)
            {
                sync.delete = MaxDelete::Never;
            }
        }
    }

    /// Whether hosts go back to the release before.
    pub(super) fn is_rollback(&self) -> bool {
        matches!(self.scope, Scope::Push { rollback: true, .. })
    }

    /// How closely hosts look at their directories.
    pub(super) fn care(&self) -> Care {
        match self.scope {
            Scope::Push { watch: true, .. } if self.follows.load(Ordering::Relaxed) => Care::Follow,
            Scope::Push { watch: true, .. } => Care::Keep,
            _ => Care::Whole,
        }
    }

    /// Brings a component's trees, as they are on disk now, to its hosts. `since` is when the change was noticed.
    pub(super) async fn push_round(self: &Arc<Self>, component: &Arc<Component>, since: Instant) -> Status {
        self.clear_bench();
        let status = run_component(Arc::clone(self), Arc::clone(component)).await;
        if let Some(set) = self.pushed.take(&component.name, self.mode == Mode::Apply, since) {
            self.events.send(RunEvent::ChangeSet(set)).await;
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Secret, Source};

    fn step(id: u32, op: Op, only_if_changed: &[u32]) -> Step {
        Step {
            id: StepId(id),
            key: format!("key {id}"),
            op,
            source: Source { file: "recipe.star".to_owned(), line: id + 1 },
            only_if_changed: only_if_changed.iter().copied().map(StepId).collect(),
            sensitive: false,
            ignore_errors: false,
        }
    }

    fn sync(dest: &str) -> Op {
        let digest = crate::tree::Digest::of(b"");
        let tree = crate::tree::TreeSummary {
            origin: "src".to_owned(),
            root: digest,
            manifest: digest,
            manifest_size: 0,
            files: 0,
            bytes: 0,
            ignore: Vec::new(),
            xattrs: false,
        };
        let dest = dest.parse().unwrap();
        Op::Sync(crate::plan::Sync {
            dest,
            tree,
            owner: None,
            group: None,
            delete: MaxDelete::Any,
            ignore: Vec::new(),
            release: None,
        })
    }

    fn service(name: &str, restart_on: &[u32]) -> Op {
        Op::ServiceEnsure(crate::plan::ServiceEnsure {
            name: name.to_owned(),
            definition: None,
            running: true,
            enabled: true,
            restart_on: restart_on.iter().copied().map(StepId).collect(),
            ports: Vec::new(),
            yields: Vec::new(),
        })
    }

    fn run(command: &str) -> Op {
        Op::Run(crate::plan::Run {
            command: Secret::new(command.to_owned()),
            sensitive: false,
            guards: Vec::new(),
            directory: None,
            environment: Vec::new(),
            user: None,
            timeout_ms: 1000,
            success: vec![0],
            stdin: None,
            changes: true,
        })
    }

    #[test]
    fn a_rollback_keeps_trees_with_releases_and_what_reacts_to_them() {
        let mut with_releases = sync("/opt/one");
        if let Op::Sync(sync) = &mut with_releases {
            sync.release = Some(crate::plan::Release { keep: 3, rollback: false });
        }
        let steps = vec![
            step(0, with_releases, &[]),
            step(1, sync("/opt/two"), &[]),
            step(2, service("one", &[0]), &[]),
            step(3, service("two", &[1]), &[]),
        ];
        let plan = Plan { component: "c".parse().unwrap(), host: "h".parse().unwrap(), steps };
        let kept = pushed_part(plan, true).steps;
        let titles: Vec<String> = kept.iter().map(Step::title).collect();
        assert_eq!(titles, ["sync /opt/one", "service_ensure one"]);
        assert!(matches!(&kept[0].op, Op::Sync(sync) if sync.release.is_some_and(|release| release.rollback)));
    }

    #[test]
    fn a_push_keeps_trees_and_what_reacts_to_them() {
        let steps = vec![
            step(0, run("setup"), &[]),
            step(1, sync("/opt/one"), &[]),
            step(2, run("ldconfig"), &[1]),
            step(3, run("after setup"), &[0]),
            step(4, sync("/opt/only-after-setup"), &[0]),
            step(5, service("other", &[0]), &[]),
            step(6, service("one", &[0, 1, 2]), &[]),
            step(7, run("check"), &[]),
            step(8, sync("/opt/two"), &[]),
            step(9, service("two", &[8]), &[]),
        ];
        let plan = Plan { component: "c".parse().unwrap(), host: "h".parse().unwrap(), steps };
        let kept = pushed_part(plan, false).steps;
        let titles: Vec<String> = kept.iter().map(Step::title).collect();
        let wanted = ["sync /opt/one", "run ldconfig", "service_ensure one", "sync /opt/two", "service_ensure two"];
        assert_eq!(titles, wanted);
        assert!(kept.iter().zip(0..).all(|(step, place)| step.id == StepId(place)));
        assert_eq!(kept[1].only_if_changed, [StepId(0)]);
        let reacts_to = |place: usize| match &kept[place].op {
            Op::ServiceEnsure(service) => service.restart_on.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(reacts_to(2), [StepId(0), StepId(1)]);
        assert_eq!(reacts_to(4), [StepId(3)]);
        assert_eq!(kept[2].key, "key 6");
    }
}
