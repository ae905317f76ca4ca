//! The body of one frame: whatever decodes must encode to something that decodes to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ovs_cuisine::wire::{FrameError, FromHelper, ToHelper, encode, read_message};

fuzz_target!(|input: &[u8]| {
    // The first byte chooses the direction and whether the body claims to be compressed.
    let Some((choice, body)) = input.split_first() else { return };
    let Ok(length) = u32::try_from(body.len()) else { return };
    let flag = u32::from(choice & 1) << 31;
    let frame = [&(length | flag).to_le_bytes(), body].concat();
    if choice & 2 == 0 {
        same::<ToHelper>(&frame);
    } else {
        same::<FromHelper>(&frame);
    }
});

fn same<M>(frame: &[u8])
where
    M: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let Ok(Some(message)) = read_message::<M>(&mut &frame[..]) else { return };
    match encode(&message) {
        Ok(again) => {
            let back: Option<M> = read_message(&mut again.as_slice()).expect("our own frames can be read");
            assert_eq!(back.as_ref(), Some(&message));
        }
        // What was compressed may be too long for us: zstd levels differ.
        Err(FrameError::Length(_) | FrameError::TooLong) => {}
        Err(error) => panic!("a message that was read cannot be written: {error}"),
    }
}
