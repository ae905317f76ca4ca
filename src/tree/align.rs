//! Finds what a new content has of an old one when both are at hand: side by side as long as they are equal, by chunks
//! where they part.

use std::{collections::HashMap, io};

use super::{
    ChunkId,
    chunk::chunks,
    delta::{Delta, Origin, SayError, Stretch},
};

/// Bytes of both contents that are compared at once: two such buffers stay in a core's cache.
const BLOCK: usize = 128 * 1024;
/// A shorter equal run is not worth a message of its own: it is patched together with what is around it.
const SHORTEST_RUN: u64 = 16 * 1024;
/// Where contents part they are often equal again a little further, at the same distance: so far it is looked for...
const NEAR: u64 = 64 * 1024;
/// ...in steps of so many bytes, as many as have to be equal.
const STEP: u64 = 4 * 1024;
/// The longest stretch that is said at once, so that the host has work early.
const LONGEST_SAID: u64 = 4 * 1024 * 1024;

/// Two contents, and the buffers to compare them with.
struct Pair<'a> {
    new: &'a Origin,
    old: &'a Origin,
    buffers: (Vec<u8>, Vec<u8>),
}

impl Pair<'_> {
    /// How many bytes are equal from these places on, at most `most`.
    fn equal(&mut self, new_at: u64, old_at: u64, most: u64) -> Result<u64, SayError> {
        let mut done = 0;
        while done < most {
            let len = usize::try_from(most - done).unwrap_or(BLOCK).min(BLOCK);
            let (new, old) = (&mut self.buffers.0[..len], &mut self.buffers.1[..len]);
            let new_len = self.new.read_full(new, new_at + done).map_err(SayError::Read)?;
            let old_len = self.old.read_full(old, old_at + done).map_err(|_| SayError::Old)?;
            let (new, old) = (&new[..new_len], &old[..old_len]);
            let equal = common_prefix(new, old);
            done += equal as u64;
            if equal < len {
                break;
            }
        }
        Ok(done)
    }
}

/// How many bytes two slices begin with in common.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    const WORDS: usize = 64;
    let whole = a.chunks_exact(WORDS).zip(b.chunks_exact(WORDS)).take_while(|(a, b)| a == b).count() * WORDS;
    whole + a[whole..].iter().zip(&b[whole..]).take_while(|(a, b)| a == b).count()
}

impl Delta {
    /// Compares a new content of `len` bytes with an old one, whose chunks are known. `closed` is told of each stretch,
    /// by its index, as soon as it and the one after it are known.
    pub(super) fn align(
        new: &Origin,
        len: u64,
        old: &Origin,
        old_chunks: &[ChunkId],
        mut closed: impl FnMut(&Self, usize) -> Result<(), SayError>,
    ) -> Result<Self, SayError> {
        let mut places: HashMap<ChunkId, u64> = HashMap::with_capacity(old_chunks.len());
        let mut old_len = 0;
        for id in old_chunks {
            places.entry(*id).or_insert(old_len);
            old_len += u64::from(id.len);
        }
        let mut delta = Self::of(old_len);
        let mut pair = Pair { new, old, buffers: (vec![0; BLOCK], vec![0; BLOCK]) };
        let (mut at, mut old_at) = (0, 0);
        while at < len {
            let run =
                delta.follow(&mut pair, (at, old_at), (len - at).min(old_len.saturating_sub(old_at)), &mut closed)?;
            at += run;
            old_at += run;
            if at == len {
                break;
            }
            let parted = at;
            if let Some(skipped) = again_near(&mut pair, (at, old_at), (len, old_len))? {
                at += skipped;
                old_at += skipped;
                delta.push(Stretch { offset: parted, len: skipped, old: None }, &mut closed)?;
                continue;
            }
            let mut found = None;
            for chunk in chunks(new.reader_at(at)) {
                let chunk = chunk.map_err(SayError::Read)?;
                let chunk_len = u64::from(chunk.id.len);
                // A list of chunks that does not fit its content must not be believed.
                if let Some(place) = places.get(&chunk.id)
                    && pair.equal(at, *place, chunk_len)? == chunk_len
                {
                    found = Some(Stretch { offset: at, len: chunk_len, old: Some(*place) });
                    break;
                }
                at += chunk_len;
            }
            if at > parted {
                delta.push(Stretch { offset: parted, len: at - parted, old: None }, &mut closed)?;
            }
            match found {
                Some(chunk) => {
                    delta.push(chunk, &mut closed)?;
                    at += chunk.len;
                    old_at = chunk.old.unwrap_or_default() + chunk.len;
                }
                None if at == len => {}
                None => return Err(SayError::Read(io::ErrorKind::UnexpectedEof.into())),
            }
        }
        if let Some(last) = delta.stretches.len().checked_sub(1) {
            closed(&delta, last)?;
        }
        Ok(delta)
    }

