//! The meters of all hosts of a run: who tells of transfers, and how often.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Events,
    meter::{Look, Meter},
};
use crate::{
    control::event::{HostPhase, RunEvent, Transfer},
    plan::HostName,
};

/// How often transfers are told of...
const PERIOD: Duration = Duration::from_millis(250);
/// ...and how often when they go to more hosts than this.
const LONG_PERIOD: Duration = Duration::from_secs(1);
const MANY: usize = 32;

/// Measures how long content is under way to any host, and wakes who tells of it.
#[derive(Debug, Default)]
pub(super) struct Clock {
    spell: Mutex<Spell>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct Spell {
    under_way: usize,
    since: Option<Instant>,
    past: Duration,
}

impl Clock {
    /// A transfer begins.
    pub(super) fn begin(&self, now: Instant) {
        let mut spell = self.lock();
        spell.under_way += 1;
        spell.since.get_or_insert(now);
        drop(spell);
        self.wake();
    }

    /// A transfer has ended.
    pub(super) fn end(&self, now: Instant) {
        let mut spell = self.lock();
        spell.under_way = spell.under_way.saturating_sub(1);
        if spell.under_way == 0
            && let Some(since) = spell.since.take()
        {
            spell.past += now.duration_since(since);
        }
    }

    /// There is something to tell, or will be.
    pub(super) fn wake(&self) {
        self.woken.notify_one();
    }

    fn past(&self) -> Duration {
        self.lock().past
    }

    pub(super) fn under_way(&self) -> usize {
        self.lock().under_way
    }

    fn lock(&self) -> MutexGuard<'_, Spell> {
        self.spell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The meters of all hosts of a run.
#[derive(Debug)]
pub(super) struct Meters {
    clock: Arc<Clock>,
    meters: HashMap<HostName, Arc<Meter>>,
}

impl Meters {
    pub(super) fn of<'h>(hosts: impl IntoIterator<Item = &'h HostName>) -> Self {
        let clock = Arc::new(Clock::default());
        let meter = |host: &HostName| (host.clone(), Arc::new(Meter::new(host.clone(), Arc::clone(&clock))));
        Self { meters: hosts.into_iter().map(meter).collect(), clock: Arc::clone(&clock) }
    }

    /// A host's meter.
    pub(super) fn get(&self, host: &HostName) -> Option<&Arc<Meter>> {
        self.meters.get(host)
    }

    /// What a host got so far.
    pub(super) fn total(&self, host: &HostName) -> Transfer {
        self.get(host).map(|meter| meter.total()).unwrap_or_default()
    }

    /// What all hosts got so far.
    pub(super) fn whole(&self) -> Transfer {
        let mut whole = Transfer::default();
        for meter in self.meters.values() {
            let part = meter.total();
            whole.files += part.files;
            whole.bytes += part.bytes;
            whole.reused_bytes += part.reused_bytes;
            whole.sent_bytes += part.sent_bytes;
            whole.helper_bytes += part.helper_bytes;
        }
        whole.millis = u64::try_from(self.clock.past().as_millis()).unwrap_or(u64::MAX);
        whole
    }

    /// Tells of transfers that take long, until `stop`; sleeps while nothing is under way.
    pub(super) async fn tell(&self, events: &Events, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = self.clock.woken.notified() => {}
                () = stop.cancelled() => break,
            }
            let mut is_idle = false;
            while !is_idle && !stop.is_cancelled() {
                let period = if self.clock.under_way() > MANY { LONG_PERIOD } else { PERIOD };
                tokio::select! {
                    () = sleep(period) => {}
                    () = stop.cancelled() => {}
                }
                is_idle = self.tell_once(events).await;
            }
        }
        self.tell_once(events).await;
    }

    /// Tells of every host what is worth it now; whether nothing is under way.
    async fn tell_once(&self, events: &Events) -> bool {
        let (mut is_all_idle, now) = (true, Instant::now());
        for (host, meter) in &self.meters {
            let Look { placing, ended, transfer, is_idle } = meter.look(now);
            is_all_idle &= is_idle;
            if let Some((bytes, of)) = placing {
                let phase = HostPhase::Bootstrapping { bytes, of };
                events.hint(RunEvent::Host { host: host.clone(), phase });
            }
            if let Some(progress) = ended {
                events.send(RunEvent::Transfer(progress)).await;
            }
            if let Some(progress) = transfer {
                events.hint(RunEvent::Transfer(progress));
            }
        }
        is_all_idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_with_several_hosts_counts_once() {
        let (clock, begun) = (Clock::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        clock.begin(at(0));
        clock.begin(at(1));
        clock.end(at(3));
        assert_eq!(clock.past(), Duration::ZERO, "one is still under way");
        clock.end(at(5));
        clock.begin(at(100));
        clock.end(at(102));
        assert_eq!(clock.past(), Duration::from_secs(7));
    }
}
