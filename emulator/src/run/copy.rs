//! `cp.async`: copies that are in flight from issue to wait.

use super::block::Env;
use super::lane_access::{LaneBytes, Touched, lanes, where_true};
use super::registers::LANES;
use super::shared::Shared;
use super::simd::{Avx2, Work};
use super::step::{Access, addresses, count_loads, count_shared};
use super::warp::Warp;
use super::{global, lane_access};
use crate::program::CopyAsync;
use crate::race::Touch;
use crate::trap::Checked;

/// The copies of a warp that are in flight; groups are counted for each lane.
#[derive(Debug, Default)]
pub(super) struct Copies {
    #[allow(clippy::vec_box, reason = "a copy is as long as many a vector, and is taken out of the middle")]
    pending: Vec<Box<Pending>>,
    /// Copies that arrived, kept for what is issued next.
    #[allow(clippy::vec_box, reason = "as above")]
    arrived: Vec<Box<Pending>>,
    committed: [u32; LANES],
}

/// What lanes copy with one instruction.
#[derive(Debug, Clone, Default)]
struct Pending {
    mask: u32,
    /// Bytes that each lane copies.
    bytes: u64,
    /// The group's number among each lane's groups.
    group: u32,
    to: [u64; LANES],
    data: LaneBytes,
}

impl Copies {
    /// A copy to fill in, whose data is zero.
    #[inline(always)]
    fn fresh(&mut self, mask: u32, bytes: u64, to: [u64; LANES]) -> Box<Pending> {
        let mut copy = self.arrived.pop().unwrap_or_default();
        (copy.mask, copy.bytes, copy.to) = (mask, bytes, to);
        copy.data = [[0; 2]; LANES];
        copy
    }

    /// Notes a copy, by the groups of its lanes.
    #[inline(always)]
    fn issue(&mut self, mut copy: Box<Pending>) {
        while copy.mask != 0 {
            copy.group = self.committed[copy.mask.trailing_zeros() as usize];
            let others = copy.mask & !where_true(|lane| self.committed[lane] == copy.group);
            if others == 0 {
                return self.pending.push(copy);
            }
            let mut part = copy.clone();
            part.mask &= !others;
            copy.mask = others;
            self.pending.push(part);
        }
    }

    /// Closes the open group of each lane.
    pub fn commit(&mut self, mask: u32) {
        lanes(mask).for_each(|lane| self.committed[lane] += 1);
    }

    /// Lands the copies of `mask`'s lanes but those of the last `pending` groups; with `all`, every one.
    #[inline(always)]
    fn land(&mut self, pending: u32, all: bool, mask: u32, shared: &mut Shared, warp: u8) {
        let Self { pending: copies, arrived, committed } = self;
        arrived.extend(copies.extract_if(.., |copy| {
            let ended = where_true(|lane| all || copy.group + pending < committed[lane]);
            let landing = mask & copy.mask & ended;
            if landing != 0 {
                shared.land(&copy.to, landing, copy.bytes, &copy.data, warp);
            }
            copy.mask &= !landing;
            copy.mask == 0
        }));
    }
}

impl Work for Access<'_, '_, '_, CopyAsync> {
    type Output = Checked<()>;

    #[inline(always)]
    fn run(self, _: Option<Avx2>) -> Checked<()> {
        issue(self.warp, self.env, self.op, self.mask)
    }
}

/// Issues a copy: the source is read now, the data arrives at the wait.
#[inline(always)]
fn issue(warp: &mut Warp, env: &mut Env<'_, '_>, op: &CopyAsync, mask: u32) -> Checked<()> {
    warp.effects += 1;
    let to = addresses(&warp.registers, &op.to);
    let from = addresses(&warp.registers, &op.from);
    let sizes = source_sizes(warp, op);
    let whole = mask & where_true(|lane| sizes[lane] == op.bytes);
    let mut copy = warp.copies.fresh(mask, op.bytes, to);
    let data = &mut copy.data;
    if whole != 0 {
        *data = read(env, &from, whole, op.bytes)?;
    }
    for lane in lanes(mask & !whole).filter(|&lane| sizes[lane] > 0) {
        read_part(env, &from, lane, sizes[lane], op.bytes, data)?;
    }
    let touched = Touched::shared(&to, mask, op.bytes, &mut env.room)?;
    if let Some(lanes) = touched.conflict(data) {
        return Err(lane_access::write_conflict(&touched, lanes));
    }
    env.shared.issue(&touched, warp.number as u8)?;
    count_shared(&mut env.counters, &touched);
    env.counters.async_copy_bytes += u64::from(mask.count_ones()) * op.bytes;
    warp.copies.issue(copy);
    Ok(())
}

/// How many bytes each lane reads.
#[inline(always)]
fn source_sizes(warp: &Warp, op: &CopyAsync) -> [u64; LANES] {
    if let Some((row, negated)) = op.ignore {
        let ignored = if negated { !warp.registers.pred(row) } else { warp.registers.pred(row) };
        return std::array::from_fn(|lane| if ignored >> lane & 1 != 0 { 0 } else { op.bytes });
    }
    match op.source_bytes {
        Some(row) => {
            let mut sizes = [0; LANES];
            for (size, &bytes) in sizes.iter_mut().zip(warp.registers.word(row)) {
                *size = u64::from(bytes).min(op.bytes);
            }
            sizes
        }
        None => [op.bytes; LANES],
    }
}

#[inline(always)]
fn read(env: &mut Env<'_, '_>, from: &[u64; LANES], mask: u32, bytes: u64) -> Checked<LaneBytes> {
    let touched = Touched::new(from, mask, bytes, &mut env.room)?;
    let place = env.global.touch(&touched, Touch::Read)?;
    count_loads(&mut env.counters, &touched);
    Ok(global::load(&place, &touched))
}

/// One lane reads fewer bytes than it copies; the rest is zero.
fn read_part(
    env: &mut Env<'_, '_>,
    from: &[u64; LANES],
    lane: usize,
    bytes: u64,
    whole: u64,
    data: &mut LaneBytes,
) -> Checked<()> {
    let mask = 1 << lane;
    Touched::new(from, mask, whole, &mut env.room)?;
    for at in 0..bytes {
        let byte = from.map(|address| address.wrapping_add(at));
        let touched = Touched::new(&byte, mask, 1, &mut env.room)?;
        let place = env.global.touch(&touched, Touch::Read)?;
        data[lane][at as usize / 8] |= global::load(&place, &touched)[lane][0] << (8 * (at % 8));
    }
    env.counters.global_load_requests += 1;
    env.counters.global_load_bytes += bytes;
    env.counters.global_load_sectors += 1;
    Ok(())
}

/// Waits for groups of copies.
#[inline(always)]
pub(super) fn wait(warp: &mut Warp, env: &mut Env<'_, '_>, pending: u32, all: bool, mask: u32) {
    warp.copies.land(pending, all, mask, env.shared, warp.number as u8);
}
