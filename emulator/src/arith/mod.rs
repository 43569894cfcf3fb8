//! What PTX's arithmetic computes on one lane: pure functions, bit-exact where the PTX ISA is.

pub(crate) mod approx;
pub(crate) mod float;
pub(crate) mod half;
pub(crate) mod int;
pub(crate) mod round;
