//! Length-prefixed postcard frames, compressed when large.
//!
//! A frame is a 4-byte little-endian word and a body. Bit 31 of the word says that the body is a zstd frame; bits 0 to
//! 30 are the body's length in bytes, from 1 to [`MAX_FRAME`].

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

use super::budget::{Budget, Charged};

/// Longest body in bytes, as it travels.
pub const MAX_FRAME: usize = 32 * 1024 * 1024;
/// Longest message in bytes, decompressed.
pub const MAX_MESSAGE: usize = 128 * 1024 * 1024;
/// Most memory in bytes that the elements of one message may take; a message of short elements needs more than its length.
pub const MAX_MEMORY: usize = 2 * MAX_MESSAGE;
/// Shorter bodies are not worth compressing.
const COMPRESS_FROM: usize = 4 * 1024;
const COMPRESSED: u32 = 1 << 31;
const HEADER: usize = 4;
const ZSTD_LEVEL: i32 = 1;

/// Why bytes are not a frame or a frame is not a message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length is 0 or above [`MAX_FRAME`].
    #[error("a frame of {0} bytes is outside the bounds")]
    Length(usize),
    /// The decompressed message is longer than [`MAX_MESSAGE`].
    #[error("a message is longer than {MAX_MESSAGE} bytes")]
    TooLong,
    /// The message would take more than [`MAX_MEMORY`].
    #[error("a message takes more than {MAX_MEMORY} bytes of memory")]
    Memory,
    /// The body is not zstd although marked so.
    #[error("a compressed frame cannot be decompressed")]
    Compression(#[source] io::Error),
    /// The body is not a message, or bytes are left over.
    #[error("a frame does not hold a message of this protocol")]
    Message,
    /// The stream failed or ended inside a frame.
    #[error("the channel broke")]
    Io(#[from] io::Error),
}

/// A frame's body and whether it is compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    compressed: bool,
    body: Vec<u8>,
}

/// One message as a whole frame, header included.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, FrameError> {
    encode_from(message, COMPRESS_FROM)
}

/// The same for a message of which little but what is compressed already: trying again costs time and gains nothing.
pub fn encode_packed<M: Serialize>(message: &M) -> Result<Vec<u8>, FrameError> {
    encode_from(message, usize::MAX)
}

fn encode_from<M: Serialize>(message: &M, compress_from: usize) -> Result<Vec<u8>, FrameError> {
    let plain = postcard::to_stdvec(message).map_err(|_| FrameError::Message)?;
    if plain.len() > MAX_MESSAGE {
        return Err(FrameError::TooLong);
    }
    let packed = if plain.len() >= compress_from {
        Some(zstd::bulk::compress(&plain, ZSTD_LEVEL).map_err(FrameError::Compression)?)
            .filter(|packed| packed.len() < plain.len())
    } else {
        None
    };
    let (flag, body) = packed.map_or((0, plain), |packed| (COMPRESSED, packed));
    if body.is_empty() || body.len() > MAX_FRAME {
        return Err(FrameError::Length(body.len()));
    }
    let length = u32::try_from(body.len()).map_err(|_| FrameError::Length(body.len()))?;
    let mut frame = Vec::with_capacity(HEADER + body.len());
    frame.extend_from_slice(&(length | flag).to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// The message in a frame. Bytes left over are an error.
pub fn decode<M: DeserializeOwned>(frame: &Frame) -> Result<M, FrameError> {
    let unpacked;
    let plain = if frame.compressed {
        unpacked = decompress(&frame.body)?;
        &unpacked
    } else {
        &frame.body
    };
    let budget = Budget::new(MAX_MEMORY);
    let mut reader = postcard::Deserializer::from_bytes(plain);
    let message = M::deserialize(Charged::new(&mut reader, &budget))
        .map_err(|_| if budget.is_exceeded() { FrameError::Memory } else { FrameError::Message })?;
    match reader.finalize() {
        Ok([]) => Ok(message),
        _ => Err(FrameError::Message),
    }
}

fn decompress(body: &[u8]) -> Result<Vec<u8>, FrameError> {
    let limit = MAX_MESSAGE as u64 + 1;
    let mut plain = Vec::new();
    let decoder = zstd::Decoder::with_buffer(body).map_err(FrameError::Compression)?;
    decoder.take(limit).read_to_end(&mut plain).map_err(FrameError::Compression)?;
    if plain.len() > MAX_MESSAGE { Err(FrameError::TooLong) } else { Ok(plain) }
}

fn header(word: [u8; HEADER]) -> Result<(bool, usize), FrameError> {
    let word = u32::from_le_bytes(word);
    let length = (word & !COMPRESSED) as usize;
    if (1..=MAX_FRAME).contains(&length) {
        Ok((word & COMPRESSED != 0, length))
    } else {
        Err(FrameError::Length(length))
    }
}

/// Cuts a byte stream into frames. Holds at most one frame and what was pushed last.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    taken: usize,
}

impl FrameDecoder {
    /// Takes more bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it is there. After an error the stream is useless.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.buffer[self.taken..];
        let Some((word, rest)) = rest.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let (compressed, length) = header(*word)?;
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = Frame { compressed, body: body.to_vec() };
        self.taken += HEADER + length;
        Ok(Some(frame))
    }
}

