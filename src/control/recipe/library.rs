//! The lab's recipe directories and what was loaded from them.

use std::{path::PathBuf, sync::Arc};

use super::{Recipe, RecipeError, RecipeErrorKind};
use crate::control::inventory::RecipeRef;

/// The lab's recipe directories. Each file is read, checked and compiled once.
pub struct Library {
    directories: Vec<PathBuf>,
}

/// A recipe found by [`Library::list`].
#[derive(Debug)]
pub struct RecipeEntry {
    /// Its name: the folder's.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// The first line of its documentation, or what is wrong with it.
    pub doc: Result<String, RecipeError>,
}

impl Library {
    /// A library of these directories, searched in order. Nothing is read yet.
    pub fn new(directories: Vec<PathBuf>) -> Self {
        Self { directories }
    }

    /// Reads, checks and compiles a recipe with all that it loads.
    pub fn load(&self, recipe: &RecipeRef) -> Result<Arc<Recipe>, RecipeError> {
        Err(RecipeError::new(RecipeErrorKind::Io, format!("{recipe:?} not in {:?}", self.directories)))
    }

    /// All recipes of the library's directories, by name.
    pub fn list(&self) -> Result<Vec<RecipeEntry>, RecipeError> {
        Ok(Vec::new())
    }

    /// A recipe whose `deploy(ctx)` is this source: `package_ensure("htop")`.
    pub fn expression(&self, source: &str) -> Result<Arc<Recipe>, RecipeError> {
        Err(RecipeError::new(RecipeErrorKind::Syntax, source.to_owned()))
    }

    /// Every recipe that cannot be loaded, with what is wrong with it.
    pub fn check_all(&self) -> Result<Vec<(PathBuf, RecipeError)>, RecipeError> {
        let wrong = |entry: RecipeEntry| entry.doc.err().map(|error| (entry.path, error));
        Ok(self.list()?.into_iter().filter_map(wrong).collect())
    }
}
