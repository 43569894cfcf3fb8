//! A block: its warps, its barriers, its shared memory.

use super::dense;
use super::global::Global;
use super::lane_access::Room;
use super::launch::{Context, mix};
use super::local::Local;
use super::registers::{LANES, Registers};
use super::shared::Shared;
use super::step::{self, Pause};
use super::warp::{State, Warp};
use crate::counters::Counters;
use crate::program::{BarrierReduce, Op, Relation, Special};
use crate::trap::{Checked, Fault, Trap, TrapKind};
use std::sync::atomic::Ordering;

/// What the warps of a block share.
pub(super) struct Env<'l, 'w> {
    pub context: &'l Context<'l>,
    pub shared: &'w mut Shared,
    pub global: &'w mut Global<'l>,
    pub counters: Counters,
    pub room: Room,
    pub block: dense::Block,
    /// Instructions that the running warp may still execute in its turn.
    pub fuel: u32,
}

/// A warp's arrival at a barrier.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub id: u32,
    /// Threads that the barrier waits for; all of the block without it.
    pub threads: Option<u32>,
    pub aligned: bool,
    pub waits: bool,
    /// The lanes where a reducing barrier's predicate holds.
    pub holds: u32,
}

/// A barrier that some warps have reached.
#[derive(Debug, Default)]
struct Barrier {
    /// Warps and the times of their arrival.
    arrived: Vec<(u8, u32)>,
    waiting: u32,
    threads: Option<u32>,
    /// Where the first warp waits, of a barrier that every warp of the block must reach at one place.
    place: Option<u32>,
    holds: u32,
    lacks: u32,
}

pub(super) struct Block<'l, 'w> {
    env: Env<'l, 'w>,
    index: [u32; 3],
    warps: Vec<Warp>,
    barriers: [Barrier; 16],
    random: u64,
    /// Steps not yet counted against the limit.
    spent: u64,
}

/// What the start of a warp counts against the step limit, so that grids without end have one.
const STEPS_OF_A_START: u64 = 64;

/// Steps between looks at the step limit.
const BATCH: u32 = 1 << 14;

/// Steps of a warp's turn: few, so that the warps of a block go through memory side by side.
const TURN: u32 = 256;

impl<'l, 'w> Block<'l, 'w> {
    pub fn new(context: &'l Context<'l>, global: &'w mut Global<'l>, shared: &'w mut Shared, number: u64) -> Self {
        let [x, y, _] = context.launch.grid.map(u64::from);
        let index = [number % x, number / x % y, number / x / y].map(|axis| axis as u32);
        let env = Env {
            context,
            shared,
            global,
            counters: Counters::default(),
            room: Room::default(),
            block: [0; 16 * LANES],
            fuel: 0,
        };
        let warps = (0..context.threads.div_ceil(32)).map(|warp| start_warp(context, index, warp)).collect();
        Self {
            env,
            index,
            warps,
            barriers: Default::default(),
            random: mix(context.launch.seed ^ number.rotate_left(32)),
            spent: 0,
        }
    }

    /// Runs all warps to their end.
    pub fn run(mut self) -> Result<Counters, Trap> {
        self.env.counters.blocks = 1;
        self.env.counters.warps = self.warps.len() as u64;
        self.spent = STEPS_OF_A_START * self.warps.len() as u64;
        let mut last = self.warps.len() - 1;
        while let Some(warp) = self.pick(last) {
            last = warp;
            self.turn(warp).map_err(|fault| self.trap(warp, *fault))?;
        }
        if let Some(warp) = self.warps.iter().position(|warp| warp.state == State::Waiting) {
            return Err(self.trap(warp, self.deadlock()));
        }
        self.limit().map_err(|fault| self.trap(last, *fault))?;
        Ok(self.env.counters)
    }

