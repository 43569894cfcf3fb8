//! How long a training step would take on a GPU, by what its kernels do and what the GPU can: a model, nothing is timed.

mod budget;
mod gpu;
mod step;
mod time;

use serde_json::{Value, json};

use super::synthetic::{ModelShape, adapter};
use crate::cli::report::Report;
use crate::error::{Error, Result};
use crate::io::adapter::Modules;
use gpu::{GPUS, Gpu};
use step::{Launches, Step};
use time::{GAP, KernelTime, kernel_times, total};

/// What `cuda/build.sh` read from the kernels' machine code.
const BUDGET: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/kernel-budget.md"));
/// Tokens of a sequence.
const LENGTH: usize = 2048;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The GPUs: h100, h200, a100, 4090
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_values = ["h100"])]
    gpu: Vec<String>,
    /// The shape of the model
    #[arg(long, value_enum, default_value = "llama-3-8b")]
    shape: ModelShape,
    /// Tokens of a step, in sequences of 2048
    #[arg(long, default_value_t = 8192, value_parser = clap::value_parser!(u64).range(1..=1 << 16))]
    tokens: u64,
    /// Layers with an adapter of rank 8 and dropout 0.05, or all-linear
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_values = ["q_proj", "v_proj"])]
    target_modules: Vec<String>,
    /// Run each block again for its gradient
    #[arg(long)]
    activation_checkpointing: bool,
}

pub(super) fn run(args: &Args, report: &Report) -> Result<()> {
    let gpus = args.gpu.iter().map(|name| find(name)).collect::<Result<Vec<_>>>()?;
    let Launches { work, peak_bytes } = args.step().launches()?;
    let times = gpus.iter().map(|gpu| kernel_times(&work, &budget::budgets(BUDGET, gpu.architecture), gpu));
    let times: Vec<(&Gpu, Vec<KernelTime>)> = gpus.iter().copied().zip(times.collect::<Result<Vec<_>>>()?).collect();
    let json = json!({
        "is_a_model": true,
        "tokens": args.tokens,
        "peak_bytes": peak_bytes,
        "gpus": times.iter().map(|(gpu, kernels)| gpu_json(gpu, kernels, args.tokens)).collect::<Vec<_>>(),
        "work": work,
    });
    report.result(&json, || {
        let pages: Vec<String> = times.iter().map(|(gpu, kernels)| page(gpu, kernels, args, peak_bytes)).collect();
        pages.join("\n\n")
    })
}

fn find(name: &str) -> Result<&'static Gpu> {
    let names = || GPUS.iter().map(|gpu| gpu.name).collect::<Vec<_>>().join(", ");
    let unknown =
        || Error::input("--gpu", format!("{name:?} is not known")).with_hint(format!("there are {}", names()));
    GPUS.iter().find(|gpu| gpu.name == name.trim()).ok_or_else(unknown)
}

impl Args {
    fn step(&self) -> Step {
        let target_modules = match &self.target_modules[..] {
            [all] if all == "all-linear" => Modules::Pattern(all.clone()),
            names => Modules::Names(names.to_vec()),
        };
        let tokens = self.tokens as usize;
        Step {
            model: self.shape.config(),
            adapter: adapter(target_modules),
            lengths: (0..tokens).step_by(LENGTH).map(|first| (tokens - first).min(LENGTH)).collect(),
            activation_checkpointing: self.activation_checkpointing,
        }
    }
}

fn gpu_json(gpu: &Gpu, kernels: &[KernelTime], tokens: u64) -> Value {
    let seconds = total(kernels);
    json!({
        "gpu": gpu,
        "gap_seconds": GAP,
        "milliseconds": 1e3 * seconds,
        "tokens_per_second": tokens as f64 / seconds,
        "launches": kernels.iter().map(|kernel| kernel.launches).sum::<u64>(),
        "kernels": kernels,
    })
}

