//! Watch: every later change of a pushed component's trees reaches its hosts, also those that were away meanwhile.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures::future::{join_all, select_all};
use tokio::time::{sleep_until, timeout};

use super::{
    eye::{Eye, Touched},
    run::Crew,
};
use crate::{
    control::{
        event::{RunEvent, Status},
        inventory::Component,
    },
    plan::HostName,
};

/// A single save has been written when nothing more happens for so long.
const QUIET: Duration = Duration::from_millis(2);
/// A burst (a checkout, a build) has ended when nothing more happens for so long...
const QUIET_AFTER_BURST: Duration = Duration::from_millis(50);
/// ...and a burst is more events than this.
const BURST: u64 = 64;
/// A change waits at most so long for quiet, so that a file that is written all the time holds nothing up.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// After a change new directories are looked at once more: a file made in one before it was watched gave no event.
const SECOND_LOOK: Duration = Duration::from_millis(100);
/// Also without any event the sources are looked at as a whole so often: writes through memory maps and on network file systems
/// give none.
const IDLE_LOOK: Duration = Duration::from_secs(30);
/// When it has been quiet for so long after changes, sources and hosts are compared as a whole: what others changed on
/// the hosts is mended.
const PROOF: Duration = Duration::from_secs(2);
/// How often the sources are looked at where the system gives no events at all.
const POLL: Duration = Duration::from_secs(1);
/// Waits between attempts to bring what a host lacks, or to reach it: doubled from the first to the last.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// What a wait ended with.
enum Turn {
    /// The sources changed, or it is time to look.
    Look { since: Instant, is_due: bool },
    /// A host was lost, or it is time to reach for one.
    Hosts,
    /// The run is over.
    Over,
}

/// What is still to be done.
struct Duty {
    look_at: Instant,
    /// The hosts lack something although the sources did not change: a push failed or a host came back.
    is_owed: bool,
    retry_after: Duration,
    /// Whether hosts were only looked at where something changed since they were compared as a whole.
    is_unproven: bool,
    /// Whether the last thing said is that all is in sync.
    is_announced: bool,
    reach_at: Instant,
    /// When the whole sources are to be looked at, whatever was said of changes.
    whole_at: Instant,
    /// Directories that came: to be looked at again when they are surely watched.
    fresh: Touched,
    /// Hosts that were said to be away.
    away: Vec<HostName>,
}

impl Crew {
    /// Pushes every later change of a component's trees until the run is cancelled. Starts with a second look, so that
    /// nothing that changed during the first push is missed.
    pub(super) async fn watch(self: &Arc<Self>, component: &Arc<Component>) {
        let hosts = self.hosts_of(component);
        let mut eye = Eye::new();
        let now = Instant::now();
        let mut duty = Duty {
            look_at: now,
            is_owed: hosts.iter().any(|host| self.is_benched(host)),
            retry_after: FIRST_RETRY,
            is_unproven: false,
            is_announced: false,
            reach_at: now,
            whole_at: now,
            fresh: Touched::default(),
            away: Vec::new(),
        };
        loop {
            for warning in eye.follow(&self.sources.watched()) {
                duty.is_announced = false;
                self.events.send(RunEvent::Warning { host: None, text: warning }).await;
            }
            match self.next_turn(&eye, &duty, &hosts).await {
                Turn::Over => return,
                Turn::Hosts => self.reach_for(&hosts, &mut duty).await,
                Turn::Look { since, is_due } => {
                    eye.catch_up();
                    self.look(component, &hosts, &eye, &mut duty, (since, is_due)).await;
                }
            }
        }
    }

    async fn next_turn(&self, eye: &Eye, duty: &Duty, hosts: &[HostName]) -> Turn {
        let living: Vec<_> = hosts.iter().filter_map(|host| self.fleet.living(host)).collect();
        let is_complete = living.len() == hosts.len();
        let loss = async {
            if living.is_empty() {
                std::future::pending::<()>().await;
            }
            select_all(living.iter().map(|session| Box::pin(session.ended()))).await;
        };
        tokio::select! {
            () = self.cancel.cancelled() => Turn::Over,
            since = settled(eye) => Turn::Look { since, is_due: false },
            () = loss => Turn::Hosts,
            () = sleep_until(duty.reach_at.into()), if !is_complete => Turn::Hosts,
            () = sleep_until(duty.look_at.into()) => Turn::Look { since: Instant::now(), is_due: true },
        }
    }

