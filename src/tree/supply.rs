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
    /// Chunks, in order, of an old version that the far side has at hand; empty when there is none.
    pub basis: Vec<ChunkId>,
}

/// One message of the answer to a [`Demand`]. For each want in order: any number of `Literal` and `Copy`, then `End`;
/// or `Gone`. All literals of one demand form one zstd stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Supply {
    /// The next bytes of the demand's zstd stream; at most [`MAX_LITERAL`] bytes.
    Literal(Vec<u8>),
    /// So many decompressed bytes of the stream belong to the current want next.
    Take(u64),
    /// Chunk `first..first + count` of the current want's basis come next.
    Copy {
        /// Index into the basis.
        first: u32,
        /// How many.
        count: u32,
    },
    /// The current want is complete.
    End,
    /// The current want can no longer be supplied (the source changed or vanished meanwhile).
    Gone {
        /// Why, for people.
        why: String,
    },
}

/// Longest [`Supply::Literal`] in bytes.
pub const MAX_LITERAL: usize = 256 * 1024;

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
