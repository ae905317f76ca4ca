//! Which files a recipe may read, and what they are called.

use std::{
    collections::HashMap,
    io,
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    bounds::MAX_SOURCE,
    error::{Fault, RecipeErrorKind},
};

/// The lab's recipe directories, and how files in them are called in messages.
#[derive(Debug, Clone)]
pub(super) struct Roots {
    /// In the order of searching; those that exist are canonical.
    directories: Vec<PathBuf>,
    /// Canonical; none when there is none any more.
    current: Option<PathBuf>,
}

impl Roots {
    pub(super) fn new(directories: Vec<PathBuf>) -> Self {
        let canonical = |path: PathBuf| fs_err::canonicalize(&path).unwrap_or(path);
        Self {
            directories: directories.into_iter().map(canonical).collect(),
            current: std::env::current_dir().ok().map(canonical),
        }
    }

    pub(super) fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// A file as the operator would name it: relative when it lies below the current directory, else `//lib/x.star`
    /// when it lies in one of the lab's recipe directories, else absolute.
    pub(super) fn called(&self, file: &Path) -> String {
        if let Some(below) = self.current.as_ref().and_then(|current| file.strip_prefix(current).ok()) {
            return below.display().to_string();
        }
        match self.directories.iter().find_map(|directory| file.strip_prefix(directory).ok()) {
            Some(below) => format!("//{}", below.display()),
            None => file.display().to_string(),
        }
    }

    /// The file that `//lib/x.star` (in one of the lab's directories), `x.star` or `:x.star` (in `folder`) names.
    /// Canonical, and inside the directory that it is looked for in.
    pub(super) fn resolve(&self, name: &str, folder: &Path) -> Result<PathBuf, Fault> {
        let Some(below) = name.strip_prefix("//") else {
            let below = name.strip_prefix(':').unwrap_or(name);
            return match inside(folder, plain(below, name)?)? {
                Some(file) => Ok(file),
                None => Err(missing(name, &[folder.to_path_buf()])),
            };
        };
        let below = plain(below, name)?;
        for directory in &self.directories {
            if let Some(file) = inside(directory, below)? {
                return Ok(file);
            }
        }
        Err(missing(name, &self.directories))
    }
}

/// A relative path without `..`.
fn plain<'p>(path: &'p str, name: &str) -> Result<&'p Path, Fault> {
    let path = Path::new(path);
    let fits = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if fits && path.file_name().is_some() {
        Ok(path)
    } else {
        Err(Fault::new(RecipeErrorKind::Io, format!("`{name}` does not name a file inside the recipe's folder"))
            .hint("write `//lib/x.star` for a file of the lab's recipe directories, without `..`"))
    }
}

/// The canonical path of a file below a directory; none when there is no such file.
fn inside(directory: &Path, below: &Path) -> Result<Option<PathBuf>, Fault> {
    let path = directory.join(below);
    let file = match fs_err::canonicalize(&path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(unreadable(&path, &error)),
    };
    let root = fs_err::canonicalize(directory).map_err(|error| unreadable(directory, &error))?;
    if file.starts_with(&root) {
        Ok(Some(file))
    } else {
        Err(Fault::new(
            RecipeErrorKind::Io,
            format!("`{}` leads out of `{}`: recipes read only their own files", path.display(), directory.display()),
        ))
    }
}

fn missing(name: &str, places: &[PathBuf]) -> Fault {
    let places: Vec<String> = places.iter().map(|place| format!("`{}`", place.display())).collect();
    let places = if places.is_empty() { "no directory at all".to_owned() } else { places.join(", ") };
    Fault::new(RecipeErrorKind::Io, format!("no file `{name}`: looked in {places}"))
}

/// Why a path cannot be read. `fs_err` names the path again, which would repeat it.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> Fault {
    let why = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    Fault::new(RecipeErrorKind::Io, format!("cannot read `{}`: {why}", path.display()))
}

/// The text of a file, at most [`MAX_SOURCE`] bytes of UTF-8.
pub(super) fn read_text(path: &Path) -> Result<String, Fault> {
    let size = fs_err::metadata(path).map_err(|error| unreadable(path, &error))?.len();
    if size > MAX_SOURCE {
        let limit = MAX_SOURCE >> 20;
        return Err(Fault::new(
            RecipeErrorKind::Limit,
            format!("`{}` is {size} bytes long; recipes and templates may have {limit} MiB", path.display()),
        ));
    }
    fs_err::read_to_string(path).map_err(|error| unreadable(path, &error))
}

/// Texts of templates, read once, so that every host of a run sees the same.
#[derive(Debug, Default)]
pub(super) struct Texts(Mutex<HashMap<PathBuf, Arc<str>>>);

impl Texts {
    pub(super) fn read(&self, path: &Path) -> Result<Arc<str>, Fault> {
        let mut texts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = texts.get(path) {
            return Ok(Arc::clone(text));
        }
        let text: Arc<str> = read_text(path)?.into();
        texts.insert(path.to_path_buf(), Arc::clone(&text));
        Ok(text)
    }
}

/// The name among `known` that is nearest to `name`, when one is near enough to be meant.
pub(super) fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= (name.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_stay_inside_their_root() {
        let lab = tempfile::tempdir().unwrap();
        let root = lab.path().canonicalize().unwrap();
        fs_err::create_dir_all(root.join("recipes/lib")).unwrap();
        fs_err::create_dir_all(root.join("recipes/etcd")).unwrap();
        fs_err::write(root.join("recipes/lib/x.star"), "").unwrap();
        fs_err::write(root.join("recipes/etcd/y.star"), "").unwrap();
        fs_err::write(root.join("secret.star"), "").unwrap();
        std::os::unix::fs::symlink(root.join("secret.star"), root.join("recipes/lib/out.star")).unwrap();
        let roots = Roots::new(vec![root.join("missing"), root.join("recipes")]);
        let folder = root.join("recipes/etcd");

        assert_eq!(roots.resolve("//lib/x.star", &folder).unwrap(), root.join("recipes/lib/x.star"));
        for own in ["y.star", ":y.star"] {
            assert_eq!(roots.resolve(own, &folder).unwrap(), root.join("recipes/etcd/y.star"));
        }
        for bad in ["../lib/x.star", "//../secret.star", "/etc/passwd", "//lib/out.star", "", "//", "z.star"] {
            assert!(roots.resolve(bad, &folder).is_err(), "{bad:?} must be refused");
        }
        assert_eq!(roots.called(&root.join("recipes/lib/x.star")), "//lib/x.star");
        assert_eq!(roots.called(&root.join("secret.star")), root.join("secret.star").display().to_string());
    }

    #[test]
    fn the_nearest_name_must_be_near() {
        assert_eq!(nearest("arakon", ["etcd", "arakoon"]), Some("arakoon"));
        assert_eq!(nearest("zzz", ["etcd", "arakoon"]), None);
    }
}
