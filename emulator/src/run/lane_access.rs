//! The addresses of a warp's lanes in one memory instruction, as contiguous runs, and what hardware would make of them.

use super::registers::LANES;
use crate::trap::{Checked, Fault, TrapKind};

/// Lanes in a mask, lowest first.
pub(super) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros() as usize;
        rest &= rest.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

/// The lanes where `f` holds.
#[inline(always)]
pub(super) fn where_true(f: impl Fn(usize) -> bool) -> u32 {
    (0..LANES).fold(0, |mask, lane| mask | u32::from(f(lane)) << lane)
}

/// Up to 16 bytes of each lane, as they lie in memory.
pub(super) type LaneBytes = [[u64; 2]; LANES];

/// Element `at` of `bytes` bytes.
#[inline(always)]
pub(super) fn element(lane: &[u64; 2], at: usize, bytes: u64) -> u64 {
    let bit = at as u32 * 8 * bytes as u32;
    lane[bit as usize / 64] >> (bit % 64) & (u64::MAX >> (64 - 8 * bytes))
}

/// Contiguous bytes that neighbouring lanes touch together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Run {
    pub start: u64,
    pub end: u64,
}

/// Where an instruction's runs are kept.
pub(super) type Room = [Run; LANES];

/// What one memory instruction touches.
pub(super) struct Touched<'a> {
    pub addresses: &'a [u64; LANES],
    pub mask: u32,
    /// Bytes of each lane.
    pub bytes: u64,
    /// Every lane of the warp, each just after the one before: one run.
    pub dense: bool,
    /// Each run lies after the one before, and no two lanes touch one byte.
    pub ascending: bool,
    pub runs: &'a [Run],
    /// Where each lane's 16 bytes start, where they are looked at alone and there are no runs.
    pub rows: &'a [u64],
}

impl<'a> Touched<'a> {
    /// Gathers the runs; an address that is not a multiple of `bytes` is a trap.
    #[inline(always)]
    pub fn new(addresses: &'a [u64; LANES], mask: u32, bytes: u64, room: &'a mut Room) -> Checked<Self> {
        let dense = dense(addresses, mask, bytes);
        let aligned = if dense { addresses[0].is_multiple_of(bytes) } else { aligned(addresses, mask, bytes) };
        if !aligned {
            return Err(misaligned(addresses, mask, bytes));
        }
        let (count, ascending) = if dense {
            room[0] = Run { start: addresses[0], end: addresses[0].wrapping_add(LANES as u64 * bytes) };
            (1, true)
        } else {
            gather(addresses, mask, bytes, room)
        };
        Ok(Self { addresses, mask, bytes, dense, ascending, runs: &room[..count], rows: &[] })
    }

    /// As [`Self::new`] for shared memory, where 16 bytes are looked at alone, however the runs hang together.
    #[inline(always)]
    pub fn shared(addresses: &'a [u64; LANES], mask: u32, bytes: u64, room: &'a mut Room) -> Checked<Self> {
        let first_lanes = mask & mask.wrapping_add(1) == 0;
        if bytes != 16 || !first_lanes || !aligned(addresses, mask, bytes) || dense(addresses, mask, bytes) {
            return Self::new(addresses, mask, bytes, room);
        }
        let rows = &addresses[..mask.trailing_ones() as usize];
        Ok(Self { addresses, mask, bytes, dense: false, ascending: false, runs: &[], rows })
    }

    /// The lane that touches `address`.
    pub fn lane_at(&self, address: u64) -> u32 {
        let found = lanes(self.mask).find(|&lane| address.wrapping_sub(self.addresses[lane]) < self.bytes);
        found.unwrap_or(0) as u32
    }

    /// Different 32-byte sectors.
    #[inline]
    pub fn sectors(&self) -> u64 {
        let (mut total, mut end, mut sorted) = (0, 0, true);
        for run in self.runs {
            let (first, last) = (run.start / 32, run.end.wrapping_sub(1) / 32 + 1);
            sorted &= end == 0 || first + 1 >= end;
            total += last.saturating_sub(first.max(end));
            end = last;
        }
        if sorted { total } else { self.sectors_unsorted() }
    }

    fn sectors_unsorted(&self) -> u64 {
        let mut runs = self.runs.to_vec();
        runs.sort_unstable_by_key(|run| run.start);
        let (mut total, mut end) = (0, 0);
        for run in runs {
            let (first, last) = (run.start / 32, run.end.wrapping_sub(1) / 32 + 1);
            total += last.saturating_sub(first.max(end));
            end = end.max(last);
        }
        total
    }

