//! Runs: from an inventory to hosts in their recipes' state. Knows every room above it and the order of things; shows
//! nothing itself but sends [`RunEvent`](super::event::RunEvent)s.

mod ahead;
mod component;
mod containers;
mod copy;
mod error;
mod evaluate;
mod events;
mod explain;
mod eye;
mod fleet;
mod graph;
mod holdings;
mod leaving;
mod ledger;
mod meter;
mod meters;
mod offer;
mod ports;
mod push;
mod run;
mod session;
mod sources;
mod store;
mod surroundings;
mod target;
mod turns;
mod usual;
mod watch;

pub use containers::{Down, down, ps};
pub use copy::{Copied, CopyDirection, CopyError, CopyReport, CopyRequest, copy};
pub use error::{DriveError, HostError};
pub use events::Events;
pub use explain::{ExplainError, Explanation, explain};
pub use fleet::{ENGINE_DEADLINE, Fleet};
pub use leaving::AD_HOC;
pub use ports::{Claimant, Clash};
pub use run::{Request, Scope, run};
pub use session::{HostSession, PlanEnd};
pub use store::{StoreHandle, store_of};
pub use target::{open_keyring, target_of};

pub use crate::wire::Mode;
