//! Whose turn it is: `serial` protects what runs.
//!
//! Hosts where the component's services run are changed a few at a time. Those where they do not run lose nothing, and may
//! need each other to come up at all (a cluster has no quorum before most of its members run), so they go first and
//! together. So do those where nothing is to change: they are not disturbed, and one that is ill is found before the first
//! turn.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use futures::future::{BoxFuture, join_all};

use super::{HostSession, component::Evaluated, run::Crew};
use crate::{
    control::inventory::Component,
    plan::{HostName, Op, Plan, ServiceEnsure, StepId},
    tree::Care,
    wire::{Mode, StepReport},
};

impl Crew {
    /// Hosts of a component with `serial` whose services run already and that are to change: they wait for their turn.
    pub(super) async fn serving(
        self: &Arc<Self>,
        component: &Component,
        evaluations: &BTreeMap<HostName, Evaluated>,
    ) -> HashSet<HostName> {
        if component.serial.is_none() || self.mode == Mode::Check {
            return HashSet::new();
        }
        let ready = evaluations.iter().filter_map(|(host, evaluated)| match evaluated {
            Evaluated::Ready(session, evaluation) => Some((host, session, &evaluation.plan)),
            _ => None,
        });
        let asked = ready.map(|(host, session, plan)| async move {
            let waits = self.serves(session, plan).await && (self.is_push() || self.changes(session, plan).await);
            waits.then(|| host.clone())
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Whether a plan would change anything, or may. A push would not be there otherwise.
    async fn changes(&self, session: &Arc<HostSession>, plan: &Plan) -> bool {
        let looked = session.run_plan(plan.clone(), Mode::Check, Care::Whole, &self.sources, &self.cancel, unheard);
        looked.await.map_or(true, |end| {
            let tally = &end.tally;
            end.cancelled || tally.changed + tally.unknown + tally.failed + tally.not_attempted > 0
        })
    }

    /// Whether all services of a plan run. A host that cannot tell is taken for one that serves: it gets its turn.
    async fn serves(&self, session: &Arc<HostSession>, plan: &Plan) -> bool {
        let mut question = Plan { component: plan.component.clone(), host: plan.host.clone(), steps: Vec::new() };
        for step in &plan.steps {
            if let Op::ServiceEnsure(service) = &step.op
                && service.running
            {
                let mut step = step.clone();
                step.id = StepId(u32::try_from(question.steps.len()).unwrap_or(u32::MAX));
                step.only_if_changed.clear();
                step.ignore_errors = true;
                step.op = Op::ServiceEnsure(ServiceEnsure {
                    name: service.name.clone(),
                    definition: None,
                    running: true,
                    enabled: service.enabled,
                    restart_on: Vec::new(),
                    ports: Vec::new(),
                    yields: Vec::new(),
                });
                question.steps.push(step);
            }
        }
        let services = question.steps.len() as u64;
        let asked = session.run_plan(question, Mode::Check, Care::Whole, &self.sources, &self.cancel, unheard).await;
        asked.map_or(true, |end| services > 0 && u64::from(end.tally.unchanged) == services)
    }
}

fn unheard(_: Vec<StepReport>) -> BoxFuture<'static, ()> {
    Box::pin(async {})
}
