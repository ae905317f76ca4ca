//! The lab's recipe directories and what was loaded from them.

use std::{
    collections::BTreeMap,
    io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use super::{
    Recipe, RecipeError, RecipeErrorKind,
    bounds::{Bounds, on_own_stack},
    compile::{Cache, Compiler},
    diagnose::{EXPRESSION, EXPRESSION_HEAD, EXPRESSION_INDENT},
    files::{Roots, nearest, unreadable},
    session::Phase,
};
use crate::control::inventory::RecipeRef;

/// What a recipe's file is called in its folder.
const FILE: &str = "recipe.star";

/// The lab's recipe directories. Each file is read, checked and compiled once.
pub struct Library {
    roots: Arc<Roots>,
    cache: Cache,
    bounds: Bounds,
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
        Self { roots: Arc::new(Roots::new(directories)), cache: Cache::default(), bounds: Bounds::default() }
    }

    /// The same library with other bounds of evaluation.
    #[cfg(test)]
    pub(super) fn bounded(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// Reads, checks and compiles a recipe with all that it loads.
    ///
    /// An unknown name ([`RecipeErrorKind::Unknown`]) is told with the places that were looked at and the nearest
    /// name. Everything that is wrong with its text is told with file, line and the text itself.
    pub fn load(&self, recipe: &RecipeRef) -> Result<Arc<Recipe>, RecipeError> {
        let (name, file) = match recipe {
            RecipeRef::Named(name) => (name.clone(), self.find(name)?),
            RecipeRef::Path(path) => at_path(path)?,
        };
        let file = fs_err::canonicalize(&file).map_err(|error| RecipeError::from(unreadable(&file, &error)))?;
        on_own_stack(|| {
            let compiled = Compiler::new(&self.roots, &self.cache, self.bounds).file(&file, Phase::Recipe)?;
            let folder = file.parent().unwrap_or_else(|| Path::new("/")).to_path_buf();
            Recipe::new(name, self.roots.called(&file), folder, &compiled, &self.roots, self.bounds).map(Arc::new)
        })
    }

    /// All recipes of the library's directories, by name. A name in several directories is the first one's.
    pub fn list(&self) -> Result<Vec<RecipeEntry>, RecipeError> {
        let entry = |(name, path): (String, PathBuf)| {
            let first_line = |recipe: Arc<Recipe>| recipe.doc().lines().next().unwrap_or_default().to_owned();
            let doc = self.load(&RecipeRef::Named(name.clone())).map(first_line);
            RecipeEntry { name, path, doc }
        };
        Ok(self.found()?.into_iter().map(entry).collect())
    }

    /// A recipe whose `deploy(ctx)` is this source, one or several lines: `package_ensure("htop")`. Relative files
    /// start at the current directory.
    pub fn expression(&self, source: &str) -> Result<Arc<Recipe>, RecipeError> {
        let folder =
            fs_err::canonicalize(".").map_err(|error| RecipeError::from(unreadable(Path::new("."), &error)))?;
        let source = source.trim_matches('\n');
        if source.trim().is_empty() {
            return Err(RecipeError::new(RecipeErrorKind::Syntax, "the expression is empty"));
        }
        let mut text = EXPRESSION_HEAD.to_owned();
        for line in source.lines() {
            text.extend([EXPRESSION_INDENT, line, "\n"]);
        }
        on_own_stack(|| {
            let compiled =
                Compiler::new(&self.roots, &self.cache, self.bounds).expression(EXPRESSION, text, &folder)?;
            let (name, file) = (EXPRESSION.to_owned(), EXPRESSION.to_owned());
            Recipe::new(name, file, folder, &compiled, &self.roots, self.bounds).map(Arc::new)
        })
    }

    /// Every recipe that cannot be loaded, with what is wrong with it.
    pub fn check_all(&self) -> Result<Vec<(PathBuf, RecipeError)>, RecipeError> {
        let wrong = |entry: RecipeEntry| entry.doc.err().map(|error| (entry.path, error));
        Ok(self.list()?.into_iter().filter_map(wrong).collect())
    }

    fn find(&self, name: &str) -> Result<PathBuf, RecipeError> {
        let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) && !name.is_empty();
        let places = self.roots.directories().iter().map(|directory| directory.join(name).join(FILE));
        if let Some(file) = places.filter(|_| plain).find(|file| file.is_file()) {
            return Ok(file);
        }
        let searched: Vec<String> =
            self.roots.directories().iter().map(|directory| format!("`{}`", directory.display())).collect();
        let message = if searched.is_empty() {
            format!("there is no recipe `{name}`: the lab names no recipe directories")
        } else {
            format!("there is no recipe `{name}` (`{name}/{FILE}`) in {}", searched.join(", "))
        };
        let error = RecipeError::new(RecipeErrorKind::Unknown, message);
        let known = self.found()?;
        Err(match nearest(name, known.keys().map(String::as_str)) {
            Some(near) => error.with_hint(format!("did you mean `{near}`?")),
            None if known.is_empty() => error.with_hint("name the directory of your recipes in [lab] recipes = [...]"),
            None => error.with_hint(format!("there are {}", known.into_keys().collect::<Vec<_>>().join(", "))),
        })
    }

    /// Names and files of all recipes.
    fn found(&self) -> Result<BTreeMap<String, PathBuf>, RecipeError> {
        let mut found = BTreeMap::new();
        for directory in self.roots.directories() {
            let entries = match fs_err::read_dir(directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(unreadable(directory, &error).into()),
            };
            for entry in entries {
                let entry = entry.map_err(|error| RecipeError::from(unreadable(directory, &error)))?;
                let file = entry.path().join(FILE);
                if let (Some(name), true) = (entry.file_name().to_str(), file.is_file()) {
                    found.entry(name.to_owned()).or_insert(file);
                }
            }
        }
        Ok(found)
    }
}

