//! Global memory as one block sees it.

use super::dense::Block;
use super::lane_access::{LaneBytes, Run, Touched, lanes};
use super::launch::Launch;
use super::registers::LANES;
use crate::device::{Allocation, Device, find};
use crate::race::Touch;
use crate::race::global::{BlockShadow, Conflict, LINE, LaunchShadow, ones};
use crate::trap::{Checked, Fault, TrapKind};
use std::ops::Range;

/// Global memory, with the block's part of the races' shadow.
pub(super) struct Global<'l> {
    device: &'l Device,
    shadow: Option<BlockShadow<'l>>,
    poison: bool,
    read_only: &'l [Range<u64>],
    /// The allocations found last, by whether they were written.
    recent: [usize; 2],
}

/// Where an instruction's lanes point: one allocation for all, or looked up for each.
pub(super) struct Place<'l> {
    allocations: &'l [Allocation],
    common: Option<&'l Allocation>,
}

impl<'l> Place<'l> {
    /// The allocation of a lane and the offset in it; the address was checked.
    #[inline]
    pub fn lane(&self, address: u64) -> (&'l Allocation, u64) {
        let allocation = self.common.unwrap_or_else(|| {
            let after = self.allocations.partition_point(|allocation| allocation.base <= address);
            &self.allocations[after.saturating_sub(1)]
        });
        (allocation, address.wrapping_sub(allocation.base))
    }
}

impl<'l> Global<'l> {
    pub fn new(device: &'l Device, shadow: Option<&'l LaunchShadow>, launch: &Launch<'l>) -> Self {
        let poison = launch.checks.poison;
        Self { device, shadow: shadow.map(BlockShadow::new), poison, read_only: launch.read_only, recent: [0; 2] }
    }

    /// Another block starts.
    pub fn restart(&mut self) {
        if let Some(shadow) = &mut self.shadow {
            shadow.restart();
        }
    }

