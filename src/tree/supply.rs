//! How content travels: the far side demands by digest and says what it already has, the near side supplies.

use serde::{Deserialize, Serialize};

use super::{Digest, Larder};

/// A chunk of a file that the far side already has: the first 16 bytes of its BLAKE3 and its length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChunkId {
    /// Truncated BLAKE3. Good enough to propose; the whole file's full hash decides before anything is renamed.
    pub hash: [u8; 16],
    /// Length in bytes.
    pub len: u32,
}

/// Contents that the far side lacks, asked for in one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// In the order in which they are to be supplied.
    pub wants: Vec<Want>,
}

/// One content that the far side lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// What is wanted.
    pub digest: Digest,
    /// Its length in bytes, as announced by the manifest or plan.
    pub size: u64,
    /// What the far side has instead.
    pub old: Old,
}

/// An old version of a content that the far side has at hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Old {
    /// There is none.
    Nothing,
    /// It has this digest and this length in bytes: enough for a near side that has it too.
    Version {
        /// Hash of the whole.
        digest: Digest,
        /// Length in bytes.
        size: u64,
    },
    /// It consists of these chunks.
    Chunks {
        /// All of them, in order from the beginning.
        whole: Vec<ChunkId>,
        /// Parts of it cut again, eight times finer, as [`Supply::Finer`] asked.
        parts: Vec<Part>,
    },
}

/// A part of an old version, cut finer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where it begins in the old version, in bytes.
    pub offset: u64,
    /// Its chunks, in order.
    pub chunks: Vec<ChunkId>,
}

/// One message of the answer to a [`Demand`]. For each want in order: any number of `Literal`, `Take`, `Copy` and
/// `Patch`, then `End`; or `Unknown`, `Finer` or `Gone`. All literals of one demand form one stream of zstd frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Supply {
    /// The next bytes of the demand's zstd stream; at most [`MAX_LITERAL`] bytes.
    Literal(#[serde(with = "whole_bytes")] Vec<u8>),
    /// So many decompressed bytes of the stream belong to the current want next.
    Take(u64),
    /// This part of the current want's old version comes next.
    Copy {
        /// Where it begins, in bytes.
        offset: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// What comes next resembles a part of the old version: a zstd frame with that part as its prefix.
    Patch {
        /// Where the part begins, in bytes.
        offset: u64,
        /// Its length in bytes, at most [`MAX_PREFIX`].
        prefix: u32,
        /// Decompressed length in bytes, at most [`MAX_PATCHED`].
        len: u32,
        /// The frame, never longer than what it decompresses to.
        #[serde(with = "whole_bytes")]
        frame: Vec<u8>,
    },
    /// The current want is complete.
    End,
    /// The near side does not have the old version: the want is to be demanded again, with chunks.
    Unknown,
    /// These parts of the old version, each whole chunks, are to be cut finer, and the want is to be demanded again.
    Finer {
        /// Offset and length of each in bytes.
        parts: Vec<(u64, u64)>,
    },
    /// The current want can no longer be supplied (the source changed or vanished meanwhile).
    Gone {
        /// Why, for people.
        why: String,
    },
}

impl Supply {
    /// Whether it is as long as an honest sender makes it: what is longer must not wait in any queue.
    pub fn is_bounded(&self) -> bool {
        match self {
            Self::Literal(bytes) => bytes.len() <= MAX_LITERAL,
            Self::Patch { frame, .. } => frame.len() <= MAX_PATCHED as usize,
            Self::Finer { parts } => parts.len() <= MAX_PARTS,
            Self::Gone { why } => why.len() <= MAX_WHY,
            Self::Take(_) | Self::Copy { .. } | Self::End | Self::Unknown => true,
        }
    }

    /// Whether it holds little but what is compressed already.
    pub fn is_packed(&self) -> bool {
        matches!(self, Self::Literal(_) | Self::Patch { .. })
    }

    /// Whether nothing more comes about the current want.
    pub fn ends_want(&self) -> bool {
        matches!(self, Self::End | Self::Unknown | Self::Finer { .. } | Self::Gone { .. })
    }
}

/// Bytes as one piece: the same on the wire as a sequence of them, without a call for each.
mod whole_bytes {
    use std::fmt;

    use serde::{
        Deserializer, Serializer,
        de::{Error, Visitor},
    };

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_bytes(Bytes)
    }

    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }
    }
}

/// Longest prefix of a [`Supply::Patch`] in bytes, and longest result: what both sides hold in memory at once.
pub const MAX_PREFIX: u32 = 8 * 1024 * 1024;
/// See [`MAX_PREFIX`].
pub const MAX_PATCHED: u32 = 4 * 1024 * 1024;
/// Longest [`Supply::Literal`] in bytes.
pub const MAX_LITERAL: usize = 256 * 1024;
/// Most parts of a [`Supply::Finer`]: as many as an old version may have chunks.
const MAX_PARTS: usize = 256 * 1024;
/// Longest reason of a [`Supply::Gone`] in bytes.
const MAX_WHY: usize = 64 * 1024;

/// Where the far side gets content that it lacks. The helper implements it over the channel; tests directly.
pub trait Supplier {
    /// Asks for contents. Only one demand is open at a time.
    fn demand(&mut self, demand: Demand) -> std::io::Result<()>;

    /// The next message of the answer; blocks. An error when the near side is gone or the run is cancelled.
    fn next_supply(&mut self) -> std::io::Result<Supply>;

    /// What came without being asked for, if anything did.
    fn larder(&self) -> Option<&Larder> {
        None
    }
}
