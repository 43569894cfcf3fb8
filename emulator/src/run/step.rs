//! The loop that executes a warp's instructions.

use super::block::{Arrival, Env};
use super::lane_access::{LaneBytes, Touched, element, lanes, write_conflict};
use super::registers::{LANES, Registers};
use super::simd::{self, Avx2, Work};
use super::warp::{Gathered, State, Warp};
use super::{atomic, collective, copy, dense, global, matrix, window};
use crate::counters::Counters;
use crate::program::{Address, Barrier, Guard, Inst, Load, Op, Order, Store, Switch};
use crate::race::Touch;
use crate::trap::{Checked, Fault, TrapKind};
use crate::types::{File, Space};

/// Why a warp stopped running.
pub(super) enum Pause {
    /// Its turn is over.
    Turn,
    Barrier(Arrival),
    Exit,
}

/// What comes after an instruction.
pub(super) enum Next {
    /// The instruction after it.
    Step,
    /// The place is set already.
    Set,
    Pause(Pause),
}

/// Runs a warp for as long as it has fuel.
#[inline(always)]
pub(super) fn run(warp: &mut Warp, env: &mut Env<'_, '_>) -> Checked<Pause> {
    let code = env.context.kernel.program.code.as_slice();
    while env.fuel > 0 {
        env.fuel -= 1;
        if warp.pc >= warp.next_ready {
            warp.reschedule();
        }
        let inst = &code[warp.pc as usize];
        let mask = match inst.guard {
            Guard::Always => warp.active,
            Guard::If(row) => warp.active & warp.registers.pred(row),
            Guard::Unless(row) => warp.active & !warp.registers.pred(row),
        };
        env.counters.instructions[inst.class as usize] += 1;
        env.counters.thread_instructions += u64::from(mask.count_ones());
        match &inst.op {
            Op::Alu(alu, rows) => {
                if mask != 0 {
                    alu.run(&mut warp.registers, rows, mask);
                }
                warp.pc += 1;
            }
            Op::Branch(target) => warp.jump(mask, *target),
            _ => match other(warp, env, inst, mask)? {
                Next::Step => warp.pc += 1,
                Next::Set => {}
                Next::Pause(pause) => return Ok(pause),
            },
        }
    }
    Ok(Pause::Turn)
}

/// Everything but arithmetic and branches.
fn other(warp: &mut Warp, env: &mut Env<'_, '_>, inst: &Inst, mask: u32) -> Checked<Next> {
    match &inst.op {
        Op::Exit => {
            warp.exit(mask);
            return Ok(if warp.state == State::Done { Next::Pause(Pause::Exit) } else { Next::Set });
        }
        Op::Switch(switch) => {
            jump_by_index(warp, switch, mask);
            return Ok(Next::Set);
        }
        _ if mask == 0 && warp.active != 0 => return Ok(Next::Step),
        Op::Trap => {
            return Err(Fault::new(TrapKind::TrapInstruction, mask.trailing_zeros(), "the kernel executed `trap`"));
        }
        Op::Nothing | Op::Alu(..) | Op::Branch(_) => {}
        Op::Load(op) => simd::work(Access { warp, env, op: &**op, mask })?,
        Op::Store(op) => simd::work(Access { warp, env, op: &**op, mask })?,
        Op::Atomic(op) => atomic::run(warp, env, op, mask)?,
        Op::CopyAsync(op) => simd::work(Access { warp, env, op: &**op, mask })?,
        Op::CopyCommit => warp.copies.commit(mask),
        Op::CopyWait { pending, all } => simd::run(|| copy::wait(warp, env, *pending, *all, mask)),
        Op::ActiveMask(row) => fill(&mut warp.registers, *row, mask, mask),
        _ => return together(warp, env, inst, mask),
    }
    Ok(Next::Step)
}

