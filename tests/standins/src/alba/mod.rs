//! x
use crate::arakoon::{Change, Store};
use serde_json::Value;
pub(crate) fn manager_answer(_: &Store, _: &Value) -> Result<(Value, Vec<Change>), String> {
    Err(String::new())
}
pub(crate) fn nsm_answer(_: &Store, _: &Value) -> Result<(Value, Vec<Change>), String> {
    Err(String::new())
}
/// x
pub fn main(_: Vec<String>) -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
