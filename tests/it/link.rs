//! The link room against real OpenSSH servers.

mod bootstrap;
mod connect;
mod host_key;
mod sshd;
mod use_of;
