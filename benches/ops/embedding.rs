use criterion::Criterion;
use vicugna::autograd::{Tensor, backward_from};
use vicugna::device::Device;
use vicugna::ops::embedding::embedding;

use crate::floor;

/// SmolLM2-135M, 4 x 256 tokens; the floor is one read and one write of the rows, and backward one write of the table.
pub fn bench(c: &mut Criterion) {
    let (rows, v, h) = (1024, 49152, 576);
    let ids: Vec<u32> = (0..rows as u32).map(|row| row * 7919 % v as u32).collect();
    let ids = Tensor::from_slice(&Device::Cpu, [rows], &ids).unwrap();
    let weight = Tensor::from_slice(&Device::Cpu, [v, h], &vec![0.5f32; v * h]).unwrap().with_grad();
    let mut group = c.benchmark_group("embedding");
    floor::copy(&mut group, 2 * rows * h * size_of::<f32>());
    group.bench_function("fwd_f32/1024x49152x576", |b| b.iter(|| embedding(&ids, &weight.detach()).unwrap()));
    floor::copy(&mut group, v * h * size_of::<f32>());
    group.bench_function("fwd+bwd_f32/1024x49152x576", |b| {
        b.iter(|| {
            let y = embedding(&ids, &weight).unwrap();
            let dy = y.detach();
            backward_from([(&y, dy)]).unwrap()
        });
    });
    group.finish();
}
