//! Where an op is benched: its device, the model it is part of there, and how it is measured.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use ptx_emulator::{Class, Counters};
use vicugna::autograd::{Gradients, Tensor, backward_from};
use vicugna::device::{Device, Emulated, Emulation};
use vicugna::dtype::DType;
use vicugna::ops::elementwise::cast;
use vicugna::shape::Shape;

use crate::floor;

/// A Llama, and how many tokens go through it.
#[derive(Clone, Copy)]
pub struct Llama {
    pub layers: usize,
    pub h: usize,
    pub i: usize,
    pub nh: usize,
    pub nkv: usize,
    pub d: usize,
    pub v: usize,
    pub rows: usize,
    /// Of which so many are a sequence.
    pub t: usize,
}

const SMOLLM2_135M: Llama = Llama { layers: 30, h: 576, i: 1536, nh: 9, nkv: 3, d: 64, v: 49_152, rows: 1024, t: 256 };
const LLAMA_3_8B: Llama =
    Llama { layers: 32, h: 4096, i: 14_336, nh: 32, nkv: 8, d: 128, v: 128_256, rows: 8192, t: 2048 };
/// A quarter of Llama-3-8B's width, and few tokens.
const FOR_EMULATOR: Llama = Llama { layers: 32, h: 1024, i: 3584, nh: 8, nkv: 2, d: 128, v: 8016, rows: 128, t: 64 };

impl Llama {
    /// The sizes of a layer's weights.
    pub fn layer(&self) -> Vec<usize> {
        let (q, kv) = (self.nh * self.d, self.nkv * self.d);
        [q, kv, kv, q, self.i, self.i, self.i].map(|n| n * self.h).into()
    }

    /// Those of adapters of rank 8 on q and v.
    pub fn lora(&self) -> Vec<usize> {
        let widths = [self.h, self.nh * self.d, self.h, self.nkv * self.d];
        (0..self.layers).flat_map(|_| widths.map(|n| 8 * n)).collect()
    }
}

/// The device that `VICUGNA_DEVICE` names.
pub struct Place {
    device: Device,
    /// Where it counts.
    emulated: Option<Arc<Emulated>>,
    model: Llama,
}

impl Place {
    pub fn from_env() -> Self {
        let name = std::env::var("VICUGNA_DEVICE").unwrap_or("cpu".into());
        if name == "emulated" {
            println!("{HEAD}");
            let emulated = Arc::new(Emulated::new(Emulation { profile: true, ..Emulation::default() }));
            return Self { device: Device::new(emulated.clone()), emulated: Some(emulated), model: FOR_EMULATOR };
        }
        let device: Device = name.parse().unwrap_or_else(|error| panic!("VICUGNA_DEVICE: {error}"));
        let model = if device.is_same(&Device::Cpu) { SMOLLM2_135M } else { LLAMA_3_8B };
        Self { device, emulated: None, model }
    }

    /// That of training on the device, first.
    pub fn dtypes(&self) -> &'static [DType] {
        if self.device.is_same(&Device::Cpu) { &[DType::F32] } else { &[DType::Bf16, DType::F32] }
    }
}

/// What an op must do at the least.
#[derive(Clone, Copy)]
pub enum Cost {
    /// Bytes that it moves, each operand once.
    Bytes(usize),
    /// Floating-point operations of products of matrices.
    Operations(usize),
}

/// An op on a device in a dtype.
pub struct Bench<'a> {
    op: &'static str,
    group: BenchmarkGroup<'a, WallTime>,
    emulated: Option<Arc<Emulated>>,
    pub device: Device,
    pub dtype: DType,
    pub model: Llama,
}

impl<'a> Bench<'a> {
    pub fn new(criterion: &'a mut Criterion, place: &Place, op: &'static str, dtype: DType) -> Self {
        let mut group = criterion.benchmark_group(op);
        group.sample_size(20);
        Self { op, group, emulated: place.emulated.clone(), device: place.device.clone(), dtype, model: place.model }
    }

    /// Small values that differ.
    pub fn tensor(&self, shape: impl Into<Shape>) -> Tensor {
        self.tensor_of(self.dtype, shape)
    }

    pub fn tensor_of(&self, dtype: DType, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        let values: Vec<f32> = (0..shape.numel()).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect();
        let values = Tensor::from_slice(&Device::Cpu, shape, &values).unwrap();
        cast(&values, dtype).unwrap().to_device(&self.device).unwrap()
    }

    /// `i * stride` below `end` for each token.
    pub fn ids(&self, stride: usize, end: usize) -> Tensor {
        let ids: Vec<u32> = (0..self.model.rows).map(|i| (i * stride % end) as u32).collect();
        Tensor::from_slice(&self.device, [self.model.rows], &ids).unwrap()
    }

