//! A training step of a Llama whose weights are random: whole, as one CUDA graph, and its launches one by one.
//!
//! A layer's weights are uniform with a variance of one over its inputs, made on the device by [`super::random`]: the
//! same rows of a matrix again and again. A norm's are ones. So activations keep their size, and nothing else of the
//! weights matters to a time. What is trained is a LoRA of rank 8 with dropout 0.05, as `vicugna finetune` does by
//! default: on the query and value projections, then on all seven linear layers of a block.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use clap::ValueEnum;
use serde::Serialize;

use super::super::synthetic::{adapter, train};
use super::{Args, Lines, noise, random};
use crate::autograd::Tensor;
use crate::cli::report::Report;
use crate::device::{Cuda, Device, Graphs, Timed};
use crate::dtype::DType;
use crate::error::Result;
use crate::io::adapter::Modules;
use crate::io::model::attach_new_adapter;
use crate::models::llama::{Llama, LlamaConfig};
use crate::nn::{Batch, Plain, Sequence};
use crate::ops::elementwise::cast;
use crate::optim::{AdamW, AdamWOptions};
use crate::shape::Shape;

/// Tokens of a sequence, at most.
const LONGEST: usize = 2048;
/// Whole steps, of which the fastest counts.
const REPEATS: usize = 3;

/// How long a step took in one way of running it.
#[derive(Serialize)]
struct StepTime {
    /// The layers with an adapter.
    targets: String,
    /// `launches`: as they come; `graph`: as one; `singly`: the sum of launches, each kind repeated and waited for.
    mode: &'static str,
    milliseconds: f64,
    tokens_per_second: f64,
    /// The loss of the last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<f64>,
    /// The most that tensors held.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_device_bytes: Option<usize>,
    /// The slowest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kernels: Vec<KernelTime>,
}

/// All launches of one kernel in a step.
#[derive(Serialize)]
struct KernelTime {
    kernel: String,
    launches: usize,
    milliseconds: f64,
}

/// What is asked for.
struct Work {
    config: LlamaConfig,
    dtype: DType,
    tokens: usize,
}

/// Times a step on `cuda` with an adapter on two layers of a block, then on all seven.
pub(super) fn run(args: &Args, cuda: &Cuda, mut lines: Lines, report: &Report) -> Result<()> {
    let dtype = args.dtype.map_or(DType::Bf16, DType::from);
    let work = Work { config: args.shape.config(), dtype, tokens: args.rows as usize };
    let shape = args.shape.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default();
    let head = serde_json::json!({
        "device": cuda.name(), "shape": shape, "dtype": dtype.to_string(), "tokens": work.tokens,
    });
    lines.write(&head)?;
    let mut steps = Vec::new();
    let mut found = |step: StepTime| lines.write(&step).map(|()| steps.push(step));
    let layers = ["q_proj", "v_proj"].map(String::from).to_vec();
    for target_modules in [Modules::Names(layers), Modules::Pattern("all-linear".into())] {
        work.whole(cuda, &target_modules, report, &mut found)?;
        found(work.singly(cuda, &target_modules)?)?;
    }
    let mut json = head;
    json["steps"] = serde_json::json!(steps);
    report.result(&json, || text(&shape, &work, &steps))
}

impl Work {
    /// Whole steps: launch after launch, then as CUDA graphs where there are any.
    fn whole(
        &self,
        cuda: &Cuda,
        target_modules: &Modules,
        report: &Report,
        found: &mut impl FnMut(StepTime) -> Result<()>,
    ) -> Result<()> {
        let device = Device::new(cuda.shared_driver());
        let mut trainer = Trainer::new(self, &device, target_modules)?;
        found(self.fastest(&mut trainer, target_modules, "launches", 1)?)?;
        if let Some(note) = device.use_graphs() {
            report.note(note);
            return Ok(());
        }
        trainer.graphs = Graphs::new(&device);
        // The first time kernels run one by one, the second time the graph is made.
        found(self.fastest(&mut trainer, target_modules, "graph", 2)?)
    }

    /// The fastest of several steps, after `before` others.
    fn fastest(&self, trainer: &mut Trainer, targets: &Modules, mode: &'static str, before: usize) -> Result<StepTime> {
        let (mut seconds, mut loss) = (f64::INFINITY, f64::NAN);
        for number in 0..before + REPEATS {
            let start = Instant::now();
            loss = trainer.step()?;
            if number >= before {
                seconds = seconds.min(start.elapsed().as_secs_f64());
            }
        }
        let peak_device_bytes = trainer.device.peak_bytes();
        Ok(StepTime { loss: Some(loss), peak_device_bytes, ..self.time(targets, mode, seconds) })
    }

