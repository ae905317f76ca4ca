//! Recipes in Starlark become plans. Knows the language; does not know how an op is done.

mod compiled;
mod error;
mod library;
mod params;
mod scene;

pub use compiled::Recipe;
pub use error::{Frame, Place, RecipeError, RecipeErrorKind};
pub use library::{Library, RecipeEntry};
pub use params::{BoundValue, ParamSpec, ParamType, Params};
pub use scene::{ConfigValue, Evaluation, Launch, Scene, StoreSpec, Surroundings};

/// The functions that recipes may call, as Markdown.
pub fn functions_reference() -> String {
    String::new()
}
