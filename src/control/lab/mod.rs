//! Bare containers: makes them run with our keys in place, and nothing more. Knows the Docker engine; does not know SSH,
//! recipes or what a container is for. Whatever does not carry the lab's label is never touched.

mod access;
mod address;
mod api;
mod down;
mod engine;
mod error;
#[cfg(test)]
mod example;
mod grant;
mod ground;
mod image;
mod names;
mod network;
mod output;
mod payload;
mod preflight;
mod reader;
mod rootfs;
mod routes;
mod sight;
mod spec;
mod status;
mod subnet;
mod up;

pub use down::DownEvent;
pub use engine::Engine;
pub use error::{EngineAnswer, LabError};
pub use grant::Grants;
pub use image::{DEFAULT_BASE, ImageProgress, ROOTFS_IMAGE, SSH_IMAGE, SYSTEMD_IMAGE};
pub use sight::{Sight, State, Survey};
pub use status::{ContainerStatus, Endpoint};
pub use up::{UpEvent, UpReport};