    /// Takes both contents as far as they are equal from these places on; gives how far. Nothing when that is not worth
    /// it.
    fn follow(
        &mut self,
        pair: &mut Pair<'_>,
        (at, old_at): (u64, u64),
        most: u64,
        closed: &mut impl FnMut(&Self, usize) -> Result<(), SayError>,
    ) -> Result<u64, SayError> {
        let mut run = 0;
        while run < most {
            let len = pair.equal(at + run, old_at + run, (most - run).min(LONGEST_SAID))?;
            if len == 0 || run == 0 && len < SHORTEST_RUN.min(most) {
                break;
            }
            self.push(Stretch { offset: at + run, len, old: Some(old_at + run) }, closed)?;
            run += len;
            if len < LONGEST_SAID {
                break;
            }
        }
        Ok(run)
    }

    /// Adds a stretch; two of new bytes that follow each other become one.
    fn push(
        &mut self,
        next: Stretch,
        closed: &mut impl FnMut(&Self, usize) -> Result<(), SayError>,
    ) -> Result<(), SayError> {
        if next.old.is_none() {
            self.fresh += next.len;
            if let Some(last) = self.stretches.last_mut().filter(|last| last.old.is_none()) {
                last.len += next.len;
                return Ok(());
            }
        }
        self.stretches.push(next);
        match self.stretches.len().checked_sub(2) {
            Some(before) => closed(self, before),
            None => Ok(()),
        }
    }
}

/// How many bytes further both contents are equal again, the distance between the places being the same.
fn again_near(
    pair: &mut Pair<'_>,
    (new_at, old_at): (u64, u64),
    (new_len, old_len): (u64, u64),
) -> Result<Option<u64>, SayError> {
    let most = (new_len - new_at).min(old_len.saturating_sub(old_at)).min(NEAR);
    let mut skipped = STEP;
    while skipped + STEP <= most {
        if pair.equal(new_at + skipped, old_at + skipped, STEP)? == STEP {
            let run = pair.equal(new_at + skipped, old_at + skipped, SHORTEST_RUN)?;
            if run >= SHORTEST_RUN || new_at + skipped + run == new_len {
                return Ok(Some(skipped));
            }
        }
        skipped += STEP;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(seed: u8, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn align(new: &[u8], old: &[u8]) -> Delta {
        let ids: Vec<ChunkId> = chunks(old).map(|chunk| chunk.unwrap().id).collect();
        let (new_origin, old_origin) = (Origin::Bytes(new.into()), Origin::Bytes(old.into()));
        let mut told = Vec::new();
        let delta = Delta::align(&new_origin, new.len() as u64, &old_origin, &ids, |_, index| {
            told.push(index);
            Ok(())
        });
        let delta = delta.unwrap();
        assert!(told.iter().copied().eq(0..delta.stretches.len()), "{told:?}");
        let mut at = 0;
        for Stretch { offset, len, old: place } in &delta.stretches {
            assert_eq!(*offset, at);
            let range = |from: u64| usize::try_from(from).unwrap()..usize::try_from(from + len).unwrap();
            if let Some(place) = place {
                assert!(new[range(*offset)] == old[range(*place)]);
            }
            at += len;
        }
        assert_eq!(at, new.len() as u64);
        delta
    }

    #[test]
    fn what_is_equal_is_found_wherever_it_moved() {
        let old = noise(1, 3_000_000);
        assert_eq!(align(&old, &old).fresh, 0);
        let mut new = old.clone();
        new[1_000_000..1_000_004].copy_from_slice(b"edit");
        assert!(align(&new, &old).fresh <= STEP);
        new.splice(2_000_000..2_000_000, noise(2, 5000));
        assert!(align(&new, &old).fresh <= 5000 + 160_000);
        let moved = [&old[1_500_000..], &old[..1_500_000]].concat();
        assert!(align(&moved, &old).fresh <= 300_000);
        assert_eq!(align(&noise(3, 100_000), &old).fresh, 100_000);
        assert_eq!(align(b"", &old).fresh, 0);
        assert_eq!(align(&old[..2_000_000], &old).fresh, 0);
        assert_eq!(align(&old, b"").fresh, 3_000_000);
        let longer = [&old[..], &noise(4, 700)].concat();
        assert_eq!(align(&longer, &old).fresh, 700);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_edits_leave_stretches_that_are_what_they_say(
            len in 0usize..600_000,
            edits in proptest::collection::vec((0usize..600_000, 0usize..30_000, 0usize..30_000, any::<u8>()), 0..6),
        ) {
            let old = noise(9, len);
            let mut new = old.clone();
            for (at, gone, come, seed) in edits {
                let at = at.min(new.len());
                let end = (at + gone).min(new.len());
                new.splice(at..end, noise(seed, come));
            }
            align(&new, &old);
        }
    }
}
