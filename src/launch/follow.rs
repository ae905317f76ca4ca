//! Following a service in etcd: for ever, over restarts of etcd, expired tokens and compacted history.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::sleep};

use super::{
    change::Service,
    etcd::{Reading, Session},
    failure::Failure,
    link,
    say::Reminder,
};
use crate::plan::EtcdLink;

/// First and longest pause between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Follows one service.
pub(super) struct Follower {
    link: EtcdLink,
    ca: Option<String>,
    session: Option<Session>,
    /// The member that is tried next.
    member: usize,
    reminder: Reminder,
    /// What was read last: where watching goes on.
    revision: i64,
    keys: Vec<String>,
}

impl Follower {
    pub(super) fn new(link: EtcdLink) -> Result<Self, Failure> {
        let ca = link::authority(&link)?;
        Ok(Self { link, ca, session: None, member: 0, reminder: Reminder::default(), revision: 0, keys: Vec::new() })
    }

    /// The service as it is now; one attempt at each member.
    pub(super) async fn once(&mut self) -> Result<Service, Failure> {
        let mut attempt = 1;
        loop {
            match self.read().await {
                Err(Failure::Unreachable { .. }) if attempt < self.link.endpoints().len() => attempt += 1,
                result => return result,
            }
        }
    }

    /// The service as soon as etcd can be asked and holds all of it. Fails only on what waiting does not cure.
    pub(super) async fn first(&mut self) -> Result<Service, Failure> {
        let mut pause = PAUSES.0;
        loop {
            match self.read().await {
                Ok(service) => {
                    self.reminder.over("configuration read");
                    return Ok(service);
                }
                Err(error) if error.may_pass() => self.reminder.say(format!("waiting: {}", error.line())),
                Err(error) => return Err(error),
            }
            pause = wait(pause).await;
        }
    }

    /// Sends every later state. The receiver sees the newest one only: what changes while it is busy is one change.
    pub(super) async fn run(mut self, news: watch::Sender<Arc<Service>>) {
        let mut pause = PAUSES.0;
        loop {
            let result = match self.changed().await {
                Ok(()) => self.read().await,
                Err(error) => Err(error),
            };
            match result {
                Ok(service) => {
                    self.reminder.over("etcd is followed again");
                    pause = PAUSES.0;
                    let service = Arc::new(service);
                    news.send_if_modified(|known| {
                        let modified = **known != *service;
                        *known = service;
                        modified
                    });
                }
                Err(error) => {
                    self.reminder.say(format!("the process goes on with what it has: {}", error.line()));
                    pause = wait(pause).await;
                }
            }
        }
    }

    async fn changed(&mut self) -> Result<(), Failure> {
        // Without a session nobody knows what was missed: the reading tells.
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let result = session.changed(&self.keys, self.revision).await;
        if result.is_err() {
            self.leave();
        }
        result
    }

    async fn read(&mut self) -> Result<Service, Failure> {
        let reading = self.reading().await;
        if matches!(reading, Err(Failure::Unreachable { .. } | Failure::Refused { .. })) {
            self.leave();
        }
        let Reading { revision, keys, service } = reading?;
        (self.revision, self.keys) = (revision, keys);
        service
    }

    async fn reading(&mut self) -> Result<Reading, Failure> {
        let session = match &mut self.session {
            Some(session) => session,
            None => self.session.insert(Session::open(&self.link, self.ca.as_deref(), self.member).await?),
        };
        session.read(self.link.node()).await
    }

    fn leave(&mut self) {
        self.session = None;
        self.member = self.member.wrapping_add(1);
    }
}

/// Pauses, give or take a quarter: all launchers of a lab see etcd come back at the same moment.
async fn wait(pause: Duration) -> Duration {
    let jitter = RandomState::new().hash_one(0) % 512;
    sleep(pause * (768 + u32::try_from(jitter).unwrap_or(0)) / 1024).await;
    (pause * 2).min(PAUSES.1)
}
