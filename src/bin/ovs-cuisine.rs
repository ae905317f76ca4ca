//! The near side's program.

fn main() {}
