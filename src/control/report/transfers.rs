//! Content on its way to hosts, in the lines that are redrawn.

use std::time::{Duration, Instant};

use indexmap::IndexMap;

use super::{
    rate::Rate,
    words::{bytes_of, duration, short_bytes},
};
use crate::{control::event::TransferProgress, plan::HostName};

/// From so long on what is left is told: a shorter transfer is over before it is read.
const LONG: Duration = Duration::from_secs(2);

/// What a transfer does in so many milliseconds fills buffers on the way; its rate is watched from then on.
const BUFFERS: u64 = 750;

/// Content on its way to hosts.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    /// Those that are over stay until all are, so that the whole never seems to shrink.
    hosts: IndexMap<HostName, Shown>,
}

#[derive(Debug)]
struct Shown {
    last: TransferProgress,
    rate: Rate,
    is_over: bool,
}

impl Transfers {
    /// News of a transfer.
    pub(super) fn see(&mut self, progress: &TransferProgress, now: Instant) {
        match self.hosts.get_mut(&progress.host) {
            // Less than before: another transfer than the last one.
            Some(shown) if !shown.is_over && shown.last.millis <= progress.millis => {
                if shown.last.millis < BUFFERS {
                    shown.rate = Rate::new(progress.bytes, now);
                } else {
                    shown.rate.see(progress.bytes, now);
                }
                shown.last = progress.clone();
            }
            _ => {
                let shown = Shown { last: progress.clone(), rate: Rate::new(progress.bytes, now), is_over: false };
                self.hosts.insert(progress.host.clone(), shown);
            }
        }
        if progress.ended {
            self.over(&progress.host);
        }
    }

    /// A host's transfer is over, one way or another.
    pub(super) fn over(&mut self, host: &HostName) {
        if let Some(shown) = self.hosts.get_mut(host) {
            shown.is_over = true;
        }
        if self.hosts.values().all(|shown| shown.is_over) {
            self.hosts.clear();
        }
    }

    /// How far a host's transfer is; none when there is none. What matters most comes first: a narrow terminal cuts
    /// the end.
    pub(super) fn of_host(&self, host: &HostName, now: Instant) -> Option<String> {
        let shown = self.hosts.get(host).filter(|shown| !shown.is_over)?;
        let TransferProgress { files, files_wanted, bytes, bytes_wanted, .. } = shown.last;
        let mut parts = Vec::new();
        if bytes_wanted == 0 {
            parts.push(format!("{} sent", short_bytes(shown.last.sent_bytes)));
        } else {
            parts.push(bytes_of(bytes, bytes_wanted));
            parts.extend(pace(shown.rate.per_second(now), bytes_wanted - bytes.min(bytes_wanted)));
            let is_long = Duration::from_millis(shown.last.millis) >= LONG;
            parts.extend(is_long.then(|| shown.left(now)).flatten().map(left));
        }
        if files_wanted > 1 {
            parts.push(format!("{files}/{files_wanted} files"));
        }
        Some(parts.join("  "))
    }

    /// How far all transfers together are; none for fewer than two.
    pub(super) fn whole(&self, now: Instant) -> Option<String> {
        if self.hosts.len() < 2 {
            return None;
        }
        let sum = |count: fn(&TransferProgress) -> u64| self.hosts.values().map(|shown| count(&shown.last)).sum();
        let (bytes, wanted): (u64, u64) = (sum(|last| last.bytes), sum(|last| last.bytes_wanted));
        if wanted == 0 {
            return None;
        }
        let under_way = || self.hosts.values().filter(|shown| !shown.is_over);
        let mut parts = vec![bytes_of(bytes, wanted)];
        let rates: Vec<u64> = under_way().filter_map(|shown| shown.rate.per_second(now)).collect();
        let rate = (!rates.is_empty()).then(|| rates.iter().sum());
        parts.extend(pace(rate, wanted - bytes.min(wanted)));
        // The last host to end decides, not the sum: hosts do not share their links.
        let longest = under_way().filter(|shown| Duration::from_millis(shown.last.millis) >= LONG);
        parts.extend(longest.filter_map(|shown| shown.left(now)).max().map(left));
        Some(parts.join(", "))
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.hosts.clear();
    }
}

impl Shown {
    /// How long the rest takes, as far as it can be told.
    fn left(&self, now: Instant) -> Option<Duration> {
        let rest = self.last.bytes_wanted.saturating_sub(self.last.bytes);
        (rest > 0).then(|| self.rate.time_for(rest, now)).flatten()
    }
}

/// `41.0 MiB/s`, while there is something left.
fn pace(rate: Option<u64>, rest: u64) -> Option<String> {
    rate.filter(|_| rest > 0).map(|rate| format!("{}/s", short_bytes(rate)))
}

