//! A compiled recipe, ready to meet a host.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use indexmap::IndexMap;
use starlark::{
    docs::{DocItem, DocMember, DocString},
    environment::{FrozenModule, Module},
    eval::Evaluator,
    values::{Value, any::StarlarkAny},
};

use super::{
    BoundValue, ConfigValue, Evaluation, Keyspace, ParamSpec, Params, RecipeError, RecipeErrorKind, Scene, StoreSpec,
    Surroundings,
    bounds::{Bounds, on_own_stack_beside},
    compile::{Compiled, Printer},
    context::context,
    diagnose::{Circumstances, diagnose},
    error::Fault,
    files::{Roots, Texts},
    params, reference,
    returned::{access, config_values, prefixes, store_spec},
    session::{Outside, Phase, Recorded, Session, Stage, serve},
};
use crate::{
    control::inventory::Component,
    plan::{Facts, HostName, Plan, Source},
};

/// A compiled recipe. Shared by all components and hosts that use it; evaluating it changes nothing in it.
pub struct Recipe {
    name: String,
    doc: String,
    /// As the operator would name it.
    file: String,
    folder: PathBuf,
    module: FrozenModule,
    params: Vec<ParamSpec>,
    roots: Arc<Roots>,
    texts: Arc<Texts>,
    bounds: Bounds,
}

/// The functions that a recipe may define.
const FUNCTIONS: [&str; 8] = ["prefix", "access", "config", "store", "prepare", "deploy", "drain", "health"];

/// Who asks whom, in one evaluation.
#[derive(Clone, Copy)]
struct Call<'a> {
    phase: Phase,
    function: &'static str,
    scene: Scene<'a>,
    host: Option<(&'a HostName, &'a Facts)>,
    surroundings: Option<&'a dyn Surroundings>,
}

impl Recipe {
    pub(super) fn new(
        name: String,
        file: String,
        folder: PathBuf,
        compiled: &Compiled,
        roots: &Arc<Roots>,
        bounds: Bounds,
    ) -> Result<Self, RecipeError> {
        let recipe = Self {
            doc: documentation(&compiled.module),
            name,
            file,
            folder,
            module: compiled.module.clone(),
            params: compiled.params.clone(),
            roots: Arc::clone(roots),
            texts: Arc::default(),
            bounds,
        };
        recipe.check_functions()?;
        Ok(recipe)
    }

    /// Its name: the folder's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text at its head; empty when it has none.
    pub fn doc(&self) -> &str {
        &self.doc
    }

    /// Its parameters as declared.
    pub fn params(&self) -> &[ParamSpec] {
        &self.params
    }

    /// Its folder: where its templates and files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether it defines `config(ctx)`.
    pub fn has_config(&self) -> bool {
        self.defines("config")
    }

    /// Whether it defines `deploy(ctx)`.
    pub fn has_deploy(&self) -> bool {
        self.defines("deploy")
    }

    /// Whether it defines `prepare(ctx)`.
    pub fn has_prepare(&self) -> bool {
        self.defines("prepare")
    }

    /// Whether it defines `drain(ctx)`.
    pub fn has_drain(&self) -> bool {
        self.defines("drain")
    }

    /// Whether it defines `health(ctx)`.
    pub fn has_health(&self) -> bool {
        self.defines("health")
    }

    /// Whether it defines `store(ctx)`.
    pub fn has_store(&self) -> bool {
        self.defines("store")
    }

    /// Checks a component's parameters against the declarations. Relative paths start at `base`.
    ///
    /// The error ([`RecipeErrorKind::Param`]) holds everything that is wrong, each with the inventory's line.
    pub fn bind(&self, component: &Component, base: &Path) -> Result<Params, RecipeError> {
        params::bind(&self.name, &self.params, component, base, &self.folder)
    }

    /// Checks that directories which parameters name have what the recipe declared of them, such as the programs of a build.
    ///
    /// The error ([`RecipeErrorKind::Param`]) holds everything that is missing, each with the inventory's line.
    pub fn check_layouts(&self, component: &Component, params: &Params) -> Result<(), RecipeError> {
        params::check_layouts(&self.params, params, component)
    }

    /// When the turn of a component with these parameters comes in a push of several: the last of those that its directories
    /// were declared with.
    pub fn push_order(&self, params: &Params) -> i32 {
        let given = |spec: &&ParamSpec| matches!(params.get(&spec.name), Some(BoundValue::Path(_)));
        self.params.iter().filter(given).map(|spec| spec.push_order).max().unwrap_or_default()
    }