    /// So many elements of the dtype.
    pub fn bytes(&self, elements: usize) -> Cost {
        Cost::Bytes(elements * self.dtype.size())
    }

    /// Measures `work`, which does `cost` on operands of `size`.
    pub fn measure<T>(&mut self, name: &str, size: impl std::fmt::Display, cost: Cost, work: impl FnMut() -> T) {
        let name = format!("{name}_{}/{size}", self.dtype);
        match self.emulated.clone() {
            Some(emulated) => count(&format!("{}/{name}", self.op), cost, &emulated, work),
            None => self.time(&name, cost, work),
        }
    }

    /// Times many in a row, of which the device is waited for once, and says how near that is to the floor.
    fn time<T>(&mut self, name: &str, cost: Cost, mut work: impl FnMut() -> T) {
        let (device, mut best) = (&self.device, f64::INFINITY);
        self.group.throughput(match cost {
            Cost::Bytes(n) => Throughput::Bytes(n as u64),
            Cost::Operations(n) => Throughput::Elements(n as u64),
        });
        self.group.bench_function(name, |b| {
            b.iter_custom(|times| {
                wait(device);
                let start = Instant::now();
                (0..times).for_each(|_| drop(black_box(work())));
                wait(device);
                let elapsed = start.elapsed();
                best = best.min(elapsed.as_secs_f64() / times as f64);
                elapsed
            });
        });
        if best.is_finite() {
            println!("{:24}best:   {}", "", in_words(device, self.dtype, cost, best));
        }
    }
}

fn wait(device: &Device) {
    if let Device::Cuda(cuda) = device {
        cuda.synchronize().unwrap();
    }
}

/// The rate of `cost` in so many seconds, and its share of what the device can.
fn in_words(device: &Device, dtype: DType, cost: Cost, seconds: f64) -> String {
    let share = |floor: f64| 100.0 * floor / seconds;
    match cost {
        Cost::Bytes(n) => {
            let copy = floor::copy(device, n);
            format!("{:.1} GB/s, {:.0}% of a copy of as many bytes", n as f64 / seconds / 1e9, share(copy))
        }
        Cost::Operations(n) => {
            let rate = format!("{:.3} TFLOP/s", n as f64 / seconds / 1e12);
            let peak = floor::peak(device, dtype).map(|peak| share(n as f64 / peak));
            peak.map_or(format!("{rate}, peak unknown"), |share| format!("{rate}, {share:.0}% of the peak"))
        }
    }
}

const HEAD: &str = "\
the kernels of                                   warp inst.       bytes  x least  x sectors  excess wavefronts  mma x least, share";

/// What `kernels profile` says of each launch, of all of `work`'s; what the driver copies and fills is not counted.
fn count<T>(id: &str, cost: Cost, emulated: &Emulated, mut work: impl FnMut() -> T) {
    if !is_chosen(id) {
        return;
    }
    emulated.take_profile();
    drop(work());
    let mut counters = Counters::default();
    emulated.take_profile().iter().for_each(|launch| counters.add(&launch.counters));
    let bytes = counters.global_load_bytes + counters.global_store_bytes;
    let moved = 32 * (counters.global_load_sectors + counters.global_store_sectors);
    let (least, mma) = match cost {
        Cost::Bytes(n) => (format!("{:.3}", bytes as f64 / n as f64), String::new()),
        Cost::Operations(n) if counters.mma > 0 => {
            let operations = counters.mma_operations as f64 / n as f64;
            (String::new(), format!("{operations:.3}, {:.2}", share_of_mma(&counters)))
        }
        Cost::Operations(_) => Default::default(),
    };
    let (instructions, excess) = (counters.total_instructions(), counters.shared_excess_wavefronts);
    let sectors = moved as f64 / bytes as f64;
    println!("{id:<47}{instructions:>12}{bytes:>12}{least:>9}{sectors:>11.3}{excess:>19}{mma:>20}");
}

/// Of the instructions that a main loop of products is made of.
fn share_of_mma(counters: &Counters) -> f64 {
    use Class::{AsyncCopy, Barrier, LoadMatrix, Mma, SharedLoad, SharedStore};
    let of = |classes: &[Class]| classes.iter().map(|class| counters.of(*class)).sum::<u64>() as f64;
    of(&[Mma]) / of(&[Mma, LoadMatrix, SharedLoad, SharedStore, AsyncCopy, Barrier])
}

/// Whether the command line names no bench, or a part of this one's name.
fn is_chosen(id: &str) -> bool {
    std::env::args().skip(1).find(|arg| !arg.starts_with('-')).is_none_or(|filter| id.contains(&filter))
}

/// The gradients of `y`, whose own is as `y`.
pub fn backward_of(y: &Tensor) -> Gradients {
    backward_from([(y, y.detach())]).unwrap()
}
