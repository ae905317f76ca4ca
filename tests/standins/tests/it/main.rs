//! The stand-ins, run as programs: clusters on loopback, an object's way through alba, a file system over FUSE.

mod alba;
mod arakoon;
mod stage;
mod volumedriver;
