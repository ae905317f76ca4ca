//! What crosses the channel between the near side and the helper: a preamble, then length-prefixed frames.
//! Every length is bounded and checked on both sides; neither side trusts the other.

mod budget;
mod frame;
mod message;
mod preamble;

pub use frame::{
    Frame, FrameDecoder, FrameError, MAX_FRAME, MAX_MEMORY, MAX_MESSAGE, decode, encode, encode_packed, read_message,
    write_message,
};
pub use message::{FromHelper, HelperHello, MAX_SUPPLIES, Mode, NearHello, StepEvent, StepReport, Stream, ToHelper};
pub use preamble::{MAX_NOISE, Preamble, PreambleError, PreambleScanner};

/// Version of the messages. Both sides are built together and the helper is placed by content hash, so a difference
/// means a foreign helper; it is refused.
pub const PROTOCOL: u32 = 2;
