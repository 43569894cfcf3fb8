//! Atomics: lanes one after the other, in the order of their numbers.

use super::block::Env;
use super::lane_access::{Touched, lanes};
use super::registers::{LANES, Registers};
use super::step::{addresses, by_space, count_shared};
use super::warp::Warp;
use crate::arith::half::{Bf16, Half, Small, both2};
use crate::program::{Atomic, AtomicOp};
use crate::race::Touch;
use crate::trap::{Checked, Fault, TrapKind};
use crate::types::{File, Space, Type};

/// Runs `atom` or `red`.
pub(super) fn run(warp: &mut Warp, env: &mut Env<'_, '_>, op: &Atomic, mask: u32) -> Checked<()> {
    warp.effects += 1;
    env.counters.atomics += u64::from(mask.count_ones());
    let addresses = addresses(&warp.registers, &op.address);
    if op.space != Space::Generic {
        return in_space(warp, env, op, op.space, &addresses, mask);
    }
    by_space(&addresses, mask, |space, addresses, mask| in_space(warp, env, op, space, addresses, mask))
}

fn in_space(
    warp: &mut Warp,
    env: &mut Env<'_, '_>,
    op: &Atomic,
    space: Space,
    addresses: &[u64; LANES],
    mask: u32,
) -> Checked<()> {
    let bytes = op.ty.bytes();
    let touched = Touched::new(addresses, mask, bytes, &mut env.room)?;
    match space {
        Space::Shared => {
            env.shared.touch(&touched, warp.number as u8, Touch::Atomic)?;
            count_shared(&mut env.counters, &touched);
            each_lane(&mut warp.registers, op, mask, |lane, update| {
                let before = env.shared.load(addresses[lane], bytes);
                env.shared.store(addresses[lane], bytes, update(before));
                before
            });
        }
        Space::Global | Space::Generic => {
            let place = env.global.touch(&touched, Touch::Atomic)?;
            each_lane(&mut warp.registers, op, mask, |lane, update| {
                let (allocation, offset) = place.lane(addresses[lane]);
                allocation.bytes.update(offset, bytes, update)
            });
        }
        _ => {
            let detail = format!("an atomic cannot go to .{space}");
            return Err(Fault::new(TrapKind::BadSpace, mask.trailing_zeros(), detail));
        }
    }
    Ok(())
}

/// Calls `apply(lane, update)` for each lane and keeps the value before where it is wanted.
fn each_lane(
    registers: &mut Registers,
    op: &Atomic,
    mask: u32,
    mut apply: impl FnMut(usize, &dyn Fn(u64) -> u64) -> u64,
) {
    for lane in lanes(mask) {
        let operand = value(registers, op.file, op.operand, lane);
        let swap = value(registers, op.file, op.swap, lane);
        let before = apply(lane, &|old| updated(op.op, op.ty, old, operand, swap));
        match (op.destination, op.file) {
            (Some(row), File::Wide) => registers.wide_mut(row)[lane] = before,
            (Some(row), _) => registers.word_mut(row)[lane] = before as u32,
            (None, _) => {}
        }
    }
}

fn value(registers: &Registers, file: File, row: u16, lane: usize) -> u64 {
    match file {
        File::Wide => registers.wide(row)[lane],
        _ => registers.word(row)[lane].into(),
    }
}

/// What an atomic makes of `old`.
pub(super) fn updated(op: AtomicOp, ty: Type, old: u64, operand: u64, swap: u64) -> u64 {
    match op {
        AtomicOp::Add => sum(ty, old, operand),
        AtomicOp::Min if less(ty, operand, old) => operand,
        AtomicOp::Max if less(ty, old, operand) => operand,
        AtomicOp::Min | AtomicOp::Max => old,
        AtomicOp::Inc if old >= operand => 0,
        AtomicOp::Inc => old + 1,
        AtomicOp::Dec if old == 0 || old > operand => operand,
        AtomicOp::Dec => old - 1,
        AtomicOp::And => old & operand,
        AtomicOp::Or => old | operand,
        AtomicOp::Xor => old ^ operand,
        AtomicOp::Exchange => operand,
        AtomicOp::CompareSwap if old == operand => swap,
        AtomicOp::CompareSwap => old,
    }
}

fn less(ty: Type, a: u64, b: u64) -> bool {
    match ty {
        Type::S32 => (a as i32) < b as i32,
        Type::S64 => (a as i64) < b as i64,
        _ => a < b,
    }
}

fn sum(ty: Type, a: u64, b: u64) -> u64 {
    fn small<T: Small>(a: T, b: T) -> T {
        T::of_f32(a.to_f32() + b.to_f32())
    }
    match ty {
        Type::F32 => {
            let sum = f32::from_bits(a as u32) + f32::from_bits(b as u32);
            crate::arith::float::output::<false, false>(sum).to_bits().into()
        }
        Type::F64 => (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
        Type::F16 => small(Half::from_bits(a as u16), Half::from_bits(b as u16)).bits().into(),
        Type::Bf16 => small(Bf16::from_bits(a as u16), Bf16::from_bits(b as u16)).bits().into(),
        Type::F16x2 => both2::<Half>(a as u32, b as u32, small).into(),
        Type::Bf16x2 => both2::<Bf16>(a as u32, b as u32, small).into(),
        Type::U64 | Type::S64 => a.wrapping_add(b),
        _ => (a as u32).wrapping_add(b as u32).into(),
    }
}