    fn deadlock(&self) -> Fault {
        let waiting = self.warps.iter().filter(|warp| warp.state == State::Waiting);
        let list: Vec<String> = waiting
            .map(|warp| {
                let line = self.env.context.kernel.program.places[warp.pc as usize].line;
                format!("warp {} at line {line}", warp.number)
            })
            .collect();
        let detail = format!("no warp can go on: {} wait at barriers that the others never reach", list.join(", "));
        Fault { kind: TrapKind::BarrierDivergence, lane: None, detail }
    }

    fn trap(&self, warp: usize, fault: Fault) -> Trap {
        let kernel = self.env.context.kernel;
        let places = &kernel.program.places;
        let place = &places[(self.warps[warp].pc as usize).min(places.len() - 1)];
        fault.at(kernel.name(), place, self.index, warp as u32)
    }

    /// The warp that runs next: the one after `last`, or any where the schedule has a seed.
    fn pick(&mut self, last: usize) -> Option<usize> {
        let count = self.warps.len();
        let ready = |warp: &usize| self.warps[*warp].state == State::Ready;
        if self.env.context.launch.seed == 0 {
            return (last..last + count).map(|warp| warp % count).find(ready);
        }
        self.random = mix(self.random);
        let start = (self.random % count as u64) as usize;
        (start..start + count).map(|warp| warp % count).find(ready)
    }

    /// Runs a warp until it waits, exits or its turn ends.
    fn turn(&mut self, number: usize) -> Checked<()> {
        let budget = match self.env.context.launch.seed {
            0 => TURN,
            _ => 1 + (self.random >> 32) as u32 % 128,
        };
        self.env.fuel = budget;
        let warp = &mut self.warps[number];
        let pause = super::simd::run(|| step::run(warp, &mut self.env))?;
        self.spent += u64::from(budget - self.env.fuel);
        if self.spent >= u64::from(BATCH) {
            self.limit()?;
        }
        match pause {
            Pause::Turn => Ok(()),
            Pause::Barrier(arrival) => self.arrive(number, arrival),
            Pause::Exit => (0..self.barriers.len()).try_for_each(|id| self.complete(id)),
        }
    }

    fn limit(&mut self) -> Checked<()> {
        let context = self.env.context;
        let steps = std::mem::take(&mut self.spent);
        let total = context.steps.fetch_add(steps, Ordering::Relaxed) + steps;
        if total <= context.launch.step_limit {
            return Ok(());
        }
        let detail = format!(
            "the launch took more than its limit of {} steps (a loop that waits for another block never ends: blocks have no order here)",
            context.launch.step_limit
        );
        Err(Fault::new(TrapKind::StepLimit, None, detail))
    }

    fn arrive(&mut self, number: usize, arrival: Arrival) -> Checked<()> {
        let time = match &mut self.env.shared.shadow {
            Some(shadow) if !arrival.waits => shadow.pass(),
            _ => 0,
        };
        let warp = &mut self.warps[number];
        let barrier = &mut self.barriers[arrival.id as usize];
        if !barrier.arrived.is_empty() && barrier.threads != arrival.threads {
            let detail = format!("barrier {} is waited for with different numbers of threads", arrival.id);
            return Err(Fault::new(TrapKind::BarrierDivergence, None, detail));
        }
        let place = (arrival.aligned && arrival.threads.is_none()).then_some(warp.pc);
        if let (Some(other), Some(here), false) = (barrier.place, place, barrier.arrived.is_empty())
            && other != here
        {
            let line = self.env.context.kernel.program.places[other as usize].line;
            let detail = format!("warps of one block wait at different barriers: another waits at line {line}");
            return Err(Fault::new(TrapKind::BarrierDivergence, None, detail));
        }
        barrier.place = place;
        barrier.threads = arrival.threads;
        barrier.arrived.push((number as u8, time));
        barrier.holds += (arrival.holds & warp.live).count_ones();
        barrier.lacks += (!arrival.holds & warp.live).count_ones();
        if arrival.waits {
            barrier.waiting |= 1 << number;
            warp.state = State::Waiting;
        } else {
            warp.pc += 1;
        }
        self.complete(arrival.id as usize)
    }

