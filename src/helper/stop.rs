//! How running work learns that it should end, and who has to be ended with it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::process::{Pid, Signal, kill_process_group};

/// Says whether work should end: the work of one plan, or all work of this helper. Clones share their state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    session: Arc<Session>,
    plan: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Session {
    ended: AtomicBool,
    /// Process groups of commands that run now.
    groups: Mutex<BTreeSet<i32>>,
}

impl Stop {
    /// A stop for one more plan of the same helper.
    pub(crate) fn for_plan(&self) -> Self {
        Self { session: Arc::clone(&self.session), plan: Arc::default() }
    }

    /// Ends one plan.
    pub(crate) fn end_plan(&self) {
        self.plan.store(true, Ordering::SeqCst);
    }

    /// Ends all work.
    pub(crate) fn end_session(&self) {
        self.session.ended.store(true, Ordering::SeqCst);
    }

    /// Whether the work should end.
    pub(crate) fn is_set(&self) -> bool {
        self.plan.load(Ordering::SeqCst) || self.session.ended.load(Ordering::SeqCst)
    }

    /// Remembers a command's process group until [`Self::leave`].
    pub(crate) fn enter(&self, group: Pid) {
        self.groups().insert(group.as_raw_nonzero().get());
    }

    /// Forgets a process group whose leader has ended.
    pub(crate) fn leave(&self, group: Pid) {
        self.groups().remove(&group.as_raw_nonzero().get());
    }

    /// Kills every command that still runs. The last resort before the helper itself ends.
    pub(crate) fn kill_all(&self) {
        for raw in std::mem::take(&mut *self.groups()) {
            if let Some(group) = Pid::from_raw(raw) {
                // Gone already is as good as killed.
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
    }

    fn groups(&self) -> std::sync::MutexGuard<'_, BTreeSet<i32>> {
        self.session.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
