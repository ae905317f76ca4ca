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
                tokio::select! {
                    () = sleep(period(self.clock.under_way())) => {}
                    () = stop.cancelled() => {}
                }
                is_idle = self.tell_once(events, Instant::now()).await;
            }
        }
        self.tell_once(events, Instant::now()).await;
    }

    /// Tells of every host what is worth it now; whether nothing is under way.
    async fn tell_once(&self, events: &Events, now: Instant) -> bool {
        let mut is_all_idle = true;
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

/// How long to wait between two words about transfers to so many hosts.
fn period(under_way: usize) -> Duration {
    if under_way > MANY { LONG_PERIOD } else { PERIOD }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Demand, Digest, Old, Want};

    fn demand() -> Demand {
        Demand { wants: vec![Want { digest: Digest::of(b""), size: 7, old: Old::Nothing }] }
    }

    fn told(inbox: &mut tokio::sync::mpsc::Receiver<RunEvent>) -> Vec<(String, bool)> {
        let progress = std::iter::from_fn(|| inbox.try_recv().ok()).map(|event| match event {
            RunEvent::Transfer(progress) => (progress.host.to_string(), progress.ended),
            other => panic!("{other:?}"),
        });
        progress.collect()
    }

    #[test]
    fn many_hosts_are_spoken_of_less_often() {
        assert_eq!((period(1), period(MANY)), (PERIOD, PERIOD));
        assert_eq!((period(MANY + 1), period(256)), (LONG_PERIOD, LONG_PERIOD));
    }

    #[tokio::test]
    async fn each_host_under_way_is_told_of_and_has_a_last_word() {
        let hosts: Vec<HostName> = (0..40).map(|number| format!("node-{number}").parse().unwrap()).collect();
        let (meters, (events, mut inbox)) = (Meters::of(&hosts), Events::channel());
        for host in &hosts[..30] {
            meters.get(host).unwrap().demanded(&demand(), &std::collections::HashSet::new());
        }
        assert!(!meters.tell_once(&events, Instant::now()).await);
        assert_eq!(told(&mut inbox), [], "too short to be told of");
        let later = Instant::now() + Duration::from_secs(1);
        meters.tell_once(&events, later).await;
        let said = told(&mut inbox);
        assert_eq!(said.len(), 30);
        assert!(said.iter().all(|(_, ended)| !ended));
        for host in &hosts {
            meters.get(host).unwrap().plan_ended(true);
        }
        // The run is over at once: what has not been said yet still is.
        let stop = CancellationToken::new();
        stop.cancel();
        meters.tell(&events, &stop).await;
        let said = told(&mut inbox);
        assert_eq!((said.len(), said.iter().all(|(_, ended)| *ended)), (30, true));
    }

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