/// The model's result for people.
fn page(gpu: &Gpu, kernels: &[KernelTime], args: &Args, peak_bytes: usize) -> String {
    let Gpu { name, multiprocessors, clock, memory, l2, mma, round_trip, .. } = gpu;
    let (seconds, tokens) = (total(kernels), args.tokens);
    let (milliseconds, rate) = (1e3 * seconds, tokens as f64 / seconds);
    let launches: u64 = kernels.iter().map(|kernel| kernel.launches).sum();
    let mut lines = vec![
        format!("{name}: a step of {tokens} tokens takes {milliseconds:.0} ms, {rate:.0} tokens/s, at most {:.1} GiB;", peak_bytes as f64 / f64::from(1 << 30)),
        "a model, nothing was timed: each launch takes as long as the slowest of memory, L2, tensor cores, issue slots and latency".into(),
        format!(
            "assumed: {multiprocessors} multiprocessors at {:.3} GHz, memory {:.2} TB/s, L2 {:.2} TB/s, mma.sync {:.0} TFLOP/s, {round_trip:.0} cycles to memory and back, {:.0} us between two kernels",
            clock / 1e9, memory / 1e12, l2 / 1e12, mma / 1e12, GAP * 1e6
        ),
        format!("{:<30}{:>9}{:>10}{:>7}  decided by", "kernel", "launches", "ms", "share"),
    ];
    lines.extend(kernels.iter().map(|kernel| {
        let KernelTime { kernel, launches, seconds: of, limit } = kernel;
        format!("{kernel:<30}{launches:>9}{:>10.2}{:>6.1}%  {}", 1e3 * of, 100.0 * of / seconds, limit.name())
    }));
    let gaps = GAP * launches as f64;
    lines.push(format!("{:<30}{launches:>9}{:>10.2}{:>6.1}%", "gaps", 1e3 * gaps, 100.0 * gaps / seconds));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::budget::{Budget, MainLoop, budgets};
    use super::*;
    use time::Work;

    /// A step of Llama-3-8B, adapters on q and v, 4 x 2048 tokens, with the kernels of 087f43a: what `--json` gave, and
    /// their rows of the budget. They stay as they are.
    fn before() -> (Vec<Work>, HashMap<String, Budget>) {
        let work = serde_json::from_str(include_str!("before/work.json")).unwrap();
        (work, budgets(include_str!("before/budget.md"), "sm_90"))
    }

    fn milliseconds(work: &[Work], budgets: &HashMap<String, Budget>) -> f64 {
        1e3 * total(&kernel_times(work, budgets, &GPUS[0]).unwrap())
    }

    /// Tiles of 128 x 256, made by eight warps: half the blocks, three quarters of the bytes.
    fn wider(work: &mut [Work]) {
        for work in work.iter_mut().filter(|work| work.kernel.ends_with("_bf16_128")) {
            (work.blocks, work.warps) = (work.blocks.div_ceil(2), 8);
            work.loaded_bytes *= 0.75;
        }
    }

    /// Addresses that are not computed anew in each round.
    fn hoisted(budgets: &mut HashMap<String, Budget>) {
        for (_, budget) in budgets.iter_mut().filter(|(name, _)| name.ends_with("_bf16_128")) {
            budget.main_loop = Some(MainLoop { instructions: 156.0, mma: 64.0, cycles: 433.0 });
        }
    }

    /// No load of attention's backward is waited for alone.
    fn batched(budgets: &mut HashMap<String, Budget>) {
        budgets.get_mut("attention_bwd_d128_bf16").unwrap().lone_loads = 0.0;
    }

    /// Twice the keys to a block of attention's backward: half the slices' bytes.
    fn fewer_slices(work: &mut [Work]) {
        for work in work.iter_mut().filter(|work| work.kernel == "attention_bwd_d128_bf16") {
            (work.output_bytes, work.stored_bytes) = (work.output_bytes / 2.0, work.stored_bytes / 2.0);
        }
    }

    /// Masks that are drawn where their rows are read.
    fn fused(work: &mut Vec<Work>) {
        work.retain(|work| work.kernel != "dropout_bf16");
    }

    /// By hand: 572 + 43 ms of products at 400 TFLOP/s, 118 of attention, 45 of norms and the like, 24 of the rest.
    #[test]
    fn the_step_before_takes_what_was_worked_out_by_hand() {
        let (work, budgets) = before();
        let found = milliseconds(&work, &budgets);
        assert!((721.8..=882.2).contains(&found), "{found} ms, not 802 within a tenth");
    }

    #[test]
    fn all_changes_together_give_the_step_that_is_wanted() {
        let (mut work, mut budgets) = before();
        wider(&mut work);
        fewer_slices(&mut work);
        fused(&mut work);
        hoisted(&mut budgets);
        batched(&mut budgets);
        let found = milliseconds(&work, &budgets);
        assert!(found <= 600.0, "{found} ms");
    }

    /// Each change alone, where what it removes decides.
    #[test]
    fn each_cause_has_its_effect() {
        let (work, budgets) = before();
        let all = milliseconds(&work, &budgets);
        let (mut wide, mut narrow_loop) = (work.clone(), budgets.clone());
        wider(&mut wide);
        hoisted(&mut narrow_loop);
        let only_wide = milliseconds(&wide, &budgets);
        assert!(only_wide < all - 50.0, "wider tiles: {only_wide} of {all} ms");
        let both = milliseconds(&wide, &narrow_loop);
        assert!(both < only_wide - 20.0, "fewer instructions and no wait for them: {both} of {only_wide} ms");
        let mut no_lone = budgets.clone();
        batched(&mut no_lone);
        let batched = milliseconds(&work, &no_lone);
        assert!(batched < all - 40.0, "batched loads: {batched} of {all} ms");
        let mut few = work.clone();
        fewer_slices(&mut few);
        let fewer = milliseconds(&few, &no_lone);
        assert!(fewer < batched - 5.0, "half the slices: {fewer} of {batched} ms");
        let mut without = work.clone();
        fused(&mut without);
        let fused = milliseconds(&without, &budgets);
        assert!(fused < all - 5.0, "no kernel for dropout: {fused} of {all} ms");
    }

    #[test]
    fn a_kernel_without_budget_is_an_error() {
        let (work, mut budgets) = before();
        budgets.remove("rope_bf16");
        let error = kernel_times(&work, &budgets, &GPUS[0]).unwrap_err();
        assert_eq!(error.to_string(), "kernels model: docs/kernel-budget.md has no rope_bf16");
    }

    #[test]
    fn every_gpu_has_its_column() {
        for gpu in GPUS {
            let budget = budgets(BUDGET, gpu.architecture)["adamw"];
            assert!(budget.warps > 0, "{}", gpu.name);
        }
    }
}
