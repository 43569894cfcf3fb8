//! What the lanes of a warp tell each other: `shfl`, `vote`, `match`, `redux`.

use super::atomic::updated;
use super::lane_access::lanes;
use super::registers::LANES;
use super::warp::Warp;
use crate::program::{Match, Reduce, Shuffle, ShuffleMode, Vote, VoteMode};
use crate::trap::{Checked, Fault, TrapKind};
use crate::types::{File, Type};

/// What a lane gets from one that does not take part.
const UNSPECIFIED: u32 = 0x7fff_ffff;

/// The lanes that the running lanes' masks name; each lane must be in its own.
pub(super) fn members(warp: &Warp, row: u16, name: &str) -> Checked<u32> {
    let masks = warp.registers.word(row);
    let mut all = 0;
    for lane in lanes(warp.active) {
        let mask = masks[lane];
        if mask >> lane & 1 == 0 {
            let detail = format!("executes {name} but is not in its mask {mask:#010x}");
            return Err(Fault::new(TrapKind::CollectiveMask, lane as u32, detail));
        }
        all |= mask;
    }
    Ok(all)
}

/// Calls `f` with each different mask and the running lanes that have it.
fn groups(warp: &Warp, row: u16) -> Vec<(u32, u32)> {
    let masks = *warp.registers.word(row);
    let mut groups: Vec<(u32, u32)> = Vec::new();
    for lane in lanes(warp.active) {
        match groups.iter_mut().find(|(mask, _)| *mask == masks[lane]) {
            Some((_, group)) => *group |= 1 << lane,
            None => groups.push((masks[lane], 1 << lane)),
        }
    }
    groups
}

pub(super) fn shuffle(warp: &mut Warp, op: &Shuffle) {
    let registers = &warp.registers;
    let (source, by, clamp) = (*registers.word(op.source), *registers.word(op.lane), *registers.word(op.clamp));
    let masks = *registers.word(op.mask);
    let (active, mut valid) = (warp.active, 0);
    let destination = warp.registers.word_mut(op.destination);
    for lane in lanes(active) {
        let (from, in_range) = shuffle_source(op.mode, lane as u32, by[lane], clamp[lane]);
        let takes_part = active & masks[lane] & 1 << from != 0;
        destination[lane] = if takes_part { source[from as usize] } else { UNSPECIFIED };
        valid |= u32::from(in_range) << lane;
    }
    warp.registers.set_pred(op.valid, valid, active);
}

/// The lane that `lane` reads, and whether it was in range; out of range, a lane reads itself.
fn shuffle_source(mode: ShuffleMode, lane: u32, by: u32, clamp: u32) -> (u32, bool) {
    let (by, segment, bound) = (by & 31, clamp >> 8 & 31, clamp & 31);
    let highest = lane & segment | bound & !segment;
    let (from, in_range) = match mode {
        ShuffleMode::Up => (lane.wrapping_sub(by), lane as i32 - by as i32 >= highest as i32),
        ShuffleMode::Down => (lane + by, lane + by <= highest),
        ShuffleMode::Butterfly => (lane ^ by, lane ^ by <= highest),
        ShuffleMode::Index => {
            let from = lane & segment | by & !segment;
            (from, from <= highest)
        }
    };
    if in_range { (from & 31, true) } else { (lane, false) }
}

pub(super) fn vote(warp: &mut Warp, op: &Vote) {
    let (row, negated) = op.source;
    let value = if negated { !warp.registers.pred(row) } else { warp.registers.pred(row) };
    for (_, group) in groups(warp, op.mask) {
        let held = value & group;
        let result = match op.mode {
            VoteMode::Ballot => {
                super::step::fill(&mut warp.registers, op.destination, held, group);
                continue;
            }
            VoteMode::All => held == group,
            VoteMode::Any => held != 0,
            VoteMode::Uniform => held == 0 || held == group,
        };
        warp.registers.set_pred(op.destination, if result { u32::MAX } else { 0 }, group);
    }
}

pub(super) fn find_equal(warp: &mut Warp, op: &Match) {
    let values: [u64; LANES] = match op.file {
        File::Wide => *warp.registers.wide(op.source),
        _ => warp.registers.word(op.source).map(u64::from),
    };
    for (_, group) in groups(warp, op.mask) {
        let equal_to = |lane: usize| {
            lanes(group).filter(|&other| values[other] == values[lane]).fold(0u32, |mask, other| mask | 1 << other)
        };
        let all = equal_to(group.trailing_zeros() as usize % LANES) == group;
        for lane in lanes(group) {
            let found = match (op.all, all) {
                (false, _) => equal_to(lane),
                (true, true) => group,
                (true, false) => 0,
            };
            warp.registers.word_mut(op.destination)[lane] = found;
        }
        warp.registers.set_pred(op.equal, if all { u32::MAX } else { 0 }, group);
    }
}

pub(super) fn reduce(warp: &mut Warp, op: &Reduce) {
    let ty = if op.signed { Type::S32 } else { Type::U32 };
    for (_, group) in groups(warp, op.mask) {
        let values = warp.registers.word(op.source);
        let total = lanes(group).map(|lane| u64::from(values[lane])).reduce(|a, b| updated(op.op, ty, a, b, 0));
        super::step::fill(&mut warp.registers, op.destination, total.unwrap_or(0) as u32, group);
    }
}
