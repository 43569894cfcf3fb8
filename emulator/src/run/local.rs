//! Local memory: each thread's own.

use super::lane_access::{LaneBytes, lanes};
use super::registers::LANES;
use crate::trap::{Checked, Fault, TrapKind};

/// The local memory of a warp's threads.
#[derive(Debug, Default)]
pub(super) struct Local {
    bytes: u64,
    data: Vec<u8>,
    written: Vec<bool>,
}

impl Local {
    pub fn new(bytes: u64) -> Self {
        let all = bytes as usize * LANES;
        Self { bytes, data: vec![0xff; all], written: vec![false; all] }
    }

    /// Where each lane's bytes are; all must be inside, and written where they are `read`.
    pub fn check(&mut self, addresses: &[u64; LANES], mask: u32, bytes: u64, read: bool) -> Checked<()> {
        for lane in lanes(mask) {
            let (at, fault) = (addresses[lane], |kind, what: &str| Err(Fault::new(kind, lane as u32, what)));
            if at % bytes != 0 {
                return fault(TrapKind::Misaligned, &format!("local address {at:#x} is not a multiple of {bytes}"));
            }
            if at.checked_add(bytes).is_none_or(|end| end > self.bytes) {
                let text = format!("touches {bytes} bytes at local {at:#x}, but a thread has {} bytes", self.bytes);
                return fault(TrapKind::OutOfBounds, &text);
            }
            let range = self.at(lane, at)..self.at(lane, at) + bytes as usize;
            if !read {
                self.written[range].fill(true);
            } else if !self.written[range].iter().all(|&written| written) {
                return fault(TrapKind::Uninitialized, &format!("reads local {at:#x}, which nobody wrote"));
            }
        }
        Ok(())
    }

    fn at(&self, lane: usize, address: u64) -> usize {
        lane * self.bytes as usize + address as usize
    }

    /// Each lane's bytes, up to 16; the places were checked.
    pub fn load_lanes(&self, addresses: &[u64; LANES], mask: u32, bytes: u64) -> LaneBytes {
        let mut out = [[0; 2]; LANES];
        for lane in lanes(mask) {
            let (mut value, at) = ([0; 16], self.at(lane, addresses[lane]));
            value[..bytes as usize].copy_from_slice(&self.data[at..at + bytes as usize]);
            let value = u128::from_le_bytes(value);
            out[lane] = [value as u64, (value >> 64) as u64];
        }
        out
    }

    /// Stores each lane's bytes.
    pub fn store_lanes(&mut self, addresses: &[u64; LANES], mask: u32, bytes: u64, values: &LaneBytes) {
        for lane in lanes(mask) {
            let at = self.at(lane, addresses[lane]);
            let value = u128::from(values[lane][0]) | u128::from(values[lane][1]) << 64;
            self.data[at..at + bytes as usize].copy_from_slice(&value.to_le_bytes()[..bytes as usize]);
        }
    }
}
