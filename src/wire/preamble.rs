//! The line that tells the helper's voice from a login shell's noise.

/// How many bytes of login-shell noise may come before the preamble.
pub const MAX_NOISE: usize = 1024 * 1024;

/// The line with which a helper begins: `\n\0OVS-CUISINE <nonce>\n`. The nonce is chosen by the near side at each
/// start, so nothing that a login shell prints by itself can look like it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preamble {
    line: Vec<u8>,
}

impl Preamble {
    /// The preamble for a nonce. The nonce is 1 to 64 ASCII letters and digits; others are refused.
    pub fn new(nonce: &str) -> Result<Self, PreambleError> {
        let fits = (1..=64).contains(&nonce.len()) && nonce.bytes().all(|b| b.is_ascii_alphanumeric());
        if fits {
            Ok(Self { line: format!("\n\0OVS-CUISINE {nonce}\n").into_bytes() })
        } else {
            Err(PreambleError::Nonce)
        }
    }

    /// The bytes as sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.line
    }
}

/// Why no helper spoke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreambleError {
    /// The nonce is not 1 to 64 letters and digits.
    #[error("the nonce must be 1 to 64 letters and digits")]
    Nonce,
    /// More than [`MAX_NOISE`] bytes came and no preamble.
    #[error("the login shell printed more than {MAX_NOISE} bytes before the helper began")]
    Noise,
}

/// Finds a preamble in a stream that may begin with noise.
#[derive(Debug)]
pub struct PreambleScanner {
    preamble: Preamble,
    seen: Vec<u8>,
}

impl PreambleScanner {
    /// A scanner for this preamble.
    pub fn new(preamble: Preamble) -> Self {
        Self { preamble, seen: Vec::new() }
    }

    /// Takes more bytes of the stream. When the preamble is complete, gives the bytes after it.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, PreambleError> {
        let line = self.preamble.as_bytes();
        // The preamble may straddle the old end.
        let from = self.seen.len().saturating_sub(line.len());
        self.seen.extend_from_slice(bytes);
        if let Some(at) = self.seen[from..].windows(line.len()).position(|window| window == line) {
            return Ok(Some(self.seen.split_off(from + at + line.len())));
        }
        if self.seen.len() > MAX_NOISE { Err(PreambleError::Noise) } else { Ok(None) }
    }

    /// What came so far and was not a preamble: for error messages.
    pub fn noise(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_skipped_at_any_split() {
        let mut stream = b"Welcome!\n\0OVS-CUISINE other\n\n\n".to_vec();
        stream.extend_from_slice(Preamble::new("n1").unwrap().as_bytes());
        stream.extend_from_slice(b"rest");
        for split in 0..stream.len() {
            let mut scanner = PreambleScanner::new(Preamble::new("n1").unwrap());
            let (head, tail) = stream.split_at(split);
            let mut got = scanner.push(head).unwrap();
            match &mut got {
                Some(rest) => rest.extend_from_slice(tail),
                None => got = scanner.push(tail).unwrap(),
            }
            assert_eq!(got.as_deref(), Some(&b"rest"[..]), "split at {split}");
        }
    }

    #[test]
    fn endless_noise_is_refused() {
        let mut scanner = PreambleScanner::new(Preamble::new("n1").unwrap());
        assert_eq!(scanner.push(&vec![b'x'; MAX_NOISE + 1]), Err(PreambleError::Noise));
    }
}
