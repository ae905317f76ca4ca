//! Recipes evaluated for hosts: all of them before the first host is touched, each again when its component's turn comes.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::future::join_all;
use tokio::runtime::Handle;

use super::{
    DriveError, HostSession,
    error::{chain, problem},
    ports::{NothingYet, error_of},
    run::{Bound, Crew, NO_IPS},
    store::LinkMaker,
    surroundings::HostSurroundings,
};
use crate::{
    control::{
        event::Problem,
        inventory::Component,
        recipe::{ConfigValue, Evaluation, RecipeError, Scene},
    },
    plan::{ComponentName, Facts, HostName, Plan},
};

/// A part of a recipe besides `deploy(ctx)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// What a host needs of its own, before the component's needs are ready.
    Prepare,
    /// The probes.
    Health,
    /// What hosts that stay do for these, which leave.
    Drain(Arc<Vec<HostName>>),
}

/// What a component will ask for on a host, as far as can be told before its turn.
struct Foreseen {
    deploy: Option<Plan>,
    prepare: Option<Plan>,
}

impl Crew {
    /// Evaluates every component on every host that answers, before the first one is touched: an error in the last
    /// recipe must not be found when the first half of the lab is already changed. What needs a live answer is left
    /// for its turn, because an earlier component may change it.
    /// Whatever is wrong is told at once.
    pub(super) async fn preflight(self: &Arc<Self>, components: &[Arc<Component>]) -> Result<(), DriveError> {
        let each = components.iter().map(|component| self.foresee_component(component));
        let mut wrong = Vec::new();
        // Taken note of in the inventory's order, however they came.
        for foreseen in join_all(each).await.into_iter().flatten() {
            match foreseen {
                Ok(Foreseen { deploy, prepare }) => {
                    if let Some(plan) = &deploy {
                        self.ports.note(plan);
                    }
                    for plan in deploy.iter().chain(&prepare) {
                        self.wishes.note(plan);
                    }
                }
                Err(error) => wrong.push(error),
            }
        }
        // Hosts of one component are wrong in the same way, as a rule.
        let mut told = HashSet::new();
        wrong.retain(|error| told.insert((error.message().to_owned(), error.source().cloned())));
        match RecipeError::joined(wrong) {
            Some(error) => Err(error.into()),
            None => error_of(self.ports.clashes(None)).map_or(Ok(()), Err),
        }
    }

    /// What a component will ask for on each of its hosts that answer, and what is wrong with it.
    async fn foresee_component(self: &Arc<Self>, component: &Arc<Component>) -> Vec<Result<Foreseen, RecipeError>> {
        // What its keys need, its hosts need too: the same error once more would say nothing.
        if let Err(error) = self.evaluate_config(component).await {
            return vec![Err(error)];
        }
        let hosts = self.hosts_of(component);
        let there = hosts.iter().filter(|host| self.absent(host).is_none() && !self.is_benched(host));
        let each = there.map(|host| async move {
            let session = self.fleet.session(host).await.ok()?;
            Some(self.foresee_host(component, host, &session).await)
        });
        join_all(each).await.into_iter().flatten().collect()
    }

    async fn foresee_host(
        self: &Arc<Self>,
        component: &Arc<Component>,
        host: &HostName,
        session: &Arc<HostSession>,
    ) -> Result<Foreseen, RecipeError> {
        let asked = Arc::new(AtomicBool::new(false));
        let deploy = match self.evaluate_with(component, host, session, Some(Arc::clone(&asked))).await {
            Ok(evaluation) => Some(evaluation.plan),
            Err(error) if !asked.load(Ordering::Relaxed) => return Err(error),
            Err(_) => None,
        };
        // What a host needs of its own comes before everything else, so it may ask the host right now.
        let prepare = self.evaluate_steps(Part::Prepare, component, host, session).await?;
        Ok(Foreseen { deploy, prepare })
    }

    /// What a component would ask for on a host of which nothing but these facts is known; none when that cannot be told.
    pub(super) async fn foresee(
        self: &Arc<Self>,
        component: &Arc<Component>,
        host: HostName,
        facts: Facts,
    ) -> Option<Plan> {
        let (crew, component) = (Arc::clone(self), Arc::clone(component));
        let name = component.name.clone();
        let evaluated = self.blocking(&name, move |bound| {
            bound.recipe.deploy(&crew.scene(&component, &bound), &host, &facts, &NothingYet)
        });
        evaluated.await.ok().map(|evaluation| evaluation.plan)
    }

    /// Evaluates `deploy(ctx)` for one host.
    pub(super) async fn evaluate(
        self: &Arc<Self>,
        component: &Arc<Component>,
        host: &HostName,
        session: &Arc<HostSession>,
    ) -> Result<Evaluation, Problem> {
        let evaluated = self.evaluate_with(component, host, session, None).await;
        evaluated.map_err(|error| recipe_problem(&error))
    }

