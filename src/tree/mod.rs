//! Sync as a pure algorithm: what a tree is, what it lacks, and how little must travel. Knows nothing of SSH or plans.

mod digest;
mod summary;
mod supply;

pub use digest::Digest;
pub use summary::TreeSummary;
pub use supply::{ChunkId, Demand, MAX_LITERAL, Supplier, Supply, Want};
