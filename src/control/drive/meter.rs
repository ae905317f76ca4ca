//! Counts what content travels to a host: what it asked for, what was said, and what the connection has taken of it.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::meters::Clock;
use crate::{
    control::{
        event::{Transfer, TransferProgress},
        link::{Framed, Gauge},
    },
    plan::HostName,
    tree::{Ahead, Demand, Digest, Supply},
};

/// A transfer that is over sooner is not spoken of: it would only flash.
const WORTH_TELLING: Duration = Duration::from_millis(300);
/// Messages within so many bytes of the stream are counted as written together.
const GRAIN: u64 = 16 * 1024;

/// Counts what content travels to one host, over all its connections of a run.
///
/// Bytes count when the connection has taken the message that says them, so that progress on a slow link is not that of
/// a queue in memory.
#[derive(Debug)]
pub(super) struct Meter {
    host: HostName,
    clock: Arc<Clock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Of transfers that have ended, and the helper.
    past: Transfer,
    current: Option<Current>,
    /// The last word about a transfer that was spoken of.
    ended: Option<TransferProgress>,
    placing: Option<Placing>,
    gauge: Option<Gauge>,
}

/// A transfer under way.
#[derive(Debug)]
struct Current {
    since: Instant,
    /// Written to the connection.
    done: Amount,
    files_wanted: u64,
    bytes_wanted: u64,
    /// Queued, in the order of the stream.
    unwritten: VecDeque<Unwritten>,
    /// What is left of the open demand.
    wants: VecDeque<Want>,
    /// Whether it has been spoken of.
    is_told: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Amount {
    files: u64,
    bytes: u64,
    reused_bytes: u64,
    sent_bytes: u64,
}

impl Amount {
    fn add(&mut self, more: Self) {
        self.files += more.files;
        self.bytes += more.bytes;
        self.reused_bytes += more.reused_bytes;
        self.sent_bytes += more.sent_bytes;
    }
}

#[derive(Debug)]
struct Unwritten {
    begin: u64,
    end: u64,
    amount: Amount,
}

#[derive(Debug)]
struct Want {
    /// Bytes of it that were not said yet.
    left: u64,
    /// False for the list of a tree.
    is_file: bool,
}

#[derive(Debug)]
struct Placing {
    since: Instant,
    bytes: u64,
    of: u64,
}

/// What a message of an answer says, for counting.
#[derive(Debug, Clone, Copy)]
pub(super) enum Said {
    /// Bytes of the stream, of no content in particular.
    Stream,
    /// So many bytes of the current content.
    New(u64),
    /// So many of it, which the host takes from what it has.
    Reused(u64),
    /// The current content is complete.
    End,
    /// It is not supplied, or not yet: the host asks again.
    NotSupplied,
}

impl Said {
    /// By a message.
    pub(super) fn by(supply: &Supply) -> Self {
        match supply {
            Supply::Literal(_) => Self::Stream,
            Supply::Take(bytes) => Self::New(*bytes),
            Supply::Patch { len, .. } => Self::New(u64::from(*len)),
            Supply::Copy { len, .. } => Self::Reused(*len),
            Supply::End => Self::End,
            Supply::Unknown | Supply::Finer { .. } | Supply::Gone { .. } => Self::NotSupplied,
        }
    }
}

/// What is worth telling of a host.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// The helper: bytes sent and bytes of all of it.
    pub(super) placing: Option<(u64, u64)>,
    /// A transfer that has ended since the last look, if it was spoken of.
    pub(super) ended: Option<TransferProgress>,
    /// The one under way.
    pub(super) transfer: Option<TransferProgress>,
    /// Whether nothing is under way.
    pub(super) is_idle: bool,
}

impl Meter {
    pub(super) fn new(host: HostName, clock: Arc<Clock>) -> Self {
        Self { host, clock, state: Mutex::default() }
    }

