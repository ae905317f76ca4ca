//! Recipes against real files and a real inventory; only the host and the key ring are played.

mod language;
mod limits;
mod ops;
mod params;
mod reference;
mod secrets;
pub(crate) mod stage;
