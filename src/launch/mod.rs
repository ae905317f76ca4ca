//! Inside a container: etcd link, then files, then the process.
//!
//! Reads what a service is from etcd, renders its files, runs its process in the foreground, and follows every change
//! for as long as the process lives. Static, one thread: never asks the C library for names or users.
//!
//! Beside that it serves etcd's v2 API to programs that know no other, and stands in for the etcdctl that they run.

mod account;
mod arguments;
mod cause;
mod change;
mod command;
mod etcd;
mod etcdctl;
mod failure;
mod follow;
mod link;
mod merge;
mod process;
mod render;
mod resolve;
mod say;
mod serve;
mod signals;
mod switch;
mod v2;

pub use serve::main;