    /// Says that so many bytes of a helper of this size were sent.
    pub(super) fn placing(&self, bytes: u64, of: u64) {
        let mut state = self.lock();
        let before = state.placing.as_ref().map_or(0, |placing| placing.bytes);
        state.past.helper_bytes += bytes.saturating_sub(before);
        match &mut state.placing {
            Some(placing) => placing.bytes = bytes,
            empty => {
                *empty = Some(Placing { since: Instant::now(), bytes, of });
                self.clock.wake();
            }
        }
    }

    /// Says that nothing more of a helper is sent; gives its size when all of it was.
    pub(super) fn placed(&self) -> Option<u64> {
        let placing = self.lock().placing.take()?;
        (placing.bytes >= placing.of).then_some(placing.of)
    }

    /// Counts on this channel from now on.
    pub(super) fn attach(&self, gauge: Gauge) {
        self.lock().gauge = Some(gauge);
    }

    /// Counts what goes ahead of a plan.
    pub(super) fn ahead(&self, ahead: &Ahead, framed: Framed) {
        if ahead.contents.is_empty() && ahead.patches.is_empty() {
            return;
        }
        self.begin(&mut self.lock()).ahead(ahead, framed);
    }

    /// Counts what a host asks for. `lists` are the digests of the lists of trees, which are no files.
    pub(super) fn demanded(&self, demand: &Demand, lists: &HashSet<Digest>) {
        self.begin(&mut self.lock()).demanded(demand, lists);
    }

    /// Counts messages of the answer that travel in one frame.
    pub(super) fn supplied(&self, said: &[Said], framed: Framed) {
        let mut state = self.lock();
        let written = state.written();
        match &mut state.current {
            Some(current) => {
                current.settle(written);
                let mut framed = framed;
                for said in said {
                    current.supplied(*said, framed);
                    framed.len = 0;
                }
            }
            // The plan has ended without it.
            None => state.past.sent_bytes += framed.len,
        }
    }

    /// Says that the host has ended a step: it has all that it asked for.
    pub(super) fn step_ended(&self) {
        let mut state = self.lock();
        if state.current.as_ref().is_some_and(|current| current.wants.is_empty()) {
            self.end(&mut state, true);
        }
    }

    /// Says that a plan has ended. Unless `is_confirmed`, what still waits in the queue does not count.
    pub(super) fn plan_ended(&self, is_confirmed: bool) {
        self.end(&mut self.lock(), is_confirmed);
    }

    /// What the host got so far, without a transfer that is still under way.
    pub(super) fn total(&self) -> Transfer {
        self.lock().past
    }

    /// What is worth telling now.
    pub(super) fn look(&self, now: Instant) -> Look {
        let mut state = self.lock();
        let written = state.written();
        let (ended, is_idle) = (state.ended.take(), state.current.is_none() && state.placing.is_none());
        // That all of it is sent is told by who placed it.
        let is_telling =
            |placing: &&Placing| placing.bytes < placing.of && now.duration_since(placing.since) >= WORTH_TELLING;
        let placing = state.placing.as_ref().filter(is_telling).map(|placing| (placing.bytes, placing.of));
        let transfer = state.current.as_mut().and_then(|current| {
            current.settle(written);
            current.is_told |= now.duration_since(current.since) >= WORTH_TELLING;
            current.is_told.then(|| current.progress(&self.host, now, false))
        });
        Look { placing, ended, transfer, is_idle }
    }