/// What lanes do together.
fn together(warp: &mut Warp, env: &mut Env<'_, '_>, inst: &Inst, mask: u32) -> Checked<Next> {
    warp.separate(mask);
    warp.absorb();
    let required = match &inst.op {
        Op::Shuffle(op) => collective::members(warp, op.mask, "shfl.sync")?,
        Op::Vote(op) => collective::members(warp, op.mask, "vote.sync")?,
        Op::Match(op) => collective::members(warp, op.mask, "match.sync")?,
        Op::Reduce(op) => collective::members(warp, op.mask, "redux.sync")?,
        Op::WarpSync(row) => collective::members(warp, *row, "bar.warp.sync")?,
        _ => u32::MAX,
    };
    match warp.gather(required) {
        Gathered::Here => {}
        Gathered::PassedBy => {
            let text = "lanes of the warp that it needs went past it and exited";
            return Err(Fault::new(divergence(inst), None, text));
        }
        Gathered::Parked => {
            env.counters.instructions[inst.class as usize] -= 1;
            env.counters.thread_instructions -= u64::from(mask.count_ones());
            return Ok(Next::Set);
        }
        Gathered::Never => return missing(warp, env, inst, required),
    }
    let active = warp.active;
    match &inst.op {
        Op::Shuffle(op) => collective::shuffle(warp, op),
        Op::Vote(op) => collective::vote(warp, op),
        Op::Match(op) => collective::find_equal(warp, op),
        Op::Reduce(op) => collective::reduce(warp, op),
        Op::LoadMatrix(op) => simd::work(Access { warp, env, op: &**op, mask: active })?,
        Op::Mma(op) => matrix::multiply(warp, env, op)?,
        Op::Barrier(op) => return barrier(warp, op, active).map(|arrival| Next::Pause(Pause::Barrier(arrival))),
        _ => {}
    }
    Ok(Next::Step)
}

/// Lanes that a collective needs do not come.
fn missing(warp: &mut Warp, env: &Env<'_, '_>, inst: &Inst, required: u32) -> Checked<Next> {
    let code = &env.context.kernel.program.code;
    let all_wait = |warp: &Warp| warp.parked_places().all(|pc| matches!(code[pc as usize].op, Op::WarpSync(_)));
    if matches!(inst.op, Op::WarpSync(_)) && all_wait(warp) {
        warp.release_parked();
        return Ok(Next::Step);
    }
    let (here, absent) = (warp.active, required & warp.live & !warp.active);
    let detail =
        format!("reached by lanes {here:#010x} alone: it needs lanes {absent:#010x} too, which wait elsewhere");
    Err(Fault::new(divergence(inst), absent.trailing_zeros(), detail))
}

/// What it is called when lanes that a collective needs are elsewhere.
fn divergence(inst: &Inst) -> TrapKind {
    match inst.op {
        Op::Barrier(_) => TrapKind::BarrierDivergence,
        Op::LoadMatrix(_) | Op::Mma(_) => TrapKind::WarpDivergence,
        _ => TrapKind::CollectiveMask,
    }
}

fn barrier(warp: &Warp, op: &Barrier, mask: u32) -> Checked<Arrival> {
    let lane = mask.trailing_zeros() as usize % LANES;
    let id = warp.registers.word(op.id)[lane];
    let threads = op.threads.map(|row| warp.registers.word(row)[lane]);
    if id > 15 || threads.is_some_and(|threads| threads == 0 || threads % 32 != 0 || threads > 1024) {
        let detail = format!("barrier {id} for {threads:?} threads is not possible");
        return Err(Fault::new(TrapKind::BarrierDivergence, None, detail));
    }
    let holds = op.reduce.map_or(0, |(_, _, (row, negated))| {
        let value = warp.registers.pred(row);
        if negated { !value } else { value }
    });
    Ok(Arrival { id, threads, aligned: op.aligned, waits: op.waits, holds })
}

fn jump_by_index(warp: &mut Warp, switch: &Switch, mask: u32) {
    let index = *warp.registers.word(switch.index);
    let next = warp.pc + 1;
    let stay = warp.active & !mask;
    for lane in lanes(mask) {
        // An index past the list is undefined; the last target stands in.
        let at = (index[lane] as usize).min(switch.targets.len() - 1);
        warp.make_ready(switch.targets[at], 1 << lane);
    }
    if stay != 0 {
        warp.make_ready(next, stay);
    }
    warp.active = 0;
    warp.reschedule();
}

/// The same value for the lanes of `mask`.
pub(super) fn fill(registers: &mut Registers, row: u16, value: u32, mask: u32) {
    let row = registers.word_mut(row);
    lanes(mask).for_each(|lane| row[lane] = value);
}

/// An access to memory, as [`Work`].
pub(super) struct Access<'a, 'l, 'w, T> {
    pub warp: &'a mut Warp,
    pub env: &'a mut Env<'l, 'w>,
    pub op: &'a T,
    pub mask: u32,
}

/// Each lane's address.
#[inline(always)]
pub(super) fn addresses(registers: &Registers, address: &Address) -> [u64; LANES] {
    let offset = address.offset as u64;
    let mut out = [offset; LANES];
    match address.base {
        None => {}
        Some((row, File::Wide)) => {
            let bases = registers.wide(row).as_chunks::<4>().0;
            for (out, bases) in out.as_chunks_mut::<4>().0.iter_mut().zip(bases) {
                for i in 0..4 {
                    out[i] = bases[i].wrapping_add(offset);
                }
            }
        }
        Some((row, _)) => {
            for (out, base) in out.iter_mut().zip(registers.word(row)) {
                *out = base.wrapping_add(offset as u32).into();
            }
        }
    }
    out
}

