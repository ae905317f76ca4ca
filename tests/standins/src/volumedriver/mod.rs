//! x
/// x
pub fn main(_: Vec<String>) -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
/// x
pub fn dtl_main(_: Vec<String>) -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
/// x
pub fn dtl_helper_main(_: Vec<String>) -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
