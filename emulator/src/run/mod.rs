//! The machine: warps of 32 lanes in lockstep, blocks over threads.

mod atomic;
mod block;
mod collective;
mod copy;
mod dense;
mod global;
mod lane_access;
pub(crate) mod lanes;
pub(crate) mod launch;
mod local;
mod matrix;
pub(crate) mod mma;
pub(crate) mod raw;
pub(crate) mod registers;
mod shared;
pub(crate) mod simd;
mod step;
mod warp;
pub(crate) mod window;
