//! Where each space lies in generic addresses.

use crate::types::Space;

/// Bytes of a window.
const SIZE: u64 = 1 << 40;
/// Shared memory's offset 0, as a generic address.
pub(crate) const SHARED: u64 = 1 << 56;
/// Local memory's offset 0.
pub(crate) const LOCAL: u64 = 2 << 56;
/// The parameter block's offset 0.
pub(crate) const PARAM: u64 = 3 << 56;

/// The space that a generic address lies in.
pub(crate) fn space(address: u64) -> Space {
    match address {
        _ if address.wrapping_sub(SHARED) < SIZE => Space::Shared,
        _ if address.wrapping_sub(LOCAL) < SIZE => Space::Local,
        _ if address.wrapping_sub(PARAM) < SIZE => Space::Param,
        _ => Space::Global,
    }
}

/// A generic address as an offset in `space`.
pub(crate) fn offset(address: u64, space: Space) -> u64 {
    match space {
        Space::Shared => address.wrapping_sub(SHARED),
        Space::Local => address.wrapping_sub(LOCAL),
        Space::Param => address.wrapping_sub(PARAM),
        _ => address,
    }
}