    async fn evaluate_with(
        self: &Arc<Self>,
        component: &Arc<Component>,
        host: &HostName,
        session: &Arc<HostSession>,
        deferred: Option<Arc<AtomicBool>>,
    ) -> Result<Evaluation, RecipeError> {
        let (crew, component, host) = (Arc::clone(self), Arc::clone(component), host.clone());
        let session = Arc::clone(session);
        self.blocking(&component.name.clone(), move |bound| {
            let mut surroundings = crew.surroundings(&component, Some(Arc::clone(&session)));
            surroundings.deferred = deferred;
            bound.recipe.deploy(&crew.scene(&component, &bound), &host, session.facts(), &surroundings)
        })
        .await
    }

    /// Evaluates a part of a recipe for one host; none when the recipe does not have it.
    pub(super) async fn evaluate_part(
        self: &Arc<Self>,
        part: Part,
        component: &Arc<Component>,
        host: &HostName,
        session: &Arc<HostSession>,
    ) -> Result<Option<Plan>, Problem> {
        let plan = self.evaluate_steps(part, component, host, session).await;
        plan.map_err(|error| recipe_problem(&error))
    }

    async fn evaluate_steps(
        self: &Arc<Self>,
        part: Part,
        component: &Arc<Component>,
        host: &HostName,
        session: &Arc<HostSession>,
    ) -> Result<Option<Plan>, RecipeError> {
        let (crew, component, host) = (Arc::clone(self), Arc::clone(component), host.clone());
        let session = Arc::clone(session);
        let name = component.name.clone();
        self.blocking(&name, move |bound| {
            let surroundings = crew.surroundings(&component, Some(Arc::clone(&session)));
            let scene = crew.scene(&component, &bound);
            match part {
                Part::Prepare => bound.recipe.prepare(&scene, &host, session.facts(), &surroundings),
                Part::Health => bound.recipe.health(&scene, &host, session.facts(), &surroundings),
                Part::Drain(leaving) => {
                    let scene = Scene { leaving: &leaving, ..scene };
                    bound.recipe.drain(&scene, &host, session.facts(), &surroundings)
                }
            }
        })
        .await
    }

    /// Evaluates `config(ctx)`.
    pub(super) async fn evaluate_config(
        self: &Arc<Self>,
        component: &Arc<Component>,
    ) -> Result<Vec<(String, ConfigValue)>, RecipeError> {
        let (crew, component) = (Arc::clone(self), Arc::clone(component));
        self.blocking(&component.name.clone(), move |bound| {
            let surroundings = crew.surroundings(&component, None);
            let keys = bound.recipe.config(&crew.scene(&component, &bound), &surroundings)?;
            Ok(keys.into_iter().map(|(key, value)| (format!("{}{key}", crew.inventory.lab.prefix), value)).collect())
        })
        .await
    }

    /// Evaluation blocks (it may ask the host), so it never runs on the runtime's own threads.
    async fn blocking<T: Send + 'static>(
        &self,
        component: &ComponentName,
        evaluate: impl FnOnce(Arc<Bound>) -> Result<T, RecipeError> + Send + 'static,
    ) -> Result<T, RecipeError> {
        let Some(bound) = self.bound(component) else {
            unreachable!("every component of a run is bound in Crew::prepare")
        };
        match tokio::task::spawn_blocking(move || evaluate(bound)).await {
            Ok(evaluated) => evaluated,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    fn scene<'a>(&'a self, component: &'a Component, bound: &'a Bound) -> Scene<'a> {
        Scene {
            inventory: &self.inventory,
            component,
            params: &bound.params,
            addresses: &self.addresses,
            ips: self.ips.get().unwrap_or(&NO_IPS),
            components: &self.params,
            keyspace: &bound.keyspace,
            leaving: &[],
        }
    }

    fn surroundings(&self, component: &Component, session: Option<Arc<HostSession>>) -> HostSurroundings {
        HostSurroundings {
            runtime: Handle::current(),
            session,
            fleet: Arc::clone(&self.fleet),
            hosts: component.hosts.clone(),
            absent: self.absentees(),
            sources: Arc::clone(&self.sources),
            keyring: Arc::clone(&self.keyring),
            component: component.name.clone(),
            links: self.link_maker(component),
            deferred: None,
        }
    }

    fn link_maker(&self, component: &Component) -> Result<LinkMaker, String> {
        self.stores.link_maker(&self.inventory, &self.keyring, component).map_err(|error| chain(&error))
    }
}

fn recipe_problem(error: &RecipeError) -> Problem {
    problem(error, error.hint())
}