    /// Lets the warps at a barrier go on if it has all it waits for.
    fn complete(&mut self, id: usize) -> Checked<()> {
        let live = self.warps.iter().filter(|warp| warp.state != State::Done).count();
        let barrier = &self.barriers[id];
        let expected = barrier.threads.map_or(live, |threads| threads.div_ceil(32) as usize);
        if barrier.arrived.is_empty() || barrier.arrived.len() < expected {
            return Ok(());
        }
        let mut barrier = std::mem::take(&mut self.barriers[id]);
        if let Some(shadow) = &mut self.env.shared.shadow {
            shadow.complete(barrier.waiting, &barrier.arrived);
        }
        self.env.counters.barriers += 1;
        for warp in self.warps.iter_mut().filter(|warp| barrier.waiting >> warp.number & 1 != 0) {
            release(warp, &barrier, &self.env.context.kernel.program.code[warp.pc as usize].op);
        }
        barrier.arrived.clear();
        self.barriers[id].arrived = barrier.arrived;
        Ok(())
    }
}

/// A warp leaves a barrier, with the barrier's result.
fn release(warp: &mut Warp, barrier: &Barrier, op: &Op) {
    warp.state = State::Ready;
    warp.pc += 1;
    let Op::Barrier(op) = op else { return };
    let Some((reduce, row, _)) = op.reduce else { return };
    let held = match reduce {
        BarrierReduce::Count => {
            let lanes = warp.registers.word_mut(row);
            for (lane, value) in lanes.iter_mut().enumerate() {
                *value = if warp.active >> lane & 1 != 0 { barrier.holds } else { *value };
            }
            return;
        }
        BarrierReduce::And => barrier.lacks == 0,
        BarrierReduce::Or => barrier.holds > 0,
    };
    warp.registers.set_pred(row, if held { u32::MAX } else { 0 }, warp.active);
}

/// A warp with its special registers set.
fn start_warp(context: &Context<'_>, index: [u32; 3], number: u32) -> Warp {
    let mut registers = context.template.clone();
    for &(row, special) in &context.kernel.program.specials {
        set_special(&mut registers, row, special, context, index, number);
    }
    let lanes = (context.threads - 32 * number).min(32);
    let local = Local::new(context.kernel.local_bytes());
    Warp::new(number, u32::MAX >> (32 - lanes), registers, local)
}

fn set_special(
    registers: &mut Registers,
    row: u16,
    special: Special,
    context: &Context<'_>,
    index: [u32; 3],
    warp: u32,
) {
    let launch = context.launch;
    let [x, y, _] = launch.block;
    let thread = |lane: usize| 32 * warp + lane as u32;
    let value = |lane: usize| match special {
        Special::Tid(0) => thread(lane) % x,
        Special::Tid(1) => thread(lane) / x % y,
        Special::Tid(_) => thread(lane) / x / y,
        Special::Ntid(axis) => launch.block[axis as usize],
        Special::Ctaid(axis) => index[axis as usize],
        Special::Nctaid(axis) => launch.grid[axis as usize],
        Special::LaneId => lane as u32,
        Special::WarpId => warp,
        Special::WarpCount => context.threads.div_ceil(32),
        Special::LaneMask(relation) => lane_mask(relation, lane),
        Special::DynamicShared => launch.shared_bytes as u32,
        Special::TotalShared => context.shared_bytes as u32,
    };
    let lanes: [u32; LANES] = std::array::from_fn(value);
    *registers.word_mut(row) = lanes;
}

fn lane_mask(relation: Relation, lane: usize) -> u32 {
    let equal = 1u32 << lane;
    match relation {
        Relation::Equal => equal,
        Relation::Less => equal - 1,
        Relation::LessEqual => equal | (equal - 1),
        Relation::Greater => !(equal | (equal - 1)),
        Relation::GreaterEqual => !(equal - 1),
    }
}
