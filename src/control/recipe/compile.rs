//! Source files become modules: read, looked at, parsed, type-checked, run once, frozen.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use starlark::{
    PrintHandler,
    environment::{FrozenModule, Module},
    eval::{Evaluator, ReturnFileLoader},
    syntax::{AstModule, Dialect, DialectTypes},
    typing::{AstModuleTypecheck, Interface},
    values::any::StarlarkAny,
};

use super::{
    ParamSpec,
    bounds::Bounds,
    diagnose::{Circumstances, diagnose, diagnose_all, place_of},
    error::{RecipeError, RecipeErrorKind},
    files::{Roots, read_text},
    functions, nesting,
    session::{Phase, Session},
    veil::Veil,
};
use crate::plan::Source;

/// A file that was compiled.
pub(super) struct Compiled {
    pub(super) module: FrozenModule,
    /// What it declared with `params()`.
    pub(super) params: Vec<ParamSpec>,
    interface: Interface,
}

/// Compiled files by canonical path, and whether the file was loaded as a recipe.
#[derive(Default)]
pub(super) struct Cache(Mutex<HashMap<(PathBuf, Phase), Arc<Compiled>>>);

/// Compiles a file and what it loads. Runs on a thread with a large stack.
pub(super) struct Compiler<'l> {
    roots: &'l Arc<Roots>,
    cache: &'l Cache,
    bounds: Bounds,
    /// Files that are being compiled, outermost first, as they are called.
    active: Vec<(PathBuf, String)>,
}

/// A text to compile.
struct Text<'t> {
    /// What it is called in messages.
    name: String,
    content: String,
    /// Where its relative loads start.
    folder: &'t Path,
    phase: Phase,
}

impl<'l> Compiler<'l> {
    pub(super) fn new(roots: &'l Arc<Roots>, cache: &'l Cache, bounds: Bounds) -> Self {
        Self { roots, cache, bounds, active: Vec::new() }
    }

    /// Compiles a file; `path` is canonical.
    pub(super) fn file(&mut self, path: &Path, phase: Phase) -> Result<Arc<Compiled>, RecipeError> {
        let key = (path.to_path_buf(), phase);
        if let Some(known) = self.cache.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(known));
        }
        let name = self.roots.called(path);
        let folder = path.parent().unwrap_or_else(|| Path::new("/"));
        self.active.push((path.to_path_buf(), name.clone()));
        let content = read_text(path).map_err(RecipeError::from)?;
        let compiled = Arc::new(self.compile(&Text { name, content, folder, phase })?);
        self.active.pop();
        self.cache.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&compiled));
        Ok(compiled)
    }

    /// Compiles a text that is in no file.
    pub(super) fn expression(&mut self, name: &str, content: String, folder: &Path) -> Result<Compiled, RecipeError> {
        self.compile(&Text { name: name.to_owned(), content, folder, phase: Phase::Recipe })
    }

    fn compile(&mut self, text: &Text<'_>) -> Result<Compiled, RecipeError> {
        nesting::check(&text.content).map_err(|deep| {
            RecipeError::new(RecipeErrorKind::Limit, format!("{} are nested too deep here", deep.what))
                .at(Source { file: text.name.clone(), line: deep.line })
        })?;
        let ast = parse(text)?;
        let loaded = self.loads(&ast, text.folder)?;

        let interfaces = loaded.iter().map(|(name, file)| (name.clone(), file.interface.clone())).collect();
        let (errors, _, interface, _) = ast.typecheck(functions::globals(), &interfaces);
        if let Some(error) = diagnose_all(&errors, RecipeErrorKind::Type) {
            return Err(error);
        }
        // Type checking consumes the syntax tree; parsing again takes microseconds.
        let mut ast = parse(text)?;
        // After type checking, which knows the operator better than the function.
        ast.replace_binary_operators(&HashMap::from([("*".to_owned(), "repeated_times".to_owned())]));
        let (module, params) = self.run(ast, &loaded, text)?;
        Ok(Compiled { module, params, interface })
    }

    /// Compiles what a file loads.
    fn loads(&mut self, ast: &AstModule, folder: &Path) -> Result<HashMap<String, Arc<Compiled>>, RecipeError> {
        let mut loaded = HashMap::new();
        for load in ast.loads() {
            let here = |error: RecipeError| error.in_place(Some(place_of(&load.span, &str::to_owned)));
            let path = self.roots.resolve(load.module_id, folder).map_err(|fault| here(fault.into()))?;
            if let Some(start) = self.active.iter().position(|(active, _)| *active == path) {
                let circle: Vec<&str> = self.active[start..].iter().map(|(_, name)| name.as_str()).collect();
                let circle = circle.join("` loads `");
                let message = format!("files load each other: `{circle}` loads `{}`", load.module_id);
                return Err(here(RecipeError::new(RecipeErrorKind::Evaluation, message)));
            }
            let file = self.file(&path, Phase::Library).map_err(|error| match error.place() {
                Some(_) => error,
                None => here(error),
            })?;
            loaded.insert(load.module_id.to_owned(), file);
        }
        Ok(loaded)
    }

    /// Runs the top level of a file and freezes what it defined.
    fn run(
        &self,
        ast: AstModule,
        loaded: &HashMap<String, Arc<Compiled>>,
        text: &Text<'_>,
    ) -> Result<(FrozenModule, Vec<ParamSpec>), RecipeError> {
        let modules = loaded.iter().map(|(name, file)| (name.as_str(), &file.module)).collect();
        let found = ReturnFileLoader { modules: &modules };
        let session = Arc::new(Session::loading(text.phase, self.roots, text.folder));
        let extra = StarlarkAny(Arc::clone(&session));
        let printer = Printer(&session.veil);
        let module = Module::with_temp_heap(|module| {
            let mut eval = Evaluator::new(&module);
            eval.extra = Some(&extra);
            eval.set_loader(&found);
            eval.set_print_handler(&printer);
            let watch = self.bounds.enforce(&mut eval)?;
            let around =
                Circumstances { watch: Some(&watch), function: Some(&text.name), veil: None, bounds: self.bounds };
            eval.eval_module(ast, functions::globals()).map_err(|error| diagnose(&error, around))?;
            drop(eval);
            module.freeze().map_err(|error| RecipeError::new(RecipeErrorKind::Evaluation, error.err_msg))
        })?;
        let params = session.recorded().params.take().unwrap_or_default();
        Ok((module, params))
    }
}

fn parse(text: &Text<'_>) -> Result<AstModule, RecipeError> {
    let dialect = Dialect {
        enable_keyword_only_arguments: true,
        enable_types: DialectTypes::Enable,
        enable_load_reexport: false,
        enable_top_level_stmt: true,
        enable_f_strings: true,
        ..Dialect::Standard
    };
    AstModule::parse(&text.name, text.content.clone(), &dialect)
        .map_err(|error| diagnose(&error, Circumstances::default()).of_kind(RecipeErrorKind::Syntax))
}

/// Where `print()` goes: to the log of debugging, without secrets.
pub(super) struct Printer<'v>(pub(super) &'v Veil);

impl PrintHandler for Printer<'_> {
    fn println(&self, text: &str) -> starlark::Result<()> {
        tracing::debug!(target: "ovs_cuisine::recipe", "{}", self.0.scrub(text));
        Ok(())
    }
}
