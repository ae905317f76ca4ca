//! The vocabulary that both sides share: what a machine is ([`Facts`]), what it should be ([`Op`] in a [`Plan`]),
//! how it differs ([`Diff`]) and what became of it ([`Outcome`]). Plain data; does nothing.

mod diff;
mod etcd_link;
mod facts;
mod holding;
mod launch;
mod name;
mod op;
mod outcome;
mod port;
mod put;
mod question;
mod secret;
mod step;

pub use diff::{Action, Change, Detail, Diff};
pub use etcd_link::{Authority, EtcdLink, EtcdLinkError};
pub use facts::{Distribution, Facts, InitSystem, PackageManager};
pub use holding::{Holding, LINKS, Leftovers, NOTES, RUNTIME};
pub use launch::{LaunchDescription, LaunchFile, OnChange};
pub use name::{ComponentName, GroupName, HostName, HostPath, LabName, Mode, NameError, Principal};
pub use op::{
    Content, DirEnsure, DirRemove, FileLink, FileRemove, FileWrite, GroupEnsure, MaxDelete, MemoryLock, Op,
    PackageEnsure, PackageState, Release, Run, RunGuard, ServiceDefinition, ServiceEnsure, SshAuthorize, Sync,
    UserEnsure, WaitPort,
};
pub use outcome::{FailureKind, OpFailure, Outcome, Tally, Verdict};
pub use port::{ListenPort, ListenPortError};
pub use put::{Landing, Offer, OfferKind, Put};
pub use question::{Answer, Question};
pub use secret::Secret;
pub use step::{Plan, Source, Step, StepId};
