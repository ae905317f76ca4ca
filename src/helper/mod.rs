//! The far side: runs on a host, blocking, with no async. Gathers facts, answers questions, and brings the host to the
//! state that a plan describes: check, then diff, then apply.
//!
//! Knows how each op is reached on a machine; does not know SSH, recipes or labs. It trusts nothing that it reads from
//! the channel beyond what the types of [`crate::plan`] guarantee, and it ends, with its children, when the channel
//! does.

mod accounts;
mod answer;
mod batch;
mod become_user;
mod command_line;
mod failure;
mod foreseen;
mod gather;
mod holdings;
mod inbox;
mod lock;
mod machine;
mod offers;
mod ops;
mod outbox;
mod pending;
mod ports;
mod process;
mod receive;
mod replace;
mod runner;
mod serve;
mod started;
mod stop;
mod supply;
pub mod tree;

pub use command_line::main;
