use criterion::Criterion;
use vicugna::autograd::{Tensor, backward_from};
use vicugna::device::Device;
use vicugna::ops::swiglu::swiglu;

use crate::floor;

/// SmolLM2-135M, 4 x 256 tokens; the floor is two reads and one write, and with backward three reads, two writes
/// and a copy of dy more.
pub fn bench(c: &mut Criterion) {
    let (rows, i) = (1024, 1536);
    let filled = |value| Tensor::from_slice(&Device::Cpu, [rows, i], &vec![value; rows * i]).unwrap();
    let (gate, up) = (filled(0.5f32).with_grad(), filled(0.25f32).with_grad());
    let mut group = c.benchmark_group("swiglu");
    floor::copy(&mut group, 3 * rows * i * size_of::<f32>());
    group.bench_function("fwd_f32/1024x1536", |b| b.iter(|| swiglu(&gate.detach(), &up.detach()).unwrap()));
    floor::copy(&mut group, 10 * rows * i * size_of::<f32>());
    group.bench_function("fwd+bwd_f32/1024x1536", |b| {
        b.iter(|| {
            let y = swiglu(&gate, &up).unwrap();
            let dy = y.detach();
            backward_from([(&y, dy)]).unwrap()
        });
    });
    group.finish();
}
