//! The `acre` binary.

fn main() {}
