use criterion::Criterion;
use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::ops::dropout::{Dropout, dropout};

use crate::floor;

/// SmolLM2-135M, 4 x 256 tokens; the floor is one read and one write of the rows.
pub fn bench(c: &mut Criterion) {
    let (rows, h) = (1024, 576);
    let x = Tensor::from_slice(&Device::Cpu, [rows, h], &vec![0.5f32; rows * h]).unwrap();
    let key = Dropout { p: 0.05, seed: 42, step: 7, site: 3, first_element: 0 };
    let mut group = c.benchmark_group("dropout");
    floor::copy(&mut group, 2 * rows * h * size_of::<f32>());
    group.bench_function("fwd_f32/1024x576", |b| b.iter(|| dropout(&x, key).unwrap()));
    group.finish();
}
