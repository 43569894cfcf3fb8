use criterion::Criterion;
use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::ops::rope::{RopeTable, rope};

use crate::floor;

/// SmolLM2-135M, 4 x 256 tokens; the floor is one read and one write of q and k.
pub fn bench(c: &mut Criterion) {
    let (rows, nh, nkv, d) = (1024, 9, 3, 64);
    let ones = |width| Tensor::from_slice(&Device::Cpu, [rows, width], &vec![1.0f32; rows * width]).unwrap();
    let table = RopeTable::new(&Device::Cpu, d, 256, 1e5, None).unwrap();
    let ids: Vec<u32> = (0..rows as u32).map(|row| row % 256).collect();
    let positions = Tensor::from_slice(&Device::Cpu, [rows], &ids).unwrap();
    let mut group = c.benchmark_group("rope");
    floor::copy(&mut group, 2 * rows * (nh + nkv) * d * size_of::<f32>());
    let mut x = Some((ones(nh * d), ones(nkv * d)));
    group.bench_function("fwd_f32/1024x9+3x64", |b| {
        b.iter(|| {
            let (q, k) = x.take().unwrap();
            x = Some(rope(q, k, &table, &positions).unwrap());
        });
    });
    group.finish();
}
