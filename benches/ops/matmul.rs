use criterion::{Criterion, Throughput};
use vicugna::autograd::{Tensor, backward_from};
use vicugna::device::Device;
use vicugna::ops::matmul::matmul;

use crate::floor;

/// SmolLM2-135M's products at 4 x 256 tokens; elements are floating-point operations, the floor what the machine can do.
pub fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("matmul");
    floor::flops(&mut group);
    for (rows, k, n) in [(1024, 576, 576), (1024, 576, 1536), (1024, 1536, 576), (1, 576, 1536)] {
        let x = filled([rows, k]).with_grad();
        let weight = filled([n, k]);
        group.throughput(Throughput::Elements(2 * (rows * k * n) as u64));
        group.bench_function(format!("fwd_f32/{rows}x{k}x{n}"), |b| b.iter(|| matmul(&x.detach(), &weight).unwrap()));
        group.throughput(Throughput::Elements(4 * (rows * k * n) as u64));
        group.bench_function(format!("fwd+dx_f32/{rows}x{k}x{n}"), |b| {
            b.iter(|| {
                let y = matmul(&x, &weight).unwrap();
                let dy = y.detach();
                backward_from([(&y, dy)]).unwrap()
            });
        });
    }
    group.finish();
}

pub fn filled(shape: [usize; 2]) -> Tensor {
    Tensor::from_slice(&Device::Cpu, shape, &vec![0.01f32; shape[0] * shape[1]]).unwrap()
}
