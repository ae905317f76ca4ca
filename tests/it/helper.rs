//! The helper on a real machine: a container, spoken to over its own protocol.

#[path = "helper/host.rs"]
mod host;
#[path = "helper/operations.rs"]
mod operations;
#[path = "helper/refusals.rs"]
mod refusals;
#[path = "helper/services.rs"]
mod services;
#[path = "helper/session.rs"]
mod session;
#[path = "helper/systemd.rs"]
mod systemd;
