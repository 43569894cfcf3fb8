//! A launch: blocks over threads.

use super::block::Block;
use super::global::Global;
use super::shared::Shared;
use crate::counters::Counters;
use crate::device::{Device, MemoryError};
use crate::module::Kernel;
use crate::program::Constant;
use crate::race::global::{LaunchShadow, Spare};
use crate::run::registers::{LANES, Registers, Row};
use crate::trap::Trap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is checked beside bounds and alignment, which always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// Races between warps and between blocks, copies in flight, and writes to what `ld.global.nc` reads.
    pub races: bool,
    /// Reads of global memory that nobody wrote.
    pub poison: bool,
}

impl Default for Checks {
    fn default() -> Self {
        Self { races: true, poison: true }
    }
}

/// How a kernel is launched.
#[derive(Debug, Clone)]
pub struct Launch<'a> {
    /// Blocks of the grid.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u64,
    /// The parameter block, as [`Kernel::pack`] makes it.
    pub args: &'a [u8],
    /// 0 runs blocks and warps in order; any other number picks an order, the same each time.
    pub seed: u64,
    /// What is checked.
    pub checks: Checks,
    /// The most steps of the whole launch: a warp instruction is one, a warp's start 64.
    pub step_limit: u64,
    /// Threads of this machine that run blocks; 0 for one each core.
    pub threads: usize,
    /// Ranges of device memory that the kernel must not write.
    pub read_only: &'a [Range<u64>],
    /// The most blocks that run, spread evenly over the grid; 0 for all. A block sees the whole grid's numbers.
    pub sample: u64,
}

impl Default for Launch<'_> {
    fn default() -> Self {
        Self {
            grid: [1; 3],
            block: [1; 3],
            shared_bytes: 0,
            args: &[],
            seed: 0,
            checks: Checks::default(),
            step_limit: 1 << 36,
            threads: 0,
            read_only: &[],
            sample: 0,
        }
    }
}

/// Why a launch gave no result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The launch does not fit the kernel or the device.
    #[error("{kernel}: {detail}")]
    Refused {
        /// The kernel.
        kernel: String,
        /// What does not fit.
        detail: String,
    },
    /// No memory for the module's variables.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The kernel did what it must not.
    #[error(transparent)]
    Trap(Box<Trap>),
}

/// What every block of a launch shares.
pub(super) struct Context<'l> {
    pub kernel: &'l Kernel,
    pub launch: &'l Launch<'l>,
    pub device: &'l Device,
    pub shadow: Option<LaunchShadow>,
    /// The registers of a warp before its special registers are set.
    pub template: Registers,
    /// Bytes of a block's shared memory, static and dynamic.
    pub shared_bytes: u64,
    pub threads: u32,
    /// Warp instructions taken by all blocks, counted in batches.
    pub steps: AtomicU64,
}

impl Device {
    /// Runs a kernel to its end.
    ///
    /// # Errors
    /// [`LaunchError::Refused`] if the launch does not fit, [`LaunchError::Trap`] if the kernel does what it must not.
    /// Memory is then as the kernel left it.
    pub fn launch(&mut self, kernel: &Kernel, launch: &Launch<'_>) -> Result<Counters, LaunchError> {
        let refused = |detail| LaunchError::Refused { kernel: kernel.name().into(), detail };
        self.fits(kernel, launch).map_err(refused)?;
        let addresses = self.instantiate(&kernel.variables)?;
        let spare = if launch.checks.races { std::mem::take(&mut self.shadow_pages) } else { Spare::default() };
        let lengths = self.allocations().iter().map(|allocation| allocation.length);
        let context = Context {
            kernel,
            launch,
            device: self,
            shadow: launch.checks.races.then(|| LaunchShadow::new(lengths, spare)),
            template: template(kernel, &addresses),
            shared_bytes: shared_bytes(kernel, launch),
            threads: launch.block.iter().product(),
            steps: AtomicU64::new(0),
        };
        let mut counters = run_blocks(&context);
        if let Some(shadow) = context.shadow {
            if let Ok(counters) = &mut counters {
                counters.global_distinct_sectors = shadow.sectors();
            }
            self.shadow_pages = shadow.into_spare();
        }
        counters
    }

    fn fits(&self, kernel: &Kernel, launch: &Launch<'_>) -> Result<(), String> {
        let [x, y, z] = launch.grid;
        if x == 0 || y == 0 || z == 0 || x > i32::MAX as u32 || y > 65535 || z > 65535 {
            return Err(format!("a grid of ({x}, {y}, {z}) blocks is not possible"));
        }
        let [x, y, z] = launch.block;
        let threads = launch.block.iter().try_fold(1u32, |all, &axis| all.checked_mul(axis)).unwrap_or(0);
        if threads == 0 || threads > 1024 || x > 1024 || y > 1024 || z > 64 {
            return Err(format!("a block of ({x}, {y}, {z}) threads is not possible"));
        }
        if let Some(most) = kernel.max_threads().filter(|&most| u64::from(threads) > most) {
            return Err(format!("its .maxntid allows {most} threads in a block, got {threads}"));
        }
        if let Some(required) = kernel.required_block().filter(|required| *required != launch.block) {
            return Err(format!("its .reqntid demands a block of {required:?}, got {:?}", launch.block));
        }
        let (shared, limit) = (shared_bytes(kernel, launch), self.arch().shared_limit());
        if shared > limit {
            let arch = self.arch().compute_capability();
            return Err(format!("{shared} bytes of shared memory, but sm_{}{} allows {limit}", arch.0, arch.1));
        }
        if launch.args.len() as u64 != kernel.program.param_bytes {
            let (wanted, got) = (kernel.program.param_bytes, launch.args.len());
            return Err(format!("the parameter block must have {wanted} bytes, got {got}"));
        }
        if u64::from(threads).saturating_mul(kernel.local_bytes()) > 1 << 28 {
            return Err(format!("{} bytes of local memory for each thread are too many", kernel.local_bytes()));
        }
        Ok(())
    }
}

