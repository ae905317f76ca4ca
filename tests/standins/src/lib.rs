//! Programs that stand in for the parts of Open vStorage that cannot be had: arakoon, alba, volumedriver.
//!
//! They take the same arguments, read the same configuration and fail in the same way as the real ones; the README
//! beside this package says what they check and what they cannot show.

mod alba;
mod arakoon;
mod config_url;
mod end;
mod ini;
mod limits;
mod lines;
mod log;
mod signals;
mod volumedriver;

pub use alba::main as alba_main;
pub use arakoon::main as arakoon_main;
pub use volumedriver::{dtl_helper_main, dtl_main, main as volumedriver_main, qemu_img_main};
