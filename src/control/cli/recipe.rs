//! `recipe list`, `recipe doc`, `recipe check` and `recipe functions`.

use std::path::{Path, PathBuf};

use super::{
    ad_hoc::recipe_ref,
    args,
    failure::{Exit, Failure},
    output,
    run::Lab,
};
use crate::control::{
    recipe::{Library, functions_reference},
    report::plural,
};

pub(super) fn recipe(args: args::Recipe) -> Result<Exit, Failure> {
    match args {
        args::Recipe::List { from } => list(from.as_deref()),
        args::Recipe::Doc { recipe, from } => {
            let recipe = library(from.as_deref())?.load(&recipe_ref(&recipe))?;
            output::result(&recipe.reference())?;
            Ok(Exit::Done)
        }
        args::Recipe::Check { from } => check(from.as_deref()),
        args::Recipe::Functions => {
            output::result(&functions_reference())?;
            Ok(Exit::Done)
        }
    }
}

/// The recipes of an inventory, or of a directory.
fn library(from: Option<&Path>) -> Result<Library, Failure> {
    let from = from.unwrap_or_else(|| Path::new("recipes"));
    if from.is_dir() {
        let directory = std::path::absolute(from).unwrap_or_else(|_| from.to_owned());
        return Ok(Library::new(vec![directory]));
    }
    if !from.exists() {
        return Err(Failure::bad_input(format!("there is no `{}`", from.display()))
            .hint("give an inventory file or a directory of recipes"));
    }
    let inventory = Lab::load(from)?.inventory;
    Ok(Library::new(inventory.lab.recipes.clone()))
}

fn list(from: Option<&Path>) -> Result<Exit, Failure> {
    let entries = library(from)?.list()?;
    let broken = entries.iter().any(|entry| entry.doc.is_err());
    let rows = entries.into_iter().map(|entry| {
        let text = entry.doc.unwrap_or_else(|error| format!("cannot be loaded: {}", error.message()));
        vec![entry.name, text]
    });
    output::result(&output::table(&["RECIPE", "ABOUT"], rows.collect()))?;
    Ok(if broken { Exit::BadInput } else { Exit::Done })
}

fn check(from: Option<&Path>) -> Result<Exit, Failure> {
    let path: Option<PathBuf> = from.filter(|path| path.is_file()).map(Path::to_owned);
    let library = library(from)?;
    let mut errors = Vec::new();
    let entries = library.list()?;
    let count = entries.len();
    errors.extend(entries.into_iter().filter_map(|entry| entry.doc.err()));
    if let Some(inventory) = path {
        let lab = Lab::load(&inventory)?;
        for component in lab.inventory.components.values() {
            let bound =
                library.load(&component.recipe).and_then(|recipe| recipe.bind(component, lab.inventory.directory()));
            errors.extend(bound.err());
        }
    }
    let checked = plural(count as u64, "recipe", "recipes");
    match errors.len() {
        0 => {
            output::result(&format!("{checked} checked, all good.\n"))?;
            Ok(Exit::Done)
        }
        wrong => {
            for error in errors {
                output::problem(&Failure::from(error));
            }
            output::result(&format!("{checked} checked, {} found.\n", plural(wrong as u64, "error", "errors")))?;
            Ok(Exit::BadInput)
        }
    }
}
