//! One evaluation: what it may do, what it knows, what it recorded.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
};

use starlark::{eval::Evaluator, values::any::StarlarkAny};

use super::{
    BoundValue, Keyspace, Launch, ParamSpec, Scene, Surroundings,
    diagnose::source_of,
    error::{Fault, RecipeErrorKind},
    files::{Roots, Texts},
    values::Handle,
    veil::{Lifted, Veil},
};
use crate::plan::{HostName, HostPath, Mode, Op, Principal, Source, Step, StepId};

/// Which of a recipe's functions is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    /// The top level of a recipe's own file.
    Recipe,
    /// The top level of a loaded file.
    Library,
    Prefix,
    Access,
    Config,
    Store,
    Prepare,
    Deploy,
    Drain,
    Health,
}

impl Phase {
    /// Where one is, in words.
    fn place(self) -> &'static str {
        match self {
            Self::Recipe | Self::Library => "while the file is loaded",
            Self::Prefix => "inside prefix(ctx)",
            Self::Access => "inside access(ctx)",
            Self::Config => "inside config(ctx)",
            Self::Store => "inside store(ctx)",
            Self::Prepare => "inside prepare(ctx)",
            Self::Deploy => "inside deploy(ctx)",
            Self::Drain => "inside drain(ctx)",
            Self::Health => "inside health(ctx)",
        }
    }
}

/// One evaluation. Native functions find it in the evaluator; so it owns what it knows.
pub(super) struct Session {
    pub(super) phase: Phase,
    pub(super) roots: Arc<Roots>,
    /// The recipe's folder.
    pub(super) folder: PathBuf,
    texts: Option<Arc<Texts>>,
    stage: Option<Stage>,
    outside: Option<Outside>,
    pub(super) veil: Arc<Veil>,
    recorded: Mutex<Recorded>,
}

/// What functions have to know of a component and its host.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) component: String,
    pub(super) host: Option<HostName>,
    /// The lab's prefix in etcd.
    lab_prefix: String,
    /// The lab's name.
    pub(super) lab: String,
    /// What the component has in etcd.
    pub(super) keyspace: Keyspace,
    /// Values of parameters of type `path`.
    paths: Vec<PathBuf>,
    /// Names of parameters, with their values where these are whole numbers.
    pub(super) parameters: Vec<(String, Option<u64>)>,
    /// Hosts of each component of the lab.
    pub(super) components: BTreeMap<String, Vec<String>>,
}

/// A way to the surroundings, which live on the thread that asked for the evaluation.
#[derive(Clone)]
pub(super) struct Outside(mpsc::Sender<Request>);

type Request = Box<dyn FnOnce(&dyn Surroundings) + Send>;

/// What an evaluation recorded.
#[derive(Default)]
pub(super) struct Recorded {
    pub(super) params: Option<Vec<ParamSpec>>,
    pub(super) steps: Vec<Step>,
    keys: HashSet<String>,
    pub(super) launches: Vec<Launch>,
}

impl Outside {
    /// A way, and its other end for [`serve`].
    pub(super) fn open() -> (Self, mpsc::Receiver<Request>) {
        let (requests, inbox) = mpsc::channel();
        (Self(requests), inbox)
    }
}

/// Answers requests until the evaluation has ended.
pub(super) fn serve(inbox: &mpsc::Receiver<Request>, surroundings: &dyn Surroundings) {
    while let Ok(request) = inbox.recv() {
        request(surroundings);
    }
}

impl Stage {
    pub(super) fn new(scene: &Scene<'_>, host: Option<&HostName>) -> Self {
        let hosts = |component: &crate::control::inventory::Component| {
            component.hosts.iter().map(ToString::to_string).collect()
        };
        Self {
            component: scene.component.name.to_string(),
            host: host.cloned(),
            lab_prefix: scene.inventory.lab.prefix.clone(),
            lab: scene.inventory.lab.name.to_string(),
            keyspace: scene.keyspace.clone(),
            paths: scene.params.paths().map(|(_, path)| path.to_path_buf()).collect(),
            parameters: scene.params.iter().map(|(name, value)| (name.to_owned(), whole(value))).collect(),
            components: scene
                .inventory
                .components
                .iter()
                .map(|(name, component)| (name.to_string(), hosts(component)))
                .collect(),
        }
    }
}

/// A whole number among the values of parameters.
fn whole(value: &BoundValue) -> Option<u64> {
    match value {
        BoundValue::Plain(value) => value.as_u64(),
        BoundValue::Path(_) | BoundValue::Secret(_) => None,
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("phase", &self.phase).finish_non_exhaustive()
    }
}

/// What every op understands.
#[derive(Debug, Default, Clone)]
pub(super) struct Manner {
    pub(super) only_if_changed: Vec<StepId>,
    pub(super) ignore_errors: bool,
    pub(super) sensitive: bool,
}

