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
mod leftovers;
mod link;
mod losses;
mod ovs;
mod ovs_host;
mod ovs_lab;
mod ovs_nodes;
mod ovs_wide;
mod ports;
mod push;
mod recipe;
mod report;
mod support;
mod systemd;
mod tree;
mod trouble;
mod wire;
