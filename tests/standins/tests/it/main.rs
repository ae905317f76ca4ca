//! The stand-ins, run as programs: clusters on loopback, an object's way through alba, a file system over FUSE.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may stop at the first surprise (clippy's own exception covers only the test functions themselves)"
)]

mod alba;
mod arakoon;
mod stage;
mod volumedriver;
