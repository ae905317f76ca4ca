//! An answer in pieces that can be made apart from each other: on several threads, and once for many hosts.

use std::{
    collections::{HashMap, VecDeque},
    io,
    num::NonZero,
    panic,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use super::{Digest, Old, Supply, WHOLE_UP_TO, Want};

/// About so many bytes of content are one unit: enough to compress well, little enough to be made ahead.
const UNIT: u64 = 2 * 1024 * 1024;
/// Most contents of one unit.
const MOST_WANTS: usize = 1024;
/// So many units of one answer are made ahead of the one that is being sent.
const AHEAD: usize = 3;
/// Threads that make units of one answer.
const THREADS: usize = 3;
/// Bytes of units that are kept for other hosts.
const MOST_SHARED: usize = 32 * 1024 * 1024;

/// The messages of a unit.
pub(super) type Made = Arc<[Supply]>;

/// A piece of an answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unit<'d> {
    /// The answers to these wants.
    Wants(&'d [Want]),
    /// A part of a content that is sent whole and is too long for one unit.
    Segment { want: &'d Want, offset: u64, len: u64 },
}

impl Unit<'_> {
    /// Whether it is made of contents alone, so that it is the same for every host, and small.
    fn is_alike(&self) -> bool {
        match self {
            Self::Wants(wants) => wants.iter().all(is_whole),
            Self::Segment { .. } => true,
        }
    }

    fn key(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        match self {
            Self::Wants(wants) => {
                for want in *wants {
                    hasher.update(want.digest.as_bytes());
                }
            }
            Self::Segment { want, offset, .. } => {
                hasher.update(b"segment").update(want.digest.as_bytes()).update(&offset.to_le_bytes());
            }
        }
        hasher.finalize().into()
    }
}

fn is_whole(want: &Want) -> bool {
    want.size <= WHOLE_UP_TO || want.old == Old::Nothing
}

/// Cuts a demand into units, in order.
pub(super) fn units(wants: &[Want]) -> Vec<Unit<'_>> {
    let mut units = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, want) in wants.iter().enumerate() {
        let is_long = want.size > UNIT || !is_whole(want);
        if index > start && (is_long || bytes >= UNIT || index - start >= MOST_WANTS) {
            units.push(Unit::Wants(&wants[start..index]));
            (start, bytes) = (index, 0);
        }
        if !is_long {
            bytes += want.size;
            continue;
        }
        start = index + 1;
        if is_whole(want) {
            let cut = |offset: u64| Unit::Segment { want, offset, len: UNIT.min(want.size - offset) };
            units.extend((0..want.size.div_ceil(UNIT)).map(|part| cut(part * UNIT)));
        } else {
            units.push(Unit::Wants(&wants[index..=index]));
        }
    }
    if start < wants.len() {
        units.push(Unit::Wants(&wants[start..]));
    }
    units
}

/// Units that were made, for other hosts that demand the same. A host that is slow finds them gone and makes them anew.
#[derive(Debug, Default)]
pub(super) struct SharedUnits {
    kept: Mutex<Kept>,
    turns: Turns,
}

/// So many units are made at once as there are cores: more would hold memory and be no sooner.
#[derive(Debug)]
struct Turns {
    free: Mutex<usize>,
    given_back: Condvar,
}

impl Default for Turns {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Self { free: Mutex::new(cores), given_back: Condvar::new() }
    }
}

impl Turns {
    /// Waits for a turn, which lasts until it is dropped.
    fn take(&self) -> Turn<'_> {
        let free = self.given_back.wait_while(lock(&self.free), |free| *free == 0);
        *free.unwrap_or_else(PoisonError::into_inner) -= 1;
        Turn(self)
    }
}

struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.0.free) += 1;
        self.0.given_back.notify_one();
    }
}

#[derive(Debug, Default)]
struct Kept {
    units: HashMap<Digest, Slot>,
    /// The oldest first, with their lengths in bytes.
    order: VecDeque<(Digest, usize)>,
    bytes: usize,
}

/// Held while the unit is made: others wait.
type Slot = Arc<Mutex<Option<Made>>>;

