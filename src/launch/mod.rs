//! Inside a container: etcd link, then files, then the process.
//!
//! Reads what a service is from etcd, renders its files, runs its process in the foreground, and follows every change
//! for as long as the process lives. Static, one thread: never asks the C library for names or users.

mod account;
mod arguments;
mod cause;
mod change;
mod etcd;
mod failure;
mod follow;
mod link;
mod process;
mod render;
mod resolve;
mod say;
mod serve;
mod signals;
mod switch;

pub use serve::main;