/// `4 s left`.
fn left(time: Duration) -> String {
    format!("{} left", duration(time.as_secs() * 1000).replace(".0 s", " s").replace("0 ms", "0 s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn progress(host: &str, files: u64, bytes: u64, millis: u64) -> TransferProgress {
        TransferProgress {
            host: host.parse().unwrap(),
            files,
            files_wanted: 143,
            bytes,
            bytes_wanted: 40 * MIB,
            reused_bytes: 0,
            sent_bytes: bytes / 2,
            millis,
            ended: false,
        }
    }

    /// Tells of an even transfer up to here, four times a second.
    fn tell(transfers: &mut Transfers, host: &str, rate: u64, seconds: u64, begun: Instant) {
        for tick in 1..=seconds * 4 {
            let millis = tick * 250;
            let news = progress(host, tick, rate * millis / 1000, millis);
            transfers.see(&news, begun + Duration::from_millis(millis));
        }
    }

    #[test]
    fn a_line_says_how_much_how_fast_and_how_long() {
        let (mut transfers, begun) = (Transfers::default(), Instant::now());
        let host = "node-1".parse().unwrap();
        assert_eq!(transfers.of_host(&host, begun), None);
        let at = |seconds| begun + Duration::from_secs(seconds);
        tell(&mut transfers, "node-1", 4 * MIB, 1, begun);
        assert_eq!(transfers.of_host(&host, at(1)).unwrap(), "4.0 of 40.0 MiB  4/143 files", "too early for a rate");
        tell(&mut transfers, "node-1", 4 * MIB, 3, begun);
        assert_eq!(transfers.of_host(&host, at(3)).unwrap(), "12.0 of 40.0 MiB  4.0 MiB/s  7 s left  12/143 files");
        // All of it is sent: a rate would only sink while the host writes.
        transfers.see(&TransferProgress { files: 143, ..progress("node-1", 0, 40 * MIB, 10_000) }, at(10));
        assert_eq!(transfers.of_host(&host, at(10)).unwrap(), "40.0 of 40.0 MiB  143/143 files");
        assert_eq!(transfers.whole(at(10)), None, "one host says it all");
        transfers.see(&TransferProgress { ended: true, ..progress("node-1", 143, 40 * MIB, 10_100) }, at(10));
        assert_eq!(transfers.of_host(&host, at(10)), None);
    }

    #[test]
    fn what_fills_buffers_at_the_beginning_is_in_no_rate() {
        let (mut transfers, begun) = (Transfers::default(), Instant::now());
        for tick in 1..=8 {
            // 3 MiB at once, then 1 MiB each second.
            let news = progress("node-1", 0, 3 * MIB + tick * MIB / 4, tick * 250);
            transfers.see(&news, begun + Duration::from_millis(tick * 250));
        }
        let now = begun + Duration::from_secs(2);
        let line = transfers.of_host(&"node-1".parse().unwrap(), now).unwrap();
        assert_eq!(line, "5.0 of 40.0 MiB  1.0 MiB/s  35 s left  0/143 files");
    }

    #[test]
    fn the_whole_waits_for_the_slowest() {
        let (mut transfers, begun) = (Transfers::default(), Instant::now());
        tell(&mut transfers, "fast", 8 * MIB, 4, begun);
        tell(&mut transfers, "slow", 2 * MIB, 4, begun);
        let now = begun + Duration::from_secs(4);
        assert_eq!(transfers.whole(now).unwrap(), "40.0 of 80.0 MiB, 10.0 MiB/s, 16 s left");
        let fast = "fast".parse().unwrap();
        transfers.see(&progress("fast", 143, 40 * MIB, 5_000), now);
        transfers.over(&fast);
        assert_eq!(transfers.of_host(&fast, now), None);
        assert_eq!(transfers.whole(now).unwrap(), "48.0 of 80.0 MiB, 2.0 MiB/s, 16 s left", "it does not shrink");
        transfers.over(&"slow".parse().unwrap());
        assert_eq!(transfers.whole(now), None);
    }

    #[test]
    fn the_next_transfer_of_a_host_begins_anew() {
        let (mut transfers, begun) = (Transfers::default(), Instant::now());
        tell(&mut transfers, "node-1", 4 * MIB, 3, begun);
        let later = begun + Duration::from_secs(4);
        transfers.see(&TransferProgress { bytes_wanted: 0, files_wanted: 0, ..progress("node-1", 0, 0, 400) }, later);
        assert_eq!(transfers.of_host(&"node-1".parse().unwrap(), later).unwrap(), "0 B sent", "a list only");
        transfers
            .see(&TransferProgress { bytes_wanted: MIB, files_wanted: 1, ..progress("node-1", 0, 512, 650) }, later);
        assert_eq!(transfers.of_host(&"node-1".parse().unwrap(), later).unwrap(), "512 B of 1.0 MiB");
    }
}