    /// The launches of a step, each alone.
    fn singly(&self, cuda: &Cuda, targets: &Modules) -> Result<StepTime> {
        let timed = Arc::new(Timed::new(cuda));
        let mut trainer = Trainer::new(self, &Device::new(timed.clone()), targets)?;
        timed.take_times();
        trainer.step()?;
        let mut kernels: BTreeMap<String, KernelTime> = BTreeMap::new();
        for launch in timed.take_times() {
            let none = || KernelTime { kernel: launch.kernel.clone(), launches: 0, milliseconds: 0.0 };
            let sum = kernels.entry(launch.kernel.clone()).or_insert_with(none);
            sum.launches += 1;
            sum.milliseconds += 1e3 * launch.seconds;
        }
        let mut kernels: Vec<KernelTime> = kernels.into_values().collect();
        kernels.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
        let seconds = kernels.iter().map(|kernel| kernel.milliseconds / 1e3).sum();
        Ok(StepTime { kernels, ..self.time(targets, "singly", seconds) })
    }

    fn time(&self, targets: &Modules, mode: &'static str, seconds: f64) -> StepTime {
        let targets = match targets {
            Modules::Names(names) => names.join(","),
            Modules::Pattern(pattern) => pattern.clone(),
        };
        let (milliseconds, tokens_per_second) = (1e3 * seconds, self.tokens as f64 / seconds);
        let (loss, peak_device_bytes, kernels) = Default::default();
        StepTime { targets, mode, milliseconds, tokens_per_second, loss, peak_device_bytes, kernels }
    }

    /// Sequences of random tokens, all of which count.
    fn sequences(&self) -> Vec<Sequence> {
        let ids: Vec<u32> = (0..self.tokens as u32).map(|i| noise(i) % self.config.vocab_size as u32).collect();
        let sequence = |ids: &[u32]| Sequence {
            input_ids: ids.to_vec(),
            labels: ids.iter().map(|&id| id.cast_signed()).collect(),
        };
        ids.chunks(LONGEST).map(sequence).collect()
    }
}

/// A model that makes steps, each as a training run does.
struct Trainer {
    device: Device,
    model: Llama,
    sequences: Vec<Sequence>,
    optimizer: AdamW,
    graphs: Graphs,
    steps: u64,
}

impl Trainer {
    fn new(work: &Work, device: &Device, target_modules: &Modules) -> Result<Self> {
        let mut seed = 0;
        let model = Llama::new(work.config.clone(), work.dtype, &mut |name: &str, shape| {
            seed += 1;
            weight(device, work.dtype, name, shape, seed)
        })?;
        attach_new_adapter(&model, &adapter(target_modules.clone()), 42)?;
        let optimizer = AdamW::new(AdamWOptions { learning_rate: 1e-4, ..AdamWOptions::default() });
        let (device, graphs) = (device.clone(), Graphs::new(device));
        Ok(Self { device, model, sequences: work.sequences(), optimizer, graphs, steps: 0 })
    }

    /// Makes a step and waits for it; the loss.
    fn step(&mut self) -> Result<f64> {
        let Self { device, model, sequences, optimizer, graphs, steps } = self;
        let (loss, norm) =
            graphs.run((), || train(model, &Batch::new(&*sequences, device)?, optimizer, *steps, &Plain))?;
        *steps += 1;
        norm.read()?;
        Ok(loss.to_vec::<f32>()?.first().map_or(f64::NAN, |&loss| loss.into()))
    }
}

/// The weight of that name.
fn weight(device: &Device, dtype: DType, name: &str, shape: Shape, seed: u32) -> Result<Tensor> {
    if name.contains("norm") {
        let ones = Tensor::from_slice(&Device::Cpu, shape, &vec![1f32; shape.numel()])?;
        return cast(&ones, dtype)?.to_device(device);
    }
    // A uniform variable's variance is its width squared over 12.
    random(device, dtype, shape, (12.0 / shape.last() as f32).sqrt(), seed)
}

fn text(shape: &str, work: &Work, steps: &[StepTime]) -> String {
    let Work { dtype, tokens, .. } = work;
    let mut lines = vec![
        format!("{shape}, {dtype}, LoRA of rank 8 with dropout 0.05, {tokens} tokens"),
        "targets          mode                ms   tokens/s      loss".into(),
    ];
    for StepTime { targets, mode, milliseconds, tokens_per_second, loss, kernels, .. } in steps {
        let loss = loss.map(|loss| format!("{loss:.4}")).unwrap_or_default();
        lines.push(format!("{targets:<17}{mode:<9}{milliseconds:>13.2}{tokens_per_second:>11.0}{loss:>10}"));
        let of_kernel = |KernelTime { kernel, launches, milliseconds }: &KernelTime| {
            format!("  {kernel:<30}{milliseconds:>9.2} of {launches} launches")
        };
        lines.extend(kernels.iter().map(of_kernel));
    }
    lines.join("\n")
}
