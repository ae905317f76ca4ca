//! Stand-in for volumedriver: a FUSE mount over the SCO cache directory, with the ports and checks of the real one.

mod arguments;
mod backend;
mod checks;
mod config;
mod dtl;
mod edge;
mod errno;
mod members;
mod qemu_img;
mod registry;
mod remote;
mod start;
mod storage;
mod takeover;
mod tree;
mod volumes;
mod xmlrpc;

pub use dtl::{helper_main as dtl_helper_main, main as dtl_main};
pub use qemu_img::main as qemu_img_main;
pub use start::main;