/// Name and file of a recipe that is given by its folder or file.
fn at_path(path: &Path) -> Result<(String, PathBuf), RecipeError> {
    let name = |path: Option<&Path>| {
        path.and_then(Path::file_name).map_or_else(|| "recipe".to_owned(), |name| name.to_string_lossy().into_owned())
    };
    if path.is_dir() {
        let file = path.join(FILE);
        if !file.is_file() {
            let message = format!("there is no recipe in `{}`: no file `{FILE}`", path.display());
            return Err(RecipeError::new(RecipeErrorKind::Unknown, message));
        }
        return Ok((name(Some(path)), file));
    }
    if !path.is_file() {
        let message = format!("there is no recipe `{}`", path.display());
        return Err(RecipeError::new(RecipeErrorKind::Unknown, message));
    }
    if path.file_name().is_some_and(|file| file == FILE) {
        return Ok((name(path.parent()), path.to_path_buf()));
    }
    let stem = path.file_stem().map(Path::new);
    Ok((name(stem), path.to_path_buf()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The top level of a file is bounded like its functions; an interpreter that is not optimised needs minutes for
    /// the real bound.
    #[test]
    fn a_loop_without_end_ends() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("recipe.star");
        let library = Library::new(Vec::new()).bounded(Bounds { ticks: 20_000, ..Bounds::default() });
        for (text, place) in [
            ("for i in range(1000000):\n    for j in range(1000000):\n        X = j\n", 1..=3),
            ("\nX = [0 for i in range(1000000) for j in range(1000000) if i < 0]\n", 2..=2),
            ("def f():\n    for i in range(1000000):\n        pass\n\nf()\n", 2..=3),
        ] {
            fs_err::write(&file, format!("{text}def deploy(ctx):\n    pass\n")).unwrap();
            let error = library.load(&RecipeRef::Path(file.clone())).err().unwrap();
            assert_eq!(error.kind(), RecipeErrorKind::Limit, "{error}");
            assert!(error.message().ends_with("ran for more than 20,000 steps"), "{error}");
            assert!(place.contains(&error.source().unwrap().line), "{error}");
        }
    }
}