/// Calls `f` with the lanes of each space that generic addresses point to, and their offsets in it.
pub(super) fn by_space(
    addresses: &[u64; LANES],
    mask: u32,
    mut f: impl FnMut(Space, &[u64; LANES], u32) -> Checked<()>,
) -> Checked<()> {
    for space in [Space::Global, Space::Shared, Space::Local, Space::Param] {
        let inside = |&lane: &usize| window::space(addresses[lane]) == space;
        let part = lanes(mask).filter(inside).fold(0, |part, lane| part | 1 << lane);
        if part != 0 {
            f(space, &addresses.map(|address| window::offset(address, space)), part)?;
        }
    }
    Ok(())
}

impl Work for Access<'_, '_, '_, Load> {
    type Output = Checked<()>;

    #[inline(always)]
    fn run(self, _: Option<Avx2>) -> Checked<()> {
        let Self { warp, env, op, mask } = self;
        warp.effects += 1;
        let addresses = addresses(&warp.registers, &op.address);
        if op.space != Space::Generic {
            return load_from(warp, env, op, op.space, &addresses, mask);
        }
        by_space(&addresses, mask, |space, addresses, mask| load_from(warp, env, op, space, addresses, mask))
    }
}

#[inline(always)]
fn load_from(
    warp: &mut Warp,
    env: &mut Env<'_, '_>,
    op: &Load,
    space: Space,
    addresses: &[u64; LANES],
    mask: u32,
) -> Checked<()> {
    let total = op.bytes * op.count as u64;
    match space {
        Space::Param => {
            let args = env.context.launch.args;
            let mut values = [[0; 2]; LANES];
            for lane in lanes(mask) {
                let found = param(args, addresses[lane], total);
                values[lane] = found.ok_or_else(|| {
                    let detail = format!("reads past the {} bytes of parameters", args.len());
                    Fault::new(TrapKind::OutOfBounds, lane as u32, detail)
                })?;
            }
            put(&mut warp.registers, op, mask, &values);
        }
        Space::Local => {
            warp.local.check(addresses, mask, total, true)?;
            let values = warp.local.load_lanes(addresses, mask, total);
            put(&mut warp.registers, op, mask, &values);
        }
        Space::Shared => {
            let touched = Touched::shared(addresses, mask, total, &mut env.room)?;
            env.shared.touch(&touched, warp.number as u8, Touch::Read)?;
            count_shared(&mut env.counters, &touched);
            if touched.dense {
                dense::put(&mut warp.registers, op, env.shared.block(&touched));
            } else {
                put(&mut warp.registers, op, mask, &env.shared.load_lanes(&touched));
            }
        }
        Space::Global | Space::Const | Space::Generic => {
            let touched = Touched::new(addresses, mask, total, &mut env.room)?;
            let touch = match op.order {
                Order::Plain => Touch::Read,
                Order::ReadOnly => Touch::ReadOnly,
                Order::Strong => Touch::Atomic,
            };
            let place = env.global.touch(&touched, touch)?;
            count_loads(&mut env.counters, &touched);
            if touched.dense {
                dense::put(&mut warp.registers, op, global::load_block(&place, &touched, &mut env.block));
            } else {
                put(&mut warp.registers, op, mask, &global::load(&place, &touched));
            }
        }
    }
    Ok(())
}

/// Up to 16 bytes of the parameter block.
fn param(args: &[u8], at: u64, bytes: u64) -> Option<[u64; 2]> {
    let end = at.checked_add(bytes)?;
    let found = args.get(usize::try_from(at).ok()?..usize::try_from(end).ok()?)?;
    let mut value = [0; 16];
    value[..found.len()].copy_from_slice(found);
    let value = u128::from_le_bytes(value);
    Some([value as u64, (value >> 64) as u64])
}

/// Counts a warp's load of global memory.
#[inline]
pub(super) fn count_loads(counters: &mut Counters, touched: &Touched<'_>) {
    counters.global_load_requests += 1;
    counters.global_load_bytes += u64::from(touched.mask.count_ones()) * touched.bytes;
    counters.global_load_sectors += touched.sectors();
}

/// Counts a warp's access to shared memory.
#[inline(always)]
pub(super) fn count_shared(counters: &mut Counters, touched: &Touched<'_>) {
    let (passes, least) = touched.wavefronts();
    counters.shared_bytes += u64::from(touched.mask.count_ones()) * touched.bytes;
    counters.shared_wavefronts += passes;
    counters.shared_excess_wavefronts += passes - least;
}

