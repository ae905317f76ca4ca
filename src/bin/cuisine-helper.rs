//! The far side's program: `cuisine-helper serve NONCE` speaks on standard input and output.

fn main() {}
