//! Who touched which byte: races between the warps of a block and between the blocks of a launch.

pub(crate) mod global;
mod reason;
pub(crate) mod shared;

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touch {
    Read,
    Write,
    /// Atomics and strong accesses, which do not race with one another.
    Atomic,
    /// `ld.global.nc`.
    ReadOnly,
}