    /// Checks an instruction's accesses and notes them.
    #[inline]
    pub fn touch(&mut self, touched: &Touched<'_>, touch: Touch) -> Checked<Place<'l>> {
        let allocations = self.device.allocations();
        let mut common = None;
        let mut same = true;
        let by_lines = touched.ascending && touched.bytes >= 4;
        for runs in touched.runs.chunk_by(|a, b| by_lines && in_line(&Run { start: a.start, end: b.end })) {
            let all = Run { start: runs[0].start, end: runs[runs.len() - 1].end };
            let number = self.find(touched, &all, touch)?;
            same &= common.is_none_or(|common| common == number);
            common = Some(number);
            self.check(touched, runs, &all, number, touch)?;
        }
        let common = common.filter(|_| same).map(|number| &allocations[number]);
        Ok(Place { allocations, common })
    }

    /// As [`Self::touch`], for a store that takes part in races as an atomic does.
    pub fn touch_strong_store(&mut self, touched: &Touched<'_>) -> Checked<Place<'l>> {
        for run in touched.runs {
            let number = self.find(touched, run, Touch::Write)?;
            let allocation = &self.device.allocations()[number];
            allocation.mark_written(run.start - allocation.base, run.end - allocation.base);
        }
        self.touch(touched, Touch::Atomic)
    }

    /// The allocation that holds a whole run.
    #[inline]
    fn find(&mut self, touched: &Touched<'_>, run: &Run, touch: Touch) -> Checked<usize> {
        let inside = |allocation: &Allocation| run.start >= allocation.base && run.end <= allocation.end();
        let recent = &mut self.recent[usize::from(touch == Touch::Write)];
        if run.end < run.start || !self.device.allocations().get(*recent).is_some_and(inside) {
            let length = run.end.wrapping_sub(run.start);
            match find(self.device.allocations(), run.start, length) {
                Some(number) => *recent = number,
                None => return Err(self.outside(touched, run, touch)),
            }
        }
        Ok(*recent)
    }

    #[cold]
    fn outside(&self, touched: &Touched<'_>, run: &Run, touch: Touch) -> Box<Fault> {
        let bad = |&lane: &usize| {
            let address = touched.addresses[lane];
            let inside = address.wrapping_sub(run.start) < run.end.wrapping_sub(run.start);
            inside && find(self.device.allocations(), address, touched.bytes).is_none()
        };
        let lane = lanes(touched.mask).find(bad).unwrap_or(touched.lane_at(run.start) as usize);
        let (address, bytes) = (touched.addresses[lane], touched.bytes);
        let detail = match address {
            0..4096 => format!("{} {bytes} bytes at {address:#x}: a null pointer", verb(touch)),
            _ => format!("{} {bytes} bytes at {address:#x}, {}", verb(touch), self.device.around(address)),
        };
        Fault::new(TrapKind::OutOfBounds, lane as u32, detail)
    }

    /// Checks and notes runs of one allocation, one of them or some words of one line; `all` holds them.
    #[inline]
    fn check(&mut self, touched: &Touched<'_>, runs: &[Run], all: &Run, number: usize, touch: Touch) -> Checked<()> {
        let allocation = &self.device.allocations()[number];
        let (start, end) = (all.start - allocation.base, all.end - allocation.base);
        let offsets = runs.iter().map(|run| (run.start - allocation.base, run.end - allocation.base));
        if !self.read_only.is_empty() && (touch == Touch::Write || touch == Touch::Atomic) {
            runs.iter().try_for_each(|run| self.writable(touched, run))?;
        }
        let known = allocation.is_whole(start, end);
        if touch != Touch::Write
            && self.poison
            && !known
            && let Some(byte) = offsets.clone().find_map(|(start, end)| allocation.unwritten(start, end))
        {
            return Err(unwritten(touched, allocation, byte));
        }
        if let Some(shadow) = &mut self.shadow {
            let noted = if touched.bytes >= 4 && in_line(all) {
                shadow.touch_words(number, touch, start, words(runs))
            } else {
                shadow.touch(number, touch, start, end)
            };
            noted.map_err(|(conflict, byte)| race(touched, allocation, touch, conflict, byte))?;
        }
        if touch == Touch::Write && !known {
            offsets.for_each(|(start, end)| allocation.mark_written(start, end));
        }
        Ok(())
    }

    fn writable(&self, touched: &Touched<'_>, run: &Run) -> Checked<()> {
        let Some(range) = self.read_only.iter().find(|range| run.start < range.end && run.end > range.start) else {
            return Ok(());
        };
        let address = run.start.max(range.start);
        let detail = format!("writes {address:#x}, which is in a read-only buffer");
        Err(Fault::new(TrapKind::ReadOnly, touched.lane_at(address), detail))
    }
}

/// Whether a run lies in one line of the races' shadow; allocations start with a line.
#[inline]
fn in_line(run: &Run) -> bool {
    run.start / LINE == run.end.wrapping_sub(1) / LINE
}

/// The words of a line that runs touch, as bits.
#[inline]
fn words(runs: &[Run]) -> u64 {
    runs.iter().fold(0, |words, run| words | ones(run.start / 4, run.end / 4))
}

/// What an access does, for a sentence whose subject is the instruction.
fn verb(touch: Touch) -> &'static str {
    match touch {
        Touch::Read | Touch::ReadOnly => "reads",
        Touch::Write => "writes",
        Touch::Atomic => "atomically updates",
    }
}

#[cold]
fn unwritten(touched: &Touched<'_>, allocation: &Allocation, byte: u64) -> Box<Fault> {
    let address = allocation.base + byte;
    let (length, base) = (allocation.length, allocation.base);
    let detail = format!("reads {address:#x}, byte {byte} of the {length} bytes at {base:#x}, which nobody wrote");
    Fault::new(TrapKind::Uninitialized, touched.lane_at(address), detail)
}

#[cold]
fn race(touched: &Touched<'_>, allocation: &Allocation, touch: Touch, conflict: Conflict, byte: u64) -> Box<Fault> {
    let address = allocation.base + byte;
    let what = format!(
        "{} {address:#x}, byte {byte} of the {} bytes at {:#x}",
        verb(touch),
        allocation.length,
        allocation.base
    );
    let order = "blocks have no order: one that atomics and fences make is not modelled";
    let (kind, why) = match conflict {
        Conflict::Wrote => (TrapKind::GlobalRace, format!(", which another block wrote ({order})")),
        Conflict::Read => (TrapKind::GlobalRace, format!(", which another block read ({order})")),
        Conflict::Updated => (TrapKind::GlobalRace, format!(", which another block updated atomically ({order})")),
        Conflict::ReadOnly => (TrapKind::ReadOnly, ", which this launch reads with ld.global.nc".into()),
        Conflict::WroteReadOnly => (TrapKind::ReadOnly, " with ld.global.nc, but this launch wrote it".into()),
    };
    Fault::new(kind, touched.lane_at(address), what + &why)
}

/// Each lane's `bytes` bytes, up to 16.
#[inline]
pub(super) fn load(place: &Place<'_>, touched: &Touched<'_>) -> LaneBytes {
    macro_rules! each {
        ($from:ident, $offset:ident => $value:expr) => {{
            let mut out = [[0; 2]; LANES];
            match place.common {
                Some($from) => lanes(touched.mask).for_each(|lane| {
                    let $offset = touched.addresses[lane].wrapping_sub($from.base);
                    out[lane] = $value;
                }),
                None => lanes(touched.mask).for_each(|lane| {
                    let ($from, $offset) = place.lane(touched.addresses[lane]);
                    out[lane] = $value;
                }),
            }
            out
        }};
    }
    match touched.bytes {
        1 => each!(from, at => [from.bytes.load_u8(at).into(), 0]),
        2 => each!(from, at => [from.bytes.load_u16(at).into(), 0]),
        4 => each!(from, at => [from.bytes.load_u32(at).into(), 0]),
        8 => each!(from, at => [from.bytes.load_u64(at), 0]),
        _ => each!(from, at => [from.bytes.load_u64(at), from.bytes.load_u64(at + 8)]),
    }
}

/// Stores each lane's bytes.
#[inline]
pub(super) fn store(place: &Place<'_>, touched: &Touched<'_>, values: &LaneBytes) {
    macro_rules! each {
        ($to:ident, $offset:ident, $value:ident => $store:expr) => {
            match place.common {
                Some($to) => lanes(touched.mask).for_each(|lane| {
                    let ($offset, $value) = (touched.addresses[lane].wrapping_sub($to.base), values[lane]);
                    $store
                }),
                None => lanes(touched.mask).for_each(|lane| {
                    let ($to, $offset) = place.lane(touched.addresses[lane]);
                    let $value = values[lane];
                    $store
                }),
            }
        };
    }
    match touched.bytes {
        1 => each!(to, at, value => to.bytes.store_u8(at, value[0] as u8)),
        2 => each!(to, at, value => to.bytes.store_u16(at, value[0] as u16)),
        4 => each!(to, at, value => to.bytes.store_u32(at, value[0] as u32)),
        8 => each!(to, at, value => to.bytes.store_u64(at, value[0])),
        _ => each!(to, at, value => {
            to.bytes.store_u64(at, value[0]);
            to.bytes.store_u64(at + 8, value[1]);
        }),
    }
}

/// The bytes of a dense access; the place was checked.
#[inline]
pub(super) fn load_block<'b>(place: &Place<'_>, touched: &Touched<'_>, block: &'b mut Block) -> &'b [u8] {
    let (from, at) = place.lane(touched.addresses[0]);
    let block = &mut block[..LANES * touched.bytes as usize];
    from.bytes.read(at, block);
    block
}

/// Stores the bytes of a dense access; the place was checked.
#[inline]
pub(super) fn store_block(place: &Place<'_>, touched: &Touched<'_>, block: &Block) {
    let (to, at) = place.lane(touched.addresses[0]);
    to.bytes.write(at, &block[..LANES * touched.bytes as usize]);
}
