//! All integration tests in one binary: real OpenSSH, real Docker engine, real etcd, the real helper.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::too_many_lines,
    reason = "a test may stop at the first surprise (clippy's own exception covers only the test functions themselves) and \
              tell its story at length"
)]

mod changes;
mod config;
mod controller;
mod cp;
mod demo;
mod deploy;
mod helper;
mod house;
mod inventory;
mod lab;
mod launch;
mod link;
mod ovs;
mod ovs_lab;
mod push;
mod recipe;
mod report;
mod support;
mod systemd;
mod tree;
mod wire;
