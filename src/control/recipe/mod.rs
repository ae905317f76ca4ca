//! Recipes in Starlark become plans. Knows the language; does not know how an op is done.
//!
//! A [`Library`] compiles the recipes of a lab; a [`Recipe`] is evaluated for a component on a host in a [`Scene`] and
//! asks the outside only through its [`Surroundings`]. What comes out is plain data.

mod bounds;
mod compile;
mod compiled;
mod context;
mod diagnose;
mod error;
mod files;
mod functions;
mod library;
mod nesting;
mod params;
mod reference;
mod returned;
mod scene;
mod session;
mod template;
mod values;
mod veil;

pub use compiled::Recipe;
pub use error::{Frame, Place, RecipeError, RecipeErrorKind};
pub use library::{Library, RecipeEntry};
pub use params::{BoundValue, ParamSpec, ParamType, Params};
pub use reference::functions_reference;
pub use scene::{ConfigValue, Evaluation, Keyspace, Launch, Refusal, Scene, StoreSpec, Surroundings};
