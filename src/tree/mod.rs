//! Sync as an algorithm: what a tree is, what it lacks, and how little must travel. Knows nothing of SSH or plans.
//!
//! The near side scans a [`SourceTree`] and answers demands from its [`Contents`]; the far side walks what it has with
//! the same [`walk`], compares, demands, and applies.

mod ahead;
mod chunk;
mod digest;
mod literal;
mod manifest;
mod patch;
mod path;
mod summary;
mod supply;

#[cfg(feature = "control")]
mod answer;
#[cfg(feature = "control")]
mod contents;
#[cfg(feature = "control")]
mod delta;
#[cfg(feature = "helper")]
mod fold;
#[cfg(any(feature = "control", feature = "helper"))]
mod hash;
#[cfg(any(feature = "control", feature = "helper"))]
mod ignore;
#[cfg(any(feature = "control", feature = "helper"))]
mod index;
#[cfg(any(feature = "control", feature = "helper"))]
mod pattern;
#[cfg(any(feature = "control", feature = "helper"))]
mod root;
#[cfg(feature = "control")]
mod source;
#[cfg(feature = "control")]
mod units;
#[cfg(feature = "control")]
mod versions;
#[cfg(any(feature = "control", feature = "helper"))]
mod walk;

pub use ahead::{Ahead, Care, Larder, MAX_AHEAD, MAX_PATCH, Remembered, place_name};
pub use chunk::{Chunk, WHOLE_UP_TO, chunks, fine_chunks};
#[cfg(feature = "control")]
pub use contents::Contents;
pub use digest::Digest;
#[cfg(feature = "helper")]
pub use fold::folded;
#[cfg(any(feature = "control", feature = "helper"))]
pub use hash::{HashError, Hashed, hash_files};
#[cfg(any(feature = "control", feature = "helper"))]
pub use ignore::{Decision, IGNORE_FILE, IgnoreRules, PatternError, RuleOrigin};
#[cfg(any(feature = "control", feature = "helper"))]
pub use index::{Index, IndexKey, replace_file, unix_now};
pub use literal::LiteralDecoder;
pub use manifest::{Entry, EntryKind, MAX_MANIFEST, Manifest, ManifestError, Time, root_of};
pub use patch::ManifestPatch;
pub use path::{PathError, RelPath, is_temporary, printable, shown};
#[cfg(any(feature = "control", feature = "helper"))]
pub use root::{Root, Status, status_at};
#[cfg(feature = "control")]
pub use source::{ScanError, SourceTree};
pub use summary::TreeSummary;
pub use supply::{ChunkId, Demand, MAX_LITERAL, MAX_PATCHED, MAX_PREFIX, Old, Part, Supplier, Supply, Want};
#[cfg(feature = "control")]
pub use versions::Versions;
#[cfg(any(feature = "control", feature = "helper"))]
pub use walk::{Node, NodeKind, RulesError, Walk, WalkError, rules_above, walk, walk_at};
