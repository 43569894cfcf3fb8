//! Who touched which byte: races between the warps of a block and between the blocks of a launch.

mod entries;
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

/// One access to shared memory, as the checks see it.
#[derive(Clone, Copy)]
pub(crate) struct Access {
    pub warp: u8,
    pub touch: Touch,
    /// Marks the bytes as a copy in flight.
    pub flight: bool,
}
