//! Sync as an algorithm: what a tree is, what it lacks, and how little must travel. Knows nothing of SSH or plans.
//!
//! The near side scans a [`SourceTree`] and answers demands from its [`Contents`]; the far side walks what it has with
//! the same [`walk`], compares, demands, and applies.

mod ahead;
mod chunk;
mod digest;
mod extra;
mod literal;
mod manifest;
#[cfg(any(feature = "control", feature = "helper"))]
mod names;
mod patch;
mod path;
mod summary;
mod supply;

#[cfg(any(feature = "control", feature = "helper"))]
mod align;
#[cfg(any(feature = "control", feature = "helper"))]
mod answer;
#[cfg(any(feature = "control", feature = "helper"))]
mod contents;
#[cfg(any(feature = "control", feature = "helper"))]
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
mod look;
#[cfg(any(feature = "control", feature = "helper"))]
mod pattern;
#[cfg(any(feature = "control", feature = "helper"))]
mod root;
#[cfg(any(feature = "control", feature = "helper"))]
mod source;
#[cfg(any(feature = "control", feature = "helper"))]
mod units;
#[cfg(any(feature = "control", feature = "helper"))]
mod versions;
#[cfg(any(feature = "control", feature = "helper"))]
mod walk;
#[cfg(any(feature = "control", feature = "helper"))]
mod whole;
#[cfg(any(feature = "control", feature = "helper"))]
mod xattr;

pub use ahead::{Ahead, Care, Larder, MAX_AHEAD, MAX_PATCH, Remembered, place_name};
pub use chunk::{Chunk, WHOLE_UP_TO, chunks, fine_chunks};
#[cfg(any(feature = "control", feature = "helper"))]
pub use contents::Contents;
pub use digest::Digest;
pub use extra::{Extra, Xattr, is_carried};
#[cfg(feature = "helper")]
pub use fold::folded;
#[cfg(any(feature = "control", feature = "helper"))]
pub use hash::{HashError, Hashed, hash_files};
#[cfg(any(feature = "control", feature = "helper"))]
pub use ignore::{Decision, IGNORE_FILE, IgnoreRules, PatternError, RuleOrigin};
#[cfg(any(feature = "control", feature = "helper"))]
pub use index::{Index, IndexKey, now, replace_file, unix_now};
pub use literal::LiteralDecoder;
#[cfg(any(feature = "control", feature = "helper"))]
pub use look::look_at;
pub use manifest::{Entry, EntryKind, MAX_MANIFEST, Manifest, ManifestError, Time, root_of};
#[cfg(any(feature = "control", feature = "helper"))]
pub use names::further_names;
pub use patch::ManifestPatch;
pub use path::{PathError, RelPath, is_temporary, printable, shown};
#[cfg(any(feature = "control", feature = "helper"))]
pub use root::{Root, Status, status_at};
#[cfg(any(feature = "control", feature = "helper"))]
pub use source::{ScanError, SourceTree};
pub use summary::TreeSummary;
pub use supply::{ChunkId, Demand, MAX_LITERAL, MAX_PATCHED, MAX_PREFIX, Old, Part, Supplier, Supply, Want};
#[cfg(any(feature = "control", feature = "helper"))]
pub use versions::Versions;
#[cfg(any(feature = "control", feature = "helper"))]
pub use walk::{Node, NodeKind, RulesError, Walk, WalkError, rules_above, walk, walk_at};
#[cfg(any(feature = "control", feature = "helper"))]
pub use whole::{MAX_NAMED, Skipped};
#[cfg(any(feature = "control", feature = "helper"))]
pub use xattr::{write_xattrs, xattrs_at};
