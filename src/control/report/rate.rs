//! How fast something grows, without flicker.

use std::time::{Duration, Instant};

/// What happened so long ago weighs a third (1/e) of what happens now.
const MEMORY: Duration = Duration::from_secs(2);
/// A rate is told when it was watched for so long: the first pieces only fill buffers.
const WATCHED: Duration = Duration::from_millis(500);

/// The rate at which a count grows, smoothed exponentially over two seconds.
#[derive(Debug, Clone)]
pub(super) struct Rate {
    begun: Instant,
    seen: Instant,
    count: u64,
    /// Weighted sums of growth and of seconds up to `seen`; their quotient is the rate.
    growth: f64,
    seconds: f64,
}

impl Rate {
    /// Begins to watch a count. What it came to before says nothing about its rate.
    pub(super) fn new(count: u64, now: Instant) -> Self {
        Self { begun: now, seen: now, count, growth: 0.0, seconds: 0.0 }
    }

    /// The count is this now.
    pub(super) fn see(&mut self, count: u64, now: Instant) {
        let growth = count.saturating_sub(self.count);
        (self.growth, self.seconds) = self.sums(growth, now);
        (self.count, self.seen) = (count, now);
    }

    /// Units per second, also of a count that no longer grows; none when it was not watched long enough.
    pub(super) fn per_second(&self, now: Instant) -> Option<u64> {
        if now.duration_since(self.begun) < WATCHED {
            return None;
        }
        let (growth, seconds) =
            if now.duration_since(self.seen) > WATCHED { self.sums(0, now) } else { (self.growth, self.seconds) };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate is no negative number, and far from the largest"
        )]
        (seconds > 0.0).then(|| (growth / seconds).round() as u64)
    }

    /// How long this many more take; none when that cannot be told or is of no use to anybody.
    pub(super) fn time_for(&self, more: u64, now: Instant) -> Option<Duration> {
        const LONGEST: u64 = 24 * 60 * 60;
        let rate = self.per_second(now).filter(|rate| *rate > 0)?;
        let seconds = more.div_ceil(rate);
        (seconds <= LONGEST).then(|| Duration::from_secs(seconds))
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
    fn sums(&self, growth: u64, now: Instant) -> (f64, f64) {
        let time = now.duration_since(self.seen).as_secs_f64();
        if time <= 0.0 {
            return (self.growth + growth as f64, self.seconds);
        }
        let kept = (-time / MEMORY.as_secs_f64()).exp();
        // The growth is taken as even over the time: its newest part weighs most.
        let weight = MEMORY.as_secs_f64() * (1.0 - kept);
        (self.growth * kept + growth as f64 / time * weight, self.seconds * kept + weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(begun: Instant, millis: u64) -> Instant {
        begun + Duration::from_millis(millis)
    }

    #[test]
    fn an_even_growth_has_its_rate_however_it_is_looked_at() {
        let begun = Instant::now();
        // The megabyte before the first look is in nobody's rate.
        let mut rate = Rate::new(1_000_000, begun);
        assert_eq!(rate.per_second(at(begun, 400)), None, "too early to tell");
        for (millis, count) in [(250, 1_025_000), (300, 1_030_000), (1_300, 1_130_000), (1_500, 1_150_000)] {
            rate.see(count, at(begun, millis));
        }
        assert_eq!(rate.per_second(at(begun, 1_500)), Some(100_000));
        assert_eq!(rate.per_second(at(begun, 1_900)), Some(100_000), "between two looks it stays");
        assert_eq!(rate.time_for(250_001, at(begun, 1_500)), Some(Duration::from_secs(3)));
    }

    #[test]
    fn it_follows_a_change_within_seconds_and_sinks_when_nothing_comes() {
        let begun = Instant::now();
        let mut rate = Rate::new(0, begun);
        let mut count = 0;
        let mut pass = |rate: &mut Rate, from: u64, to: u64, step: u64| {
            for tick in (from + 250..=to).step_by(250) {
                count += step / 4;
                rate.see(count, at(begun, tick));
            }
        };
        pass(&mut rate, 0, 10_000, 8_000);
        assert_eq!(rate.per_second(at(begun, 10_000)), Some(8_000));
        pass(&mut rate, 10_000, 12_000, 16_000);
        let after_two = rate.per_second(at(begun, 12_000)).unwrap();
        assert!((12_800..13_300).contains(&after_two), "two thirds of the way: {after_two}");
        pass(&mut rate, 12_000, 20_000, 16_000);
        assert!(rate.per_second(at(begun, 20_000)).unwrap() > 15_800);
        let stalled = rate.per_second(at(begun, 24_000)).unwrap();
        assert!((2_000..2_400).contains(&stalled), "{stalled}");
        assert_eq!(rate.per_second(at(begun, 90_000)), Some(0));
        assert_eq!(rate.time_for(1, at(begun, 90_000)), None);
    }

    #[test]
    fn two_looks_at_one_time_are_no_division_by_zero() {
        let begun = Instant::now();
        let mut rate = Rate::new(0, begun);
        rate.see(10, begun);
        assert_eq!(rate.per_second(at(begun, 500)), None);
        rate.see(1_000, at(begun, 1_000));
        assert!(rate.per_second(at(begun, 1_000)).is_some());
    }
}
