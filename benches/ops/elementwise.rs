use criterion::Criterion;
use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::ops::elementwise::{add, cast};

use crate::floor;

/// SmolLM2-135M, 4 x 256 tokens; the floor is two reads and one write, and half of that for the cast.
pub fn bench(c: &mut Criterion) {
    let (rows, h) = (1024, 576);
    let x = Tensor::from_slice(&Device::Cpu, [rows, h], &vec![0.5f32; rows * h]).unwrap();
    let mut group = c.benchmark_group("elementwise");
    floor::copy(&mut group, 3 * rows * h * size_of::<f32>());
    group.bench_function("add_f32/1024x576", |b| b.iter(|| add(&x, &x).unwrap()));
    group.bench_function("cast_f32_bf16/1024x576", |b| b.iter(|| cast(&x, DType::Bf16).unwrap()));
    group.finish();
}