/// Reads one message; `None` when the stream ends between two frames.
pub fn read_message<M: DeserializeOwned>(stream: &mut impl Read) -> Result<Option<M>, FrameError> {
    let mut word = [0; HEADER];
    let mut got = 0;
    while got < HEADER {
        match stream.read(&mut word[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let (compressed, length) = header(word)?;
    // Grows with what really arrives: a lying length must not reserve memory.
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    decode(&Frame { compressed, body }).map(Some)
}

/// Writes one message as a frame and flushes.
pub fn write_message<M: Serialize>(stream: &mut impl Write, message: &M) -> Result<(), FrameError> {
    stream.write_all(&encode(message)?)?;
    stream.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_channel() {
        for text in ["a".to_owned(), "abc".repeat(10_000)] {
            let frame = encode(&text).unwrap();
            let back: String = read_message(&mut frame.as_slice()).unwrap().unwrap();
            assert_eq!(back, text);
        }
    }

    #[test]
    fn frames_arrive_in_any_pieces() {
        let messages = ["one".to_owned(), "two".repeat(5000), "three".to_owned()];
        let stream: Vec<u8> = messages.iter().flat_map(|m| encode(m).unwrap()).collect();
        for piece in [1, 3, 7, 4096] {
            let mut decoder = FrameDecoder::default();
            let mut got: Vec<String> = Vec::new();
            for bytes in stream.chunks(piece) {
                decoder.push(bytes);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    got.push(decode(&frame).unwrap());
                }
            }
            assert_eq!(got, messages);
        }
    }

    #[test]
    fn lies_are_refused() {
        assert!(matches!(read_message::<String>(&mut [0u8; 4].as_slice()), Err(FrameError::Length(0))));
        let huge = (u32::MAX >> 1).to_le_bytes();
        assert!(matches!(read_message::<String>(&mut huge.as_slice()), Err(FrameError::Length(_))));
        let mut truncated = encode(&"abcdef").unwrap();
        truncated.pop();
        assert!(matches!(read_message::<String>(&mut truncated.as_slice()), Err(FrameError::Io(_))));
        let mut trailing = encode(&1u8).unwrap();
        trailing[0] = 2;
        trailing.push(9);
        assert!(matches!(read_message::<u8>(&mut trailing.as_slice()), Err(FrameError::Message)));
        let mut not_zstd = encode(&1u8).unwrap();
        not_zstd[3] = 0x80;
        assert!(matches!(read_message::<u8>(&mut not_zstd.as_slice()), Err(FrameError::Compression(_))));
    }

    #[test]
    fn a_bomb_does_not_go_off() {
        let bomb = zstd::bulk::compress(&vec![0u8; MAX_MESSAGE + 10], 1).unwrap();
        let frame = Frame { compressed: true, body: bomb };
        assert!(matches!(decode::<Vec<u8>>(&frame), Err(FrameError::TooLong)));
    }
}
