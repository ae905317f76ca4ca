//! Stand-in for arakoon: a consistent key-value store of one or more nodes, with the plugins of alba.

mod arguments;
mod client;
mod config;
mod consensus;
mod disk;
mod election;
mod exit;
mod peer;
mod plugin;
mod serve;
mod start;

pub(crate) use client::Client;
pub(crate) use config::Cluster;
pub(crate) use disk::{Change, Store};
pub use start::main;