    /// Connects again to hosts that are away. One that is back is compared as a whole before it counts as in sync.
    async fn reach_for(&self, hosts: &[HostName], duty: &mut Duty) {
        let missing: Vec<&HostName> = hosts.iter().filter(|host| self.fleet.living(host).is_none()).collect();
        for host in &missing {
            if !duty.away.contains(host) {
                duty.away.push((*host).clone());
                duty.is_announced = false;
                let text = "the connection is lost; what it misses is brought when it is back".to_owned();
                self.events.send(RunEvent::Warning { host: Some((*host).clone()), text }).await;
            }
        }
        let attempts =
            join_all(missing.into_iter().map(|host| async move { (host, self.fleet.reconnect(host).await) }));
        let reached = tokio::select! {
            reached = attempts => reached,
            () = self.cancel.cancelled() => return,
        };
        for (host, is_back) in reached {
            if is_back {
                duty.away.retain(|away| away != host);
                duty.is_owed = true;
                duty.look_at = Instant::now();
            }
        }
        duty.reach_at = Instant::now() + duty.retry_after;
        duty.retry_after = (duty.retry_after * 2).min(LAST_RETRY);
        if duty.away.is_empty() {
            duty.retry_after = FIRST_RETRY;
        }
    }

    /// Looks at the sources and pushes what changed, or what hosts still lack.
    async fn look(
        self: &Arc<Self>,
        component: &Arc<Component>,
        hosts: &[HostName],
        eye: &Eye,
        duty: &mut Duty,
        (since, is_due): (Instant, bool),
    ) {
        let sources = Arc::clone(&self.sources);
        let mut touched = eye.touched();
        if is_due {
            touched.join(std::mem::take(&mut duty.fresh));
        }
        if eye.is_blind() || Instant::now() >= duty.whole_at {
            touched = Touched::Everything;
        }
        let is_whole = touched == Touched::Everything;
        if is_whole {
            duty.whole_at = Instant::now() + IDLE_LOOK;
        }
        let is_other = tokio::task::spawn_blocking(move || sources.refresh(&touched)).await.unwrap_or(true);
        duty.fresh.join(eye.fresh());
        if is_other || duty.is_owed || is_whole && duty.is_unproven {
            // A host that lacks something is compared as a whole.
            let follows = !is_whole && !duty.is_owed;
            self.follows.store(follows, Ordering::Relaxed);
            duty.is_unproven = follows;
            let replaced = self.sources.replaced();
            for source in &replaced {
                let text = format!(
                    "source tree `{}` is another directory now: nothing is deleted this time",
                    source.display()
                );
                self.events.send(RunEvent::Warning { host: None, text }).await;
            }
            let status = self.push_round(component, since).await;
            // What was not deleted this time goes with the next look that finds the same directory.
            duty.is_owed = status >= Status::NotAttempted || !replaced.is_empty();
            duty.is_announced &= !is_other && status == Status::Unchanged;
            if duty.is_owed {
                duty.look_at = Instant::now() + duty.retry_after;
                duty.retry_after = (duty.retry_after * 2).min(LAST_RETRY);
            } else {
                duty.look_at = Instant::now() + SECOND_LOOK;
                duty.retry_after = FIRST_RETRY;
            }
            return;
        }
        let pause = match eye.is_blind() {
            true => POLL,
            false if duty.is_unproven => PROOF,
            false => IDLE_LOOK,
        };
        duty.look_at = Instant::now() + pause;
        duty.whole_at = duty.whole_at.min(duty.look_at);
        if !duty.is_announced && duty.away.is_empty() {
            duty.is_announced = true;
            let shown = |path: &PathBuf| path.display().to_string();
            let sources = self.sources.watched().iter().map(|tree| shown(&tree.path)).collect();
            let (component, hosts) = (component.name.clone(), hosts.to_vec());
            self.events.send(RunEvent::InSync { component, hosts, sources }).await;
        }
    }
}

/// Waits for a change and then until it is complete; gives when it began.
async fn settled(eye: &Eye) -> Instant {
    let first = eye.seen();
    eye.change().await;
    let since = Instant::now();
    while since.elapsed() < LONGEST_WAIT {
        let quiet = if eye.seen() - first > BURST { QUIET_AFTER_BURST } else { QUIET };
        let is_quiet = timeout(quiet, eye.change()).await.is_err();
        if is_quiet && !eye.is_being_written() {
            break;
        }
    }
    since
}
