//! All integration tests in one binary: real OpenSSH, real Docker engine, real etcd, the real helper.

mod config;
mod helper;
mod house;
mod inventory;
mod lab;
mod launch;
mod link;
mod recipe;
mod report;
mod tree;
