//! The `vicugna` binary.

fn main() {}