    /// Passes through the banks, and the fewest that accesses of this size take: lanes go in groups of 32, 16 or 8
    /// for up to 4, 8 or 16 bytes, and a group takes as many passes as one bank has different words in it.
    #[inline(always)]
    pub fn wavefronts(&self) -> (u64, u64) {
        let unit = self.bytes.max(4).trailing_zeros();
        let group = 128usize >> unit;
        if self.dense {
            let groups = (LANES / group) as u64;
            return (groups, groups);
        }
        let mut banks = [0u32; LANES];
        for lane in 0..LANES {
            let bank = (self.addresses[lane] >> unit) as u32 & (group as u32 - 1);
            banks[lane] = (self.mask >> lane & 1) << bank;
        }
        let (mut passes, mut least) = (0, 0);
        for first in (0..LANES).step_by(group) {
            let mask = self.mask & (u32::MAX >> (32 - group)) << first;
            if mask != 0 {
                let seen = banks[first..first + group].iter().fold(0, |seen, bank| seen | bank);
                let alone = seen.count_ones() == mask.count_ones();
                least += 1;
                passes += if alone { 1 } else { self.clashing_passes(mask, unit, group) };
            }
        }
        (passes, least)
    }

    fn clashing_passes(&self, mask: u32, unit: u32, banks: usize) -> u64 {
        let mut words = [0; LANES];
        let mut count = 0;
        for lane in lanes(mask) {
            words[count] = self.addresses[lane] >> unit;
            count += 1;
        }
        let words = &mut words[..count];
        words.sort_unstable();
        let mut in_bank = [0u64; LANES];
        for (at, &word) in words.iter().enumerate() {
            if at == 0 || words[at - 1] != word {
                in_bank[word as usize % banks] += 1;
            }
        }
        in_bank.iter().copied().max().unwrap_or(1).max(1)
    }

    /// Two lanes that write different values to one address.
    #[inline(always)]
    pub fn conflict(&self, values: &LaneBytes) -> Option<(u32, u32)> {
        if self.ascending {
            return None;
        }
        let mut places = 0u64;
        for lane in 0..LANES {
            let place = self.addresses[lane] >> self.bytes.trailing_zeros() & 63;
            places |= u64::from(self.mask >> lane & 1) << place;
        }
        if places.count_ones() == self.mask.count_ones() { None } else { self.find_conflict(values) }
    }

    fn find_conflict(&self, values: &LaneBytes) -> Option<(u32, u32)> {
        let mut order: Vec<usize> = lanes(self.mask).collect();
        order.sort_by_key(|&lane| self.addresses[lane]);
        let clash = order
            .windows(2)
            .find(|pair| self.addresses[pair[0]] == self.addresses[pair[1]] && values[pair[0]] != values[pair[1]])?;
        Some((clash[0].min(clash[1]) as u32, clash[0].max(clash[1]) as u32))
    }
}

#[inline(always)]
fn aligned(addresses: &[u64; LANES], mask: u32, bytes: u64) -> bool {
    if mask == u32::MAX {
        let mut low = [0; 4];
        for four in addresses.as_chunks::<4>().0 {
            for i in 0..4 {
                low[i] |= four[i];
            }
        }
        return low.iter().all(|low| low & (bytes - 1) == 0);
    }
    lanes(mask).all(|lane| addresses[lane] & (bytes - 1) == 0)
}

#[inline(always)]
fn dense(addresses: &[u64; LANES], mask: u32, bytes: u64) -> bool {
    if mask != u32::MAX {
        return false;
    }
    // Four lanes at once, that they share an instruction.
    let (mut off, mut expected) = ([0; 4], [0, 1, 2, 3].map(|lane| addresses[0].wrapping_add(lane * bytes)));
    for four in addresses.as_chunks::<4>().0 {
        for i in 0..4 {
            off[i] |= four[i] ^ expected[i];
            expected[i] = expected[i].wrapping_add(4 * bytes);
        }
    }
    off == [0; 4]
}

#[cold]
fn misaligned(addresses: &[u64; LANES], mask: u32, bytes: u64) -> Box<Fault> {
    let lane = lanes(mask).find(|&lane| !addresses[lane].is_multiple_of(bytes)).unwrap_or(0);
    let address = addresses[lane];
    let detail = format!("address {address:#x} is not a multiple of the {bytes} bytes of the access");
    Fault::new(TrapKind::Misaligned, lane as u32, detail)
}

/// Fills `room` with the runs; gives how many, and whether each lies after the one before.
#[inline(never)]
fn gather(addresses: &[u64; LANES], mask: u32, bytes: u64, room: &mut Room) -> (usize, bool) {
    let (mut count, mut ascending) = (0usize, true);
    for lane in lanes(mask) {
        let start = addresses[lane];
        let end = start.wrapping_add(bytes);
        if let Some(last) = count.checked_sub(1).map(|at| &mut room[at]) {
            ascending &= start >= last.end && end > start;
            if start >= last.start && end <= last.end && end > start {
                continue;
            }
            if start == last.end && end > start {
                last.end = end;
                continue;
            }
        }
        room[count] = Run { start, end };
        count += 1;
    }
    (count, ascending)
}

/// The trap for lanes that write different values to one address.
pub(super) fn write_conflict(touched: &Touched<'_>, (first, second): (u32, u32)) -> Box<Fault> {
    let address = touched.addresses[first as usize];
    let detail = format!("lanes {first} and {second} write different values to {address:#x} in one instruction");
    Fault::new(TrapKind::WriteConflict, second, detail)
}
