//! Filling device memory with a value of 8, 16 or 32 bits.

use crate::machine::{Machine, within};
use crate::status::{Failure, Result, Status, invalid};

/// Rows that are filled: their number, the elements of each, and the bytes from one to the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows {
    pub start: u64,
    pub pitch: usize,
    pub width: usize,
    pub height: usize,
}

impl Rows {
    fn one(start: u64, width: usize) -> Self {
        Self { start, pitch: 0, width, height: 1 }
    }
}

pub(crate) fn fill(machine: &mut Machine, rows: Rows, pattern: &[u8]) -> Result {
    if !rows.start.is_multiple_of(pattern.len() as u64) || !rows.pitch.is_multiple_of(pattern.len()) {
        return invalid(format!("elements of {} bytes at {:#x}", pattern.len(), rows.start));
    }
    if rows.width == 0 {
        return Ok(());
    }
    let misplaced = |error: ptx_emulator::MemoryError| Failure::new(Status::INVALID_VALUE, error.to_string());
    for row in 0..rows.height as u64 {
        let start = rows.start.wrapping_add(row.wrapping_mul(rows.pitch as u64));
        machine.device.fill(start, pattern, rows.width as u64).map_err(misplaced)?;
    }
    Ok(())
}

fn queue<const N: usize>(rows: Rows, pattern: [u8; N], stream: u64) -> Status {
    within(|machine, context| machine.enqueue(context, stream, move |machine| fill(machine, rows, &pattern)))
}

macro_rules! fills {
    ($($ty:ty: $now:ident $queued:ident $rows_now:ident $rows_queued:ident;)+) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $now(start: u64, value: $ty, width: usize) -> Status {
            queue(Rows::one(start, width), value.to_le_bytes(), 0)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $queued(start: u64, value: $ty, width: usize, stream: u64) -> Status {
            queue(Rows::one(start, width), value.to_le_bytes(), stream)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $rows_now(start: u64, pitch: usize, value: $ty, width: usize, height: usize) -> Status {
            queue(Rows { start, pitch, width, height }, value.to_le_bytes(), 0)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $rows_queued(
            start: u64,
            pitch: usize,
            value: $ty,
            width: usize,
            height: usize,
            stream: u64,
        ) -> Status {
            queue(Rows { start, pitch, width, height }, value.to_le_bytes(), stream)
        }
    )+};
}

fills! {
    u8: cuMemsetD8_v2 cuMemsetD8Async cuMemsetD2D8_v2 cuMemsetD2D8Async;
    u16: cuMemsetD16_v2 cuMemsetD16Async cuMemsetD2D16_v2 cuMemsetD2D16Async;
    u32: cuMemsetD32_v2 cuMemsetD32Async cuMemsetD2D32_v2 cuMemsetD2D32Async;
}
