//! How long the kernels take at the widths of Llama-3-8B, beside what the same GPU takes to copy memory.

mod work;

use std::sync::Arc;

use serde::Serialize;

use super::{DTYPES, parse_gpu};
use crate::autograd::Tensor;
use crate::cli::report::Report;
use crate::device::{Device, Timed, TimedLaunch};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::elementwise::cast;
use crate::shape::Shape;

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
    /// Of the bytes a second that a copy reaches on this device.
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
    steps: Vec<Step>,
}

/// Times all ops, or that of a `name`, on `rows` tokens.
pub(super) fn run(name: Option<&str>, device: &str, rows: usize, report: &Report) -> Result<()> {
    let chosen: Vec<_> = work::OPS.iter().filter(|(op, _)| name.is_none_or(|name| *op == name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = work::OPS.iter().map(|(op, _)| *op).collect();
        let detail = format!("{} is no op that is timed", name.unwrap_or_default());
        return Err(Error::input("NAME", detail).with_hint(format!("there are {}", names.join(", "))));
    }
    let timed = Arc::new(Timed::new(&*parse_gpu(device)?));
    let device = Device::new(timed.clone());
    let copied = rows << 16;
    let copy = 2.0 * copied as f64 / timed.time_copy(&device, copied)?;
    let mut bench = Bench { timed, device, dtype: DType::F32, rows, copy, steps: Vec::new() };
    for (dtype, (_, work)) in DTYPES.iter().flat_map(|dtype| chosen.iter().map(move |work| (dtype, work))) {
        bench.dtype = *dtype;
        work(&mut bench)?;
    }
    let Bench { device, steps, .. } = bench;
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
    /// Small values that differ.
    fn tensor(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        self.tensor_of(self.dtype, shape)
    }

    fn tensor_of(&self, dtype: DType, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        let values: Vec<f32> = (0..shape.numel()).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect();
        cast(&Tensor::from_slice(&Device::Cpu, shape, &values)?, dtype)?.to_device(&self.device)
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
        self.steps.push(Step { name, dtype, milliseconds, bytes, operations, share_of_copy, kernels });
        Ok(result)
    }
}