impl SharedUnits {
    /// The messages of a unit: those that were made already, or else `work` makes them.
    pub(super) fn made(&self, unit: &Unit<'_>, work: impl FnOnce() -> io::Result<Made>) -> io::Result<Made> {
        let key = unit.key();
        let slot = Arc::clone(lock(&self.kept).units.entry(key).or_default());
        let mut slot = lock(&slot);
        if let Some(made) = &*slot {
            return Ok(Arc::clone(made));
        }
        let turn = self.turns.take();
        let made = work();
        drop(turn);
        if let Ok(made) = &made
            && !made.iter().any(|message| matches!(message, Supply::Gone { .. }))
        {
            *slot = Some(Arc::clone(made));
            lock(&self.kept).keep(key, length(made));
        } else {
            lock(&self.kept).units.remove(&key);
        }
        made
    }
}

impl Kept {
    fn keep(&mut self, key: Digest, bytes: usize) {
        self.order.push_back((key, bytes));
        self.bytes += bytes;
        while self.bytes > MOST_SHARED
            && let Some((oldest, bytes)) = self.order.pop_front()
        {
            self.units.remove(&oldest);
            self.bytes -= bytes;
        }
    }
}

fn length(messages: &[Supply]) -> usize {
    let bytes = messages.iter().map(|message| match message {
        Supply::Literal(bytes) => bytes.len(),
        _ => 0,
    });
    bytes.sum()
}

/// Where a message goes.
type Out<'o> = dyn FnMut(Supply) -> io::Result<()> + 'o;

/// What the threads of one answer share.
struct Progress {
    /// Units made and not yet said, by index.
    made: HashMap<usize, io::Result<Made>>,
    next: usize,
    said: usize,
    is_over: bool,
}

