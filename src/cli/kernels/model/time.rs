//! How long a launch takes, by what a GPU can do at most.
//!
//! A launch takes as long as the slowest of five things, each as if the others were free:
//!
//! - *memory*: the bytes that must come from or go to device memory, over its bandwidth: each buffer that is read once,
//!   all that is stored, and what is stored again and again once more, as it is read back
//! - *L2*: all bytes that threads ask for, over the L2's bandwidth to the multiprocessors
//! - *tensor cores*: operations over the peak of `mma.sync`
//! - *issue slots*: warp instructions over four a cycle and multiprocessor; a kernel with a main loop has as many to an
//!   `mma` as its machine code
//! - *latency*: what one block takes alone: a round trip to memory, one more for each load that is waited for alone, and
//!   the main loop's rounds at its static cycles; times the waves of blocks
//!
//! The middle three wait for the multiprocessor with the most blocks. A step is the sum over its launches, each
//! with a gap before it.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::budget::Budget;
use super::gpu::Gpu;
use crate::device::SampledLaunch;
use crate::error::{Error, Result};

/// Seconds from a kernel's end to the next one's first instruction: assumed.
pub(super) const GAP: f64 = 2e-6;

/// Equal launches of a step, and what each does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Work {
    pub kernel: String,
    /// How many there are.
    pub launches: u64,
    pub blocks: u64,
    /// Warps of a block.
    pub warps: u64,
    /// Bytes of the buffers that it only reads, and of those that it writes.
    pub input_bytes: f64,
    pub output_bytes: f64,
    /// Bytes that threads load and store.
    pub loaded_bytes: f64,
    pub stored_bytes: f64,
    /// Warp instructions of PTX; those of them that load global memory into registers.
    pub instructions: f64,
    pub loads: f64,
    /// Warp-wide `mma`, and their operations.
    pub mma: f64,
    pub mma_operations: f64,
}

impl Work {
    /// What a whole launch does whose sampled blocks did that.
    pub(super) fn new(launch: &SampledLaunch) -> Self {
        let counters = &launch.counters;
        let blocks = launch.grid.iter().map(|&axis| u64::from(axis)).product();
        let whole = |count: u64| count as f64 * blocks as f64 / counters.blocks as f64;
        Self {
            kernel: launch.kernel.clone(),
            launches: 1,
            blocks,
            warps: u64::from(launch.block.div_ceil(32)),
            input_bytes: launch.input_bytes as f64,
            output_bytes: launch.output_bytes as f64,
            loaded_bytes: whole(counters.global_load_bytes),
            stored_bytes: whole(counters.global_store_bytes),
            instructions: whole(counters.total_instructions()),
            loads: whole(counters.of(crate::device::Class::GlobalLoad)),
            mma: whole(counters.mma),
            mma_operations: whole(counters.mma_operations),
        }
    }

    fn memory_bytes(&self) -> f64 {
        let read_back = (self.stored_bytes - self.output_bytes).max(0.0);
        self.input_bytes.min(self.loaded_bytes) + self.stored_bytes + read_back
    }
}

/// What decides how long a launch takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Limit {
    Memory,
    #[serde(rename = "L2")]
    L2,
    #[serde(rename = "tensor cores")]
    TensorCores,
    #[serde(rename = "issue slots")]
    IssueSlots,
    Latency,
}

impl Limit {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::L2 => "L2",
            Self::TensorCores => "tensor cores",
            Self::IssueSlots => "issue slots",
            Self::Latency => "latency",
        }
    }
}

/// Seconds that one launch takes, and what decides.
fn launch_time(work: &Work, budget: &Budget, gpu: &Gpu) -> (f64, Limit) {
    let (blocks, sms) = (work.blocks as f64, gpu.multiprocessors as f64);
    let busiest = (blocks / sms).ceil() * sms / blocks;
    let resident = (budget.warps / work.warps).max(1) as f64;
    let waves = (blocks / (sms * resident)).ceil();
    let (instructions, cycles) = budget.main_loop.filter(|_| work.mma > 0.0).map_or((work.instructions, 0.0), |main| {
        let rounds = work.mma / main.mma;
        (rounds * main.instructions, rounds / (blocks * work.warps as f64) * main.cycles)
    });
    let alone = work.loads / (blocks * work.warps as f64) * budget.lone_loads;
    let times = [
        (work.memory_bytes() / gpu.memory, Limit::Memory),
        (busiest * (work.loaded_bytes + work.stored_bytes) / gpu.l2, Limit::L2),
        (busiest * work.mma_operations / gpu.mma, Limit::TensorCores),
        (busiest * instructions / (4.0 * sms * gpu.clock), Limit::IssueSlots),
        (waves * (gpu.round_trip * (1.0 + alone) + cycles) / gpu.clock, Limit::Latency),
    ];
    times.into_iter().max_by(|(a, _), (b, _)| a.total_cmp(b)).unwrap_or((f64::NAN, Limit::Latency))
}

/// The launches of one kernel in a step.
#[derive(Debug, Serialize)]
pub(super) struct KernelTime {
    pub kernel: String,
    pub launches: u64,
    pub seconds: f64,
    /// What decides in most of that time.
    pub limit: Limit,
}

/// Seconds of a step, gaps included.
pub(super) fn total(kernels: &[KernelTime]) -> f64 {
    kernels.iter().map(|kernel| kernel.seconds + GAP * kernel.launches as f64).sum()
}

/// The time of each kernel in a step, the longest first.
pub(super) fn kernel_times(step: &[Work], budgets: &HashMap<String, Budget>, gpu: &Gpu) -> Result<Vec<KernelTime>> {
    let mut parts: HashMap<&str, Vec<(f64, Limit, u64)>> = HashMap::new();
    for work in step {
        let unknown = || Error::input("kernels model", format!("docs/kernel-budget.md has no {}", work.kernel));
        let budget = budgets.get(&work.kernel).filter(|budget| budget.warps > 0).ok_or_else(unknown)?;
        let (seconds, limit) = launch_time(work, budget, gpu);
        parts.entry(&work.kernel).or_default().push((work.launches as f64 * seconds, limit, work.launches));
    }
    let of_kernel = |(kernel, parts): (&str, Vec<(f64, Limit, u64)>)| {
        let of = |limit: Limit| parts.iter().filter(|part| part.1 == limit).map(|part| part.0).sum::<f64>();
        let limit = parts.iter().map(|part| part.1).max_by(|a, b| of(*a).total_cmp(&of(*b)));
        KernelTime {
            kernel: kernel.into(),
            launches: parts.iter().map(|part| part.2).sum(),
            seconds: parts.iter().map(|part| part.0).sum(),
            limit: limit.unwrap_or(Limit::Latency),
        }
    };
    let mut kernels: Vec<KernelTime> = parts.into_iter().map(of_kernel).collect();
    kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then_with(|| a.kernel.cmp(&b.kernel)));
    Ok(kernels)
}
