//! How long the kernels take at the widths of Llama-3-8B, beside what the same GPU takes to copy memory, and a
//! whole training step.

mod step;
mod work;

use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::parse_gpu;
use super::synthetic::ModelShape;
use crate::autograd::Tensor;
use crate::cli::model::DTypeArg;
use crate::cli::report::Report;
use crate::device::{Cuda, Device, Timed, TimedLaunch};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::elementwise::cast;
use crate::shape::Shape;

/// Run ops at the widths of Llama-3-8B on a GPU and time each kernel, beside a copy in the same run
#[derive(clap::Args)]
pub(super) struct Args {
    /// An op, or "step": a training step of a Llama with random weights, whole and launch by launch [default: all ops]
    name: Option<String>,
    /// Where to run: cuda[:N]
    #[arg(long, default_value = "cuda")]
    device: String,
    /// Tokens; a step has them in sequences of up to 2048
    #[arg(long, visible_alias = "tokens", default_value_t = 8192)]
    #[arg(value_parser = clap::value_parser!(u64).range(64..=1 << 16))]
    rows: u64,
    /// How weights and activations are stored [default: ops bf16 and then f32, a step bf16]
    #[arg(long)]
    dtype: Option<DTypeArg>,
    /// The model of a step
    #[arg(long, default_value = "llama-3-8b")]
    shape: ModelShape,
    /// Write each result into this file as a line of JSON, as soon as it is there
    #[arg(long, value_name = "FILE")]
    lines: Option<PathBuf>,
}

/// What an op does, once.
#[derive(Serialize)]
struct Step {
    name: String,
    dtype: String,
    milliseconds: f64,
    /// What its kernels must move, each operand of each once; 0 where operations count.
    bytes: usize,
    /// Floating-point operations of products of matrices.
    operations: usize,
    /// The share that it reaches of the bytes a second of a copy on this device.
    share_of_copy: Option<f64>,
    kernels: Vec<Kernel>,
}

#[derive(Serialize)]
struct Kernel {
    kernel: String,
    milliseconds: f64,
}

/// A GPU, how much it is given, and how long that took.
struct Bench {
    timed: Arc<Timed>,
    device: Device,
    dtype: DType,
    /// Tokens.
    rows: usize,
    /// Bytes a second of a copy, read and written.
    copy: f64,
    /// How many random tensors there were.
    drawn: Cell<u32>,
    steps: Vec<Step>,
    lines: Lines,
}

/// Times what was asked for.
pub(super) fn run(args: &Args, report: &Report) -> Result<()> {
    let lines = Lines::open(args.lines.as_deref())?;
    match args.name.as_deref() {
        Some("step") => step::run(args, &*parse_gpu(&args.device)?, lines, report),
        name => time_ops(name, args, lines, report),
    }
}

