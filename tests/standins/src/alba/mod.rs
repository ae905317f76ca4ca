//! Stand-in for alba: object storage over ASDs, with a manager (ABM) and name space managers (NSM) inside arakoon.

mod access;
mod arguments;
mod asd;
mod blobs;
mod command;
mod delivery;
mod libraries;
mod maintenance;
mod manager;
mod multicast;
mod nsm;
mod placement;
mod preset;
mod proxy;
mod settings;

pub use command::main;
pub(crate) use manager::answer as manager_answer;
pub(crate) use nsm::answer as nsm_answer;
