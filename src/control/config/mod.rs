//! The configuration in etcd: logins, comparison with what recipes want, guarded transactions, history.
//!
//! Speaks etcd's v3 API over any stream it is given (an SSH tunnel, as a rule). Knows keys and values; does not know
//! recipes, hosts or components' meaning.

mod access;
mod apply;
mod auth;
mod cause;
mod compare;
mod connection;
mod edit;
mod error;
mod holder;
mod journal;
mod lock;
mod owned;
mod replaced;
mod rollback;
mod store;

pub use access::{BoxFuture, Dial, StoreAccess, Stream, render_etcd_link};
pub use apply::Applied;
pub use auth::{AuthChange, Grant, LoginMode};
pub use cause::Cause;
pub use compare::{Comparison, KeyChange, Value, Wish};
pub use edit::Edited;
pub use error::ConfigError;
pub use journal::{JournalChange, JournalEntry};
pub use rollback::{Rollback, Target, Written};
pub use store::{Entry, Store};