/// Gives the messages of all units in order: those that are alike for all hosts are made by `work` on threads of their
/// own, a few ahead; the others are said by `say` when it is their turn.
pub(super) fn answer_units(
    units: &[Unit<'_>],
    work: &(dyn Fn(&Unit<'_>) -> io::Result<Made> + Sync),
    say: &mut dyn FnMut(&Unit<'_>, &mut Out<'_>) -> io::Result<()>,
    out: &mut Out<'_>,
) -> io::Result<()> {
    if units.len() < 2 {
        return units
            .iter()
            .try_for_each(|unit| if unit.is_alike() { say_made(&work(unit)?, out).map(drop) } else { say(unit, out) });
    }
    let progress = Mutex::new(Progress { made: HashMap::new(), next: 0, said: 0, is_over: false });
    let changed = Condvar::new();
    let maker = || {
        let mut state = lock(&progress);
        loop {
            if state.is_over || state.next == units.len() {
                return;
            }
            if state.next >= state.said + AHEAD {
                state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let index = state.next;
            state.next += 1;
            if !units[index].is_alike() {
                continue;
            }
            drop(state);
            // Whoever waits for it must not wait for ever.
            let made = panic::catch_unwind(panic::AssertUnwindSafe(|| work(&units[index])))
                .unwrap_or_else(|_| Err(io::Error::other("a defect in making an answer")));
            state = lock(&progress);
            state.made.insert(index, made);
            changed.notify_all();
        }
    };
    thread::scope(|scope| {
        for _ in 0..THREADS.min(units.len()) {
            scope.spawn(maker);
        }
        let ended = say_all(units, &progress, &changed, say, out);
        lock(&progress).is_over = true;
        changed.notify_all();
        ended
    })
}

fn say_all(
    units: &[Unit<'_>],
    progress: &Mutex<Progress>,
    changed: &Condvar,
    say: &mut dyn FnMut(&Unit<'_>, &mut Out<'_>) -> io::Result<()>,
    out: &mut Out<'_>,
) -> io::Result<()> {
    // A content that is gone has no further segments.
    let mut gone: Option<Digest> = None;
    for (index, unit) in units.iter().enumerate() {
        let is_gone = matches!(unit, Unit::Segment { want, .. } if gone == Some(want.digest));
        if unit.is_alike() {
            let mut state = lock(progress);
            let made = loop {
                match state.made.remove(&index) {
                    Some(made) => break made,
                    None => state = changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(state);
            if !is_gone && let (false, Unit::Segment { want, .. }) = (say_made(&made?, out)?, unit) {
                gone = Some(want.digest);
            }
        } else {
            say(unit, out)?;
        }
        lock(progress).said = index + 1;
        changed.notify_all();
    }
    Ok(())
}

/// Whether the content was still there.
fn say_made(made: &[Supply], out: &mut Out<'_>) -> io::Result<bool> {
    made.iter().try_for_each(|message| out(message.clone()))?;
    Ok(!matches!(made.last(), Some(Supply::Gone { .. })))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(number: u64, size: u64, old: Old) -> Want {
        Want { digest: Digest::of(&number.to_le_bytes()), size, old }
    }

    #[test]
    fn units_cover_a_demand_in_order() {
        let version = Old::Version { digest: Digest::of(b"old"), size: 9 };
        let mut wants: Vec<Want> = (0..3000).map(|number| want(number, 100, Old::Nothing)).collect();
        wants.push(want(3000, 5 * UNIT + 1, Old::Nothing));
        wants.push(want(3001, 10 * UNIT, version.clone()));
        wants.push(want(3002, 10, version));
        wants.push(want(3003, UNIT, Old::Nothing));
        wants.push(want(3004, 1, Old::Nothing));
        let units = units(&wants);
        let mut covered = Vec::new();
        for unit in &units {
            match unit {
                Unit::Wants(wants) => covered.extend(wants.iter().map(|want| want.digest)),
                Unit::Segment { want, offset: 0, .. } => covered.push(want.digest),
                Unit::Segment { .. } => {}
            }
        }
        assert_eq!(covered, wants.iter().map(|want| want.digest).collect::<Vec<_>>());
        let lengths = units.iter().filter_map(|unit| match unit {
            Unit::Segment { len, .. } => Some(*len),
            Unit::Wants(_) => None,
        });
        assert_eq!(lengths.collect::<Vec<_>>(), [UNIT, UNIT, UNIT, UNIT, UNIT, 1]);
        assert_eq!(units.iter().filter(|unit| !unit.is_alike()).count(), 1);
    }

    #[test]
    fn what_is_shared_is_made_once_and_bounded() {
        let shared = SharedUnits::default();
        let wants: Vec<Want> = (0..40).map(|number| want(number, 100, Old::Nothing)).collect();
        let mut times = 0;
        let mut made = |index: usize| {
            let unit = Unit::Wants(&wants[index..=index]);
            let made = shared.made(&unit, || {
                times += 1;
                Ok(vec![Supply::Literal(vec![0; 1024 * 1024])].into())
            });
            made.unwrap();
            times
        };
        assert_eq!((made(0), made(0), made(1), made(0)), (1, 1, 2, 2));
        for index in 2..40 {
            made(index);
        }
        assert_eq!(made(0), 41, "the oldest had to go");
        assert!(lock(&shared.kept).bytes <= MOST_SHARED);
    }

    #[test]
    fn no_more_units_are_made_at_once_than_there_are_turns() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let shared =
            SharedUnits { turns: Turns { free: Mutex::new(2), given_back: Condvar::new() }, ..Default::default() };
        let wants: Vec<Want> = (0..24).map(|number| want(number, 100, Old::Nothing)).collect();
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let make = || {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::yield_now();
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(vec![Supply::End].into())
        };
        thread::scope(|scope| {
            for index in 0..wants.len() {
                let (shared, wants, make) = (&shared, &wants, &make);
                scope.spawn(move || shared.made(&Unit::Wants(&wants[index..=index]), make).unwrap());
            }
        });
        assert!((1..=2).contains(&most.into_inner()));
        assert_eq!(*lock(&shared.turns.free), 2, "every turn was given back");
    }

    #[test]
    fn messages_come_in_order_and_an_error_ends_everything() {
        let wants: Vec<Want> = (0..20).map(|number| want(number, UNIT, Old::Nothing)).collect();
        let units = units(&wants);
        assert_eq!(units.len(), 20);
        let index = |unit: &Unit<'_>| match unit {
            Unit::Wants([want]) => wants.iter().position(|other| other.digest == want.digest).unwrap() as u64,
            _ => panic!("one want a unit"),
        };
        let make = |unit: &Unit<'_>| Ok(vec![Supply::Take(index(unit))].into());
        let mut got = Vec::new();
        answer_units(&units, &make, &mut |_, _| panic!("all are alike"), &mut |message| {
            got.push(message);
            Ok(())
        })
        .unwrap();
        assert_eq!(got, (0..20).map(Supply::Take).collect::<Vec<_>>());
        let mut count = 0;
        let ended = answer_units(&units, &make, &mut |_, _| panic!("all are alike"), &mut |_| {
            count += 1;
            if count == 5 { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
        });
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