/// The session of the evaluator that calls a native function.
pub(super) fn session<'a>(eval: &Evaluator<'_, 'a, '_>) -> Result<&'a Session, Fault> {
    eval.extra
        .and_then(|extra| extra.downcast_ref::<StarlarkAny<Arc<Session>>>())
        .map(|session| &*session.0)
        .ok_or_else(|| Fault::evaluation("this function works in recipes only"))
}

/// The recipe line that calls a native function.
pub(super) fn caller(eval: &Evaluator<'_, '_, '_>) -> Source {
    eval.call_stack_top_location().as_ref().map_or_else(|| Source { file: String::new(), line: 0 }, source_of)
}

impl Session {
    /// A session for the top level of a file.
    pub(super) fn loading(phase: Phase, roots: &Arc<Roots>, folder: &Path) -> Self {
        Self {
            phase,
            roots: Arc::clone(roots),
            folder: folder.to_path_buf(),
            texts: None,
            stage: None,
            outside: None,
            veil: Arc::new(Veil::new()),
            recorded: Mutex::default(),
        }
    }

    /// The same session for one of a recipe's functions.
    pub(super) fn on(self, stage: Stage, texts: &Arc<Texts>, outside: Option<Outside>) -> Self {
        Self { stage: Some(stage), texts: Some(Arc::clone(texts)), outside, ..self }
    }

    /// What was recorded so far.
    pub(super) fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses an op where none may be declared.
    pub(super) fn may_record(&self, op: &str) -> Result<(), Fault> {
        match self.phase {
            Phase::Deploy => Ok(()),
            Phase::Prepare | Phase::Drain if op != "launch" => Ok(()),
            Phase::Drain => Err(Fault::evaluation("`launch` is not for drain(ctx), which sees hosts off")
                .hint("launch it in deploy(ctx)")),
            Phase::Prepare => {
                Err(Fault::evaluation("`launch` needs the component's keys, which prepare(ctx) comes before")
                    .hint("launch it in deploy(ctx)"))
            }
            Phase::Health if matches!(op, "run" | "wait_port") => Ok(()),
            Phase::Health => Err(Fault::evaluation(format!("`{op}` may change the host; health(ctx) only looks"))
                .hint("probe with wait_port() and run(), or do this in deploy(ctx)")),
            phase => Err(Fault::evaluation(format!("`{op}` may not be called {}", phase.place()))
                .hint("declare steps inside deploy(ctx)")),
        }
    }

    /// Records an op; gives its handle.
    pub(super) fn record(&self, op: Op, manner: Manner, source: Source) -> Result<Handle, Fault> {
        self.may_record(op.name())?;
        let mut recorded = self.recorded();
        let id = u32::try_from(recorded.steps.len()).map_err(|_| Fault::evaluation("too many steps"))?;
        let secret = matches!(&op, Op::Run(run) if run.sensitive);
        let subject = if manner.sensitive && matches!(op, Op::Run(_)) { "***".to_owned() } else { op.subject() };
        let key = recorded.unique_key(&format!("{}:{subject}", op.name()));
        let step = Step {
            id: StepId(id),
            key,
            op,
            source,
            only_if_changed: manner.only_if_changed,
            sensitive: manner.sensitive || secret,
            ignore_errors: manner.ignore_errors,
        };
        let title = step.title();
        recorded.steps.push(step);
        Ok(Handle { steps: vec![id], title })
    }

    /// Asks the surroundings, for a function that may.
    pub(super) fn ask<R: Send + 'static, E: Into<Fault> + Send + 'static>(
        &self,
        function: &str,
        question: impl FnOnce(&dyn Surroundings) -> Result<R, E> + Send + 'static,
    ) -> Result<R, Fault> {
        let outside = self.outside.as_ref().ok_or_else(|| self.misplaced(function))?;
        let (reply, answer) = mpsc::sync_channel(1);
        // A reply that nobody waits for is no loss: the evaluation has ended.
        let request: Request = Box::new(move |surroundings| drop(reply.send(question(surroundings))));
        let answer = outside.0.send(request).ok().and_then(|()| answer.recv().ok());
        answer.ok_or_else(|| Fault::evaluation(format!("`{function}` got no answer")))?.map_err(Into::into)
    }

    /// The texts of templates, for a function that reads one.
    pub(super) fn texts(&self, function: &str) -> Result<Arc<Texts>, Fault> {
        self.texts.clone().ok_or_else(|| self.misplaced(function))
    }

    /// The component, for a function that needs it.
    pub(super) fn stage(&self, function: &str) -> Result<&Stage, Fault> {
        self.stage.as_ref().ok_or_else(|| self.misplaced(function))
    }

    /// The host, for a function that asks it.
    pub(super) fn host(&self, function: &str) -> Result<&HostName, Fault> {
        self.stage(function)?.host.as_ref().ok_or_else(|| {
            self.misplaced(function).hint("only deploy(ctx) and health(ctx) are about one host that can be asked")
        })
    }

