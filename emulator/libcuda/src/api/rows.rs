//! Copies of rows that do not follow each other in memory.

use super::copy::{End, copy_now, copy_queued, end};
use crate::border::{Host, In};
use crate::machine::{Machine, within};
use crate::status::{Result, Status, invalid, unsupported};

/// Where one end's rows are; the layout is that of half a `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Side {
    x: usize,
    y: usize,
    kind: u32,
    host: usize,
    device: u64,
    array: u64,
    pitch: usize,
}

/// The layout of a `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    from: Side,
    to: Side,
    width: usize,
    height: usize,
}

/// Numbers of CUDA's `CUmemorytype`.
const HOST: u32 = 1;
const DEVICE: u32 = 2;
const UNIFIED: u32 = 4;

impl Side {
    fn row(&self, machine: &Machine, number: usize) -> Result<End> {
        let skip = self.y.wrapping_add(number).wrapping_mul(self.pitch).wrapping_add(self.x);
        let device = self.device.wrapping_add(skip as u64);
        match self.kind {
            HOST => Ok(End::Host(Host(if self.host == 0 { 0 } else { self.host.wrapping_add(skip) }))),
            DEVICE => Ok(End::Device(device)),
            UNIFIED => Ok(end(machine, device)),
            kind => unsupported(format!("copies of rows from or to memory of type {kind}")),
        }
    }
}

/// Copies row by row, now or when a stream gets there.
fn copy(machine: &mut Machine, context: u64, rows: In<Rows>, stream: Option<u64>) -> Result {
    let rows = rows.get()?;
    let fits = |side: &Side| rows.height <= 1 || side.x.saturating_add(rows.width) <= side.pitch;
    if !fits(&rows.from) || !fits(&rows.to) {
        return invalid(format!("rows of {} bytes do not fit their pitch", rows.width));
    }
    for number in 0..rows.height {
        let (to, from) = (rows.to.row(machine, number)?, rows.from.row(machine, number)?);
        match stream {
            None => copy_now(machine, context, to, from, rows.width)?,
            Some(stream) => copy_queued(machine, context, to, from, rows.width, stream)?,
        }
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy2D_v2(rows: In<Rows>) -> Status {
    within(|machine, context| copy(machine, context, rows, None))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy2DUnaligned_v2(rows: In<Rows>) -> Status {
    cuMemcpy2D_v2(rows)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy2DAsync_v2(rows: In<Rows>, stream: u64) -> Status {
    within(|machine, context| copy(machine, context, rows, Some(stream)))
}
