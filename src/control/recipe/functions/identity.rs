//! Names for things that need one of their own and keep it: machine ids, GUIDs.

use starlark::{environment::GlobalsBuilder, eval::Evaluator, starlark_module};

use super::session;
use crate::control::recipe::{error::Fault, session::Session};

/// What follows from `text` in this lab: 32 bytes that another text or lab does not have.
fn essence(session: &Session, function: &str, text: &str) -> Result<[u8; 32], Fault> {
    let text = session.plain("text", text)?;
    let lab = &session.stage(function)?.lab;
    Ok(*blake3::Hasher::new().update(lab.as_bytes()).update(&[0]).update(text.as_bytes()).finalize().as_bytes())
}

#[starlark_module]
pub(super) fn functions(builder: &mut GlobalsBuilder) {
    /// An identifier that follows from the lab's name and `text`: `length` (4 to 64) small letters and digits, the first a
    /// letter. The same at each run, another one for each text.
    fn stable_id<'v>(
        text: &str,
        #[starlark(default = 16)] length: u32,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<String> {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        if !(4..=64).contains(&length) {
            return Err(Fault::evaluation(format!("`length` is between 4 and 64, not {length}")).into());
        }
        let seed = essence(session(eval)?, "stable_id", text)?;
        let mut bytes = vec![0; length as usize];
        blake3::Hasher::new_keyed(&seed).finalize_xof().fill(&mut bytes);
        let letter = |(place, byte): (usize, &u8)| {
            let letters = if place == 0 { 26 } else { ALPHABET.len() };
            char::from(ALPHABET[usize::from(*byte) % letters])
        };
        Ok(bytes.iter().enumerate().map(letter).collect())
    }

    /// A GUID that follows from the lab's name and `text`, in the form of a random one (RFC 9562, version 8).
    fn stable_uuid<'v>(text: &str, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<String> {
        let essence = essence(session(eval)?, "stable_uuid", text)?;
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&essence[..16]);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = format!("{:032x}", u128::from_be_bytes(bytes));
        Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
    }
}