    fn begin<'s>(&self, state: &'s mut State) -> &'s mut Current {
        state.current.get_or_insert_with(|| {
            let now = Instant::now();
            self.clock.begin(now);
            Current::new(now)
        })
    }

    fn end(&self, state: &mut State, is_confirmed: bool) {
        let written = if is_confirmed { u64::MAX } else { state.written() };
        let Some(mut current) = state.current.take() else { return };
        let now = Instant::now();
        self.clock.end(now);
        current.settle(written);
        current.forget_wants();
        let past = &mut state.past;
        past.files += current.done.files;
        past.bytes += current.done.bytes;
        past.reused_bytes += current.done.reused_bytes;
        past.sent_bytes += current.done.sent_bytes;
        past.millis += millis(now.duration_since(current.since));
        if current.is_told {
            state.ended = Some(current.progress(&self.host, now, true));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn written(&self) -> u64 {
        self.gauge.as_ref().map_or(0, |gauge| gauge.traffic().written_bytes)
    }
}

impl Current {
    fn new(since: Instant) -> Self {
        Self {
            since,
            done: Amount::default(),
            files_wanted: 0,
            bytes_wanted: 0,
            unwritten: VecDeque::new(),
            wants: VecDeque::new(),
            is_told: false,
        }
    }

    fn ahead(&mut self, ahead: &Ahead, framed: Framed) {
        let files = ahead.contents.len() as u64;
        let bytes = ahead.contents.iter().map(|content| content.len() as u64).sum();
        self.files_wanted += files;
        self.bytes_wanted += bytes;
        self.queue(Amount { files, bytes, ..Amount::default() }, framed);
    }

    fn demanded(&mut self, demand: &Demand, lists: &HashSet<Digest>) {
        // A host asks again when it has all that it asked for before.
        let has_all = self.wants.is_empty();
        self.settle(if has_all { u64::MAX } else { 0 });
        self.forget_wants();
        for want in &demand.wants {
            let is_file = !lists.contains(&want.digest);
            if is_file {
                self.files_wanted += 1;
                self.bytes_wanted += want.size;
            }
            self.wants.push_back(Want { left: want.size, is_file });
        }
    }

    fn supplied(&mut self, said: Said, framed: Framed) {
        let mut amount = Amount::default();
        match said {
            Said::Stream => {}
            Said::New(bytes) => amount.bytes = self.take(bytes),
            Said::Reused(bytes) => {
                amount.bytes = self.take(bytes);
                amount.reused_bytes = amount.bytes;
            }
            Said::End => {
                if let Some(want) = self.wants.pop_front().filter(|want| want.is_file) {
                    amount.files = 1;
                    self.bytes_wanted -= want.left;
                }
            }
            Said::NotSupplied => {
                if let Some(want) = self.wants.pop_front() {
                    self.forget(&want);
                }
            }
        }
        self.queue(amount, framed);
    }

    /// So many bytes of the current content were said; how many of them count.
    fn take(&mut self, bytes: u64) -> u64 {
        let Some(want) = self.wants.front_mut() else { return 0 };
        let taken = bytes.min(want.left);
        want.left -= taken;
        if want.is_file { taken } else { 0 }
    }

    /// It is not wanted any more, as far as it was not said.
    fn forget(&mut self, want: &Want) {
        if want.is_file {
            self.files_wanted -= 1;
            self.bytes_wanted -= want.left;
        }
    }

    fn forget_wants(&mut self) {
        for want in std::mem::take(&mut self.wants) {
            self.forget(&want);
        }
    }

    fn queue(&mut self, amount: Amount, framed: Framed) {
        let amount = Amount { sent_bytes: framed.len, ..amount };
        match self.unwritten.back_mut() {
            Some(last) if framed.end.saturating_sub(last.begin) <= GRAIN => {
                last.end = framed.end;
                last.amount.add(amount);
            }
            _ => {
                let begin = framed.end.saturating_sub(framed.len);
                self.unwritten.push_back(Unwritten { begin, end: framed.end, amount });
            }
        }
    }

    /// Counts what is in the first `written` bytes of the stream.
    fn settle(&mut self, written: u64) {
        while let Some(first) = self.unwritten.front().filter(|first| first.end <= written) {
            self.done.add(first.amount);
            self.unwritten.pop_front();
        }
    }

    fn progress(&self, host: &HostName, now: Instant, ended: bool) -> TransferProgress {
        TransferProgress {
            host: host.clone(),
            files: self.done.files,
            files_wanted: self.files_wanted,
            bytes: self.done.bytes,
            bytes_wanted: self.bytes_wanted,
            reused_bytes: self.done.reused_bytes,
            sent_bytes: self.done.sent_bytes,
            millis: millis(now.duration_since(self.since)),
            ended,
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Old, Want};

    const LIST: &[u8] = b"the list of a tree";

    fn demand(sizes: &[u64]) -> Demand {
        let want = |(number, size): (usize, &u64)| Want {
            digest: Digest::of(&number.to_le_bytes()),
            size: *size,
            old: Old::Nothing,
        };
        Demand { wants: sizes.iter().enumerate().map(want).collect() }
    }

    /// A transfer whose messages are all so long.
    struct Stream {
        current: Current,
        end: u64,
    }

    const LEN: u64 = 100_000;

    impl Stream {
        fn new() -> Self {
            Self { current: Current::new(Instant::now()), end: 0 }
        }

        fn framed(&mut self) -> Framed {
            self.end += LEN;
            Framed { len: LEN, end: self.end }
        }

        fn say(&mut self, said: &[Said]) {
            for said in said {
                let framed = self.framed();
                self.current.supplied(*said, framed);
            }
        }

        fn shows(&self) -> (u64, u64, u64, u64) {
            let current = &self.current;
            (current.done.files, current.files_wanted, current.done.bytes, current.bytes_wanted)
        }
    }

    #[test]
    fn what_waits_in_the_queue_is_not_there_yet() {
        let mut stream = Stream::new();
        stream.current.demanded(&demand(&[70, 30]), &HashSet::new());
        assert_eq!(stream.shows(), (0, 2, 0, 100));
        stream.say(&[Said::Stream, Said::New(50), Said::Reused(20), Said::End, Said::New(30), Said::End]);
        assert_eq!(stream.shows(), (0, 2, 0, 100), "queued only");
        stream.current.settle(3 * LEN - 1);
        assert_eq!(stream.shows(), (0, 2, 50, 100));
        stream.current.settle(4 * LEN);
        assert_eq!(stream.shows(), (1, 2, 70, 100));
        assert_eq!((stream.current.done.reused_bytes, stream.current.done.sent_bytes), (20, 4 * LEN));
        stream.current.settle(u64::MAX);
        assert_eq!(stream.shows(), (2, 2, 100, 100));
        assert_eq!(stream.current.done.sent_bytes, 6 * LEN);
    }

    #[test]
    fn small_messages_are_counted_together_and_none_is_lost() {
        let mut current = Current::new(Instant::now());
        let sizes = vec![1; 10_000];
        current.demanded(&demand(&sizes), &HashSet::new());
        for number in 0..10_000 {
            current.supplied(Said::New(1), Framed { len: 8, end: number * 16 + 8 });
            current.supplied(Said::End, Framed { len: 8, end: number * 16 + 16 });
        }
        assert!(current.unwritten.len() <= 11, "{}", current.unwritten.len());
        current.settle(160_000 - 1);
        assert!(current.done.files < 10_000);
        current.settle(160_000);
        assert_eq!((current.done.files, current.done.bytes, current.done.sent_bytes), (10_000, 10_000, 160_000));
    }

    #[test]
    fn a_content_that_is_asked_for_again_is_wanted_once() {
        let mut stream = Stream::new();
        stream.current.demanded(&demand(&[70, 30]), &HashSet::new());
        // The first one needs chunks; of the second one the source vanished half-way.
        stream.say(&[Said::NotSupplied, Said::New(10), Said::NotSupplied]);
        assert_eq!((stream.current.files_wanted, stream.current.bytes_wanted), (0, 10));
        stream.current.demanded(&demand(&[70]), &HashSet::new());
        stream.say(&[Said::Reused(60), Said::New(10), Said::End]);
        stream.current.settle(u64::MAX);
        assert_eq!(stream.shows(), (1, 1, 80, 80));
        assert_eq!(stream.current.done.reused_bytes, 60);
    }

    #[test]
    fn a_list_is_no_file_and_more_than_was_asked_for_does_not_count() {
        let mut stream = Stream::new();
        let list = Want { digest: Digest::of(LIST), size: 500, old: Old::Nothing };
        let lists = HashSet::from([list.digest]);
        stream.current.demanded(&Demand { wants: vec![list] }, &lists);
        stream.say(&[Said::Stream, Said::New(500), Said::End]);
        stream.current.demanded(&demand(&[7]), &lists);
        assert_eq!(stream.shows(), (0, 1, 0, 7));
        assert_eq!(stream.current.done.sent_bytes, 3 * LEN, "a host that asks again has what it asked for before");
        stream.say(&[Said::New(9), Said::End, Said::New(9), Said::End]);
        stream.current.settle(u64::MAX);
        assert_eq!(stream.shows(), (1, 1, 7, 7));
    }

    fn meter() -> (Meter, Arc<Clock>) {
        let clock = Arc::new(Clock::default());
        (Meter::new("node-1".parse().unwrap(), Arc::clone(&clock)), clock)
    }

    #[test]
    fn a_short_transfer_is_counted_and_not_spoken_of() {
        let (meter, clock) = meter();
        meter.demanded(&demand(&[7]), &HashSet::new());
        let begun = Instant::now();
        assert_eq!(meter.look(begun), Look { is_idle: false, ..Look::default() });
        assert_eq!(clock.under_way(), 1);
        meter.supplied(&[Said::New(7)], Framed { len: 20, end: 20 });
        meter.step_ended();
        assert_eq!(meter.total().bytes, 0, "a step that ended while something is open is another one");
        meter.supplied(&[Said::End], Framed { len: 10, end: 30 });
        meter.step_ended();
        let total = meter.total();
        assert_eq!((total.files, total.bytes, total.sent_bytes), (1, 7, 30));
        assert_eq!(meter.look(begun + Duration::from_secs(9)), Look { is_idle: true, ..Look::default() });
        assert_eq!(clock.under_way(), 0);
        // Nothing is counted twice, whoever says that it has ended.
        meter.plan_ended(true);
        assert_eq!(meter.total(), total);
    }

    #[test]
    fn a_long_transfer_is_spoken_of_and_gets_a_last_word() {
        let (meter, _) = meter();
        meter.demanded(&demand(&[7, 8]), &HashSet::new());
        let begun = Instant::now();
        let first = meter.look(begun + WORTH_TELLING).transfer.unwrap();
        assert_eq!((first.files_wanted, first.bytes, first.bytes_wanted, first.ended), (2, 0, 15, false));
        meter.supplied(&[Said::New(7)], Framed { len: 20, end: 20 });
        meter.supplied(&[Said::End], Framed { len: 20, end: 40 });
        // Nothing was written: there is no channel.
        meter.plan_ended(false);
        let look = meter.look(Instant::now());
        let last = look.ended.unwrap();
        assert_eq!((last.files, last.files_wanted, last.ended), (0, 1, true), "what never left is not counted");
        assert!(look.is_idle);
        assert_eq!(meter.look(Instant::now()).ended, None, "said once");
        assert_eq!(meter.total().files, 0);
    }

    #[test]
    fn the_helper_is_counted_by_what_was_sent_of_it() {
        let (meter, _) = meter();
        assert_eq!(meter.placed(), None);
        meter.placing(100, 250);
        meter.placing(200, 250);
        let later = Instant::now() + WORTH_TELLING;
        assert_eq!(meter.look(later).placing, Some((200, 250)));
        assert_eq!(meter.placed(), None, "it was cut off");
        meter.placing(250, 250);
        assert_eq!(meter.look(Instant::now() + WORTH_TELLING), Look::default(), "not placed yet, and nothing to tell");
        assert_eq!(meter.placed(), Some(250));
        assert_eq!(meter.total().helper_bytes, 450, "both attempts were sent");
        assert!(meter.look(later).is_idle);
    }
}
