use criterion::{Criterion, Throughput};
use vicugna::autograd::{Tensor, backward};
use vicugna::device::Device;
use vicugna::ops::cross_entropy::cross_entropy;

use crate::floor;
use crate::matmul::filled;

/// SmolLM2-135M's head, 256 counted tokens: logits and the gradient of the hidden states.
pub fn bench(c: &mut Criterion) {
    let (rows, h, v) = (256, 576, 49152);
    let (hidden, lm_head) = (filled([rows, h]).with_grad(), filled([v, h]));
    let targets: Vec<i32> = (0..rows as i32).map(|i| i * 191).collect();
    let targets = Tensor::from_slice(&Device::Cpu, [rows], &targets).unwrap();
    let mut group = c.benchmark_group("cross_entropy");
    floor::flops(&mut group);
    group.sample_size(10).throughput(Throughput::Elements(4 * (rows * h * v) as u64));
    group.bench_function("fwd+bwd_f32/256x576x49152", |b| {
        b.iter(|| backward(&cross_entropy(&hidden, &lm_head, &targets, rows as f32).unwrap()).unwrap());
    });
    group.finish();
}