    fn misplaced(&self, function: &str) -> Fault {
        Fault::evaluation(format!("`{function}` may not be called {}", self.phase.place()))
    }

    /// A text that may be secret.
    pub(super) fn text(&self, text: &str) -> Result<Lifted, Fault> {
        self.veil.lift(text)
    }

    /// A text that may not be secret, because people see it or it would stand in a process's arguments.
    pub(super) fn plain(&self, what: &str, text: &str) -> Result<String, Fault> {
        if self.veil.covers(text) {
            return Err(Fault::evaluation(format!("`{what}` cannot hold a secret: it is not kept from sight"))
                .hint("put the secret into a file, into run(stdin = ...), or into a key of config(ctx)"));
        }
        Ok(text.to_owned())
    }

    pub(super) fn path(&self, what: &str, text: &str) -> Result<HostPath, Fault> {
        self.plain(what, text)?.parse().map_err(|error| Fault::evaluation(format!("`{what}`: {error}")))
    }

    pub(super) fn mode(&self, text: &str) -> Result<Mode, Fault> {
        self.plain("mode", text)?.parse().map_err(|error| Fault::evaluation(format!("`mode`: {error}")))
    }

    pub(super) fn principal(&self, what: &str, text: &str) -> Result<Principal, Fault> {
        self.plain(what, text)?.parse().map_err(|error| Fault::evaluation(format!("`{what}`: {error}")))
    }

    /// The name of an account or group.
    pub(super) fn account(&self, what: &str, text: &str) -> Result<String, Fault> {
        match self.principal(what, text)? {
            Principal::Name(name) => Ok(name),
            Principal::Id(id) => Err(Fault::evaluation(format!("`{what}` is a name, not the number {id}"))),
        }
    }

    /// A file or directory of the near side that a recipe may read: in its own folder, in one of the lab's recipe
    /// directories (`//...`), or at or below a parameter of type `path`.
    pub(super) fn local(&self, function: &str, text: &str) -> Result<PathBuf, Fault> {
        let text = self.plain("source", text)?;
        if !Path::new(&text).is_absolute() || text.starts_with("//") {
            return self.roots.resolve(&text, &self.folder);
        }
        let path = PathBuf::from(&text);
        let declared = self.stage(function)?.paths.iter().any(|root| path.starts_with(root));
        let climbs = path.components().any(|part| part == Component::ParentDir);
        if (declared || path.starts_with(&self.folder)) && !climbs {
            return Ok(path);
        }
        Err(Fault::new(RecipeErrorKind::Io, format!("`{text}` is neither the recipe's nor named by a parameter"))
            .hint("declare it: params(build = param(\"path\")), then pass ctx.params.build"))
    }

    /// The whole key in etcd of a key relative to the lab's prefix; it must be one of the component's own.
    pub(super) fn whole_key(&self, function: &str, key: &str) -> Result<String, Fault> {
        let (stage, whole) = self.key(function, key)?;
        if stage.keyspace.owns(&whole) {
            return Ok(whole);
        }
        let prefixes: Vec<_> = stage.keyspace.prefixes.iter().map(|prefix| format!("`{prefix}`")).collect();
        Err(Fault::evaluation(format!(
            "key `{whole}` lies outside of the component's prefix {}, where its keys are",
            prefixes.join(", ")
        ))
        .hint("define prefix(ctx) in the recipe: it returns the part of the lab's prefix that is the component's"))
    }

    /// The whole key of one that the component's login may read; with `/` at its end, of all keys below it.
    pub(super) fn readable_key(&self, function: &str, key: &str) -> Result<String, Fault> {
        let end = if key.ends_with('/') { "/" } else { "" };
        let (stage, whole) = self.key(function, key.strip_suffix('/').unwrap_or(key))?;
        let whole = format!("{whole}{end}");
        if stage.keyspace.shows(&whole) {
            return Ok(whole);
        }
        Err(Fault::evaluation(format!("key `{whole}` is nothing that the component's login may read"))
            .hint("define prefix(ctx) for keys of its own, or access(ctx) for those of others"))
    }

    fn key(&self, function: &str, key: &str) -> Result<(&Stage, String), Fault> {
        let key = self.plain("key", key)?;
        let stage = self.stage(function)?;
        let fits =
            !key.is_empty() && !key.contains('\0') && key.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !fits {
            return Err(Fault::evaluation(format!("`{key}` is not a key: parts between single `/`, none at the ends")));
        }
        Ok((stage, format!("{}{key}", stage.lab_prefix)))
    }
}

impl Recorded {
    /// The key itself, or with `#2`, `#3` ... when it is taken.
    fn unique_key(&mut self, key: &str) -> String {
        let mut unique = key.to_owned();
        let mut number = 1;
        while !self.keys.insert(unique.clone()) {
            number += 1;
            unique = format!("{key}#{number}");
        }
        unique
    }
}
