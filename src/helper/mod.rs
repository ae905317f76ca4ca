//! The far side: a blocking program without async that checks and applies plans on the machine it runs on.

pub mod tree;
