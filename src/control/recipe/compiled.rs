//! A compiled recipe, ready to meet a host.

use std::path::Path;

use indexmap::IndexMap;

use super::{ConfigValue, Evaluation, ParamSpec, Params, RecipeError, RecipeErrorKind, Scene, StoreSpec, Surroundings};
use crate::{
    control::inventory::Component,
    plan::{Facts, HostName, Plan},
};

/// A compiled recipe. Shared by all components and hosts that use it; evaluating it changes nothing in it.
pub struct Recipe {
    name: String,
    doc: String,
    params: Vec<ParamSpec>,
}

impl Recipe {
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

    /// Whether it defines `config(ctx)`.
    pub fn has_config(&self) -> bool {
        false
    }

    /// Whether it defines `deploy(ctx)`.
    pub fn has_deploy(&self) -> bool {
        false
    }

    /// Whether it defines `health(ctx)`.
    pub fn has_health(&self) -> bool {
        false
    }

    /// Whether it defines `store(ctx)`.
    pub fn has_store(&self) -> bool {
        false
    }

    /// Checks a component's parameters against the declarations. Relative paths start at `base`.
    pub fn bind(&self, component: &Component, base: &Path) -> Result<Params, RecipeError> {
        Err(self.unfinished(&format!("{} {}", component.name, base.display())))
    }

    /// The component's prefix relative to the lab's: does not begin with `/`, ends with `/`.
    pub fn prefix(&self, scene: &Scene<'_>) -> Result<String, RecipeError> {
        Ok(format!("{}/", scene.component.name))
    }

    /// The component's keys in etcd, relative to the lab's prefix. Empty when the recipe defines no `config(ctx)`.
    pub fn config(
        &self,
        scene: &Scene<'_>,
        _surroundings: &dyn Surroundings,
    ) -> Result<IndexMap<String, ConfigValue>, RecipeError> {
        Err(self.unfinished(scene.component.name.as_str()))
    }

    /// Where the lab's configuration store is, when this recipe runs it: when it defines `store(ctx)`.
    pub fn store(&self, scene: &Scene<'_>, _surroundings: &dyn Surroundings) -> Result<Option<StoreSpec>, RecipeError> {
        Err(self.unfinished(scene.component.name.as_str()))
    }

    /// The ops and launches for one host.
    pub fn deploy(
        &self,
        scene: &Scene<'_>,
        host: &HostName,
        _facts: &Facts,
        _surroundings: &dyn Surroundings,
    ) -> Result<Evaluation, RecipeError> {
        Err(self.unfinished(&format!("{} {host}", scene.component.name)))
    }

    /// The probes for one host; none when the recipe defines no `health(ctx)`.
    pub fn health(
        &self,
        scene: &Scene<'_>,
        host: &HostName,
        _facts: &Facts,
        _surroundings: &dyn Surroundings,
    ) -> Result<Option<Plan>, RecipeError> {
        Err(self.unfinished(&format!("{} {host}", scene.component.name)))
    }

    /// What `recipe doc` shows, as Markdown: its text, its parameters with types, defaults and docs.
    pub fn reference(&self) -> String {
        self.doc.clone()
    }

    fn unfinished(&self, what: &str) -> RecipeError {
        RecipeError::new(RecipeErrorKind::Evaluation, format!("{} {what}", self.name))
    }
}