    /// What the component has in etcd: the prefixes that `prefix(ctx)` returns, else its name; and what `access(ctx)` adds
    /// for its login. Whole keys, with the lab's prefix.
    pub fn keyspace(&self, scene: &Scene<'_>) -> Result<Keyspace, RecipeError> {
        let call = |function, phase| Call { phase, function, scene: *scene, host: None, surroundings: None };
        let own = self.call(call("prefix", Phase::Prefix), prefixes)?;
        let own = own.map_or_else(|| vec![format!("{}/", scene.component.name)], |(prefixes, _)| prefixes);
        let whole = |list: Vec<String>| -> Vec<String> {
            list.into_iter().map(|key| format!("{}{key}", scene.inventory.lab.prefix)).collect()
        };
        let keyspace = Keyspace { prefixes: whole(own), ..Keyspace::default() };
        let scene = Scene { keyspace: &keyspace, ..*scene };
        let call = Call { phase: Phase::Access, function: "access", scene, host: None, surroundings: None };
        let (reads, writes) = self.call(call, access)?.map(|(access, _)| access).unwrap_or_default();
        Ok(Keyspace { reads: whole(reads), writes: whole(writes), ..keyspace })
    }

    /// The component's keys in etcd, relative to the lab's prefix; each lies below the component's prefix. Empty when
    /// the recipe defines no `config(ctx)`.
    pub fn config(
        &self,
        scene: &Scene<'_>,
        surroundings: &dyn Surroundings,
    ) -> Result<IndexMap<String, ConfigValue>, RecipeError> {
        let call = Call {
            phase: Phase::Config,
            function: "config",
            scene: *scene,
            host: None,
            surroundings: Some(surroundings),
        };
        Ok(self.call(call, config_values)?.map(|(values, _)| values).unwrap_or_default())
    }

    /// Where the lab's configuration store is, when this recipe runs it: when it defines `store(ctx)`.
    pub fn store(&self, scene: &Scene<'_>, surroundings: &dyn Surroundings) -> Result<Option<StoreSpec>, RecipeError> {
        let call = Call {
            phase: Phase::Store,
            function: "store",
            scene: *scene,
            host: None,
            surroundings: Some(surroundings),
        };
        Ok(self.call(call, store_spec)?.map(|(store, _)| store))
    }

    /// The ops and launches for one host. Empty when the recipe defines no `deploy(ctx)`.
    ///
    /// Blocks while the surroundings answer; runs on a thread of its own.
    pub fn deploy(
        &self,
        scene: &Scene<'_>,
        host: &HostName,
        facts: &Facts,
        surroundings: &dyn Surroundings,
    ) -> Result<Evaluation, RecipeError> {
        let evaluated = self.on_host("deploy", Phase::Deploy, scene, (host, facts), surroundings)?;
        Ok(evaluated.unwrap_or_else(|| Evaluation {
            plan: Plan { component: scene.component.name.clone(), host: host.clone(), steps: Vec::new() },
            launches: Vec::new(),
        }))
    }

    /// What a host needs of its own, before the component's needs are ready; none when the recipe defines no
    /// `prepare(ctx)`.
    pub fn prepare(
        &self,
        scene: &Scene<'_>,
        host: &HostName,
        facts: &Facts,
        surroundings: &dyn Surroundings,
    ) -> Result<Option<Plan>, RecipeError> {
        let evaluated = self.on_host("prepare", Phase::Prepare, scene, (host, facts), surroundings)?;
        Ok(evaluated.map(|evaluated| evaluated.plan))
    }

    /// What a host that stays does for those that leave ([`Scene::leaving`]), before these are stopped and their keys go;
    /// none when the recipe defines no `drain(ctx)`.
    pub fn drain(
        &self,
        scene: &Scene<'_>,
        host: &HostName,
        facts: &Facts,
        surroundings: &dyn Surroundings,
    ) -> Result<Option<Plan>, RecipeError> {
        let evaluated = self.on_host("drain", Phase::Drain, scene, (host, facts), surroundings)?;
        Ok(evaluated.map(|evaluated| evaluated.plan))
    }

    /// The probes for one host; none when the recipe defines no `health(ctx)`.
    pub fn health(
        &self,
        scene: &Scene<'_>,
        host: &HostName,
        facts: &Facts,
        surroundings: &dyn Surroundings,
    ) -> Result<Option<Plan>, RecipeError> {
        let evaluated = self.on_host("health", Phase::Health, scene, (host, facts), surroundings)?;
        Ok(evaluated.map(|evaluated| evaluated.plan))
    }

    /// What one of its functions asks for on one host; none when it does not define it.
    fn on_host(
        &self,
        function: &'static str,
        phase: Phase,
        scene: &Scene<'_>,
        (host, facts): (&HostName, &Facts),
        surroundings: &dyn Surroundings,
    ) -> Result<Option<Evaluation>, RecipeError> {
        let call = Call { phase, function, scene: *scene, host: Some((host, facts)), surroundings: Some(surroundings) };
        let recorded = self.call(call, nothing)?;
        Ok(recorded.map(|((), recorded)| Evaluation {
            plan: Plan { component: scene.component.name.clone(), host: host.clone(), steps: recorded.steps },
            launches: recorded.launches,
        }))
    }

