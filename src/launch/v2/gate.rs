//! The way to etcd that all requests share: one login at one member, another one when that fails.

use std::time::{Duration, Instant};

use etcd_client::{Client, Error};
use tokio::sync::Mutex;
use tonic::Code;

use crate::{
    launch::{
        etcd::{CALL, Session, within},
        failure::Failure,
    },
    plan::EtcdLink,
};

/// How long etcd counts as away after it could not be reached: requests that wait must not each try anew.
const AWAY: Duration = Duration::from_millis(500);

/// The way to etcd.
pub(super) struct Gate {
    link: EtcdLink,
    ca: Option<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    session: Option<Session>,
    /// Counts sessions: only the one that failed is given up.
    number: u64,
    /// The member that is tried next.
    member: usize,
    away: Option<(Instant, Trouble)>,
}

/// Why etcd did not do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The login may not.
    Denied,
    /// The login is none, for this reason.
    Refused(String),
    /// etcd cannot be reached or does not work, for this reason.
    Away(String),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        match &failure {
            Failure::Denied { .. } => Self::Denied,
            Failure::Refused { .. } => Self::Refused(failure.line()),
            _ => Self::Away(failure.line()),
        }
    }
}

/// Whether an error is about the way to etcd, and not about what was asked.
fn is_of_the_way(error: &Error) -> bool {
    match error {
        Error::GRpcStatus(status) => matches!(
            status.code(),
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Unauthenticated
                | Code::Unknown
                | Code::Cancelled
                | Code::Internal
                | Code::Aborted
        ),
        Error::TransportError(_) | Error::IoError(_) => true,
        _ => false,
    }
}

/// Whether a call may be made a second time when nobody knows what became of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It only looks.
    Yes,
    /// It changes something.
    No,
}

impl Gate {
    pub(super) fn new(link: EtcdLink, ca: Option<String>) -> Self {
        Self { link, ca, state: Mutex::default() }
    }

    /// Makes a call, at another member when the first one fails.
    pub(super) async fn call<T>(
        &self,
        repeat: Repeat,
        call: impl AsyncFn(Client) -> Result<T, Error>,
    ) -> Result<T, Trouble> {
        let mut attempts = 0..=self.link.endpoints().len();
        loop {
            let (number, session) = self.session().await?;
            let error = match within(CALL, call(session.client())).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // A token that the member does not know (any more): surely nothing was done.
            let unknown = matches!(&error, Error::GRpcStatus(status) if status.code() == Code::Unauthenticated);
            let may_pass = is_of_the_way(&error);
            let failure = session.failure("", error);
            if may_pass {
                self.leave(number).await;
            }
            attempts.next();
            if !may_pass || attempts.is_empty() || repeat == Repeat::No && !unknown {
                return Err(failure.into());
            }
        }
    }

    /// A session, and which one it is.
    pub(super) async fn session(&self) -> Result<(u64, Session), Trouble> {
        let mut state = self.state.lock().await;
        if let Some(session) = &state.session {
            return Ok((state.number, session.clone()));
        }
        if let Some((since, trouble)) = &state.away
            && since.elapsed() < AWAY
        {
            return Err(trouble.clone());
        }
        let mut last = Trouble::Away("etcd was not tried".to_owned());
        for _ in 0..self.link.endpoints().len() {
            match Session::open(&self.link, self.ca.as_deref(), state.member).await {
                Ok(session) => {
                    state.number += 1;
                    state.away = None;
                    state.session = Some(session.clone());
                    return Ok((state.number, session));
                }
                Err(failure) => last = failure.into(),
            }
            state.member = state.member.wrapping_add(1);
        }
        state.away = Some((Instant::now(), last.clone()));
        Err(last)
    }

    /// Gives a session up.
    pub(super) async fn leave(&self, number: u64) {
        let mut state = self.state.lock().await;
        if state.number == number && state.session.take().is_some() {
            state.member = state.member.wrapping_add(1);
        }
    }
}