fn shared_bytes(kernel: &Kernel, launch: &Launch<'_>) -> u64 {
    match launch.shared_bytes {
        0 => kernel.shared_bytes(),
        dynamic => kernel.program.dynamic_start.saturating_add(dynamic),
    }
}

/// A warp's registers with the constants in place.
fn template(kernel: &Kernel, variables: &[u64]) -> Registers {
    let mut registers = Registers::new(kernel.program.files);
    for constant in &kernel.program.constants {
        match *constant {
            Constant::Word(row, bits) => registers.words[row as usize] = Row([bits; LANES]),
            Constant::Wide(row, bits) => registers.wides[row as usize] = Row([bits; LANES]),
            Constant::Pred(row, bit) => registers.preds[row as usize] = if bit { u32::MAX } else { 0 },
            Constant::Variable(row, number) => registers.wides[row as usize] = Row([variables[number as usize]; LANES]),
        }
    }
    registers
}

/// The first trap in the order of blocks, and the counts of those that ended.
struct Outcome {
    counters: Counters,
    trap: Option<(u64, Trap)>,
}

/// The most threads of this machine that one launch takes.
const MOST_THREADS: usize = 256;

fn run_blocks(context: &Context<'_>) -> Result<Counters, LaunchError> {
    let all: u64 = context.launch.grid.iter().map(|&axis| u64::from(axis)).product();
    let blocks = if context.launch.sample == 0 { all } else { context.launch.sample.min(all) };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if context.launch.threads == 0 { cores } else { context.launch.threads };
    let threads = threads.min(usize::try_from(blocks).unwrap_or(usize::MAX)).clamp(1, MOST_THREADS);
    let next = AtomicU64::new(0);
    let stop = AtomicU64::new(u64::MAX);
    let outcome = Mutex::new(Outcome { counters: Counters::default(), trap: None });
    let work = || {
        let ended = take_blocks(context, [blocks, all], &next, &stop);
        let mut outcome = outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        outcome.counters.add(&ended.counters);
        let earlier = |(at, _): &(u64, Trap)| outcome.trap.as_ref().is_none_or(|(other, _)| at < other);
        if let Some(trap) = ended.trap.filter(earlier) {
            outcome.trap = Some(trap);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let outcome = outcome.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    match outcome.trap {
        Some((_, trap)) => Err(LaunchError::Trap(Box::new(trap))),
        None => Ok(outcome.counters),
    }
}

/// Runs so many blocks of all until none is left, or one before them trapped.
fn take_blocks(context: &Context<'_>, [blocks, all]: [u64; 2], next: &AtomicU64, stop: &AtomicU64) -> Outcome {
    let mut outcome = Outcome { counters: Counters::default(), trap: None };
    let mut global = context.global();
    let warps = context.threads.div_ceil(32);
    let mut shared = Shared::new(context.shared_bytes, warps, context.launch.checks.races);
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        if at >= blocks || at > stop.load(Ordering::Relaxed) {
            return outcome;
        }
        let number = spread(permuted(at, blocks, context.launch.seed), blocks, all);
        global.restart();
        shared.restart();
        match Block::new(context, &mut global, &mut shared, number).run() {
            Ok(counters) => outcome.counters.add(&counters),
            Err(trap) => {
                stop.fetch_min(at, Ordering::Relaxed);
                outcome.trap = Some((at, trap));
                return outcome;
            }
        }
    }
}

/// The block that runs `at`-th: a permutation of the blocks that the seed picks.
fn permuted(at: u64, blocks: u64, seed: u64) -> u64 {
    if seed == 0 {
        return at;
    }
    // Steps of a length that shares no factor with the number of blocks reach each of them once.
    let start = mix(seed) % blocks;
    let mut step = mix(seed ^ 0x5bd1_e995) % blocks;
    while divisor(step, blocks) != 1 {
        step = (step + 1) % blocks;
    }
    ((u128::from(at) * u128::from(step) + u128::from(start)) % u128::from(blocks)) as u64
}

/// The number in the grid of the `at`-th of so many blocks: the middle of its stretch of all. Where that lies between two
/// blocks, by turns the one before and the one behind it: work that grows along the grid has its mean.
fn spread(at: u64, blocks: u64, all: u64) -> u64 {
    let [at, blocks, all] = [at, blocks, all].map(u128::from);
    let (middle, of) = ((2 * at + 1) * all - blocks, 2 * blocks);
    (if at.is_multiple_of(2) { middle / of } else { middle.div_ceil(of) }) as u64
}

fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

/// Spreads a number's bits (splitmix64).
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

impl<'l> Context<'l> {
    /// Global memory as one block sees it.
    pub fn global(&'l self) -> Global<'l> {
        Global::new(self.device, self.shadow.as_ref(), self.launch)
    }
}
