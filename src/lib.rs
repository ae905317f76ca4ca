//! `ovs-cuisine` provisions machines over SSH: recipes say what a machine should be, a helper on the machine makes it so.
//!
//! This file is the map. Rooms import downwards only; `tests/it/house.rs` keeps it so.
//!
//! | room | holds |
//! | --- | --- |
//! | [`tree`] | sync as a pure algorithm: digest, manifest, chunk, delta |
//! | [`plan`] | the vocabulary: names, facts, ops, diffs, outcomes, secrets |
//! | [`wire`] | hello, frames and messages between the near and the far side |
//! | [`helper`] | the far side: blocking, no async, applies plans |
//! | [`launch`] | inside a container: etcd link, then files, then the process |
//! | [`control`] | the near side, in the order data flows |

pub mod plan;
pub mod tree;
pub mod wire;

#[cfg(feature = "control")]
pub mod control;
#[cfg(feature = "helper")]
pub mod helper;
#[cfg(feature = "launch")]
pub mod launch;