/// Fills a load's destinations.
#[inline]
fn put(registers: &mut Registers, op: &Load, mask: u32, values: &LaneBytes) {
    for at in 0..op.count {
        let mut elements = [0; LANES];
        for (to, lane) in elements.iter_mut().zip(values) {
            *to = element(lane, at, op.bytes);
        }
        put_one(registers, op, at, mask, &elements);
    }
}

#[inline]
fn put_one(registers: &mut Registers, op: &Load, element: usize, mask: u32, values: &[u64; LANES]) {
    let widen = |value: u64| op.extend.apply(value, 8 * op.bytes as u32);
    if op.file == File::Wide {
        let row = registers.wide_mut(op.rows[element]);
        for lane in 0..LANES {
            row[lane] = if mask >> lane & 1 != 0 { widen(values[lane]) } else { row[lane] };
        }
    } else {
        let row = registers.word_mut(op.rows[element]);
        for lane in 0..LANES {
            row[lane] = if mask >> lane & 1 != 0 { widen(values[lane]) as u32 } else { row[lane] };
        }
    }
}

impl Work for Access<'_, '_, '_, Store> {
    type Output = Checked<()>;

    #[inline(always)]
    fn run(self, _: Option<Avx2>) -> Checked<()> {
        let Self { warp, env, op, mask } = self;
        warp.effects += 1;
        let addresses = addresses(&warp.registers, &op.address);
        if op.space != Space::Generic {
            return store_to(warp, env, op, op.space, &addresses, mask);
        }
        by_space(&addresses, mask, |space, addresses, mask| store_to(warp, env, op, space, addresses, mask))
    }
}

/// What each lane stores, as it will lie in memory.
#[inline]
fn stored(registers: &Registers, op: &Store) -> LaneBytes {
    let mut values = [[0; 2]; LANES];
    for at in 0..op.count {
        let bit = at as u32 * 8 * op.bytes as u32;
        let (half, shift) = (bit as usize / 64, bit % 64);
        let kept = u64::MAX >> (64 - 8 * op.bytes);
        for lane in 0..LANES {
            let value = match op.file {
                File::Wide => registers.wide(op.rows[at])[lane],
                _ => registers.word(op.rows[at])[lane].into(),
            };
            values[lane][half] |= (value & kept) << shift;
        }
    }
    values
}

#[inline(always)]
fn store_to(
    warp: &mut Warp,
    env: &mut Env<'_, '_>,
    op: &Store,
    space: Space,
    addresses: &[u64; LANES],
    mask: u32,
) -> Checked<()> {
    let total = op.bytes * op.count as u64;
    if space == Space::Local {
        warp.local.check(addresses, mask, total, false)?;
        warp.local.store_lanes(addresses, mask, total, &stored(&warp.registers, op));
        return Ok(());
    }
    let touched = match space {
        Space::Shared => Touched::shared(addresses, mask, total, &mut env.room)?,
        _ => Touched::new(addresses, mask, total, &mut env.room)?,
    };
    let values = if touched.dense { None } else { Some(stored(&warp.registers, op)) };
    if let Some(lanes) = values.as_ref().and_then(|values| touched.conflict(values)) {
        return Err(write_conflict(&touched, lanes));
    }
    match space {
        Space::Shared => {
            env.shared.touch(&touched, warp.number as u8, Touch::Write)?;
            count_shared(&mut env.counters, &touched);
            match &values {
                Some(values) => env.shared.store_lanes(&touched, values),
                None => dense::take(&warp.registers, op, env.shared.block(&touched)),
            }
        }
        Space::Global | Space::Generic => {
            let place = match op.order {
                Order::Strong => env.global.touch_strong_store(&touched)?,
                _ => env.global.touch(&touched, Touch::Write)?,
            };
            count_stores(&mut env.counters, &touched);
            match &values {
                Some(values) => global::store(&place, &touched, values),
                None => {
                    dense::take(&warp.registers, op, &mut env.block);
                    global::store_block(&place, &touched, &env.block);
                }
            }
        }
        _ => {
            let detail = format!("a store cannot go to .{space}");
            return Err(Fault::new(TrapKind::BadSpace, mask.trailing_zeros(), detail));
        }
    }
    Ok(())
}

#[inline]
fn count_stores(counters: &mut Counters, touched: &Touched<'_>) {
    counters.global_store_requests += 1;
    counters.global_store_bytes += u64::from(touched.mask.count_ones()) * touched.bytes;
    counters.global_store_sectors += touched.sectors();
}
