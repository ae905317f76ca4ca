//! A byte stream from a peer that may lie: noise, preamble, frames, in any pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ovs_cuisine::wire::{FrameDecoder, FromHelper, MAX_FRAME, Preamble, PreambleScanner, ToHelper, decode};

fuzz_target!(|input: &[u8]| {
    // The first byte chooses the size of the pieces.
    let Some((piece, stream)) = input.split_first() else { return };
    let piece = usize::from(*piece).max(1);
    let mut decoder = FrameDecoder::default();
    let mut frames = 0;
    'stream: for bytes in stream.chunks(piece) {
        decoder.push(bytes);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    frames += 1;
                    let _ = decode::<FromHelper>(&frame);
                    let _ = decode::<ToHelper>(&frame);
                }
                Ok(None) => break,
                Err(_) => break 'stream,
            }
        }
    }
    // A frame takes a header of four bytes and at least one of body.
    assert!(frames <= stream.len().min(MAX_FRAME) / 5);

    if let Ok(preamble) = Preamble::new("fuzz") {
        let mut scanner = PreambleScanner::new(preamble);
        for bytes in stream.chunks(piece) {
            if !matches!(scanner.push(bytes), Ok(None)) {
                break;
            }
        }
    }
});