    /// What `recipe doc` shows, as Markdown: its text, its parameters with types, defaults and docs.
    pub fn reference(&self) -> String {
        reference::recipe(self)
    }

    fn defines(&self, function: &str) -> bool {
        self.module.get_option(function).ok().flatten().is_some()
    }

    /// Calls one of the recipe's functions; none when it does not define it.
    fn call<R: Send>(
        &self,
        call: Call<'_>,
        extract: impl FnOnce(Value<'_>, &Session) -> Result<R, Fault> + Send,
    ) -> Result<Option<(R, Recorded)>, RecipeError> {
        if !self.defines(call.function) {
            return Ok(None);
        }
        let (outside, inbox) = Outside::open();
        let (surroundings, outside) = call.surroundings.map(|surroundings| (surroundings, outside)).unzip();
        on_own_stack_beside(
            move || self.call_here(call, outside, extract).map(Some),
            || surroundings.into_iter().for_each(|surroundings| serve(&inbox, surroundings)),
        )
    }

    fn call_here<R>(
        &self,
        call: Call<'_>,
        outside: Option<Outside>,
        extract: impl FnOnce(Value<'_>, &Session) -> Result<R, Fault>,
    ) -> Result<(R, Recorded), RecipeError> {
        let function = self.module.get(call.function);
        let function = function.map_err(|error| self.wrong(call.function, error.to_string()))?;
        let stage = Stage::new(&call.scene, call.host.map(|(host, _)| host));
        let session = Session::loading(call.phase, &self.roots, &self.folder).on(stage, &self.texts, outside);
        let session = Arc::new(session);
        let extra = StarlarkAny(Arc::clone(&session));
        let printer = Printer(&session.veil);
        let result = Module::with_temp_heap(|module| {
            let mut eval = Evaluator::new(&module);
            eval.extra = Some(&extra);
            eval.set_print_handler(&printer);
            let watch = self.bounds.enforce(&mut eval)?;
            let context = context(&module, &call.scene, call.host, &session.veil)?;
            let function = eval.heap().access_owned_frozen_value(&function);
            let value = eval.eval_function(function, &[context], &[]).map_err(|error| {
                let (function, veil) = (Some(call.function), Some(&*session.veil));
                diagnose(&error, Circumstances { watch: Some(&watch), function, veil, bounds: self.bounds })
            })?;
            extract(value, &session).map_err(|fault| {
                let hint = fault.hint;
                let error = self.wrong(call.function, session.veil.scrub(&fault.message));
                match hint {
                    Some(hint) => error.with_hint(hint),
                    None => error,
                }
            })
        })?;
        let recorded = std::mem::take(&mut *session.recorded());
        Ok((result, recorded))
    }

    /// An error about what a function returned.
    fn wrong(&self, function: &str, message: impl Into<String>) -> RecipeError {
        let message = format!("{function}(ctx): {}", message.into());
        let source = Source { file: self.file.clone(), line: 0 };
        RecipeError::new(RecipeErrorKind::Evaluation, message).at(source)
    }

    /// That the functions it defines are functions of one argument, and that it defines anything to do.
    fn check_functions(&self) -> Result<(), RecipeError> {
        for name in FUNCTIONS {
            let Some(function) = self.module.get_option(name).ok().flatten() else { continue };
            let taken = match function.value().documentation() {
                DocItem::Member(DocMember::Function(function)) => {
                    let params = &function.params;
                    let needed = params.regular_params().filter(|param| param.default_value.is_none()).count();
                    Some((needed, params.pos_only.len() + params.pos_or_named.len()))
                }
                _ => None,
            };
            if !taken.is_some_and(|(needed, positional)| needed <= 1 && positional >= 1) {
                let message =
                    format!("recipe `{}`: `{name}` is not a function of one argument, `{name}(ctx)`", self.name);
                let source = Source { file: self.file.clone(), line: 0 };
                return Err(RecipeError::new(RecipeErrorKind::Type, message).at(source));
            }
        }
        if FUNCTIONS.iter().any(|name| self.defines(name)) {
            return Ok(());
        }
        let message = format!(
            "recipe `{}` defines none of {}",
            self.name,
            FUNCTIONS.map(|name| format!("{name}(ctx)")).join(", ")
        );
        let source = Source { file: self.file.clone(), line: 0 };
        Err(RecipeError::new(RecipeErrorKind::Type, message).at(source))
    }
}

fn documentation(module: &FrozenModule) -> String {
    let text = |docs: DocString| match docs.details {
        Some(details) => format!("{}\n\n{details}", docs.summary),
        None => docs.summary,
    };
    module.documentation().docs.map(text).unwrap_or_default()
}

#[expect(clippy::unnecessary_wraps, reason = "has the shape of the other extractors")]
fn nothing(_value: Value<'_>, _session: &Session) -> Result<(), Fault> {
    Ok(())
}