/// Times all ops, or that of a `name`.
fn time_ops(name: Option<&str>, args: &Args, lines: Lines, report: &Report) -> Result<()> {
    let chosen: Vec<_> = work::OPS.iter().filter(|(op, _)| name.is_none_or(|name| *op == name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = work::OPS.iter().map(|(op, _)| *op).collect();
        let detail = format!("{} is no op that is timed", name.unwrap_or_default());
        return Err(Error::input("NAME", detail).with_hint(format!("there are {}", names.join(", "))));
    }
    let mut bench = Bench::new(&*parse_gpu(&args.device)?, args.rows as usize, lines)?;
    let dtypes = args.dtype.map_or(vec![DType::Bf16, DType::F32], |dtype| vec![dtype.into()]);
    for (dtype, (_, work)) in dtypes.iter().flat_map(|dtype| chosen.iter().map(move |work| (dtype, work))) {
        bench.dtype = *dtype;
        work(&mut bench)?;
    }
    let Bench { device, rows, copy, steps, .. } = bench;
    let json = serde_json::json!({
        "device": device.to_string(), "rows": rows, "copy_gb_per_s": copy / 1e9, "steps": steps,
    });
    report.result(&json, || {
        let head = format!("{rows} tokens; a copy moves {:.1} GB/s\n{HEAD}", copy / 1e9);
        std::iter::once(head).chain(steps.iter().map(line)).collect::<Vec<_>>().join("\n")
    })
}

const HEAD: &str = "op                            dtype         ms      GB/s    TFLOP/s  of a copy";

fn line(step: &Step) -> String {
    let Step { name, dtype, milliseconds, bytes, operations, share_of_copy, .. } = step;
    let rate = |amount: usize, unit: f64| {
        if amount == 0 { String::new() } else { format!("{:.1}", amount as f64 / milliseconds / unit) }
    };
    let share = share_of_copy.map(|share| format!("{:.0}%", 100.0 * share)).unwrap_or_default();
    format!(
        "{name:<30}{dtype:<5}{milliseconds:>11.4}{:>10}{:>11}{share:>11}",
        rate(*bytes, 1e6),
        rate(*operations, 1e9)
    )
}

/// What a step must do at the least.
#[derive(Clone, Copy)]
enum Cost {
    Bytes(usize),
    Operations(usize),
}

impl Bench {
    fn new(cuda: &Cuda, rows: usize, mut lines: Lines) -> Result<Self> {
        let timed = Arc::new(Timed::new(cuda));
        let device = Device::new(timed.clone());
        let copied = rows << 16;
        let copy = 2.0 * copied as f64 / timed.time_copy(&device, copied)?;
        lines.write(&serde_json::json!({
            "device": device.to_string(), "rows": rows, "copy_gb_per_s": copy / 1e9,
        }))?;
        Ok(Self { timed, device, dtype: DType::Bf16, rows, copy, drawn: Cell::new(0), steps: Vec::new(), lines })
    }

    /// Random values of at most one half.
    fn tensor(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        self.tensor_of(self.dtype, shape)
    }

    fn tensor_of(&self, dtype: DType, shape: impl Into<Shape>) -> Result<Tensor> {
        self.drawn.set(self.drawn.get() + 1);
        random(&self.device, dtype, shape.into(), 1.0, self.drawn.get())
    }

    /// So wide a matrix, or a sixteenth where there are few tokens, as an emulated GPU is given.
    fn width(&self, width: usize) -> usize {
        if self.rows < 1024 { width / 16 } else { width }
    }

    /// `i * stride` below `end` for each token.
    fn ids(&self, stride: usize, end: usize) -> Result<Tensor> {
        let ids: Vec<u32> = (0..self.rows).map(|i| (i * stride % end) as u32).collect();
        Tensor::from_slice(&self.device, [self.rows], &ids)
    }

    /// Bytes of so many elements for each token.
    fn bytes(&self, elements: usize) -> Cost {
        Cost::Bytes(self.rows * elements * self.dtype.size())
    }

    /// Does `work` and notes how long each of its launches takes.
    fn step<T>(&mut self, name: impl Into<String>, cost: Cost, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.timed.take_times();
        let result = work()?;
        let kernel = |TimedLaunch { kernel, seconds }| Kernel { kernel, milliseconds: 1e3 * seconds };
        let kernels: Vec<Kernel> = self.timed.take_times().into_iter().map(kernel).collect();
        let milliseconds = kernels.iter().map(|kernel| kernel.milliseconds).sum();
        let (bytes, operations) = match cost {
            Cost::Bytes(bytes) => (bytes, 0),
            Cost::Operations(operations) => (0, operations),
        };
        let share_of_copy = (bytes > 0).then(|| bytes as f64 / milliseconds * 1e3 / self.copy);
        let (name, dtype) = (name.into(), self.dtype.to_string());
        let step = Step { name, dtype, milliseconds, bytes, operations, share_of_copy, kernels };
        self.lines.write(&step)?;
        self.steps.push(step);
        Ok(result)
    }
}

/// The file of `--lines`, if it was asked for.
struct Lines(Option<(PathBuf, File)>);

impl Lines {
    fn open(path: Option<&Path>) -> Result<Self> {
        let create = |path: &Path| File::create(path).map(|file| (path.into(), file)).map_err(|e| Error::io(path, e));
        Ok(Self(path.map(create).transpose()?))
    }

    fn write(&mut self, value: &impl Serialize) -> Result<()> {
        let Some((path, file)) = &mut self.0 else { return Ok(()) };
        let line = serde_json::to_string(value).map_err(|e| Error::input("--lines", e.to_string()))?;
        writeln!(file, "{line}").map_err(|e| Error::io(path, e))
    }
}

/// Random values, uniform within half of `width`: of a matrix with many rows the first few, again and again, copied on
/// the device. A kernel's time does not depend on which of them stand where, and the host would be slow to make them all.
fn random(device: &Device, dtype: DType, shape: Shape, width: f32, seed: u32) -> Result<Tensor> {
    const MOST: usize = 1 << 20;
    let (rows, columns) = (shape.rows(), shape.last());
    let own = rows.min((MOST / columns.max(1)).max(1));
    let value = |i: usize| width * (noise(i as u32 ^ seed.wrapping_mul(0x9e37_79b9)) as f32 / 4_294_967_296.0 - 0.5);
    let values: Vec<f32> = (0..own * columns).map(value).collect();
    let part = cast(&Tensor::from_slice(&Device::Cpu, [own, columns], &values)?, dtype)?.to_device(device)?;
    if own == rows {
        return part.reshape(shape);
    }
    let mut whole = Tensor::uninit(device, dtype, [rows, columns])?;
    for first in (0..rows).step_by(own) {
        whole.write_rows(first, &part.copy_rows(0..own.min(rows - first))?)?;
    }
    whole.reshape(shape)
}

/// A number whose bits are mixed: every one of them depends on every one of `i`.
fn noise(i: u32) -> u32 {
    let i = (i ^ i >> 16).wrapping_mul(0x7feb_352d);
    let i = (i ^ i >> 15).wrapping_mul(0x846c_a68b);
    i ^ i >> 16
}
